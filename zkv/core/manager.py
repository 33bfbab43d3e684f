"""The manager: what it is told, what it answers, and when the map gets a new version. Pure: frames in,
effects out.

It is the only writer of the map (SAFETY 1, 30), and never on the path of a read or a write. A step takes all
that has arrived, judges once, and makes at most one new version of the map of it: the change is made durable,
then published, then whatever is owed to anybody is sent, so that no answer shows a state that a crash could
take back.

Who is a member, and in what state, is for the `roster`; what follows for the shards, for `reconfigure`.

Only what a restarted manager must know is durable: the cluster's identity, its settings, and the map with its
members. Activations are reported again by the nodes when they meet a manager with a new boot id; until then
wait lists are longer than need be, which is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from zkv.core import wire
from zkv.core.effects import Effect, Note, Persist, Publish, Send, Stored
from zkv.core.load import Load
from zkv.core.reconfigure import formation, reconfigure, referenced, subset_violation
from zkv.core.roster import Refusal, Roster, Verdict
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import UP, Delta, Shard, ShardMap
from zkv.core.status import status
from zkv.core.wire import Header, Malformed

_FIRST_CONTACT: Final = frozenset((wire.JOIN, wire.HELLO, wire.MAP_PULL, wire.STATUS_PULL, wire.DEAD))
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
    ) -> None:
        """`stored`: what a former incarnation persisted; its settings and its cluster id win over those
        given.

        `heartbeat_endpoint`, `map_endpoint`: where nodes publish heartbeats to, and listen for the map.
        """
        self.settings = stored.settings if stored else settings
        self.map = stored.map if stored else ShardMap.empty(cluster)
        self.boot = boot
        self._endpoints = (heartbeat_endpoint, map_endpoint)
        self._create = None if stored else Stored(cluster, settings, self.map)
        self._roster = Roster(self.settings, self.map, now_ms)
        self._active = [0] * len(self.map.shards)
        """By shard, the newest epoch whose primary reported its activation."""
        self._postponed = False
        """Whether a change waits for a suspect to be heard or given up."""
        self._beacon_ms = now_ms
        self._packed_map: tuple[int, bytes] = (-1, b"")
        self._replies: list[tuple[bytes, int, int, Any]] = []
        self._outdated = False
        """Whether a member knew a newer map than ours. Then our state is an old copy, and any change we made
        would give out epochs a second time: we make none (SAFETY 30)."""
        self._checked = self.map

    @property
    def next_wake_ms(self) -> float:
        """When `step` wants to be called at the latest, if nothing arrives before."""
        return min(self._beacon_ms, self._roster.next_wake_ms)

    def step(
        self, frames: Sequence[tuple[bytes, bytes]], now_ms: float, probes: Sequence[tuple[int, bool]] = ()
    ) -> list[Effect]:
        """Take in what arrived, (route, frame) with route b"" for heartbeats, and decide.

        `now_ms` is read after the sockets were drained. `probes`: answers to `Probe`, (boot, whether it was
        refused).
        """
        roster = self._roster
        self._replies = []
        roster.tick(now_ms)
        for boot, refused in probes:
            if refused:
                roster.bury(boot, "its port refuses connections")
        for route, frame in frames:
            self._receive(route, frame)
        verdict = roster.judge(self.map, now_ms)
        beacon = now_ms >= self._beacon_ms
        if beacon:
            roster.tidy(self.map)

        effects: list[Effect] = []
        if self._create is not None:
            effects.append(Persist(None, self._create))
            self._create = None
        delta = self._next_delta(verdict)
        effects += roster.take_effects()
        if delta is not None:
            self._adopt(delta)
            effects += [
                Note(self._summary(delta)),
                Persist(delta),
                Publish(self._encode(wire.MAP_DELTA, 0, delta.to_wire())),
            ]
        if beacon:
            self._beacon_ms = now_ms + self.settings.heartbeat_ms
            effects.append(Publish(self._encode(wire.BEACON, 0, [self.boot])))
        effects += self._answers()
        return effects

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself, or the map changed in a way it must not."""
        map = self.map
        assert not map.version or len(map.shards) == len(self._active) == self.settings.shards
        assert not map.version or dict(map.members) == self._roster.members, "members changed without a version"
        assert referenced(map) <= set(map.members), "a shard names a member that is not in the table"
        for number, shard in enumerate(map.shards):
            assert len(set(shard.replicas)) == len(shard.replicas) > 0, f"shard {number}: {shard}"
            assert not set(shard.wait) & set(shard.replicas), f"shard {number} waits for its own members: {shard}"
            assert shard.epoch >= 1, f"shard {number}: {shard}"
            assert 1 <= shard.changed <= map.version, f"shard {number}: {shard}"
            assert self._active[number] <= shard.epoch, f"shard {number} is active in an epoch to come"
        assert not self._outdated, "a member knows a newer map than the manager"
        assert map.version >= self._checked.version, "the map's version went back"
        for number, (old, new) in enumerate(zip(self._checked.shards, map.shards, strict=False)):
            violation = subset_violation(old, new)
            assert violation is None, f"shard {number}: {violation}"
        self._checked = map

    def status(self) -> dict[str, Any]:
        """The body of STATUS."""
        return status(self.map, self.settings, self._roster.members.values(), self._active, self._roster.load)

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
                self._roster.heartbeat(boot, Load.from_wire(wire.decode_body(frame)))
                self._compare(header)
            case wire.JOIN:
                self._roster.join(boot, wire.decode_body(frame))
                self._welcome(route, boot)
            case wire.HELLO:
                self._welcome(route, boot)
            case wire.MAP_PULL:
                self._reply(route, wire.MAP, boot)
            case wire.STATUS_PULL:
                self._reply(route, wire.STATUS, boot)
            case wire.DEAD:
                body = _numbers(wire.decode_body(frame))
                for dead in body:
                    self._roster.bury(dead, "its process was reaped")
                self._reply(route, wire.DEAD_ACK, boot, body)
            case wire.ACTIVE:
                body = wire.decode_body(frame)
                self._activate(boot, body)
                self._roster.sign_of_life(boot)
                self._reply(route, wire.ACTIVE_ACK, boot, body)
            case wire.ACCUSE:
                body = wire.decode_body(frame)
                if not isinstance(body, list) or len(body) != 1:
                    raise Malformed("ACCUSE wants one list")
                self._roster.accuse(boot, _numbers(body[0]))
            case _:
                name = wire.KIND_NAMES.get(header.kind, str(header.kind))
                raise Refusal(wire.BAD_REQUEST, f"a manager does not take {name}")

    def _compare(self, header: Header) -> None:
        if header.map_version > self.map.version and header.sender in self.map.members and not self._outdated:
            self._outdated = True
            known = f"map {header.map_version} is known to {self.map.name_of(header.sender)}"
            self._roster.note(f"ERROR: {known}, this state is an old copy, of map {self.map.version}: no changes")

    def _activate(self, boot: int, body: Any) -> None:
        """A primary reports the epochs under which it serves: nobody before them can hold a lease (SAFETY
        15)."""
        if not isinstance(body, list) or len(body) != 2:
            raise Malformed("ACTIVE wants two columns")
        numbers, epochs = wire.unpack_u64(body[0]), wire.unpack_u64(body[1])
        if len(numbers) != len(epochs):
            raise Malformed("ACTIVE wants two columns of one length")
        shards = self.map.shards
        for number, epoch in zip(numbers, epochs, strict=True):
            if number < len(shards) and shards[number].epoch == epoch and shards[number].primary == boot:
                self._active[number] = epoch

    def _welcome(self, route: bytes, target: int) -> None:
        self._reply(route, wire.WELCOME, target, [self.settings.to_wire(), *self._endpoints, self.boot])
        self._reply(route, wire.MAP, target)

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
                body = self.status() if kind == wire.STATUS else body
                answers.append(Send(route, self._encode(kind, target, body)))
            elif route not in mapped:
                mapped.add(route)
                answers.append(Send(route, self._map_frame(target)))
        return answers

    def _encode(self, kind: int, target: int, body: Any) -> bytes:
        return wire.encode(kind, self.map.cluster, self.boot, target, self.map.version, body)

    def _map_frame(self, target: int) -> bytes:
        """The whole map, packed once a version: after a change all nodes may ask at once."""
        if self._packed_map[0] != self.map.version:
            self._packed_map = (self.map.version, wire.pack(self.map.to_wire()))
        header = wire.encode_header(wire.MAP, self.map.cluster, self.boot, target, self.map.version)
        return header + self._packed_map[1]

    # --- the map ---------------------------------------------------------------------------------------------------

    def _next_delta(self, verdict: Verdict) -> Delta | None:
        """All changes of this step as one version, or None."""
        roster, old = self._roster, self.map
        version = old.version + 1
        shards: dict[int, Shard] = {}
        if self._outdated:
            return None
        if not old.version:
            candidates = roster.candidates()
            if len(candidates) < self.settings.nodes:
                return None
            shards = formation(candidates, self.settings)
        elif roster.dirty or self._postponed or verdict.pairs:
            plan = reconfigure(old, roster.members, verdict.fresh, verdict.pairs, self._active, version)
            shards, self._postponed = plan
        roster.dirty = False
        members = tuple(member for boot, member in roster.members.items() if old.members.get(boot) != member)
        removed = tuple(boot for boot in old.members if boot not in roster.members)
        if not (shards or members or removed):
            return None
        return Delta(old.cluster, old.version, version, shards, members, removed)

    def _adopt(self, delta: Delta) -> None:
        self.map = self.map.with_changes(delta)
        if not delta.base:
            self._active = [0] * len(self.map.shards)
            self._roster.formed = True

    def _summary(self, delta: Delta) -> str:
        map = self.map
        if not delta.base:
            where = f"{len(map.members)} nodes, {self.settings.replicas} replicas"
            return f"map 1: {len(map.shards)} shards on {where}"
        up = {boot for boot, member in map.members.items() if member.state == UP}
        lost = sum(up.isdisjoint(shard.replicas) for shard in map.shards)
        text = f"map {map.version}: {len(delta.shards)} shards changed, {len(up)} nodes up"
        return f"{text}, {lost} shards UNAVAILABLE" if lost else text


def _numbers(body: Any) -> list[int]:
    """A body that is a list of 64-bit numbers; raises Malformed."""
    if isinstance(body, list) and all(type(item) is int and 0 <= item < 2**64 for item in body):
        return body
    raise Malformed("the body must be a list of numbers")
