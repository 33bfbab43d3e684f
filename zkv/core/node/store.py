"""The entries a node holds: one table a shard, key -> (version, value), and where each shard's history stands.

A value is whatever the wire brought (bytes, str, a number, an ExtType): it is never looked into. `None` marks a
tombstone: a delete keeps its version until every in-sync member has passed it (SAFETY 10).

`positions[shard]` is the version of the newest entry applied, `committed[shard]` the version up to which this replica
knows the history to be committed (SAFETY 17): always committed <= position.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from msgpack import ExtType

from zkv.core.wire import COUNTER_BITS, Malformed

Entry = tuple[int, Any]
"""(version, value)"""
ABSENT: Entry = (0, None)
"""What a key that was never written looks like."""


SAMPLED_TABLES: Final = 4
SAMPLED_ENTRIES: Final = 4
SAMPLE_MEMORY: Final = 200
SAMPLE_STRIDE: Final = 40_503
SAMPLE_REACH: Final = 4096
"""How many samples the mean size remembers."""


def size_of(item: Any) -> int:
    """Bytes of a key or value, as far as that can be told without encoding it."""
    if isinstance(item, ExtType):
        return len(item.data)
    return len(item) if isinstance(item, bytes | str) else 8


class Row(NamedTuple):
    """One entry of an uncommitted tail, with the identity of the write that made it (SAFETY 16, 24)."""

    version: int
    key: str | bytes
    value: Any
    client: int
    batch: int
    place: int
    """Index of the operation in its batch."""
    result: Any = None
    """What it returned besides the version."""


def checked_tail(epoch: Any, position: Any, rows: Any) -> list[Row]:
    """The rows of a tail that a member reports for the takeover under `epoch`. Raises Malformed for what cannot be one.

    They were all made before that epoch, ascend, and reach to the position where there are any.
    """
    numbers = [position]
    tail = []
    for row in rows:
        version, key, _, *identity, _ = row
        numbers += [version, *identity]
        tail.append(Row(*row))
        if not isinstance(key, str | bytes):
            raise Malformed("a key in a tail is neither str nor bytes")
    if any(type(number) is not int or not 0 <= number < 2**64 for number in numbers):
        raise Malformed("a tail's position, versions and identities are numbers")
    versions = [row.version for row in tail]
    if versions != sorted(set(versions)) or (versions and versions[-1] < position):
        raise Malformed("a tail's versions ascend to its position")
    if max(versions, default=position) >= epoch << COUNTER_BITS:
        raise Malformed("a tail names an entry of an epoch to come")
    return tail


class Store:
    """All shards of one node. A shard without data is an empty dict: 64 bytes."""

    __slots__ = ("_mean_bytes", "_sampled", "_samples", "committed", "graves", "positions", "tables")

    def __init__(self, shards: int) -> None:
        self.tables: list[dict[str | bytes, Entry]] = [{} for _ in range(shards)]
        self.positions: dict[int, int] = dict.fromkeys(range(shards), 0)
        self.committed: dict[int, int] = dict.fromkeys(range(shards), 0)
        self.graves: deque[tuple[float, int, int, str | bytes]] = deque()
        """(when, shard, version, key) of tombstones, oldest first."""
        self._sampled = self._samples = 0
        self._mean_bytes = 0.0
        """Of a key and its value, over the last samples."""

    def apply(self, shards: Sequence[int], keys: Sequence[Any], versions: Sequence[int], values: Sequence[Any]) -> None:
        """Apply columns of outcomes, in counter order, that continue each shard's history."""
        self.positions.update(zip(shards, versions, strict=True))
        entries = zip(versions, values, strict=True)
        for table, key, entry in zip(map(self.tables.__getitem__, shards), keys, entries, strict=True):
            table[key] = entry

    def bury(self, shards: Iterable[int], keys: Iterable[Any], versions: Iterable[int], now_ms: float) -> None:
        """Note tombstones, so that they can be dropped when their time has come."""
        self.graves.extend(
            (now_ms, shard, version, key) for shard, key, version in zip(shards, keys, versions, strict=True)
        )

    def adopt(self, shard: int, rows: Iterable[Row], now_ms: float) -> list[Row]:
        """Apply rows of a re-sent tail above this shard's position; returns those that were new (SAFETY 16)."""
        table = self.tables[shard]
        fresh = []
        for row in rows:
            if row.version > self.positions[shard]:
                table[row.key] = (row.version, row.value)
                self.positions[shard] = row.version
                fresh.append(row)
                if row.value is None:
                    self.graves.append((now_ms, shard, row.version, row.key))
        return fresh

    def drop_tombstone(self, shard: int, key: str | bytes, version: int) -> None:
        """Forget a tombstone, unless the key has been written since."""
        table = self.tables[shard]
        if table.get(key) == (version, None):
            del table[key]

    def fill(
        self, shard: int, keys: Iterable[Any], versions: Iterable[int], values: Iterable[Any], now_ms: float
    ) -> None:
        """Take a chunk of a copy that is being made: what is here and newer stays (SAFETY 21)."""
        table = self.tables[shard]
        for key, version, value in zip(keys, versions, values, strict=True):
            if table.get(key, ABSENT)[0] < version:
                table[key] = (version, value)
                if value is None:
                    self.graves.append((now_ms, shard, version, key))

    def clear(self, shard: int) -> None:
        """Forget a shard that is no longer ours, or that we are to be filled with."""
        self.tables[shard] = {}
        self.positions[shard] = 0
        self.committed[shard] = 0

    def count(self) -> int:
        """Entries held, tombstones included."""
        return sum(map(len, self.tables))

    def estimate_bytes(self) -> int:
        """Keys and values held, from a few samples a call: the tables take turns, and places in them."""
        sampled = 0
        for _ in range(len(self.tables)):
            self._sampled += 1
            table = self.tables[self._sampled % len(self.tables)]
            if not table:
                continue
            sampled += 1
            # The oldest entries of a table may be unlike the others.
            place = self._sampled * SAMPLE_STRIDE % min(len(table), SAMPLE_REACH)
            for key, (_, value) in islice(table.items(), place, place + SAMPLED_ENTRIES):
                self._samples = min(self._samples + 1, SAMPLE_MEMORY)
                self._mean_bytes += (size_of(key) + size_of(value) - self._mean_bytes) / self._samples
            if sampled == SAMPLED_TABLES:
                break
        return int(self._mean_bytes * self.count())
