"""From a cluster into a dump: a picture of each shard as it was at one moment, page by page.

A shard is walked in *frozen* pages: its primary keeps what it held when the walk began, and says with each page which
position that was. Where a later page names another (another node took over, or the walk was forgotten while whoever
reads the dump was slow) the picture would show no one moment; so it is begun anew, as the next attempt of the format.

A few shards are under way at once: enough to keep all nodes busy, few as each costs its node the memory of what is
overwritten meanwhile. Where walks are forgotten there are fewer at once for a while.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from zkv import __version__
from zkv.client.operations import call_error
from zkv.client.plans import LearnMap, Many, NameOf
from zkv.client.scanning import WALK_BITS
from zkv.core import wire
from zkv.dump.format import Entries, Head, Sink, Writer
from zkv.errors import ProtocolError, Unavailable

if TYPE_CHECKING:
    from zkv.client import Client
    from zkv.core.client.calls import Call
    from zkv.core.shardmap import ShardMap

SHARDS_AT_ONCE: Final = 16
ATTEMPTS: Final = 10
"""Tries at the picture of one shard."""


class Dumped(NamedTuple):
    """What became of a dump, or how far it is."""

    shards: int
    """Those that are done."""
    of_shards: int
    keys: int
    """In shards that are done."""
    bytes: int
    """Written."""
    begun_anew: int
    """Pictures of shards that were begun anew."""


class _Shard:
    """A shard under way."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.attempt = 0
        self.begin()

    def begin(self) -> None:
        """Start over, with a walk of its own: the node that forgot the former may have begun it again by itself."""
        self.attempt += 1
        self.walk = random.getrandbits(WALK_BITS)
        self.cursor = 0
        self.position: int | None = None
        """The version that the shard was at in the moment that is shown; None: nothing has come yet."""


def dump(
    kv: Client, sink: Sink, *, cluster_ms: int = 0, timeout_s: float | None = None,
    show: Callable[[Dumped], object] = lambda _: None,
) -> Dumped:  # fmt: skip
    """Write all of a cluster into `sink`, which is only appended to, and not closed.

    `cluster_ms`: the cluster's time, for information. `timeout_s`: for each of the requests that it takes. `show`:
    called with each page. Raises ZkvError and what `sink` raises; what was written until then is of no use.
    """
    return _Dump(kv, sink, cluster_ms, timeout_s).run(show)


class _Dump:
    def __init__(self, kv: Client, sink: Sink, cluster_ms: int, timeout_s: float | None) -> None:
        self._kv = kv
        self._timeout_s = timeout_s
        shard_map: ShardMap = kv._run(LearnMap(timeout_s))
        self._count = len(shard_map.shards)
        self._waiting = deque(_Shard(number) for number in range(self._count))
        self._at_once = SHARDS_AT_ONCE
        self._begun_anew = 0
        self._writer = Writer(sink)
        self._writer.head(Head(shard_map.cluster, self._count, cluster_ms, f"zkv {__version__}"))

    def run(self, show: Callable[[Dumped], object]) -> Dumped:
        """All shards, then the footer."""
        left = self._count
        under_way: list[_Shard] = []
        show(self._state(left))
        while under_way or self._waiting:
            while self._waiting and len(under_way) < self._at_once:
                under_way.append(self._waiting.popleft())
            pages = self._pages(under_way[: self._at_once])
            lost = [shard for shard, version, page in pages if not self._take(shard, version, page)]
            for shard in lost:
                self._again(shard)
            ended = {shard for shard, _, page in pages if shard not in lost and page[4] is None}
            for shard in ended:
                self._writer.end(shard.number, shard.attempt, shard.position or 0)
            under_way = [shard for shard in under_way if shard not in ended]
            left -= len(ended)
            self._at_once = max(1, self._at_once // 2) if lost else min(SHARDS_AT_ONCE, self._at_once + len(ended))
            show(self._state(left))
        self._writer.foot()
        return self._state(left)

    def _pages(self, shards: list[_Shard]) -> list[tuple[_Shard, int, Any]]:
        """The next page of each, with the position that it shows."""

        def finish(call: Call, _: NameOf) -> list[tuple[_Shard, int, Any]]:
            if call.failures:
                raise call_error(call, self._kv.manager)
            versions, pages, _statuses, _sources = call.columns()
            call.batches.clear()  # calls and batches name each other: pages would wait for the garbage collector
            return list(zip(shards, versions, pages, strict=True))

        # An empty prefix: of a frozen shard that is all that it holds, str keys and bytes keys.
        plan = Many(
            wire.SCAN, [""] * len(shards), finish,
            values=[shard.walk << wire.SCAN_MODE_BITS | wire.SCAN_FROZEN for shard in shards],
            operands=[shard.cursor for shard in shards], shards=[shard.number for shard in shards],
            timeout_s=self._timeout_s,
        )  # fmt: skip
        found: list[tuple[_Shard, int, Any]] = self._kv._run(plan)
        for _, _, page in found:
            if type(page) is not list or len(page) != 6:
                raise ProtocolError("a node answered with a page that cannot be read")
        return found

    def _take(self, shard: _Shard, version: int, page: list[Any]) -> bool:
        """Write a page; False if it is of another moment than those before it."""
        keys, versions, values, expiries, cursor, _ = page
        if not keys and cursor == shard.cursor:
            return True  # there was no time or no room for it: its version says nothing
        if shard.position is None:
            shard.position = version
        elif shard.position != version:
            return False
        if keys:
            self._writer.entries(Entries(shard.number, shard.attempt, keys, versions, values, expiries))
        if cursor is not None:
            shard.cursor = cursor
        return True

    def _again(self, shard: _Shard) -> None:
        if shard.attempt >= ATTEMPTS:
            raise Unavailable(
                f"shard {shard.number} had no picture of one moment in {ATTEMPTS} tries: it changes hands, or its "
                "pages are fetched too slowly; nothing was kept, repeat the dump when the cluster is steady"
            )
        shard.begin()
        self._begun_anew += 1

    def _state(self, left: int) -> Dumped:
        writer = self._writer
        return Dumped(self._count - left, self._count, writer.records, writer.bytes, self._begun_anew)
