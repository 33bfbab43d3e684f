"""Processes that an experiment starts itself, where `LocalCluster` does not do: other servers, nodes set up by hand.

They end with the `with` block however it is left, by Ctrl-C too, and with the experiment itself if that is killed.
Their output goes to one file each in a temporary directory, whose last lines are shown when one does not come up.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

READY_S: Final = 20.0
"""How long a process may take until it is ready."""
END_S: Final = 5.0
"""How long all of them together may take to end by themselves."""
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Children:
    """A context manager: the processes live within it. Use it in the main thread: the kernel ties a child's life to the
    thread that started it."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="experiment-")
        self.directory = Path(self._temporary.name)
        """For their files; it is removed at the end."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start one. `stdin`: whether it gets a pipe to be written to."""
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.directory, env=environment, pass_fds=pass_fds,
                process_group=0,  # Ctrl-C reaches the experiment alone, which ends them in order
                preexec_fn=_die_with_parent,
            )  # fmt: skip
        self._processes[name] = process
        return process

    def start_ready(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None, stdin: bool = False
    ) -> tuple[subprocess.Popen[bytes], str]:
        """Start one that takes `--ready-fd`; returns it with the line that it wrote there once it was ready."""
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb") as ready:
            try:
                full = [*command, "--ready-fd", str(theirs)]
                process = self.start(name, full, environment=environment, pass_fds=(theirs,), stdin=stdin)
            finally:
                os.close(theirs)
            readable, _, _ = select.select([ready], [], [], READY_S)
            line = ready.readline() if readable else b""
        if not line:
            raise self.failed(name)
        return process, line.decode().strip()

    def failed(self, name: str) -> RuntimeError:
        """What to raise when a process did not come up: the end of what it said."""
        last = self._log(name).read_text(errors="replace").splitlines()[-5:]
        return RuntimeError(f"{name} did not become ready; its last words: {' / '.join(last) or 'none'}")

    def close(self) -> None:
        """End them all, those that do not end by themselves by SIGKILL; returns when none is left."""
        for process in self._processes.values():
            process.terminate()
        deadline_s = time.monotonic() + END_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
        self._processes.clear()
        self._temporary.cleanup()

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"
