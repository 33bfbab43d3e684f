"""Keeping a node within its memory: refusing writes, or evicting entries to make room for them.

The limit binds a node as a primary. What its primaries take goes to backups, which never refuse: so a tenth of the
limit is left for what other primaries send. Beyond nine tenths a write that needs memory is refused (`eviction` none),
or entries of this node's own shards make room for it; evictions are replicated like deletes, and their tombstones are
dropped as soon as they are committed. Until then they take room: what they will leave is counted as free when it is
said how much more to evict, and a write that has to wait for it is busy for the moment. Some room is made ahead of
need, at the end of turns.

*lru* is second chance (CLOCK; Corbató, 1968) with two generations: a hand passes over the shards one after the other,
and evicts the keys that nobody has named since the round before. What was named is kept in two sets of keys, the
present round's and the former's, so an access costs a look-up in C and no write into the tables. Only the primary
knows what was named: after a failover the sets begin empty. Where the hand meets nothing but what was named, a write
that needs room takes of that, what was named longest ago first. *ttl* evicts what would expire soonest, as the wheel
has it (exact to a sixty-fourth of the time left), and nothing that has no expiry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from zkv.core import wire
from zkv.core.node.entries import ABSENT, is_tombstone
from zkv.core.node.expiry import Key
from zkv.core.node.local import Local
from zkv.core.node.serving import SPENT_MS, Serving

ROOM_PART: Final = 0.9
"""Part of the limit that a primary's own writes may use up."""
AHEAD_PART: Final = 0.88
"""Beyond this part room is made ahead of need."""
NOTED_PART: Final = 0.7
"""What is named is noted beyond this part of the limit: before, nothing is about to be evicted."""
EVICTED_AT_ONCE: Final = 4096
"""Entries evicted for one request at most, and looked at for each that is wanted."""
LOOKS: Final = 8
NAMES_AT_LEAST: Final = 1024
LEAVING_MS: Final = 2 * SPENT_MS
"""By then the tombstones of what was evicted should be gone."""


class Room:
    """The memory of one node."""

    def __init__(self, local: Local, serving: Serving) -> None:
        self.local = local
        self.serving = serving
        self.policy = local.settings.eviction
        self._recent: set[Key] = set()
        self._former: set[Key] = set()
        self.evicts = False
        """Whether the last `make` evicted something, or something leaves already: then there is more to come."""
        self._leaving: deque[tuple[float, int]] = deque()
        """(when, bytes) of tombstones that evictions left."""
        self._hand: Iterator[tuple[int, Key]] = iter(())

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.local.limit_bytes > 0

    @property
    def figures(self) -> list[int]:
        """[bytes used, limit]"""
        return [self.local.store.bytes, self.local.limit_bytes]

    @property
    def most_bytes(self) -> float:
        """What the entries may take before writes are refused, or make room."""
        return ROOM_PART * self.local.limit_bytes

    def fits(self, more_bytes: int) -> bool:
        """Whether a write may take so much more."""
        return not self.limited or more_bytes <= 0 or self.local.store.bytes + more_bytes <= self.most_bytes

    def note(self, keys: Iterable[Key]) -> None:
        """Somebody named these keys."""
        local = self.local
        if self.policy == "lru" and local.store.bytes > NOTED_PART * local.limit_bytes > 0:
            self._recent.update(keys)
            if len(self._recent) > max(NAMES_AT_LEAST, 2 * local.store.count()):
                self._turn_over()  # more than there are: keys that are not here were named, and were deleted since

    def make(self, sizes: Sequence[int], keys: Collection[Key]) -> bool:
        """Evict what writes of so many bytes to `keys` need, if that can be done now, and none of these; whether all
        fit."""
        self.evicts = False
        need, most_bytes = sum(sizes), self.most_bytes
        if self.fits(need) or self.policy == "none":
            return self.fits(need)
        possible = [size for size in sizes if size <= most_bytes]
        if possible:
            # For the sake of one request not everything is thrown away: what is left of it comes again.
            need = min(sum(possible), max(*possible, int(most_bytes / 4)))
            excess = self._excess(need, most_bytes)
            self.evicts = excess <= 0 or self._evict(excess, EVICTED_AT_ONCE, set(keys), all_named=True) > 0
        return self.fits(sum(sizes))

    def _excess(self, more_bytes: int, most_bytes: float) -> float:
        """How much more has to be evicted, beside what leaves already."""
        leaving = self._leaving
        while leaving and leaving[0][0] <= self.local.now_ms - LEAVING_MS:
            leaving.popleft()
        return self.local.store.bytes + more_bytes - most_bytes - sum(size for _, size in leaving)

    def tend(self, wake: Callable[[float], None]) -> None:
        """End of a turn: make room ahead of need."""
        local = self.local
        if not local.limit_bytes or self.policy == "none":
            return
        excess = self._excess(0, AHEAD_PART * local.limit_bytes)
        if excess > 0 and self._evict(excess, EVICTED_AT_ONCE // 8):
            wake(local.now_ms + 1.0)

    def _evict(self, excess_bytes: float, most: int, spared: Container[Key] = (), *, all_named: bool = False) -> int:
        """Evict entries until so many bytes are free, `most` at most, and none of `spared`; returns how many.
        `all_named`: if nothing else is found, such as were named lately."""
        local, tables = self.local, self.local.store.tables
        victims: dict[tuple[int, Key], None] = {}
        freed = tombstones = 0
        open_shards = self._open_shards()
        candidates = self._cold(most * LOOKS, all_named) if self.policy == "lru" else self._soon(most * LOOKS)
        for shard, key in candidates:
            entry = tables[shard].get(key)
            if entry is None or is_tombstone(entry) or shard not in open_shards or key in spared:
                continue
            if (shard, key) in victims:
                continue
            victims[shard, key] = None
            freed += local.store.size_of_entry(key, entry)
            tombstones += local.store.size_of_entry(key, ABSENT)
            if freed >= excess_bytes or len(victims) >= most:
                break
        if victims:
            self.serving.remove(list(victims), wire.EVICT_EVENT)
            self._leaving.append((local.now_ms, tombstones))
            local.evicted += len(victims)
            local.fired["entries evicted"] += len(victims)
        return len(victims)

    def _open_shards(self) -> set[int]:
        """Those of ours whose backups can be sent more."""
        outgoing = self.local.outgoing
        full = {peer for peer, stream in outgoing.items() if stream.full}
        if not full:
            return self.serving.active
        groups = [group for group in self.serving.groups if full.isdisjoint(group.receivers)]
        return {shard for group in groups for shard in group.shards} & self.serving.active

    def _soon(self, most: int) -> Iterator[tuple[int, Key]]:
        """Entries of ours with an expiry, those that expire soonest first."""
        active = self.serving.active
        ours = ((shard, key) for shard, key in self.local.store.expiry.soonest() if shard in active)
        return islice(ours, most)

    def _cold(self, most: int, all_named: bool) -> Iterator[tuple[int, Key]]:
        """Entries of ours that nobody has named for a round, as the hand comes to them; then, with `all_named`, the
        others that it came to."""
        named: list[tuple[int, Key]] = []
        for _ in range(most):
            under_hand = next(self._hand, None)
            if under_hand is None:  # the round is over
                self._turn_over()
                self._hand = self._round()
                under_hand = next(self._hand, None)
                if under_hand is None:
                    return
            if under_hand[1] not in self._recent and under_hand[1] not in self._former:
                yield under_hand
            elif all_named:
                named.append(under_hand)
        recent = self._recent
        yield from (name for name in named if name[1] not in recent)
        yield from (name for name in named if name[1] in recent)

    def _turn_over(self) -> None:
        """A generation of names is over."""
        self._former, self._recent = self._recent, set()

    def _round(self) -> Iterator[tuple[int, Key]]:
        """All entries of the shards that we serve."""
        tables, active = self.local.store.tables, self.serving.active
        for shard in sorted(active):
            for key in list(tables[shard]):
                if shard not in active:
                    break
                yield shard, key
