"""The backup's role: apply what primaries replicate, acknowledge it, and answer their successors (SAFETY 3, 6, 7, 16,
17).

A batch made under the very map that we have needs no look at its entries: the sender is a correct member, and both
sides know the same epochs. Only around a change of the map is each entry compared with its shard's epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from zkv.core import wire
from zkv.core.node.history import Event
from zkv.core.node.local import Address, Local
from zkv.core.node.serving import (
    ACTIVE_PART,
    ADOPT_PART,
    DROP_PART,
    FILL_PART,
    HISTORY_PART,
    SESSIONS_PART,
    WRITES_PART,
)
from zkv.core.node.sessions import SessionPart
from zkv.core.node.store import Row
from zkv.core.node.streams import InStream
from zkv.core.node.tails import Part
from zkv.core.wire import Malformed


class BrokenStream(AssertionError):
    """A correct primary's stream cannot lead here: better to end than to vouch for what is not held."""


class Following:
    """The backup's role of one node."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self._owed: dict[int, Address] = {}
        """sender -> route of an acknowledgement that is due at the end of this turn."""

    # --- streams ---------------------------------------------------------------------------------------------------

    def batch(self, route: Address, header: wire.Header, frame: bytes) -> None:
        """One batch of a primary's stream."""
        local = self.local
        if len(frame) < wire.HEADER.size + wire.STREAM.size:
            raise Malformed("a batch without its stream header")
        seq, committed = wire.STREAM.unpack_from(frame, wire.HEADER.size)
        stream = local.incoming.get(header.sender)
        if stream is None:
            stream = local.incoming[header.sender] = InStream()
        self._owed[header.sender] = route
        if not self._in_order(stream, seq):
            local.fired["batches out of order"] += 1
            return
        try:
            self._take(stream, header, seq, frame)
        except wire.UNPARSABLE:
            stream.received = seq - 1  # not acknowledged: nobody may count on it
            raise
        self.release(header, committed)

    def _take(self, stream: InStream, header: wire.Header, seq: int, frame: bytes) -> None:
        """What the next batch of a stream says."""
        local = self.local
        self.forget_refusals(stream, header.map_version)
        parts: list[Part] = []
        for item in wire.decode_body(frame, wire.HEADER.size + wire.STREAM.size):
            kind = item[0]
            if kind == WRITES_PART:
                part = self._writes(stream, header, seq, item)
                if part is not None:
                    parts.append(part)
                continue
            local.roused = True
            if kind == ADOPT_PART:
                self._adopt(stream, header, seq, item[1])
            elif kind == ACTIVE_PART:
                self._activated(header.sender, *map(wire.unpack_u64, item[1:4]))
            elif kind == DROP_PART:
                self._drop(header, wire.unpack_u16(item[1]), wire.unpack_u64(item[2]), item[3])
            elif kind == FILL_PART:
                self._fill(stream, header.sender, seq, *item[1:])
            elif kind == HISTORY_PART:
                self._inherit(stream, header.sender, seq, *item[1:])
            elif kind == SESSIONS_PART:
                self._take_sessions(stream, header.sender, seq, item)
        if parts:
            local.tails.keep(header.sender, seq, parts)

    def _in_order(self, stream: InStream, seq: int) -> bool:
        """Refuse gaps and duplicates (SAFETY 7)."""
        return stream.accept(seq)

    def forget_refusals(self, stream: InStream, map_version: int) -> None:
        """A batch made under map `map_version`: the sender has learned the changes up to it (SAFETY 6)."""
        if stream.refused:
            shards = self.local.map.shards
            stream.refused = {
                shard: refusal for shard, refusal in stream.refused.items() if shards[shard].changed > map_version
            }

    def release(self, header: wire.Header, committed: int) -> None:
        """The sender says that its batches up to `committed` are committed; it may say so of shards it has lost only
        where it has shown us the map that took them away, and we have stranded what we need of them."""
        if header.map_version <= self.local.map.version:
            self.local.tails.release(header.sender, committed)

    def _writes(self, stream: InStream, header: wire.Header, seq: int, item: Sequence[Any]) -> Part | None:
        local = self.local
        _, client, batch, watermark, packed, shard_column, version_column, keys, values, results, expiries = item
        indices: Sequence[int] | None = None if packed is None else wire.unpack_u16(packed)
        shards: Sequence[int] = wire.unpack_u16(shard_column)
        versions: Sequence[int] = wire.unpack_u64(version_column)
        until = None if expiries is None else wire.unpack_u64(expiries)
        given = [column for column in (indices, results, until) if column is not None]
        columns = shards, versions, keys, values, *given
        if len(set(map(len, columns))) != 1:
            raise Malformed("outcomes whose columns differ in length")  # before anything of them is applied
        part = Part(client, batch, watermark, indices, shards, versions, keys, values, results, until)
        if header.map_version != local.map.version:
            accepted = self._unfenced(stream, header.sender, seq, shards, versions)
            if not accepted:
                return None
            if len(accepted) < len(shards):
                part = part.pick(accepted)
        local.apply(part)
        return part

    def _unfenced(
        self, stream: InStream, sender: int, seq: int, shards: Sequence[int], versions: Sequence[int]
    ) -> list[int]:
        """Positions of entries made under the epoch that we know; the others are refused (SAFETY 3, 6)."""
        accepted = []
        for position, (shard, version) in enumerate(zip(shards, versions, strict=True)):
            if self._current(sender, shard, wire.epoch_of(version)):
                accepted.append(position)
            else:
                self._refuse(stream, shard, seq)
        return accepted

    def _current(self, sender: int, shard: int, epoch: int) -> bool:
        """Whether `sender` is the primary of `shard` under just this epoch, and we are in its set, or learn it."""
        entry, boot = self.local.map.shards[shard], self.local.boot
        return entry.epoch == epoch and entry.primary == sender and (boot in entry.replicas or boot in entry.learners)

    def _refuse(self, stream: InStream, shard: int, seq: int) -> None:
        self.local.fired["fenced entries"] += 1
        stream.refuse(shard, seq, self.local.map.shards[shard].epoch)

    def _adopt(self, stream: InStream, header: wire.Header, seq: int, items: Iterable[Any]) -> None:
        """What a takeover found us lacking, with its original versions (SAFETY 16)."""
        local = self.local
        for shard, epoch, rows in items:
            if not self._current(header.sender, shard, epoch):
                self._refuse(stream, shard, seq)
                continue
            local.adopt(shard, (Row(*row) for row in rows))

    def _activated(self, sender: int, shards: list[int], epochs: list[int], positions: list[int]) -> None:
        """A takeover is over: everything up to these positions is committed (SAFETY 17).

        For a learner this begins the subscription: its copy is empty, what follows continues the history from here.
        """
        store, shard_map = self.local.store, self.local.map
        for shard, epoch, position in zip(shards, epochs, positions, strict=True):
            if self._current(sender, shard, epoch):
                if self.local.boot in shard_map.shards[shard].learners:
                    store.positions[shard] = max(store.positions[shard], position)
                    self.local.history.begin(shard, max(position, self.local.life_begins(shard)))
                if store.positions[shard] < position:
                    raise BrokenStream(f"shard {shard} was activated beyond what we hold")
                store.committed[shard] = max(store.committed[shard], position)
        self.local.prune_tails()

    def _drop(self, header: wire.Header, shards: list[int], versions: list[int], keys: list[Any]) -> None:
        """Tombstones that every member has passed. Not under another map than ours: keeping one is always right.

        (Of a shard that has learners a primary drops only what expired or was evicted, SAFETY 20.)
        """
        if header.map_version == self.local.map.version:
            for shard, version, key in zip(shards, versions, keys, strict=True):
                self.local.store.drop_tombstone(shard, key, version)

    # --- being filled ----------------------------------------------------------------------------------------------

    def _fill(
        self, stream: InStream, sender: int, seq: int, shard: int, epoch: int, keys: Any, packed: Any, values: Any,
        expiries: Any,
    ) -> None:  # fmt: skip
        """A chunk of a shard that we learn (SAFETY 21)."""
        if self._current(sender, shard, epoch):
            columns = keys, wire.unpack_u64(packed), values, wire.unpack_u64(expiries)
            self.local.store.fill(shard, *columns, self.local.now_ms)
            self.local.fired["chunks taken"] += 1
        else:
            self._refuse(stream, shard, seq)

    def _inherit(
        self, stream: InStream, sender: int, seq: int, shards: Any, epochs: Any, floors: Any, *columns: Any
    ) -> None:
        """What happened in shards that we learn before we began to."""
        rows_shards, versions, kinds, keys, values, expiries = columns
        events: dict[int, list[Event]] = defaultdict(list)
        for shard, *event in zip(
            wire.unpack_u64(rows_shards), wire.unpack_u64(versions), kinds, keys, values, wire.unpack_u64(expiries),
            strict=True,
        ):  # fmt: skip
            events[shard].append(Event(*event))
        numbers = wire.unpack_u64(shards), wire.unpack_u64(epochs), wire.unpack_u64(floors)
        for shard, epoch, floor in zip(*numbers, strict=True):
            if not self._current(sender, shard, epoch):
                self._refuse(stream, shard, seq)
            elif self.local.boot in self.local.map.shards[shard].learners:
                self.local.history.inherit(shard, max(floor, self.local.life_begins(shard)), events[shard])

    def _take_sessions(self, stream: InStream, sender: int, seq: int, item: Sequence[Any]) -> None:
        """What the primary remembers of its clients, as far as it concerns shards that we learn (SAFETY 23)."""
        _, shards, epochs, rows = item
        ours = set()
        for shard, epoch in zip(wire.unpack_u64(shards), wire.unpack_u64(epochs), strict=True):
            if self._current(sender, shard, epoch):
                ours.add(shard)
            else:
                self._refuse(stream, shard, seq)
        sessions, now_ms = self.local.sessions, self.local.now_ms
        for client, watermark, records in rows if ours else ():
            session = sessions.open(client, watermark, now_ms)
            for batch, *columns in records:
                *packed, results = columns
                places, rows_shards, versions = map(wire.unpack_u64, packed)
                part = SessionPart(places, rows_shards, versions, results or None)
                kept = [row for row in part.rows() if row[1] in ours]
                if kept and batch >= session.watermark:
                    ours_alone = SessionPart.of_rows(kept)
                    sessions.remember(
                        client, batch, watermark, ours_alone.indices, ours_alone.shards, ours_alone.versions, now_ms,
                        ours_alone.results,
                    )  # fmt: skip
                    session.record(batch).forgetful |= results is False

    def acknowledge(self) -> None:
        """End of the turn: one cumulative acknowledgement a stream, with everything still refused."""
        local = self.local
        for sender, route in self._owed.items():
            stream = local.incoming.get(sender)
            if stream is not None:
                local.send(route, wire.ACK, [stream.received, stream.gap, self.refusals(stream)])
        self._owed.clear()

    def refusals(self, stream: InStream) -> list[tuple[int, int, int]]:
        """Refusals are repeated in *every* acknowledgement until the sender shows that it knows (SAFETY 6)."""
        return [(shard, first, epoch) for shard, (first, epoch) in stream.refused.items()]

    # --- a successor's questions -----------------------------------------------------------------------------------

    def tails(self, route: Address, header: wire.Header, shards: list[int], epochs: list[int]) -> None:
        """The primary of a new epoch asks for positions and tails. Knowing that epoch, we are fenced against older
        ones."""
        local = self.local
        mine = [
            (shard, epoch)
            for shard, epoch in zip(shards, epochs, strict=True)
            if self._current(header.sender, shard, epoch)
        ]
        tails = local.tails.collect({shard for shard, _ in mine}, local.store.committed.__getitem__)
        answer = [
            [shard, epoch, local.store.positions[shard], [list(row) for row in tails[shard]]] for shard, epoch in mine
        ]
        if answer:
            local.send(route, wire.TAILS, answer)

    def fence(self, route: Address, shards: list[int], epochs: list[int]) -> None:
        """A successor asks a former member to acknowledge the new epochs, so that it need not wait for our lease."""
        entries = self.local.map.shards
        known = [(shard, epoch) for shard, epoch in zip(shards, epochs, strict=True) if entries[shard].epoch >= epoch]
        if known:
            self.local.send(
                route, wire.FENCED, [wire.pack_u64(s for s, _ in known), wire.pack_u64(e for _, e in known)]
            )
