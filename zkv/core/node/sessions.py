"""Client sessions: what makes a retried write take effect once (SAFETY 24).

A write is named by (client id, batch, index). Every replica remembers, for each batch a client may still ask about,
which versions its operations got, and what else they returned: one table entry a batch, whose columns are the very
lists that were replicated, so that remembering costs nothing per operation. A retry that is found returns the first
result. What a client can no
longer ask about (below its watermark) is forgotten; a silent client's session is forgotten after `ttl_ms`, which
is longer than any request may live.

After RIFL (Lee et al., "Implementing Linearizability at Large Scale and Low Latency", SOSP 2015), per batch
instead of per operation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from zkv.core import wire
from zkv.core.node.sizes import size_of

RECORDS_LIMIT: Final = 4096
"""Batches that one client may have outstanding."""
SESSIONS_LIMIT: Final = 100_000
"""Clients remembered. A further one is turned away until an older one has been silent for long enough."""
RESULTS_BYTES: Final = 64 * 1024 * 1024
"""Of results beside versions (counters, former values). Beyond it the oldest are given up: their writes are known to be
done, and what they returned is not known any more."""
BULKY_SPARE: Final = 1024


class SessionPart(NamedTuple):
    """Outcomes of a client's batch, as columns of equal length."""

    indices: Sequence[int] | None
    """Place of each operation in the batch; None: 0…n-1."""
    shards: Sequence[int]
    versions: Sequence[int]
    results: Sequence[Any] | None = None
    """What each returned besides its version; None: nothing."""

    def rows(self) -> Iterator[tuple[int, int, int, Any]]:
        """(index, shard, version, result) of each operation."""
        count = len(self.versions)
        indices = range(count) if self.indices is None else self.indices
        results = (None,) * count if self.results is None else self.results
        return zip(indices, self.shards, self.versions, results, strict=True)

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[int, int, int, Any]]) -> SessionPart:
        """The inverse of `rows`; of at least one."""
        indices, shards, versions, results = zip(*rows, strict=True)
        return cls(indices, shards, versions, None if set(results) == {None} else results)


class Record:
    """What became of the operations of one batch, as far as this replica saw them."""

    __slots__ = ("_found", "attempt", "forgetful", "misses", "parts")

    def __init__(self) -> None:
        self.parts: list[SessionPart] = []
        """Every replicated part of the batch."""
        self.misses: dict[int, tuple[int, int, int]] = {}
        """Conditions that failed: index -> (status, version of the answer, shard). Known to the primary that gave it
        only."""
        self.forgetful = False
        """Whether results were given up for want of room."""
        self.attempt = 0
        """Newest try of the batch that this node answered as a primary: what a try was refused, a duplicate of it must
        not do (SAFETY 25)."""
        self._found: dict[int, tuple[int, Any]] | None = None

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
        return SessionPart.of_rows(picked) if picked else None

    def forget(self, shards: AbstractSet[int]) -> None:
        """Forget what is remembered of operations on these shards."""
        if self.misses:
            self.misses = {index: miss for index, miss in self.misses.items() if miss[2] not in shards}
        if all(shards.isdisjoint(part.shards) for part in self.parts):
            return
        kept = []
        for part in self.parts:
            if shards.isdisjoint(part.shards):
                kept.append(part)
            elif rows := [row for row in part.rows() if row[1] not in shards]:
                kept.append(SessionPart.of_rows(rows))
        self.parts = kept
        self._found = None

    def find(self, index: int) -> tuple[int, Any] | None:
        """The version that operation `index` got and what else it returned, or None if it was not seen."""
        if self._found is None:
            self._found = {
                place: (version, result) for part in self.parts for place, _, version, result in part.rows()
            }
        return self._found.get(index)

    def results_bytes(self) -> int:
        """Memory of the results, versions aside."""
        return sum(sum(map(size_of, part.results)) for part in self.parts if part.results is not None)

    def give_up_results(self) -> None:
        """Keep what was done, and forget what it returned."""
        self.parts = [part._replace(results=None) for part in self.parts]
        self.forgetful = True
        self._found = None


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

    __slots__ = ("_bulky", "_bulky_bytes", "_bulky_most", "_table", "ttl_ms")

    def __init__(self, ttl_ms: float) -> None:
        self.ttl_ms = ttl_ms
        self._table: dict[int, Session] = {}
        self._bulky: deque[tuple[int, int]] = deque()
        """(client, batch) of records with results, oldest first; some may be forgotten by now."""
        self._bulky_bytes = 0
        """At least what the results of these take."""
        self._bulky_most = BULKY_SPARE
        """Names beyond which those of forgotten records are looked for."""

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
        results: Sequence[Any] | None = None,
    ) -> None:
        """Record a replicated part, on any replica."""
        session = self.open(client, watermark, now_ms)
        if batch < session.watermark:
            return
        session.record(batch).add(SessionPart(indices, shards, versions, results))
        if results is not None:
            self._bulky.append((client, batch))
            self._bulky_bytes += sum(map(size_of, results))
            if self._bulky_bytes > RESULTS_BYTES or len(self._bulky) > self._bulky_most:
                self._make_room()

    def _make_room(self) -> None:
        """Count again what the results take, and give up the oldest down to half of the limit."""
        kept = [
            (name, record)
            for name in dict.fromkeys(self._bulky)
            if (session := self._table.get(name[0])) is not None
            and (record := session.records.get(name[1])) is not None
        ]
        sizes = [record.results_bytes() for _, record in kept]
        self._bulky_bytes = sum(sizes)
        self._bulky = deque(name for name, _ in kept)
        self._bulky_most = 2 * len(kept) + BULKY_SPARE
        if self._bulky_bytes <= RESULTS_BYTES:
            return
        for (_, record), size in zip(kept, sizes, strict=True):
            if self._bulky_bytes <= RESULTS_BYTES // 2:
                break
            record.give_up_results()
            self._bulky_bytes -= size
            self._bulky.popleft()

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
