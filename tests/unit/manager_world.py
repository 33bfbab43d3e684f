"""A manager to tell stories about: frames and time in, notes and the map out.

A `World` is a manager, its disk and some nodes that do nothing but join and send heartbeats; if they are *working*
they also report what a node reports: activations, and filled learners. What the manager decides is compared as text:
one line an event, then the map.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zkv.core import wire
from zkv.core.load import Load
from zkv.core.manager.effects import Effect, Event, Persist, Probe, Publish, Send, Stored, applied
from zkv.core.manager.manager import Manager
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import STATE_NAMES

CLUSTER = 0xC1
LOW = 2**32
QUIET = frozenset(("manager", "suspect", "takeover", "fill", "healed"))
"""Kinds of events that stories leave out: `World.events` has them."""


def boot_of(name: str) -> int:
    """The boot id of A is …a, its second incarnation's (A') …1a, and so on."""
    return LOW + int(name[0], 16) + 16 * name.count("'")


class World:
    """A manager under test."""

    def __init__(
        self, names: str = "ABC", *, join: bool = True, working: bool = False, layout: str = "", **settings: Any
    ) -> None:
        chosen: dict[str, Any] = {"nodes": len(names), "replicas": 3, "shards": 2, "scatter_width": 4} | settings
        self.settings = ClusterSettings(**chosen)
        self.layout = layout
        """What the operator's file says; empty where there is none."""
        self._offered: str | None = None
        self.working = working
        self.filling = True
        """Whether learners get their copies, where nodes are working."""
        self.load: dict[str, Load] = {}
        self.now_ms = 50_000.0
        self.disk: Stored | None = None
        self.names: dict[int, str] = {}
        self.speaking: set[str] = set()
        self.accusing: dict[str, str] = {}
        self.complaining: dict[int, str] = {}
        """client -> the nodes that it cannot reach."""
        self.events: list[Event] = []
        self.notes: list[str] = []
        self.probes: list[str] = []
        self.published: list[wire.Header] = []
        self.sent: list[tuple[bytes, wire.Header, Any]] = []
        self.start_manager(1)
        if join:
            for name in names:
                self.join(name)
            self.run(100)
            for name in names:
                self.active(name)
            self.story()

    def start_manager(self, boot: int) -> None:
        file = "map.json" if self.layout else None
        self._offered = None
        self.manager = Manager(self.settings, boot, "tcp://h:1", "tcp://h:2", self.disk, CLUSTER, self.now_ms, file)

    def step(
        self, frames: list[tuple[bytes, bytes]] | None = None, probes: list[tuple[int, bool]] | None = None
    ) -> list[Effect]:
        before = self.manager.map.version
        offered = self.layout if self.layout and self.layout != self._offered else None
        self._offered = self.layout
        effects = self.manager.step(frames or [], self.now_ms, probes or [], int(self.now_ms), offered)
        self.manager.check_invariants()
        told = before
        for effect in effects:
            match effect:
                case Persist():
                    self.disk = applied(self.disk, effect)
                    if effect.delta:
                        told = effect.delta.version
                case Event():
                    self._record(effect)
                case Probe(boot, _):
                    self.probes.append(self.names[boot])
                case Publish(frame):
                    self.published.append(wire.decode_header(frame))
                    assert self.published[-1].map_version <= told, "published before it was durable"
                case Send(route, frame):
                    header = wire.decode_header(frame)
                    assert header.map_version <= told, "sent before it was durable"
                    self.sent.append((route, header, wire.decode_body(frame)))
        assert told - before <= 1, "one version a step"
        assert self.disk is not None
        assert self.disk.map == self.manager.map
        return effects

    def _record(self, event: Event) -> None:
        assert self.disk is not None, "an event before there is a state"
        self.disk = replace(self.disk, events=(*self.disk.events, event))
        self.events.append(event)
        text = event.text
        for boot, name in self.names.items():
            text = text.replace(f" ({boot:016x})", "").replace(f"{boot:016x}", name)
        if event.kind not in QUIET:
            self.notes.append(text)

    def frame(self, kind: int, name: str, body: Any, cluster: int = CLUSTER) -> tuple[bytes, bytes]:
        route = b"" if kind == wire.HEARTBEAT else name.encode()
        return route, wire.encode(kind, cluster, boot_of(name), 0, self.manager.map.version, body)

    def ask(self, kind: int, name: str, body: Any, cluster: int = CLUSTER) -> list[tuple[int, Any]]:
        """Send one frame; the (kind, body) of what comes back to this sender."""
        self.sent.clear()
        self.step([self.frame(kind, name, body, cluster)])
        return [(header.kind, reply) for route, header, reply in self.sent if route == name.encode()]

    def join(
        self, name: str, endpoint: str = "", node: str = "", bound: bool = True, zone: str = "", weight: float = 1.0
    ) -> list[tuple[int, Any]]:
        self.names[boot_of(name)] = name
        self.speaking.add(name)
        address = endpoint or f"tcp://{name[0]}:1"
        body = {"name": node or name, "endpoint": address, "zone": zone, "weight": weight, "bound": bound}
        return self.ask(wire.JOIN, name, body, cluster=0)

    def active(self, name: str) -> None:
        """`name` reports all shards that it leads as active."""
        rows = [(n, s.epoch) for n, s in enumerate(self.manager.map.shards) if s.primary == boot_of(name)]
        numbers, epochs = [n for n, _ in rows], [e for _, e in rows]
        self.ask(wire.ACTIVE, name, [wire.pack_u64(numbers), wire.pack_u64(epochs)])

    def work(self) -> None:
        """All nodes that speak do what a node does: activate what they lead, and fill learners that speak too."""
        for name in sorted(self.speaking):
            boot = boot_of(name)
            led = [(n, s) for n, s in enumerate(self.manager.map.shards) if s.primary == boot and not s.withheld]
            if any(self.manager._active[n] != s.epoch for n, s in led):
                self.active(name)
            elif self.filling:
                self.fill(name)

    def fill(self, name: str) -> None:
        """`name` reports all learners of the shards that it leads as filled."""
        learners: dict[int, list[tuple[int, int]]] = {}
        for number, shard in enumerate(self.manager.map.shards):
            if shard.primary == boot_of(name):
                for boot in shard.learners:
                    if self.names[boot] in self.speaking and boot not in self.manager.filled.get(number, ()):
                        learners.setdefault(boot, []).append((number, shard.epoch))
        for boot, rows in learners.items():
            body = [boot, wire.pack_u64([n for n, _ in rows]), wire.pack_u64([e for _, e in rows])]
            assert self.ask(wire.FILLED, name, body) == [(wire.FILLED_ACK, body)]

    def admin(self, verb: str, **args: Any) -> Any:
        """What an operator is told."""
        ((kind, (ok, result)),) = self.ask(wire.ADMIN, "F", [verb, args], cluster=0)
        assert kind == wire.ADMIN_REPLY
        return result if ok else f"refused: {result}"

    def told(self, kind: str) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if event.kind == kind]

    def rest(self, limit_ms: float = 60_000.0) -> None:
        """Let time pass until the map has been the same for three seconds."""
        quiet_ms, version = 0.0, self.manager.map.version
        while quiet_ms < 3000:
            self.run(100)
            limit_ms -= 100
            assert limit_ms > 0, "the map does not come to rest"
            quiet_ms = quiet_ms + 100 if version == self.manager.map.version else 0.0
            version = self.manager.map.version

    def run(self, duration_ms: float) -> None:
        """Let time pass: heartbeats every 100 ms, a step every 50."""
        for _ in range(int(duration_ms / 50)):
            self.now_ms += 50
            frames = []
            if self.now_ms % 100 == 0:
                for name in sorted(self.speaking):
                    frames.append(self.frame(wire.HEARTBEAT, name, list(self.load.get(name, Load(1, 2)))))
                    if name in self.accusing:
                        body = [boot_of(other) for other in self.accusing[name].split()]
                        frames.append(self.frame(wire.ACCUSE, name, [body]))
                for client, nodes in self.complaining.items():
                    body = [boot_of(other) for other in nodes.split()]
                    frames.append((b"c", wire.encode(wire.ACCUSE, CLUSTER, client, 0, 0, [body])))
            self.step(frames)
            if self.working and self.manager.map.version:
                self.work()

    def proof(self, name: str) -> None:
        self.speaking.discard(name)
        assert self.ask(wire.DEAD, "E", [boot_of(name)], cluster=0) == [(wire.DEAD_ACK, [boot_of(name)])]

    def story(self) -> str:
        """The events since the last call, and the map."""
        notes, self.notes = self.notes, []
        return "\n".join([*notes, *self.map()])

    def map(self) -> list[str]:
        names = self.names
        lines = []
        for shard in self.manager.map.shards:
            line = f"epoch {shard.epoch} on {' '.join(names[b] for b in shard.replicas)}"
            if shard.learners:
                line += f", teaches {' '.join(names[b] for b in shard.learners)}"
            if shard.withheld:
                line += ", withheld"
            if shard.wait:
                line += f", waits for {' '.join(sorted(names[b] for b in shard.wait))}"
            lines.append(line)
        gone = [(names[m.boot], STATE_NAMES[m.state]) for m in self.manager.map.members.values() if m.state]
        lines += [f"{name} is {state}" for name, state in sorted(gone)]
        return lines


def told(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())
