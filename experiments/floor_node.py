"""One node of the floor, as a process: a dict for each shard, and copies of what is put into them (see `floor`).

(With a single dict a node would do half as much again where there is one copy, and no more with several. But whoever
cannot tell a shard's keys from the others cannot give a shard away: it would not be zkv's topology.)

It writes its endpoint to `--ready-fd`, and reads those of its backups from standard input, as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click
import zmq
from floor import COPY, GET, PUT, SHARDS, pack, unpack, wait_connected

from zkv.core.client.batches import picker
from zkv.core.wire import pack_u16, unpack_u16
from zkv.net import sockets
from zkv.net.links import Context, Socket

POLL_MS: Final = 1000
Reply = tuple[bytes, bytes]
"""(route, frame)"""


class FloorNode:
    """The sockets of one node, and its dicts."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._router = sockets.router(context)
        self.endpoint = sockets.bind(self._router, "tcp://127.0.0.1:0")
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._backups: list[Socket] = []
        self._tables: list[dict[Any, Any]] = [{} for _ in range(SHARDS)]
        self._sequence = 0
        self._acknowledged: dict[Socket, int] = {}
        self._held: deque[tuple[int, list[Reply]]] = deque()
        """Answers to puts, by the sequence number of their copies."""

    def connect(self, endpoints: Sequence[str]) -> None:
        """Connect to the backups; returns when all connections stand."""
        for endpoint in endpoints:
            socket = sockets.dealer(self._context)
            sockets.connect(socket, endpoint)
            self._backups.append(socket)
            self._acknowledged[socket] = 0
            self._poller.register(socket, zmq.POLLIN)
        wait_connected(self._backups)

    def turn(self) -> None:
        """Take all that waits, then send."""
        arrived: list[list[bytes]] = []
        news = False
        for socket, _ in self._poller.poll(POLL_MS):
            try:
                if socket is self._router:
                    while True:
                        arrived.append(socket.recv_multipart(zmq.NOBLOCK))
                else:
                    news = True
                    while True:
                        self._acknowledged[socket] = unpack(socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                pass
        replies: list[Reply] = []
        if news:
            committed = min(self._acknowledged.values())
            while self._held and self._held[0][0] <= committed:
                replies += self._held.popleft()[1]
        self._serve(arrived, replies)
        for reply in replies:
            self._router.send_multipart(reply, zmq.NOBLOCK, copy=False)

    def _serve(self, arrived: list[list[bytes]], replies: list[Reply]) -> None:
        """Do what the messages ask for, and send copies; answers that can be sent go to `replies`."""
        to_acknowledge: dict[bytes, int] = {}
        put: list[tuple[bytes, Sequence[Any], Sequence[Any]]] = []
        wait = replies if not self._backups else []
        for route, frame in arrived:
            kind, number, shards, *columns = unpack(frame)
            if kind == COPY:
                for part in shards:
                    self._put(*part)
                to_acknowledge[route] = number
                continue
            keys, values = columns
            if kind == GET:
                found = [table.get(key) for table, key in zip(self._tables_of(shards), keys, strict=True)]
                replies.append((route, pack((number, found))))
            elif kind == PUT:
                self._put(shards, keys, values)
                put.append((shards, keys, values))
                wait.append((route, pack((number, None))))
            else:
                found, positions = [], []
                for position, (one, table) in enumerate(zip(kind, self._tables_of(shards), strict=True)):
                    if one == PUT:
                        table[keys[position]] = values[position]
                        positions.append(position)
                        found.append(None)
                    else:
                        found.append(table.get(keys[position]))
                reply = route, pack((number, found))
                if not positions:
                    replies.append(reply)
                    continue
                pick = picker(positions)
                put.append((pack_u16(pick(unpack_u16(shards))), pick(keys), pick(values)))
                wait.append(reply)
        for route, number in to_acknowledge.items():
            self._router.send_multipart((route, pack(number)), zmq.NOBLOCK)
        if put and self._backups:
            self._sequence += 1
            frame = pack((COPY, self._sequence, put))
            for socket in self._backups:
                socket.send(frame, zmq.NOBLOCK, copy=False)  # small ones are copied all the same
            self._held.append((self._sequence, wait))

    def _tables_of(self, shards: bytes) -> Iterable[dict[Any, Any]]:
        return map(self._tables.__getitem__, unpack_u16(shards))

    def _put(self, shards: bytes, keys: Sequence[Any], values: Sequence[Any]) -> None:
        for table, key, value in zip(self._tables_of(shards), keys, values, strict=True):
            table[key] = value


@click.command(help=__doc__)
@click.option("--ready-fd", type=int, required=True)
def main(ready_fd: int) -> None:
    context: Context = zmq.Context()
    node = FloorNode(context)
    with os.fdopen(ready_fd, "w") as ready:
        ready.write(node.endpoint + "\n")
    node.connect(json.load(sys.stdin))
    gc.collect()
    gc.freeze()
    gc.disable()  # there are no cycles here
    while True:
        node.turn()


if __name__ == "__main__":
    main()
