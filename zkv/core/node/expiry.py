"""Which entries expire, and when: a hierarchical timing wheel.

Adding, removing and finding what is due cost the same however many entries are stored, and nothing is looked at that
does not change: the work follows what expires. Slots of the lowest level are a millisecond wide, those of each further
level 64 times as wide; what is far away waits in a wide slot and moves down, a part at a time, before its slot begins.
A slot keeps its keys as a dict, so that an entry that is overwritten leaves at once, and the wheel holds exactly the
entries that have an expiry.

After Varghese & Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Final

LEVELS: Final = 6
SLOT_BITS: Final = 6
"""A slot is 1, 64, 4096, … milliseconds wide, by level."""
MOVED_AT_ONCE: Final = 2048
"""Entries that move down from one level in one go, once their slot has begun: about three milliseconds' work."""
MOVED_AHEAD: Final = 256
"""The same before: a slot is looked at one width ahead, so there is time, and nobody has to wait for it."""

Key = str | bytes


class Expiry:
    """The entries with an expiry: key -> shard, by the time they expire at."""

    __slots__ = ("_expiry_of", "_heaps", "_now_ms", "_parked", "_slots", "behind", "count")

    def __init__(self, expiry_of: Callable[[int, Key], int]) -> None:
        """`expiry_of(shard, key)`: cluster time at which an entry that is kept here expires; 0: there is none such any
        more. (A client that names a wrong shard can have a key in two shards, which are not told apart here.)"""
        self._expiry_of = expiry_of
        self._now_ms = 0
        self._slots: tuple[dict[int, dict[Key, int]], ...] = tuple({} for _ in range(LEVELS))
        """By level, number of the slot -> its keys, with their shards."""
        self._heaps: tuple[list[int], ...] = tuple([] for _ in range(LEVELS))
        """By level, the numbers of the slots."""
        self._parked: dict[int, dict[Key, None]] = defaultdict(dict)
        """shard -> keys that are due, and that somebody else has to delete, or nobody can at present."""
        self.count = 0
        self.behind = False
        """Whether something may be due that `take` has not handed out."""

    def add(self, shard: int, key: Key, expires_ms: int) -> None:
        """An entry expires at `expires_ms`."""
        left_ms = expires_ms - self._now_ms
        level = min((max(left_ms, 1).bit_length() - 1) // SLOT_BITS, LEVELS - 1)
        self._put(level, key, shard, expires_ms)
        self.count += 1

    def _put(self, level: int, key: Key, shard: int, expires_ms: int) -> None:
        number = expires_ms >> SLOT_BITS * level
        slot = self._slots[level].get(number)
        if slot is None:
            slot = self._slots[level][number] = {}
            heappush(self._heaps[level], number)
        slot[key] = shard

    def remove(self, shard: int, key: Key, expires_ms: int) -> None:
        """That entry is no more, or expires at another time. An empty slot stays until its time has come: there are
        few, and a heap forgets nothing in its middle."""
        self.count -= 1
        for level, slots in enumerate(self._slots):
            slot = slots.get(expires_ms >> SLOT_BITS * level)
            if slot is not None and slot.pop(key, None) is not None:
                return
        self._parked.get(shard, {}).pop(key, None)

    def take(self, now_ms: int, most: int) -> list[tuple[int, Key]]:
        """(shard, key) of at most `most` entries that are due, oldest first; they are no longer looked after here but
        by `park`, or by the delete that follows."""
        self._now_ms = now_ms
        for level in reversed(range(1, LEVELS)):
            self._move_down(level)
        found: list[tuple[int, Key]] = []
        slots, heap = self._slots[0], self._heaps[0]
        while heap and heap[0] <= now_ms and len(found) < most:
            slot = slots[heap[0]]
            while slot and len(found) < most:
                key, shard = slot.popitem()
                found.append((shard, key))
            if not slot:
                del slots[heappop(heap)]
        self.behind = any(
            heap and heap[0] << SLOT_BITS * level <= now_ms for level, heap in enumerate(self._heaps)
        )  # fmt: skip
        return found

    def _move_down(self, level: int) -> None:
        heap, slots, bits = self._heaps[level], self._slots[level], SLOT_BITS * level
        moved = 0
        while heap and (begins_in_ms := (heap[0] << bits) - self._now_ms) < 1 << bits:
            most = MOVED_AHEAD if begins_in_ms > 0 else MOVED_AT_ONCE
            if moved >= most:
                return
            slot = slots[heap[0]]
            while slot and moved < most:
                key, shard = slot.popitem()
                expires_ms = self._expiry_of(shard, key)
                if expires_ms:
                    self._put(level - 1, key, shard, expires_ms)
                moved += 1
            if not slot:
                del slots[heappop(heap)]

    def park(self, shard: int, key: Key) -> None:
        """A due entry that is not ours to delete, or not now."""
        self._parked[shard][key] = None

    def unpark(self, shard: int) -> None:
        """Its entries that are due are handed out again."""
        for key in self._parked.pop(shard, ()):
            expires_ms = self._expiry_of(shard, key)
            if expires_ms:
                self._put(0, key, shard, expires_ms)
                self.behind = True

    def soonest(self) -> Iterator[tuple[int, Key]]:
        """(shard, key) of all entries, those that expire soon first; in no order within a slot. Nothing may be changed
        while it is read."""
        for slots, heap in zip(self._slots, self._heaps, strict=True):
            for number in sorted(heap):
                for key, shard in slots[number].items():
                    yield shard, key

    def next_ms(self) -> float:
        """When something is due, or has to be moved, at the earliest; inf: never."""
        return min(
            ((heap[0] << SLOT_BITS * level) - ((1 << SLOT_BITS * level) - 1 if level else 0)
             for level, heap in enumerate(self._heaps) if heap),
            default=float("inf"),
        )  # fmt: skip
