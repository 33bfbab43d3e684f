"""A client core to talk with: the test plays all nodes and the manager, and sees each request as a node does."""

from __future__ import annotations

import random
from itertools import count
from typing import Any, NamedTuple

from zkv.core import wire
from zkv.core.client.calls import Call, Failure
from zkv.core.client.client import ClientCore
from zkv.core.node.local import MANAGER, Address
from zkv.core.shardmap import UP, Member, Shard, ShardMap, shard_of

CLUSTER = 0xC1
A, B, C = 2**32 + 10, 2**32 + 11, 2**32 + 12
CLOCKS = {A: 5_000_000.0, B: 70.0, C: 900_000.0}
"""What each node's clock shows when the client's shows 0."""


def keys_of(shard: int, number: int) -> list[str]:
    found = (f"k{n}" for n in count() if shard_of(f"k{n}", 2) == shard)
    return [next(found) for _ in range(number)]


S, S2, S3 = keys_of(0, 3)
T, T2 = keys_of(1, 2)


class Request(NamedTuple):
    """A REQUEST as a node sees it."""

    to: int
    number: int
    attempt: int
    batch: int
    watermark: int
    deadline_ms: int
    op: int | bytes
    indices: list[int] | None
    keys: list[str]
    values: list[Any] | None
    ack: int
    operands: list[int] | None
    map_version: int
    ttls: list[int] | None
    shards: list[int]


def map_of(s: tuple[int, ...], t: tuple[int, ...], version: int = 1, **states: int) -> ShardMap:
    members = {
        boot: Member(boot, name, f"tcp://{name}:1", "", 1.0, states.get(name, UP))
        for name, boot in (("a", A), ("b", B), ("c", C))
    }
    return ShardMap(CLUSTER, version, members, (Shard(version, version, s), Shard(version, version, t)))


class Talk:
    """A client core, and a test that plays all nodes and the manager."""

    def __init__(self, s: tuple[int, ...] = (A, B), t: tuple[int, ...] = (B, C), *, welcome: bool = True) -> None:
        self.core = ClientCore(77, random.Random(1))
        self.now_ms = 0.0
        self.sent: list[tuple[Address, bytes]] = []
        self.deaf: set[int] = set()
        """Nodes that answer no greeting."""
        if welcome:
            self.welcome()
            self.tell(map_of(s, t))

    def welcome(self) -> None:
        self.step(MANAGER, wire.encode(wire.WELCOME, CLUSTER, 1, 0, 0, [{}, "tcp://m:1", "tcp://m:2", 1]))

    def tell(self, shard_map: ShardMap) -> None:
        self.step(MANAGER, wire.encode(wire.MAP, CLUSTER, 1, 0, shard_map.version, shard_map.to_wire()))

    def step(self, source: Address = MANAGER, *frames: bytes) -> None:
        """One turn with these frames; a greeting of a node is answered at once."""
        out = self.core.step([(source, frame) for frame in frames], self.now_ms)
        self.sent += out
        for to, frame in out:
            if frame[3] == wire.HELLO and isinstance(to, int) and to != MANAGER and to not in self.deaf:
                body = [wire.decode_body(frame), int(self.node_ms(to)), "name"]
                self.step(to, wire.encode(wire.HELLO_ACK, CLUSTER, to, 0, 1, body))

    def node_ms(self, boot: int) -> float:
        return self.now_ms + CLOCKS[boot]

    def wait(self, ms: float) -> None:
        self.now_ms += ms
        self.step()

    def call(self, op: int, keys: list[str], values: list[Any] | None = None, timeout_ms: float = 5000.0) -> Call:
        call = self.core.submit(Call(op, keys, values, self.now_ms, self.now_ms + timeout_ms))
        self.step()
        return call

    def put(self, *keys: str, timeout_ms: float = 5000.0) -> Call:
        return self.call(wire.PUT, list(keys), [f"v{key}" for key in keys], timeout_ms)

    def requests(self) -> list[Request]:
        """The REQUESTs sent since it was asked last, oldest first."""
        sent, self.sent = self.sent, []
        found = []
        for to, frame in sent:
            if frame[3] == wire.REQUEST:
                number, attempt, batch, mark, deadline, op, indices, shards, keys, values, ack, operands, ttls = (
                    wire.decode_body(frame)
                )
                where = None if indices is None else wire.unpack_u16(indices)
                given, lives = (None if packed is None else wire.unpack_u64(packed) for packed in (operands, ttls))
                version = wire.decode_header(frame).map_version
                assert isinstance(to, int)
                columns = where, keys, values, ack, given, version, lives, wire.unpack_u16(shards)
                found.append(Request(to, number, attempt, batch, mark, deadline, op, *columns))
        return found

    def request(self) -> Request:
        """The one REQUEST sent since."""
        (request,) = self.requests()
        return request

    def kinds(self, to: int) -> list[str]:
        return [wire.KIND_NAMES[frame[3]] for address, frame in self.sent if address == to]

    def reply(
        self, to: Request, versions: list[int], statuses: list[int] | None = None, values: list[Any] | None = None,
        map_version: int = 1, node_ms: float | None = None,
    ) -> None:  # fmt: skip
        body = [
            to.number, to.attempt, int(self.node_ms(to.to) if node_ms is None else node_ms),
            None if statuses is None else bytes(statuses), wire.pack_u64(versions), values,
        ]  # fmt: skip
        self.step(to.to, wire.encode(wire.REPLY, CLUSTER, to.to, 0, map_version, body))

    def refuse(self, to: Request, code: int, sender: int | None = None) -> None:
        self.step(to.to, wire.encode(wire.REFUSED, CLUSTER, sender or to.to, 0, 1, [to.number, code, "because"]))


def columns(call: Call) -> tuple[list[Any], ...]:
    """Versions, values, statuses and sources of a call that is done."""
    assert call.done
    return tuple(map(list, call.columns()))


def failure_of(call: Call) -> Failure:
    assert call.failure is not None
    return call.failure
