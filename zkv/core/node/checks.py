"""What a REQUEST asks for, and what it must be like, so that it can harm nobody: the checks before it is looked at.

They cost a few passes in C over its columns, not a look at each operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from msgpack import ExtType

from zkv.core import wire
from zkv.core.node.history import SYSTEM
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import shard_of
from zkv.core.wire import Malformed

OPS_LIMIT: Final = 16_384
"""Operations of one request."""
PAGES_LIMIT: Final = 64
"""Pages of one request."""


class Request(NamedTuple):
    """The columns of one request, besides those that its reply keeps."""

    client: int
    routed_by: int
    """Version of the map that the client chose this node by."""
    batch: int
    watermark: int
    op: int | bytes
    """One for all operations, or one for each."""
    indices: list[int] | None
    """Place of each operation in its batch; None: 0…n-1."""
    keys: list[Any]
    values: list[Any] | None
    operands: list[int] | None
    """What conditions compare versions with; cursors."""
    expiries: list[int] | None = None
    """When what is written expires, in cluster time, 0: never; None: none of it does."""
    early: bool = False
    """Whether the reply does not wait for the commit of what it wrote itself (SAFETY 27)."""

    @property
    def writes(self) -> bool:
        """Whether some operation may change something."""
        return self.op in wire.WRITES if isinstance(self.op, int) else not wire.WRITES.isdisjoint(self.op)

    def place(self, position: int) -> int:
        """Place of an operation in its batch."""
        return position if self.indices is None else self.indices[position]

    def op_at(self, position: int) -> int:
        """The operation at a position."""
        return self.op if isinstance(self.op, int) else self.op[position]


def check_identity(client: int, request: Any, attempt: Any, batch: Any, watermark: Any, deadline_ms: Any) -> None:
    """Raise `Malformed` unless these are numbers that every replica can send on and every reply can return."""
    if client == SYSTEM:
        raise Malformed("a client has an identity")
    for number in (request, attempt, batch, watermark):
        if type(number) is not int or not 0 <= number < 2**63:
            raise Malformed("request, attempt, batch and watermark are numbers from 0 to 2**63 - 1")
    if type(deadline_ms) not in (int, float) or deadline_ms != deadline_ms:
        raise Malformed("the deadline is no number")


def check_request(settings: ClusterSettings, request: Request, shards: list[int]) -> None:
    """Raise `Malformed` for what could harm others. Costs a C-level pass over the keys, not a look at each."""
    count = len(shards)
    op, keys, values, operands = request.op, request.keys, request.values, request.operands
    if type(keys) is not list or (values is not None and type(values) is not list):
        # Other sequences could be applied here, and then not be split by replica set.
        raise Malformed("keys and values are lists")
    columns: tuple[Any, ...] = (
        keys, request.indices, values, operands, request.expiries, op if type(op) is bytes else None
    )  # fmt: skip
    if not 0 < count <= OPS_LIMIT or {len(column) for column in columns if column is not None} != {count}:
        raise Malformed("columns of different length, or none, or too many")
    kinds = {op} if type(op) is int else set(op) if type(op) is bytes else {None}
    if not kinds <= (wire.MIXABLE if type(op) is bytes else wire.OPERATIONS):
        raise Malformed(f"operation {op!r} is unknown, or does not go with others")
    if op == wire.SCAN and count > PAGES_LIMIT:
        raise Malformed(f"at most {PAGES_LIMIT} pages are made for one request")
    if op == wire.WATCH and len(set(shards)) != count:
        raise Malformed("a watch asks for each shard once")
    if op in wire.OF_SHARDS and operands is None:
        raise Malformed("a scan has cursors, and a watch versions to begin with")
    if op == wire.SCAN and not all(type(value) is int and 0 <= value < 2**63 for value in values or (None,)):
        raise Malformed("a scan names its walk by a number")
    if not set(map(type, keys)) <= {str, bytes} or _longest(keys, settings.key_limit_bytes) > settings.key_limit_bytes:
        raise Malformed(f"a key is neither str nor bytes, or longer than {settings.key_limit_bytes} bytes")
    if max(shards) >= settings.shards or (op not in wire.OF_SHARDS and shard_of(keys[0], settings.shards) != shards[0]):
        # One key tells whether the client hashes as we do; all would cost more than executing the request.
        raise Malformed("the first key does not belong to the shard named for it")
    if not kinds.isdisjoint(wire.TAKES_VALUE):
        types = set(map(type, values or ()))
        if values is None or list in types or dict in types:
            raise Malformed("values are bytes, str, numbers, bool or extension types, one for each key")
        if type(None) in types and any(
            value is None and request.op_at(position) in wire.TAKES_VALUE for position, value in enumerate(values)
        ):
            raise Malformed("an operation lacks its value")


def check_sizes(values: Sequence[Any], limit_bytes: int) -> None:
    """Raise `Malformed` for a value above the limit. Called only where the whole request is longer than one may be."""
    for value in values:
        if isinstance(value, str):
            size = len(value.encode())
        elif isinstance(value, bytes):
            size = len(value)
        else:
            size = len(value.data) if isinstance(value, ExtType) else 0
        if size > limit_bytes:
            raise Malformed(f"a value has {size} bytes, this cluster takes at most {limit_bytes}")


def _longest(keys: Sequence[str | bytes], limit_bytes: int) -> int:
    """Bytes of the longest key; its characters, at most four bytes each, where they settle the question."""
    longest = max(map(len, keys))
    if 4 * longest <= limit_bytes or longest > limit_bytes:
        return longest
    return max(len(key.encode()) if isinstance(key, str) else len(key) for key in keys)
