"""Nodes that clients cannot reach, though their heartbeats arrive and their peers are content (SAFETY 32).

Such a node answers nobody who matters. It keeps its copies, since its peers work with it, but is *shunned*: its
primaries go to in-sync backups, which moves no data, and it gets none until nobody has complained for a while, longer
at each relapse.

A client may just as well be the one that is cut off. So a complaint weighs only after it lasted, without a gap, as
long as a silence that counts as death; who cannot reach more than half of the nodes is not believed; and never is more
than half of the nodes shunned, nor all in-sync members of a shard.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from zkv.core.manager.relapses import Relapses
from zkv.core.settings import ClusterSettings

SHUNNED_MS: Final = 5000.0
"""A shunned node is used again when nobody has complained for this long; at first, longer after relapses."""
CLIENT_LIMIT: Final = 4096
"""Complaining clients that are remembered; further ones are not heard."""


class _Complaint(NamedTuple):
    since_ms: float
    last_ms: float


class Complaints:
    """What clients complain of, and who is shunned for it. Durations are on the detector's awake clock."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._mature_ms = float(settings.dead_ms)
        self._gap_ms = float(settings.dead_ms)
        self._of: dict[int, dict[int, _Complaint]] = {}
        """client -> node -> since when."""
        self.shunned: dict[int, float] = {}
        """boot -> when somebody last complained."""
        self._shunnings: Relapses[int] = Relapses(SHUNNED_MS)

    def __bool__(self) -> bool:
        return bool(self._of or self.shunned)

    def report(self, client: int, nodes: Collection[int], awake_ms: float) -> None:
        """`client` says that it cannot reach `nodes`, which are members; it repeats that while it lasts."""
        if client not in self._of and len(self._of) >= CLIENT_LIMIT:
            return
        before = self._of.pop(client, {})
        now = {}
        for boot in nodes:
            old = before.get(boot)
            lasting = old is not None and awake_ms - old.last_ms < self._gap_ms
            now[boot] = _Complaint(old.since_ms if old is not None and lasting else awake_ms, awake_ms)
        if now:
            self._of[client] = now

    def forget(self, boot: int) -> None:
        """Drop all that was said about `boot`."""
        self.shunned.pop(boot, None)
        self._shunnings.forget(boot)
        for nodes in self._of.values():
            nodes.pop(boot, None)

    def judge(
        self, up: AbstractSet[int], leaves_a_primary: Callable[[AbstractSet[int]], bool], awake_ms: float
    ) -> tuple[list[int], list[int]]:
        """Who is shunned from now on, and who no longer is.

        `up`: the nodes that are up; `leaves_a_primary(shunned)`: whether every shard keeps an in-sync member besides
        these.
        """
        accused, mature = self._accused(up, awake_ms)
        for boot in accused & self.shunned.keys():
            self.shunned[boot] = awake_ms
        over = [b for b, last in self.shunned.items() if awake_ms - last >= self._shunnings.term_ms(b)]
        for boot in over:
            del self.shunned[boot]
        found = []
        for boot in sorted(mature - self.shunned.keys()):
            shunned = {*self.shunned, boot}
            if 2 * len(shunned & up) <= len(up) and leaves_a_primary(shunned):
                found.append(boot)
                self.shunned[boot] = awake_ms
                self._shunnings.strike(boot, awake_ms)
        self._shunnings.tidy(awake_ms)
        return found, over

    def _accused(self, up: AbstractSet[int], awake_ms: float) -> tuple[set[int], set[int]]:
        """Nodes that credible clients cannot reach at present; and those of them for long enough."""
        accused: set[int] = set()
        mature: set[int] = set()
        for client, nodes in list(self._of.items()):
            present = {b: c for b, c in nodes.items() if b in up and awake_ms - c.last_ms < self._gap_ms}
            if not present:
                del self._of[client]
            elif 2 * len(present) <= len(up):
                accused.update(present)
                mature.update(boot for boot, one in present.items() if one.last_ms - one.since_ms >= self._mature_ms)
        return accused, mature
