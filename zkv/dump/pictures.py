"""Pictures of all shards of a cluster, each as it was at one moment: which pages to ask for, and what becomes of them.
Pure: who asks, and how long it takes, is the host's business (`dumping`, and the simulator).

A shard is walked in *frozen* pages: its primary keeps what it held when the walk began, and says with each page which
position that was. Where a later page names another (another node took over, or the walk was forgotten while whoever
reads the dump was slow) the picture would show no one moment; so it is begun anew, as the next attempt of the format.

A few shards are under way at once: enough to keep all nodes busy, few as each costs its node the memory of what is
overwritten meanwhile. Where walks are forgotten there are fewer at once for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from zkv.core import wire
from zkv.dump.format import Entries, Head, Sink, Writer
from zkv.errors import ProtocolError, Unavailable

SHARDS_AT_ONCE: Final = 16
ATTEMPTS: Final = 10
"""Tries at the picture of one shard."""
WALK_BITS: Final = 40
"""Of the number that tells one walk of a client from another."""


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


class Question(NamedTuple):
    """A page of each of some shards, as columns of one call of `wire.SCAN`."""

    shards: list[int]
    attempts: list[int]
    """At which of the tries at a shard's picture the page is."""
    prefixes: list[str]
    """Empty: of a frozen shard that is all that it holds, str keys and bytes keys."""
    values: list[int]
    operands: list[int]


class _Shard:
    """A shard under way."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.attempt = 0
        self.walk = self.cursor = 0
        self.position: int | None = None
        """The version that the shard was at in the moment that is shown; None: nothing has come yet."""

    def begin(self, walk: int) -> None:
        """Start over, with a walk of its own: the node that forgot the former may have begun it again by itself."""
        self.attempt += 1
        self.walk = walk
        self.cursor = 0
        self.position = None


class Pictures:
    """A dump in the making: while it is not `over`, `ask`, fetch that, and `take` it; if that fails, so does the dump.

    `number(bits)` makes the numbers of walks: a client must not use one twice.
    """

    def __init__(
        self, sink: Sink, head: Head, number: Callable[[int], int], *, attempts: int = ATTEMPTS,
        at_once: int = SHARDS_AT_ONCE,
    ) -> None:  # fmt: skip
        self._number = number
        self._attempts = attempts
        self._most_at_once = self._at_once = at_once
        self._count = self._left = head.shards
        self._waiting = deque(range(head.shards))
        self._under_way: list[_Shard] = []
        self._asked: list[_Shard] = []
        self._begun_anew = 0
        self._writer = Writer(sink)
        self._writer.head(head)

    @property
    def over(self) -> bool:
        """Whether all shards are done, and the footer is written."""
        return not self._left

    @property
    def state(self) -> Dumped:
        """How far it is."""
        writer = self._writer
        return Dumped(self._count - self._left, self._count, writer.records, writer.bytes, self._begun_anew)

    def ask(self) -> Question:
        """The next pages that are wanted."""
        while self._waiting and len(self._under_way) < self._at_once:
            shard = _Shard(self._waiting.popleft())
            shard.begin(self._number(WALK_BITS))
            self._under_way.append(shard)
        asked = self._asked = self._under_way[: self._at_once]
        return Question(
            [shard.number for shard in asked], [shard.attempt for shard in asked], [""] * len(asked),
            [shard.walk << wire.SCAN_MODE_BITS | wire.SCAN_FROZEN for shard in asked],
            [shard.cursor for shard in asked],
        )  # fmt: skip

    def take(self, versions: Sequence[int], pages: Sequence[Any]) -> None:
        """What was asked for, with the position that each page shows. Raises Unavailable after too many tries at one
        shard, ProtocolError for what is no page, and what the sink raises; then nothing of the dump is of use."""
        for page in pages:
            if type(page) is not list or len(page) != 6:
                raise ProtocolError("a node answered with a page that cannot be read")
        came = list(zip(self._asked, versions, pages, strict=True))
        lost = [shard for shard, version, page in came if not self._take(shard, version, page)]
        for shard in lost:
            self._again(shard)
        ended = {shard for shard, _, page in came if shard not in lost and page[4] is None}
        for shard in ended:
            self._writer.end(shard.number, shard.attempt, shard.position or 0)
        self._under_way = [shard for shard in self._under_way if shard not in ended]
        self._left -= len(ended)
        more = self._at_once + len(ended)
        self._at_once = max(1, self._at_once // 2) if lost else min(self._most_at_once, more)
        if self.over:
            self._writer.foot()

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
        if shard.attempt >= self._attempts:
            raise Unavailable(
                f"shard {shard.number} had no picture of one moment in {self._attempts} tries: it changes hands, or "
                "its pages are fetched too slowly; nothing was kept, repeat the dump when the cluster is steady"
            )
        shard.begin(self._number(WALK_BITS))
        self._begun_anew += 1
