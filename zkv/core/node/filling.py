"""Making new copies: a primary fills the learners of its shards, while it serves them (SAFETY 20-23).

Theory of operation. A learner is named by an epoch of the map. When the primary has activated the shard under that
epoch nothing of it is uncommitted; from the activation on the learner is sent all that the backups are sent, in its
numbered stream (*subscribe first*). Then, in the same stream and so in one order with the writes:

1. *Sessions*: what this primary remembers of its clients, one row a client, watermark included; and its *history*, so
   that watches can go on at the new copy.
2. *Chunks*: the entries, tombstones too, as they are when the chunk is made. A key that is written between two chunks
   comes by the subscription; the learner keeps whatever is newer.
3. *Join*: every chunk is acknowledged and the learner grants leases: from here on its acknowledgements are required,
   so the commit point cannot run away from a learner that is a little slower (it must end under steady load).
4. *Report*: the learner has acknowledged everything up to the commit point. The manager is told, again and again until
   it answers, and makes it a member of the set with the next epoch. The report is never taken back.

Any change of the shard's epoch ends the fill; the next one starts from empty.

Fills are paced: a few chunks to one learner may be under way, and all together keep to `fill_bytes_per_s`. While
clients keep the node busy fills are a scavenger (in the sense of LEDBAT, RFC 6817): chunks are small, and a chunk whose
acknowledgement is late says that somebody had to wait, so the rate falls, to a floor; one that comes in time lets it
rise. Shards of a learner are filled one after the other, learners side by side.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final

from zkv.core import wire
from zkv.core.node.entries import StoredEntry, columns_of, size_of_stored
from zkv.core.node.groups import Group
from zkv.core.node.history import Event
from zkv.core.node.local import MANAGER, Local
from zkv.core.node.serving import FILL_PART, HISTORY_PART, SESSIONS_PART, Serving
from zkv.core.node.sizes import size_of

CHUNK_BYTES: Final = 64 * 1024
"""Keys and values of a chunk, unless one entry alone is longer."""
CHUNK_ENTRIES: Final = 512
"""Entries of a chunk, or operations that sessions remember, looked at for it."""
BUSY_CHUNK_PART: Final = 4
"""While clients keep the node busy a chunk is this part of the usual: everybody waits while one is made or taken."""
WINDOW_CHUNKS: Final = 4
"""Chunks to one learner that may be unacknowledged."""
ENTRY_BYTES: Final = 16
"""What an entry costs beside its key and value."""
FLOOR_PART: Final = 32
"""However busy the nodes are, fills get one in so many bytes of `fill_bytes_per_s`: copies must not be lacking for
ever."""
DELAY_MS: Final = 4.0
"""A chunk acknowledged later than this disturbed somebody."""
BACK_OFF: Final = 0.8
SPEED_UP: Final = 1.03
"""The rate falls by the one factor with each chunk that came late, and rises by the other with each that came in time:
it settles where about one in eight is late."""
BURST_MS: Final = 20.0
"""Unused bandwidth is kept for so long."""
REPORT_LIMIT: Final = 8192
REPORT_MS: Final = 200.0
"""Interval at which reports are repeated until the manager has acknowledged them."""


class Fill:
    """One learner of one group, on its way to being in sync."""

    __slots__ = (
        "all_sent", "group", "joined", "keys", "last_seq", "learner", "left_keys", "outstanding", "past", "pieces",
        "reported",
        "sent", "shard", "shards",
    )  # fmt: skip

    def __init__(self, group: Group, learner: int) -> None:
        self.group = group
        self.learner = learner
        self.sent: set[int] = set()
        """Shards that are sent, or being sent."""
        self.shards: deque[int] = deque()
        """Those of this round still to come."""
        self.pieces: Iterator[tuple[list[Any], int]] = iter(())
        """What is still to be sent of sessions, for the shards of this round; see `_pieces`."""
        self.past: Iterator[bytes] = iter(())
        """What is still to be sent of the history of these shards; see `_past`."""
        self.shard = -1
        """The one being sent, with what is left of its keys."""
        self.keys: Iterator[Any] = iter(())
        self.left_keys = 0
        """About how many entries of this round are still to be sent."""
        self.all_sent = False
        """Whether nothing was left when a chunk was last made."""
        self.outstanding: deque[tuple[int, float]] = deque()
        """(sequence number, when it was sent) of chunks under way."""
        self.last_seq = 0
        """The newest batch that the learner must have: the last chunk, or that with the shards' activation."""
        self.joined = False
        self.reported = False

    def leave(self, shards: AbstractSet[int]) -> None:
        """Forget that these were sent: should they come back they are sent again, from the start."""
        self.sent -= shards
        self.shards = deque(shard for shard in self.shards if shard not in shards)
        if self.shard in shards:
            self.shard, self.keys = -1, iter(())


class Filling:
    """All fills of one node, as a primary."""

    def __init__(self, local: Local, serving: Serving) -> None:
        self.local = local
        self.serving = serving
        self.fills: dict[tuple[Group, int], Fill] = {}
        self._budget_bytes = 0.0
        self._paid_ms = 0.0
        self._yielding = 1 / FLOOR_PART
        """Part of `fill_bytes_per_s` that is used while clients keep the node busy."""
        self._unreported: dict[int, dict[int, int]] = defaultdict(dict)
        """learner -> shard -> epoch of reports that the manager has not acknowledged."""
        self._reported_ms = float("-inf")

    # --- a turn ----------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether there are learners, or the manager has yet to be told of some that are filled."""
        return bool(self.fills or self._unreported) or any(group.learners for group in self.serving.groups)

    def advance(self, wake: Callable[[float], None]) -> None:
        """End of a turn, after all batches of it have left: move every fill as far as it can go."""
        if not self.fills and not any(group.learners for group in self.serving.groups):
            return
        self._follow_groups()
        self._earn()
        learners: dict[int, list[Fill]] = defaultdict(list)
        for fill in self.fills.values():
            learners[fill.learner].append(fill)
        for fills in learners.values():
            self._pump(fills)
        for fill in self.fills.values():
            self._promote(fill)
        self.local.fill_left_keys = sum(fill.left_keys for fill in self.fills.values())
        if self._budget_bytes <= 0:
            wake(self.local.now_ms + 1.0 - self._budget_bytes / self._rate())

    def _follow_groups(self) -> None:
        """Begin fills for new groups, forget those whose groups are gone."""
        groups = self.serving.groups
        for key in [key for key in self.fills if key[0] not in groups]:
            del self.fills[key]
        for group in groups:
            for learner in group.learners:
                if (group, learner) not in self.fills:
                    self.fills[group, learner] = Fill(group, learner)
                    self.local.fired["fills begun"] += 1

    def _earn(self) -> None:
        """Bandwidth since the last turn. What was sent too much is paid back first."""
        local = self.local
        rate = self._rate()
        earned = rate * (local.now_ms - self._paid_ms)
        self._paid_ms = local.now_ms
        self._budget_bytes = min(self._budget_bytes + earned, rate * BURST_MS)

    def _rate(self) -> float:
        """Bytes a millisecond that may be sent just now."""
        return self.local.settings.fill_bytes_per_s / 1000 * (self._yielding if self._is_busy else 1.0)

    @property
    def _is_busy(self) -> bool:
        return self.local.now_ms < self.local.busy_until_ms

    def _learn(self, delay_ms: float) -> None:
        """A chunk was acknowledged after `delay_ms`: adapt the rate that is used beside clients."""
        if delay_ms > DELAY_MS:
            self._yielding = max(1 / FLOOR_PART, self._yielding * BACK_OFF)
        else:
            self._yielding = min(1.0, self._yielding * SPEED_UP)

    def _pump(self, fills: Iterable[Fill]) -> None:
        """Send the learner of these what may be sent now, one fill after the other."""
        now_ms = self.local.now_ms
        for fill in fills:
            acked = self.local.stream_to(fill.learner).acked
            while fill.outstanding and fill.outstanding[0][0] <= acked:
                self._learn(now_ms - fill.outstanding.popleft()[1])
        under_way = sum(len(fill.outstanding) for fill in fills)
        for fill in fills:
            while under_way < WINDOW_CHUNKS and self._budget_bytes > 0 and (packed := self._next_chunk(fill)):
                fill.last_seq = self.local.send_batch(fill.learner, packed, commits=False)
                fill.outstanding.append((fill.last_seq, now_ms))
                under_way += 1
                self._budget_bytes -= len(packed)
                self.local.fill_bytes += len(packed)
                self.local.fired["chunks sent"] += 1

    # --- what is sent ----------------------------------------------------------------------------------------------

    def _next_chunk(self, fill: Fill) -> bytes | None:
        """The next batch of a fill, or None if all of it was sent."""
        while True:
            if sessions := self._session_rows(fill):
                return sessions
            if past := next(fill.past, None):
                return past
            if fill.shard in fill.group.shards and (chunk := self._entries(fill)):
                return chunk
            if not self._next_shard(fill):
                fill.left_keys, fill.all_sent = 0, True
                return None

    def _next_shard(self, fill: Fill) -> bool:
        """Go on to the next shard of the round, or begin a round with the shards that came since."""
        if not fill.shards:
            fresh = sorted(fill.group.shards - fill.sent)
            if not fresh:
                return False
            # The batch that tells the learner from where on it subscribes has left: activations go before fills.
            fill.last_seq = self.local.stream_to(fill.learner).last_seq
            fill.all_sent = False
            fill.sent.update(fresh)
            fill.shards.extend(fresh)
            fill.pieces = self._pieces(fill)
            fill.past = self._past(fill, fresh)
            fill.shard = -1
            fill.left_keys = sum(len(self.local.store.tables[shard]) for shard in fresh)
            return True
        fill.shard = fill.shards.popleft()
        fill.keys = iter(list(self.local.store.tables[fill.shard]))
        return True

    def _session_rows(self, fill: Fill) -> bytes | None:
        """Clients as they are remembered now: in each row watermark and records are of the same moment."""
        rows = []
        looked, part = 0, BUSY_CHUNK_PART if self._is_busy else 1
        for row, cost in fill.pieces:
            rows.append(row)
            looked += cost
            if looked * part >= CHUNK_ENTRIES:
                break
        if not rows:
            return None
        shards = sorted(fill.group.shards)
        epochs = [self.local.map.shards[shard].epoch for shard in shards]
        return wire.pack([[SESSIONS_PART, wire.pack_u64(shards), wire.pack_u64(epochs), rows]])

    def _pieces(self, fill: Fill) -> Iterator[tuple[list[Any], int]]:
        """What is remembered of each client, as it is when a piece is taken: ([client, watermark, records], how many
        operations were looked at). One client may remember many thousands: a piece ends with the record in which
        `CHUNK_ENTRIES` are reached. Records that come while pieces are taken reach the learner by its subscription."""
        for client in self.local.sessions.clients():
            session = self.local.sessions.find(client)
            if session is None:
                continue
            records: list[list[Any]] = []
            looked = 1
            for batch in list(session.records):
                record = session.records.get(batch)
                if record is None:
                    continue  # below the watermark by now
                looked += len(record)
                part = record.of_shards(fill.group.shards)
                if part is not None:
                    columns = map(wire.pack_u64, (part.indices or (), part.shards, part.versions))
                    records.append([batch, *columns, False if record.forgetful else part.results])
                if looked >= CHUNK_ENTRIES:
                    yield [client, session.watermark, records], looked
                    records, looked = [], 1
            yield [client, session.watermark, records], looked

    def _past(self, fill: Fill, shards: list[int]) -> Iterator[bytes]:
        """Batches with what is remembered of these shards from before the learner subscribed. (A shard that has left
        the fill by then is refused by its epoch.)"""
        history, map_shards = self.local.history, self.local.map.shards
        epochs = [map_shards[shard].epoch for shard in shards]
        head = wire.pack_u64(shards), wire.pack_u64(epochs), wire.pack_u64(map(history.floor, shards))
        upto = self.local.store.committed
        rows: list[tuple[int, Event]] = []
        looked = size = 0
        for some, cost in history.past(shards):
            rows += [(shard, event) for shard, event in some if event.version <= upto[shard]]
            looked += cost
            size += sum(size_of(event.key) + size_of(event.value) + ENTRY_BYTES for _, event in some)
            if looked >= CHUNK_ENTRIES or size >= CHUNK_BYTES:
                if rows:
                    yield _history_part(head, rows)
                rows, looked, size = [], 0, 0
        yield _history_part(head, rows)

    def _entries(self, fill: Fill) -> bytes | None:
        """The next entries of the shard that is being sent, as they are now."""
        table = self.local.store.tables[fill.shard]
        keys: list[str | bytes] = []
        entries: list[StoredEntry] = []
        size, part = 0, BUSY_CHUNK_PART if self._is_busy else 1
        for key in fill.keys:
            fill.left_keys -= 1
            entry = table.get(key)
            if entry is None:
                continue
            keys.append(key)
            entries.append(entry)
            size += size_of(key) + size_of_stored(entry)
            if size * part >= CHUNK_BYTES or len(keys) * part >= CHUNK_ENTRIES:
                break
        if not keys:
            return None
        self.local.fill_keys += len(keys)
        epoch = self.local.map.shards[fill.shard].epoch
        versions, values, expiries = columns_of(entries)
        columns = keys, wire.pack_u64(versions), values, wire.pack_u64(expiries)
        return wire.pack([[FILL_PART, fill.shard, epoch, *columns]])

    # --- from learner to member ------------------------------------------------------------------------------------

    def _promote(self, fill: Fill) -> None:
        """Join a learner that has every chunk; report it once it has everything that is committed (SAFETY 22)."""
        local, group = self.local, fill.group
        acked = local.stream_to(fill.learner).acked
        complete = fill.all_sent and group.shards <= fill.sent and acked >= fill.last_seq
        leased = local.leases.until_ms((fill.learner,), group.changed) > local.now_ms
        if complete and leased and not fill.joined:
            fill.joined = True
            self.serving.join(group, fill.learner)
        if fill.joined and not fill.reported and self.has_all(fill, acked):
            fill.reported = True
            local.fired["fills reported"] += 1
            self._report(fill)

    def has_all(self, fill: Fill, acked: int) -> bool:
        """Whether the learner acknowledged every batch up to the commit point."""
        return acked >= max(fill.last_seq, fill.group.mark[fill.group.receivers.index(fill.learner)])

    # --- reports ---------------------------------------------------------------------------------------------------

    def _report(self, fill: Fill) -> None:
        shards = self.local.map.shards
        self._unreported[fill.learner].update((shard, shards[shard].epoch) for shard in sorted(fill.group.shards))
        self._reported_ms = float("-inf")

    def announce(self, wake: Callable[[float], None]) -> None:
        """Tell the manager who is filled, until it has answered."""
        local = self.local
        if not self._unreported:
            return
        if local.now_ms - self._reported_ms >= REPORT_MS:
            self._reported_ms = local.now_ms
            for learner, reports in self._unreported.items():
                shards = list(islice(reports, REPORT_LIMIT))
                epochs = wire.pack_u64(reports[shard] for shard in shards)
                local.send(MANAGER, wire.FILLED, [learner, wire.pack_u64(shards), epochs])
        wake(self._reported_ms + REPORT_MS)

    def reported(self, learner: int, shards: Iterable[int], epochs: Iterable[int]) -> None:
        """The manager knows these."""
        reports = self._unreported.get(learner, {})
        for shard, epoch in zip(shards, epochs, strict=True):
            if reports.get(shard) == epoch:
                del reports[shard]
        if not reports:
            self._unreported.pop(learner, None)
        else:
            self._reported_ms = float("-inf")  # there were more than one report holds

    def report_again(self) -> None:
        """A new incarnation of the manager: it may have forgotten what was reported."""
        for fill in self.fills.values():
            if fill.reported:
                self._report(fill)

    def abandon(self, shards: Iterable[int]) -> None:
        """The epoch of these shards changed: what was sent and reported under the former one says nothing any more.

        A shard may come back to a group that others kept alive, and its learner has cleared it meanwhile (SAFETY 20).
        """
        gone = set(shards)
        for fill in self.fills.values():
            fill.leave(gone)
        for learner, reports in list(self._unreported.items()):
            for shard in gone.intersection(reports):
                del reports[shard]
            if not reports:
                del self._unreported[learner]


def _history_part(head: tuple[bytes, bytes, bytes], rows: list[tuple[int, Event]]) -> bytes:
    events = [event for _, event in rows]
    columns = (
        wire.pack_u64(shard for shard, _ in rows), wire.pack_u64(event.version for event in events),
        bytes(event.kind for event in events), [event.key for event in events], [event.value for event in events],
        wire.pack_u64(event.expires_ms for event in events),
    )  # fmt: skip
    return wire.pack([[HISTORY_PART, *head, *columns]])
