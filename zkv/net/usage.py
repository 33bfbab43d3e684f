"""How busy this process is, how much memory it and its machine have: what a heartbeat says beside the core's counts.

Busy is the part of the time that was not spent waiting in poll(): a loop that never waits is at its limit, whatever
the machine's other processes do.
"""

from __future__ import annotations

import os
from typing import Final

from zkv.core.load import Load

EVERY_MS: Final = 1000.0


class Usage:
    """Measured once a second. `measured` before each wait, `woke` after it."""

    def __init__(self, now_ms: float) -> None:
        self._since_ms = self._slept_from_ms = now_ms
        self._slept_ms = 0.0
        self._load = Load()
        self._measure_memory(0)

    def measured(self, now_ms: float) -> Load:
        """The newest figures; a wait begins now."""
        self._slept_from_ms = now_ms
        elapsed_ms = now_ms - self._since_ms
        if elapsed_ms >= EVERY_MS:
            self._measure_memory(round(1000 * max(0.0, 1 - self._slept_ms / elapsed_ms)))
            self._since_ms, self._slept_ms = now_ms, 0.0
        return self._load

    def woke(self, now_ms: float) -> None:
        """The wait is over."""
        self._slept_ms += now_ms - self._slept_from_ms

    def _measure_memory(self, busy_permille: int) -> None:
        self._load = Load(busy_permille=busy_permille, rss_bytes=_rss_bytes(), free_bytes=_free_bytes())


def _rss_bytes() -> int:
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0  # not Linux


def _free_bytes() -> int:
    try:
        with open("/proc/meminfo") as meminfo:
            return next((int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")), 0)
    except (OSError, ValueError):
        return 0
