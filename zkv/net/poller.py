"""Waiting for sockets, at a cost that follows those that have something to say.

libzmq's own poll asks every socket before it sleeps and again when it wakes, a system call or two for each; with ten
sockets that is a tenth of the time of a whole round trip. Each ZeroMQ socket has a file descriptor, though, that
becomes readable when there is news for it. So here the descriptors are waited for, and only sockets whose descriptor
is readable are asked what they have.

The trap: the descriptor says that there is *news* (commands of the I/O thread), not that there are frames, and
whoever sends or receives on the socket may take the news in on the way. So a socket that was used since it was asked
has to be asked again before anybody sleeps: `poll` does so for all that it has handed out, and for all that `used`
names. Then: a socket that is not to be asked has nothing that its descriptor does not announce.
"""

from __future__ import annotations

import select
import time
from typing import Any, Final

import zmq
from zmq import zmq_poll

READABLE: Final = int(zmq.POLLIN)
WRITABLE: Final = int(zmq.POLLOUT)
"""Plain numbers: an `&` with a flag of an enum takes a microsecond, and there is one for each socket of each turn."""


class Poller:
    """As zmq.Poller, for one thread at a time."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._interest: dict[zmq.Socket[bytes], int] = {}
        """What is waited for, by ZeroMQ socket."""
        self._descriptors: dict[zmq.Socket[bytes], int] = {}
        self._sockets: dict[int, zmq.Socket[bytes]] = {}
        """By descriptor; a descriptor that is not in here is a file's of its own."""
        self._to_ask: dict[zmq.Socket[bytes], None] = {}

    @property
    def zmq_sockets(self) -> list[zmq.Socket[bytes]]:
        """The ZeroMQ sockets that are waited for."""
        return list(self._interest)

    def register(self, waited: Any, events: int = READABLE) -> None:
        """Wait for a ZeroMQ socket, or for a file (its descriptor, or an object that has one)."""
        if not isinstance(waited, zmq.Socket):
            self._poll.register(waited, select.POLLIN)
            return
        descriptor = self._descriptors[waited] = int(waited.getsockopt(zmq.FD))
        self._sockets[descriptor] = waited
        self._poll.register(descriptor, select.POLLIN)
        self.modify(waited, events)

    def modify(self, socket: zmq.Socket[bytes], events: int) -> None:
        """Wait for other events of it."""
        self._interest[socket] = events
        self._to_ask[socket] = None

    def unregister(self, waited: Any) -> None:
        """Wait for it no more. A ZeroMQ socket must not be closed before."""
        if not isinstance(waited, zmq.Socket):
            self._poll.unregister(waited)
            return
        descriptor = self._descriptors.pop(waited)
        self._poll.unregister(descriptor)
        del self._sockets[descriptor], self._interest[waited]
        self._to_ask.pop(waited, None)

    def used(self, socket: zmq.Socket[bytes]) -> None:
        """Something was sent through it."""
        self._to_ask[socket] = None

    def poll(self, timeout_ms: float) -> list[tuple[Any, int]]:
        """(socket or descriptor, events) of what is ready, after at most so long."""
        ends_s = time.monotonic() + timeout_ms / 1000
        while True:
            found = self._ask()
            ready = self._poll.poll(0 if found else timeout_ms)
            for descriptor, _ in ready:
                socket = self._sockets.get(descriptor)
                if socket is None:
                    found.append((descriptor, READABLE))
                else:
                    self._to_ask[socket] = None
            # What was found waits to be received, so its descriptor is not asked for once more.
            for socket, _ in found:
                self._to_ask.pop(socket, None)
            found += self._ask()
            for socket, _ in found:
                if socket in self._interest:
                    self._to_ask[socket] = None
            if found or timeout_ms <= 0:
                return found
            # News, and no frames: that happens, and is no reason to take a turn.
            timeout_ms = 1000 * (ends_s - time.monotonic())
            if not ready or timeout_ms <= 0:
                return found

    def _ask(self) -> list[tuple[Any, int]]:
        """What sockets have that may have something without their descriptors saying so."""
        if not self._to_ask:
            return []
        asked = [(socket, self._interest[socket]) for socket in self._to_ask]
        self._to_ask.clear()
        found: list[tuple[Any, int]] = zmq_poll(asked, 0)
        return found


def has_frames(socket: zmq.Socket[bytes]) -> bool:
    """Whether something waits at a socket that `poll` has handed out. A third of what it costs to try to receive, and
    to fail: most of the time there was one message."""
    return bool(zmq_poll([(socket, READABLE)], 0))
