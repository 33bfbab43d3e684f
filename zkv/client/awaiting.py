"""The asynchronous client: runs plans in an asyncio loop, plain or uvloop.

    async with AsyncClient("tcp://127.0.0.1:5550") as kv:
        await kv.put("key1", "value1")      # -> PutResult(version=…, server="server1")
        await kv.get("key1")                # -> "value1"
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from zkv.client.batches import AsyncPipeline
from zkv.client.coordination import AsyncLock, WaitOperations
from zkv.client.failures import call_of, outcome_of
from zkv.client.operations import Operations
from zkv.client.options import COUNTED, Configured, documented
from zkv.client.plans import AnyOf, Awaiting, Begin, GiveUp, LearnMap, Many, One, Pause, run_with
from zkv.client.results import DeleteResult, Entry, Key, PutResult
from zkv.client.scanning import ScanOperations, Walk
from zkv.client.watching import AsyncWatch
from zkv.core import wire
from zkv.core.shardmap import ShardMap
from zkv.errors import ClosedError, Unavailable
from zkv.net.aio import AsyncConnection
from zkv.net.client import connected
from zkv.net.clock import now_ms
from zkv.values import check_keys

if TYPE_CHECKING:
    from collections.abc import Coroutine


class AsyncClient(Configured, Operations, ScanOperations, WaitOperations, Awaiting):
    __doc__ = documented(
        """\
        A client of one cluster whose calls are awaited; the methods are those of `Client`.

        Shared by many coroutines: what they ask for in one round of the loop travels together. It belongs to the loop
        that it is first used in. A call that is cancelled may have been done.

        >>> async def main():
        ...     async with AsyncClient(cluster.manager) as kv:
        ...         await kv.put("color", "green")
        ...         return await asyncio.gather(kv.get("color"), kv.incr("visits"), kv.incr("visits"))
        >>> asyncio.run(main())
        ['green', 1, 2]
        """
    )

    _connection: AsyncConnection | None = None

    if TYPE_CHECKING:
        # What a condition changes in the type of the result cannot pass through `Operation`.

        @overload
        def put(
            self, key: Key, value: Any, *, ttl_s: float | None = None, timeout_s: float | None = None,
            ack: str | None = None,
        ) -> Coroutine[Any, Any, PutResult]: ...  # fmt: skip
        @overload
        def put(
            self, key: Key, value: Any, *, if_absent: bool = False, if_present: bool = False,
            if_version: int | None = None, ttl_s: float | None = None, timeout_s: float | None = None,
            ack: str | None = None,
        ) -> Coroutine[Any, Any, PutResult | None]: ...  # fmt: skip
        def put(self, key: Key, value: Any, **options: Any) -> Any: ...

        @overload  # type: ignore[override]
        def delete(
            self, key: Key, *, timeout_s: float | None = None, ack: str | None = None
        ) -> Coroutine[Any, Any, DeleteResult]: ...
        @overload
        def delete(
            self, key: Key, *, if_version: int, timeout_s: float | None = None, ack: str | None = None
        ) -> Coroutine[Any, Any, DeleteResult | None]: ...
        def delete(self, key: Key, **options: Any) -> Any: ...

    def pipeline(
        self, *, timeout_s: float | None = None, ack: str | None = None, return_exceptions: bool = False
    ) -> AsyncPipeline:
        """Queue operations, and send them together: one message a node, all nodes in parallel, results in order.

        Operations on one key take effect in their order. `return_exceptions`: errors stand in the places of results
        instead of the first being raised. `timeout_s`, `ack`: for all of it.

        >>> async def load():
        ...     async with AsyncClient(cluster.manager) as kv, kv.pipeline() as p:
        ...         number = p.incr("pages")
        ...     return number.result()
        >>> asyncio.run(load())
        1
        """
        return AsyncPipeline(self, timeout_s, ack, return_exceptions)

    def scan(self, prefix: Key = "", *, timeout_s: float | None = None) -> AsyncIterator[Entry]:
        """The entries whose keys begin with `prefix`, in no order, a page at a time. For `async for`.

        Every key that lives throughout is seen exactly once, whatever fails or moves meanwhile; those that come, go or
        change may be seen as they are or as they were. A str prefix finds str keys, a bytes prefix bytes keys.
        `timeout_s`: for each of the requests that it takes.

        >>> async def fruits():
        ...     async with AsyncClient(cluster.manager) as kv:
        ...         await kv.mput({"fruit:apple": 1, "fruit:pear": 2, "tool:saw": 3})
        ...         return sorted([(entry.key, entry.value) async for entry in kv.scan("fruit:")])
        >>> asyncio.run(fruits())
        [('fruit:apple', 1), ('fruit:pear', 2)]
        """
        check_keys((prefix,))
        return self._scan(Walk(wire.SCAN_ENTRIES, prefix, timeout_s))

    async def _scan(self, walk: Walk) -> AsyncIterator[Entry]:
        while not walk.over:
            for page in await self._walk_on(walk):
                for entry in self._entries(page):
                    yield entry

    def watch(self, prefix: Key = "", *, since: Mapping[str, Any] | None = None) -> AsyncWatch:
        """Watch the keys that begin with `prefix`: puts, deletes, expiries, evictions, as they take effect.

        Use it with `async with` and `async for`, or `await watch.poll(timeout_s)`; it begins where it is entered.
        `since`: the `position` of an earlier watch of the same cluster, to go on there.

        >>> async def first():
        ...     async with AsyncClient(cluster.manager) as kv, kv.watch("color") as events:
        ...         await kv.put("color", "green")
        ...         return await anext(events)
        >>> asyncio.run(first())
        Event(kind='put', key='color', value='green', version=...)
        """
        return AsyncWatch(self, prefix, since)

    def lock(self, name: str, ttl_s: float = 10.0) -> AsyncLock:
        """A lock with a lifetime and a fencing token, to be taken in an `async with` block, or by `acquire()`.

        Who holds it for longer than `ttl_s` calls `renew()` in time. What such a lock cannot promise, and what the
        token is for, stands in `zkv.client.coordination`.

        >>> async def nightly():
        ...     async with AsyncClient(cluster.manager) as kv, kv.lock("nightly", ttl_s=5) as lock:
        ...         return lock.held
        >>> asyncio.run(nightly())
        True
        """
        return AsyncLock(self, name, ttl_s)

    def stats(self) -> dict[str, int]:
        """What this client sent so far: "requests", "operations" in them, "retries", "hedges", "hedged operations".

        What has not happened yet has no entry.

        >>> async def count():
        ...     async with AsyncClient(cluster.manager) as kv:
        ...         await kv.mget(["a", "b", "c"])
        ...         return kv.stats()["operations"]
        >>> asyncio.run(count())
        3
        """
        counts = self._live().core.counts
        return {name: counts[name] for name in COUNTED}

    # --- life ------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the sockets. Further calls raise `ClosedError`, and so do those that are under way.

        >>> async def use_it_closed():
        ...     kv = AsyncClient(cluster.manager)
        ...     await kv.close()
        ...     await kv.get("color")
        >>> asyncio.run(use_it_closed())
        Traceback (most recent call last):
        zkv.errors.ClosedError: this client is closed
        """
        if not self._closed:
            self._closed = True
            if self._connection is not None:
                self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _live(self) -> AsyncConnection:
        if self._closed:
            raise ClosedError("this client is closed")
        connection = self._connection
        if connection is None or connection.condemned:
            connection = connected(AsyncConnection, self.manager, **self._connection_options())
            self._connection = connection
            _connected.add(self)
        return connection

    async def _run(self, plan: Any) -> Any:
        """Run a plan to its end."""
        kind = type(plan)
        if kind is One or kind is Many or kind is LearnMap:
            connection = self._live()
            call = call_of(plan, now_ms(), 1000 * self._deadline_s(plan.timeout_s))
            await connection.perform(call)
            return outcome_of(plan, call, connection.core.map, self.manager)
        if kind is Pause:
            return await asyncio.sleep(plan.seconds)
        if kind is AnyOf:
            return await self._any_of(plan)
        if kind is Begin:
            connection = self._live()
            return connection.begin(call_of(plan.plan, now_ms(), 1000 * self._deadline_s(plan.plan.timeout_s)))
        if kind is GiveUp:
            for one in plan.standing:
                one.home.give_up((one,))
            return None
        return await self._walk(plan)

    async def _any_of(self, plan: AnyOf) -> ShardMap:
        connection = self._live()
        if any(one.home is not connection for one in plan.standing):
            raise Unavailable("the connection of these calls is no more")
        await connection.wait_any(plan.standing, 1000 * plan.seconds)
        return connection.core.map

    async def _walk(self, steps: Generator[Any, Any, Any]) -> Any:
        """Run a procedure: each step is sent the outcome of the one before."""
        try:
            step = next(steps)
            while True:
                try:
                    outcome = await self._run(step)
                except Exception as error:  # noqa: BLE001 - the procedure may have an answer to it
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()  # now, and not when nobody remembers an interrupt any more


_connected: weakref.WeakSet[AsyncClient] = weakref.WeakSet()
_of_parents: list[AsyncConnection] = []
"""Connections of the process that this one was forked from, kept: their destructors belong there."""


def _leave_to_parent() -> None:
    """In a forked child: two processes must not share sockets, nor an identity (SAFETY 24)."""
    for client in list(_connected):
        if client._connection is not None:
            _of_parents.append(client._connection)
            client._connection = None


os.register_at_fork(after_in_child=_leave_to_parent)
run_with(AsyncClient, AsyncClient._run)
__all__ = ["AsyncClient"]
