"""Pages of a shard's keys, in the order of their hashes.

A cursor is a hash, never a place in a table: it means the same on every replica, whatever was written, moved or filled
meanwhile, so that every key that lives throughout is seen exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nsmallest
from typing import Any, Final

import xxhash

from zkv.core.node.store import Entry

PAGE_KEYS: Final = 512
"""Keys of a page, but for those that share the last one's hash."""


def page_of_keys(table: Mapping[str | bytes, Entry], prefix: str | bytes, cursor: int) -> list[Any]:
    """`[keys, next cursor]`: keys of the prefix's type that begin with it, from hash `cursor` on; None: no more."""
    kind = type(prefix)
    digest = xxhash.xxh3_64_intdigest
    found = [
        (place, key)
        for key, (_, value) in table.items()
        if type(key) is kind and key.startswith(prefix) and value is not None  # type: ignore[arg-type]
        and (place := digest(key.encode() if isinstance(key, str) else key)) >= cursor
    ]  # fmt: skip
    if len(found) <= PAGE_KEYS:
        return [[key for _, key in found], None]
    last = nsmallest(PAGE_KEYS, (place for place, _ in found))[-1]
    keys = [key for place, key in found if place <= last]
    return [keys, last + 1 if last < max(place for place, _ in found) else None]
