"""The floor: what a plain program of zkv's shape makes of this machine, and so what zkv's promises cost.

It has zkv's topology and nothing else. N node processes, each with a ROUTER for whoever asks and a DEALER to each of
its backups; clients with a DEALER to each node. 1024 shards, by the same hash; shard s is held by the nodes s % N,
(s + 1) % N, …, of which the first is asked. Requests are columns of shards, keys and values in MessagePack. A node does
what a `dict` does, with one for each shard, sends what was put on to the backups, waits until all of them have
acknowledged it, and answers. It drains its sockets fully, and sends replies and copies once a turn. Batches and window
are zkv's, and so are the options of the sockets. It has no versions, epochs, leases, sessions or types; nothing is
tried again, and nothing may fail.

Here are the messages, and the processes as an experiment starts them. `floor_node` is a node, `floor_client` the
clients, `floor_echo` less still: a process that answers the same bytes to everything.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgpack
import zmq
from children import Children

from zkv.net.links import Socket

SHARDS: Final = 1024
GET: Final = 1
PUT: Final = 2
COPY: Final = 3
"""Kinds of messages to a node.

    GET, PUT   (kind, number, shards, keys, values): one operation for all; or bytes for the kind, one for each
    COPY       (COPY, sequence number, [(shards, keys, values), …]): what a turn of the primary has put

A request is answered by (number, values), a copy by the highest sequence number that has come in a turn.
"""
WAIT_MS: Final = 30_000
"""Whoever waits longer gives up: a part of the floor has died."""
_HERE: Final = Path(__file__).resolve().parent


def pack(body: Any) -> bytes:
    """As MessagePack."""
    packed: bytes = msgpack.packb(body)
    return packed


def unpack(frame: bytes) -> Any:
    """What was packed; arrays become tuples, which are made faster than lists."""
    return msgpack.unpackb(frame, use_list=False)


def backups(number: int, nodes: int, copies: int) -> list[int]:
    """The nodes that hold copies of all that node `number` is asked for."""
    return [(number + step) % nodes for step in range(1, copies)]


def wait_connected(dealers: Sequence[Socket]) -> None:
    """Wait until a message can be sent on each. Raises TimeoutError."""
    deadline_s = time.monotonic() + WAIT_MS / 1000
    for socket in dealers:
        if not socket.poll(max(0, int(1000 * (deadline_s - time.monotonic()))), zmq.POLLOUT):
            raise TimeoutError(f"no connection to {len(dealers)} nodes of the floor within {WAIT_MS / 1000:g} s")


class _Processes:
    """A context manager: processes that end with its block."""

    def __init__(self) -> None:
        self._children = Children()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._children.close()


class FloorServers(_Processes):
    """A context manager: the node processes run within the block."""

    def __init__(self, nodes: int, copies: int) -> None:
        if not 1 <= copies <= nodes:
            raise ValueError(f"{nodes} nodes cannot hold {copies} copies: name fewer replicas, or more nodes")
        super().__init__()
        try:
            started = [
                self._children.start_ready(f"floor{number}", [sys.executable, str(_HERE / "floor_node.py")], stdin=True)
                for number in range(nodes)
            ]
            self.address = [endpoint for _, endpoint in started]
            """Endpoints of the nodes, by number: what a client takes."""
            self.pids = [process.pid for process, _ in started]
            for number, (process, _) in enumerate(started):
                assert process.stdin is not None
                process.stdin.write(json.dumps([self.address[one] for one in backups(number, nodes, copies)]).encode())
                process.stdin.close()
        except BaseException:
            self._children.close()
            raise

    def settle(self) -> None:
        """There is nothing to wait for: what was answered is everywhere."""


class EchoServers(_Processes):
    """A context manager: one process that answers the same bytes to every message."""

    def __init__(self, request: bytes, reply: bytes, value: bytes) -> None:
        super().__init__()
        try:
            command = [sys.executable, str(_HERE / "floor_echo.py"), "--reply", reply.hex()]
            _, endpoint = self._children.start_ready("echo", command)
        except BaseException:
            self._children.close()
            raise
        self.address = endpoint, request, reply, value
        """What a client of it takes."""

    def settle(self) -> None:
        """There is nothing to wait for."""
