"""The entries a node holds: one table a shard, key -> version, value and expiry, and where each shard's history stands.

A value is whatever the wire brought (bytes, str, a number, an ExtType): it is never looked into. `None` marks a
tombstone: a delete keeps its version until every in-sync member has passed it (SAFETY 10). The expiry is the cluster
time in milliseconds from which on the primary deletes the entry (SAFETY 28), 0 for never. The form in which they are
kept is that of `entries`.

`positions[shard]` is the version of the newest entry applied, `committed[shard]` the version up to which this replica
knows the history to be committed (SAFETY 17): always committed <= position. `bytes` is what all entries take
(`sizes`), exact by that account after every change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from zkv.core.node.entries import (
    ABSENT,
    Entry,
    StoredEntry,
    expires_ms_of,
    opened,
    size_of_all_stored,
    size_of_stored,
    stored,
    stored_all,
    version_of,
)  # fmt: skip
from zkv.core.node.expiry import Expiry
from zkv.core.node.sizes import ENTRY_BYTES, EXPIRY_BYTES, size_of, size_of_all
from zkv.core.wire import COUNTER_BITS, Malformed


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
    expires_ms: int = 0


def checked_tail(epoch: Any, position: Any, rows: Any) -> list[Row]:
    """The rows of a tail that a member reports for the takeover under `epoch`. Raises Malformed for what cannot be one.

    They were all made before that epoch, ascend, and reach to the position where there are any.
    """
    numbers = [position]
    tail = []
    for row in rows:
        version, key, _, *identity, _, expires_ms = row
        numbers += [version, *identity, expires_ms]
        tail.append(Row(*row))
        if not isinstance(key, str | bytes):
            raise Malformed("a key in a tail is neither str nor bytes")
    if any(type(number) is not int or not 0 <= number < 2**64 for number in numbers):
        raise Malformed("a tail's position, versions, identities and expiries are numbers")
    versions = [row.version for row in tail]
    if versions != sorted(set(versions)) or (versions and versions[-1] < position):
        raise Malformed("a tail's versions ascend to its position")
    if max(versions, default=position) >= epoch << COUNTER_BITS:
        raise Malformed("a tail names an entry of an epoch to come")
    return tail


class Store:
    """All shards of one node. A shard without data is an empty dict: 64 bytes."""

    __slots__ = ("bytes", "committed", "expiry", "graves", "positions", "tables")

    def __init__(self, shards: int) -> None:
        self.tables: list[dict[str | bytes, StoredEntry]] = [{} for _ in range(shards)]
        self.positions: dict[int, int] = dict.fromkeys(range(shards), 0)
        self.committed: dict[int, int] = dict.fromkeys(range(shards), 0)
        self.graves: deque[tuple[float, int, int, str | bytes]] = deque()
        """(when, shard, version, key) of tombstones, oldest first."""
        self.bytes = 0
        self.expiry = Expiry(self._expiry_of)

    def _expiry_of(self, shard: int, key: str | bytes) -> int:
        return expires_ms_of(self.tables[shard].get(key, ABSENT))

    # --- outcomes --------------------------------------------------------------------------------------------------

    def apply(
        self, shards: Sequence[int], keys: Sequence[Any], versions: Sequence[int], values: Sequence[Any],
        expiries: Sequence[int] | None = None,
    ) -> int:  # fmt: skip
        """Apply columns of outcomes, in counter order, that continue each shard's history; returns what the entries
        take, in bytes."""
        self.positions.update(zip(shards, versions, strict=True))
        tables = map(self.tables.__getitem__, shards)
        fresh: list[Any] = []
        former: list[StoredEntry] = []
        entries = stored_all(versions, values, expiries)
        if expiries is None and not self.expiry.count:
            for table, key, entry in zip(tables, keys, entries, strict=True):
                known = table.get(key)
                table[key] = entry
                if known is None:
                    fresh.append(key)
                else:
                    former.append(known)
        else:
            until = repeat(0) if expiries is None else expiries
            for table, shard, key, entry, expires_ms in zip(tables, shards, keys, entries, until, strict=False):
                known = table.get(key)
                table[key] = entry
                if known is None:
                    fresh.append(key)
                else:
                    former.append(known)
                    self._forget_expiry(shard, key, expires_ms_of(known))
                if expires_ms:
                    self.expiry.add(shard, key, expires_ms)
                    self.bytes += EXPIRY_BYTES
        size = size_of_all_stored(entries)
        self.bytes += size - size_of_all_stored(former) + size_of_all(fresh) + ENTRY_BYTES * len(fresh)
        return size

    def _forget_expiry(self, shard: int, key: str | bytes, expires_ms: int) -> None:
        if expires_ms:
            self.expiry.remove(shard, key, expires_ms)
            self.bytes -= EXPIRY_BYTES

    def _set(self, shard: int, key: str | bytes, entry: StoredEntry) -> None:
        """Replace one entry."""
        table = self.tables[shard]
        self._account(shard, key, table.get(key), -1)
        table[key] = entry
        self._account(shard, key, entry, 1)

    def size_of_entry(self, key: str | bytes, entry: StoredEntry) -> int:
        """What an entry takes, in bytes."""
        size = ENTRY_BYTES + size_of(key) + size_of_stored(entry)
        return size + EXPIRY_BYTES if expires_ms_of(entry) else size

    def _account(self, shard: int, key: str | bytes, entry: StoredEntry | None, sign: int) -> None:
        """Add an entry to what is counted and looked after, or take it away."""
        if entry is None:
            return
        self.bytes += sign * self.size_of_entry(key, entry)
        if expires_ms := expires_ms_of(entry):
            (self.expiry.add if sign > 0 else self.expiry.remove)(shard, key, expires_ms)

    def bury(self, shards: Iterable[int], keys: Iterable[Any], versions: Iterable[int], now_ms: float) -> None:
        """Note tombstones, so that they can be dropped when their time has come."""
        self.graves.extend(
            (now_ms, shard, version, key) for shard, key, version in zip(shards, keys, versions, strict=True)
        )

    def adopt(self, shard: int, rows: Iterable[Row], now_ms: float) -> list[Row]:
        """Apply rows of a re-sent tail above this shard's position; returns those that were new (SAFETY 16)."""
        fresh = []
        for row in rows:
            if row.version > self.positions[shard]:
                self._set(shard, row.key, stored(row.version, row.value, row.expires_ms))
                self.positions[shard] = row.version
                fresh.append(row)
                if row.value is None:
                    self.graves.append((now_ms, shard, row.version, row.key))
        return fresh

    def drop_tombstone(self, shard: int, key: str | bytes, version: int) -> None:
        """Forget a tombstone, unless the key has been written since."""
        table = self.tables[shard]
        grave = stored(version, None, 0)
        if table.get(key) == grave:
            del table[key]
            self.bytes -= self.size_of_entry(key, grave)

    def fill(
        self, shard: int, keys: Sequence[Any], versions: Sequence[int], values: Sequence[Any],
        expiries: Sequence[int], now_ms: float,
    ) -> None:  # fmt: skip
        """Take a chunk of a copy that is being made: what is here and newer stays (SAFETY 21)."""
        table = self.tables[shard]
        entries = stored_all(versions, values, expiries)
        for key, version, value, entry in zip(keys, versions, values, entries, strict=True):
            if version_of(table.get(key, ABSENT)) < version:
                self._set(shard, key, entry)
                if value is None:
                    self.graves.append((now_ms, shard, version, key))

    def clear(self, shard: int) -> None:
        """Forget a shard that is no longer ours, or that we are to be filled with."""
        table = self.tables[shard]
        self.bytes -= ENTRY_BYTES * len(table) + size_of_all(list(table)) + size_of_all_stored(list(table.values()))
        if self.expiry.count:
            for key, entry in table.items():
                self._forget_expiry(shard, key, expires_ms_of(entry))
        self.tables[shard] = {}
        self.positions[shard] = 0
        self.committed[shard] = 0

    def opened(self, shard: int) -> dict[str | bytes, Entry]:
        """The entries of a shard as (version, value, expiry), for who wants to look at all of them."""
        return {key: opened(entry) for key, entry in self.tables[shard].items()}

    def count(self) -> int:
        """Entries held, tombstones included."""
        return sum(map(len, self.tables))
