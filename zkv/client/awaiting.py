"""The asynchronous client: runs plans in an asyncio loop, plain or uvloop.

    async with AsyncClient("tcp://127.0.0.1:5550") as kv:
        await kv.put("key1", "value1")      # -> PutResult(version=…, server="server1")
        await kv.get("key1")                # -> "value1"
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from zkv.client.batches import AsyncPipeline
from zkv.client.coordination import AsyncLock, WaitOperations
from zkv.client.failures import outcome_of, request_of
from zkv.client.operations import Operations
from zkv.client.options import COUNTED, Configured, documented
from zkv.client.plans import Awaiting, LearnMap, Many, One, Pause, run_with
from zkv.client.results import DeleteResult, Key, PutResult
from zkv.client.scanning import ScanOperations
from zkv.errors import ClosedError
from zkv.net.aio import AsyncConnection, of_parents
from zkv.net.client import connected

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
            self, key: Key, value: Any, *, timeout_s: float | None = None, ack: str | None = None
        ) -> Coroutine[Any, Any, PutResult]: ...
        @overload
        def put(
            self, key: Key, value: Any, *, if_absent: bool = False, if_present: bool = False,
            if_version: int | None = None, timeout_s: float | None = None, ack: str | None = None,
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
        if connection is not None and connection.pid != os.getpid():
            of_parents.append(connection)  # two processes must not share sockets, nor an identity (SAFETY 24)
            connection = None
        if connection is None or connection.condemned:
            self._connection = connected(AsyncConnection, self.manager, **self._connection_options())
        assert self._connection is not None
        return self._connection

    async def _run(self, plan: Any) -> Any:
        """Run a plan to its end."""
        kind = type(plan)
        if kind is One or kind is Many or kind is LearnMap:
            connection = self._live()
            call = await connection.perform(*request_of(plan), 1000 * self._deadline_s(plan.timeout_s), plan.ack)
            return outcome_of(plan, call, connection.core.map, self.manager)
        if kind is Pause:
            return await asyncio.sleep(plan.seconds)
        return await self._walk(plan)

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


run_with(AsyncClient, AsyncClient._run)
__all__ = ["AsyncClient"]
