"""What the roles of one storage node share: identity, clock, map, data, streams, and the way out.

`Local` decides nothing. The roles (`Serving` as primary, `Following` as backup, `Takeovers` in between) read and
write it
during a step of the node; nothing in it outlives the process, and nothing in it is ambient: `now_ms` is what the
host read after it had drained its sockets (SAFETY 11).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any, Final

from zkv.core import wire
from zkv.core.load import Load
from zkv.core.node.clock import Clock
from zkv.core.node.history import SYSTEM, History
from zkv.core.node.leases import Given, Leases
from zkv.core.node.sessions import Sessions
from zkv.core.node.store import Row, Store
from zkv.core.node.streams import InStream, OutStream
from zkv.core.node.tails import ADOPTED, Part, Tails
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import ShardMap

Address = int | bytes
"""Where a frame goes, or came from: a member's boot id, an opaque route of the host's ROUTER, or one of these two."""
MANAGER: Final = 0
PUBLISH: Final = 1
"""The heartbeat publisher of a node."""


class Local:
    """The shared state of one node."""

    def __init__(
        self, name: str, boot: int, settings: ClusterSettings, shard_map: ShardMap, limit_bytes: int | None = None
    ) -> None:
        self.name = name
        self.boot = boot
        self.settings = settings
        self.map = shard_map
        self.now_ms = 0.0
        self.store = Store(settings.shards)
        self.sessions = Sessions(settings.session_ttl_ms)
        self.tails = Tails()
        self.spent: deque[tuple[float, Part]] = deque()
        self.spent_elsewhere: deque[tuple[float, Part]] = deque()
        """(when, what expired or was evicted), oldest first, as a primary and as a backup: tombstones that nobody needs
        once they are committed."""
        self.clock = Clock(settings.drift_margin)
        self.history = History(settings.history_bytes)
        self.limit_bytes = settings.memory_limit_bytes if limit_bytes is None else limit_bytes
        """What the entries held here may take; 0: no limit. It binds this node as a primary: as a backup it takes what
        it is sent."""
        self.leases = Leases(settings.lease_ms)
        self.given = Given()
        self.outgoing: dict[int, OutStream] = {}
        self.incoming: dict[int, InStream] = {}
        self.out: list[tuple[Address, bytes]] = []
        """Frames to send at the end of the step, in order."""
        self.roused = True
        """Whether something happened in this turn that its end has to look into."""
        self.usage = Load()
        """What only the host can know of it: it writes this before a step."""
        self.operations = 0
        self.busy_until_ms = float("-inf")
        """Clients kept this node busy a moment ago: until here fills hold back."""
        self.fill_keys = self.fill_bytes = self.fill_left_keys = 0
        self.expired = self.evicted = self.refused = self.lag_us = 0
        """Entries expired and evicted here, writes refused for want of memory, and how late expiries are."""
        self.fired: Counter[str] = Counter()
        """How often each of the protocol's rarer paths ran; for status, and for the simulator's summary."""

    @property
    def cluster_ms(self) -> int:
        """Cluster time of this turn; 0: not known yet."""
        return self.clock.at(self.now_ms)

    def load(self) -> Load:
        """What this node says of itself in its heartbeat."""
        return self.usage._replace(
            keys=self.store.count(), bytes=self.store.bytes, operations=self.operations,
            fill_keys=self.fill_keys, fill_bytes=self.fill_bytes, fill_left_keys=self.fill_left_keys,
            expiring_keys=self.store.expiry.count, expired=self.expired, evicted=self.evicted, refused=self.refused,
            lag_us=self.lag_us, limit_bytes=self.limit_bytes, cluster_ms=self.cluster_ms,
        )  # fmt: skip

    def apply(self, part: Part) -> None:
        """Take outcomes in, on any replica: into the store, the sessions, and the history."""
        store = self.store
        self.history.before(store.positions)
        size = store.apply(part.shards, part.keys, part.versions, part.values, part.expiries)
        if part.client == SYSTEM:
            ours = self.map.shards[part.shards[0]].primary == self.boot
            (self.spent if ours else self.spent_elsewhere).append((self.now_ms, part))
        elif None in part.values:
            deletes = [position for position, value in enumerate(part.values) if value is None]
            store.bury(
                [part.shards[position] for position in deletes],
                [part.keys[position] for position in deletes],
                [part.versions[position] for position in deletes],
                self.now_ms,
            )  # fmt: skip
        if part.client != SYSTEM:
            self.sessions.remember(
                part.client, part.batch, part.watermark, part.indices, part.shards, part.versions, self.now_ms,
                part.results,
            )  # fmt: skip
        self.history.add(part, size)

    def adopt(self, shard: int, rows: Iterable[Row]) -> None:
        """Take in rows of a tail that a takeover re-sends, as far as they are new here (SAFETY 16)."""
        self.history.before(self.store.positions)
        fresh = self.store.adopt(shard, rows, self.now_ms)
        for row in fresh:
            if row.client != SYSTEM:
                self.remember(shard, row)
        for part in self.keep_rows({shard: fresh}):
            self.history.add(part, 0)

    def forget(self, shards: AbstractSet[int]) -> None:
        """Clear the copies of `shards`: entries, tombstones, what sessions say of them, and tails (SAFETY 20)."""
        for shard in shards:
            self.store.clear(shard)
            self.history.begin(shard, self.life_begins(shard))
        self.sessions.forget(shards)
        self.tails.forget(shards)

    def life_begins(self, shard: int) -> int:
        """A version below all of the shard's present life, above all of those before it (SAFETY 33)."""
        born = self.map.shards[shard].born
        return born << wire.COUNTER_BITS if born > 1 else 0

    def remember(self, shard: int, row: Row) -> None:
        """Remember the write that made an adopted entry (SAFETY 24)."""
        results = None if row.result is None else (row.result,)
        self.sessions.remember(
            row.client, row.batch, 0, (row.place,), (shard,), (row.version,), self.now_ms, results
        )

    def send(self, to: Address, kind: int, body: Any) -> None:
        """Queue one frame. `to` is a boot id or MANAGER/PUBLISH or a route; the header's target follows from it."""
        self.send_packed(to, kind, wire.pack(body))

    def send_packed(self, to: Address, kind: int, packed: bytes) -> None:
        """The same, with a body that is packed already."""
        target = to if isinstance(to, int) and to > PUBLISH else 0
        header = wire.encode_header(kind, self.map.cluster, self.boot, target, self.map.version)
        self.out.append((to, header + packed))

    def stream_to(self, peer: int) -> OutStream:
        """The outgoing stream to `peer`."""
        stream = self.outgoing.get(peer)
        if stream is None:
            stream = self.outgoing[peer] = OutStream()
        return stream

    def send_batch(self, peer: int, packed: bytes, *, commits: bool = True) -> int:
        """Send `packed` parts as the next batch of the stream to `peer`; returns its sequence number.

        `commits`: the batch holds entries that the stream's commit point has to wait for. (What a takeover re-sends is
        committed by a commit position instead.)
        """
        stream = self.stream_to(peer)
        seq = stream.next_seq()
        shard_map = self.map
        frame = b"".join(
            (
                wire.encode_header(wire.BATCH, shard_map.cluster, self.boot, peer, shard_map.version),
                wire.STREAM.pack(seq, stream.committed),
                packed,
            )
        )
        stream.push(frame, self.now_ms)
        if commits:
            stream.uncommitted.append(seq)
        elif not stream.uncommitted:
            stream.committed = seq
        self.out.append((peer, frame))
        return seq

    def strand(self, shards: Iterable[int]) -> None:
        """Keep the tails of `shards` apart from the batches they came in.

        A batch is released when its sender says that it is committed. For a shard whose epoch changed (or is about to:
        a refusal told us) that word no longer counts: an entry that one member applied and another refused
        would be forgotten here, although no commit position covers it (SAFETY 6, 17). Only a commit position ends
        what is stranded.
        """
        chosen = set(shards)
        tails = self.tails.collect(chosen, self.store.committed.__getitem__)
        self.keep_rows({shard: rows for shard, rows in tails.items() if rows})

    def keep_rows(self, tails: dict[int, list[Any]]) -> list[Part]:
        """Keep rows as adopted ones: until a commit position covers them. Returns them as parts."""
        parts = [
            Part(
                row.client, row.batch, 0, (row.place,), (shard,), (row.version,), (row.key,), (row.value,),
                None if row.result is None else (row.result,), (row.expires_ms,) if row.expires_ms else None,
            )
            for shard, rows in tails.items()
            for row in rows
        ]
        if parts:
            self.tails.keep(ADOPTED, 0, parts)
        return parts

    def prune_tails(self) -> None:
        """Let go of batches whose every entry is covered by a commit position, or of a shard no longer held here."""
        committed = self.store.committed
        shards, boot = self.map.shards, self.boot

        def settled(shard: int, version: int) -> bool:
            entry = shards[shard]
            return version <= committed[shard] or (boot not in entry.replicas and boot not in entry.learners)

        self.tails.prune(self.tails.sources(), settled)
