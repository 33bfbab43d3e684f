"""The form in which a node keeps an entry: version, value and expiry in as little memory as the interpreter has.

A tuple of three, its version and a value of 16 bytes are three objects of 64, 32 and 49 bytes. So a small value is
kept as the MessagePack that it travels as, behind version and expiry, in one bytes object: 48 bytes less with any
value, nothing that the garbage collector has to look at, and a reply to a get is joined from what is there. A larger
value would have to be copied to be read, and saves nothing worth it: its entry is the tuple.

The same contents are always kept in the same form, so equal entries are equal, and what one takes follows from them.
(Redis keeps small strings with their headers likewise: `embstr`. `experiments/memory.py --part layouts` compares.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import add, itemgetter
from struct import Struct
from typing import Any, Final

from msgpack import ExtType

from zkv.core import wire
from zkv.core.node.sizes import BYTES_HEAD, NUMBER_BYTES, size_of

PACKED_MOST: Final = 256
"""Bytes of the longest value that is packed, as MessagePack."""

Entry = tuple[int, Any, int]
"""(version, value, expiry): an entry opened. A value of None is a tombstone, an expiry of 0 is never."""
StoredEntry = bytes | Entry
"""An entry as it is kept."""

_HEAD: Final = Struct("<QQ")
_VALUE: Final = _HEAD.size
_NIL: Final = 0xC0
_NEVER: Final = bytes(8)

ABSENT: Final[StoredEntry] = _HEAD.pack(0, 0) + bytes((_NIL,))
"""What a key that was never written looks like."""

TUPLE_BYTES: Final = 64 + NUMBER_BYTES
"""Of an entry that is a tuple, with its version."""

_version_part: Final = itemgetter(slice(8))
_numbers_part: Final = itemgetter(slice(_VALUE))
_value_part: Final = itemgetter(slice(_VALUE, None))


def stored(version: int, value: Any, expires_ms: int) -> StoredEntry:
    """An entry as it is kept."""
    if _is_large(value):
        return version, value, expires_ms
    packed = wire.pack(value)
    return _HEAD.pack(version, expires_ms) + packed if len(packed) <= PACKED_MOST else (version, value, expires_ms)


def stored_all(versions: Sequence[int], values: Sequence[Any], expiries: Iterable[int] | None) -> list[StoredEntry]:
    """Columns as they are kept; `expiries`: None if nothing expires. Where all values are small these are loops in C.
    """
    until = repeat(0) if expiries is None else expiries
    if values and not _is_large(values[0]):
        packed = list(map(wire.packing(), values))
        if max(map(len, packed)) <= PACKED_MOST:
            return list(map(add, map(_HEAD.pack, versions, until), packed))
    return list(map(stored, versions, values, until))


def _is_large(value: Any) -> bool:
    """Whether a value is certainly too long to be packed; then it need not be tried."""
    if isinstance(value, ExtType):
        value = value.data
    return isinstance(value, bytes | str) and len(value) >= PACKED_MOST


def opened(entry: StoredEntry) -> Entry:
    """Version, value and expiry of an entry."""
    if isinstance(entry, tuple):
        return entry
    version, expires_ms = _HEAD.unpack_from(entry)
    return version, wire.unpack(entry[_VALUE:]), expires_ms


def columns_of(entries: Sequence[StoredEntry]) -> tuple[Sequence[int], Sequence[Any], Sequence[int]]:
    """Versions, values and expiries of entries."""
    try:
        numbers = wire.unpack_u64(b"".join(map(_numbers_part, entries)))
    except TypeError:  # that was a slice of a tuple
        rows = list(map(opened, entries))
        return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    return numbers[::2], wire.unpack(packed_values(entries)), numbers[1::2]


def versions_of(entries: Sequence[StoredEntry]) -> list[int]:
    """The versions of entries."""
    try:
        return wire.unpack_u64(b"".join(map(_version_part, entries)))
    except TypeError:  # that was a slice of a tuple
        return list(map(version_of, entries))


def packed_values(entries: Sequence[StoredEntry]) -> bytes:
    """The values of entries as a MessagePack array: what a reply brings."""
    try:
        return wire.pack_array(map(_value_part, entries), len(entries))
    except TypeError:  # that was a slice of a tuple
        pieces = [entry[_VALUE:] if isinstance(entry, bytes) else wire.pack(entry[1]) for entry in entries]
        return wire.pack_array(pieces, len(pieces))


def version_of(entry: StoredEntry) -> int:
    """The version of an entry."""
    return entry[0] if isinstance(entry, tuple) else int.from_bytes(entry[:8], "little")


def expires_ms_of(entry: StoredEntry) -> int:
    """The expiry of an entry in cluster time; 0: never."""
    if isinstance(entry, tuple):
        return entry[2]
    until = entry[8:_VALUE]
    return 0 if until == _NEVER else int.from_bytes(until, "little")


def is_tombstone(entry: StoredEntry) -> bool:
    """Whether it says that there is nothing under its key."""
    return entry[1] is None if isinstance(entry, tuple) else entry[_VALUE] == _NIL


def is_there(entry: StoredEntry | None, cluster_ms: int) -> bool:
    """Whether there is something under a key. What has expired is as good as deleted: it will be in a moment."""
    return entry is not None and not is_tombstone(entry) and not 0 < expires_ms_of(entry) <= cluster_ms


def size_of_stored(entry: StoredEntry) -> int:
    """Bytes of an entry, without its key and what each takes in the table (`sizes`)."""
    if isinstance(entry, bytes):
        return BYTES_HEAD + len(entry)
    return TUPLE_BYTES + size_of(entry[1]) + (NUMBER_BYTES if entry[2] else 0)


def size_of_all_stored(entries: Sequence[StoredEntry]) -> int:
    """Bytes of entries."""
    if set(map(type, entries)) <= {bytes}:
        return BYTES_HEAD * len(entries) + sum(map(len, entries))
    return sum(map(size_of_stored, entries))
