"""TCP probes: does anything still listen on a node's own port? (SAFETY 32)

A refused connection proves that the process which bound the port is gone, since a server that lives keeps its
listener. That holds where nobody in between can refuse in its name, so only addresses of this machine are
probed: a firewall refuses too. A connection that succeeds proves nothing: the kernel accepts for a stopped
process.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Final

from zkv.core.settings import split_endpoint
from zkv.errors import SettingError

TIMEOUT_MS: Final = 1000.0


class Probes:
    """Connection attempts under way. The owner polls `sockets()` for writing and then calls `collect`."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[socket.socket, float]] = {}
        self._done: list[tuple[int, bool]] = []
        self._local: dict[str, bool] = {}

    def start(self, boot: int, endpoint: str, now_ms: float) -> None:
        """Begin to connect, unless an attempt for `boot` is under way or the endpoint is on another
        machine."""
        try:
            host, port = split_endpoint(endpoint)
        except SettingError:
            return
        host = "127.0.0.1" if host == "localhost" else host
        if boot in self._running or not self._is_local(host):
            return
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            attempt = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            return  # out of descriptors: no proof, no harm
        attempt.setblocking(False)
        result = attempt.connect_ex((host, port))
        if result in (errno.EINPROGRESS, errno.EAGAIN):
            self._running[boot] = (attempt, now_ms + TIMEOUT_MS)
        else:
            attempt.close()
            self._done.append((boot, result == errno.ECONNREFUSED))

    def sockets(self) -> list[socket.socket]:
        """Attempts that are under way: writable when decided."""
        return [attempt for attempt, _ in self._running.values()]

    @property
    def waiting(self) -> bool:
        """Whether `collect` has something at once."""
        return bool(self._done)

    def collect(self, now_ms: float, decided: set[int]) -> list[tuple[int, bool]]:
        """(boot, whether it was refused) of attempts that ended; `decided`: descriptors found writable."""
        done, self._done = self._done, []
        for boot, (attempt, deadline_ms) in list(self._running.items()):
            if attempt.fileno() in decided:
                done.append((boot, attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED))
            elif now_ms < deadline_ms:
                continue
            attempt.close()
            del self._running[boot]
        return done

    def close(self) -> None:
        """Give up what is under way."""
        for attempt, _ in self._running.values():
            attempt.close()
        self._running.clear()

    def _is_local(self, host: str) -> bool:
        """Whether `host`, a literal address, is one of this machine. Names are not: looking them up would
        block."""
        known = self._local.get(host)
        if known is None:
            known = self._local[host] = _is_bindable(host)
        return known


def _is_bindable(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    try:
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as test:
            test.bind((host, 0))
    except OSError:
        return False
    return True
