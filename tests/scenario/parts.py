"""What a bench is made of: keys of two shards, processes, frames, faults, requests made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from zkv.core import wire
from zkv.core.client.client import ClientCore
from zkv.core.node.local import Address
from zkv.core.node.node import Node
from zkv.core.shardmap import shard_of

CLUSTER = 0xC1
LOW = 2**32
BEGAN_MS = 1_700_000_000_000
"""Cluster time when the bench's time is 0."""
ANY = "*"
SHARDS = {"s": 0, "t": 1}
STATUS_NAMES = {
    wire.OK: "OK", wire.UNMET: "UNMET", wire.MOVED: "MOVED", wire.NOT_READY: "NOT_READY",
    wire.OLD_ROUTE: "OLD_ROUTE", wire.BUSY: "BUSY", wire.LATE: "LATE", wire.EXPIRED: "EXPIRED", wire.MAYBE: "MAYBE",
    wire.THIN: "THIN", wire.WRONG_TYPE: "WRONG_TYPE", wire.TOO_LARGE: "TOO_LARGE", wire.OVERTAKEN: "OVERTAKEN",
    wire.NO_ROOM: "NO_ROOM", wire.GONE: "GONE",
}  # fmt: skip


def _keys_of(shard: int) -> Iterator[str]:
    return (key for key in (f"{'st'[shard]}{number}" for number in count()) if shard_of(key, 2) == shard)


_S, _T = _keys_of(0), _keys_of(1)
S, S2, S3 = next(_S), next(_S), next(_S)
"""Keys of shard s."""
T, T2 = next(_T), next(_T)
"""Keys of shard t."""


@dataclass
class Process:
    """A node or a client: a core, a clock with a rate of its own, an inbox."""

    pid: str
    core: Node | ClientCore
    offset_ms: float
    rate: float = 1.0
    inbox: list[tuple[Address, bytes]] = field(default_factory=list)
    alive: bool = True
    paused: bool = False


@dataclass
class Frame:
    """One frame on a link."""

    sender: str
    receiver: str
    source: Address
    data: bytes

    @property
    def kind(self) -> str:
        return wire.KIND_NAMES[self.data[3]]


@dataclass
class Fault:
    """What a test does to a link: frames that match are lost, or held."""

    sender: str
    receiver: str
    kind: str
    held: list[Frame] | None = None

    def matches(self, frame: Frame) -> bool:
        return (
            self.sender in (ANY, frame.sender)
            and self.receiver in (ANY, frame.receiver)
            and self.kind in (ANY, frame.kind)
        )


@dataclass
class Ask:
    """A request made by hand, and its answer once there is one."""

    client: str
    batch: int
    watermark: int
    op: int | bytes
    keys: list[str]
    values: list[Any] | None
    indices: list[int] | None
    deadline_ms: float
    """In the bench's time."""
    attempt: int = 1
    ack: str = "all"
    operands: list[int] | None = None
    shards: list[int] | None = None
    """None: those of the keys."""
    ttls: list[int] | None = None
    """Milliseconds to live, 0: for ever."""
    statuses: list[str] = field(default_factory=lambda: ["UNANSWERED"])
    versions: list[int] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    """Empty: no operation has any."""

    @property
    def status(self) -> str:
        """The status of all its operations, if they agree."""
        return self.statuses[0] if len(set(self.statuses)) == 1 else "/".join(self.statuses)

    @property
    def version(self) -> int:
        return self.versions[0]

    @property
    def value(self) -> Any:
        return self.results[0] if self.results else None


def split_names(names: str) -> list[str]:
    """ "PB'C" -> ["P", "B'", "C"]."""
    pids: list[str] = []
    for letter in names:
        if letter == "'":
            pids[-1] += letter
        else:
            pids.append(letter)
    return pids
