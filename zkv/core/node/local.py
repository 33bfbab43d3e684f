"""What the roles of one storage node share: identity, clock, map, data, streams, and the way out.

`Local` decides nothing. The roles (`Serving` as primary, `Following` as backup, `Takeovers` in between) read and
write it
during a step of the node; nothing in it outlives the process, and nothing in it is ambient: `now_ms` is what the
host read after it had drained its sockets (SAFETY 11).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any, Final

from zkv.core import wire
from zkv.core.load import Load
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

    def __init__(self, name: str, boot: int, settings: ClusterSettings, shard_map: ShardMap) -> None:
        self.name = name
        self.boot = boot
        self.settings = settings
        self.map = shard_map
        self.now_ms = 0.0
        self.store = Store(settings.shards)
        self.sessions = Sessions(settings.session_ttl_ms)
        self.tails = Tails()
        self.leases = Leases(settings.lease_ms)
        self.given = Given()
        self.outgoing: dict[int, OutStream] = {}
        self.incoming: dict[int, InStream] = {}
        self.out: list[tuple[Address, bytes]] = []
        """Frames to send at the end of the step, in order."""
        self.usage = Load()
        """What only the host can know of it: it writes this before a step."""
        self.operations = 0
        self.busy_until_ms = float("-inf")
        """Clients kept this node busy a moment ago: until here fills hold back."""
        self.fill_keys = self.fill_bytes = self.fill_left_keys = 0
        self.fired: Counter[str] = Counter()
        """How often each of the protocol's rarer paths ran; for status, and for the simulator's summary."""

    def load(self) -> Load:
        """What this node says of itself in its heartbeat."""
        return self.usage._replace(
            keys=self.store.count(), bytes=self.store.estimate_bytes(), operations=self.operations,
            fill_keys=self.fill_keys, fill_bytes=self.fill_bytes, fill_left_keys=self.fill_left_keys,
        )  # fmt: skip

    def forget(self, shards: AbstractSet[int]) -> None:
        """Clear the copies of `shards`: entries, tombstones, what sessions say of them, and tails (SAFETY 20)."""
        for shard in shards:
            self.store.clear(shard)
        self.sessions.forget(shards)
        self.tails.forget(shards)

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

    def keep_rows(self, tails: dict[int, list[Any]]) -> None:
        """Keep rows as adopted ones: until a commit position covers them."""
        parts = [
            Part(
                row.client, row.batch, 0, (row.place,), (shard,), (row.version,), (row.key,), (row.value,),
                None if row.result is None else (row.result,),
            )
            for shard, rows in tails.items()
            for row in rows
        ]
        if parts:
            self.tails.keep(ADOPTED, 0, parts)

    def prune_tails(self) -> None:
        """Let go of batches whose every entry is covered by a commit position, or of a shard no longer held here."""
        committed = self.store.committed
        shards, boot = self.map.shards, self.boot

        def settled(shard: int, version: int) -> bool:
            entry = shards[shard]
            return version <= committed[shard] or (boot not in entry.replicas and boot not in entry.learners)

        self.tails.prune(self.tails.sources(), settled)
