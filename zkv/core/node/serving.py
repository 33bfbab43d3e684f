"""The primary's role: which shards this node serves, what it replicates, and what is committed (SAFETY 5-12, 18, 19).

A shard is *active* here once its takeover has reconciled it under the present epoch (`Takeovers` says when); only
active shards are served, and entries are made only for them.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from operator import itemgetter, or_
from typing import Any, Final

from zkv.core import wire
from zkv.core.node.entries import is_tombstone, version_of
from zkv.core.node.groups import Group
from zkv.core.node.history import SYSTEM
from zkv.core.node.local import Local
from zkv.core.node.replies import Held
from zkv.core.node.tails import Part

WRITES_PART: Final = 0
ADOPT_PART: Final = 1
ACTIVE_PART: Final = 2
DROP_PART: Final = 3
FILL_PART: Final = 4
SESSIONS_PART: Final = 5
HISTORY_PART: Final = 6
"""Kinds of parts in a batch, docs/PROTOCOL.md."""

HELD_LIMIT: Final = 16_384
"""Replies that may wait for commits before further requests are turned away."""
SPENT_MS: Final = 100.0
"""How long tombstones lie that nobody needs: by then they are committed."""
SPENT_ELSEWHERE_MS: Final = 1000.0
"""The same at a backup, before it looks whether the primary's word has come."""
DROPPED: Final = 512
"""Tombstones that are looked at in one go, at least: half a millisecond's work,"""
DROPPED_PER_MS: Final = 20.0
"""and for each millisecond since the last time; where clients delete more than that, theirs lie for longer."""
DROP_MS: Final = 50.0
"""Between two looks at the tombstones: dropping them is told to the replicas, and better told of many at once."""
PRESSED_PART: Final = 0.8
"""Beyond this part of the memory limit tombstones are not kept for their age."""
COUNTER_LIMIT: Final = wire.COUNTER_MASK - 2**32
"""A primary stops itself before its counter wraps (13 days at a million writes a second): a new boot starts at 0."""


class Serving:
    """The primary's role of one node."""

    def __init__(self, local: Local) -> None:
        self.local = local
        shards = local.settings.shards
        self.active: set[int] = set()
        """Shards that are reconciled under their present epoch, and not fenced."""
        self.fenced: set[int] = set()
        """Shards that a member refused under a newer epoch: not served until that epoch is known here."""
        self.left: set[int] = set()
        """Shards that are served no more, since whoever waits for news of them looked."""
        self.groups: dict[Group, None] = {}
        self._open: dict[tuple[tuple[int, ...], tuple[int, ...]], Group] = {}
        """(backups, learners) -> the group that takes in further shards with these."""
        self.group_of: list[Group | None] = [None] * shards
        self.bases: list[int] = [0] * shards
        """epoch << 40 of each active shard: or-ed with a counter it is a version."""
        self.counter = 0
        self.reign: dict[int, int] = {}
        """shard -> first map version of this primary's unbroken reign (SAFETY 19)."""
        self.youngest_reign = 0
        self.covered_until_ms = float("-inf")
        """Until when leases cover all groups: one comparison for most requests."""
        self.changed_with: dict[int, int] = {}
        """peer -> newest map version that its grant has to know to cover all groups it is in."""
        self.held: dict[Held, None] = {}
        self.unleased: dict[Held, None] = {}
        """Replies that are committed but met an expired lease, or a set that became too small."""
        self._thin: set[int] = set()
        """Active shards with fewer in-sync copies than `min_in_sync`: no write of them is taken or acknowledged."""
        self._unsettled = 0
        """Groups that have something uncommitted."""
        self._dirty: dict[Group, None] = {}
        self._deferred: list[tuple[int, int]] = []
        """(peer, sequence number) whose commit the streams do not learn while a shard is fenced."""
        self._sources = 0
        self._dropped_ms = float("-inf")

    # --- replies ---------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Whether any group has something uncommitted."""
        return bool(self._unsettled or self._dirty)

    def hold(self, held: Held, waits: dict[Group, int]) -> None:
        """Send a reply once each group has committed up to the counter named for it; at once if there are none."""
        if not waits:
            self._finish(held)
            return
        held.pending = len(waits)
        self.held[held] = None
        if held.values is not None or held.entries is not None:
            self.local.fired["held reads"] += 1
        for group, counter in waits.items():
            # In counter order, so that commits pop from the head. A read may depend on less than what waits already.
            insort(group.waiters, (counter, held), key=itemgetter(0))

    def _finish(self, held: Held) -> None:
        """Send a reply whose versions are all committed, if leases and epochs still stand (SAFETY 5)."""
        self.held.pop(held, None)
        answered = held.answered() if held.statuses is not None else held.shards
        if self.covers(answered) and not (held.writes and self.is_thin(answered)):
            self.unleased.pop(held, None)
            self.local.send_packed(held.route, wire.REPLY, held.body(self.local.now_ms))
        else:
            self.unleased[held] = None

    # --- replication -----------------------------------------------------------------------------------------------

    def depend_on_all(self, waits: dict[Group, int], shard: int) -> None:
        """Add all that was made so far of `shard` to what a reply waits for."""
        group, version = self.group_of[shard], self.local.store.positions[shard]
        base = self.bases[shard]
        if group is not None and version > base + group.committed:
            waits[group] = max(version - base, waits.get(group, 0))

    def next_versions(self, shards: Sequence[int]) -> list[int]:
        """New versions for operations on `shards`, all of them active."""
        first = self.counter + 1
        self.counter += len(shards)
        assert self.counter < COUNTER_LIMIT, "the version counter is about to wrap; a restart gives a new one"
        return list(map(or_, map(self.bases.__getitem__, shards), range(first, first + len(shards))))

    def replicate(self, waits: dict[Group, int], part: Part) -> None:
        """Hand each group its share of `part`; it leaves at the end of the turn."""
        split: dict[Group | None, list[int]] = defaultdict(list)
        for position, group in enumerate(map(self.group_of.__getitem__, part.shards)):
            split[group].append(position)
        for group, positions in split.items():
            assert group is not None, "entries are made only for active shards"
            last = part.versions[positions[-1]] & wire.COUNTER_MASK
            if not group.members:
                group.committed = last
                if not group.receivers:
                    continue
            if len(positions) == len(part.shards):
                share = part
            else:
                share = part.pick(positions)
            group.parts.append(share)
            group.wire.append(
                (
                    WRITES_PART, share.client, share.batch, share.watermark,
                    None if share.indices is None else wire.pack_u16(share.indices),
                    wire.pack_u16(share.shards), wire.pack_u64(share.versions), share.keys, share.values,
                    share.results, None if share.expiries is None else wire.pack_u64(share.expiries),
                )
            )  # fmt: skip
            self._dirty[group] = None
            if group.members:
                waits[group] = last

    def remove(self, rows: Sequence[tuple[int, str | bytes]], kind: int) -> None:
        """Delete entries that no client asked to be deleted: outcomes like any other (SAFETY 9). `kind`: of the event
        that this is."""
        shards, keys = [shard for shard, _ in rows], [key for _, key in rows]
        versions = self.next_versions(shards)
        part = Part(SYSTEM, kind, 0, None, shards, versions, keys, [None] * len(rows))
        self.local.apply(part)
        self.replicate({}, part)

    def notify(self, group: Group, item: tuple[Any, ...]) -> None:
        """Send a notice that makes no version (activation, dropped tombstones) in the group's streams."""
        if group.receivers:
            group.wire.append(item)
            self._dirty[group] = None

    def flush(self) -> None:
        """End of the turn: one batch a group, encoded once, sent to each member, under the map it was made under."""
        local = self.local
        for group in self._dirty:
            packed = wire.pack(group.wire)
            if not group.pending:
                self._unsettled += 1
            group.pending.append((self.counter, tuple([local.send_batch(peer, packed) for peer in group.receivers])))
            if group.parts:
                local.tails.keep(group.source, self.counter, group.parts)
            group.parts, group.wire = [], []
            if not group.members:
                self._advance(group)  # a set of one: committed as it is made
        self._dirty.clear()

    def acknowledged(self, peer: int) -> None:
        """The stream to `peer` moved on: see what that commits."""
        for group in list(self.groups):
            if group.pending and peer in group.members:
                self._advance(group)

    def _advance(self, group: Group) -> None:
        """Commit the batches that *every* member has acknowledged, in order (SAFETY 5, 8)."""
        outgoing = self.local.outgoing
        pending = group.pending
        streams = [outgoing[peer] for peer in group.receivers]
        required = group.required
        needed = streams if required is None else [streams[place] for place in required]
        moved = False
        while pending:
            counter, seqs = pending[0]
            if needed and not self._everywhere(needed, seqs if required is None else [seqs[at] for at in required]):
                break
            pending.popleft()
            moved = True
            group.committed = max(group.committed, counter)
            group.mark = seqs
            for peer, stream, seq in zip(group.receivers, streams, seqs, strict=True):
                if self.fenced:
                    self.defer(((peer, seq),))
                else:
                    stream.settle(seq)
        if not moved:
            return
        if not pending:
            self._unsettled -= 1
        self.local.tails.release(group.source, group.committed)
        waiters = group.waiters
        while waiters and waiters[0][0] <= group.committed:
            self._resolve(waiters.popleft()[1])

    def _everywhere(self, streams: Sequence[Any], seqs: Sequence[int]) -> bool:
        return all(stream.acked >= seq for stream, seq in zip(streams, seqs, strict=True))

    def _resolve(self, held: Held) -> None:
        held.pending -= 1
        if not held.pending and not held.blocked:
            self._finish(held)

    # --- leases ----------------------------------------------------------------------------------------------------

    def refresh_leases(self) -> None:
        """Grants or the map changed: work out again until when the groups are covered; send what waited for that."""
        leases = self.local.leases
        until = float("inf")
        changed_with = self.changed_with = {}
        for group in self.groups:
            group.until_ms = leases.until_ms(group.members, group.changed)
            until = min(until, group.until_ms)
            for peer in group.receivers:
                changed_with[peer] = max(group.changed, changed_with.get(peer, 0))
        self.covered_until_ms = until
        for held in list(self.unleased):
            if self.local.now_ms > held.deadline_ms:
                del self.unleased[held]  # who asked has given up by now, and knows nothing of the outcome
            else:
                self._finish(held)

    def is_thin(self, shards: Iterable[int]) -> bool:
        """Whether some of `shards` has too few in-sync copies for a write (SAFETY 27)."""
        return bool(self._thin) and not self._thin.isdisjoint(shards)

    def is_covered(self, shard: int, group: Group) -> bool:
        """Whether leases cover `shard` now (SAFETY 11, 12)."""
        now_ms = self.local.now_ms
        if now_ms < group.until_ms:
            return True
        if now_ms < self.local.leases.until_ms(group.members, self.local.map.shards[shard].changed):
            return True
        self.local.fired["lease expiries"] += 1
        return False

    def is_settling(self, shards: Sequence[int]) -> bool:
        """Whether some of `shards` are ours and cannot be served just now, because their epoch has only begun: they
        are being reconciled, or no grant knows of the change yet."""
        entries, boot = self.local.map.shards, self.local.boot
        for shard in set(shards):
            if shard >= len(entries) or entries[shard].primary != boot or entries[shard].withheld:
                continue
            group = self.group_of[shard]
            if shard in self.fenced:
                continue
            if group is None or group.until_ms == float("-inf"):
                return True
        return False

    def covers(self, shards: Sequence[int]) -> bool:
        """Whether all of `shards` are active here and leased at this moment."""
        if not self.active.issuperset(shards):
            return False
        if self.local.now_ms < self.covered_until_ms:
            return True
        group_of = self.group_of
        return all((group := group_of[shard]) is not None and self.is_covered(shard, group) for shard in set(shards))

    # --- changes of the map ----------------------------------------------------------------------------------------

    def fence(self, shard: int) -> None:
        """A member refused our entries of `shard` under a newer epoch: nothing of it counts from here on (SAFETY 6)."""
        if shard not in self.active:
            return
        self.local.strand((shard,))
        self.active.discard(shard)
        self.left.add(shard)
        self.fenced.add(shard)
        self._block({shard})

    def suspend(self, shards: set[int]) -> None:
        """The epoch of `shards` changed and this node is primary (still, or now): held replies wait for activation."""
        self._leave(shards)
        self._block(shards)

    def demote(self, shards: set[int]) -> None:
        """This node is no longer primary of `shards`."""
        self._leave(shards)
        for shard in shards:
            self.reign.pop(shard, None)
        for held in [*self.held, *self.unleased]:
            if not shards.isdisjoint(held.shards):
                self.local.fired["held replies demoted"] += 1
                held.demote(shards)
                if not held.pending and not held.blocked:
                    self._finish(held)

    def _block(self, shards: set[int]) -> None:
        for held in [*self.held, *self.unleased]:
            touched = shards.intersection(held.answered())
            if touched:
                held.blocked |= touched
                self.unleased.pop(held, None)
                self.held[held] = None

    def _leave(self, shards: set[int]) -> None:
        """Take `shards` out of their groups. A group that loses its last shard waits for nobody any more: its shards
        are re-sent by their takeover, or by another primary's."""
        self.left |= shards & self.active
        self.active -= shards
        self.fenced -= shards
        self._thin -= shards
        for shard in shards:
            group, self.group_of[shard] = self.group_of[shard], None
            if group is None:
                continue
            group.shards.discard(shard)
            if not group.shards:
                self._dissolve(group)
        self.youngest_reign = max((self.reign.get(shard, 0) for shard in self.active), default=0)

    def defer(self, settled: Iterable[tuple[int, int]]) -> None:
        """Batches (peer, sequence number) that hold up a stream's commit point no longer, once frames show the new
        map."""
        self._deferred.extend(settled)

    def _dissolve(self, group: Group) -> None:
        self.groups.pop(group, None)
        key = group.backups, group.learners
        if self._open.get(key) is group:
            del self._open[key]
        if group.pending:
            self._unsettled -= 1
        for _, seqs in group.pending:
            # The next header shows a map in which the shard's epoch changed: receivers strand the entries first.
            self.defer(zip(group.receivers, seqs, strict=True))
        group.pending.clear()
        waiters, group.waiters = list(group.waiters), type(group.waiters)()
        for _, held in waiters:
            self._resolve(held)

    def settle_deferred(self) -> None:
        """The new map is in place, and frames show it: streams may move their commit points on."""
        if self.fenced:
            return
        for peer, seq in self._deferred:
            stream = self.local.outgoing.get(peer)
            if stream is not None:
                stream.settle(seq)
        self._deferred.clear()

    def activate(self, shard: int, reign: int) -> None:
        """`shard` is reconciled under its present epoch: serve it."""
        local = self.local
        entry = local.map.shards[shard]
        key = tuple(sorted(boot for boot in entry.replicas if boot != local.boot)), tuple(sorted(entry.learners))
        group = self._open.get(key)
        if group is None or group.joined:
            self._sources -= 1
            group = self._open[key] = Group(*key, self._sources)
            self.groups[group] = None
        group.shards.add(shard)
        group.changed = max(group.changed, entry.changed)
        self.group_of[shard] = group
        self.bases[shard] = entry.epoch << wire.COUNTER_BITS
        self.active.add(shard)
        if len(entry.replicas) < local.settings.min_in_sync:
            self._thin.add(shard)
        self.reign[shard] = reign
        self.youngest_reign = max(self.youngest_reign, reign)

    def join(self, group: Group, learner: int) -> None:
        """From now on the acknowledgements and grants of `learner` are required (SAFETY 5, 11)."""
        group.join(learner)
        self.refresh_leases()

    def unblock(self, shards: set[int]) -> None:
        """`shards` were activated: replies that waited for their reconciliation may go."""
        for held in [held for held in self.held if held.blocked]:
            held.blocked -= shards
            if not held.blocked and not held.pending:
                self._finish(held)

    # --- tombstones ------------------------------------------------------------------------------------------------

    def drop_tombstones(self, *, now: bool = False) -> None:
        """Forget deletes that every member has passed; replicated like any outcome (SAFETY 10, 21). Those of clients
        when their time has come, or the memory is needed; those of expired and evicted entries at once. `now`: batches
        leave in any case."""
        local = self.local
        store, limit_bytes = local.store, local.limit_bytes
        pressed = 0 < PRESSED_PART * limit_bytes < store.bytes
        if not now and local.now_ms < self._dropped_ms + DROP_MS and not pressed:
            return
        most = max(DROPPED, int(DROPPED_PER_MS * min(local.now_ms - self._dropped_ms, 2 * DROP_MS)))
        self._dropped_ms = local.now_ms
        dropped: dict[Group, list[tuple[int, int, Any]]] = defaultdict(list)
        self._drop_spent(local.spent, local.now_ms - SPENT_MS, 4 * most, dropped)
        self._drop_spent(local.spent_elsewhere, local.now_ms - SPENT_ELSEWHERE_MS, 4 * most, dropped)
        horizon_ms = local.now_ms - (SPENT_MS if pressed else local.settings.tombstone_ms)
        self._drop(horizon_ms, 4 * most if pressed else most, dropped)
        for group, rows in dropped.items():
            shards, versions, keys = zip(*rows, strict=True)
            self.notify(group, (DROP_PART, wire.pack_u16(shards), wire.pack_u64(versions), keys))

    def _drop(self, horizon_ms: float, most: int, dropped: dict[Group, list[tuple[int, int, Any]]]) -> None:
        """Drop tombstones of clients' deletes, as far as they are older than `horizon_ms`, and committed."""
        local, store = self.local, self.local.store
        graves = store.graves
        for _ in range(min(most, len(graves))):
            buried_ms, shard, version, key = graves[0]
            if buried_ms > horizon_ms:
                break
            graves.popleft()
            if self._lies(shard, version, key):
                group = self._droppable(shard, version)
                if group is not None and not group.learners:
                    store.drop_tombstone(shard, key, version)
                    dropped[group].append((shard, version, key))
                else:
                    # Not committed, or not ours: at a backup the primary's word comes soon.
                    graves.append((local.now_ms, shard, version, key))

    def _drop_spent(
        self, spent: deque[tuple[float, Part]], horizon_ms: float, most: int,
        dropped: dict[Group, list[tuple[int, int, Any]]],
    ) -> None:  # fmt: skip
        """The same for what expired or was evicted, while a learner fills, too: chunks, deletes and drops reach it in
        one stream, in order."""
        local, store = self.local, self.local.store
        while spent and spent[0][0] <= horizon_ms and most > 0:
            part = spent.popleft()[1]
            most -= len(part.shards)
            kept = []
            for place, (shard, version, key) in enumerate(zip(part.shards, part.versions, part.keys, strict=True)):
                if not self._lies(shard, version, key):
                    continue
                group = self._droppable(shard, version)
                if group is not None:
                    store.drop_tombstone(shard, key, version)
                    dropped[group].append((shard, version, key))
                else:
                    kept.append(place)
            if kept:
                spent.append((local.now_ms, part.pick(kept)))

    def _lies(self, shard: int, version: int, key: Any) -> bool:
        """Whether that tombstone is still in place."""
        entry = self.local.store.tables[shard].get(key)
        return entry is not None and is_tombstone(entry) and version_of(entry) == version

    def _droppable(self, shard: int, version: int) -> Group | None:
        """The group that is told, if that tombstone is ours to drop, and committed."""
        group = self.group_of[shard] if shard in self.active else None
        return group if group is not None and version <= self.bases[shard] + group.committed else None
