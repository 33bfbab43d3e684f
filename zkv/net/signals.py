"""SIGTERM and SIGINT as something a poll loop can wait for."""

from __future__ import annotations

import signal
import socket
from types import FrameType, TracebackType
from typing import Self


class Termination:
    """A context in which SIGTERM and SIGINT set `asked` and make `fd` readable. Main thread only."""

    def __init__(self) -> None:
        self.asked = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.fd = self._reader.fileno()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __enter__(self) -> Self:
        self._former = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        self._former_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._reader.close()
        self._writer.close()
