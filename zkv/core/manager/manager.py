"""The manager: what it is told, what it answers, and when the map gets a new version. Pure: frames in,
effects out.

It is the only writer of the map (SAFETY 1, 30), and never on the path of a read or a write. A step takes all
that has arrived, judges once, and makes at most one new version of the map of it: the change is made durable,
then published, then whatever is owed to anybody is sent, so that no answer shows a state that a crash could
take back.

Who is a member, and in what state, is for the `roster`; what follows for the shards at once, for `reconfigure`; where
they are to be in the end, and the way there, for `steering`, which has its turn once a heartbeat; what operators ask
for, for `administration`.

Only what a restarted manager must know is durable: the cluster's identity, its settings, the map with its
members, the operator's placement, the events. Activations and filled learners are reported again by the nodes when they
meet a manager with a new boot id; until then wait lists are longer than need be, which is safe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from zkv.core import wire
from zkv.core.deltas import RecentDeltas
from zkv.core.load import Load
from zkv.core.manager.administration import VERBS, Refused
from zkv.core.manager.clock import ClusterClock
from zkv.core.manager.effects import Effect, Persist, Publish, Send, Stored, resets_in
from zkv.core.manager.events import EventLog
from zkv.core.manager.health import Moved, Survey, mender, survey
from zkv.core.manager.losses import Losses
from zkv.core.manager.moves import Guests, Kind
from zkv.core.manager.placements import Placement
from zkv.core.manager.pressure import Pressure
from zkv.core.manager.progress import Progress
from zkv.core.manager.reconfigure import formation, reconfigure, referenced, subset_violation
from zkv.core.manager.roster import Refusal, Roster, Verdict
from zkv.core.manager.status import status
from zkv.core.manager.steering import Steering, World
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import DEAD, Delta, Shard, ShardMap
from zkv.core.wire import Header, Malformed

_FIRST_CONTACT: Final = frozenset((wire.JOIN, wire.HELLO, wire.MAP_PULL, wire.STATUS_PULL, wire.DEAD, wire.ADMIN))
"""What may come from one who does not know the cluster's id yet."""


class Manager:
    """The manager's state machine. See the module."""

    def __init__(
        self,
        settings: ClusterSettings,
        boot: int,
        heartbeat_endpoint: str,
        map_endpoint: str,
        stored: Stored | None,
        cluster: int,
        now_ms: float,
        layout_file: str | None = None,
    ) -> None:
        """`stored`: what a former incarnation persisted; its settings and its cluster id win over those
        given.

        `heartbeat_endpoint`, `map_endpoint`: where nodes publish heartbeats to, and listen for the map.
        `layout_file`: where the operator's placement comes from, for people to read; None where there is none.
        """
        self.settings = stored.settings if stored else settings
        self.map = stored.map if stored else ShardMap.empty(cluster)
        self.boot = boot
        self.resets = stored.resets if stored else 0
        self.log = EventLog(stored.events if stored else ())
        self._is_new = True
        """Whether it has not taken a step yet."""
        self._endpoints = (heartbeat_endpoint, map_endpoint)
        self._create = None if stored else Stored(cluster, settings, self.map)
        self.clock = ClusterClock(self.settings, is_new=stored is None, now_ms=now_ms)
        self.roster = Roster(self.settings, self.map, self.log, now_ms)
        self.steering = Steering(self.settings)
        left = (stored.factors, stored.events) if stored else ({}, ())
        self.pressure = Pressure(self.settings, self.log, *left)
        self.placement = Placement(layout_file, stored.layout if stored else "", self.settings, self.log)
        self.steering.layout = self.placement.layout
        self.losses = Losses(self.settings, self.log)
        self._progress = Progress(self.log)
        self._active = [0] * len(self.map.shards)
        """By shard, the newest epoch whose primary reported its activation."""
        known = {number: set(boots) for number, boots in stored.filled.items()} if stored else {}
        self.filled: defaultdict[int, set[int]] = defaultdict(set, known)
        """By shard, the learners reported filled under its present epoch (SAFETY 22). Durable before it is
        acknowledged: a reset may depend on it (SAFETY 33)."""
        self._newly_filled: defaultdict[int, set[int]] = defaultdict(set)
        """Those reported in this step."""
        self._moved = Moved(self.settings.dead_ms)
        self._postponed = False
        """Whether a change waits for a suspect to be heard or given up."""
        self._beacon_ms = now_ms
        self._beat = False
        """Whether this step is the one of its heartbeat in which the shards are steered."""
        self._now_ms = now_ms
        self._verdict = Verdict(set(), set())
        self._survey: Survey | None = None
        """What the last survey found; None where something changed since."""
        self._packed_map: tuple[int, bytes] = (-1, b"")
        self._deltas = RecentDeltas()
        self._replies: list[tuple[bytes, int, int, Any]] = []
        self._outdated = False
        """Whether a member knew a newer map than ours. Then our state is an old copy, and any change we made
        would give out epochs a second time: we make none (SAFETY 30)."""
        self._checked = self.map

    @property
    def next_wake_ms(self) -> float:
        """When `step` wants to be called at the latest, if nothing arrives before."""
        return min(self._beacon_ms, self.roster.next_wake_ms)

    def step(
        self,
        frames: Sequence[tuple[bytes, bytes]],
        now_ms: float,
        probes: Sequence[tuple[int, bool]] = (),
        wall_ms: int = 0,
        layout: str | None = None,
    ) -> list[Effect]:
        """Take in what arrived, (route, frame) with route b"" for heartbeats, and decide.

        `now_ms` is read after the sockets were drained. `probes`: answers to `Probe`, (boot, whether it was refused).
        `wall_ms`: Unix time, for events and for the beginning of cluster time. `layout`: the operator's placement,
        where it is new.
        """
        roster = self.roster
        self._replies = []
        self._now_ms = now_ms
        self.log.wall_ms = wall_ms
        if self._is_new:
            self._is_new = False
            self.log.add("manager", f"the manager starts with map {self.map.version}", boot=f"{self.boot:016x}")
        roster.tick(now_ms)
        for boot, refused in probes:
            if refused:
                roster.bury(boot, "its port refuses connections")
        if layout is not None:
            self.placement.offer(layout)
        for route, frame in frames:
            self._receive(route, frame)
        self._keep_time(wall_ms)
        self._verdict = verdict = roster.judge(self.map, now_ms)
        self._beat = now_ms >= self._beacon_ms
        if self._beat:
            roster.tidy(self.map, self._active)
        text = self.placement.settle(roster.members.values(), self.map.version > 0, wall_ms)
        self.steering.layout = self.placement.layout
        if roster.dirty or text is not None:
            self._survey = None
        factors = self._press()

        effects: list[Effect] = []
        if self._create is not None:
            effects.append(Persist(None, self._create))
            self._create = None
        delta = self._next_delta(verdict)
        changed = delta.shards if delta is not None else {}
        filled = {number: frozenset(boots) for number, boots in self._newly_filled.items() if number not in changed}
        self._newly_filled.clear()
        if delta is not None or text is not None or filled or factors is not None:
            effects.append(Persist(delta, layout=text, filled=filled, factors=factors))
        if delta is not None:
            self._adopt(delta)
        if self._beat:
            self._look_after()
        effects += self.log.take()
        effects += roster.take_probes()
        if delta is not None:
            packed = wire.pack(delta.to_wire())
            self._deltas.keep(delta, packed, self.map)
            header = wire.encode_header(wire.MAP_DELTA, self.map.cluster, self.boot, 0, self.map.version)
            effects.append(Publish(header + packed))
        if self._beat:
            self._beacon_ms = now_ms + self.settings.heartbeat_ms
            effects.append(Publish(self._encode(wire.BEACON, 0, [self.boot])))
        effects += self._answers()
        return effects

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself, or the map changed in a way it must not."""
        map = self.map
        assert not map.version or len(map.shards) == len(self._active) == self.settings.shards
        assert not map.version or dict(map.members) == self.roster.members, "members changed without a version"
        # A wait list may name one that has left the table: it was waited for, which a new manager no longer knows.
        holders = referenced(map, [shard.epoch for shard in map.shards])
        assert holders <= set(map.members), "a shard names a member that is not in the table"
        for number, shard in enumerate(map.shards):
            assert len(set(shard.replicas)) == len(shard.replicas) > 0, f"shard {number}: {shard}"
            assert not set(shard.learners) & set(shard.replicas), f"shard {number} teaches its own members: {shard}"
            assert not set(shard.wait) & set(shard.replicas), f"shard {number} waits for its own members: {shard}"
            assert shard.epoch >= 1, f"shard {number}: {shard}"
            assert 1 <= shard.born <= shard.epoch, f"shard {number}: {shard}"
            assert 1 <= shard.changed <= map.version, f"shard {number}: {shard}"
            assert self._active[number] <= shard.epoch, f"shard {number} is active in an epoch to come"
            assert self.filled.get(number, set()) <= set(shard.learners), f"shard {number}: a stranger is filled"
        assert not self._outdated, "a member knows a newer map than the manager"
        assert map.version >= self._checked.version, "the map's version went back"
        for number, (old, new) in enumerate(zip(self._checked.shards, map.shards, strict=False)):
            violation = subset_violation(old, new)
            assert violation is None, f"shard {number}: {violation}"
        self._checked = map

    def status(self) -> dict[str, Any]:
        """The body of STATUS."""
        members, pressure = self.roster.members.values(), self.pressure
        shown = status(self.map, self.settings, members, pressure.weighed(members), self.survey(), self.roster.load)
        return {**shown, "resets": self.resets, "layout": self.placement.status()}

    def survey(self) -> Survey:
        """How many shards are not as they should be."""
        if self._survey is None:
            roster = self.roster
            mend = mender(roster.holders(on_probation=True), self.placement.layout)
            moved = self._moved.since_ms.keys()
            self._survey = survey(self.map, roster.members.values(), self._active, moved, self.steering.wanted, mend)
        return self._survey

    # --- frames ----------------------------------------------------------------------------------------------------

    def _receive(self, route: bytes, frame: bytes) -> None:
        try:
            header = wire.decode_header(frame)
        except Malformed:
            return
        try:
            first_contact = header.cluster == 0 and header.kind in _FIRST_CONTACT
            if header.cluster != self.map.cluster and not first_contact:
                text = f"this is cluster {self.map.cluster:016x}, not {header.cluster:016x}"
                raise Refusal(wire.WRONG_CLUSTER, text)
            self._dispatch(route, header, frame)
        except Refusal as refusal:
            self._refuse(route, header, refusal.code, refusal.text)
        except wire.UNPARSABLE as error:
            self._refuse(route, header, wire.BAD_REQUEST, str(error))

    def _dispatch(self, route: bytes, header: Header, frame: bytes) -> None:
        boot = header.sender
        match header.kind:
            case wire.HEARTBEAT:
                load = Load.from_wire(wire.decode_body(frame))
                self.roster.heartbeat(boot, load)
                if boot in self.roster.members:
                    self.clock.heard(boot, load.cluster_ms, self._now_ms)
                self._compare(header)
            case wire.JOIN:
                self.roster.join(boot, wire.decode_body(frame))
                self._welcome(route, boot)
            case wire.HELLO:
                self._welcome(route, boot, header.map_version)
            case wire.MAP_PULL:
                self._reply(route, wire.MAP, boot, header.map_version)
            case wire.STATUS_PULL:
                self._reply(route, wire.STATUS, boot)
            case wire.DEAD:
                body = _numbers(wire.decode_body(frame))
                for dead in body:
                    self.roster.bury(dead, "its process was reaped")
                self._reply(route, wire.DEAD_ACK, boot, body)
            case wire.ACTIVE:
                body = wire.decode_body(frame)
                self._activate(boot, body)
                self.roster.sign_of_life(boot)
                self._reply(route, wire.ACTIVE_ACK, boot, body)
            case wire.FILLED:
                body = wire.decode_body(frame)
                self._fill(boot, body)
                self.roster.sign_of_life(boot)
                self._reply(route, wire.FILLED_ACK, boot, body)
            case wire.ACCUSE:
                body = wire.decode_body(frame)
                if not isinstance(body, list) or len(body) != 1:
                    raise Malformed("ACCUSE wants one list")
                self.roster.accuse(boot, _numbers(body[0]))
            case wire.ADMIN:
                self._reply(route, wire.ADMIN_REPLY, boot, self._administer(wire.decode_body(frame)))
            case _:
                name = wire.KIND_NAMES.get(header.kind, str(header.kind))
                raise Refusal(wire.BAD_REQUEST, f"a manager does not take {name}")

    def _compare(self, header: Header) -> None:
        if header.map_version > self.map.version and header.sender in self.map.members and not self._outdated:
            self._outdated = True
            known = f"map {header.map_version} is known to {self.map.name_of(header.sender)}"
            text = f"ERROR: {known}, this state is an old copy, of map {self.map.version}: no changes"
            self.log.add("manager", text)

    def _activate(self, boot: int, body: Any) -> None:
        """A primary reports the epochs under which it serves: nobody before them can hold a lease (SAFETY
        15)."""
        if not isinstance(body, list) or len(body) != 2:
            raise Malformed("ACTIVE wants two columns")
        shards = self.map.shards
        served = []
        for number, epoch in _columns(*body):
            if number < len(shards) and shards[number].epoch == epoch and shards[number].primary == boot:
                self._active[number] = epoch
                served.append(number)
        if served:
            self._survey = None
            self._moved.end(served)
            self._progress.activated(served, self._now_ms)

    def _fill(self, boot: int, body: Any) -> None:
        """A primary reports a learner filled: it counts under that epoch alone, and from its primary (SAFETY 22)."""
        if not isinstance(body, list) or len(body) != 3:
            raise Malformed("FILLED wants a boot id and two columns")
        (learner,) = _numbers(body[:1])
        shards = self.map.shards
        for number, epoch in _columns(*body[1:]):
            if number >= len(shards):
                continue
            shard = shards[number]
            fits = shard.epoch == epoch and shard.primary == boot and learner in shard.learners
            if fits and learner not in self.filled[number]:
                self.filled[number].add(learner)
                self._newly_filled[number].add(learner)

    def _administer(self, body: Any) -> list[Any]:
        """An operator's wish: the body of ADMIN_REPLY."""
        if not (isinstance(body, list) and len(body) == 2 and isinstance(body[0], str) and isinstance(body[1], dict)):
            raise Malformed("ADMIN wants a verb and its arguments")
        verb = VERBS.get(body[0])
        if verb is None:
            return [False, f"a manager knows no {body[0]!r}: it knows {', '.join(sorted(VERBS))}"]
        try:
            return [True, verb(self, body[1])]
        except Refused as refused:
            return [False, str(refused)]

    def _welcome(self, route: bytes, target: int, known: int = 0) -> None:
        """The settings, where to listen, and the time; with the map, unless it is known: nodes ask for the time alone.
        """
        self._reply(route, wire.WELCOME, target)
        if not known or known != self.map.version:
            self._reply(route, wire.MAP, target, known)

    def _keep_time(self, wall_ms: int) -> None:
        if not self.clock.is_known:
            living = {boot for boot, member in self.roster.members.items() if member.state != DEAD}
            source = self.clock.settle(self._now_ms, wall_ms, living)
            if source is not None:
                self.log.add("manager", f"cluster time is known again, {source}")

    def _reply(self, route: bytes, kind: int, target: int, body: Any = None) -> None:
        if route:
            self._replies.append((route, kind, target, body))

    def _refuse(self, route: bytes, header: Header, code: int, text: str) -> None:
        if header.kind not in (wire.REFUSED, wire.HEARTBEAT):
            self._reply(route, wire.REFUSED, header.sender, [0, code, text])

    def _answers(self) -> list[Effect]:
        """What was asked for in this step. Made last: answers show only what is durable before they leave."""
        answers: list[Effect] = []
        mapped: set[bytes] = set()
        for route, kind, target, body in self._replies:
            if kind != wire.MAP:
                if kind == wire.STATUS:
                    body = self.status()
                elif kind == wire.WELCOME:
                    body = [self.settings.to_wire(), *self._endpoints, self.boot, self.clock.at(self._now_ms)]
                answers.append(Send(route, self._encode(kind, target, body)))
            elif route not in mapped:
                mapped.add(route)
                answers += [Send(route, frame) for frame in self._map_frames(target, body or 0)]
        return answers

    def _encode(self, kind: int, target: int, body: Any) -> bytes:
        return wire.encode(kind, self.map.cluster, self.boot, target, self.map.version, body)

    def _map_frames(self, target: int, known: int) -> list[bytes]:
        """What whoever knows map version `known` lacks, or the whole map, packed once a version: after a change all
        nodes may ask at once."""
        kind, bodies = wire.MAP_DELTA, self._deltas.since(known)
        if not bodies:
            if self._packed_map[0] != self.map.version:
                self._packed_map = (self.map.version, wire.pack(self.map.to_wire()))
            kind, bodies = wire.MAP, [self._packed_map[1]]
        header = wire.encode_header(kind, self.map.cluster, self.boot, target, self.map.version)
        return [header + body for body in bodies]

    # --- the map ---------------------------------------------------------------------------------------------------

    def _next_delta(self, verdict: Verdict) -> Delta | None:
        """All changes of this step as one version, or None."""
        roster, old = self.roster, self.map
        if self._outdated:
            return None
        if not old.version:
            shards = self._form()
            if not shards:
                return None
        else:
            shards = self._survive(verdict)
            if self._beat or self.losses.asked:
                shards.update(self._reset())
            if self._beat and not shards:
                shards = self._steer()
        roster.dirty = False
        members = tuple(member for boot, member in roster.members.items() if old.members.get(boot) != member)
        removed = tuple(boot for boot in old.members if boot not in roster.members)
        if not (shards or members or removed):
            return None
        return Delta(old.cluster, old.version, old.version + 1, shards, members, removed)

    def _form(self) -> dict[int, Shard]:
        """The first entries, once all have joined whom they need."""
        candidates = self.roster.candidates()
        layout = self.placement.layout
        if layout is not None:
            return self.placement.formation(candidates)
        return formation(candidates, self.settings) if len(candidates) >= self.settings.nodes else {}

    def _survive(self, verdict: Verdict) -> dict[int, Shard]:
        """What follows at once from who is gone."""
        roster, old = self.roster, self.map
        if roster.dirty or not self.losses.known:
            self._progress.given_up(self.losses.look(old, roster.members, self.filled, roster.awake_ms))
        if not (roster.dirty or self._postponed or verdict.pairs):
            return {}
        reluctant = roster.shunned.union(boot for boot, member in roster.members.items() if member.draining)
        plan = reconfigure(
            old, roster.members, verdict.fresh, verdict.pairs, self._active, old.version + 1, self.filled, reluctant
        )
        self._postponed = plan.postponed
        if plan.shards:
            self._moved.end(plan.shards)
            self._progress.taken_over(plan.shards, self._now_ms)
        return plan.shards

    def _reset(self) -> dict[int, Shard]:
        """Lost shards that are created anew, empty (SAFETY 33)."""
        members = self.roster.members
        due = self.losses.due(self.map, members, self.filled, self.roster.awake_ms)
        if not due:
            return {}
        self.steering.aim(self.world())
        return self.losses.reset(self.map, members, due, self.steering.target)

    def _steer(self) -> dict[int, Shard]:
        """Steps towards where the shards are to be."""
        world = self.world()
        self.steering.aim(world)
        changes = self.steering.steps(world)
        self._progress.promoted(self.map, changes.promoted, self._now_ms)
        kinds = changes.kinds
        if kinds[Kind.MOVE]:
            self.log.add("move", f"copies of {kinds[Kind.MOVE]} shards begin to move", shards=kinds[Kind.MOVE])
        if kinds[Kind.HANDOVER]:
            text = f"{kinds[Kind.HANDOVER]} shards are handed to another primary"
            self.log.add("handover", text, shards=kinds[Kind.HANDOVER])
        self._moved.begin(changes.graceful, self._now_ms)
        return changes.shards

    def world(self) -> World:
        """What the steering looks at, as it is now."""
        roster = self.roster
        holders = self.pressure.weighed(roster.holders())
        can = {member.boot for member in holders}
        back = {member.boot for member in roster.holders(on_probation=True)}
        draining = {boot for boot, member in roster.members.items() if member.draining}
        guests = Guests(staying=back - can, leaving=draining, forced=roster.forced)
        return World(
            self.map, roster.members, self._verdict.fresh, self._active, self.filled, holders, guests, roster.shunned,
            roster.parted(),
        )  # fmt: skip

    def _press(self) -> dict[str, float] | None:
        """Once a heartbeat: look who is short of memory. The factors of the weights, where they are new."""
        if not self._beat or self._outdated or not self.map.version:
            return None
        busy = self.placement.layout is not None or self.survey().moving > 0
        roster = self.roster
        changed = self.pressure.look(self.map, roster.holders(), roster.load, busy, roster.awake_ms)
        return self.pressure.factors if changed else None

    def _adopt(self, delta: Delta) -> None:
        self.resets += resets_in(self.map, delta)
        self.map = self.map.with_changes(delta)
        self._survey = None
        if not delta.base:
            self._active = [0] * len(self.map.shards)
            self.roster.formed = True
            where = f"{len(self.map.members)} nodes, {self.settings.replicas} replicas"
            self.log.add("formed", f"map 1: {len(self.map.shards)} shards on {where}", shards=len(self.map.shards))
        for number in delta.shards:
            self.filled.pop(number, None)
        self.steering.touched(delta.shards)
        self._progress.changed(delta, self._now_ms)

    def _look_after(self) -> None:
        """Once a heartbeat: whether the cluster's health changed."""
        if self.map.version:
            if self._moved.expire(self._now_ms):
                self._survey = None
            self._progress.health(self.survey().health == "healthy", self._now_ms)


def _numbers(body: Any) -> list[int]:
    """A body that is a list of 64-bit numbers; raises Malformed."""
    if isinstance(body, list) and all(type(item) is int and 0 <= item < 2**64 for item in body):
        return body
    raise Malformed("the body must be a list of numbers")


def _columns(numbers: object, epochs: object) -> list[tuple[int, int]]:
    """Two packed columns of one length, side by side; raises Malformed."""
    first, second = wire.unpack_u64(numbers), wire.unpack_u64(epochs)
    if len(first) != len(second):
        raise Malformed("two columns of one length are wanted")
    return list(zip(first, second, strict=True))
