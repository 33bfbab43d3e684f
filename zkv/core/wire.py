"""The frames that travel between processes: one fixed header, then a MessagePack body.

Every message is self-contained. The header names the cluster, the sender's boot id (or client id), the boot id
it is meant for and the sender's map version, so that a frame which reaches a later incarnation on a reused port,
another cluster, or a member with an older map is recognised before its body is looked at (SAFETY 2, 3, 4). No
connection state is needed to read a frame, which is what lets ZeroMQ reconnect underneath us.

Columns of integers are packed little-endian (`pack_u16` and friends): decoding them costs a tenth of decoding a
MessagePack list. docs/PROTOCOL.md describes every body, byte by byte.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgpack

MAGIC: Final = b"zk"
PROTOCOL: Final = 3

HEADER: Final = struct.Struct("<2sBBQQQQ")
"""magic, protocol version, kind, cluster id, sender (boot or client id), target boot id (0: anyone), map version."""

STREAM: Final = struct.Struct("<QQ")
"""Follows the header of a BATCH: sequence number in this stream, newest committed sequence number of this stream."""

FRAGMENT_BYTES: Final = 256 * 1024
"""No frame is longer than this (plus headers): longer ones travel as fragments, so that leases get through."""

# Anyone <-> manager
MAP_PULL: Final = 1
MAP: Final = 2
MAP_DELTA: Final = 3
BEACON: Final = 4
JOIN: Final = 5
WELCOME: Final = 6
HEARTBEAT: Final = 7
ACTIVE: Final = 8
ACTIVE_ACK: Final = 9
DEAD: Final = 10
DEAD_ACK: Final = 11
ACCUSE: Final = 12
STATUS_PULL: Final = 13
STATUS: Final = 14
FILLED: Final = 15
FILLED_ACK: Final = 16
ADMIN: Final = 17
ADMIN_REPLY: Final = 18
# Client <-> node
HELLO: Final = 20
HELLO_ACK: Final = 21
REQUEST: Final = 22
REPLY: Final = 23
REFUSED: Final = 24
# Node <-> node
BATCH: Final = 30
ACK: Final = 31
LEASE: Final = 32
GRANT: Final = 33
TAIL_PULL: Final = 34
TAILS: Final = 35
FENCE: Final = 36
FENCED: Final = 37
READ_LEASE: Final = 38
READ_GRANT: Final = 39
# Any link
FRAGMENT: Final = 40
FRAGMENT_ACK: Final = 41

KIND_NAMES: Final = {
    value: name
    for name, value in list(globals().items())
    if name.isupper() and isinstance(value, int) and name not in ("PROTOCOL", "FRAGMENT_BYTES")
}

# When a write is acknowledged (SAFETY 27)
ACK_DEFAULT: Final = 0
"""As the cluster's settings say."""
ACK_ALL: Final = 1
ACK_PRIMARY: Final = 2
ACK_LEVELS: Final = {"all": ACK_ALL, "primary": ACK_PRIMARY}

# Operations of a request, and what became of each
GET: Final = 1
PUT: Final = 2
DELETE: Final = 3
EXISTS: Final = 4
GET_ANY: Final = 5
"""A get that any in-sync replica may answer; one that cannot vouch for the answer says MOVED (SAFETY 13, 14)."""
GET_STALE: Final = 6
"""A get that any in-sync replica may answer with a committed value that need not be the newest."""
PUT_IF_ABSENT: Final = 7
PUT_IF_PRESENT: Final = 8
PUT_IF_VERSION: Final = 9
DELETE_IF_VERSION: Final = 10
INCR: Final = 11
APPEND: Final = 12
GETSET: Final = 13
SCAN: Final = 14
"""A page of what a shard holds under a prefix, in the order of the keys' hashes."""
WATCH: Final = 15
"""What was committed in a shard, under a prefix, after a version; the answer may wait until there is something."""
TOUCH: Final = 16
"""A new time to live for what is there, or none."""
TTL: Final = 17
OPERATIONS: Final = frozenset(range(GET, TTL + 1))
WRITES: Final = frozenset(
    (PUT, DELETE, PUT_IF_ABSENT, PUT_IF_PRESENT, PUT_IF_VERSION, DELETE_IF_VERSION, INCR, APPEND, GETSET, TOUCH)
)
REPLICA_READS: Final = frozenset((GET_ANY, GET_STALE))
TAKES_VALUE: Final = frozenset((PUT, PUT_IF_ABSENT, PUT_IF_PRESENT, PUT_IF_VERSION, INCR, APPEND, GETSET, SCAN))
TAKES_TTL: Final = frozenset((PUT, PUT_IF_ABSENT, PUT_IF_PRESENT, PUT_IF_VERSION, GETSET, TOUCH))
OF_SHARDS: Final = frozenset((SCAN, WATCH))
"""Operations on whole shards: their keys are prefixes."""
MIXABLE: Final = OPERATIONS - REPLICA_READS - OF_SHARDS
"""What one request may hold side by side."""

# What a SCAN brings, the two lowest bits of its value; the others tell one walk of a client from another.
SCAN_KEYS: Final = 0
SCAN_ENTRIES: Final = 1
SCAN_FROZEN: Final = 2
"""Entries as they were at one moment, the same for all pages."""
SCAN_COUNT: Final = 3
SCAN_MODE_BITS: Final = 2

NOW: Final = 2**64 - 1
"""Where a watch begins that wants nothing of what was before."""
# What happened to a key (events of a WATCH)
PUT_EVENT: Final = 0
DELETE_EVENT: Final = 1
EXPIRE_EVENT: Final = 2
EVICT_EVENT: Final = 3

OK: Final = 0
UNMET: Final = 1
"""A condition that did not hold, a delete of a missing key included. Nothing was changed, and it counts only as the
answer to the latest try (SAFETY 24)."""
MOVED: Final = 2
"""Not done here: this node does not serve the shard (definite)."""
NOT_READY: Final = 3
"""Not done here: primary, but not active or without a lease just now (definite; try again soon)."""
OLD_ROUTE: Final = 4
"""Not done: the request was routed by a map older than this primary's reign (definite, SAFETY 19)."""
BUSY: Final = 5
"""Not done: a queue is full (definite; back off)."""
LATE: Final = 6
"""Not done: the deadline had passed before it was looked at (definite, SAFETY 26)."""
EXPIRED: Final = 7
"""Refused: below the session's watermark; whether an earlier try was done is unknown (SAFETY 24, 25)."""
MAYBE: Final = 8
"""The primary was demoted while the reply waited for its commit: maybe done, ask again under the same identity
(SAFETY 18)."""
THIN: Final = 9
"""Not done: the shard has fewer in-sync copies than `min_in_sync` (definite; try again, SAFETY 27)."""
WRONG_TYPE: Final = 10
"""An increment of what is no number, or an append to another type: a failed condition like `UNMET`."""
TOO_LARGE: Final = 11
"""The result would not fit 64 bits, or the limit of a value: a failed condition like `UNMET`."""
OVERTAKEN: Final = 12
"""Done by an earlier try whose answer is lost: a later operation of the same request has taken effect on the key."""
NO_ROOM: Final = 13
"""The write would need memory beyond the node's limit: a failed condition like `UNMET`."""
GONE: Final = 14
"""What came after the version that a WATCH named is not remembered any more."""
FAILED: Final = frozenset((UNMET, WRONG_TYPE, TOO_LARGE, NO_ROOM, GONE))
"""Answers that depend on the state, changed nothing, and count only for the latest try."""
ANSWERS: Final = FAILED | {OK}
DEFINITE: Final = frozenset((MOVED, NOT_READY, OLD_ROUTE, BUSY, LATE, THIN))
"""Statuses that say for certain that this try did nothing and never will."""

# Whole-message refusals
BAD_REQUEST: Final = 1
WRONG_BOOT: Final = 2
WRONG_CLUSTER: Final = 3


class Malformed(ValueError):
    """A frame that does not parse. The peer's error, never ours: the frame is dropped or refused."""


UNPARSABLE: Final[tuple[type[Exception], ...]] = (
    Malformed, TypeError, ValueError, KeyError, IndexError, OverflowError, struct.error,
)  # fmt: skip
"""What reading a peer's frame may raise. Our own mistakes are AssertionErrors, and end the process."""


new_tuple: Final = tuple.__new__
"""Makes a NamedTuple without a call of Python code, for those of which there is one for each frame or operation."""


class Header(NamedTuple):
    """The decoded fixed header of a frame."""

    kind: int
    cluster: int
    sender: int
    target: int
    map_version: int


def encode(kind: int, cluster: int, sender: int, target: int, map_version: int, body: Any) -> bytes:
    """One frame: header, then `body` as MessagePack."""
    return HEADER.pack(MAGIC, PROTOCOL, kind, cluster, sender, target, map_version) + pack(body)


def encode_header(kind: int, cluster: int, sender: int, target: int, map_version: int) -> bytes:
    """The header alone, for frames whose body is encoded once and sent to several members."""
    return HEADER.pack(MAGIC, PROTOCOL, kind, cluster, sender, target, map_version)


def decode_header(frame: bytes) -> Header:
    """The header of `frame`; raises `Malformed`."""
    if len(frame) < HEADER.size:
        raise Malformed(f"a frame of {len(frame)} bytes is shorter than a header")
    magic, protocol, kind, cluster, sender, target, map_version = HEADER.unpack_from(frame)
    if magic != MAGIC:
        raise Malformed("not a zkv frame")
    if protocol != PROTOCOL:
        raise Malformed(f"protocol version {protocol}, this side speaks {PROTOCOL}")
    return new_tuple(Header, (kind, cluster, sender, target, map_version))


def decode_body(frame: bytes, offset: int = HEADER.size) -> Any:
    """The MessagePack body that starts at `offset`; raises `Malformed`.

    Every length limit is the length of the frame: a short frame cannot claim a large array (ZEROMQ.md).
    """
    size = len(frame) - offset
    try:
        return msgpack.unpackb(
            memoryview(frame)[offset:],
            strict_map_key=False,
            use_list=True,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=size,
            max_map_len=size,
            max_ext_len=size,
        )
    except (TypeError, ValueError, OverflowError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise Malformed(f"the body does not parse: {error}") from error


def pack(body: Any) -> bytes:
    """MessagePack with our one set of options."""
    packed: bytes = msgpack.Packer(use_bin_type=True).pack(body)  # `packb` does the same, in twice the time
    return packed


def packing() -> Callable[[Any], bytes]:
    """`pack`, for a column of small things: it keeps its buffer. For one loop and one thread."""
    pack_one: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True).pack
    return pack_one


def pack_array(packed: Iterable[bytes], count: int) -> bytes:
    """An array of `count` items that are MessagePack already."""
    head: bytes = msgpack.Packer().pack_array_header(count)
    return head + b"".join(packed)


def unpack(packed: bytes) -> Any:
    """The inverse of `pack`, for what this process has packed itself."""
    return msgpack.unpackb(packed, strict_map_key=False)


def _pack_column(code: str, values: Iterable[int]) -> bytes:
    column = array(code, values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _unpack_column(code: str, packed: object) -> list[int]:
    column = array(code)
    if not isinstance(packed, bytes) or len(packed) % column.itemsize:
        raise Malformed("a packed column has the wrong type or length")
    column.frombytes(packed)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tolist()


def pack_u16(values: Iterable[int]) -> bytes:
    """A column of 16-bit numbers (shards, indices in a batch), little-endian."""
    return _pack_column("H", values)


def unpack_u16(packed: object) -> list[int]:
    """The inverse of `pack_u16`; raises `Malformed`."""
    return _unpack_column("H", packed)


def pack_u64(values: Iterable[int]) -> bytes:
    """A column of 64-bit numbers (versions, boot ids, epochs), little-endian."""
    return _pack_column("Q", values)


def unpack_u64(packed: object) -> list[int]:
    """The inverse of `pack_u64`; raises `Malformed`."""
    return _unpack_column("Q", packed)


# A version is (epoch, counter) in 64 bits.
COUNTER_BITS: Final = 40
COUNTER_MASK: Final = (1 << COUNTER_BITS) - 1


def epoch_of(version: int) -> int:
    """The epoch half of a version."""
    return version >> COUNTER_BITS
