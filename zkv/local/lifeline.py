"""Whether the launcher that started this process still lives.

On Linux the kernel kills a launcher's children with it (see `zkv.local.processes`). Elsewhere a child has to look:
a node or manager that calls `parent_is_gone` now and then, and ends when it is true, leaves no orphan either.
"""

from __future__ import annotations

import os
from typing import Final

PARENT_PID_ENV: Final = "ZKV_PARENT_PID"
"""Set by a launcher for its children: its own process id. A process that nobody launched does not have it."""


def _parent_pid() -> int:
    text = os.environ.get(PARENT_PID_ENV, "")
    return int(text) if text.isascii() and text.isdigit() else 0


_PARENT_PID: Final = _parent_pid()


def parent_is_gone() -> bool:
    """True if a launcher started this process and has ended since. One system call; False if nobody launched it."""
    return _PARENT_PID != 0 and os.getppid() != _PARENT_PID
