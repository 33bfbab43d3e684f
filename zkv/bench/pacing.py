"""When the calls of a load are due (pure).

In a *closed loop* a call is due when the one before has ended: a cluster that stands still for a second is asked
nothing in that second, and one slow call stands for the thousand that would have met the same (coordinated omission,
Gil Tene). In an *open loop* calls are due at a steady rate whatever the cluster does, and their latency counts from
that moment, also where the client could not begin in time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

SECOND_NS: Final = 1_000_000_000
GRACE_S: Final = 10.0
"""How long after its end an open loop still catches up with what was due before."""


class Due(NamedTuple):
    """One call."""

    at_ns: int
    """Of the monotonic clock; latency counts from here."""
    size: int
    """How many operations it is to have."""


class Pace(Iterator[Due]):
    """The calls of one client, one after the other, until it has done its part.

    It looks at the clock when it is asked, so ask when the call could begin. `skipped`: operations of an open loop that
    were due and were given up, `GRACE_S` after the end.
    """

    def __init__(
        self, began_ns: int, *, size: int, seconds: float | None = None, operations: int | None = None,
        per_s: float | None = None, shift: float = 0.0, clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        """`size`: operations of a call. `seconds` or `operations`: how much. `per_s`: operations a second that are due;
        None: a closed loop. `shift`: by which part of the time between two calls it begins later, so that several
        clients do not all call in the same moment."""
        assert (seconds is None) is not (operations is None), "seconds or operations"
        self._began_ns, self._size, self._clock = began_ns, size, clock
        self._interval_ns = None if per_s is None else size * SECOND_NS / per_s
        self._shift = shift
        self._calls = 0
        self._left = operations
        self._end_ns = math.inf if seconds is None else began_ns + seconds * SECOND_NS
        self.skipped = 0
        if self._interval_ns is not None:
            if seconds is not None:
                self._left = round(seconds * SECOND_NS / self._interval_ns) * size
            assert self._left is not None
            self._end_ns = began_ns + self._left / size * self._interval_ns + GRACE_S * SECOND_NS

    def __next__(self) -> Due:
        now_ns = self._clock()
        if self._left == 0:
            raise StopIteration
        if now_ns >= self._end_ns:
            if self._interval_ns is not None:
                assert self._left is not None
                self.skipped, self._left = self.skipped + self._left, 0
            raise StopIteration
        size = self._size if self._left is None else min(self._size, self._left)
        if self._left is not None:
            self._left -= size
        if self._interval_ns is None:
            return Due(now_ns, size)
        at_ns = self._began_ns + round((self._calls + self._shift) * self._interval_ns)
        self._calls += 1
        return Due(at_ns, size)


def share(total: int, parts: int, number: int) -> int:
    """How much the part `number` of `parts` gets of `total`: all parts together get all, and no two differ by more than
    one."""
    return total * (number + 1) // parts - total * number // parts
