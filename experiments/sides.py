"""The sides of a comparison, behind one face: a fresh cluster and its clients, as a user of each would call them.

A `Face` is what one client process has: a client of a cluster that runs already, by its address. A `Side` is a cluster
with a client of it. What is called in a loop is the client's own bound method where that is possible, so the face costs
no side anything. Arrays take the way that each client's user has: zkv stores them, for Redis they are made bytes by
hand. (Other peers, and who takes part in a comparison: `peers`.)
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Protocol, Self

from floor_client import AsyncFloorClient, FloorClient
from redis_servers import RedisServers

from zkv import Client, LocalCluster

TIMEOUT_S: Final = 30.0

Put = Callable[[str, Any], Any]
Get = Callable[[str], Any]
Awaited = tuple[Callable[[str, Any], Coroutine[Any, Any, Any]], Callable[[str], Coroutine[Any, Any, Any]]]
"""put and get of an asynchronous client."""


class Face(Protocol):
    """A context manager: a client of a cluster; it is closed with the block."""

    put: Put
    get: Get

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def put_batch(self, items: Mapping[str, Any]) -> Any: ...
    def get_batch(self, keys: Sequence[str]) -> list[Any]: ...
    def mixed_batch(self, items: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
        """Puts and gets in turn, in one pipeline; what the gets found."""

    def asynchronous(self, connections: int) -> AbstractAsyncContextManager[Awaited]:
        """A client for asyncio, that so many coroutines will use."""


class Servers(Protocol):
    """A context manager: the processes of a cluster run within the block."""

    @property
    def address(self) -> Any:
        """What a face takes to connect; it can be pickled."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def settle(self) -> object:
        """Wait until no copy lags behind: what is measured next must not pay for what came before."""


class Side(Face, Protocol):
    """A context manager that starts a cluster and connects to it; it ends with the block."""

    put_on_all: Put
    """A put that returns once every copy has it."""
    put_array: Put
    get_array: Get
    behind_s: float
    """How long `settle` has taken at most."""

    def settle(self) -> None:
        """Wait until no copy lags behind: what is measured next must not pay for what came before."""

    def full_syncs(self) -> int:
        """How often a copy had fallen behind so far that it was made anew."""


class Open:
    """What has to be closed at the end is in `_stack`."""

    _stack: ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class ZkvServers(Open):
    """Seven nodes and a manager, say."""

    def __init__(self, nodes: int, copies: int) -> None:
        with ExitStack() as stack:
            self.address = stack.enter_context(LocalCluster(nodes=nodes, replicas=copies)).manager
            self._stack = stack.pop_all()

    def settle(self) -> None:
        """There is nothing to wait for: a write that has returned is on all copies."""


class ZkvFace(Open):
    """`zkv.Client`, and `zkv.AsyncClient`."""

    def __init__(self, manager: str) -> None:
        self._manager = manager
        self._stack = ExitStack()
        self._kv = self._stack.enter_context(Client(manager, timeout_s=TIMEOUT_S))
        self.put: Put = self._kv.put
        self.get: Get = self._kv.get
        self.put_batch = self._kv.mput
        self.get_batch = self._kv.mget

    def mixed_batch(self, items: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
        with self._kv.pipeline() as pipeline:
            for (key, value), other in zip(items.items(), keys, strict=True):
                pipeline.put(key, value)
                pipeline.get(other)
        return list(pipeline.results[1::2])

    @asynccontextmanager
    async def asynchronous(self, connections: int) -> AsyncIterator[Awaited]:
        from zkv import AsyncClient

        async with AsyncClient(self._manager, timeout_s=TIMEOUT_S) as kv:
            yield kv.put, kv.get


class ZkvSide(ZkvFace):
    """zkv: every write is on all copies when it returns."""

    behind_s = 0.0

    def __init__(self, nodes: int, copies: int) -> None:
        with ExitStack() as stack:
            servers = stack.enter_context(ZkvServers(nodes, copies))
            super().__init__(servers.address)
            stack.push(self._stack.pop_all())
            self._stack = stack.pop_all()
        self.put_on_all: Put = self._kv.put
        self.put_array: Put = self._kv.put
        self.get_array: Get = self._kv.get

    def settle(self) -> None:
        """There is nothing to wait for."""

    def full_syncs(self) -> int:
        return 0


class FloorFace(FloorClient):
    """The floor's clients."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        super().__init__(endpoints)
        self._endpoints = endpoints

    @asynccontextmanager
    async def asynchronous(self, connections: int) -> AsyncIterator[Awaited]:
        with AsyncFloorClient(self._endpoints) as kv:
            yield kv.put, kv.get


class RedisFace(Open):
    """redis-py, with hiredis."""

    def __init__(self, address: tuple[str, int]) -> None:
        from redis.cluster import RedisCluster

        self._host, self._port = address
        self._client: Any = RedisCluster(host=self._host, port=self._port, socket_timeout=TIMEOUT_S)
        self._stack = ExitStack()
        self._stack.callback(self._client.close)
        self.put: Put = self._client.set
        self.get: Get = self._client.get

    def put_batch(self, items: Mapping[str, Any]) -> None:
        with self._client.pipeline() as pipeline:
            for key, value in items.items():
                pipeline.set(key, value)
            pipeline.execute()

    def get_batch(self, keys: Sequence[str]) -> list[Any]:
        with self._client.pipeline() as pipeline:
            for key in keys:
                pipeline.get(key)
            return list(pipeline.execute())

    def mixed_batch(self, items: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
        with self._client.pipeline() as pipeline:
            for (key, value), other in zip(items.items(), keys, strict=True):
                pipeline.set(key, value)
                pipeline.get(other)
            return list(pipeline.execute()[1::2])

    @asynccontextmanager
    async def asynchronous(self, connections: int) -> AsyncIterator[Awaited]:
        from redis.asyncio.cluster import RedisCluster

        # Each command under way takes a connection; with too few it does not wait, but fails.
        host, port = self._host, self._port
        client: Any = RedisCluster(host=host, port=port, socket_timeout=TIMEOUT_S, max_connections=connections)
        async with client:
            yield client.set, client.get


class RedisSide(RedisFace):
    """Redis Cluster through redis-py: a write is on its master when it returns, replicas follow."""

    behind_s = 0.0

    def __init__(self, nodes: int, copies: int) -> None:
        self._replicas = copies - 1
        with ExitStack() as stack:
            self._servers = stack.enter_context(RedisServers(nodes, self._replicas))
            super().__init__(self._servers.address)
            stack.push(self._stack.pop_all())
            self._stack = stack.pop_all()
        self.put_on_all: Put = self._set_and_wait if self._replicas else self._client.set

    def _set_and_wait(self, key: str, value: Any) -> None:
        """The nearest that Redis has: ask afterwards whether the replicas have it. (WAIT goes by connection; one thread
        alone gets the same one again.)"""
        client = self._client
        client.set(key, value)
        node = client.get_node_from_key(key)
        reached = client.execute_command("WAIT", self._replicas, int(TIMEOUT_S * 1000), target_nodes=node)
        assert reached == self._replicas, f"{reached} replicas have the write"

    def put_array(self, key: str, array: Any) -> None:
        """As one does by hand: a line with dtype and shape, then the bytes."""
        self._client.set(key, json.dumps([array.dtype.str, array.shape]).encode() + b"\n" + array.tobytes())

    def get_array(self, key: str) -> Any:
        """It can only be read, unlike zkv's: it is a view of what arrived, and that saves a copy."""
        import numpy as np

        found = self._client.get(key)
        end = found.index(b"\n")
        dtype, shape = json.loads(found[:end])
        return np.frombuffer(found, dtype, offset=end + 1).reshape(shape)

    def settle(self) -> None:
        self.behind_s = max(self.behind_s, self._servers.settle())

    def full_syncs(self) -> int:
        return self._servers.full_syncs()
