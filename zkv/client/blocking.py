"""The blocking client: runs plans in the thread that asks.

    with Client("tcp://127.0.0.1:5550") as kv:
        kv.put("key1", "value1")      # -> PutResult(version=…, server="server1")
        kv.get("key1")                # -> "value1"
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from zkv.client.batches import Pipeline
from zkv.client.coordination import Lock, WaitOperations
from zkv.client.failures import call_of, outcome_of
from zkv.client.operations import Operations
from zkv.client.options import COUNTED, Configured, documented
from zkv.client.plans import AnyOf, Begin, Blocking, GiveUp, LearnMap, Many, One, Pause, run_with
from zkv.client.results import DeleteResult, Entry, Key, PutResult
from zkv.client.scanning import ScanOperations, Walk
from zkv.client.watching import Watch
from zkv.core import wire
from zkv.core.settings import DEFAULT_MANAGER
from zkv.core.shardmap import ShardMap
from zkv.errors import ClosedError, Unavailable
from zkv.net.client import Connection, connected
from zkv.net.clock import now_ms
from zkv.values import check_keys


class Client(Configured, Operations, ScanOperations, WaitOperations, Blocking):
    __doc__ = documented(
        """\
        A client of one cluster whose calls block.

        Safe to share between threads: operations that wait for one node at the same time travel together. Safe to use
        after a fork: the child has a connection and an identity of its own.

        >>> with Client(cluster.manager, timeout_s=2.5) as client:
        ...     client.incr("visits")
        1
        """
    )

    def __init__(
        self, manager: str = DEFAULT_MANAGER, timeout_s: float = 5.0, *, read: str = "primary", hedge: bool = False,
        sticky: bool = False, ack: str | None = None, raw: bool = False, subscribe: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            manager, timeout_s, read=read, hedge=hedge, sticky=sticky, ack=ack, raw=raw, subscribe=subscribe
        )
        self._lock = threading.Lock()
        self._connection: Connection | None = self._connect()
        _clients.add(self)

    if TYPE_CHECKING:
        # What a condition changes in the type of the result cannot pass through `Operation`.

        @overload
        def put(
            self, key: Key, value: Any, *, ttl_s: float | None = None, timeout_s: float | None = None,
            ack: str | None = None,
        ) -> PutResult: ...  # fmt: skip
        @overload
        def put(
            self, key: Key, value: Any, *, if_absent: bool = False, if_present: bool = False,
            if_version: int | None = None, ttl_s: float | None = None, timeout_s: float | None = None,
            ack: str | None = None,
        ) -> PutResult | None: ...  # fmt: skip
        def put(self, key: Key, value: Any, **options: Any) -> Any: ...

        @overload  # type: ignore[override]
        def delete(self, key: Key, *, timeout_s: float | None = None, ack: str | None = None) -> DeleteResult: ...
        @overload
        def delete(
            self, key: Key, *, if_version: int, timeout_s: float | None = None, ack: str | None = None
        ) -> DeleteResult | None: ...
        def delete(self, key: Key, **options: Any) -> Any: ...

    def pipeline(
        self, *, timeout_s: float | None = None, ack: str | None = None, return_exceptions: bool = False
    ) -> Pipeline:
        """Queue operations, and send them together: one message a node, all nodes in parallel, results in order.

        Operations on one key take effect in their order. `return_exceptions`: errors stand in the places of results
        instead of the first being raised. `timeout_s`, `ack`: for all of it.

        >>> with kv.pipeline() as p:
        ...     number = p.incr("pages")
        ...     text = p.get("color", "green")
        >>> number.result(), text.result()
        (1, 'green')
        >>> with kv.pipeline(return_exceptions=True) as p:
        ...     put, wrong = p.put("name", "ada"), p.incr("name")
        >>> p.results
        [PutResult(version=..., server='server...'), WrongType(...)]
        """
        return Pipeline(self, timeout_s, ack, return_exceptions)

    def scan(self, prefix: Key = "", *, timeout_s: float | None = None) -> Iterator[Entry]:
        """The entries whose keys begin with `prefix`, in no order, a page at a time.

        Every key that lives throughout is seen exactly once, whatever fails or moves meanwhile; those that come, go or
        change may be seen as they are or as they were. A str prefix finds str keys, a bytes prefix bytes keys.
        `timeout_s`: for each of the requests that it takes.

        >>> puts = kv.mput({"fruit:apple": 1, "fruit:pear": 2, "tool:saw": 3})
        >>> sorted((entry.key, entry.value) for entry in kv.scan("fruit:"))
        [('fruit:apple', 1), ('fruit:pear', 2)]
        """
        check_keys((prefix,))
        return self._scan(Walk(wire.SCAN_ENTRIES, prefix, timeout_s))

    def _scan(self, walk: Walk) -> Iterator[Entry]:
        while not walk.over:
            for page in self._walk_on(walk):
                yield from self._entries(page)

    def watch(self, prefix: Key = "", *, since: Mapping[str, Any] | None = None) -> Watch:
        """Watch the keys that begin with `prefix`: puts, deletes, expiries, evictions, as they take effect.

        Use it with `with` and `for`, or `watch.poll(timeout_s)`; it has begun when this returns. `since`: the
        `position` of an earlier watch of the same cluster, to go on there.

        >>> with kv.watch("color") as events:
        ...     put = kv.put("color", "green")
        ...     next(events)
        Event(kind='put', key='color', value='green', version=...)
        """
        watch = Watch(self, prefix, since)
        watch._begin()
        return watch

    def lock(self, name: str, ttl_s: float = 10.0) -> Lock:
        """A lock with a lifetime and a fencing token, to be taken in a `with` block, or by `acquire()`.

        Who holds it for longer than `ttl_s` calls `renew()` in time. What such a lock cannot promise, and what the
        token is for, stands in `zkv.client.coordination`.

        >>> with kv.lock("nightly", ttl_s=5) as lock:
        ...     token = lock.token
        >>> with kv.lock("nightly", ttl_s=5) as lock:
        ...     lock.token > token
        True
        """
        return Lock(self, name, ttl_s)

    def stats(self) -> dict[str, int]:
        """What this client sent so far: "requests", "operations" in them, "retries", "hedges", "hedged operations".

        What has not happened yet has no entry.

        >>> with Client(cluster.manager) as client:
        ...     values = client.mget(["a", "b", "c"])
        ...     client.stats()["operations"]
        3
        """
        counts = self._live().core.counts
        return {name: counts[name] for name in COUNTED}

    # --- life ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the sockets. Further calls raise `ClosedError`, and so do those that are under way in other threads.

        >>> kv = Client(cluster.manager)
        >>> kv.close()
        >>> kv.get("color")
        Traceback (most recent call last):
        zkv.errors.ClosedError: this client is closed
        """
        if not self._closed:
            self._closed = True
            if self._connection is not None:
                self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        return connected(Connection, self.manager, **self._connection_options())

    def _live(self) -> Connection:
        """The connection, which in a forked child is a new one."""
        if self._closed:
            raise ClosedError("this client is closed")
        connection = self._connection
        if connection is None or connection.condemned:
            with self._lock:
                if self._connection is None or self._connection.condemned:
                    self._connection = self._connect()
                connection = self._connection
        return connection

    def _run(self, plan: Any) -> Any:
        """Run a plan to its end, in this thread."""
        kind = type(plan)
        if kind is One or kind is Many or kind is LearnMap:
            connection = self._live()
            call = call_of(plan, now_ms(), 1000 * self._deadline_s(plan.timeout_s))
            connection.perform(call)
            return outcome_of(plan, call, connection.core.map, self.manager)
        if kind is Pause:
            return time.sleep(plan.seconds)
        if kind is AnyOf:
            return self._any_of(plan)
        if kind is Begin:
            connection = self._live()
            return connection.begin(call_of(plan.plan, now_ms(), 1000 * self._deadline_s(plan.plan.timeout_s)))
        if kind is GiveUp:
            for one in plan.standing:
                one.home.give_up((one,))
            return None
        return self._walk(plan)

    def _any_of(self, plan: AnyOf) -> ShardMap:
        connection = self._live()
        if any(one.home is not connection for one in plan.standing):
            raise Unavailable("the connection of these calls is no more")
        connection.wait_any(plan.standing, 1000 * plan.seconds)
        return connection.core.map

    def _walk(self, steps: Generator[Any, Any, Any]) -> Any:
        """Run a procedure: each step is sent the outcome of the one before."""
        try:
            step = next(steps)
            while True:
                try:
                    outcome = self._run(step)
                except Exception as error:  # noqa: BLE001 - the procedure may have an answer to it
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()  # now, and not when nobody remembers an interrupt any more

    def _after_fork(self) -> None:
        """In the child: a ZeroMQ context does not survive a fork, and two processes must not share an identity (SAFETY
        24)."""
        self._lock = threading.Lock()
        if self._connection is not None:
            self._connection.leave_to_parent()
            self._connection = None


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _renew_after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


os.register_at_fork(after_in_child=_renew_after_fork)
run_with(Client, Client._run)
__all__: list[Literal["Client"]] = ["Client"]
