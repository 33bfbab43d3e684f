"""Clients of the floor (see `floor`): one that blocks, one for asyncio, and one that only knows how to be echoed.

They send as zkv's do: batches of at most `BATCH_OPS` operations, `WINDOW` of them under way to a node; operations of
coroutines travel together if they were asked for in one round of the loop, or while earlier ones are under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import zmq
from floor import GET, PUT, SHARDS, WAIT_MS, pack, unpack, wait_connected

from zkv.core.client.batches import are_small, cut, picker
from zkv.core.client.client import BATCH_BYTES, BATCH_OPS, SHARED_WINDOW, WINDOW
from zkv.core.shardmap import shard_of, shards_of
from zkv.core.wire import pack_u16
from zkv.net import sockets
from zkv.net.links import Context, Socket

MIXED: Final = bytes((PUT, GET))
"""A put and a get, again and again: what a pipeline asks for."""


class _Dealers:
    """A socket to each node. A context manager."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._context: Context = zmq.Context()
        self._dealers: list[Socket] = []
        self._number = 0
        self._poller = zmq.Poller()
        try:
            for endpoint in endpoints:
                socket = sockets.dealer(self._context)
                socket.set(zmq.RCVTIMEO, WAIT_MS)
                sockets.connect(socket, endpoint)
                self._dealers.append(socket)
                self._poller.register(socket, zmq.POLLIN)
            wait_connected(self._dealers)
        except BaseException:
            self.close()
            raise
        self._primaries = [shard % len(endpoints) for shard in range(SHARDS)]
        """Number of the node that is asked, by shard."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every socket."""
        self._context.destroy(linger=0)


class FloorClient(_Dealers):
    """Blocks until what was asked for is there. For one thread."""

    def put(self, key: str, value: Any) -> None:
        """Returns when all copies have it."""
        self._single(PUT, key, (value,))

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self._single(GET, key, None)[0]

    def put_batch(self, items: Mapping[str, Any]) -> None:
        """Returns when all copies have them."""
        self._columns(PUT, list(items), list(items.values()))

    def get_batch(self, keys: Sequence[str]) -> list[Any]:
        """The values, None where there is none."""
        return self._columns(GET, keys, None)

    def mixed_batch(self, items: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
        """Puts and gets in turn; what the gets found."""
        both = [key for pair in zip(items, keys, strict=True) for key in pair]
        values = [value for one in items.values() for value in (one, None)]
        return self._columns(MIXED * len(keys), both, values)[1::2]

    def _single(self, kind: int, key: str, values: Sequence[Any] | None) -> Any:
        shard = shard_of(key, SHARDS)
        socket = self._dealers[self._primaries[shard]]
        self._number += 1
        socket.send(pack((kind, self._number, pack_u16((shard,)), (key,), values)), copy=False)
        return unpack(socket.recv())[1]

    def _columns(self, kind: int | bytes, keys: Sequence[str], values: Sequence[Any] | None) -> list[Any]:
        shards = shards_of(keys, SHARDS)
        by_node: list[list[int]] = [[] for _ in self._dealers]
        for position, node in enumerate(map(self._primaries.__getitem__, shards)):
            by_node[node].append(position)
        sized = None if values is None or are_small(values, BATCH_BYTES // BATCH_OPS) else values
        waiting = {
            socket: deque(cut(positions, sized, BATCH_OPS, BATCH_BYTES))
            for socket, positions in zip(self._dealers, by_node, strict=True)
            if positions
        }
        under_way: dict[int, Sequence[int]] = {}

        def send(socket: Socket) -> None:
            positions = waiting[socket].popleft()
            pick: Callable[[Sequence[Any]], Sequence[Any]] = picker(positions)
            self._number += 1
            under_way[self._number] = positions
            body = (
                kind if isinstance(kind, int) else bytes(pick(kind)), self._number, pack_u16(pick(shards)), pick(keys),
                None if values is None else pick(values),
            )  # fmt: skip
            socket.send(pack(body), zmq.NOBLOCK, copy=False)

        for socket, batches in waiting.items():
            for _ in range(min(WINDOW, len(batches))):
                send(socket)
        found: list[Any] = [None] * len(keys)
        while under_way:
            ready = self._poller.poll(WAIT_MS)
            if not ready:
                raise TimeoutError(f"a node of the floor has not answered for {WAIT_MS / 1000:g} s")
            for socket, _ in ready:
                try:
                    while True:
                        number, answers = unpack(socket.recv(zmq.NOBLOCK))
                        positions = under_way.pop(number)
                        if waiting[socket]:
                            send(socket)
                        if answers is not None:
                            for position, answer in zip(positions, answers, strict=True):
                                found[position] = answer
                except zmq.Again:
                    pass
        return found


class _Loose:
    """Operations of coroutines that wait for the next message of their kind to their node."""

    __slots__ = ("futures", "keys", "shards", "under_way", "values")

    def __init__(self) -> None:
        self.under_way = 0
        self.clear()

    def clear(self) -> None:
        """They have left."""
        self.shards: list[int] = []
        self.keys: list[str] = []
        self.values: list[Any] = []
        self.futures: list[asyncio.Future[Any]] = []


class AsyncFloorClient(_Dealers):
    """For the coroutines of one loop, the one that runs when it is made."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        super().__init__(endpoints)
        self._loop = asyncio.get_running_loop()
        self._loose = {(node, kind): _Loose() for node in range(len(endpoints)) for kind in (GET, PUT)}
        self._under_way: dict[int, tuple[_Loose, list[asyncio.Future[Any]]]] = {}
        self._scheduled = False
        self._descriptors = [socket.getsockopt(zmq.FD) for socket in self._dealers]
        for descriptor in self._descriptors:
            self._loop.add_reader(descriptor, self._schedule)

    async def put(self, key: str, value: Any) -> None:
        """Returns when all copies have it."""
        await self._ask(PUT, key, value)

    async def get(self, key: str) -> Any:
        """The value, or None."""
        return await self._ask(GET, key, None)

    def close(self) -> None:
        """Close every socket."""
        for descriptor in self._descriptors:
            self._loop.remove_reader(descriptor)
        super().close()

    def _ask(self, kind: int, key: str, value: Any) -> asyncio.Future[Any]:
        shard = shard_of(key, SHARDS)
        loose = self._loose[self._primaries[shard], kind]
        future = self._loop.create_future()
        loose.shards.append(shard)
        loose.keys.append(key)
        loose.values.append(value)
        loose.futures.append(future)
        self._schedule()
        return future

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turns)

    def _turns(self) -> None:
        """Send and receive until no socket has anything more: ZeroMQ says only once that there is something."""
        self._scheduled = False
        self._send()
        while ready := self._poller.poll(0):
            for socket, _ in ready:
                try:
                    while True:
                        self._answered(*unpack(socket.recv(zmq.NOBLOCK)))
                except zmq.Again:
                    pass
            self._send()

    def _send(self) -> None:
        for (node, kind), loose in self._loose.items():
            if not loose.keys or loose.under_way >= SHARED_WINDOW:
                continue
            self._number += 1
            values = loose.values if kind == PUT else None
            frame = pack((kind, self._number, pack_u16(loose.shards), loose.keys, values))
            self._under_way[self._number] = loose, loose.futures
            loose.under_way += 1
            loose.clear()
            self._dealers[node].send(frame, zmq.NOBLOCK)

    def _answered(self, number: int, values: Sequence[Any] | None) -> None:
        loose, futures = self._under_way.pop(number)
        loose.under_way -= 1
        for future, value in zip(futures, values or [None] * len(futures), strict=True):
            if not future.done():
                future.set_result(value)


class EchoClient(_Dealers):
    """Sends the same bytes again and again to a process that answers the same bytes again and again."""

    def __init__(self, address: tuple[str, bytes, bytes, bytes]) -> None:
        """Endpoint, request, reply, and the value that the reply holds."""
        endpoint, self._request, self._reply, self._value = address
        super().__init__([endpoint])
        (self._dealer,) = self._dealers

    def get(self, key: str) -> bytes:
        """One round trip."""
        self._dealer.send(self._request)
        assert self._dealer.recv() == self._reply, "another answer came than was to be echoed"
        return self._value

    def put_batch(self, items: Mapping[str, Any]) -> None:
        """There is nothing to put it into."""
