"""A file that appears whole or not at all.

It is written as FILE.partial in the same directory, and takes FILE's name, and its place if there is a former FILE,
once everything is on the disk. Whoever writes holds a lock on FILE.partial, which the kernel gives back however he
ends: so two writers of one FILE do not meet, and what a killed one left behind is known to be nobody's.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter, FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from zkv.errors import UsageError

SUFFIX: Final = ".partial"
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class WholeFile:
    """FILE being written: a context manager. `keep` makes it appear; a block that is left without it leaves nothing.

    Raises UsageError where FILE is no plain file, or somebody else writes it; OSError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(path))  # of a symbolic link the target is replaced, not the link
        self.partial = self.path.with_name(self.path.name + SUFFIX)
        self._fd = -1
        self._stream: BufferedWriter | None = None

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"{self.path} is no plain file: name another, or write to standard output with -")
        try:
            with _undisturbed():
                self._fd = self._locked()
            self._stream = BufferedWriter(FileIO(self._fd, "wb", closefd=False), 2**20)
        except BaseException:  # a signal that waited, for one
            self._discard()
            raise
        return self

    def write(self, data: bytes) -> None:
        """Append `data`."""
        assert self._stream is not None
        self._stream.write(data)

    def keep(self) -> None:
        """All was written: bring it to the disk, and give it its name."""
        assert self._stream is not None
        self._stream.flush()
        os.fsync(self._fd)
        with _undisturbed():
            os.replace(self.partial, self.path)
            self._close()
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # or a crash of the machine may bring the former FILE back
        finally:
            os.close(directory)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def _discard(self) -> None:
        with _undisturbed():
            if self._fd >= 0:
                self.partial.unlink(missing_ok=True)  # before the lock is given up: later it may be another's
                self._close()

    def _locked(self) -> int:
        """FILE.partial, empty, ours alone."""
        while True:
            try:
                fd = os.open(self.partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise UsageError(f"{self.partial} cannot be written: {error.strerror}") from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(fd, self.partial):
                    os.ftruncate(fd, 0)
                    return fd
            except BlockingIOError:
                os.close(fd)
                raise UsageError(f"somebody else is writing {self.path}: wait for him, or name another file") from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its writer ended between the two steps, and took it away: once more

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        fd, self._fd = self._fd, -1
        if stream is not None:
            stream.raw.close()  # what it still buffers is not wanted; closefd=False leaves the descriptor alone
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    return stat.S_ISREG(opened.st_mode) and (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


@contextmanager
def _undisturbed() -> Iterator[Any]:
    """Signals that end a program wait until the block is over: nothing is left between its steps."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
