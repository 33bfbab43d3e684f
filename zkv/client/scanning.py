"""The keys with a prefix, page by page: a few shards at a time, so that neither side holds more than it has to.

Every key that lives throughout is seen exactly once, whatever fails or moves meanwhile: a page ends at a hash, not at a
place in somebody's memory. Keys that come or go meanwhile may or may not be seen.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, NamedTuple

from zkv.client.operations import call_error
from zkv.client.plans import LearnMap, Many, NameOf, Step, operation
from zkv.client.results import Key
from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.core.shardmap import ShardMap
from zkv.values import check_keys

SHARDS_AT_ONCE: Final = 64
"""Shards whose pages are asked for together."""


class Page(NamedTuple):
    """Some of the keys, and where to go on."""

    keys: list[Key]
    next: dict[int, int] | None
    """Shard -> hash to go on from; None: these were the last."""


class ScanOperations:
    """Operations that go through the keys."""

    manager: str

    @operation
    def keys(self, prefix: Key = "", *, timeout_s: float | None = None) -> Generator[Step, Any, list[Key]]:
        """All keys that begin with `prefix`, in no order: str keys for a str prefix, bytes keys for a bytes prefix.

        `timeout_s`: for each of the requests that it takes. For many millions of keys walk through a `zkv.Map` instead,
        which holds a page at a time.

        >>> puts = kv.mput({"fruit:apple": 1, "fruit:pear": 2, "tool:saw": 3, b"fruit:lime": 4})
        >>> sorted(kv.keys("fruit:"))
        ['fruit:apple', 'fruit:pear']
        >>> kv.keys(b"")
        [b'fruit:lime']
        """
        check_keys((prefix,))

        def steps() -> Generator[Step, Any, list[Key]]:
            found: list[Key] = []
            position: dict[int, int] | None = {}
            while position is not None:
                page = yield from page_steps(self.manager, prefix, position, timeout_s)
                found += page.keys
                position = page.next
            return found

        return steps()

    @operation
    def _page(
        self, prefix: Key, position: dict[int, int], *, timeout_s: float | None = None
    ) -> Generator[Step, Any, Page]:
        """The keys at a position, which begins as {}."""
        return page_steps(self.manager, prefix, position, timeout_s)


def page_steps(
    manager: str, prefix: Key, position: dict[int, int], timeout_s: float | None
) -> Generator[Step, Any, Page]:
    """Steps to the next page: of each of the first shards that are left, what follows the cursor."""
    if not position:
        shard_map: ShardMap = yield LearnMap(timeout_s)
        position = dict.fromkeys(range(len(shard_map.shards)), 0)
    shards = list(position)[:SHARDS_AT_ONCE]

    def finish(call: Call, _: NameOf) -> list[Any]:
        if call.failures:
            raise call_error(call, manager)
        return list(call.columns()[1])

    pages = yield Many(
        wire.KEYS, [prefix] * len(shards), finish, values=shards, operands=[position[shard] for shard in shards],
        timeout_s=timeout_s,
    )  # fmt: skip
    left = dict(position)
    keys: list[Key] = []
    for shard, (found, cursor) in zip(shards, pages, strict=True):
        keys += found
        if cursor is None:
            del left[shard]
        else:
            left[shard] = cursor
    return Page(keys, left or None)
