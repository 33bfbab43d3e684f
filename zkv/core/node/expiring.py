"""The primary deletes what has expired (SAFETY 28): expiry takes effect as its committed delete, and not otherwise.

Now and then what is due is deleted, a bounded number of entries at once: replicas are told of many with one batch. In
between operations are compared with the clock (`meet`): they expire what they meet first, and their answers wait for
the commit of that, as for anything they show. To delete at each turn what is due would spare them the look, and be
three times as much work: each batch is a turn of its receivers, and each acknowledgement one of the sender, in which
something is due again. The nodes do it in turn, at moments of cluster time that they share out by their places in the
map: whoever waits for a write that all of them take part in would else wait for the reclamations of all of them.

Backups keep the same wheel and delete nothing: what is due there is parked until the primary's delete comes, or until
they are primary themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from zkv.core import wire
from zkv.core.node.entries import ABSENT, expires_ms_of
from zkv.core.node.expiry import Key
from zkv.core.node.local import Local
from zkv.core.node.serving import Serving

RECLAIMED_AT_ONCE: Final = 512
"""Entries deleted in one turn: about a millisecond of it."""
INTERVAL_MS: Final = 30
"""Between two reclamations of a node, unless more was due than one could take."""
WINDOW_MS: Final = 5000.0
"""The lag that is reported is that of so long."""


class Expiring:
    """The expiry of one node's shards."""

    def __init__(self, local: Local, serving: Serving) -> None:
        self.local = local
        self.serving = serving
        self._due_ms = float("-inf")
        """When the next reclamation is, on this node's clock."""
        self._phase_ms = 0
        """Cluster time modulo the interval at which this node reclaims."""
        self._caught_up_ms = float("-inf")
        self._left = False
        """Whether the last reclamation left something that was due."""
        self._blocked: set[int] = set()
        """Shards of ours that something is due in, while a backup is too far behind to be sent more."""
        self._lags: Counter[int] = Counter()
        """Milliseconds after its expiry -> entries deleted so late, in this window."""
        self._window_ms = 0.0

    def tend(self) -> None:
        """Beginning of a turn: reclaim, if it is time."""
        if self._left or self.local.now_ms >= self._due_ms:
            self._report_lag()
            self.reclaim()

    def reclaim(self, *, exactly: bool = False) -> None:
        """Delete what is due: what lies in slots of the wheel that are over; with `exactly` the rest as well, which is
        due by a few milliseconds."""
        local, expiry = self.local, self.local.store.expiry
        cluster_ms = local.cluster_ms
        if not cluster_ms:
            return
        members = sorted(local.map.members)
        place = members.index(local.boot) if local.boot in local.map.members else 0
        self._phase_ms = INTERVAL_MS * place // max(len(members), 1)
        self._due_ms = local.now_ms + self._our_turn(cluster_ms + 1) - cluster_ms
        if self._blocked:
            free = {shard for shard in self._blocked if not self._is_blocked(shard)}
            self._blocked -= free
            for shard in sorted(free):
                expiry.unpark(shard)
        due = expiry.take(cluster_ms, RECLAIMED_AT_ONCE, exactly=exactly)
        if due:
            ours = []
            for shard, key in due:
                if shard not in self.serving.active:
                    expiry.park(shard, key)
                elif self._is_blocked(shard):
                    expiry.park(shard, key)
                    self._blocked.add(shard)
                elif 0 < expires_ms_of(local.store.tables[shard].get(key, ABSENT)) <= cluster_ms:
                    ours.append((shard, key))
            self._expire(ours, cluster_ms)
        self._left = expiry.is_over(cluster_ms) or len(due) >= RECLAIMED_AT_ONCE

    def catch_up(self) -> bool:
        """Delete all that is due; whether that is done, and no entry past its expiry is left. Once in a turn."""
        if self._caught_up_ms != self.local.now_ms:
            self._caught_up_ms = self.local.now_ms
            self.reclaim(exactly=True)
        return not self._left and not self._blocked

    @property
    def behind(self) -> bool:
        """Whether an operation may meet an entry past its expiry."""
        expiry = self.local.store.expiry
        return expiry.count > 0 and (bool(self._blocked) or expiry.is_behind(self.local.cluster_ms))

    def _is_blocked(self, shard: int) -> bool:
        group, outgoing = self.serving.group_of[shard], self.local.outgoing
        return group is not None and any(outgoing[peer].full for peer in group.receivers if peer in outgoing)

    def meet(self, shards: Iterable[int], keys: Iterable[Key]) -> None:
        """Operations are about to look at these: delete those past their expiry."""
        local, active = self.local, self.serving.active
        cluster_ms, tables = local.cluster_ms, local.store.tables
        overdue = {}
        for shard, key in zip(shards, keys, strict=True):
            entry = tables[shard].get(key)
            if entry is not None and 0 < expires_ms_of(entry) <= cluster_ms and shard in active:
                overdue[key] = shard
        if overdue:
            local.fired["expiries met"] += len(overdue)
            self._expire([(shard, key) for key, shard in overdue.items()], cluster_ms)

    def _expire(self, rows: list[tuple[int, Key]], cluster_ms: int) -> None:
        if not rows:
            return
        local, tables = self.local, self.local.store.tables
        self._lags.update(cluster_ms - expires_ms_of(tables[shard][key]) for shard, key in rows)
        self.serving.remove(rows, wire.EXPIRE_EVENT)
        local.expired += len(rows)
        self.serving.drop_tombstones(now=True)  # of those before: one batch with these, and one turn of its receivers
        local.fired["entries expired"] += len(rows)

    def _report_lag(self) -> None:
        """Once a window: how late one in a hundred was."""
        local = self.local
        if local.now_ms - self._window_ms < WINDOW_MS:
            return
        self._window_ms = local.now_ms
        left = self._lags.total() // 100
        local.lag_us = 0
        for lag_ms in sorted(self._lags, reverse=True):
            left -= self._lags[lag_ms]
            if left < 0:
                local.lag_us = 1000 * lag_ms
                break
        self._lags.clear()

    def wake(self, wake: Callable[[float], None]) -> None:
        """End of a turn: when the next is due."""
        local, expiry = self.local, self.local.store.expiry
        if not expiry.count or not local.cluster_ms:
            return
        if self._left:
            wake(local.now_ms)
        elif (next_ms := expiry.next_ms()) < inf:
            wake(max(self._due_ms, local.now_ms + self._our_turn(int(next_ms)) - local.cluster_ms))

    def _our_turn(self, cluster_ms: int) -> int:
        """The first moment from then on at which this node reclaims."""
        return cluster_ms + (self._phase_ms - cluster_ms) % INTERVAL_MS
