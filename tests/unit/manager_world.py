"""A manager to tell stories about: frames and time in, notes and the map out.

A `World` is a manager, its disk and some nodes that do nothing but join and send heartbeats. What the manager
decides is compared as text: one line a note, then the map.
"""

from __future__ import annotations

from typing import Any

from zkv.core import wire
from zkv.core.effects import Effect, Note, Persist, Probe, Publish, Send, Stored, applied
from zkv.core.manager import Manager
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import STATE_NAMES

CLUSTER = 0xC1
LOW = 2**32


def boot_of(name: str) -> int:
    """The boot id of A is …a, its second incarnation's (A') …1a, and so on."""
    return LOW + int(name[0], 16) + 16 * name.count("'")


class World:
    """A manager under test."""

    def __init__(self, names: str = "ABC", *, join: bool = True, **settings: Any) -> None:
        chosen: dict[str, Any] = {"nodes": len(names), "replicas": 3, "shards": 2, "scatter_width": 4} | settings
        self.settings = ClusterSettings(**chosen)
        self.now_ms = 50_000.0
        self.disk: Stored | None = None
        self.names: dict[int, str] = {}
        self.speaking: set[str] = set()
        self.accusing: dict[str, str] = {}
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
        self.manager = Manager(self.settings, boot, "tcp://h:1", "tcp://h:2", self.disk, CLUSTER, self.now_ms)

    def step(
        self, frames: list[tuple[bytes, bytes]] | None = None, probes: list[tuple[int, bool]] | None = None
    ) -> list[Effect]:
        before = self.manager.map.version
        effects = self.manager.step(frames or [], self.now_ms, probes or [])
        self.manager.check_invariants()
        told = before
        for effect in effects:
            match effect:
                case Persist():
                    self.disk = applied(self.disk, effect)
                    if effect.delta:
                        told = effect.delta.version
                case Note(text):
                    for boot, name in self.names.items():
                        text = text.replace(f" ({boot:016x})", "").replace(f"{boot:016x}", name)
                    self.notes.append(text)
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

    def frame(self, kind: int, name: str, body: Any, cluster: int = CLUSTER) -> tuple[bytes, bytes]:
        route = b"" if kind == wire.HEARTBEAT else name.encode()
        return route, wire.encode(kind, cluster, boot_of(name), 0, self.manager.map.version, body)

    def ask(self, kind: int, name: str, body: Any, cluster: int = CLUSTER) -> list[tuple[int, Any]]:
        """Send one frame; the (kind, body) of what comes back to this sender."""
        self.sent.clear()
        self.step([self.frame(kind, name, body, cluster)])
        return [(header.kind, reply) for route, header, reply in self.sent if route == name.encode()]

    def join(self, name: str, endpoint: str = "", node: str = "", bound: bool = True) -> list[tuple[int, Any]]:
        self.names[boot_of(name)] = name
        self.speaking.add(name)
        address = endpoint or f"tcp://{name[0]}:1"
        body = {"name": node or name, "endpoint": address, "zone": "", "weight": 1.0, "bound": bound}
        return self.ask(wire.JOIN, name, body, cluster=0)

    def active(self, name: str) -> None:
        """`name` reports all shards that it leads as active."""
        rows = [(n, s.epoch) for n, s in enumerate(self.manager.map.shards) if s.primary == boot_of(name)]
        numbers, epochs = [n for n, _ in rows], [e for _, e in rows]
        self.ask(wire.ACTIVE, name, [wire.pack_u64(numbers), wire.pack_u64(epochs)])

    def run(self, duration_ms: float) -> None:
        """Let time pass: heartbeats every 100 ms, a step every 50."""
        for _ in range(int(duration_ms / 50)):
            self.now_ms += 50
            frames = []
            if self.now_ms % 100 == 0:
                for name in sorted(self.speaking):
                    frames.append(self.frame(wire.HEARTBEAT, name, [1, 2, 0, 0, 0, 0, 0, 0, 0]))
                    if name in self.accusing:
                        body = [boot_of(other) for other in self.accusing[name].split()]
                        frames.append(self.frame(wire.ACCUSE, name, [body]))
            self.step(frames)

    def proof(self, name: str) -> None:
        self.speaking.discard(name)
        assert self.ask(wire.DEAD, "E", [boot_of(name)], cluster=0) == [(wire.DEAD_ACK, [boot_of(name)])]

    def story(self) -> str:
        """The notes since the last call, and the map."""
        notes, self.notes = self.notes, []
        return "\n".join([*notes, *self.map()])

    def map(self) -> list[str]:
        names = self.names
        lines = []
        for shard in self.manager.map.shards:
            line = f"epoch {shard.epoch} on {' '.join(names[b] for b in shard.replicas)}"
            if shard.wait:
                line += f", waits for {' '.join(sorted(names[b] for b in shard.wait))}"
            lines.append(line)
        gone = [(names[m.boot], STATE_NAMES[m.state]) for m in self.manager.map.members.values() if m.state]
        lines += [f"{name} is {state}" for name, state in sorted(gone)]
        return lines


def told(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())
