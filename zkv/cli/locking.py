"""A command that runs while a lock is held: what `zkv-client lock` does once it has the lock.

A thread renews the lock, the main thread waits for the command. A lock that could not
be renewed before its time ran out by our clock counts as lost, although perhaps nobody else has taken it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import click

from zkv.cli.options import Failure
from zkv.client.options import TIMEOUT_LIMIT_S
from zkv.errors import LockLost, ZkvError

if TYPE_CHECKING:
    from zkv.client import Client
    from zkv.client.coordination import Lock

TOKEN_VARIABLE: Final = "ZKV_LOCK_TOKEN"
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
"""As shells say it."""
RENEWALS: Final = 3
"""Renewals within a lock's lifetime: two may be slow, or fail."""
TRIES: Final = 20
"""Tries within a lock's lifetime while renewals fail."""
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP)
_HANDLED: Final = (*_PASSED_ON, signal.SIGINT)


class Outcome(NamedTuple):
    """How a command under a lock ended."""

    status: int
    """Of the command; 128 + number of the signal that ended it."""
    token: int
    lost: str
    """Why the lock was not held to the end, or nothing."""


def run_locked(kv: Client, lock: Lock, command: Sequence[str]) -> Outcome:
    """Run `command` while `lock`, which has been taken, is renewed; then give it back."""
    token = lock.token
    assert token is not None
    with _Signals() as signals:
        try:
            child = subprocess.Popen(command, env={**os.environ, TOKEN_VARIABLE: str(token)})
        except OSError as error:
            _release(lock)
            status = EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_EXECUTABLE
            raise Failure(f"{command[0]} cannot be run: {error.strerror}", status) from None
        signals.pass_to(child)
        keeper = _Keeper(kv, lock, child)
        keeper.start()
        status = child.wait()
        keeper.end()
        # Also where it may have been lost: if nobody has taken it nobody need wait for it.
        lost_at_last = _release(lock) if lock.token is not None else ""
    if lost_at_last and not keeper.lost:
        click.echo(lost_at_last, err=True)
    return Outcome(status if status >= 0 else 128 - status, token, keeper.lost or lost_at_last)


def _release(lock: Lock) -> str:
    """Give the lock back; returns why it had been lost, or nothing."""
    try:
        lock.release()
    except LockLost as error:
        return str(error)
    except ZkvError as error:
        click.echo(f"the lock could not be released, and stays for {lock.ttl_s:g} s: {error}", err=True)
    return ""


class _Keeper:
    """Renews a lock, in a thread; when it is lost whoever runs under it is told to end."""

    def __init__(self, kv: Client, lock: Lock, child: subprocess.Popen[bytes]) -> None:
        self._kv = kv
        self._lock = lock
        self._child = child
        self._timeout_s = kv.timeout_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self.lost = ""

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """No more renewals; one that is under way is waited for."""
        self._ended.set()
        self._thread.join()
        self._kv.timeout_s = self._timeout_s

    def _keep(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)  # the main thread sleeps, and only it can handle them
        ttl_s = self._lock.ttl_s
        until_s, pause_s = time.monotonic() + ttl_s, ttl_s / RENEWALS
        while not self._ended.wait(pause_s):
            started_s = time.monotonic()
            # Not longer than that: an answer that comes later is of no use.
            self._kv.timeout_s = min(max(until_s - started_s, 0.01), TIMEOUT_LIMIT_S)
            try:
                self._lock.renew()
                until_s, pause_s = started_s + ttl_s, ttl_s / RENEWALS
            except LockLost as error:
                self.lost = str(error)
            except ZkvError as error:
                pause_s = ttl_s / TRIES
                if not self._lock.held:
                    self.lost = f"the lock {self._lock.name!r} could not be renewed within its {ttl_s:g} s: {error}"
            if self.lost:
                click.echo(f"{self.lost}; the command is told to end", err=True)
                self._child.terminate()
                return


class _Signals:
    """While this lasts signals that would end this process go to its child instead, and it lives to see the child end.

    Ctrl-C is not passed on: the terminal sends it to the child as well.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    def pass_to(self, child: subprocess.Popen[bytes]) -> None:
        """Here is the child; it gets what came before it was there, too."""
        self._child = child
        for number in self._early:
            child.send_signal(number)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._child is None:
            self._early.append(number)
        elif number in _PASSED_ON:
            self._child.send_signal(number)

    def __enter__(self) -> Self:
        self._former = {number: signal.getsignal(number) for number in _HANDLED}
        for number, handler in self._former.items():
            if handler is not signal.SIG_IGN:  # what nohup ignores stays ignored
                signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
