"""The host of a client: sockets and a clock around `zkv.core.client.client.ClientCore`. Blocking; no thread of its own.

A call polls until its results are there. Between calls nothing runs: broadcasts wait in the subscription's queue and
are
read first when the next call begins; should the queue have overflowed, a version gap shows and the map is pulled.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import zmq

from zkv.core import wire
from zkv.core.client.calls import Call, Failure
from zkv.core.client.client import ClientCore
from zkv.core.node.local import MANAGER, Address
from zkv.net.clock import now_ms
from zkv.net.links import Context, Links


class Connection:
    """One client process's sockets. Not thread-safe: `zkv.Client` holds a lock around it."""

    def __init__(self, manager: str, *, subscribe: bool) -> None:
        self.context: Context = zmq.Context()
        try:
            self.links = Links(self.context, manager)
        except zmq.ZMQError:
            self.context.destroy(linger=0)
            raise
        random_source = random.SystemRandom()
        self.core = ClientCore(random_source.randrange(2**32, 2**63), random.Random(random_source.randrange(2**63)))
        self._subscribe = subscribe
        self._listening_to = ""
        self._map_version = 0

    def call(
        self, op: int, keys: Sequence[Any], values: Sequence[Any] | None, timeout_ms: float,
        ack: int = wire.ACK_DEFAULT,
    ) -> Call:  # fmt: skip
        """Run one call to its end: results, or a failure."""
        if self._listening_to:
            self._turn(0)
        started_ms = now_ms()
        call = self.core.submit(op, keys, values, started_ms, started_ms + timeout_ms, ack)
        try:
            self._send(self.core.step((), started_ms))
            while not call.done:
                self._turn(self.core.next_wake_ms - now_ms())
        except BaseException:
            self.core.abandon(call)
            raise
        return call

    def learn_map(self, timeout_ms: float) -> Failure | None:
        """Learn the map, by a call without operations; returns why none came in time."""
        return None if self.core.map.version else self.call(wire.GET, (), None, timeout_ms).failure

    def _turn(self, timeout_ms: float) -> None:
        events = self.links.poller.poll(max(0, int(timeout_ms) + 1) if timeout_ms > 0 else 0)
        frames: list[tuple[Address, bytes]] = []
        self.links.drain(events, frames)
        self._send(self.core.step(frames, now_ms()))

    def _send(self, out: list[tuple[Address, bytes]]) -> None:
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
