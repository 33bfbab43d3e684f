"""Simulated processes: the production cores, each with a clock of its own rate, an inbox, and a life.

A frame that arrives waits in the inbox until the process has its next turn, as in a socket; a paused process takes no
turns, its inbox fills, and when it resumes it reads its clock after draining, like the real hosts.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.core.client.client import ClientCore
from zkv.core.manager.effects import Persist, Probe, Publish, Send
from zkv.core.node.local import MANAGER, PUBLISH
from zkv.core.node.node import Node

if TYPE_CHECKING:
    from zkv.sim.world import World

MANAGER_PID: Final = "manager"
WALL_MS: Final = 1_700_000_000_000
TURN_MS: Final = (0.01, 0.4)
"""How long a frame waits for its receiver's turn: several that wait together are one batch."""


class Process:
    """What all simulated processes have in common."""

    def __init__(self, world: World, pid: str) -> None:
        self.world = world
        self.pid = pid
        slowest, fastest = world.clock_rates
        self.rate = world.rng.choice((slowest, fastest, world.rng.uniform(slowest, fastest)))
        self.offset_ms = world.rng.uniform(0.0, 1e6)
        self.born_ms = world.clockwork.now_ms
        self.inbox: list[tuple[Any, bytes]] = []
        self.alive = True
        self.paused = False
        self._turn_at_ms = float("inf")
        self._turns = 0

    def now_ms(self) -> float:
        """This process's clock."""
        return self.offset_ms + (self.world.clockwork.now_ms - self.born_ms) * self.rate

    def receive(self, source: Any, frame: bytes) -> None:
        """A frame arrives at the socket."""
        if self.alive:
            self.inbox.append((source, frame))
            self.wake_in(self.world.rng.uniform(*TURN_MS))

    def wake_in(self, delay_ms: float) -> None:
        """Have a turn in at most `delay_ms`."""
        when_ms = self.world.clockwork.now_ms + delay_ms
        if when_ms >= self._turn_at_ms or not self.alive:
            return
        self._turn_at_ms = when_ms
        self._turns += 1
        number = self._turns

        def turn() -> None:
            if self.alive and not self.paused and number == self._turns:
                self._turn_at_ms = float("inf")
                self.world.take_turn(self)

        self.world.clockwork.at(when_ms, turn)

    def wake_at(self, own_ms: float) -> None:
        """Have a turn when this process's clock shows `own_ms`."""
        # Never in no time at all: rounding could make the clock show a little less than asked for, for ever.
        self.wake_in(max(TURN_MS[0], (own_ms - self.now_ms()) / self.rate))

    def drain(self) -> list[tuple[Any, bytes]]:
        """Take all that waits."""
        frames, self.inbox = self.inbox, []
        return frames

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        if self.alive and self.paused:
            self.paused = False
            self._turn_at_ms = float("inf")
            self.wake_in(0.0)

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.inbox.clear()

    def turn(self) -> None:
        """One turn of the process."""
        raise NotImplementedError


class NodeProcess(Process):
    """A storage node."""

    def __init__(self, world: World, name: str, start: int) -> None:
        super().__init__(world, f"{name}#{start}")
        self.name = name
        self.boot = world.rng.randrange(2**32, 2**63)
        self.endpoint = f"tcp://{name}:{start}"
        self.seen_parts = 0
        """How far the world has read its history."""
        self.crash_in_batches = False
        """Die in the middle of the next turn that sends several batches."""
        self.core: Node = world.node_class(name, self.boot, self.endpoint)
        self.wake_in(0.0)

    def turn(self) -> None:
        out = self.core.step(self.drain(), self.now_ms())
        die_at = len(out)
        if self.crash_in_batches:
            # Between sending to one backup and the next: what takeovers find tails by.
            batches = [place for place, (_, frame) in enumerate(out) if frame[3] == wire.BATCH]
            if len(batches) > 1:
                die_at = self.world.rng.choice(batches[1:])
        for address, frame in out[:die_at]:
            self.world.from_node(self, address, frame)
        if die_at < len(out):
            self.world.crash_node(self.name)
        elif self.core.contact.released or self.core.contact.rejected:
            self.world.node_left(self)
        else:
            self.wake_at(self.core.next_wake_ms)


class ManagerProcess(Process):
    """The manager, on the world's disk."""

    def __init__(self, world: World) -> None:
        super().__init__(world, MANAGER_PID)
        boot = world.rng.randrange(2**32, 2**63)
        stored = world.disk
        self.core = world.manager_class(
            world.settings, boot, "heartbeats", f"maps#{boot}", stored, world.cluster, self.now_ms()
        )
        self.set_whims()
        self.wall_ms = int(world.clockwork.now_ms) + WALL_MS + world.rng.choice((0, 0, -(10**7), 10**7))
        """What the wall clock showed when it started: somebody may have set it meanwhile, and expiry must not care."""
        self.probes: list[tuple[int, bool]] = []
        self.crash_in_effects = False
        """Die between two effects of the next step that changes the map (SAFETY 1, 30)."""
        self.wake_in(0.0)

    def set_whims(self) -> None:
        """As the world wants it."""
        core = self.core
        core.restlessness, core.drops, core.fickleness = self.world.restlessness

    def turn(self) -> None:
        probes, self.probes = self.probes, []
        frames = [(source if isinstance(source, bytes) else b"", frame) for source, frame in self.drain()]
        wall_ms = self.wall_ms + int(self.world.clockwork.now_ms - self.born_ms)
        effects = self.core.step(frames, self.now_ms(), probes, wall_ms)
        die_at = len(effects) + 1
        if self.crash_in_effects and any(isinstance(effect, Persist) for effect in effects):
            die_at = self.world.rng.randrange(len(effects) + 1)
        for position, effect in enumerate(effects):
            if position == die_at:
                self.world.crash_manager()
                return
            if isinstance(effect, Persist):
                self.world.persist(effect)
            elif isinstance(effect, Send):
                self.world.network.send(self.pid, effect.route.decode(), (MANAGER, effect.frame))
            elif isinstance(effect, Publish):
                self.world.broadcast(effect.frame)
            elif isinstance(effect, Probe):
                self.world.probe(self, effect.boot)
        self.wake_at(self.core.next_wake_ms)


class ClientProcess(Process):
    """A client: a core, and a workload that keeps it busy."""

    def __init__(self, world: World, pid: str, *, subscribed: bool) -> None:
        super().__init__(world, pid)
        self.subscribed = subscribed
        self.core: ClientCore = world.client_class(
            world.rng.randrange(2**32, 2**63), random.Random(world.rng.random()), hedging=world.rng.random() < 0.5,
            sticky=world.rng.random() < 0.2,
        )  # fmt: skip
        self.calls: dict[Call, Any] = {}
        """Calls under way, with what the workload wants to know when they end."""
        self.wake_in(0.0)

    def submit(
        self, op: int | bytes, keys: list[str], values: list[Any] | None, timeout_ms: float, note: Any, *,
        early: bool = False, operands: list[int] | None = None, ttls: list[int] | None = None,
        shards: list[int] | None = None,
    ) -> Call:  # fmt: skip
        """Start a call; the workload hears of its end. `early`: its writes are acknowledged by the primary alone."""
        now_ms, ack = self.now_ms(), wire.ACK_PRIMARY if early else wire.ACK_DEFAULT
        call = Call(op, keys, values, now_ms, now_ms + timeout_ms, ack, operands, ttls, shards)
        self.core.submit(call)
        self.calls[call] = note
        self.wake_in(0.0)
        return call

    def turn(self) -> None:
        out = self.core.step(self.drain(), self.now_ms())
        for address, frame in out:
            self.world.from_client(self, address, frame)
        for call in [call for call in self.calls if call.done]:
            self.world.call_ended(self, call, self.calls.pop(call))
        if self.alive and not self.paused:
            self.wake_at(self.core.next_wake_ms)


__all__ = ["MANAGER_PID", "PUBLISH", "ClientProcess", "ManagerProcess", "NodeProcess", "Process"]
