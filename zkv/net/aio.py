"""The host of an asynchronous client: sockets and a clock around the core, in an asyncio loop, plain or uvloop.

One turn serves all coroutines: what they ask for in one round of the loop goes out together at its end. ZeroMQ's file
descriptors are edge-triggered, they say "something changed" and not "there is something": after each wake-up the
sockets are asked themselves, until none has anything more (zmq.asyncio, which does it per socket and operation, is five
times slower).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import zmq

from zkv.core.client.calls import Call
from zkv.core.node.local import Address
from zkv.errors import ClosedError, Unavailable, UsageError, ZkvError
from zkv.net.client import CALLS_LIMIT, ClientHost
from zkv.net.clock import now_ms

ROUNDS: Final = 8
"""Turns taken in a row while frames keep coming; then the loop's other work has its turn."""
TIMER_MAX_MS: Final = 60_000.0


class AsyncStanding:
    """A call that is under way, or done, and that nobody need wait for."""

    __slots__ = ("call", "home")

    def __init__(self, home: AsyncConnection, call: Call) -> None:
        self.home = home
        self.call = call

    @property
    def done(self) -> bool:
        """Whether its results are there."""
        return self.call.done


class AsyncConnection(ClientHost):
    """Sockets of one loop. Each call has a future for its `waiter`, which is set when nothing more will come."""

    def __init__(self, manager: str, **options: Any) -> None:
        super().__init__(manager, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched: dict[Any, int] = {}
        """Socket -> file descriptor that the loop watches."""
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0.0
        """When it goes off."""
        self._closed = False
        self.condemned = False
        """Whether an exception ended a turn in its middle."""

    async def perform(self, call: Call) -> None:
        """Run a call to its end: answers and failures."""
        self._start(call)
        try:
            await call.waiter
        except asyncio.CancelledError:
            self._forget(call)
            raise

    def begin(self, call: Call) -> AsyncStanding:
        """Begin a call and return; the loop sees to it."""
        self._start(call)

        def over(future: asyncio.Future[None]) -> None:
            if not future.cancelled():
                future.exception()  # looked at: the loop need not warn of what nobody waited for

        call.waiter.add_done_callback(over)
        return AsyncStanding(self, call)

    def _start(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._attach(loop)
        core = self.core
        if len(core.calls) >= CALLS_LIMIT:
            raise UsageError(f"this client has {CALLS_LIMIT} calls under way already")
        call.waiter = loop.create_future()  # first: an interrupt must not leave the core a call without one
        core.submit(call)
        if not self._scheduled:
            self._schedule()

    def _forget(self, call: Call) -> None:
        """Whoever waited for this call does so no longer."""
        if not call.done:
            self.core.abandon(call)

    async def wait_any(self, standing: Sequence[AsyncStanding], timeout_ms: float) -> None:
        """Wait until one of these calls is done or given up, or the time has passed. A cancellation leaves them
        standing.

        Raises ClosedError if the client is closed meanwhile, Unavailable if the connection, or its loop, is no more:
        the calls are lost then.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._attach(loop)
        if any(one.done for one in standing):
            return
        futures = {one.call.waiter for one in standing}
        if any(future.get_loop() is not loop for future in futures):
            raise Unavailable("these calls were begun in another event loop")
        if not futures:
            await asyncio.sleep(timeout_ms / 1000)
            return
        ended, _ = await asyncio.wait(futures, timeout=timeout_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
        for future in ended:
            if not future.cancelled() and isinstance(error := future.exception(), ZkvError):
                raise error

    def give_up(self, standing: Sequence[AsyncStanding]) -> None:
        """Nobody wants these calls any more: whoever waits for one does so no longer."""
        for one in standing:
            self._forget(one.call)
            if not one.call.waiter.get_loop().is_closed():
                one.call.waiter.cancel()

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and not self._loop.is_closed():
            raise UsageError("this client belongs to another event loop: make one for each loop")
        self._loop = loop
        # A loop that is closed watches nothing any more, and nobody waits in it.
        self._watched.clear()
        self._scheduled, self._timer = False, None
        for call in list(self.core.calls):
            self.core.abandon(call)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            assert self._loop is not None
            self._loop.call_soon(self._turns)

    def _turns(self) -> None:
        """Take turns until no socket has anything more to say."""
        self._scheduled = False
        if self._closed:
            return
        try:
            self._take_turns()
        except BaseException as error:
            # Nobody knows what state the core is in: it is of no more use.
            self.condemned = True
            for call in (*self.core.calls, *self.core.finished):
                if not call.waiter.done():
                    failure = Unavailable("the connection failed in the middle of a turn", outcome_unknown=True)
                    failure.__cause__ = error
                    call.waiter.set_exception(failure)
            self.close()
            raise

    def _take_turns(self) -> None:
        poll, drain, core = self.links.poller.poll, self.links.drain, self.core
        first = True
        for _ in range(ROUNDS):
            events = poll(0)
            if not events and not first:
                break
            first = False
            frames: list[tuple[Address, bytes]] = []
            drain(events, frames)
            self.send(core.step(frames, now_ms()))
            for call in core.finished:
                if not call.waiter.done():
                    call.waiter.set_result(None)
        else:
            self._schedule()
        self._watch()
        self._set_timer()

    def _watch(self) -> None:
        """Have the loop watch the sockets that there are now."""
        sockets = self.links.poller.zmq_sockets
        if len(sockets) == len(self._watched) and all(socket in self._watched for socket in sockets):
            return
        assert self._loop is not None
        for gone in self._watched.keys() - set(sockets):
            self._loop.remove_reader(self._watched.pop(gone))
        for socket in sockets:
            if socket not in self._watched:
                descriptor = self._watched[socket] = int(socket.getsockopt(zmq.FD))
                self._loop.add_reader(descriptor, self._schedule)

    def _set_timer(self) -> None:
        """Wake up when the core wants to, while somebody waits. A timer that is early stays: to be woken once for
        nothing costs less than a new timer for each turn."""
        due_ms = self.core.next_wake_ms
        if self._scheduled or not self.core.calls or (self._timer is not None and self._timer_ms <= due_ms):
            return
        if self._timer is not None:
            self._timer.cancel()
        assert self._loop is not None
        delay_ms = min(max(0.0, due_ms - now_ms()), TIMER_MAX_MS)
        self._timer_ms = now_ms() + delay_ms
        self._timer = self._loop.call_later(delay_ms / 1000, self._wake)

    def _wake(self) -> None:
        """The timer went off."""
        self._timer = None
        if self.core.calls:
            self._schedule()

    def close(self) -> None:
        """Close every socket; calls under way end with ClosedError."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and not self._loop.is_closed():
            for descriptor in self._watched.values():
                self._loop.remove_reader(descriptor)
            for call in self.core.calls:
                if not call.waiter.done():
                    call.waiter.set_exception(ClosedError("this client was closed meanwhile", outcome_unknown=True))
        super().close()
