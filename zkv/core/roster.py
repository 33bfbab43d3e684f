"""The roster: who is a member, and which of them are up, down or dead (pure).

A member is UP, DOWN (suspicion: may come back) or DEAD (proof: never comes back, and holds no lease any
more). The roster hears signs of life, proofs and complaints, and judges once a step, about all members
together (SAFETY 31, 32). The weighing of silence is in `detector`, of complaints in `accusations`; what
follows for the shards is not its business.

Before the cluster has formed silence only means that a node does not count: nobody depends on it yet. Who is
proven dead leaves at once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from zkv.core import wire
from zkv.core.accusations import Accusations
from zkv.core.detector import Detector
from zkv.core.effects import Effect, Note, Probe
from zkv.core.load import Load
from zkv.core.reconfigure import neighbours, referenced
from zkv.core.settings import BOOT_ID_HIGH, BOOT_ID_LOW, ClusterSettings, NodeConfig
from zkv.core.shardmap import DEAD, DOWN, UP, Member, ShardMap
from zkv.core.wire import Malformed
from zkv.errors import SettingError

RECONNECT_MS: Final = 1500.0
"""Silence that a node is granted to connect its heartbeats to a manager that is new to it."""
FORGET_DEAD_MS: Final = 60_000.0
FORGET_DOWN_MS: Final = 600_000.0
"""How long members that hold nothing stay in the table."""
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

    def __init__(self, settings: ClusterSettings, map: ShardMap, now_ms: float) -> None:
        self._settings = settings
        self.members: dict[int, Member] = dict(map.members)
        self.formed = map.version > 0
        self.dirty = False
        """Whether the table changed since the manager last looked."""
        self.load: dict[int, Load] = {}
        """boot -> what its last heartbeat said."""
        self._said: list[Effect] = []
        self._detector = Detector(settings, now_ms)
        self._accusations = Accusations(settings)
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

    def take_effects(self) -> list[Effect]:
        """Probes and notes since the last call."""
        said, self._said = self._said, []
        return said

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
        for other in list(self.members.values()):
            if other.state == DEAD or other.endpoint != joining.endpoint:
                continue
            if self._detector.is_speaking(other.boot):
                # A JOIN may be older than the member it contradicts: it proves something once the member is silent.
                self._said.append(Probe(other.boot, other.endpoint))
                raise Refusal(wire.BAD_REQUEST, f"{label(other)} still speaks from {other.endpoint}")
            if body.get("bound") is True:
                # An endpoint that is only advertised proves nothing: one process can have *bound* a port (SAFETY 32).
                self.bury(other.boot, f"a new process, {boot:016x}, listens on its endpoint")
        for other in list(self.members.values()):
            if other.name != joining.name or other.state != UP:
                continue
            if self._detector.is_speaking(other.boot):
                # If it died a moment ago the probe finds out, and the joiner's next try succeeds.
                self._said.append(Probe(other.boot, other.endpoint))
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
        self.note(f"{label(joining)} joins from {joining.endpoint}{count}")

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
            self._returned_ms[boot] = self._detector.awake_ms
            self.note(f"{label(member)} is back")

    def accuse(self, boot: int, accused: Collection[int]) -> None:
        """`boot` says that it cannot reach these, and can reach the others."""
        self.sign_of_life(boot)
        if boot in self.members:
            known = [other for other in accused if other in self.members]
            self._accusations.report(boot, known, self._detector.awake_ms)

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
        self.note(f"{label(member)} is dead: {evidence}")
        if self.formed:
            self._set(member._replace(state=DEAD))
        else:
            self._remove(boot)

    def _suspend(self, boot: int, why: str) -> None:
        """`boot` counts as gone, on suspicion."""
        member = self.members[boot]
        self.note(f"{label(member)} is taken for down: {why}")
        self._set(member._replace(state=DOWN))

    def _set(self, member: Member) -> None:
        self.members[member.boot] = member
        self._since_ms[member.boot] = self._detector.awake_ms
        self._returned_ms.pop(member.boot, None)
        self.dirty = True

    def _remove(self, boot: int) -> None:
        self._stop_watching(boot)
        del self.members[boot]
        del self._since_ms[boot]
        self.dirty = True

    def _stop_watching(self, boot: int) -> None:
        self._detector.forget(boot)
        self._accusations.forget(boot)
        for table in (self._probes, self._returned_ms, self.load):
            table.pop(boot, None)

    # --- judgement -------------------------------------------------------------------------------------------------

    def judge(self, map: ShardMap, now_ms: float) -> Verdict:
        """Decide about all who are silent or accused, together (SAFETY 31, 32). `map`: the present one."""
        self._probe(now_ms)
        live = self._trusted()
        if not self.formed:
            return Verdict(live, set())
        awake_ms = self._detector.awake_ms
        pairs: set[tuple[int, int]] = set()
        if self._accusations:
            if self._neighbours[0] != map.version:
                self._neighbours = (map.version, neighbours(map))
            isolated, disagreeing = self._accusations.judge(live, self._neighbours[1], awake_ms)
            for boot in isolated:
                self._suspend(boot, "most of its peers cannot reach it")
            # The backup goes, whichever of the two complains; each may be primary of some shard they share.
            pairs = {pair for one, other in disagreeing for pair in ((one, other), (other, one))}
        doubted = self._detector.doubting
        up = [boot for boot, member in self.members.items() if member.state == UP]
        for boot in self._detector.judge(up, lambda one: self._accusations.is_accused(one, live, awake_ms)):
            self._suspend(boot, f"silent for {self._detector.silence_ms(boot):.0f} ms")
        if self._detector.doubting and not doubted:
            self.note("most nodes fell silent at once: waiting for a proof, or for this to last")
        return Verdict({boot for boot in live if self.members[boot].state == UP}, pairs)

    def _trusted(self) -> set[int]:
        """Those with fresh heartbeats, except who came back so shortly ago that others may be about to
        follow."""
        awake_ms = self._detector.awake_ms
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
                self._said.append(Probe(boot, member.endpoint))
                if member.state == DOWN:
                    interval_ms = min(2 * interval_ms, max(PROBE_MAX_MS, heartbeat_ms))
                due_ms = now_ms + interval_ms
            self._probes[boot] = (due_ms, interval_ms)

    def tidy(self, map: ShardMap) -> None:
        """Let members leave the table that have been gone for long, and that no shard names."""
        awake_ms = self._detector.awake_ms
        limit_ms = {DEAD: FORGET_DEAD_MS, DOWN: FORGET_DOWN_MS, UP: float("inf")}
        old = [b for b, member in self.members.items() if awake_ms - self._since_ms[b] >= limit_ms[member.state]]
        if not old:
            return
        held = referenced(map)
        for boot in old:
            if boot in held:
                continue
            if self.members[boot].state == DEAD:
                self._graves[boot] = None
            self._remove(boot)

    def candidates(self) -> list[Member]:
        """Those a cluster can be formed of."""
        return [member for member in self.members.values() if self._detector.is_fresh(member.boot)]

    def note(self, text: str) -> None:
        """Add a line for the operator."""
        self._said.append(Note(text))


def label(member: Member) -> str:
    """A member in a note."""
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
