"""The file format of dumps: pure reading and writing of byte streams. docs/DUMP.md describes it byte by byte.

A dump is a signature with the format's version, then blocks. Each block has a checksum of itself that is seeded with
the checksum of the one before, so a flipped bit is found in the block that it is in, and blocks that were left out,
swapped, or come from another dump are found like flipped bits. The last block is a footer with the totals: a file
without it was cut short.

One block may take back others. A shard whose picture could not be finished (its primary died, say) is begun anew with
the next *attempt* number, and what the dump holds of its earlier attempts is void. The alternative, to truncate the
file, works for files alone, and for one shard at a time; this way a dump is only ever appended to, so a pipe is as good
as a file and several shards may be under way. The price is that a reader has to be at the end of a shard to know what
counts: it reads the dump twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import xxhash
from msgpack import ExtType, Timestamp

from zkv.core import wire
from zkv.errors import UsageError
from zkv.values import check_keys

__all__ = ["BLOCK_BYTES", "FORMAT", "BadDump", "Block", "End", "Entries", "Foot", "Head", "Reader", "Writer"]

SIGNATURE: Final = b"\x89zkv\r\n\x1a\n"
"""As PNG's: no text begins so, and a transfer as text, which changes line ends, destroys it."""
FORMAT: Final = 1
START: Final = struct.Struct("<8sI")
"""Signature, format version."""
BLOCK: Final = struct.Struct("<IIQ")
"""Kind, bytes of the body, checksum."""
_SUMMED: Final = struct.Struct("<II")
"""What of a block's head its checksum covers: all but itself."""

HEAD: Final = 1
ENTRIES: Final = 2
END: Final = 3
FOOT: Final = 4

BLOCK_BYTES: Final = 2**20
"""A block with several entries is not larger."""
BODY_LIMIT_BYTES: Final = 32 * 2**20
"""No block is larger: a damaged length does not make a reader take memory for it. The largest entry has a bit more than
16 MiB."""

_WIRE_TYPES: Final = frozenset({bytes, str, int, float, bool, ExtType, Timestamp})


class BadDump(UsageError):
    """What is read is no dump, is of a newer format, or is damaged. `offset`: of the first byte that is wrong, or of
    the block that has it."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


class Head(NamedTuple):
    """The first block: where the dump comes from."""

    cluster: int
    """Id of the cluster."""
    shards: int
    """How many the cluster has. Numbers of shards mean something only within one dump."""
    cluster_ms: int
    """The cluster's time when the dump began, milliseconds since the Unix epoch; 0: not known."""
    writer: str
    """Name and version of the program that made it."""


class Entries(NamedTuple):
    """Some of a shard's entries."""

    shard: int
    attempt: int
    """Which try at the shard's picture this belongs to: 1, 2, …; a later one voids all before."""
    keys: list[str | bytes]
    versions: bytes
    """Packed (`wire.unpack_u64`). For information: a load makes new ones."""
    values: list[Any]
    """As they travel (`zkv.values.Wire`)."""
    expiries: bytes
    """Packed: cluster time at which each expires, milliseconds since the Unix epoch; 0: never."""


class End(NamedTuple):
    """A shard's picture is whole."""

    shard: int
    attempt: int
    position: int
    """The version that the shard was at: all changes up to it are in the picture, none after it."""
    records: int
    """Entries of this attempt."""


class Foot(NamedTuple):
    """The last block."""

    shards: int
    """Those that have ended: all of them."""
    records: int
    """Entries that count."""
    void: int
    """Entries of attempts that do not count."""


Content = Head | Entries | End | Foot
_MAKERS: Final[dict[int, type[Head] | type[Entries] | type[End] | type[Foot]]] = {
    HEAD: Head, ENTRIES: Entries, END: End, FOOT: Foot,
}  # fmt: skip


class Block(NamedTuple):
    """A block and where it stands."""

    offset: int
    content: Content


class Source(Protocol):
    """Where bytes come from: fewer than asked for only at the end."""

    def read(self, size: int, /) -> bytes: ...


class Sink(Protocol):
    """Where bytes go to, all of them."""

    def write(self, data: bytes, /) -> Any: ...


# --- writing ------------------------------------------------------------------------------------------------------


class Writer:
    """Writes one dump, block after block: `head`, then `entries` and `end` of all shards, in any order, then `foot`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.bytes = 0
        """Written so far."""
        start = START.pack(SIGNATURE, FORMAT)
        self._checksum = xxhash.xxh3_64_intdigest(start)
        self._put(start)
        self._ledger = _Ledger()

    @property
    def records(self) -> int:
        """Entries that count, of shards that have ended."""
        return self._ledger.records

    def head(self, head: Head) -> None:
        """The first block."""
        self._ledger.head(head)
        self._block(HEAD, list(head))

    def entries(self, entries: Entries) -> None:
        """Entries of a shard. Its earlier attempts are void from here on."""
        self._ledger.entries(entries)
        self._entries(entries)

    def end(self, shard: int, attempt: int, position: int) -> None:
        """A shard's picture is whole."""
        end = End(shard, attempt, position, self._ledger.records_of(shard, attempt))
        self._ledger.end(end)
        self._block(END, list(end))

    def foot(self) -> Foot:
        """The last block. All shards must have ended."""
        foot = self._ledger.foot()
        self._block(FOOT, list(foot))
        return foot

    def _entries(self, entries: Entries) -> None:
        body = wire.pack(list(entries))
        count = len(entries.keys)
        if len(body) <= BLOCK_BYTES or count == 1:
            self._packed(ENTRIES, body)
            return
        for part in (slice(0, count // 2), slice(count // 2, count)):
            packed = slice(8 * part.start, 8 * part.stop)
            self._entries(
                Entries(
                    entries.shard, entries.attempt, entries.keys[part], entries.versions[packed], entries.values[part],
                    entries.expiries[packed],
                )
            )  # fmt: skip

    def _block(self, kind: int, fields: list[Any]) -> None:
        self._packed(kind, wire.pack(fields))

    def _packed(self, kind: int, body: bytes) -> None:
        self._checksum = _checksum(self._checksum, kind, body)
        self._put(BLOCK.pack(kind, len(body), self._checksum))
        self._put(body)

    def _put(self, data: bytes) -> None:
        self._sink.write(data)
        self.bytes += len(data)


def _checksum(before: int, kind: int, body: bytes) -> int:
    """xxh3-64 of a block, seeded with the checksum of the one before."""
    digest = xxhash.xxh3_64(_SUMMED.pack(kind, len(body)), before)
    digest.update(body)
    return digest.intdigest()


# --- reading ------------------------------------------------------------------------------------------------------


class Reader:
    """Reads one dump: iterate over it. What ends without an exception was read whole, footer included, and is intact.

    Raises BadDump. `offset`: bytes read and found good so far.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.offset = 0
        start = source.read(START.size)
        if len(start) < START.size and SIGNATURE.startswith(start[: len(SIGNATURE)]):
            raise BadDump(f"this is no dump of zkv: it has {len(start)} bytes only", len(start))
        if start[: len(SIGNATURE)] != SIGNATURE:
            raise BadDump("this is no dump of zkv: it does not begin like one")
        self._checksum = xxhash.xxh3_64_intdigest(start)
        version = START.unpack(start)[1]
        if version != FORMAT:
            if version < FORMAT:
                raise _damaged("the format's version", len(SIGNATURE))
            raise BadDump(
                f"the dump has format {version}, and this zkv reads format {FORMAT}: load it with a newer zkv",
                len(SIGNATURE),
            )
        self.offset = START.size

    def __iter__(self) -> Iterator[Block]:
        ledger = _Ledger()
        while not ledger.closed:
            offset = self.offset
            kind, body = self._read()
            try:
                content = _content(kind, wire.decode_body(body, 0))
                ledger.check(content)
            except wire.UNPARSABLE as error:  # intact, but not made by a Writer
                raise BadDump(f"the block at byte {offset} contradicts the format: {error}", offset) from None
            yield Block(offset, content)
        if self._source.read(1):
            raise BadDump(f"there is something behind the dump's end at byte {self.offset}", self.offset)

    def _read(self) -> tuple[int, bytes]:
        """The next block, whose checksum is right."""
        offset = self.offset
        head = self._source.read(BLOCK.size)
        if not head:
            raise BadDump(f"the dump was cut short: it ends at byte {offset}, without its footer", offset)
        if len(head) < BLOCK.size:
            raise _cut_short(offset)
        kind, length, checksum = BLOCK.unpack(head)
        if length > BODY_LIMIT_BYTES:
            raise _damaged("the block", offset)
        body = self._source.read(length)
        if len(body) < length:
            raise _cut_short(offset)
        self._checksum = _checksum(self._checksum, kind, body)
        if checksum != self._checksum:
            raise _damaged("the block", offset)
        self.offset += BLOCK.size + length
        return kind, body


def _damaged(what: str, offset: int) -> BadDump:
    return BadDump(f"the dump is damaged: {what} at byte {offset} is not what was written", offset)


def _cut_short(offset: int) -> BadDump:
    return BadDump(f"the dump was cut short, or is damaged: it ends within the block at byte {offset}", offset)


def _content(kind: int, fields: Any) -> Content:
    """A block's body as what it stands for. Raises one of `wire.UNPARSABLE`."""
    make = _MAKERS.get(kind)
    if make is None:
        raise wire.Malformed(f"blocks of kind {kind} are not known")
    if not isinstance(fields, list) or len(fields) < len(make._fields):
        raise wire.Malformed(f"a block of kind {kind} has other fields")
    content = make(*fields[: len(make._fields)])  # a later zkv may add fields without changing the format
    if isinstance(content, Entries):
        _check_columns(content)
    else:
        texts = content[-1:] if kind == HEAD else ()
        _check_numbers(content[: len(content) - len(texts)])
    return content


def _check_numbers(fields: Sequence[Any]) -> None:
    if not all(type(field) is int and field >= 0 for field in fields):
        raise wire.Malformed("a number is missing")


def _check_columns(entries: Entries) -> None:
    _check_numbers(entries[:2])
    lengths = {
        len(entries.keys), len(entries.values), len(wire.unpack_u64(entries.versions)),
        len(wire.unpack_u64(entries.expiries)),
    }  # fmt: skip
    if len(lengths) != 1 or type(entries.keys) is not list or type(entries.values) is not list:
        raise wire.Malformed("columns are not as long as each other")
    check_keys(entries.keys)
    if not set(map(type, entries.values)) <= _WIRE_TYPES:
        raise wire.Malformed("a value is none that a client stores")


class _Ledger:
    """What was written, or read, so far: which attempts count, how much they hold, and whether the next block may come.

    Takes memory for each shard, and for no entry. Raises `wire.Malformed` for what contradicts the format.
    """

    def __init__(self) -> None:
        self._shards = -1
        """How many there are; -1 before the head."""
        self._under_way: dict[int, tuple[int, int]] = {}
        """Shard -> its latest attempt, and the entries of it."""
        self._ended: set[int] = set()
        self.records = 0
        self._void = 0
        self.closed = False

    def check(self, content: Content) -> None:
        """Take one block that was read."""
        if isinstance(content, Entries):
            self.entries(content)
        elif isinstance(content, End):
            self.end(content)
        elif isinstance(content, Head):
            self.head(content)
        elif content != self.foot():
            raise wire.Malformed("the totals are wrong")

    def head(self, head: Head) -> None:
        if self._shards >= 0:
            raise wire.Malformed("a second head")
        self._shards = head.shards

    def entries(self, entries: Entries) -> None:
        shard, attempt = entries.shard, entries.attempt
        latest, records = self._latest(shard)
        if attempt < latest:
            raise wire.Malformed(f"attempt {attempt} at shard {shard} comes after attempt {latest}")
        if attempt > latest:
            self._void += records
            records = 0
        self._under_way[shard] = attempt, records + len(entries.keys)

    def records_of(self, shard: int, attempt: int) -> int:
        """Entries of an attempt so far."""
        latest, records = self._under_way.get(shard, (0, 0))
        return records if attempt == latest else 0

    def end(self, end: End) -> None:
        latest, records = self._latest(end.shard)
        counted = self.records_of(end.shard, end.attempt)
        if end.attempt < latest or end.records != counted:
            raise wire.Malformed(f"shard {end.shard} ends with {end.records} entries where there are {counted}")
        self._void += records - counted
        self.records += counted
        self._ended.add(end.shard)
        self._under_way.pop(end.shard, None)

    def foot(self) -> Foot:
        if len(self._ended) != self._shards:
            raise wire.Malformed(f"{len(self._ended)} of {self._shards} shards have ended")
        self.closed = True
        return Foot(len(self._ended), self.records, self._void)

    def _latest(self, shard: int) -> tuple[int, int]:
        if not 0 <= shard < self._shards:
            raise wire.Malformed(f"shard {shard} of {self._shards}")
        if shard in self._ended:
            raise wire.Malformed(f"shard {shard} has ended already")
        return self._under_way.get(shard, (0, 0))
