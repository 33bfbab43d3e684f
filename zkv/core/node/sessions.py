"""Client sessions: what makes a retried write take effect once (SAFETY 24).

A write is named by (client id, batch, index). Every replica remembers, for each batch a client may still ask about,
which versions its operations got: one table entry a batch, whose columns are the very lists that were replicated, so
that remembering costs nothing per operation. A retry that is found returns the first result. What a client can no
longer ask about (below its watermark) is forgotten; a silent client's session is forgotten after `ttl_ms`, which
is longer than any request may live.

After RIFL (Lee et al., "Implementing Linearizability at Large Scale and Low Latency", SOSP 2015), per batch
instead of per operation.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from zkv.core import wire

RECORDS_LIMIT: Final = 4096
"""Batches that one client may have outstanding."""
SESSIONS_LIMIT: Final = 100_000
"""Clients remembered. A further one is turned away until an older one has been silent for long enough."""


class SessionPart(NamedTuple):
    """Outcomes of a client's batch, as columns of equal length."""

    indices: Sequence[int] | None
    """Place of each operation in the batch; None: 0…n-1."""
    shards: Sequence[int]
    versions: Sequence[int]

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """(index, shard, version) of each operation."""
        indices = range(len(self.versions)) if self.indices is None else self.indices
        return zip(indices, self.shards, self.versions, strict=True)


class Record:
    """What became of the operations of one batch, as far as this replica saw them."""

    __slots__ = ("_found", "attempt", "misses", "parts")

    def __init__(self) -> None:
        self.parts: list[SessionPart] = []
        """Every replicated part of the batch."""
        self.misses: dict[int, tuple[int, int]] = {}
        """Deletes that met nothing: index -> (version of the answer, shard). Known to the primary that gave it only."""
        self.attempt = 0
        """Newest try of the batch that this node answered as a primary: what a try was refused, a duplicate of it must
        not do (SAFETY 25)."""
        self._found: dict[int, int] | None = None

    def __len__(self) -> int:
        """Operations that are remembered."""
        return sum(len(part.versions) for part in self.parts)

    def add(self, part: SessionPart) -> None:
        """Remember a part. Repeated parts (re-sent tails) are harmless."""
        self.parts.append(part)
        self._found = None

    def of_shards(self, shards: Container[int]) -> SessionPart | None:
        """What is remembered of operations on these shards, as one part."""
        picked = [row for part in self.parts for row in part.rows() if row[1] in shards]
        return SessionPart(*zip(*picked, strict=True)) if picked else None

    def forget(self, shards: AbstractSet[int]) -> None:
        """Forget what is remembered of operations on these shards."""
        if self.misses:
            self.misses = {index: miss for index, miss in self.misses.items() if miss[1] not in shards}
        if all(shards.isdisjoint(part.shards) for part in self.parts):
            return
        kept = []
        for part in self.parts:
            if shards.isdisjoint(part.shards):
                kept.append(part)
            elif rows := [row for row in part.rows() if row[1] not in shards]:
                kept.append(SessionPart(*zip(*rows, strict=True)))
        self.parts = kept
        self._found = None

    def version(self, index: int) -> int | None:
        """The version that operation `index` got, or None if it was not seen."""
        if self._found is None:
            self._found = {}
            for indices, _, versions in self.parts:
                self._found.update(zip(range(len(versions)) if indices is None else indices, versions, strict=True))
        return self._found.get(index)


class Session:
    """One client: its batches at or above its watermark."""

    __slots__ = ("records", "seen_ms", "watermark")

    def __init__(self) -> None:
        self.watermark = 0
        """The client's lowest outstanding batch: below it nothing is executed."""
        self.records: dict[int, Record] = {}
        self.seen_ms = 0.0

    def record(self, batch: int) -> Record:
        """The record of `batch`, made if need be."""
        record = self.records.get(batch)
        if record is None:
            record = self.records[batch] = Record()
        return record

    def advance(self, watermark: int) -> None:
        """Forget what the client can no longer ask about."""
        if watermark > self.watermark:
            self.watermark = watermark
            records = self.records
            # Batches enter nearly in order, so the loop ends after what it removes.
            for batch in list(records):
                if batch >= watermark:
                    break
                del records[batch]


class Sessions:
    """All sessions of one node. Ordered by last use, so that expiry looks only at what expires."""

    __slots__ = ("_table", "ttl_ms")

    def __init__(self, ttl_ms: float) -> None:
        self.ttl_ms = ttl_ms
        self._table: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._table)

    def open(self, client: int, watermark: int, now_ms: float) -> Session:
        """The session of `client`, made if need be, touched and advanced to `watermark`."""
        session = self._table.pop(client, None)
        if session is None:
            session = Session()
        self._table[client] = session
        session.seen_ms = now_ms
        if watermark > session.watermark:
            session.advance(watermark)
        return session

    def has_room(self, client: int) -> bool:
        """Whether `client` is known, or may become so. Forgetting a client too early would execute a retry twice."""
        return len(self._table) < SESSIONS_LIMIT or client in self._table

    def find(self, client: int) -> Session | None:
        """The session of `client` if there is one."""
        return self._table.get(client)

    def remember(
        self,
        client: int,
        batch: int,
        watermark: int,
        indices: Sequence[int] | None,
        shards: Sequence[int],
        versions: Sequence[int],
        now_ms: float,
    ) -> None:
        """Record a replicated part, on any replica."""
        session = self.open(client, watermark, now_ms)
        if batch < session.watermark:
            return
        session.record(batch).add(SessionPart(indices, shards, versions))

    def clients(self) -> list[int]:
        """Everybody who is remembered."""
        return list(self._table)

    def forget(self, shards: AbstractSet[int]) -> None:
        """Forget what became of operations on these shards: their copy here is cleared (SAFETY 20).

        Otherwise a retry could find a write that the others never had. Watermarks stay: they only ever refuse.
        """
        for session in self._table.values():
            for record in session.records.values():
                record.forget(shards)

    def expire(self, now_ms: float) -> None:
        """Forget clients that have been silent for `ttl_ms`."""
        horizon = now_ms - self.ttl_ms
        for client, session in list(self._table.items()):
            if session.seen_ms > horizon:
                break
            del self._table[client]


def status_of_unknown(session: Session, batch: int) -> int:
    """Why an operation of `batch` that was not found may not be executed, or OK if it may."""
    if batch < session.watermark:
        return wire.EXPIRED
    if batch not in session.records and len(session.records) >= RECORDS_LIMIT:
        return wire.MAYBE  # nobody remembers this refusal, and a duplicate may find room
    return wire.OK
