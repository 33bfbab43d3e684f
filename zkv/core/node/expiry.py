"""Which entries expire, and when: a hierarchical timing wheel.

Adding, removing and finding what is due cost the same however many entries are stored, and nothing is looked at that
does not change: the work follows what expires. A slot of the lowest level is 8 milliseconds wide, and four minutes
ahead lie in such slots: most entries stay in the first slot that they come to. What is further away waits in a wide
slot, and moves down steadily while the slot is next. A slot keeps its keys as a dict, so that an entry that is
overwritten leaves at once, and the wheel holds exactly the entries that have an expiry.

After Varghese & Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Final

BITS: Final = (3, 18, 32)
"""By level: a slot is 2**bits milliseconds wide (8 ms, 4.4 minutes, 50 days)."""
LEVELS: Final = len(BITS)
MOVED_AT_ONCE: Final = 2048
"""Entries that move down from one level in one go, once their slot has begun: about three milliseconds' work."""
MOVED_AHEAD: Final = 64
"""At least so many before it has: a wide slot is looked at one width ahead, and moves evenly over that time."""

Key = str | bytes


class Expiry:
    """The entries with an expiry: key -> shard, by the time they expire at."""

    __slots__ = ("_expiry_of", "_heaps", "_now_ms", "_parked", "_slots", "count")

    def __init__(self, expiry_of: Callable[[int, Key], int]) -> None:
        """`expiry_of(shard, key)`: cluster time at which an entry that is kept here expires; 0: there is none such any
        more. (A client that names a wrong shard can have a key in two shards, which are not told apart here.)"""
        self._expiry_of = expiry_of
        self._now_ms = 0
        self._slots: tuple[dict[int, dict[Key, int]], ...] = tuple({} for _ in BITS)
        """By level, number of the slot -> its keys, with their shards."""
        self._heaps: tuple[list[int], ...] = tuple([] for _ in BITS)
        """By level, the numbers of the slots."""
        self._parked: dict[int, dict[Key, None]] = defaultdict(dict)
        """shard -> keys that are due, and that somebody else has to delete, or nobody can at present."""
        self.count = 0

    def add(self, shard: int, key: Key, expires_ms: int) -> None:
        """An entry expires at `expires_ms`."""
        left_ms = expires_ms - self._now_ms
        level = 0
        while level < LEVELS - 1 and left_ms >> BITS[level + 1]:
            level += 1
        self._put(level if left_ms > 0 else 0, key, shard, expires_ms)
        self.count += 1

    def _put(self, level: int, key: Key, shard: int, expires_ms: int) -> None:
        number = expires_ms >> BITS[level]
        slot = self._slots[level].get(number)
        if slot is None:
            slot = self._slots[level][number] = {}
            heappush(self._heaps[level], number)
        slot[key] = shard

    def remove(self, shard: int, key: Key, expires_ms: int) -> None:
        """That entry is no more, or expires at another time. An empty slot stays until its time has come: there are
        few, and a heap forgets nothing in its middle."""
        self.count -= 1
        for slots, bits in zip(self._slots, BITS, strict=True):
            slot = slots.get(expires_ms >> bits)
            if slot is not None and slot.pop(key, None) is not None:
                return
        self._parked.get(shard, {}).pop(key, None)

    def take(self, now_ms: int, most: int, *, exactly: bool = False) -> list[tuple[int, Key]]:
        """(shard, key) of at most `most` entries that are due, oldest slots first; they are no longer looked after here
        but by `park`, or by the delete that follows. Those of a slot that is not over yet only if `exactly` what is due
        is asked for: they have to be looked at one by one."""
        passed_ms, self._now_ms = now_ms - self._now_ms, now_ms
        for level in reversed(range(1, LEVELS)):
            self._move_down(level, passed_ms)
        found: list[tuple[int, Key]] = []
        slots, heap, bits = self._slots[0], self._heaps[0], BITS[0]
        over = now_ms + 1 >> bits
        while heap and heap[0] < over and len(found) < most:
            slot = slots[heap[0]]
            while slot and len(found) < most:
                key, shard = slot.popitem()
                found.append((shard, key))
            if not slot:
                del slots[heappop(heap)]
        if exactly and heap and heap[0] == over:
            slot = slots[over]
            due = [row for row in slots[over].items() if self._expiry_of(row[1], row[0]) <= now_ms]
            for key, shard in due[: most - len(found)]:
                del slot[key]
                found.append((shard, key))
        return found

    def is_behind(self, now_ms: int) -> bool:
        """Whether something may be due that `take` has not handed out."""
        return any(heap and heap[0] << bits <= now_ms for heap, bits in zip(self._heaps, BITS, strict=True))

    def is_over(self, now_ms: int) -> bool:
        """Whether there are slots that are over, or should have moved down."""
        low, *high = zip(self._heaps, BITS, strict=True)
        return bool(low[0] and low[0][0] + 1 << low[1] <= now_ms + 1) or any(
            heap and heap[0] << bits <= now_ms for heap, bits in high
        )

    def _move_down(self, level: int, passed_ms: int) -> None:
        heap, slots, bits = self._heaps[level], self._slots[level], BITS[level]
        expiry_of, put = self._expiry_of, self._put
        moved = 0
        while heap and (begins_in_ms := (heap[0] << bits) - self._now_ms) < 1 << bits:
            slot = slots[heap[0]]
            most = MOVED_AT_ONCE
            if begins_in_ms > 0:
                most = min(most, max(MOVED_AHEAD, len(slot) * passed_ms // begins_in_ms))
            if moved >= most:
                return
            rows = [slot.popitem() for _ in range(min(len(slot), most - moved))]
            moved += len(rows)
            for key, shard in rows:
                expires_ms = expiry_of(shard, key)
                if expires_ms:
                    put(level - 1, key, shard, expires_ms)
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

    def soonest(self) -> Iterator[tuple[int, Key]]:
        """(shard, key) of all entries, those that expire soon first; in no order within a slot. Nothing may be changed
        while it is read."""
        for slots, heap in zip(self._slots, self._heaps, strict=True):
            numbers = heap[:]
            while numbers:
                for key, shard in slots[heappop(numbers)].items():
                    yield shard, key

    def next_ms(self) -> int | float:
        """When a slot is over, or entries have to be moved, at the earliest; inf: never."""
        low, *high = zip(self._heaps, BITS, strict=True)
        times: list[int] = [(low[0][0] + 1 << low[1]) - 1] if low[0] else []
        times += [(heap[0] - 1 << bits) + 1 for heap, bits in high if heap]
        return min(times, default=float("inf"))
