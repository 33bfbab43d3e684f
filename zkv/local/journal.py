"""`launcher.log`: what the launcher did and saw, a line each; and the last line of any other process's log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Journal", "last_line"]


class Journal:
    """May be used from several threads: each line is one write."""

    def __init__(self, log: Path, aloud: Callable[[str], None]) -> None:
        self._log = log
        self._aloud = aloud

    def note(self, message: str) -> None:
        """Write a line to the log."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        # A full disk must not take the cluster down.
        with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as log:
            log.write(f"{stamp}.{int(now * 1000) % 1000:03d} launcher: {message}\n")

    def say(self, message: str) -> None:
        """The same, and tell whoever started the cluster."""
        self.note(message)
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._aloud(message)


def last_line(log: Path) -> str:
    """The last line that is not empty, which is where a process says why it ended; "" if there is none."""
    try:
        lines = log.read_bytes()[-4096:].decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
