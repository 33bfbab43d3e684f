"""The host of a blocking client: sockets and a clock around `zkv.core.client.client.ClientCore`, shared by threads.

There is no thread of its own. Of the threads that wait for results one *drives*: it polls, and takes turns of the core
for everybody. The others leave their operations in an inbox, wake the driver if it sleeps, and sleep until their
results are there, or until the driver, whose own call is done, passes the wheel to one of them. So a lone thread pays
for no other, and operations of many threads go out together because they wait together (the leader/followers pattern
of Schmidt et al., POSA2, with the batching of a group commit).

Between calls nothing runs: broadcasts wait in the subscription's queue and are read first when the next call begins;
should the queue have overflowed, a version gap shows and the map is pulled.
"""

from __future__ import annotations

import random
import socket
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import zmq

from zkv.core import wire
from zkv.core.client.calls import TIMED_OUT, Call, Failure
from zkv.core.client.client import ClientCore
from zkv.core.node.local import MANAGER, Address
from zkv.errors import ClosedError, UsageError
from zkv.net.clock import now_ms
from zkv.net.links import Context, Links

CALLS_LIMIT: Final = 100_000
"""Calls of one client under way."""


STALE_MS: Final = 20.0
"""After so long without a call, what came meanwhile is read before anything is sent."""


class ClientHost:
    """Sockets of one client, and the way out for what its core sends."""

    def __init__(self, manager: str, *, subscribe: bool, hedging: bool, sticky: bool) -> None:
        self.context: Context = zmq.Context()
        try:
            self.links = Links(self.context, manager)
        except zmq.ZMQError:
            self.context.destroy(linger=0)
            raise
        random_source = random.SystemRandom()
        self.core = ClientCore(
            random_source.randrange(2**32, 2**63), random.Random(random_source.randrange(2**63)), hedging=hedging,
            sticky=sticky,
        )  # fmt: skip
        self._subscribe = subscribe
        self._listening_to = ""
        self._map_version = 0

    def send(self, out: Sequence[tuple[Address, bytes]]) -> None:
        """Send what a step returned, on sockets that follow the map."""
        core = self.core
        if self._subscribe and core.map_endpoint != self._listening_to:
            self._listening_to = core.map_endpoint
            self.links.subscribe(core.map_endpoint)
        if core.map.version != self._map_version:
            self._map_version = core.map.version
            self.links.keep_only(set(core.map.members))
        for address, frame in out:
            assert isinstance(address, int)
            if address != MANAGER and not self.links.is_open(address):
                member = core.map.members.get(address)
                if member is None:
                    continue
                self.links.open(address, member.endpoint)
            self.links.send(address, frame)

    def close(self) -> None:
        """Close every socket."""
        self.links.close()
        self.context.destroy(linger=0)


H = TypeVar("H", bound=ClientHost)


def connected(kind: type[H], manager: str, **options: Any) -> H:
    """A host for a client of the cluster whose manager is there. Raises UsageError for what is no endpoint."""
    try:
        return kind(manager, **options)
    except zmq.ZMQError as error:
        raise UsageError(f"{manager!r} is not an endpoint: write tcp://HOST:PORT ({error.strerror})") from error


class _Waiter:
    """A call of one thread."""

    __slots__ = ("arguments", "call", "given_up", "promoted", "signal")

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments = arguments
        self.call: Call | None = None
        self.given_up = False
        """Its thread was interrupted, and waits no more."""
        self.promoted = False
        """Its thread is to drive from here on."""
        self.signal = threading.Lock()
        """Held while there is nothing to wake up for."""
        self.signal.acquire()

    @property
    def done(self) -> bool:
        return self.call is not None and self.call.done


class Connection(ClientHost):
    """Sockets that threads share."""

    def __init__(self, manager: str, **options: Any) -> None:
        super().__init__(manager, **options)
        self._driving = threading.Lock()
        """Held by the thread that drives."""
        self._waking = threading.Lock()
        """Held for the few steps in which a sleeping thread is woken or gives up."""
        self._inbox: deque[_Waiter] = deque()
        self._waiters: dict[Call, _Waiter] = {}
        """Calls under way."""
        self._polling = False
        """Whether the driver may be asleep."""
        self._polled_ms = float("-inf")
        """When a turn was taken last."""
        self._closing = False
        self._bell, self._ringer = socket.socketpair()
        self._bell_fd = self._bell.fileno()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self.links.poller.register(self._bell, zmq.POLLIN)

    def perform(
        self, op: int | bytes, keys: Sequence[Any], values: Sequence[Any] | None, operands: Sequence[int] | None,
        timeout_ms: float, ack: int = wire.ACK_DEFAULT,
    ) -> Call:  # fmt: skip
        """Run one call to its end: answers and failures. Called by any thread."""
        started_ms = now_ms()
        waiter = _Waiter((op, keys, values, started_ms, started_ms + timeout_ms, ack, operands))
        if len(self._waiters) + len(self._inbox) >= CALLS_LIMIT:
            raise UsageError(f"this client has {CALLS_LIMIT} calls under way already")
        self._inbox.append(waiter)
        if self._driving.acquire(blocking=False):
            self._drive(waiter)
        else:
            if self._polling:
                self._ring()
            # The driver may have left in between, without seeing what came into the inbox.
            if self._driving.acquire(blocking=False):
                self._drive(waiter)
            else:
                self._sleep(waiter)
        assert waiter.call is not None
        return waiter.call

    # --- the driver ------------------------------------------------------------------------------------------------

    def _drive(self, waiter: _Waiter) -> None:
        """Take turns until this thread's own call is done; then pass the wheel on."""
        try:
            started_ms = now_ms()
            # What waits since the last call, broadcasts above all, is looked at first, unless that was just now.
            self._turn(0.0 if started_ms - self._polled_ms > STALE_MS else None)
            while not waiter.done:
                self._turn(self.core.next_wake_ms - now_ms())
        except BaseException:
            waiter.given_up = True
            if waiter.call is not None:
                self.core.abandon(waiter.call)
                self._waiters.pop(waiter.call, None)
            raise
        finally:
            self._pass_on()

    def _turn(self, timeout_ms: float | None) -> None:
        """Wait for frames, at most so long (None: don't look at all), and take one step."""
        if self._closing:
            raise ClosedError("this client was closed meanwhile", outcome_unknown=True)
        frames: list[tuple[Address, bytes]] = []
        if timeout_ms is not None:
            self._polling = True
            # Whoever puts something into the inbox from here on rings; what is there by now must not wait.
            wait_ms = 0 if self._inbox or timeout_ms <= 0 else int(timeout_ms) + 1
            events = self.links.poller.poll(wait_ms)
            self._polling = False
            if events:
                self.links.drain(events, frames)
                if any(ready == self._bell_fd for ready, _ in events):
                    self._hush()
        while self._inbox:
            self._take(self._inbox.popleft())
        self._polled_ms = now_ms()
        self.send(self.core.step(frames, self._polled_ms))
        for call in self.core.finished:
            waiter = self._waiters.pop(call, None)
            if waiter is not None:
                waiter.signal.release()

    def _take(self, waiter: _Waiter) -> None:
        if waiter.given_up:
            if waiter.call is not None:
                self.core.abandon(waiter.call)
                self._waiters.pop(waiter.call, None)
            return
        waiter.call = self.core.submit(*waiter.arguments)
        self._waiters[waiter.call] = waiter

    def _pass_on(self) -> None:
        """Have another thread drive, if one waits; otherwise whoever comes next will."""
        while True:
            with self._waking:
                for waiter in (*self._waiters.values(), *self._inbox):
                    if not waiter.given_up and not waiter.promoted and not waiter.done:
                        waiter.promoted = True
                        waiter.signal.release()
                        return
            self._driving.release()
            # Somebody may have put something into the inbox, and found us still driving.
            if not any(not waiter.given_up for waiter in self._inbox) or not self._driving.acquire(blocking=False):
                return

    # --- those who sleep -------------------------------------------------------------------------------------------

    def _sleep(self, waiter: _Waiter) -> None:
        """Wait for the results, or for the wheel."""
        try:
            waiter.signal.acquire()
        except BaseException:
            with self._waking:
                waiter.given_up = True
                promoted = waiter.promoted
            if promoted:
                self._pass_on()
            else:
                self._inbox.append(waiter)  # the driver is to forget it
                self._ring()
            raise
        if not waiter.done:
            if self._closing and not waiter.promoted:
                raise ClosedError("this client was closed meanwhile", outcome_unknown=True)
            self._drive(waiter)
        elif waiter.promoted:
            self._pass_on()

    def _ring(self) -> None:
        try:
            self._ringer.send(b"\0")
        except BlockingIOError:
            pass  # it rings already

    def _hush(self) -> None:
        try:
            while len(self._bell.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def leave_to_parent(self) -> None:
        """In a forked child: let go of what can be let go of. The context and its sockets are the parent's."""
        self._bell.close()
        self._ringer.close()
        _of_parents.append(self)

    def close(self) -> None:
        """Close every socket, once nobody drives; calls under way in other threads end with ClosedError."""
        self._closing = True
        self._ring()
        with self._driving:
            for waiter in (*self._waiters.values(), *self._inbox):
                if not waiter.done and waiter.call is not None:
                    waiter.call.failures[0] = Failure(TIMED_OUT, "the client was closed meanwhile", unknown=True)
                    waiter.call.open = 0
                waiter.signal.release()
            self.links.poller.unregister(self._bell)
            self._bell.close()
            self._ringer.close()
            super().close()


_of_parents: Final[list[Connection]] = []
"""Kept for the life of a forked child: their destructors would wait for threads that only the parent has."""

__all__ = ["ClientHost", "Connection", "connected"]
