"""The one clock of the protocol: milliseconds that count while the machine sleeps.

Leases and waits run on it (SAFETY 11). A clock that stops during a suspend would let a primary wake up, find
its lease unexpired by its own count and serve, long after its successor took over; so `time.monotonic`, which
stops on Linux, is the wrong one. The values of two machines are never compared (SAFETY 29).
"""

from __future__ import annotations

import time
from typing import Final

# Elsewhere (macOS) CLOCK_MONOTONIC is the one that counts through sleep, and `time.monotonic` is not that
# clock.
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ms() -> float:
    """Milliseconds since an arbitrary moment, never going back, sleep included."""
    return time.clock_gettime(_CLOCK) * 1000.0
