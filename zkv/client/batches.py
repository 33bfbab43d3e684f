"""Pipelines: operations of any kind, queued and then sent together, one message a node, all nodes in parallel.

Operations on one key take effect in the order in which they were queued; those on different keys are independent of
each other, and nothing is rolled back: a pipeline saves round trips, it is no transaction.
"""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from zkv.client.arguments import ack_level
from zkv.client.failures import error_of
from zkv.client.operations import KeyOperations
from zkv.client.plans import Many, One, Queueing, run_with
from zkv.core import wire
from zkv.core.client.calls import Answer, Call
from zkv.core.shardmap import ShardMap
from zkv.errors import UsageError, ZkvError

T = TypeVar("T")


class Handle(Generic[T]):
    """The result of a queued operation, once the pipeline has been sent.

    >>> p = kv.pipeline()
    >>> visits = p.incr("visits")
    >>> visits
    <Handle: not sent>
    >>> p.execute()
    [1]
    >>> visits
    <Handle: 1>
    """

    __slots__ = ("_error", "_result", "_sent")

    def __init__(self) -> None:
        self._sent = False
        self._result: Any = None
        self._error: ZkvError | None = None

    def result(self) -> T:
        """What the operation returned, or raise its error. Raises UsageError before the pipeline was sent.

        >>> with kv.pipeline() as p:
        ...     visits = p.incr("visits")
        >>> visits.result()
        1
        """
        if not self._sent:
            raise UsageError("the pipeline has not been sent: results are there after its `with` block, or execute()")
        if self._error is not None:
            raise self._error
        return cast(T, self._result)

    def __repr__(self) -> str:
        if not self._sent:
            return "<Handle: not sent>"
        return f"<Handle: {self._error!r}>" if self._error is not None else f"<Handle: {self._result!r}>"


class Queue(KeyOperations, Queueing):
    """The operations of a pipeline, before they are sent. Its methods are those of a client on single keys, without
    deadlines and acknowledgement levels of their own; each returns a `Handle`."""

    def __init__(
        self, client: Any, timeout_s: float | None, ack: str | None, return_exceptions: bool
    ) -> None:
        self._client = client
        self._codec, self._numbers, self._read = client._codec, client._numbers, "primary"
        self._ack = wire.ACK_DEFAULT
        self._timeout_s = timeout_s
        self._pipeline_ack = client._ack if ack is None else ack_level(ack)
        self._return_exceptions = return_exceptions
        self._queued: list[tuple[One[Any], Handle[Any]]] = []
        self.results: list[Any] = []
        """Of the operations sent last, in their order; with `return_exceptions` errors stand in their places."""

    def __len__(self) -> int:
        """Operations queued and not sent."""
        return len(self._queued)

    def _enqueue(self, one: One[Any]) -> Handle[Any]:
        if one.timeout_s is not None or one.ack:
            raise UsageError("timeout_s and ack belong to the whole pipeline: pipeline(timeout_s=…, ack=…)")
        if one.op in wire.REPLICA_READS:
            raise UsageError("a pipeline reads at primaries: its operations on one key have an order")
        handle: Handle[Any] = Handle()
        self._queued.append((one, handle))
        return handle

    def _plan(self) -> Many[list[Any]]:
        """Everything queued as one call; the queue is empty then."""
        queued, self._queued = self._queued, []

        def finish(call: Call, shard_map: ShardMap) -> list[Any]:
            return self._finish(call, shard_map, queued)

        ones = [one for one, _ in queued]
        ttls = [one.ttl_ms for one in ones]
        conditions = any(one.operand is not None for one in ones)
        return Many(
            bytes(one.op for one in ones), [one.key for one in ones], finish, values=[one.value for one in ones],
            operands=[one.operand or 0 for one in ones] if conditions else None,
            timeout_s=self._timeout_s, ack=self._pipeline_ack, ttls=ttls if any(ttls) else None,
        )  # fmt: skip

    def _finish(self, call: Call, shard_map: ShardMap, queued: list[tuple[One[Any], Handle[Any]]]) -> list[Any]:
        """Give each handle its result or error; raises the first error unless they are to be returned."""
        self.results = results = []
        first: ZkvError | None = None
        for place, (answer, (one, handle)) in enumerate(zip(zip(*call.columns(), strict=True), queued, strict=True)):
            failure = call.failures.get(place)
            try:
                if failure is not None:
                    raise error_of(failure, self._client.manager)
                version, value, status, source = answer
                handle._result = one.finish(Answer(status, version, value, source), shard_map)
                results.append(handle._result)
            except ZkvError as error:
                handle._error = error
                first = first or error
                results.append(error)
            handle._sent = True
        if first is not None and not self._return_exceptions:
            raise first
        return results


run_with(Queue, Queue._enqueue)


class Pipeline(Queue):
    """A pipeline of a blocking client: sent at the end of its `with` block, or by `execute`.

    A block that is left by an exception sends nothing. `results`: of the operations sent last, in their order; with
    `return_exceptions` errors stand in their places. `len()`: operations that are queued and not sent.

    >>> with kv.pipeline() as p:
    ...     stored = p.put("x", 1)
    ...     total = p.incr("x", 5)
    ...     absent = p.get("no such key")
    >>> total.result(), p.results[1:]
    (6, [6, None])
    """

    def execute(self) -> list[Any]:
        """Send what is queued; returns the results in order. Raises the first error, unless errors are returned.

        >>> p = kv.pipeline()
        >>> for name in ("ada", "bob"):
        ...     handle = p.put(name, True)
        >>> len(p), [result.version > 0 for result in p.execute()], len(p)
        (2, [True, True], 0)
        """
        return cast("list[Any]", self._client._run(self._plan())) if self._queued else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.execute()


class AsyncPipeline(Queue):
    """A pipeline of an asynchronous client: sent at the end of its `async with` block, or by `await execute()`.

    >>> async def load():
    ...     async with AsyncClient(cluster.manager) as kv:
    ...         async with kv.pipeline() as p:
    ...             stored = p.put("x", 1)
    ...             total = p.incr("x", 5)
    ...         return total.result()
    >>> asyncio.run(load())
    6
    """

    def execute(self) -> Coroutine[Any, Any, list[Any]]:
        """Send what is queued; returns the results in order. Raises the first error, unless errors are returned.

        >>> async def load():
        ...     async with AsyncClient(cluster.manager) as kv:
        ...         p = kv.pipeline()
        ...         first, second = p.incr("n"), p.incr("n")
        ...         return await p.execute()
        >>> asyncio.run(load())
        [1, 2]
        """
        return self._execute()

    async def _execute(self) -> list[Any]:
        return cast("list[Any]", await self._client._run(self._plan())) if self._queued else []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.execute()
