"""What a client keeps of its work: calls of the API, batches with an identity, tries under way, links to nodes.

See `zkv.core.client.client` for how they move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final

from msgpack import ExtType

from zkv.core import wire

CLOCK_MS: Final = 10_000.0
"""How long an estimate of a node's clock is held against newer, worse ones."""


class Batch:
    """Operations that were submitted together for one primary, under one identity."""

    __slots__ = (
        "attempt", "call", "doubt", "keys", "latest", "left", "number", "op", "positions", "shards", "sources",
        "statuses", "values", "versions", "wire_values",
    )  # fmt: skip

    def __init__(
        self, call: Call, op: int, number: int, positions: Sequence[int], shards: Sequence[int], keys: Sequence[Any],
        wire_values: Sequence[Any] | None,
    ) -> None:  # fmt: skip
        self.call = call
        self.op = op
        self.number = number
        """Identity of a batch of writes; 0 for reads."""
        self.positions = positions
        """Where its operations stand in the call."""
        self.shards = shards
        self.keys = keys
        self.wire_values = wire_values
        self.attempt = 0
        self.latest: dict[int, int] = {}
        """index -> newest attempt, for operations that were tried more than once."""
        self.doubt: set[int] = set()
        """Indices that some try may have done."""
        self.left: set[int] | None = None
        """Indices without a result; None: all of them, and no try has been answered in part."""
        self.versions: list[int] = []
        self.values: list[Any] = []
        self.statuses: list[int] = []
        self.sources: list[int] = []
        """Boot id of the node that answered, by operation; one entry where one node answered all."""

    def open(self) -> Sequence[int]:
        """Indices without a result."""
        return range(len(self.keys)) if self.left is None else sorted(self.left)

    def is_latest(self, index: int, attempt: int) -> bool:
        """Whether `attempt` is the newest try of this operation."""
        return self.latest.get(index, 1) == attempt

    def merge(
        self, current: Try, sender: int, statuses: bytes, versions: Sequence[int], values: Sequence[Any] | None
    ) -> list[int] | None:
        """Take the results of one try, operation by operation (SAFETY 24, 25).

        Returns the indices to be tried again, or None if the session has expired: then nothing can be learned any more.
        """
        if self.left is None:
            count = len(self.keys)
            self.left = set(range(count))
            self.versions, self.values, self.statuses = [0] * count, [None] * count, [0] * count
            self.sources = [0] * count
        again: list[int] = []
        for place, index in enumerate(current.indices):
            if index not in self.left:
                continue
            status = statuses[place]
            latest = self.is_latest(index, current.attempt)
            # A failed condition counts only as the answer to the newest try: an older one may yet be overtaken.
            if status == wire.OK or (status == wire.MISSING and latest):
                self.left.discard(index)
                self.versions[index], self.statuses[index], self.sources[index] = versions[place], status, sender
                if values is not None:
                    self.values[index] = values[place]
                continue
            if status not in wire.DEFINITE:
                self.doubt.add(index)
            if status == wire.EXPIRED:
                return None
            if latest:
                again.append(index)
        return again


class Call:
    """One call of the API: its operations and, once `done`, their results."""

    __slots__ = ("ack", "batches", "count", "deadline_ms", "failure", "pending", "started_ms", "thin", "unrouted")

    def __init__(self, count: int, now_ms: float, deadline_ms: float, ack: int = wire.ACK_DEFAULT) -> None:
        self.count = count
        self.ack = ack
        self.thin = False
        """Whether a try was refused because its shard has too few in-sync copies."""
        self.started_ms = now_ms
        self.deadline_ms = deadline_ms
        self.batches: list[Batch] = []
        self.pending = 0
        """Batches without all results."""
        self.unrouted: tuple[int, Sequence[Any], Sequence[Any] | None] | None = None
        """(op, keys, values) while there is no map to route by."""
        self.failure: Failure | None = None

    @property
    def done(self) -> bool:
        """Whether every operation has its result, or the call failed."""
        return self.failure is not None or (not self.pending and self.unrouted is None)

    def results(self) -> tuple[list[int], list[Any], list[int], list[int]]:
        """(versions, values, statuses, boot ids of who answered), in the order of the call's operations."""
        if len(self.batches) == 1 and len(self.batches[0].positions) == self.count:
            batch = self.batches[0]
            return batch.versions, batch.values, batch.statuses, spread(batch.sources, self.count)
        versions, values, statuses, sources = [0] * self.count, [None] * self.count, [0] * self.count, [0] * self.count
        for batch in self.batches:
            for position, version in zip(batch.positions, batch.versions, strict=True):
                versions[position] = version
            if batch.values:
                for position, value in zip(batch.positions, batch.values, strict=True):
                    values[position] = value
            if batch.statuses:
                for position, status in zip(batch.positions, batch.statuses, strict=True):
                    statuses[position] = status
            for position, source in zip(batch.positions, spread(batch.sources, len(batch.positions)), strict=True):
                sources[position] = source
        return versions, values, statuses, sources


class Failure:
    """Why a call failed: `kind` is one of the constants below, `unknown` whether a write of it may have been done."""

    __slots__ = ("kind", "shard", "text", "unknown")
    UNREACHABLE: Final = "manager unreachable"
    NOT_FORMED: Final = "not formed"
    UNAVAILABLE: Final = "shard unavailable"
    TIMED_OUT: Final = "timed out"
    REFUSED: Final = "refused"

    def __init__(self, kind: str, text: str, *, unknown: bool, shard: int | None = None) -> None:
        self.kind = kind
        self.text = text
        self.unknown = unknown
        self.shard = shard


class Try:
    """One request under way."""

    __slots__ = ("attempt", "batch", "indices", "op", "sent_ms", "timeout_ms")

    def __init__(self, batch: Batch, op: int, indices: Sequence[int], attempt: int) -> None:
        self.batch = batch
        self.op = op
        """The batch's, but for a read at any replica that is sent to the primary after all."""
        self.indices = indices
        self.attempt = attempt
        self.sent_ms = 0.0
        self.timeout_ms = 0.0

    def still_open(self) -> list[int]:
        """Indices that have no result and no newer try."""
        left, is_latest = self.batch.left, self.batch.is_latest
        return [index for index in self.indices if (left is None or index in left) and is_latest(index, self.attempt)]


class Link:
    """What the client knows of one node (one boot id)."""

    __slots__ = ("clock_ms", "hello_ms", "offset_ms", "pinged_ms", "queue", "tries")

    def __init__(self) -> None:
        self.offset_ms: float | None = None
        """The node's clock minus ours, an upper bound: too late by the length of a round trip at most. None before
        HELLO."""
        self.clock_ms = float("-inf")
        """When `offset_ms` was estimated."""
        self.hello_ms = float("-inf")
        self.pinged_ms: float | None = None
        """Since when it has been asked for a sign of life without giving one; None: nothing is asked."""
        self.queue: list[Try] = []
        self.tries: dict[int, Try] = {}
        """Request number -> try under way."""

    def hear_clock(self, sent_ms: float, node_ms: float, now_ms: float) -> None:
        """Estimate the node's clock from a round trip: too late rather than too early, so that no work in time is
        late."""
        offset = node_ms + 1.0 - sent_ms
        if self.offset_ms is None or offset < self.offset_ms or now_ms - self.clock_ms > CLOCK_MS:
            self.offset_ms, self.clock_ms = offset, now_ms


def picker(chosen: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function that takes the chosen places of a column."""
    if len(chosen) == 1:
        (only,) = chosen
        return lambda column: (column[only],)
    return itemgetter(*chosen)


def spread(sources: list[int], count: int) -> list[int]:
    """Who answered each of `count` operations, where one entry may stand for all."""
    return sources * count if len(sources) == 1 else sources


def cut(positions: Sequence[int], values: Sequence[Any] | None, most: int, most_bytes: int) -> Iterator[Sequence[int]]:
    """Cut `positions` into batches of at most `most` operations, and of `most_bytes` unless one value is larger."""
    if values is None or _are_small(values, most_bytes // most):
        for start in range(0, len(positions), most):
            yield positions[start : start + most]
        return
    batch: list[int] = []
    size = 0
    for position in positions:
        length = _size(values[position])
        if batch and (len(batch) == most or size + length > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(position)
        size += length
    yield batch


def _are_small(values: Sequence[Any], limit: int) -> bool:
    """Whether all values are certainly at most `limit` long: one look at a common column."""
    kinds = set(map(type, values))
    return kinds <= {bytes, str} and max(map(len, values), default=0) <= limit


def _size(value: Any) -> int:
    """About how many bytes a value takes on the wire."""
    if isinstance(value, bytes | str):
        return len(value)
    return len(value.data) if isinstance(value, ExtType) else 9
