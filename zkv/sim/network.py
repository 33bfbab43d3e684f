"""Virtual time and a network that misbehaves, both driven by one seed.

A link is a pair of processes in one direction. It keeps order, as TCP does, but loses what is in flight at a reset, may
deliver a frame twice (the second time late), and is as slow as it likes; links know nothing of each other, so frames
overtake one another across links. A cut link either swallows frames or holds them until it heals, as a router
that drops and a peer that retransmits would.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Final

Pid = str
"""A process's name in the simulation: its role and number, and for nodes the incarnation."""

DUPLICATE_LATE_MS: Final = 400.0


class Clockwork:
    """Virtual time in milliseconds, and what is to happen when."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when_ms: float, action: Callable[[], None]) -> None:
        """Run `action` at `when_ms`; actions of the same instant run in the order they were asked for."""
        self._count += 1
        heapq.heappush(self._queue, (max(when_ms, self.now_ms), self._count, action))

    def after(self, delay_ms: float, action: Callable[[], None]) -> None:
        """Run `action` in `delay_ms`."""
        self.at(self.now_ms + delay_ms, action)

    def next(self, until_ms: float) -> bool:
        """Run the next action, if it is due by `until_ms`."""
        if not self._queue or self._queue[0][0] > until_ms:
            self.now_ms = until_ms
            return False
        self.now_ms, _, action = heapq.heappop(self._queue)
        action()
        return True


class Network:
    """All links. `deliver(sender, receiver, message)` is called when a frame arrives."""

    def __init__(self, clockwork: Clockwork, rng: random.Random, deliver: Callable[[Pid, Pid, object], None]) -> None:
        self.clockwork = clockwork
        self.rng = rng
        self.deliver = deliver
        self.latency_ms = (0.05, 1.5)
        self.slow: dict[tuple[Pid, Pid], float] = {}
        """Extra latency of some links."""
        self.drop = 0.0
        """Probability that a frame is lost."""
        self.duplicate = 0.0
        """Probability that a frame arrives a second time."""
        self.cut: dict[tuple[Pid, Pid], bool] = {}
        """Links that are cut; True: frames are held until it heals, False: they are lost."""
        self._held: dict[tuple[Pid, Pid], list[object]] = {}
        self._last_ms: dict[tuple[Pid, Pid], float] = {}
        self._generation: dict[tuple[Pid, Pid], int] = {}
        self.lost = 0

    def send(self, sender: Pid, receiver: Pid, message: object) -> None:
        """A frame leaves `sender`."""
        link = (sender, receiver)
        if link in self.cut:
            if self.cut[link]:
                self._held.setdefault(link, []).append(message)
            else:
                self.lost += 1
            return
        if self.drop and self.rng.random() < self.drop:
            self.lost += 1
            return
        self._fly(link, message, self.rng.uniform(*self.latency_ms) + self.slow.get(link, 0.0), in_order=True)
        if self.duplicate and self.rng.random() < self.duplicate:
            self._fly(link, message, self.rng.uniform(0.0, DUPLICATE_LATE_MS), in_order=False)

    def _fly(self, link: tuple[Pid, Pid], message: object, delay_ms: float, *, in_order: bool) -> None:
        arrival_ms = self.clockwork.now_ms + delay_ms
        if in_order:
            arrival_ms = max(arrival_ms, self._last_ms.get(link, 0.0))
            self._last_ms[link] = arrival_ms
        generation = self._generation.get(link, 0)

        def arrive() -> None:
            if self._generation.get(link, 0) == generation and not (link in self.cut and not self.cut[link]):
                self.deliver(*link, message)
            else:
                self.lost += 1

        self.clockwork.at(arrival_ms, arrive)

    def reset(self, link: tuple[Pid, Pid]) -> None:
        """The connection breaks: what is in flight is lost, silently."""
        self._generation[link] = self._generation.get(link, 0) + 1

    def sever(self, link: tuple[Pid, Pid], *, hold: bool) -> None:
        """Cut one direction."""
        self.cut[link] = hold

    def heal(self) -> None:
        """Mend every link; what was held arrives."""
        self.cut.clear()
        self.slow.clear()
        held, self._held = self._held, {}
        for link, messages in held.items():
            for message in messages:
                self._fly(link, message, self.rng.uniform(*self.latency_ms), in_order=True)
