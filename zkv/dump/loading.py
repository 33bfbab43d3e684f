"""From a dump into a cluster of any size, over a client: `puts` of a dump that is whole, several calls at once.

Nothing is put from a dump that is damaged or was cut short: it is read to its end first. What can be read only once, a
pipe, is kept in a temporary file meanwhile.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from zkv.client.failures import out_of_memory
from zkv.client.operations import call_error
from zkv.client.plans import Many
from zkv.core import wire
from zkv.core.shardmap import ShardMap
from zkv.dump.format import Source
from zkv.dump.puts import BATCH_KEYS, Batch, Batches, Contents, CountedTime, Show, gone, ignore, put_of, verify
from zkv.errors import ProtocolError

if TYPE_CHECKING:
    from zkv.client import Client
    from zkv.core.client.calls import Call

__all__ = ["BATCH_KEYS", "ClusterTime", "Contents", "Loaded", "Spool", "count", "load", "verify"]

CALLS_AT_ONCE: Final = 3


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


def count(source: Source, contents: Contents, *, prefix: str | bytes = "", show: Show = ignore) -> Loaded:
    """What `load` would do with a verified dump, without a cluster: whether a key is there already only that would
    tell, and what has expired is judged by this machine's clock."""
    batches = Batches(source, contents, prefix)
    keys = expired = 0
    for batch in batches:
        over = gone(batch.expiries, time.time_ns() // 1_000_000)
        expired += over
        keys += len(batch.keys) - over
        show(keys + expired + batches.left_out, contents.keys)
    return Loaded(keys, expired, 0, batches.left_out)


# --- putting ------------------------------------------------------------------------------------------------------


class ClusterTime(CountedTime):
    """A cluster's time, which was `cluster_ms` a moment ago, counted on by this machine's monotonic clock."""

    def __init__(self, cluster_ms: int) -> None:
        super().__init__(cluster_ms, lambda: time.monotonic_ns() // 1_000_000)


def load(
    kv: Client, source: Source, contents: Contents, now_ms: Callable[[], int], *, if_absent: bool = False,
    prefix: str | bytes = "", timeout_s: float | None = None, show: Show = ignore,
) -> Loaded:  # fmt: skip
    """Put what a verified dump holds. `source` is at its beginning again; it is read to its end, and not closed.

    `now_ms`: the cluster's time. `if_absent`: keys that exist are left as they are. `prefix`: only keys that begin with
    it; where it is a str also bytes keys that begin with its UTF-8 bytes. `timeout_s`: for each call.

    Raises ZkvError; then some keys were put, and others not: to load again does the rest.
    """
    batches = Batches(source, contents, prefix, most_keys=BATCH_KEYS)
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
        put = put_of(batch, self._now_ms())
        if not put.keys:
            return Loaded(0, put.expired, 0, 0)
        plan = Many(self._op, put.keys, self._finish, values=put.values, ttls=put.ttls, timeout_s=self._timeout_s)
        kept: int = self._kv._run(plan)
        return Loaded(len(put.keys) - kept, put.expired, kept, 0)

    def _finish(self, call: Call, shard_map: ShardMap) -> int:
        """How many were there already; raises where one was refused."""
        if call.failures:
            raise call_error(call, self._kv.manager)
        _, results, statuses, sources = call.columns()
        call.batches.clear()  # calls and batches name each other: large ones would wait for the garbage collector
        if not any(statuses):
            return 0
        for result, status, source in zip(results, statuses, sources, strict=True):
            if status == wire.NO_ROOM:
                raise out_of_memory(result, source, shard_map)
            if status not in (wire.OK, wire.UNMET):
                raise ProtocolError(f"{shard_map.name_of(source)} answered a put with status {status}")
        return sum(status == wire.UNMET for status in statuses)
