"""The roster: who is a member, and which of them are up, down or dead (pure).

A member is UP, DOWN (suspicion: may come back) or DEAD (proof: never comes back, and holds no lease any
more). The roster hears signs of life, proofs and complaints, and judges once a step, about all members
together (SAFETY 31, 32). The weighing of silence is in `detector`, of complaints in `accusations` (peers) and
`complaints` (clients); what follows for the shards is not its business, but it says who may be given any.

A member that comes back from DOWN is on *probation*: it keeps what it holds and is given nothing, for a second at
first and twice as long at each relapse, so that a flapping link does not move shards to and fro.

Before the cluster has formed silence only means that a node does not count: nobody depends on it yet. Who is
proven dead leaves at once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from zkv.core import wire
from zkv.core.load import Load
from zkv.core.manager.accusations import Accusations
from zkv.core.manager.complaints import Complaints
from zkv.core.manager.detector import Detector
from zkv.core.manager.effects import Probe
from zkv.core.manager.events import EventLog
from zkv.core.manager.reconfigure import leaves_a_primary, neighbours, referenced
from zkv.core.manager.relapses import Relapses
from zkv.core.settings import BOOT_ID_HIGH, BOOT_ID_LOW, ClusterSettings, NodeConfig
from zkv.core.shardmap import DEAD, DOWN, UP, Member, ShardMap
from zkv.core.wire import Malformed
from zkv.errors import SettingError

RECONNECT_MS: Final = 1500.0
"""Silence that a node is granted to connect its heartbeats to a manager that is new to it."""
FORGET_DEAD_MS: Final = 60_000.0
FORGET_DOWN_MS: Final = 600_000.0
"""How long members that hold nothing stay in the table."""
PROBATION_MS: Final = 1000.0
"""How long a member that came back is given nothing; at first, longer after relapses."""
MEMBER_LIMIT: Final = 8192
GRAVES_LIMIT: Final = 8192
PROBE_MAX_MS: Final = 5000.0
ZONE_LIMIT: Final = 256


class Refusal(Exception):
    """Ends the handling of a frame with a REFUSED."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Verdict(NamedTuple):
    """What the roster made of a step."""

    fresh: set[int]
    """Members that are up and were heard lately: those a shard may be left to."""
    pairs: set[tuple[int, int]]
    """(primary, backup): the backup is to leave the shards of that primary, as the two cannot work
    together."""


class Roster:
    """The members and their states. `members` is the table as it should be; the manager makes it the
    map's."""

    def __init__(self, settings: ClusterSettings, map: ShardMap, log: EventLog, now_ms: float) -> None:
        self._settings = settings
        self._log = log
        self.members: dict[int, Member] = dict(map.members)
        self.formed = map.version > 0
        self.dirty = False
        """Whether the table changed since the manager last looked."""
        self.load: dict[int, Load] = {}
        """boot -> what its last heartbeat said."""
        self.forced: set[int] = set()
        """Draining members that are to leave even where nobody can take over their copies. Not durable: a new manager
        wants to be told again."""
        self._asked: list[Probe] = []
        self._detector = Detector(settings, now_ms)
        self._accusations = Accusations(settings)
        self._complaints = Complaints(settings)
        self._suspected: set[int] = set()
        self._probation_ms: dict[int, float] = {}
        """Members that came back -> until when they are given nothing, on the awake clock."""
        self._probations: Relapses[int] = Relapses(PROBATION_MS)
        self._neighbours: tuple[int, dict[int, set[int]]] = (-1, {})
        """Who shares a shard with whom, by the map of this version."""
        self._graves: dict[int, None] = {}
        """Boots proven dead that are no members (any more), oldest first."""
        self._since_ms: dict[int, float] = {}
        """boot -> when its state changed, on the awake clock."""
        self._returned_ms: dict[int, float] = {}
        """Members that came back from DOWN a short while ago: no set is left to them yet, others may
        follow."""
        self._probes: dict[int, tuple[float, float]] = {}
        """boot -> when to probe next, and the interval."""
        for boot, member in self.members.items():
            self._since_ms[boot] = 0.0
            if member.state != DEAD:
                self._detector.watch(boot, RECONNECT_MS)

    @property
    def next_wake_ms(self) -> float:
        """When the next probe is due."""
        return min((due for due, _ in self._probes.values()), default=float("inf"))

    def tick(self, now_ms: float) -> None:
        """A step begins."""
        self._detector.tick(now_ms)

    @property
    def awake_ms(self) -> float:
        """The clock that stands still while the manager does."""
        return self._detector.awake_ms

    @property
    def shunned(self) -> set[int]:
        """Members that are to lead no shard, where another in-sync member can."""
        return set(self._complaints.shunned)

    def take_probes(self) -> list[Probe]:
        """Probes since the last call."""
        asked, self._asked = self._asked, []
        return asked

    # --- what happens to members -----------------------------------------------------------------------------------

    def join(self, boot: int, body: Any) -> None:
        """A node asks to be a member, or still to be one. Raises `Refusal`, or `Malformed`."""
        known = self.members.get(boot)
        if boot in self._graves or (known is not None and known.state == DEAD):
            raise Refusal(wire.WRONG_BOOT, f"boot {boot:016x} was proven dead; start the node again")
        joining = _member(boot, body)
        if known is not None:
            self.sign_of_life(boot)
            return
        if self.formed and body.get("member") is True:
            # Its peers have dropped their streams to it, and it has not: neither could take the other's for new.
            text = f"boot {boot:016x} has been a member, and was forgotten or let go; start the node again"
            raise Refusal(wire.WRONG_BOOT, text)
        for other in list(self.members.values()):
            if other.state == DEAD or other.endpoint != joining.endpoint:
                continue
            if self._detector.is_speaking(other.boot):
                # A JOIN may be older than the member it contradicts: it proves something once the member is silent.
                self._asked.append(Probe(other.boot, other.endpoint))
                raise Refusal(wire.BAD_REQUEST, f"{label(other)} still speaks from {other.endpoint}")
            if body.get("bound") is True:
                # An endpoint that is only advertised proves nothing: one process can have *bound* a port (SAFETY 32).
                self.bury(other.boot, f"a new process, {boot:016x}, listens on its endpoint")
        for other in list(self.members.values()):
            if other.name != joining.name or other.state != UP:
                continue
            if self._detector.is_speaking(other.boot):
                # If it died a moment ago the probe finds out, and the joiner's next try succeeds.
                self._asked.append(Probe(other.boot, other.endpoint))
                raise Refusal(
                    wire.BAD_REQUEST,
                    f"the name {joining.name} is taken by the node at {other.endpoint}; choose another name",
                )
            if not self.formed:
                self._remove(other.boot)
        if len(self.members) >= MEMBER_LIMIT:
            raise Refusal(wire.BAD_REQUEST, f"the table of members is full, with {MEMBER_LIMIT}")
        self._detector.watch(boot, RECONNECT_MS)
        self._detector.heard(boot, heartbeat=False)
        self._set(joining)
        count = "" if self.formed else f" ({len(self.members)} of {self._settings.nodes})"
        self._tell("join", joining, f"joins from {joining.endpoint}{count}", endpoint=joining.endpoint)

    def heartbeat(self, boot: int, load: Load) -> None:
        """A heartbeat arrived, with what the node says of itself."""
        if boot in self.members:
            self.load[boot] = load
            self.sign_of_life(boot, heartbeat=True)

    def sign_of_life(self, boot: int, heartbeat: bool = False) -> None:
        """Something arrived from `boot`, member or not."""
        member = self.members.get(boot)
        if member is None:
            return
        self._detector.heard(boot, heartbeat)
        if member.state == DOWN and not self._accusations.is_isolated(boot):
            self._set(member._replace(state=UP))
            self._returned_ms[boot] = self.awake_ms
            self._probations.strike(boot, self.awake_ms)
            self._probation_ms[boot] = self.awake_ms + self._probations.term_ms(boot)
            self._tell("back", member, "is back")

    def accuse(self, boot: int, accused: Collection[int]) -> None:
        """`boot`, a member or a client, says that it cannot reach these, and can reach the others."""
        self.sign_of_life(boot)
        known = [other for other in accused if other in self.members]
        if boot in self.members:
            self._accusations.report(boot, known, self.awake_ms)
        else:
            self._complaints.report(boot, known, self.awake_ms)

    def bury(self, boot: int, evidence: str) -> None:
        """`boot` is proven dead (SAFETY 32). Proofs act at once."""
        member = self.members.get(boot)
        if member is None or not self.formed:
            self._graves[boot] = None
            while len(self._graves) > GRAVES_LIMIT:
                del self._graves[next(iter(self._graves))]
        if member is None or member.state == DEAD:
            return
        self._stop_watching(boot)
        self._tell("death", member, f"is dead: {evidence}", evidence=evidence)
        if self.formed:
            self._set(member._replace(state=DEAD))
        else:
            self._remove(boot)

    def drain(self, boot: int, draining: bool, force: bool = False) -> None:
        """`boot` is to leave, or may stay after all. `force`: even if its copies have nowhere to go."""
        member = self.members[boot]
        if draining and force:
            self.forced.add(boot)
        elif not draining:
            self.forced.discard(boot)
        if member.draining != draining:
            self.members[boot] = member._replace(draining=draining)
            self.dirty = True
            self._tell("drain", member, "is to be drained" if draining else "stays: it is drained no more")

    def _suspend(self, boot: int, kind: str, why: str) -> None:
        """`boot` counts as gone, on suspicion."""
        member = self.members[boot]
        self._tell(kind, member, f"is taken for down: {why}", evidence=why)
        self._set(member._replace(state=DOWN))

    def _set(self, member: Member) -> None:
        self.members[member.boot] = member
        self._since_ms[member.boot] = self.awake_ms
        for table in (self._returned_ms, self._probation_ms):
            table.pop(member.boot, None)
        self.dirty = True

    def _remove(self, boot: int) -> None:
        self._stop_watching(boot)
        del self.members[boot]
        del self._since_ms[boot]
        self.dirty = True

    def _stop_watching(self, boot: int) -> None:
        self._detector.forget(boot)
        self._accusations.forget(boot)
        self._complaints.forget(boot)
        self._probations.forget(boot)
        self._suspected.discard(boot)
        self.forced.discard(boot)
        for table in (self._probes, self._returned_ms, self._probation_ms, self.load):
            table.pop(boot, None)

    # --- judgement -------------------------------------------------------------------------------------------------

    def judge(self, map: ShardMap, now_ms: float) -> Verdict:
        """Decide about all who are silent or accused, together (SAFETY 31, 32). `map`: the present one."""
        self._probe(now_ms)
        live = self._trusted()
        if not self.formed:
            return Verdict(live, set())
        awake_ms = self.awake_ms
        pairs = self._weigh_accusations(map, live)
        doubted = self._detector.doubting
        up = [boot for boot, member in self.members.items() if member.state == UP]
        self._tell_suspects(up)
        for boot in self._detector.judge(up, lambda one: self._accusations.is_accused(one, live, awake_ms)):
            self._suspend(boot, "down", f"silent for {self._detector.silence_ms(boot):.0f} ms")
        if self._detector.doubting and not doubted:
            self._log.add("doubt", "most nodes fell silent at once: waiting for a proof, or for this to last")
        if self._complaints:
            self._weigh_complaints(map)
        return Verdict({boot for boot in live if self.members[boot].state == UP}, pairs)

    def _weigh_accusations(self, map: ShardMap, live: set[int]) -> set[tuple[int, int]]:
        """Peers that cannot reach each other: the pairs that disagree, in both directions."""
        if not self._accusations:
            return set()
        if self._neighbours[0] != map.version:
            self._neighbours = (map.version, neighbours(map))
        speaking = {boot for boot in live if self._detector.is_speaking(boot)}
        judgement = self._accusations.judge(live, speaking, self._neighbours[1], self.awake_ms)
        for boot in judgement.isolated:
            self._suspend(boot, "isolated", "most of its peers cannot reach it")
        for boot in judgement.pardoned:
            self._tell("pardoned", self.members[boot], "is given another chance: no peer accuses it any more")
        # The backup goes, whichever of the two complains; each may be primary of some shard they share.
        return {pair for one, other in judgement.pairs for pair in ((one, other), (other, one))}

    def _weigh_complaints(self, map: ShardMap) -> None:
        """Nodes that clients cannot reach."""
        up = {boot for boot, member in self.members.items() if member.state == UP}
        found, over = self._complaints.judge(up, lambda shunned: leaves_a_primary(map, up, shunned), self.awake_ms)
        for boot in found:
            self._tell("shunned", self.members[boot], "is to lead no shard: clients cannot reach it")
        for boot in over:
            self._tell("pardoned", self.members[boot], "may lead shards again: no client complains any more")

    def _tell_suspects(self, up: Collection[int]) -> None:
        suspects = set(self._detector.suspects(up))
        for boot in sorted(suspects - self._suspected):
            silent_ms = round(self._detector.silence_ms(boot))
            self._tell("suspect", self.members[boot], f"is suspected: silent for {silent_ms} ms", silence_ms=silent_ms)
        self._suspected = suspects

    def _trusted(self) -> set[int]:
        """Those with fresh heartbeats, except who came back so shortly ago that others may be about to
        follow."""
        awake_ms = self.awake_ms
        for boot, since_ms in list(self._returned_ms.items()):
            if awake_ms - since_ms >= self._settings.dead_ms:
                del self._returned_ms[boot]
        return {
            boot
            for boot, member in self.members.items()
            if member.state == UP and self._detector.is_fresh(boot) and boot not in self._returned_ms
        }

    def _probe(self, now_ms: float) -> None:
        """Ask for proofs: at each heartbeat while a member is suspected, ever more rarely once it is down."""
        for boot, member in self.members.items():
            if member.state == DEAD or not self._detector.is_quiet(boot):
                self._probes.pop(boot, None)
                continue
            heartbeat_ms = float(self._settings.heartbeat_ms)
            due_ms, interval_ms = self._probes.get(boot, (now_ms, heartbeat_ms))
            if now_ms >= due_ms:
                self._asked.append(Probe(boot, member.endpoint))
                if member.state == DOWN:
                    interval_ms = min(2 * interval_ms, max(PROBE_MAX_MS, heartbeat_ms))
                due_ms = now_ms + interval_ms
            self._probes[boot] = (due_ms, interval_ms)

    def tidy(self, map: ShardMap, active: Sequence[int]) -> None:
        """Let members leave the table that have been gone for long, or are drained, and that no shard names.

        `active`: by shard, the newest epoch reported active.
        """
        awake_ms = self.awake_ms
        self._probations.tidy(awake_ms)
        limit_ms = {DEAD: FORGET_DEAD_MS, DOWN: FORGET_DOWN_MS, UP: float("inf")}
        old = [
            boot
            for boot, member in self.members.items()
            if awake_ms - self._since_ms[boot] >= limit_ms[member.state] or (member.draining and member.state == UP)
        ]
        if not old:
            return
        held = referenced(map, active)
        for boot in old:
            if boot in held:
                continue
            member = self.members[boot]
            if member.state != DOWN:
                self._graves[boot] = None
            if member.state == UP:
                self._tell("drained", member, "is drained: it holds nothing any more, and leaves")
            self._remove(boot)

    def candidates(self) -> list[Member]:
        """Those a cluster can be formed of."""
        return [member for member in self.members.values() if self._detector.is_fresh(member.boot)]

    def holders(self, on_probation: bool = False) -> list[Member]:
        """Those that shards may be given to, with or without who came back a short while ago.

        Of two with one name the one that joined later: it stands for the other, whose death is not noticed yet.
        """
        for boot, until_ms in list(self._probation_ms.items()):
            if self.awake_ms >= until_ms:
                del self._probation_ms[boot]
        newest = {member.name: member for member in self.members.values() if member.state == UP}
        return [
            member
            for member in newest.values()
            if not member.draining and (on_probation or member.boot not in self._probation_ms)
        ]

    def end_probations(self) -> None:
        """Who is up may be given shards from now on."""
        self._probation_ms.clear()

    def parted(self) -> set[tuple[int, int]]:
        """Pairs, the lower boot first, that had better share no shard for now."""
        return self._accusations.parted(self.awake_ms)

    def _tell(self, kind: str, member: Member, text: str, **data: Any) -> None:
        self._log.add(kind, f"{label(member)} {text}", node=member.name, boot=f"{member.boot:016x}", **data)


def label(member: Member) -> str:
    """A member in an event's text."""
    return f"{member.name} ({member.boot:016x})"


def _member(boot: int, body: Any) -> Member:
    """The member that a JOIN describes. Raises `Refusal` or `Malformed`."""
    if not isinstance(body, dict):
        raise Malformed("JOIN wants a map")
    if not BOOT_ID_LOW <= boot <= BOOT_ID_HIGH:
        raise Refusal(wire.BAD_REQUEST, f"{boot} is not a boot id")
    name, endpoint = body.get("name"), body.get("endpoint")
    zone, weight = body.get("zone", ""), body.get("weight", 1.0)
    if not (isinstance(name, str) and isinstance(endpoint, str) and isinstance(zone, str) and len(zone) <= ZONE_LIMIT):
        raise Malformed("JOIN wants a name, an endpoint and a zone")
    try:
        NodeConfig(name=name, advertise=endpoint, zone=zone, weight=weight)
    except SettingError as error:
        raise Refusal(wire.BAD_REQUEST, str(error)) from error
    return Member(boot, name, endpoint, zone, float(weight), UP)
