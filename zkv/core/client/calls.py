"""Calls of the API, as the core keeps them: operations that go in together, and their answers.

How they travel is none of a call's business: a large call becomes batches of its own, the operations of small ones
travel in batches with those of others (`batches`). Each operation ends for itself, with an answer or with a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from zkv.core import wire

if TYPE_CHECKING:
    from zkv.core.client.batches import Batch


class Failure(NamedTuple):
    """Why an operation has no answer."""

    kind: str
    """One of the constants below."""
    text: str
    unknown: bool
    """Whether it may have been done all the same (SAFETY 25)."""
    shard: int | None = None
    endpoint: str = ""
    """Of the node that was asked, or would have been."""
    tries: int = 0


UNREACHABLE: Final = "manager unreachable"
NOT_FORMED: Final = "not formed"
UNAVAILABLE: Final = "shard unavailable"
TIMED_OUT: Final = "timed out"
REFUSED: Final = "refused"


class Answer(NamedTuple):
    """What one operation came to."""

    status: int
    """`wire.OK` or one of `wire.FAILED`."""
    version: int
    value: Any
    """What it returns besides: the value read, a counter, a former value; None where there is nothing."""
    source: int
    """Boot id of the node that answered."""


class Call:
    """Operations on `keys`, all of one kind, or each of its own: then those on one key take effect in their order.

    It is `done` when every operation has its answer or its failure.
    """

    __slots__ = (
        "ack", "answers", "batches", "count", "deadline_ms", "failures", "keys", "op", "open", "operands", "shards",
        "started_ms", "ttls", "values", "waiter",
    )  # fmt: skip

    def __init__(
        self, op: int | bytes, keys: Sequence[Any], values: Sequence[Any] | None, started_ms: float,
        deadline_ms: float, ack: int = wire.ACK_DEFAULT, operands: Sequence[int] | None = None,
        ttls: Sequence[int] | None = None, shards: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.op = op
        """One operation for all keys, or one for each."""
        self.keys = keys
        self.values = values
        """As they travel; None where the operations take none."""
        self.operands = operands
        """What conditions compare versions with, cursors; None where there are none."""
        self.ttls = ttls
        """Milliseconds to live, 0: for ever; None where no operation gives any."""
        self.shards = shards
        """Of operations on whole shards; None: those of the keys."""
        self.started_ms = started_ms
        self.deadline_ms = deadline_ms
        self.ack = ack
        """When writes are acknowledged: one of `wire.ACK_…`."""
        self.count = len(keys)
        self.open = 1
        """What is still missing: itself while it has not been routed, then whole batches of its own, and single
        operations that travel with others'."""
        self.batches: list[Batch] = []
        """Those that it has operations in."""
        self.answers: dict[int, Answer] = {}
        """Place -> answer, of operations that travelled with others'."""
        self.failures: dict[int, Failure] = {}
        """Place -> failure."""
        self.waiter: Any = None
        """The host's: who waits for it."""

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return not self.open

    @property
    def failure(self) -> Failure | None:
        """The first operation's that failed; None where none did. `unknown` if that holds for any, or if others of the
        call were written."""
        if not self.failures:
            return None
        unknown = any(failure.unknown for failure in self.failures.values())
        if len(self.failures) < self.count:
            unknown |= any(batch.number for batch in self.batches)
        return self.failures[min(self.failures)]._replace(unknown=unknown)

    def columns(self) -> tuple[Sequence[int], Sequence[Any], Sequence[int], Sequence[int]]:
        """(versions, values, statuses, boot ids of who answered) in the order of the operations; zeros and None where
        one failed."""
        if len(self.batches) == 1 and not self.answers:
            batch = self.batches[0]
            if batch.call is self and len(batch.places) == self.count:
                return batch.versions, batch.values, batch.statuses, batch.sources
        own = [batch for batch in self.batches if batch.call is self]
        if own and sum(len(batch.places) for batch in own) == self.count:
            return _in_order(own)
        versions, values, statuses, sources = [0] * self.count, [None] * self.count, [0] * self.count, [0] * self.count
        for batch in own:
            columns = (batch.places, batch.versions, batch.values, batch.statuses, batch.sources)
            for place, *answer in zip(*columns, strict=True):
                versions[place], values[place], statuses[place], sources[place] = answer
        for place, (status, version, value, source) in self.answers.items():
            versions[place], values[place], statuses[place], sources[place] = version, value, status, source
        return versions, values, statuses, sources

    def answer(self) -> Answer:
        """The answer of a call of one operation that did not fail."""
        if self.answers:
            return self.answers[0]
        versions, values, statuses, sources = self.columns()
        return Answer(statuses[0], versions[0], values[0], sources[0])


def _in_order(batches: Sequence[Batch]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any], Sequence[Any]]:
    """The columns of batches that hold all operations of a call, in the order of the call: loops in C, since every
    operation of every large call comes by here."""
    places = list(chain.from_iterable(batch.places for batch in batches))
    in_order = itemgetter(*sorted(range(len(places)), key=places.__getitem__))  # places ascend in each: runs to merge

    def column(name: str) -> Any:
        return in_order(list(chain.from_iterable(map(attrgetter(name), batches))))

    return column("versions"), column("values"), column("statuses"), column("sources")
