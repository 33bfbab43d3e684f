"""From a dump into a cluster of any size: read once, to know that it is whole and what of it counts, then again to put.

So nothing is put from a dump that is damaged or was cut short. What can be read only once, a pipe, is kept in a
temporary file meanwhile.

Entries go in as they travel, values untouched, many keys a call and several calls at once. What had an expiry gets the
time to live that is left of it: expiries are absolute, since a dump is a picture of a moment and not a place where time
stands still. What has expired since is not put. Putting is idempotent: to load again ends in the same state.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from zkv.client.failures import out_of_memory
from zkv.client.operations import call_error
from zkv.client.plans import Many, NameOf
from zkv.core import wire
from zkv.dump.format import End, Entries, Foot, Head, Reader, Source
from zkv.errors import ProtocolError

if TYPE_CHECKING:
    from zkv.client import Client
    from zkv.core.client.calls import Call

BATCH_KEYS: Final = 4096
BATCH_BYTES: Final = 4 * 2**20
"""Of the blocks whose entries go into one call, but for a single one that is larger."""
CALLS_AT_ONCE: Final = 3

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


class Loaded(NamedTuple):
    """What became of a load, or would."""

    keys: int
    """Put."""
    expired: int
    """Had expired by now, and were not put."""
    kept: int
    """Were there already, and were left as they are (`if_absent`)."""
    left_out: int
    """Do not begin with the prefix."""


def _ignore(done: int, total: int) -> None:
    pass


# --- reading a dump -----------------------------------------------------------------------------------------------


def verify(source: Source, *, size: int = 0, show: Show = _ignore) -> Contents:
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


class Spool:
    """What is read from a pipe, kept so that it can be read again. A context manager."""

    def __init__(self, pipe: Source) -> None:
        self._pipe = pipe
        self.file: IO[bytes] = tempfile.TemporaryFile(prefix="zkv-load-")  # noqa: SIM115 - closed in __exit__

    def read(self, size: int, /) -> bytes:
        """Read on from the pipe."""
        data = self._pipe.read(size)
        self.file.write(data)
        return data

    def again(self) -> IO[bytes]:
        """All that was read, from its beginning."""
        self.file.seek(0)
        return self.file

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


class Batch(NamedTuple):
    """Entries that are put by one call, as columns."""

    keys: list[str | bytes]
    values: list[Any]
    expiries: list[int]


class _Batches:
    """The entries of a dump that count and begin with a prefix."""

    def __init__(self, source: Source, contents: Contents, prefix: str | bytes) -> None:
        self._source = source
        self._attempts = contents.attempts
        self._prefix = prefix
        self.left_out = 0

    def __iter__(self) -> Iterator[Batch]:
        batch, size = Batch([], [], []), 0
        last = 0
        for offset, content in Reader(self._source):
            # How long a block is shows only where the next one begins.
            size, last = size + offset - last, offset
            if len(batch.keys) >= BATCH_KEYS or size >= BATCH_BYTES:
                yield batch
                batch, size = Batch([], [], []), 0
            if isinstance(content, Entries) and self._attempts.get(content.shard) == content.attempt:
                self._add(batch, content)
        if batch.keys:
            yield batch

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


def count(source: Source, contents: Contents, *, prefix: str | bytes = "", show: Show = _ignore) -> Loaded:
    """What `load` would do with a verified dump, without a cluster: whether a key is there already only that would
    tell, and what has expired is judged by this machine's clock."""
    batches = _Batches(source, contents, prefix)
    keys = expired = 0
    for batch in batches:
        gone = _gone(batch.expiries, time.time_ns() // 1_000_000)
        expired += gone
        keys += len(batch.keys) - gone
        show(keys + expired + batches.left_out, contents.keys)
    return Loaded(keys, expired, 0, batches.left_out)


def _gone(expiries: list[int], now_ms: int) -> int:
    return sum(0 < expiry <= now_ms for expiry in expiries)


# --- putting ------------------------------------------------------------------------------------------------------


class ClusterTime:
    """A cluster's time, which was `cluster_ms` a moment ago, counted on by this machine's monotonic clock."""

    def __init__(self, cluster_ms: int) -> None:
        self._offset_ms = cluster_ms - time.monotonic_ns() // 1_000_000

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.monotonic_ns() // 1_000_000 + self._offset_ms


def load(
    kv: Client, source: Source, contents: Contents, now_ms: Callable[[], int], *, if_absent: bool = False,
    prefix: str | bytes = "", timeout_s: float | None = None, show: Show = _ignore,
) -> Loaded:  # fmt: skip
    """Put what a verified dump holds. `source` is at its beginning again; it is read to its end, and not closed.

    `now_ms`: the cluster's time. `if_absent`: keys that exist are left as they are. `prefix`: only keys that begin with
    it; where it is a str also bytes keys that begin with its UTF-8 bytes. `timeout_s`: for each call.

    Raises ZkvError; then some keys were put, and others not: to load again does the rest.
    """
    batches = _Batches(source, contents, prefix)
    put = _Put(kv, now_ms, wire.PUT_IF_ABSENT if if_absent else wire.PUT, timeout_s)
    pending: deque[Future[Loaded]] = deque()
    total = Loaded(0, 0, 0, 0)

    def settle(most: int) -> None:
        nonlocal total
        while len(pending) > most:
            total = Loaded(*map(sum, zip(total, pending.popleft().result(), strict=True)))
            total = total._replace(left_out=batches.left_out)
            show(sum(total), contents.keys)

    pool = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="zkv-load")
    try:
        for batch in batches:
            pending.append(pool.submit(put, batch))
            settle(CALLS_AT_ONCE)
        settle(0)
    finally:
        # After an error, or Ctrl-C: calls that have not begun never do. Those under way are not waited for: they end
        # when the client is closed, or with their deadline.
        pool.shutdown(wait=False, cancel_futures=True)
    return total._replace(left_out=batches.left_out)


class _Put:
    """Puts batches, in any thread."""

    def __init__(self, kv: Client, now_ms: Callable[[], int], op: int, timeout_s: float | None) -> None:
        self._kv = kv
        self._now_ms = now_ms
        self._op = op
        self._timeout_s = timeout_s

    def __call__(self, batch: Batch) -> Loaded:
        now_ms = self._now_ms()
        keys, values, expiries = batch
        expired = _gone(expiries, now_ms)
        if expired:
            rows = [row for row in zip(*batch, strict=True) if not 0 < row[2] <= now_ms]
            if not rows:
                return Loaded(0, expired, 0, 0)
            keys, values, expiries = (list(column) for column in zip(*rows, strict=True))
        plan = Many(
            self._op, keys, self._finish, values=values, timeout_s=self._timeout_s,
            ttls=[expiry - now_ms if expiry else 0 for expiry in expiries] if any(expiries) else None,
        )  # fmt: skip
        kept: int = self._kv._run(plan)
        return Loaded(len(keys) - kept, expired, kept, 0)

    def _finish(self, call: Call, name_of: NameOf) -> int:
        """How many were there already; raises where one was refused."""
        if call.failures:
            raise call_error(call, self._kv.manager)
        _, results, statuses, sources = call.columns()
        call.batches.clear()  # calls and batches name each other: large ones would wait for the garbage collector
        if not any(statuses):
            return 0
        for result, status, source in zip(results, statuses, sources, strict=True):
            if status == wire.NO_ROOM:
                raise out_of_memory(result, source, name_of)
            if status not in (wire.OK, wire.UNMET):
                raise ProtocolError(f"{name_of(source)} answered a put with status {status}")
        return sum(status == wire.UNMET for status in statuses)
