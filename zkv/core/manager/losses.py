"""Shards without a living copy: since when, and whether they may be created anew, empty (SAFETY 33).

A lost shard keeps its last set: a member that is only silent may come back with all of the data. It is given up where
the operator, or the cluster's settings, say so *and* everyone who had all of the data is proven dead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from zkv.core.manager.events import EventLog
from zkv.core.manager.reconfigure import is_proven_lost, reset_entry
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import DEAD, UP, Member, Shard, ShardMap


class Losses:
    """The shards that are lost at present."""

    def __init__(self, settings: ClusterSettings, log: EventLog) -> None:
        self._settings = settings
        self._log = log
        self.known = False
        """Whether it was looked for losses yet."""
        self.since_ms: dict[int, float] = {}
        """shard -> since when it is lost, on the awake clock."""
        self.asked: set[int] = set()
        """Those that the operator wants to be created anew, now."""

    def look(
        self, map: ShardMap, members: Mapping[int, Member], filled: Mapping[int, AbstractSet[int]], awake_ms: float
    ) -> list[int]:
        """Find out which shards are lost now; those that are so since just now."""
        self.known = True
        up = {boot for boot, member in members.items() if member.state == UP}
        dark = {replicas: up.isdisjoint(replicas) for replicas in {shard.replicas for shard in map.shards}}
        if not self.since_ms and not any(dark.values()):
            return []
        lost = {
            number
            for number, shard in enumerate(map.shards)
            if dark[shard.replicas] and up.isdisjoint(filled.get(number, ()))
        }
        found = sorted(lost - self.since_ms.keys())
        self.since_ms = {number: self.since_ms.get(number, awake_ms) for number in sorted(lost)}
        if found:
            text = f"{len(found)} shards are UNAVAILABLE: none of those that had their data is up"
            self._log.add("lost", text, shards=len(found), first=found[0])
        return found

    def due(
        self, map: ShardMap, members: Mapping[int, Member], filled: Mapping[int, AbstractSet[int]], awake_ms: float
    ) -> list[int]:
        """Lost shards that are to be created anew: nobody can bring them back, and their grace is over, or the operator
        wants it."""
        asked, self.asked = self.asked, set()
        before_ms = awake_ms - 1000 * self._settings.loss_grace_s
        by_itself = self._settings.on_loss == "reset"
        return [
            number
            for number, since_ms in sorted(self.since_ms.items())
            if (number in asked or (by_itself and since_ms <= before_ms))
            and is_proven_lost(map.shards[number], members, filled.get(number, frozenset()))
        ]

    def reset(
        self, map: ShardMap, members: Mapping[int, Member], due: Sequence[int], target: Sequence[tuple[int, ...]]
    ) -> dict[int, Shard]:
        """The entries by which these are created empty, on their `target` where that has anybody."""
        made = {
            number: reset_entry(map.shards[number], map.version + 1, members, target[number])
            for number in due
            if target[number]
        }
        if made:
            text = f"DATA LOSS: {len(made)} shards are created anew, empty: all that held their data are dead"
            self._log.add("reset", text, shards=len(made), first=min(made))
        for number in made:
            del self.since_ms[number]
        return made


def unproven(map: ShardMap, members: Mapping[int, Member], filled: AbstractSet[int], shard: int) -> list[int]:
    """Those that had all of a shard's data and are not proven dead."""
    return [boot for boot in (*map.shards[shard].replicas, *sorted(filled)) if members[boot].state != DEAD]
