"""What a client knows of one node: its clock, whether it lives, how fast it answers, and what is under way to it.

A link is *broken* while the node owes a sign of life: a try was not answered in its time, or the node has not been
greeted yet. Nothing is sent over a broken link but greetings, so a dead node costs one request, and a call that only it
could serve waits, without being in doubt, for the map to name another or for the node to come back (a circuit breaker:
Nygard, "Release It!", 2007).
"""

from __future__ import annotations

from typing import Final

from zkv.core.client.batches import Kind, Loose, Try

CLOCK_MS: Final = 10_000.0
"""How long an estimate of a node's clock is held against newer, worse ones."""
SMOOTHING: Final = 0.2
"""Weight of a new latency in the smoothed one; a latency that is greater counts at once, as in Finagle's peak EWMA."""


class Link:
    """One node, that is one boot id."""

    __slots__ = (
        "clock_ms", "hello_ms", "latency_ms", "loose", "offset_ms", "passed_over", "pinged_ms", "queue", "tries"
    )  # fmt: skip

    def __init__(self) -> None:
        self.offset_ms: float | None = None
        """The node's clock minus ours, an upper bound: too late by the length of a round trip at most. None before
        HELLO."""
        self.clock_ms = float("-inf")
        """When `offset_ms` was estimated."""
        self.hello_ms = float("-inf")
        """When it was last greeted."""
        self.pinged_ms: float | None = None
        """Since when it has been asked for a sign of life without giving one; None: nothing is asked."""
        self.latency_ms: float | None = None
        """Smoothed time of a read that any replica may answer; None: not known yet."""
        self.passed_over = 0
        """Reads that went elsewhere since its latency was last measured."""
        self.queue: list[Try] = []
        self.loose: dict[Kind, Loose] = {}
        """Operations that wait for the next message."""
        self.tries: dict[int, Try] = {}
        """Request number -> try under way."""

    @property
    def broken(self) -> bool:
        """Whether nothing may be sent but greetings."""
        return self.offset_ms is None or self.pinged_ms is not None

    @property
    def waiting(self) -> bool:
        """Whether something is to be sent."""
        return bool(self.queue or self.loose)

    def load(self) -> int:
        """Operations under way or waiting."""
        return sum(len(one.indices) for one in (*self.tries.values(), *self.queue)) + sum(map(len, self.loose.values()))

    def hear_clock(self, sent_ms: float, node_ms: float, now_ms: float) -> None:
        """Estimate the node's clock from a round trip: too late rather than too early, so that no work in time is
        late."""
        offset = node_ms + 1.0 - sent_ms
        if self.offset_ms is None or offset < self.offset_ms or now_ms - self.clock_ms > CLOCK_MS:
            self.offset_ms, self.clock_ms = offset, now_ms

    def hear_latency(self, latency_ms: float) -> None:
        """A read was answered after so long, or has been waiting for so long already."""
        self.passed_over = 0
        if self.latency_ms is None or latency_ms > self.latency_ms:
            self.latency_ms = latency_ms
        else:
            self.latency_ms += SMOOTHING * (latency_ms - self.latency_ms)
