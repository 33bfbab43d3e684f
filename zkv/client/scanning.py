"""Going through the keys with a prefix, page by page: a few shards at a time, so that neither side holds more than it
has to.

Every key that lives throughout is seen exactly once, whatever fails or moves meanwhile: a page ends at a hash, not at a
place in somebody's memory. Keys that come or go meanwhile may or may not be seen.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Generator, Sequence
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from zkv.client.operations import call_error
from zkv.client.plans import LearnMap, Many, Step, operation
from zkv.client.results import Entry, Key
from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.core.shardmap import ShardMap
from zkv.errors import ProtocolError
from zkv.values import Codec, check_keys

SHARDS_AT_ONCE: Final = 16
"""Shards whose pages are asked for together. A node looks at a bounded number of keys for a request: the pages of more
shards would mostly come back empty."""
WALK_BITS: Final = 40

Position = dict[int, int]
"""Shard -> hash to go on from."""


class ShardPage(NamedTuple):
    """What one shard holds from a cursor on, as it came."""

    version: int
    """Of a frozen scan: the shard's position at the moment that it shows. If it is not that of the pages before, the
    walk began anew: what came of this shard is void."""
    keys: list[Key]
    versions: list[int]
    """Empty, as are values and expiries, where only keys were asked for."""
    values: list[Any]
    """As they travel; a codec decodes them."""
    expiries: list[int]
    """In cluster time, milliseconds; 0: never."""
    next: int | None
    """The cursor of the next page; None: this was the last."""
    total: int
    """How many keys there are; only where that was asked for."""
    server: str
    """Name of the node that answered."""


class ScanOperations:
    """Operations that go through the keys."""

    manager: str
    _codec: Codec

    @operation
    def keys(self, prefix: Key = "", *, timeout_s: float | None = None) -> Generator[Step, Any, list[Key]]:
        """All keys that begin with `prefix`, in no order: str keys for a str prefix, bytes keys for a bytes prefix.

        `timeout_s`: for each of the requests that it takes. For many millions of keys use `scan`, or walk through a
        `zkv.Map`, which hold a page at a time.

        >>> puts = kv.mput({"fruit:apple": 1, "fruit:pear": 2, "tool:saw": 3, b"fruit:lime": 4})
        >>> sorted(kv.keys("fruit:"))
        ['fruit:apple', 'fruit:pear']
        >>> kv.keys(b"")
        [b'fruit:lime']
        """
        check_keys((prefix,))

        def steps() -> Generator[Step, Any, list[Key]]:
            found: list[Key] = []
            walk = Walk(wire.SCAN_KEYS, prefix, timeout_s)
            while not walk.over:
                for page in (yield from walk.steps(self.manager)):
                    found += page.keys
            return found

        return steps()

    @operation
    def count(self, prefix: Key = "", *, timeout_s: float | None = None) -> Generator[Step, Any, int]:
        """How many keys begin with `prefix`: str keys for a str prefix, bytes keys for a bytes prefix.

        They are counted where they are, shard after shard. `timeout_s`: for each of the requests that it takes.

        >>> puts = kv.mput({"fruit:apple": 1, "fruit:pear": 2, "tool:saw": 3, b"fruit:lime": 4})
        >>> kv.count("fruit:"), kv.count(), kv.count(b"")
        (2, 3, 1)
        """
        check_keys((prefix,))

        def steps() -> Generator[Step, Any, int]:
            total = 0
            walk = Walk(wire.SCAN_COUNT, prefix, timeout_s)
            while not walk.over:
                total += sum(page.total for page in (yield from walk.steps(self.manager)))
            return total

        return steps()

    @operation
    def flush(self, prefix: Key = "", *, timeout_s: float | None = None) -> Generator[Step, Any, int]:
        """Delete the keys that begin with `prefix`, page by page; returns how many were deleted.

        A str prefix deletes str keys, a bytes prefix bytes keys: `flush()` and `flush(b"")` together empty the cluster.
        What others put meanwhile may stay. `timeout_s`: for each of the requests that it takes. After an error some are
        deleted and others not; to flush again goes on.

        >>> puts = kv.mput({"fruit:apple": 1, "fruit:pear": 2, "tool:saw": 3})
        >>> kv.flush("fruit:"), kv.keys()
        (2, ['tool:saw'])
        """
        check_keys((prefix,))

        def steps() -> Generator[Step, Any, int]:
            deleted = 0
            walk = Walk(wire.SCAN_KEYS, prefix, timeout_s)
            while not walk.over:
                keys = [key for page in (yield from walk.steps(self.manager)) for key in page.keys]
                if keys:
                    deleted += yield Many(wire.DELETE, keys, self._deleted, timeout_s=timeout_s)
            return deleted

        return steps()

    @operation
    def _scan_page(
        self, mode: int, prefix: Key, position: Position, walk: int, *, timeout_s: float | None = None
    ) -> Many[dict[int, ShardPage]]:
        """One page of each shard of `position` (at most 64), from its cursor on, which begins at 0.

        `mode`: one of `wire.SCAN_…`. `walk`: a number below 2**40 that is the caller's own for this walk: a node that
        froze a shard for a walk shows the same to all its pages. A shard that there was no time or no room for
        has no keys, version 0, and its own cursor as `next`: ask again.
        """
        return page_plan(self.manager, mode, prefix, position, walk, timeout_s)

    @operation
    def _walk_on(self, walk: Walk) -> Generator[Step, Any, list[ShardPage]]:
        """The next pages of a walk."""
        return walk.steps(self.manager)

    def _entries(self, page: ShardPage) -> list[Entry]:
        values = self._codec.decode_column(page.values, None)
        rows = zip(page.keys, values, page.versions, strict=True)
        return [Entry(key, value, version, page.server) for key, value, version in rows]

    def _deleted(self, call: Call, _: ShardMap) -> int:
        if call.failures:
            raise call_error(call, self.manager)
        return sum(status == wire.OK for status in call.columns()[2])


class Walk:
    """A way through all shards, some at a time."""

    def __init__(self, mode: int, prefix: Key, timeout_s: float | None = None) -> None:
        self.mode = mode
        self.prefix = prefix
        self.timeout_s = timeout_s
        self.position: Position | None = None
        """Of the shards that are left, in the order in which they are visited; None: not begun."""
        self.number = random.getrandbits(WALK_BITS)

    @property
    def over(self) -> bool:
        """Whether all shards were seen to their end."""
        return self.position is not None and not self.position

    def steps(self, manager: str) -> Generator[Step, Any, list[ShardPage]]:
        """Steps to the next pages. Where they fail the walk stays where it is, and may go on later."""
        if self.position is None:
            shard_map: ShardMap = yield LearnMap(self.timeout_s)
            self.position = dict.fromkeys(_in_turn(shard_map), 0)
        position = dict(list(self.position.items())[:SHARDS_AT_ONCE])
        pages: dict[int, ShardPage] = yield page_plan(
            manager, self.mode, self.prefix, position, self.number, self.timeout_s
        )
        for shard, page in pages.items():
            if page.next is None:
                del self.position[shard]
            else:
                self.position[shard] = page.next
        return list(pages.values())


def _in_turn(shard_map: ShardMap) -> list[int]:
    """All shards, so that those of one call lie at as many nodes as can be."""
    by_primary: dict[int, list[int]] = defaultdict(list)
    for number, shard in enumerate(shard_map.shards):
        by_primary[shard.primary].append(number)
    rounds = zip_longest(*by_primary.values())
    return [number for several in rounds for number in several if number is not None]


def page_plan(
    manager: str, mode: int, prefix: Key, position: Position, walk: int, timeout_s: float | None
) -> Many[dict[int, ShardPage]]:
    """The plan of one call for pages."""
    shards = list(position)

    def finish(call: Call, shard_map: ShardMap) -> dict[int, ShardPage]:
        if call.failures:
            raise call_error(call, manager)
        versions, values, _, sources = call.columns()
        rows = zip(shards, versions, values, sources, strict=True)
        return {shard: _page_of(version, value, shard_map.name_of(source)) for shard, version, value, source in rows}

    return Many(
        wire.SCAN, [prefix] * len(shards), finish, values=[walk << wire.SCAN_MODE_BITS | mode] * len(shards),
        operands=list(position.values()), timeout_s=timeout_s, shards=shards,
    )  # fmt: skip


def _page_of(version: int, value: Any, server: str) -> ShardPage:
    """A page as it came. Raises ProtocolError."""
    try:
        keys, versions, values, expiries, cursor, count = value
        page = ShardPage(
            version, keys or [], _numbers(versions), values or [], _numbers(expiries), cursor, count or 0, server
        )
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"{server} answered with a page that cannot be read: {error}") from error
    return page


def _numbers(packed: Any) -> list[int]:
    return [] if packed is None else wire.unpack_u64(packed)


__all__: Sequence[str] = ["Position", "ScanOperations", "ShardPage", "Walk"]
