"""Batches: operations that travel together under one identity; tries that carry them; and those that wait for a ride.

Operations of small calls wait in a `Loose` by node and kind until the next message leaves, together with whatever
others wait by then: what is submitted at once, or while earlier ones are under way, becomes one batch, and nothing ever
waits for company.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

from msgpack import ExtType

from zkv.core import wire
from zkv.core.client.calls import Answer, Call, Failure

_DEADLINE_MS: Final = attrgetter("deadline_ms")


class Kind(NamedTuple):
    """What operations of one batch have in common."""

    op: int
    ack: int
    spread: bool
    """Whether other replicas may answer as well."""
    patience: int
    """Magnitude of the time that they are given: a batch has one deadline, which must suit all."""


class Batch:
    """Operations for one primary (or for replicas that may stand in for it), under one identity.

    They are all of one call, or each of any. As answers come in they are handed to the calls.
    """

    __slots__ = (
        "ack", "attempt", "call", "calls", "doubt", "keys", "latest", "left", "next", "number", "op", "operands",
        "places", "shards", "sources", "spread", "statuses", "thin", "ttls", "values", "versions", "wire_values",
    )  # fmt: skip

    def __init__(
        self, op: int | bytes, ack: int, places: Sequence[int], shards: Sequence[int], keys: Sequence[Any],
        wire_values: Sequence[Any] | None, operands: Sequence[int] | None, ttls: Sequence[int] | None = None, *,
        call: Call | None = None, calls: Sequence[Call] = (), number: int = 0, spread: bool = False,
    ) -> None:  # fmt: skip
        self.call = call
        """The one that all operations belong to; None: `calls` says it for each."""
        self.calls = calls
        self.op = op
        self.ack = ack
        self.number = number
        """Identity of a batch of writes; 0 for reads."""
        self.places = places
        """Where each operation stands in its call."""
        self.shards = shards
        self.keys = keys
        self.wire_values = wire_values
        self.operands = operands
        self.ttls = ttls
        self.spread = spread
        self.next: Batch | None = None
        """To be sent when this one is over, for the sake of the order of operations."""
        self.thin = False
        """Whether a try was refused because its shard has too few in-sync copies."""
        self.attempt = 0
        self.latest: dict[int, int] = {}
        """index -> newest attempt, for operations that were tried more than once."""
        self.doubt: set[int] = set()
        """Indices that some try may have done."""
        self.left: set[int] | None = None
        """Indices without an end; None: all of them, and no try has been answered in part."""
        self.versions: Sequence[int] = ()
        self.values: Sequence[Any] = ()
        self.statuses: Sequence[int] = ()
        self.sources: Sequence[int] = ()
        """Boot id of the node that answered, by operation."""

    def open(self) -> Sequence[int]:
        """Indices without an end."""
        return range(len(self.keys)) if self.left is None else sorted(self.left)

    @property
    def over(self) -> bool:
        """Whether every operation has ended."""
        return self.left is not None and not self.left

    def owner(self, index: int) -> Call:
        """Whose operation it is."""
        return self.call if self.call is not None else self.calls[index]

    def open_of(self, call: Call) -> list[int]:
        """Indices of the call's operations without an end."""
        return [index for index in self.open() if self.owner(index) is call]

    def deadline_ms(self) -> float:
        """The nearest of those who wait: nobody's operation may be done after he was told that it failed."""
        if self.call is not None:
            return self.call.deadline_ms
        if self.left is None:
            nearest_ms: float = min(map(_DEADLINE_MS, self.calls))
            return nearest_ms
        return min(self.calls[index].deadline_ms for index in self.open())

    def op_at(self, index: int) -> int:
        """The operation at an index."""
        return self.op if isinstance(self.op, int) else self.op[index]

    def is_latest(self, index: int, attempt: int) -> bool:
        """Whether `attempt` is the newest try of this operation."""
        return self.latest.get(index, 1) == attempt

    # --- answers ---------------------------------------------------------------------------------------------------

    def take_all(self, versions: Sequence[int], values: Sequence[Any] | None, sender: int, ended: list[Call]) -> None:
        """The one try was answered as a whole, with everything done. Calls that end with it are added to `ended`."""
        self.left = set()
        count = len(self.keys)
        if values is None:
            values = (None,) * count
        call = self.call
        if call is not None:
            self.versions, self.values = versions, values
            self.statuses, self.sources = (wire.OK,) * count, (sender,) * count
            call.open -= 1
            if not call.open:
                ended.append(call)
            return
        make = wire.new_tuple
        for call, place, version, value in zip(self.calls, self.places, versions, values, strict=True):
            call.answers[place] = make(Answer, (wire.OK, version, value, sender))
            call.open -= 1
            if not call.open:
                ended.append(call)

    def merge(
        self, current: Try, sender: int, statuses: bytes, versions: Sequence[int], values: Sequence[Any] | None,
        ended: list[Call],
    ) -> list[int]:  # fmt: skip
        """Take the results of one try, operation by operation (SAFETY 24, 25); returns the indices to be tried again.
        """
        self._look_at_each()
        assert self.left is not None
        again: list[int] = []
        for place, index in enumerate(current.indices):
            if index not in self.left:
                continue
            status = statuses[place]
            latest = self.is_latest(index, current.attempt)
            # A failed condition counts only as the answer to the newest try: an older one may yet be overtaken.
            if status == wire.OK or (status in wire.FAILED and latest):
                value = None if values is None else values[place]
                self._settle(index, Answer(status, versions[place], value, sender), ended)
                continue
            if status not in wire.DEFINITE:
                self.doubt.add(index)
            if latest:
                again.append(index)
        return again

    def _look_at_each(self) -> None:
        """From here on operations end one by one."""
        if self.left is None:
            count = len(self.keys)
            self.left = set(range(count))
            if self.call is not None:
                self.versions, self.values, self.statuses = [0] * count, [None] * count, [0] * count
                self.sources = [0] * count

    def _settle(self, index: int, answer: Answer, ended: list[Call]) -> None:
        assert self.left is not None
        self.left.discard(index)
        if self.call is None:
            call = self.calls[index]
            call.answers[self.places[index]] = answer
        else:
            for column, what in zip((self.statuses, self.versions, self.values, self.sources), answer, strict=True):
                column[index] = what  # type: ignore[index]  # they are lists from `_look_at_each` on
        self._ended(index, ended)

    def fail(self, index: int, failure: Failure, ended: list[Call]) -> None:
        """End one operation without an answer."""
        self._look_at_each()
        assert self.left is not None
        if index in self.left:
            self.left.discard(index)
            self.owner(index).failures[self.places[index]] = failure
            self._ended(index, ended)

    def _ended(self, index: int, ended: list[Call]) -> None:
        """An operation has ended: its call may have, where this was the last of what it waits for."""
        if self.call is not None and self.left:
            return
        call = self.owner(index)
        call.open -= 1
        if not call.open:
            ended.append(call)


class Try:
    """One request under way."""

    __slots__ = ("attempt", "batch", "hedged", "indices", "kind", "op", "sent_ms", "timeout_ms")

    def __init__(
        self, batch: Batch, op: int | bytes, indices: Sequence[int], attempt: int, kind: Kind | None = None
    ) -> None:
        self.batch = batch
        self.op = op
        """The batch's, but for a read at any replica that is sent to the primary after all."""
        self.indices = indices
        """A range: all of the batch."""
        self.attempt = attempt
        self.kind = kind
        """Of operations that travel together because they waited together."""
        self.hedged = False
        """Whether another replica was asked as well."""
        self.sent_ms = 0.0
        self.timeout_ms = 0.0

    def still_open(self) -> list[int]:
        """Indices that have no end and no newer try."""
        left, is_latest = self.batch.left, self.batch.is_latest
        return [index for index in self.indices if (left is None or index in left) and is_latest(index, self.attempt)]


class Loose:
    """Operations that wait for the next message to their node, as columns."""

    __slots__ = ("calls", "keys", "operands", "places", "shards", "ttls", "values")

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.places: list[int] = []
        self.shards: list[int] = []
        self.keys: list[Any] = []
        self.values: list[Any] = []
        self.operands: list[int] = []
        self.ttls: list[int] = []

    def __len__(self) -> int:
        return len(self.calls)

    def add(self, call: Call, place: int, shard: int) -> None:
        """One more."""
        self.calls.append(call)
        self.places.append(place)
        self.shards.append(shard)
        self.keys.append(call.keys[place])
        if call.values is not None:
            self.values.append(call.values[place])
        if call.operands is not None:
            self.operands.append(call.operands[place])
        self.ttls.append(0 if call.ttls is None else call.ttls[place])

    def take(self, most: int, most_bytes: int) -> Loose:
        """The first that fit into one batch; they wait no more."""
        first = Loose()
        if not self.calls:
            return first
        sized = self.values if self.values and not are_small(self.values, most_bytes // most) else None
        taken = len(next(cut(range(len(self)), sized, most, most_bytes)))
        for name in self.__slots__:
            column = getattr(self, name)
            setattr(first, name, column[:taken])
            del column[:taken]
        return first

    def of_open_calls(self) -> Loose:
        """Those that somebody still waits for."""
        kept = Loose()
        for call, place, shard in zip(self.calls, self.places, self.shards, strict=True):
            if call.open:
                kept.add(call, place, shard)
        return kept


def picker(chosen: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function that takes the chosen places of a column."""
    if len(chosen) == 1:
        (only,) = chosen
        return lambda column: (column[only],)
    return itemgetter(*chosen)


def cut(positions: Sequence[int], values: Sequence[Any] | None, most: int, most_bytes: int) -> Iterator[Sequence[int]]:
    """Cut `positions` into batches of at most `most` operations, and of `most_bytes` unless one value is larger.
    `values`: None if all of them are so small that their number alone counts."""
    if values is None:
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


def are_small(values: Sequence[Any], limit: int) -> bool:
    """Whether all values are certainly at most `limit` long: one look at a common column."""
    kinds = set(map(type, values))
    return kinds <= {bytes, str} and max(map(len, values), default=0) <= limit


def _size(value: Any) -> int:
    """About how many bytes a value takes on the wire."""
    if isinstance(value, bytes | str):
        return len(value)
    return len(value.data) if isinstance(value, ExtType) else 9
