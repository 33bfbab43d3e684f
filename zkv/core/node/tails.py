"""Uncommitted entries, kept by batch until their commit is known, so that a takeover can work out a shard's tail.

Nothing is kept per operation: a source's batches are held as the lists they already are. A *source* is an incoming
stream (the sender's boot id), a replica group of our own (a negative number), or `ADOPTED` (what a takeover took over
from another member). A shard's tail is what lies above its commit position over *all* sources (SAFETY 17): the
batches of a long-gone primary must neither be forgotten before a commit position covers them nor count after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from zkv.core.node.store import Row
from zkv.core.wire import COUNTER_MASK

ADOPTED: Final = 0


class Part(NamedTuple):
    """Outcomes of one client batch for one replica group, as columns of equal length."""

    client: int
    batch: int
    watermark: int
    indices: Sequence[int] | None
    """Place of each operation in the client's batch; None: 0…n-1."""
    shards: Sequence[int]
    versions: Sequence[int]
    keys: Sequence[Any]
    values: Sequence[Any]
    """None: a delete."""
    results: Sequence[Any] | None = None
    """What each returns besides its version; None: nothing."""
    expiries: Sequence[int] | None = None
    """When each expires, in cluster time, 0: never; None: none of them does."""

    def pick(self, chosen: Sequence[int]) -> Part:
        """Its rows at `chosen`, of which there is at least one."""
        places = chosen if self.indices is None else _picked(self.indices, chosen)
        return Part(
            self.client, self.batch, self.watermark, places, _picked(self.shards, chosen),
            _picked(self.versions, chosen), _picked(self.keys, chosen), _picked(self.values, chosen),
            None if self.results is None else _picked(self.results, chosen),
            None if self.expiries is None else _picked(self.expiries, chosen),
        )  # fmt: skip


def _picked(column: Sequence[Any], chosen: Sequence[int]) -> Sequence[Any]:
    return itemgetter(*chosen)(column) if len(chosen) > 1 else (column[chosen[0]],)


def _without(part: Part, shards: Container[int]) -> Part | None:
    """`part` without its rows of `shards`; None if nothing is left."""
    kept = [position for position, shard in enumerate(part.shards) if shard not in shards]
    if len(kept) == len(part.shards):
        return part
    if not kept:
        return None
    return part.pick(kept)


class Tails:
    """Batches not known to be committed, by source."""

    __slots__ = ("_sources",)

    def __init__(self) -> None:
        self._sources: dict[int, deque[tuple[int, list[Part]]]] = {}

    def keep(self, source: int, mark: int, parts: list[Part]) -> None:
        """Keep a batch. `mark` grows within a source: its sequence number or last counter."""
        kept = self._sources.get(source)
        if kept is None:
            kept = self._sources[source] = deque()
        kept.append((mark, parts))

    def release(self, source: int, upto: int) -> None:
        """Everything of `source` up to mark `upto` is committed."""
        kept = self._sources.get(source)
        while kept and kept[0][0] <= upto:
            kept.popleft()

    def lowest_counter(self, source: int) -> int:
        """The lowest counter in what is kept of `source`; above all counters if nothing is."""
        kept = self._sources.get(source)
        # Batches of one turn go out by group: the oldest batch need not hold the lowest counter.
        return min((parts[0].versions[0] & COUNTER_MASK for _, parts in kept or ()), default=COUNTER_MASK + 1)

    def collect(self, shards: Collection[int], committed: Callable[[int], int]) -> dict[int, list[Row]]:
        """The tails of `shards`, each in version order, each version once."""
        found: dict[int, dict[int, Row]] = {shard: {} for shard in shards}
        for part in self._parts():
            indices = range(len(part.shards)) if part.indices is None else part.indices
            results = (None,) * len(part.shards) if part.results is None else part.results
            expiries = (0,) * len(part.shards) if part.expiries is None else part.expiries
            for shard, version, key, value, index, result, expires_ms in zip(
                part.shards, part.versions, part.keys, part.values, indices, results, expiries, strict=True
            ):
                if shard in found and version > committed(shard):
                    row = Row(version, key, value, part.client, part.batch, index, result, expires_ms)
                    found[shard][version] = row
        return {shard: [rows[version] for version in sorted(rows)] for shard, rows in found.items()}

    def prune(self, sources: Iterable[int], settled: Callable[[int, int], bool]) -> None:
        """Drop batches of `sources` whose every (shard, version) is settled: committed, or of a shard not held."""
        for source in list(sources):
            kept = self._sources.get(source)
            if kept is None:
                continue
            remaining = deque(
                (mark, parts)
                for mark, parts in kept
                if not all(all(map(settled, part.shards, part.versions)) for part in parts)
            )
            if remaining:
                self._sources[source] = remaining
            else:
                del self._sources[source]

    def forget(self, shards: Container[int]) -> None:
        """Drop all rows of `shards`, whose copy here is cleared (SAFETY 20)."""
        for source, kept in list(self._sources.items()):
            batches = [(mark, [left for part in parts if (left := _without(part, shards))]) for mark, parts in kept]
            remaining = deque(batch for batch in batches if batch[1])
            if remaining:
                self._sources[source] = remaining
            else:
                del self._sources[source]

    def sources(self) -> list[int]:
        """Where the kept batches came from."""
        return list(self._sources)

    def _parts(self) -> Iterable[Part]:
        for kept in self._sources.values():
            for _, parts in kept:
                yield from parts
