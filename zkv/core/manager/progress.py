"""How long things take: takeovers, fills, and until the cluster is healthy again. For the event log alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zkv.core.manager.events import EventLog
from zkv.core.shardmap import Delta, ShardMap


class _Takeover:
    """Shards that changed in one step because members went, until all are served again."""

    def __init__(self, now_ms: float, shards: set[int]) -> None:
        self.begun_ms = now_ms
        self.total = len(shards)
        self.left = shards


class Progress:
    """What is under way, since when."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._takeovers: list[_Takeover] = []
        self._named_ms: dict[int, float] = {}
        """shard -> when its learners were named."""
        self._unwell_ms: float | None = None
        """Since when the cluster is not healthy any more."""
        self._was_well = False

    def changed(self, delta: Delta, now_ms: float) -> None:
        """The map has changed."""
        for number, shard in delta.shards.items():
            if shard.learners:
                self._named_ms[number] = now_ms
            else:
                self._named_ms.pop(number, None)

    def taken_over(self, shards: Iterable[int], now_ms: float) -> None:
        """These go to other members because members went. Those that wait already count from the earlier moment."""
        fresh = set(shards)
        for takeover in self._takeovers:
            fresh -= takeover.left
        if fresh:
            self._takeovers.append(_Takeover(now_ms, fresh))

    def activated(self, shards: Iterable[int], now_ms: float) -> None:
        """These are served."""
        served = set(shards)
        for takeover in self._takeovers:
            before = len(takeover.left)
            takeover.left -= served
            if before and not takeover.left:
                duration_ms = round(now_ms - takeover.begun_ms, 1)
                text = f"{takeover.total} shards are served again, {duration_ms} ms after the decision"
                self._log.add("takeover", text, shards=takeover.total, duration_ms=duration_ms)
        self._takeovers = [takeover for takeover in self._takeovers if takeover.left]

    def given_up(self, shards: Iterable[int]) -> None:
        """These are lost: nobody takes them over."""
        gone = set(shards)
        for takeover in self._takeovers:
            takeover.left -= gone
        self._takeovers = [takeover for takeover in self._takeovers if takeover.left]

    def promoted(self, map: ShardMap, learners: Mapping[int, list[int]], now_ms: float) -> None:
        """These learners are in sync from now on. Call before `changed`."""
        for boot in sorted(learners):
            begun_ms = min(self._named_ms.get(number, now_ms) for number in learners[boot])
            duration_ms = round(now_ms - begun_ms, 1)
            count, name = len(learners[boot]), map.name_of(boot)
            text = f"{name} has been filled with {count} shards within {duration_ms} ms"
            self._log.add("fill", text, node=name, shards=count, duration_ms=duration_ms)

    def health(self, healthy: bool, now_ms: float) -> None:
        """What the cluster's health is now."""
        if not healthy:
            if self._was_well and self._unwell_ms is None:
                self._unwell_ms = now_ms
            return
        self._was_well = True
        if self._unwell_ms is not None:
            duration_ms = round(now_ms - self._unwell_ms, 1)
            self._unwell_ms = None
            self._log.add("healed", f"the cluster is healthy again, after {duration_ms} ms", duration_ms=duration_ms)
