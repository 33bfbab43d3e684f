"""A manager that changes the map for no reason, and limits so small that they are met.

Every change that rule 1 allows may come in any order: primaries that move and come back while the old one stays in the
set, members dropped while they live, learners named, promoted and given up, several changes before anybody has
activated. A good manager makes few of these changes; the members must stand them all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from zkv.core import fragments
from zkv.core.client import choosing, client, retrying
from zkv.core.manager import steering
from zkv.core.manager.manager import Manager
from zkv.core.manager.reconfigure import wait_list
from zkv.core.manager.roster import Verdict
from zkv.core.node import expiring, filling, node, room, sessions, streams, walks, watching
from zkv.core.shardmap import UP, Delta, Shard

WITHHELD: Final = 0.03
"""Probability that a change takes a shard from its holders."""


class RestlessManager(Manager):
    """Makes legal epoch changes at random: rotates primaries, drops members; or drops one when told to."""

    restlessness = 0.0
    """Probability of a change in one step."""
    drops = 0.0
    """Probability that a change of a shard drops a member."""
    dismissed: int | None = None
    """A member that is dropped from every set in which it is a backup, as soon as nothing else changes."""
    fickleness = 0.0
    """Probability, in one step, that the fill of one of several shards with the same members and learners is given up.
    The others keep it alive, and the steering begins anew with the one."""

    def _next_delta(self, verdict: Verdict) -> Delta | None:
        delta = super()._next_delta(verdict)
        old = self.map
        if delta is not None or not old.version or self._outdated:
            return delta
        if self.dismissed is not None:
            dismissed, self.dismissed = self.dismissed, None
            return self._without(dismissed)
        if not hasattr(self, "_whims"):
            self._whims = random.Random(self.boot)
        if self.fickleness and self._whims.random() < self.fickleness and (undone := self._undone()):
            return undone
        if not self.restlessness or self._whims.random() >= self.restlessness:
            return None
        version = old.version + 1
        changed = {}
        for number, shard in enumerate(old.shards):
            if self._whims.random() < 0.5 or any(old.members[boot].state != UP for boot in shard.replicas):
                continue
            ready = [boot for boot in shard.learners if boot in self.filled[number] and old.members[boot].state == UP]
            if shard.learners and len(ready) < len(shard.learners) and self._whims.random() < 0.8:
                continue
            replicas = list(shard.replicas) + ready
            if self._whims.random() < 0.7:
                self._whims.shuffle(replicas)
            if len(replicas) > 1 and self._whims.random() < self.drops:
                replicas.pop(self._whims.randrange(len(replicas)))
            wait = wait_list(shard, replicas, old.members, self._active[number] == shard.epoch)
            others = [boot for boot, member in old.members.items() if member.state == UP and boot not in replicas]
            learners = tuple(boot for boot in others if self._whims.random() < 0.5)
            # Withheld now and then, as by an operator; the steering puts it back.
            withheld = self._whims.random() < WITHHELD
            rest = () if withheld else learners, wait, shard.born, withheld
            changed[number] = Shard(shard.epoch + 1, version, tuple(replicas), *rest)
        return Delta(old.cluster, old.version, version, changed) if changed else None

    def _undone(self) -> Delta | None:
        old, version = self.map, self.map.version + 1
        sets = [(shard.replicas, shard.learners) for shard in old.shards]
        many = [number for number, key in enumerate(sets) if key[1] and sets.count(key) > 1]
        if not many:
            return None
        number = self._whims.choice(many)
        shard = old.shards[number]
        wait = wait_list(shard, shard.replicas, old.members, self._active[number] == shard.epoch)
        entry = Shard(shard.epoch + 1, version, shard.replicas, (), wait, shard.born, shard.withheld)
        return Delta(old.cluster, old.version, version, {number: entry})

    def _without(self, dismissed: int) -> Delta | None:
        old, version = self.map, self.map.version + 1
        changed = {}
        for number, shard in enumerate(old.shards):
            whole = all(old.members[boot].state == UP for boot in shard.replicas)
            if dismissed in shard.replicas[1:] and whole and not shard.withheld:
                replicas = [boot for boot in shard.replicas if boot != dismissed]
                wait = wait_list(shard, replicas, old.members, self._active[number] == shard.epoch)
                changed[number] = Shard(shard.epoch + 1, version, tuple(replicas), (), wait, shard.born)
        return Delta(old.cluster, old.version, version, changed) if changed else None


@contextmanager
def limits(rng: random.Random) -> Iterator[None]:
    """Run with limits drawn from `rng`: often the usual ones, sometimes tiny."""
    chosen: list[tuple[Any, str, Any]] = [
        (streams, "WINDOW_BATCHES", rng.choice((3, 4096, 4096))),
        (streams, "RESEND_BATCHES", rng.choice((1, 64))),
        (fragments, "FRAGMENT_BYTES", rng.choice((400, 256 * 1024, 256 * 1024))),
        (client, "BATCH_OPS", rng.choice((2, 1024))),
        (client, "SMALL_OPS", rng.choice((0, 64, 64))),
        (client, "SHARED_WINDOW", rng.choice((1, 1, 8))),
        (choosing, "HEDGE_SHARE", rng.choice((0.05, 1.0))),
        (retrying, "RETRY_BURST", rng.choice((2.0, 100.0, 100.0))),
        (walks, "PAGE_KEYS", rng.choice((1, 2, 512))),
        (walks, "SORTED_AT_ONCE", rng.choice((4, 10, 2048))),
        (walks, "WALKS_LIMIT", rng.choice((1, 256))),
        (expiring, "RECLAIMED_AT_ONCE", rng.choice((1, 512))),
        (room, "EVICTED_AT_ONCE", rng.choice((8, 4096))),
        (watching, "REPLY_EVENTS", rng.choice((100, 4096))),
        (sessions, "RESULTS_BYTES", rng.choice((100, 2**20, 2**20))),
        (node, "STASH_LIMIT", rng.choice((2, 1024))),
        (filling, "CHUNK_ENTRIES", rng.choice((1, 2, 512))),
        (filling, "WINDOW_CHUNKS", rng.choice((1, 4))),
        (steering, "LEISURE_BEATS", rng.choice((1, 3))),
    ]
    former = [(module, name, getattr(module, name)) for module, name, _ in chosen]
    for module, name, value in chosen:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in former:
            setattr(module, name, value)
