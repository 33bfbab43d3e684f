"""How soon a process that ended is started again: at once if it ran for a while, ever later if it did not."""

from __future__ import annotations

__all__ = ["Backoff"]


class Backoff:
    """Of one process and its successors. Times are seconds of `time.monotonic`."""

    def __init__(self, first_s: float, limit_s: float, steady_s: float) -> None:
        """`first_s`: the delay after the second early end, doubled at each further one up to `limit_s`; an end is
        early less than `steady_s` after the start."""
        self._first_s = first_s
        self._limit_s = limit_s
        self._steady_s = steady_s
        self._started_s = 0.0
        self._next_s = 0.0

    def started(self, now_s: float) -> None:
        """It has just been started."""
        self._started_s = now_s

    def ended(self, now_s: float) -> float:
        """It has just ended: how many seconds to wait before it is started again."""
        if now_s - self._started_s >= self._steady_s:
            self._next_s = 0.0
        delay_s = self._next_s
        self._next_s = min(self._limit_s, max(self._first_s, 2 * delay_s))
        return delay_s
