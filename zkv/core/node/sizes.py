"""What entries take in this process: the account behind `memory_limit_bytes`.

CPython's own sizes (3.11, 64 bits), of whole columns at once where they are of one type, since it is done for every
write on every replica. They follow from the contents alone, so what is added with an entry is just what goes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgpack import ExtType

BYTES_HEAD: Final = 33
TEXT_HEAD: Final = 49
WIDE_TEXT_HEAD: Final = 76
WIDE: Final = 4
"""Bytes of a character where not all are ASCII: two in memory and two in UTF-8, kept once the text has travelled; the
worst case is 8."""
NUMBER_BYTES: Final = 32
EXT_HEAD: Final = 64 + BYTES_HEAD
ENTRY_BYTES: Final = 48 + 16
"""Of each entry, besides its key and itself (`entries`): its slot in the table (half of a table's slots are free on
average), and what the allocator rounds up."""
EXPIRY_BYTES: Final = 64
"""Of an entry that expires: its slot in the wheel."""


def size_of(item: Any) -> int:
    """Bytes of a key or value."""
    kind = type(item)
    if kind is bytes:
        return BYTES_HEAD + len(item)
    if kind is str:
        return TEXT_HEAD + len(item) if item.isascii() else WIDE_TEXT_HEAD + WIDE * len(item)
    if kind is ExtType:
        return EXT_HEAD + len(item.data)
    return 0 if item is None or kind is bool else NUMBER_BYTES


def size_of_all(items: Sequence[Any]) -> int:
    """Bytes of a column of keys or values."""
    kinds = set(map(type, items))
    if kinds == {bytes}:
        return BYTES_HEAD * len(items) + sum(map(len, items))
    if kinds == {str} and all(map(str.isascii, items)):
        return TEXT_HEAD * len(items) + sum(map(len, items))
    return sum(map(size_of, items))
