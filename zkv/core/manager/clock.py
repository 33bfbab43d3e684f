"""Cluster time: the one clock that expiries are kept in (pure; SAFETY 28).

Cluster time is milliseconds since the Unix epoch as the manager's wall clock had it when the cluster was created, and
is counted on by the boot clock of whoever keeps it: nobody reads a wall clock again, so a wall clock that is stepped
expires nothing. Nodes learn it from the manager, as an offset to their own boot clocks.

A manager that is restarted, perhaps on another machine, perhaps after the wall clock was set, learns cluster time back
from those who kept it: the members, whose heartbeats tell it. It takes the largest that it hears in a moment's time: a
heartbeat was sent before it was heard, so each is too small by its way and its waiting, and the largest by the least.

Only where no member can know it may the wall clock begin it anew: where each was proven dead, or says that it does not
know it either. A member that is merely silent may come back with entries whose expiries are in the old time; until then
cluster time is unknown. That holds up nobody: a shard that is served at all is served by one that knows.
"""

from __future__ import annotations

from collections.abc import Collection

from zkv.core.settings import ClusterSettings


class ClusterClock:
    """Cluster time on the manager's boot clock, once it is known."""

    def __init__(self, settings: ClusterSettings, *, is_new: bool, now_ms: float) -> None:
        """`is_new`: whether the cluster is created by this manager; its time then begins with the first `settle`."""
        self._settings = settings
        self._is_new = is_new
        self._since_ms = now_ms
        self._offset_ms: float | None = None
        self._best_ms = float("-inf")
        """Offset of the largest time heard."""
        self._first_heard_ms: float | None = None
        self._ignorant: set[int] = set()
        """Members that say that they do not know it."""

    @property
    def is_known(self) -> bool:
        """Whether `at` tells the time."""
        return self._offset_ms is not None

    def at(self, now_ms: float) -> int:
        """Cluster time in ms at `now_ms` of the boot clock; 0 while it is not known."""
        return 0 if self._offset_ms is None else max(1, int(now_ms + self._offset_ms))

    def heard(self, boot: int, cluster_ms: int, now_ms: float) -> None:
        """The heartbeat of member `boot` says that it is `cluster_ms`; 0: that it does not know."""
        if self._offset_ms is not None:
            return
        if not cluster_ms:
            self._ignorant.add(boot)
            return
        if self._first_heard_ms is None:
            self._first_heard_ms = now_ms
        self._best_ms = max(self._best_ms, cluster_ms - now_ms)

    def settle(self, now_ms: float, wall_ms: int, living: Collection[int]) -> str | None:
        """Called in each step, after what arrived was heard. `living`: members that were not proven dead.

        Returns where the time came from, for the log, in the step in which a restarted manager knows it.
        """
        if self._offset_ms is not None:
            return None
        if self._is_new:
            self._offset_ms = wall_ms - now_ms
            return None
        if self._first_heard_ms is not None:
            if now_ms - self._first_heard_ms < self._settings.suspect_ms:
                return None
            self._offset_ms = self._best_ms
            return "from its members"
        if now_ms - self._since_ms < self._settings.dead_ms or not self._ignorant.issuperset(living):
            return None
        self._offset_ms = wall_ms - now_ms
        return "from the wall clock: no member knows it"
