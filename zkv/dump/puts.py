"""What a dump holds, and what of it is put: read once, to know that it is whole and what of it counts, then again, as
batches. Pure: who puts them, and by which clock, is the host's business (`loading`, and the simulator).

Entries go in as they travel, values untouched. What had an expiry gets the time to live that is left of it: expiries
are absolute, since a dump is a picture of a moment and not a place where time stands still. What has expired since is
not put. Putting is idempotent: to load again ends in the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from zkv.core import wire
from zkv.dump.format import End, Entries, Foot, Head, Reader, Source

BATCH_KEYS: Final = 4096
BATCH_BYTES: Final = 4 * 2**20
"""Of the blocks whose entries go into one call, but for a single one that is larger."""

Show = Callable[[int, int], object]
"""(done, total)"""


class Contents(NamedTuple):
    """What a whole dump holds."""

    head: Head
    attempts: dict[int, int]
    """Shard -> the attempt that counts."""
    keys: int
    expiring: int
    """Those of them that have an expiry."""
    bytes: int


def ignore(done: int, total: int) -> None:
    """Show nobody how far it is."""


def verify(source: Source, *, size: int = 0, show: Show = ignore) -> Contents:
    """Read a dump from its beginning to its end: what it holds. Raises BadDump.

    `size`: of all of it in bytes, for `show`.
    """
    head: Head | None = None
    attempts: dict[int, int] = {}
    expiring: dict[int, tuple[int, int]] = {}
    keys = 0
    reader = Reader(source)
    for offset, content in reader:
        if isinstance(content, Entries):
            shard, attempt = content.shard, content.attempt
            latest, count = expiring.get(shard, (0, 0))
            count = count if attempt == latest else 0
            expiring[shard] = attempt, count + sum(map(bool, wire.unpack_u64(content.expiries)))
        elif isinstance(content, End):
            attempts[content.shard] = content.attempt
        elif isinstance(content, Foot):
            keys = content.records
        else:
            head = content
        show(offset, size)
    assert head is not None
    show(reader.offset, size or reader.offset)
    total = sum(count for shard, (attempt, count) in expiring.items() if attempts[shard] == attempt)
    return Contents(head, attempts, keys, total, reader.offset)


class Batch(NamedTuple):
    """Entries that are put by one call, as columns."""

    keys: list[str | bytes]
    values: list[Any]
    expiries: list[int]


class Batches:
    """The entries of a dump that count and begin with a prefix: iterate over it.

    Where the prefix is a str also bytes keys that begin with its UTF-8 bytes.
    """

    def __init__(
        self, source: Source, contents: Contents, prefix: str | bytes = "", *, most_keys: int = BATCH_KEYS,
        most_bytes: int = BATCH_BYTES,
    ) -> None:  # fmt: skip
        self._source = source
        self._attempts = contents.attempts
        self._prefix = prefix
        self._most_keys = most_keys
        self._most_bytes = most_bytes
        self.left_out = 0

    def __iter__(self) -> Iterator[Batch]:
        batch, size = Batch([], [], []), 0
        last = 0
        for offset, content in Reader(self._source):
            # How long a block is shows only where the next one begins.
            size, last = size + offset - last, offset
            if len(batch.keys) >= self._most_keys or size >= self._most_bytes:
                yield batch
                batch, size = Batch([], [], []), 0
            if isinstance(content, Entries) and self._counts(content):
                self._add(batch, content)
        if batch.keys:
            yield batch

    def _counts(self, entries: Entries) -> bool:
        """Whether they are of the attempt that came to its end."""
        return self._attempts.get(entries.shard) == entries.attempt

    def _add(self, batch: Batch, entries: Entries) -> None:
        keys, values, expiries = entries.keys, entries.values, wire.unpack_u64(entries.expiries)
        if self._prefix:
            places = [place for place, key in enumerate(keys) if self._begins(key)]
            self.left_out += len(keys) - len(places)
            keys = [keys[place] for place in places]
            values = [values[place] for place in places]
            expiries = [expiries[place] for place in places]
        batch.keys.extend(keys)
        batch.values.extend(values)
        batch.expiries.extend(expiries)

    def _begins(self, key: str | bytes) -> bool:
        start = self._prefix
        if isinstance(key, str):
            return isinstance(start, str) and key.startswith(start)
        return key.startswith(start.encode() if isinstance(start, str) else start)


class Put(NamedTuple):
    """What becomes of a batch at a moment: the columns of one call."""

    keys: list[str | bytes]
    """None, perhaps."""
    values: list[Any]
    ttls: list[int] | None
    """What is left to live, in milliseconds, 0: for ever; None: so do all."""
    expired: int
    """Entries that are not put: their time is over."""


def put_of(batch: Batch, now_ms: int) -> Put:
    """What to put of `batch` when it is `now_ms` in cluster time."""
    keys, values, expiries = batch
    expired = gone(expiries, now_ms)
    if expired:
        rows = [row for row in zip(*batch, strict=True) if not 0 < row[2] <= now_ms]
        if not rows:
            return Put([], [], None, expired)
        keys, values, expiries = (list(column) for column in zip(*rows, strict=True))
    return Put(keys, values, lifetimes(expiries, now_ms), expired)


def lifetimes(expiries: list[int], now_ms: int) -> list[int] | None:
    """The times to live that are left, 0: for ever; None: nothing expires."""
    return [expiry - now_ms if expiry else 0 for expiry in expiries] if any(expiries) else None


def gone(expiries: list[int], now_ms: int) -> int:
    """How many have expired."""
    return sum(0 < expiry <= now_ms for expiry in expiries)


class CountedTime:
    """A cluster's time, which was `cluster_ms` a moment ago, counted on by a clock of this machine that nobody sets."""

    def __init__(self, cluster_ms: int, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._offset_ms = cluster_ms - clock_ms()

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return self._clock_ms() + self._offset_ms
