"""The host of a blocking client: sockets and a clock around `zkv.core.client.client.ClientCore`, shared by threads.

There is no thread of its own. Of the threads that wait for results one has the *wheel*: it polls, and takes turns of
the core for everybody. The others leave their operations in an inbox, wake the driver if it sleeps, and sleep until
their results are there, or until the driver, whose own call is done, wakes one of them to take the wheel. So a lone
thread pays for no other, and operations of many threads go out together because they wait together (the
leader/followers pattern of Schmidt et al., POSA2, with the batching of a group commit).

A call may also be left *standing*: whoever began it comes back for the answer when he likes, and waits for any of
several at a time, as a watch does. What is answered while nobody waits lies in its socket.

A signal handler may raise at any line. Therefore the wheel names its owner and is taken and freed in one step each; who
leaves does so twice, in case the first time is interrupted; sleepers look after themselves now and then; and an
exception in the middle of a turn condemns the whole connection, as nobody knows what state its core is in.

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

from zkv.core.client.calls import Call
from zkv.core.client.client import ClientCore
from zkv.core.node.local import MANAGER, Address
from zkv.errors import ClosedError, TimedOut, Unavailable, UsageError
from zkv.net.clock import now_ms
from zkv.net.links import Context, Links

CALLS_LIMIT: Final = 100_000
"""Calls of one client under way."""


TICK_S: Final = 0.25
"""A sleeping thread looks at least so often whether it was forgotten."""
GRACE_MS: Final = 2000.0
"""A call whose deadline has passed for so long, and that nobody ended, is given up by its own thread."""
CROWD: Final = 4
"""With so many calls under way nobody rings: answers come all the time, and whoever came in between leaves together."""
CROWD_MS: Final = 1
"""The driver of a crowd looks into the inbox at least so often."""
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


class Standing:
    """A call that is to be made, is under way, or is done."""

    __slots__ = ("call", "given_up", "heard", "home")

    def __init__(self, home: Connection, call: Call | None) -> None:
        self.home = home
        self.call = call
        """None: of a thread that waits for something else."""
        self.heard = False
        """Whether the driver has taken it from the inbox."""
        self.given_up = False
        """Nobody wants it any more."""

    @property
    def done(self) -> bool:
        """Whether its results are there."""
        return self.call is not None and self.call.done


class _Waiter(Standing):
    """A call of one thread, which waits for it."""

    __slots__ = ("deadline_ms", "gone", "signal", "thread")

    def __init__(self, home: Connection, call: Call | None, deadline_ms: float) -> None:
        super().__init__(home, call)
        self.deadline_ms = deadline_ms
        self.thread = threading.get_ident()
        self.gone = False
        """Whether its thread has left, and seen to the others."""
        self.signal = threading.Lock()
        """Held while there is nothing to wake up for."""
        self.signal.acquire()

    @property
    def unheard(self) -> bool:
        """Whether the driver has yet to look into the inbox for it."""
        return not self.heard

    def wake(self) -> None:
        """Have its thread look again."""
        try:
            self.signal.release()
        except RuntimeError:
            pass  # it is awake


class _Watcher(_Waiter):
    """A thread that waits for any of several standing calls, until a time."""

    __slots__ = ("standing",)

    def __init__(self, home: Connection, standing: Sequence[Standing], until_ms: float) -> None:
        super().__init__(home, None, until_ms)
        self.standing = standing

    @property
    def done(self) -> bool:
        """Whether there is something to look at, or the time is over."""
        return any(one.done or one.given_up for one in self.standing) or now_ms() >= self.deadline_ms

    @property
    def unheard(self) -> bool:
        return any(not one.heard for one in self.standing)


class Connection(ClientHost):
    """Sockets that threads share."""

    def __init__(self, manager: str, **options: Any) -> None:
        super().__init__(manager, **options)
        self._wheel: dict[int, _Waiter] = {}
        """At 0 the one that drives; setdefault takes it, and pop frees it, in one step that nothing can interrupt."""
        self._inbox: deque[Standing] = deque()
        self._waiters: dict[Call, _Waiter] = {}
        """Calls under way. Changed by the driver alone."""
        self._standing: dict[Call, Standing] = {}
        """Standing calls under way. Changed by the driver alone."""
        self._watchers: dict[_Watcher, None] = {}
        """Threads that wait for standing calls."""
        self._polling = False
        """Whether the driver may be asleep."""
        self._in_turn = False
        """Whether the core and its sockets are between two states."""
        self._polled_ms = float("-inf")
        """When a turn was taken last."""
        self._closing = False
        self._shut = False
        self.condemned = False
        """Whether an exception ended a turn in its middle: this connection is of no more use."""
        self._bell, self._ringer = socket.socketpair()
        self._bell_fd = self._bell.fileno()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self.links.poller.register(self._bell)

    def perform(self, call: Call) -> None:
        """Run a call to its end: answers and failures. Called by any thread.

        Raises ClosedError if the client is closed meanwhile, Unavailable if the connection is condemned.
        """
        self._check_admission()
        waiter = _Waiter(self, call, call.deadline_ms)
        try:
            try:
                self._inbox.append(waiter)
                while not waiter.done:
                    if self._wheel.setdefault(0, waiter) is waiter:
                        self._drive(waiter)
                    else:
                        self._sleep(waiter)
            finally:
                self._leave(waiter)
        finally:
            if not waiter.gone:
                self._leave(waiter)  # again: a signal ended the first

    # --- standing calls --------------------------------------------------------------------------------------------

    def begin(self, call: Call) -> Standing:
        """Begin a call and return. It is sent when a thread next waits for something, this call or another."""
        self._check_admission()
        one = Standing(self, call)
        self._inbox.append(one)
        return one

    def wait_any(self, standing: Sequence[Standing], timeout_ms: float) -> None:
        """Wait until one of these calls is done or given up, or the time has passed. Called by any thread.

        An interrupt leaves the calls standing. Raises ClosedError if the client is closed meanwhile, Unavailable if the
        connection is condemned: the calls are lost then.
        """
        self._check_admission()
        if any(one.done for one in standing):
            return
        watcher = _Watcher(self, standing, now_ms() + timeout_ms)
        try:
            try:
                self._watchers[watcher] = None
                while True:
                    if self._wheel.setdefault(0, watcher) is watcher:
                        self._drive(watcher)
                    else:
                        self._sleep(watcher)
                    if watcher.done:
                        break
            finally:
                self._leave(watcher)
        finally:
            if not watcher.gone:
                self._leave(watcher)  # again: a signal ended the first

    def give_up(self, standing: Sequence[Standing]) -> None:
        """Nobody wants these calls any more: the next turn forgets them, and whoever waits for one waits no more."""
        for one in standing:
            if not one.given_up:
                one.given_up = True
                self._inbox.append(one)
        for watcher in list(self._watchers):
            watcher.wake()
        if self._polling:
            self._ring()

    def _check_admission(self) -> None:
        """Raise UsageError where no call can be begun."""
        if self._is_mine():
            raise UsageError("a signal handler cannot use the client whose call it interrupted")
        if len(self._waiters) + len(self._standing) + len(self._inbox) >= CALLS_LIMIT:
            raise UsageError(f"this client has {CALLS_LIMIT} calls under way already")

    def _is_mine(self) -> bool:
        """Whether this very thread drives: then this is a signal handler, or a finalizer."""
        driver = self._wheel.get(0)
        return driver is not None and driver.thread == threading.get_ident()

    # --- the driver ------------------------------------------------------------------------------------------------

    def _drive(self, waiter: _Waiter) -> None:
        """Take turns until this thread's own call is done."""
        # What waits since the last call, broadcasts above all, is looked at first, unless that was just now. Answers to
        # standing calls wait, too.
        look = now_ms() - self._polled_ms > STALE_MS or type(waiter) is _Watcher
        self._turn(0.0 if look else None)
        while not waiter.done:
            self._turn(min(self.core.next_wake_ms, waiter.deadline_ms) - now_ms())

    def _turn(self, timeout_ms: float | None) -> None:
        """Wait for frames, at most so long (None: don't look at all), and take one step."""
        self._check()
        events = []
        if timeout_ms is not None:
            self._polling = True
            # Whoever puts something into the inbox from here on rings, or is one of a crowd; what is there by now must
            # not wait.
            wait_ms = 0 if self._inbox or timeout_ms <= 0 else int(timeout_ms) + 1
            if len(self._waiters) >= CROWD:
                wait_ms = min(wait_ms, CROWD_MS)
            events = self.links.poller.poll(wait_ms)
            self._polling = False
        self._in_turn = True
        frames: list[tuple[Address, bytes]] = []
        if events:
            self.links.drain(events, frames)
            if any(ready == self._bell_fd for ready, _ in events):
                self._hush()
        while self._inbox:
            self._take(self._inbox.popleft())
        self._polled_ms = now_ms()
        self.send(self.core.step(frames, self._polled_ms))
        for call in self.core.finished:
            ended = self._waiters.pop(call, None)
            if ended is not None:
                ended.wake()
            elif self._standing.pop(call, None) is not None:
                for watcher in list(self._watchers):
                    watcher.wake()
        self._in_turn = False

    def _take(self, one: Standing) -> None:
        """Start a call, or forget one that nobody wants."""
        call = one.call
        assert call is not None
        if one.given_up:
            if one.heard:
                self.core.abandon(call)
                self._waiters.pop(call, None)
                self._standing.pop(call, None)
        elif not one.heard:
            one.heard = True
            self.core.submit(call)
            if isinstance(one, _Waiter):
                self._waiters[call] = one
            else:
                self._standing[call] = one

    def _check(self) -> None:
        """Raise where no turn may be taken any more."""
        if self._closing:
            raise ClosedError("this client was closed meanwhile", outcome_unknown=True)
        if self.condemned:
            raise Unavailable("another thread was interrupted in the middle of the connection", outcome_unknown=True)

    def _leave(self, waiter: _Waiter) -> None:
        """This thread is through: free the wheel if it has it, and have another take it."""
        if isinstance(waiter, _Watcher):
            self._watchers.pop(waiter, None)
        elif not waiter.done and not waiter.given_up:
            waiter.given_up = True
            self._inbox.append(waiter)  # the driver is to forget it
        if self._wheel.get(0) is not waiter:
            waiter.gone = True
            return
        if self._in_turn:
            self.condemned = True
        self._polling = False
        if self._closing or self.condemned:
            self._close_sockets()
            sleepers = [*self._waiters.values(), *_waiters_in(self._inbox), *list(self._watchers)]
        else:
            sleepers = [one for one in list(self._waiters.values()) if not one.done and not one.given_up][:1]
        self._wheel.pop(0, None)
        # Somebody may have put something into the inbox, or begun to watch, and found us still driving.
        if sleepers or self._inbox or self._watchers:
            newcomers = [one for one in _waiters_in(self._inbox) if not one.given_up]
            for other in (*sleepers, *newcomers[:1], *list(self._watchers)[:1]):
                other.wake()
        waiter.gone = True

    # --- those who sleep -------------------------------------------------------------------------------------------

    def _sleep(self, waiter: _Waiter) -> None:
        """Wait for the results, or for the wheel to be free, or look again in a while."""
        self._check()
        if self._polling and waiter.unheard and len(self._waiters) < CROWD:
            self._ring()
        left_ms = waiter.deadline_ms - now_ms()
        if isinstance(waiter, _Watcher):
            waiter.signal.acquire(timeout=min(TICK_S, max(left_ms, 0.0) / 1000))
            return
        if left_ms < -GRACE_MS:
            raise TimedOut("no answer, and nobody ended this call in time")
        waiter.signal.acquire(timeout=TICK_S)

    def _ring(self) -> None:
        try:
            self._ringer.send(b"\0")
        except OSError:
            pass  # it rings already, or is closed by now

    def _hush(self) -> None:
        try:
            while len(self._bell.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    # --- the end ---------------------------------------------------------------------------------------------------

    def leave_to_parent(self) -> None:
        """In a forked child: let go of what can be let go of. The context and its sockets are the parent's."""
        self._bell.close()
        self._ringer.close()
        _of_parents.append(self)

    def close(self) -> None:
        """Close every socket; calls under way in other threads end with ClosedError."""
        self._closing = True
        if self._is_mine():
            return  # the call that this interrupted closes them on its way out
        closer = _Waiter(self, None, now_ms())
        closer.given_up = True
        while self._wheel.setdefault(0, closer) is not closer:
            self._ring()
            closer.signal.acquire(timeout=0.01)
        try:
            self._leave(closer)
        finally:
            self._leave(closer)

    def _close_sockets(self) -> None:
        """Once, by whoever has the wheel."""
        if not self._shut:
            self._shut = True
            self._ring()
            self.links.poller.unregister(self._bell)
            self._bell.close()
            self._ringer.close()
            super().close()


def _waiters_in(inbox: deque[Standing]) -> list[_Waiter]:
    """Those in the inbox whose threads wait for them."""
    return [one for one in tuple(inbox) if isinstance(one, _Waiter)]


_of_parents: Final[list[Connection]] = []
"""Kept for the life of a forked child: their destructors would wait for threads that only the parent has."""

__all__ = ["ClientHost", "Connection", "Standing", "connected"]
