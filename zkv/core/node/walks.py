"""Walking through a shard page by page, in the order of the keys' hashes, a little at a time.

A cursor is a hash, never a place in a table: it means the same on every replica, whatever was written, moved or filled
meanwhile, so that every key that lives throughout is seen exactly once. A table knows no such order; so a walk first
*sorts* the keys that a shard held when it began: into 256 parts by their highest bits, a bounded number of keys for
each request, and each part by itself when a page needs it. A request that comes to the end of its work in the middle of
that is answered with no keys and the same cursor: the client asks again, and others had their turn. So a shard of any
size stalls nobody.

A walk is kept while its client goes on; if it is dropped (too long unused, a failover) the next page begins one anew
from its cursor. A *frozen* walk keeps the entries as they were at one moment, and says at which position: a
client that sees another one starts the shard over.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from typing import Any, Final

import xxhash

from zkv.core import wire
from zkv.core.node.entries import StoredEntry, columns_of, is_there, size_of_all_stored
from zkv.core.node.local import Local
from zkv.core.node.sizes import size_of_all

PAGE_KEYS: Final = 512
PAGE_BYTES: Final = 256 * 1024
"""Of a page, unless one entry alone is longer."""
REPLY_BYTES: Final = 1024 * 1024
SORTED_AT_ONCE: Final = 2048
"""Keys sorted or shown in one turn of the node, and those of a page: about a millisecond of it."""
BUSY_PART: Final = 8
"""Where other requests come as well it is so much less."""
WALKS_LIMIT: Final = 256
"""Walks kept; whoever wants to begin another is put off until one is over."""
PATIENCE_MS: Final = 1000.0
"""Unused for so long, a walk may be dropped for another one."""
IDLE_MS: Final = 10_000.0
"""And for so long, in any case."""
PART_BITS: Final = 56
WHOLE_BITS: Final = 64
CHUNK_KEYS: Final = 64
"""Keys that are looked up at a time."""

Key = str | bytes
Ranked = tuple[int, Key, StoredEntry | None]
"""Hash, key, and the entry where it is frozen."""
_place: Final = itemgetter(0)


class Budget:
    """What one request may still cost."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = REPLY_BYTES


class Walk:
    """One client's walk through one shard."""

    __slots__ = (
        "_counted", "_cursor", "_left", "_part_bits", "_parts", "_sorted", "epoch", "mode", "position", "prefix",
        "used_ms",
    )  # fmt: skip

    def __init__(self, local: Local, shard: int, prefix: Key, mode: int, cursor: int) -> None:
        table = local.store.tables[shard]
        self.mode = mode
        self.prefix = prefix
        self.epoch = local.map.shards[shard].epoch
        self.position = local.store.positions[shard]
        self.used_ms = local.now_ms
        self._cursor = cursor
        frozen = mode == wire.SCAN_FROZEN
        self._left: Iterator[Any] | None = iter(list(table.items()) if frozen else list(table))
        """Keys (or items) that are not sorted yet; None: there are none any more."""
        self._part_bits = PART_BITS if len(table) > SORTED_AT_ONCE else WHOLE_BITS
        """The others choose the part; a small table is one."""
        self._parts: defaultdict[int, list[Ranked]] = defaultdict(list)
        self._sorted: set[int] = set()
        self._counted = 0

    def sort(self, table: dict[Key, StoredEntry], cluster_ms: int, most: int) -> int:
        """Go on sorting, `most` keys; returns how many were looked at."""
        if self._left is None:
            return 0
        prefix: Any = self.prefix
        kind = type(prefix)
        chunk = list(islice(self._left, most))
        rows: list[Ranked]
        if self.mode == wire.SCAN_FROZEN:
            rows = [
                (_hash_of(key), key, entry)
                for key, entry in chunk  # with no prefix: one picture of a shard has both kinds of keys
                if is_there(entry, cluster_ms) and (not prefix or (type(key) is kind and key.startswith(prefix)))
            ]
        else:
            keys = [key for key in chunk if type(key) is kind and key.startswith(prefix)]
            if self.mode == wire.SCAN_COUNT:
                self._counted += sum(is_there(table.get(key), cluster_ms) for key in keys)
                keys = []
            rows = [(_hash_of(key), key, None) for key in keys]
        parts, cursor = self._parts, self._cursor
        if not cursor and self._part_bits == WHOLE_BITS:
            parts[0] += rows
        else:
            for row in rows:
                if row[0] >= cursor:
                    parts[row[0] >> self._part_bits].append(row)
        if len(chunk) < most:
            self._left = None
        return len(chunk)

    @property
    def is_sorted(self) -> bool:
        """Whether pages can be had."""
        return self._left is None

    def page(
        self, table: dict[Key, StoredEntry], cursor: int, cluster_ms: int, most_bytes: int, most: int = SORTED_AT_ONCE
    ) -> tuple[list[Any], int]:
        """The result of a SCAN, a page from `cursor` on, and how many keys were looked at for it."""
        if self.mode == wire.SCAN_COUNT:
            return [None, None, None, None, None, self._counted], 0
        keys: list[Key] = []
        entries: list[StoredEntry] = []
        size = looked = 0
        for rows, first in self._from(cursor):
            at_once = CHUNK_KEYS
            while first < len(rows):
                room = min(at_once, PAGE_KEYS - len(keys), most - looked)
                if room <= 0 or size >= most_bytes:
                    return self._result(keys, entries, rows[first][0]), looked
                end = _behind_ties(rows, first + room)
                found = [
                    (key, entry)
                    for _, key, frozen in rows[first:end]
                    if (entry := frozen or table.get(key)) is not None and (frozen or is_there(entry, cluster_ms))
                ]
                grown = size_of_all([key for key, _ in found])
                if self.mode != wire.SCAN_KEYS:
                    grown += size_of_all_stored([entry for _, entry in found])
                if room > 1 and size + grown > most_bytes:
                    at_once = 1  # of large values no more than there is room for
                    continue
                keys += [key for key, _ in found]
                entries += [entry for _, entry in found]
                looked += end - first
                size += grown
                first = end
        return self._result(keys, entries, None), looked

    def _from(self, cursor: int) -> Iterator[tuple[list[Ranked], int]]:
        """(part in the order of its hashes, place of the first at or beyond a hash), in order."""
        for number in sorted(self._parts):
            if number < cursor >> self._part_bits:
                continue
            part = self._parts[number]
            if number not in self._sorted:
                part.sort(key=_place)
                self._sorted.add(number)
            yield part, bisect_left(part, cursor, key=_place)

    def _result(self, keys: list[Key], entries: list[StoredEntry], cursor: int | None) -> list[Any]:
        if self.mode == wire.SCAN_KEYS:
            return [keys, None, None, None, cursor, None]
        versions, values, expiries = columns_of(entries)
        return [keys, wire.pack_u64(versions), values, wire.pack_u64(expiries), cursor, None]


def _hash_of(key: Key) -> int:
    return xxhash.xxh3_64_intdigest(key.encode() if isinstance(key, str) else key)


def _behind_ties(rows: list[Ranked], end: int) -> int:
    """The first place from `end` on whose hash is not that of the one before: a cursor cannot tell them apart."""
    while end < len(rows) and rows[end][0] == rows[end - 1][0]:
        end += 1
    return min(end, len(rows))


class Walks:
    """All walks of one node."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self._walks: dict[tuple[int, int, int], Walk] = {}
        """By client, walk of the client, and shard; the one used last is last."""
        self._turn_ms = float("-inf")
        self._looked = 0
        """Keys looked at in this turn."""

    def scan(
        self, client: int, shard: int, prefix: Key, cursor: int, what: int, budget: Budget, *, alone: bool = True
    ) -> tuple[int, Any]:
        """(position of what is shown, result) of one SCAN. `alone`: nobody else has to wait for it."""
        local = self.local
        if local.now_ms != self._turn_ms:
            self._turn_ms, self._looked = local.now_ms, 0
            self.forget_idle()
        later: list[Any] = [[], None, None, None, cursor, None]
        most = SORTED_AT_ONCE if alone else -(-SORTED_AT_ONCE // BUSY_PART)  # at least one, or no walk would ever end
        left = most - self._looked
        name = client, what, shard
        walk = self._walks.pop(name, None)
        if walk is not None and (walk.epoch != local.map.shards[shard].epoch or walk.prefix != prefix):
            walk = None
        if budget.bytes <= 0 or left <= 0:
            if walk is None:
                return 0, later
            walk.used_ms = local.now_ms
            self._walks[name] = walk
            return walk.position, later
        table, cluster_ms = local.store.tables[shard], local.cluster_ms
        if walk is None:
            if len(self._walks) >= WALKS_LIMIT and not self._make_room():
                return 0, later
            walk = Walk(local, shard, prefix, what & ((1 << wire.SCAN_MODE_BITS) - 1), cursor)
        walk.used_ms = local.now_ms
        self._looked += walk.sort(table, cluster_ms, left)
        position = walk.position if walk.mode == wire.SCAN_FROZEN else local.store.positions[shard]
        if not walk.is_sorted:
            self._walks[name] = walk
            return position, later
        result, looked = walk.page(table, cursor, cluster_ms, min(PAGE_BYTES, budget.bytes), most)
        self._looked += looked
        budget.bytes -= size_of_all(result[0] or ()) + size_of_all(result[2] or ())
        if result[4] is not None:
            self._walks[name] = walk
        return position, result

    def _make_room(self) -> bool:
        """Forget the walk that was used last longest ago, unless its client goes on with it: if those under way were
        dropped for others none might ever come to an end."""
        name, walk = next(iter(self._walks.items()))
        if walk.used_ms > self.local.now_ms - PATIENCE_MS:
            return False
        del self._walks[name]
        return True

    def forget_idle(self) -> None:
        """Drop walks that nobody goes on with; also when nobody scans any more."""
        horizon_ms = self.local.now_ms - IDLE_MS
        for name, walk in list(self._walks.items()):
            if walk.used_ms > horizon_ms:
                break
            del self._walks[name]
