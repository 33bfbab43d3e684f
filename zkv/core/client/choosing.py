"""Which replica a read goes to, and when a second one is asked as well.

A read that any replica may answer goes where it is expected to be answered first: least (work under way + 1) x smoothed
latency. That is the replica ranking of C3 (Suresh et al., NSDI 2015) without its cubic term, on Finagle's peak EWMA. A
slow or small node therefore gets less; and as a node that gets nothing would never be seen to recover, one read in
`PROBE_EVERY` that passed it over goes to it after all.

A hedged read (Dean & Barroso, "The Tail at Scale", CACM 2013) is asked of a second replica when it has waited for
much longer than usual, and the first answer counts. Hedges may make at most `HEDGE_SHARE` of all reads: a cluster that
is slow everywhere must not be given more to do.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

from zkv.core.client.links import Link

PROBE_EVERY: Final = 200
HEDGE_SHARE: Final = 0.05
HEDGE_TIMES: Final = 3.0
"""A read is late after this many times the usual latency."""
HEDGE_MIN_MS: Final = 0.5
HEDGE_BURST: Final = 20.0
"""Hedges that may be saved up."""
USUAL_STEP: Final = 0.05
UNKNOWN_MS: Final = 0.0
"""What is expected of a node that was never asked: it is tried first."""


class Chooser:
    """Choices among replicas, for one client."""

    def __init__(self, rng: random.Random, *, sticky: int | None) -> None:
        self.rng = rng
        self.sticky = sticky
        """A number that makes this client prefer the same replica of a shard always, while it answers; None: no."""
        self.usual_ms: float | None = None
        """Median of the latencies of reads, estimated by small steps (Robbins & Monro, 1951)."""
        self._hedges = 1.0
        self._scores: dict[int, float] = {}
        self._loads: dict[int, int] = {}

    def begin(self) -> None:
        """A turn begins: what was known of loads counts no more."""
        self._scores.clear()
        self._loads.clear()

    def choose(self, shard: int, replicas: Sequence[int], links: Mapping[int, Link]) -> int:
        """The replica to ask; `replicas`: boot ids of those that are up, the primary first, at least one."""
        usable = [boot for boot in replicas if (link := links.get(boot)) is None or link.pinged_ms is None] or replicas
        if len(usable) == 1:
            return usable[0]
        if self.sticky is not None:
            return usable[(self.sticky + shard) % len(usable)]
        best, least = usable[0], float("inf")
        for boot in self.rng.sample(usable, len(usable)):
            score = self._scores.get(boot)
            if score is None:
                score = self._score(boot, links)
            if score < least:
                best, least = boot, score
        self._loads[best] += 1
        del self._scores[best]
        for boot in usable:
            link = links.get(boot)
            if boot != best and link is not None:
                link.passed_over += 1
        return best

    def _score(self, boot: int, links: Mapping[int, Link]) -> float:
        """Expected wait at a node; the lower the better."""
        link = links.get(boot)
        if boot not in self._loads:
            self._loads[boot] = link.load() if link is not None else 0
        load = self._loads[boot]
        latency_ms = UNKNOWN_MS if link is None or link.latency_ms is None else link.latency_ms
        if link is not None and link.passed_over >= PROBE_EVERY:
            link.passed_over = 0
            latency_ms = UNKNOWN_MS
        score = self._scores[boot] = (load + 1) * latency_ms if latency_ms else load / 1000
        return score

    # --- hedging ---------------------------------------------------------------------------------------------------

    def asked(self, operations: int) -> None:
        """Reads were sent for the first time: they earn the right to hedges."""
        self._hedges = min(HEDGE_BURST, self._hedges + HEDGE_SHARE * operations)

    def heard(self, latency_ms: float) -> None:
        """A read was answered."""
        if self.usual_ms is None:
            self.usual_ms = latency_ms
        else:
            self.usual_ms *= 1 + USUAL_STEP if latency_ms > self.usual_ms else 1 - USUAL_STEP

    @property
    def late_ms(self) -> float:
        """After how long a read is late enough for a hedge."""
        return float("inf") if self.usual_ms is None else max(HEDGE_MIN_MS, HEDGE_TIMES * self.usual_ms)

    def may_hedge(self, operations: int) -> bool:
        """Whether the budget allows it; then it is spent."""
        if self._hedges < operations:
            return False
        self._hedges -= operations
        return True
