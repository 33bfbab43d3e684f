"""The newest changes of the map, packed: for those who are a few versions behind.

A change of the map reaches some by broadcast and others first by a frame that was sent under it; these pull the map
from whoever sent the frame (SAFETY 4). That happens at every change, to nearly everybody, and in the middle of their
work: so they are answered with the few entries that changed, and with the whole map only where that is shorter.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from zkv.core.shardmap import Delta, ShardMap

SHARD_BYTES: Final = 24
"""About what a shard takes in a whole map."""


class RecentDeltas:
    """The deltas that led to the present map, the newest last, as long as they are shorter than the map."""

    __slots__ = ("_bytes", "_kept")

    def __init__(self) -> None:
        self._kept: deque[tuple[int, bytes]] = deque()
        """(version it starts from, packed body), without gaps."""
        self._bytes = 0

    def keep(self, delta: Delta, packed: bytes, map: ShardMap) -> None:
        """`delta` has just led to `map`; `packed` is its body as it travels."""
        self._kept.append((delta.base, packed))
        self._bytes += len(packed)
        while self._bytes > SHARD_BYTES * len(map.shards) and self._kept:
            self._bytes -= len(self._kept.popleft()[1])

    def forget(self) -> None:
        """The map was replaced by a whole one: nothing leads from the former to it."""
        self._kept.clear()
        self._bytes = 0

    def since(self, version: int) -> list[bytes]:
        """The bodies that lead from map `version` to the present one, in order; empty if not all of them are here, or
        nothing is known (version 0)."""
        if not version or not self._kept or version < self._kept[0][0]:
            return []
        return [packed for base, packed in self._kept if base >= version]
