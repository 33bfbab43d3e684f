"""Reads at a backup: leases from the primary, and what may be shown under them (SAFETY 13, 14).

A backup that holds a read lease for a shard answers reads of it by itself, where it knows that what it would show is
committed; anything else it sends to the primary. That is linearizable because a write is acknowledged only after this
backup has applied it: a version it knows to be committed and still holds is the newest that anyone was told of.

A read lease names shard and epoch, and lasts at most as long as the primary's own lease. Who drops a member from a set
therefore waits for the read leases it gave to that member (SAFETY 15). Leases are asked for only while somebody reads
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from zkv.core import wire
from zkv.core.node.entries import ABSENT, expires_ms_of, version_of
from zkv.core.node.local import Address, Local
from zkv.core.node.replies import Held
from zkv.core.node.serving import Serving

WANTED_MS: Final = 2000.0
"""How long after the last read at this backup its leases are renewed."""
TOKENS_LIMIT: Final = 64
NEAR_MS: Final = 100
"""A backup shows nothing that expires so soon: its idea of cluster time may be a little behind the primary's."""


class Reading:
    """Both sides of the read leases of one node: those it holds as a backup, and those it gave as a primary."""

    def __init__(self, local: Local, serving: Serving) -> None:
        self.local = local
        self.serving = serving
        self._wanted_until_ms = float("-inf")
        self._token = 0
        self._asked: dict[int, float] = {}
        """Request token -> when it was sent."""
        self._asked_ms: dict[int, float] = {}
        """primary -> when it was asked last."""
        self._held: dict[int, tuple[int, float]] = {}
        """shard -> (epoch, until when) of leases held here."""
        self._given: dict[int, float] = {}
        """member -> until when, drift included, it may hold a read lease of ours."""

    # --- as a backup -----------------------------------------------------------------------------------------------

    def ask(self, owners: Iterable[int], wake: Callable[[float], None]) -> None:
        """Ask the primaries of the shards backed up here for leases, while there are readers."""
        local = self.local
        if local.now_ms >= self._wanted_until_ms:
            return
        interval_ms = local.settings.lease_ms / 5
        for owner in owners:
            if local.now_ms - self._asked_ms.get(owner, float("-inf")) >= interval_ms:
                self._token += 1
                self._asked[self._token] = self._asked_ms[owner] = local.now_ms
                local.send(owner, wire.READ_LEASE, [self._token])
            wake(self._asked_ms[owner] + interval_ms)
        while len(self._asked) > TOKENS_LIMIT:
            del self._asked[next(iter(self._asked))]

    def granted(self, token: int, lasting_ms: float, shards: Iterable[int], epochs: Iterable[int]) -> None:
        """Leases from a primary. They count from the sending of the request."""
        sent_ms = self._asked.pop(token, None)
        if sent_ms is not None:
            until_ms = sent_ms + lasting_ms
            self._held.update((shard, (epoch, until_ms)) for shard, epoch in zip(shards, epochs, strict=True))

    def may_read(self, shard: int) -> bool:
        """Whether a read lease covers `shard` now; a newer epoch ends it."""
        epoch, until_ms = self._held.get(shard, (0, float("-inf")))
        entry = self.local.map.shards[shard]
        return self.local.now_ms < until_ms and entry.epoch == epoch and self.local.boot in entry.replicas

    def read(self, held: Held, keys: Sequence[Any], *, stale: bool = False) -> None:
        """Answer a GET_ANY: what is known to be committed from here, the rest by sending the client to the primary.

        `stale`: a GET_STALE, which asks for no lease: what is committed may have been replaced elsewhere.
        """
        local, store = self.local, self.local.store
        if not stale:
            self._wanted_until_ms = local.now_ms + WANTED_MS
        held.versions, held.values, held.entries = [0] * len(keys), None, [ABSENT] * len(keys)
        first: dict[int, int] = {}
        # Only the primary expires entries (SAFETY 28); without cluster time everything may be about to.
        near_ms = local.cluster_ms + NEAR_MS if local.cluster_ms else float("inf")
        for position, (shard, key) in enumerate(zip(held.shards, keys, strict=True)):
            entry = store.tables[shard].get(key, ABSENT)
            version, expires_ms = version_of(entry), expires_ms_of(entry)
            may_read = self.holds(shard) if stale else self.may_read(shard)
            if may_read and not 0 < expires_ms <= near_ms and self.is_committed(shard, version, first):
                held.versions[position], held.entries[position] = version, entry
                local.fired["stale reads" if stale else "replica reads"] += 1
            else:
                held.set_status(position, wire.MOVED)
        local.send_packed(held.route, wire.REPLY, held.body(local.now_ms))

    def holds(self, shard: int) -> bool:
        """Whether our copy of `shard` is one of those in sync, by the map that we know."""
        return self.local.boot in self.local.map.shards[shard].replicas

    def is_committed(self, shard: int, version: int, first: dict[int, int]) -> bool:
        """Whether this replica knows `version` to be committed under the present epoch (SAFETY 14).

        Of an earlier epoch: if the activation's position covers it. Of this one: if the primary's stream has released
        every batch that it could be in. `first` remembers, by primary, the lowest counter not released, for one
        request. The primary itself knows its group's commit point, which says nothing of a shard that a member has
        refused under a newer epoch: the group went on without it (SAFETY 6).
        """
        if version <= self.local.store.committed[shard]:
            return True
        entry = self.local.map.shards[shard]
        if wire.epoch_of(version) != entry.epoch:
            return False
        if entry.primary == self.local.boot:
            group = self.serving.group_of[shard]
            if group is None or shard not in self.serving.active:
                return False
            return version <= self.serving.bases[shard] + group.committed
        if entry.primary not in first:
            first[entry.primary] = self.local.tails.lowest_counter(entry.primary)
        return version & wire.COUNTER_MASK < first[entry.primary]

    # --- as a primary ----------------------------------------------------------------------------------------------

    def grant(self, route: Address, sender: int, token: int) -> None:
        """A backup wants to read: lease it what we serve, for at most as long as we are leased ourselves."""
        local = self.local
        groups = [
            group for group in self.serving.groups if sender in group.backups and local.now_ms < group.until_ms
        ]
        shards = sorted(shard for group in groups for shard in group.shards if shard in self.serving.active)
        if not shards:
            return
        lasting_ms = min(group.until_ms for group in groups) - local.now_ms
        until_ms = local.now_ms + lasting_ms * (1 + local.settings.drift_margin)
        self._given[sender] = max(until_ms, self._given.get(sender, float("-inf")))
        epochs = wire.pack_u64(local.map.shards[shard].epoch for shard in shards)
        local.send(route, wire.READ_GRANT, [token, lasting_ms, wire.pack_u64(shards), epochs])

    def given_until_ms(self, members: Iterable[int]) -> float:
        """Until when any of `members` may hold a read lease that we gave (-inf: none can)."""
        return max((self._given.get(boot, float("-inf")) for boot in members), default=float("-inf"))

    def forget(self, members: Iterable[int]) -> None:
        """Drop what is known of members that left the map."""
        for boot in members:
            self._given.pop(boot, None)
            self._asked_ms.pop(boot, None)
