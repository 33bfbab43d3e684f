"""Cluster time at a node: the manager's clock, as an offset to this machine's boot clock (SAFETY 28).

The manager is asked now and then. Its answer was made between the sending of the question and the coming of the answer,
so it bounds the offset from both sides (Cristian, "Probabilistic clock synchronization", 1989): what lies within the
bounds stays as it is, what lies outside moves to the nearer bound, no faster than two clocks may drift apart. So a
wall clock that is set changes nothing, nor does a manager that is wrong all of a sudden; and without the manager time
goes on.

The first answer is taken as if it had come the moment it was made: the question may have waited for long (for a manager
that was not there yet), and a clock that is a little behind expires nothing early.
"""

from __future__ import annotations

from typing import Final

ASK_MS: Final = 1000.0
"""Interval of the questions."""
STRAY_MS: Final = 5000.0
"""After an answer that was long in coming the next question waits for as long, but no longer than this."""


class Clock:
    """Cluster time in milliseconds since the Unix epoch, as it was when the cluster was created."""

    __slots__ = ("_asked_ms", "_doubt_ms", "_drift", "_due_ms", "_learned_ms", "_offset_ms")

    def __init__(self, drift_margin: float) -> None:
        self._drift = drift_margin
        self._offset_ms: float | None = None
        self._asked_ms: float | None = None
        """When the oldest question was sent that has no answer."""
        self._due_ms = float("-inf")
        self._learned_ms = 0.0
        self._doubt_ms = 0.0
        """By how much the offset may be wrong for the slowness of the answer that it came from."""

    def at(self, now_ms: float) -> int:
        """Cluster time when our own clock shows `now_ms`; 0: not known yet."""
        return 0 if self._offset_ms is None else int(now_ms + self._offset_ms)

    def is_due(self, now_ms: float) -> bool:
        """Whether the manager is to be asked now."""
        return now_ms >= self._due_ms

    @property
    def due_ms(self) -> float:
        """When it is to be asked next."""
        return self._due_ms

    def asked(self, now_ms: float) -> None:
        """A question is being sent."""
        self._due_ms = now_ms + ASK_MS
        if self._asked_ms is None:
            self._asked_ms = now_ms

    def learn(self, cluster_ms: int, now_ms: float) -> None:
        """The manager's answer has come. 0: it does not know either."""
        sent_ms, self._asked_ms = self._asked_ms, None
        if sent_ms is None:
            return
        # Answers to questions asked meanwhile may still be on their way: none is to be taken for that to the next.
        self._due_ms = max(self._due_ms, now_ms + min(now_ms - sent_ms, STRAY_MS))
        if not cluster_ms:
            return
        lowest, highest = cluster_ms - now_ms, cluster_ms - sent_ms
        if self._offset_ms is None:
            self._offset_ms = lowest
            self._doubt_ms = highest - lowest
        else:
            off_ms = min(max(self._offset_ms, lowest), highest) - self._offset_ms
            most_ms = self._drift * (now_ms - self._learned_ms) + self._doubt_ms
            self._doubt_ms = min(self._doubt_ms, highest - lowest)
            self._offset_ms += min(max(off_ms, -most_ms), most_ms)
        self._learned_ms = now_ms
