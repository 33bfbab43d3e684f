"""Nodes that cannot reach each other, though the manager hears them all (SAFETY 32).

A node that is cut off from its peers on one side only holds up every write it shares, while its heartbeats
arrive. The peers say so with each heartbeat for as long as it lasts. Such reports weigh only after they have
lasted, without a gap, as long as a silence that counts as death; then

- a node accused by a majority of the live nodes it shares shards with, two at least, is *isolated*: as good
  as down, until nobody has accused it for a while;
- where only a pair cannot agree, the backup goes, in the shards of which the other is primary.

Pairs wait for younger accusations that could still make a majority: otherwise the first accuser to lose
patience would be dropped in place of the accused. They wait too while the manager does not hear both: of two
that cannot reach each other, one that is silent besides is cut off, and its silence is judged (it may have
an allowance, as one that has just joined); parted before that, its shards would be left to it alone.

A pair that was parted is not brought together again for a while.
Each relapse makes the while longer. Durations are measured on the detector's awake clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from zkv.core.manager.relapses import Relapses
from zkv.core.settings import ClusterSettings

PARDON_MS = 3000.0
"""An isolated node is taken back when no live node has accused it for this long; at first, longer after relapses."""

PATIENCE = 2
"""A pair waits for a majority for this many times what an accusation takes to weigh, no longer."""


class _Accusation(NamedTuple):
    since_ms: float
    last_ms: float


class Judgement(NamedTuple):
    """What follows from the accusations, in one step."""

    isolated: list[int]
    """Who became isolated just now."""
    pardoned: list[int]
    """Who is no longer."""
    pairs: list[tuple[int, int]]
    """(accuser, accused) who cannot agree."""


class Accusations:
    """Who accuses whom, for how long, and what follows from it."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._mature_ms = float(settings.dead_ms)
        self._gap_ms = float(settings.suspect_ms)
        self._of: dict[int, dict[int, _Accusation]] = {}
        """accuser -> accused -> since when."""
        self._isolated: dict[int, float] = {}
        """boot -> when it was last accused."""
        self._isolations: Relapses[int] = Relapses(PARDON_MS)
        self._parted: dict[tuple[int, int], float] = {}
        """Pairs, the lower boot first, that could not agree; and when they last did not."""
        self._partings: Relapses[tuple[int, int]] = Relapses(PARDON_MS)

    def __bool__(self) -> bool:
        return bool(self._of or self._isolated)

    def parted(self, awake_ms: float) -> set[tuple[int, int]]:
        """Pairs, the lower boot first, that had better share no shard for now."""
        self._parted = {
            pair: last for pair, last in self._parted.items() if awake_ms - last < self._partings.term_ms(pair)
        }
        return set(self._parted)

    def report(self, accuser: int, accused: Collection[int], awake_ms: float) -> None:
        """`accuser` says that it cannot reach `accused`, and can reach the others."""
        before = self._of.get(accuser, {})
        now = {}
        for boot in accused:
            if boot == accuser:
                continue
            old = before.get(boot)
            lasting = old is not None and awake_ms - old.last_ms < self._gap_ms
            now[boot] = _Accusation(old.since_ms if old is not None and lasting else awake_ms, awake_ms)
        if now:
            self._of[accuser] = now
        else:
            self._of.pop(accuser, None)

    def forget(self, boot: int) -> None:
        """Drop all that was said by or about `boot`."""
        self._of.pop(boot, None)
        self._isolated.pop(boot, None)
        self._isolations.forget(boot)
        for pair in [pair for pair in self._parted if boot in pair]:
            del self._parted[pair]
            self._partings.forget(pair)
        for accused in self._of.values():
            accused.pop(boot, None)

    def is_accused(self, boot: int, live: AbstractSet[int], awake_ms: float) -> bool:
        """Whether a live node cannot reach `boot` at present."""
        return any(boot in self._present(accuser, awake_ms) for accuser in live)

    def is_isolated(self, boot: int) -> bool:
        """Whether `boot` is to be kept away because its peers could not reach it."""
        return boot in self._isolated

    def judge(
        self,
        live: Collection[int],
        speaking: AbstractSet[int],
        neighbours: Mapping[int, AbstractSet[int]],
        awake_ms: float,
    ) -> Judgement:
        """What follows from the accusations now.

        `live`: the nodes that are up with fresh heartbeats; `speaking`: those with a sign of life lately, which
        being new is not; `neighbours`: who shares a shard with whom. A node that is found isolated no longer
        counts as an accuser, so that two halves of a cluster do not expel each other.
        """
        for accuser in list(self._of):
            if not self._present(accuser, awake_ms):
                del self._of[accuser]
        self._isolations.tidy(awake_ms)
        self._partings.tidy(awake_ms)
        jury = {boot for boot in live if boot not in self._isolated}
        pardoned = self._pardon(jury, awake_ms)
        found: list[int] = []
        while guilty := self._most_accused(jury, neighbours, awake_ms):
            found.append(guilty)
            self._isolated[guilty] = awake_ms
            self._isolations.strike(guilty, awake_ms)
            jury.discard(guilty)
        return Judgement(found, pardoned, self._pairs(jury, speaking, neighbours, awake_ms))

    def _pardon(self, jury: AbstractSet[int], awake_ms: float) -> list[int]:
        for boot in self._isolated:
            if self.is_accused(boot, jury, awake_ms):
                self._isolated[boot] = awake_ms
        over = [b for b, last in self._isolated.items() if awake_ms - last >= self._isolations.term_ms(b)]
        for boot in over:
            del self._isolated[boot]
        return over

    def _pairs(
        self,
        jury: AbstractSet[int],
        speaking: AbstractSet[int],
        neighbours: Mapping[int, AbstractSet[int]],
        awake_ms: float,
    ) -> list[tuple[int, int]]:
        pairs = []
        heard = jury & speaking
        for accuser in sorted(heard):
            for boot, accusation in self._present(accuser, awake_ms).items():
                if boot not in heard or awake_ms - accusation.since_ms < self._mature_ms:
                    continue
                patient = awake_ms - accusation.since_ms < PATIENCE * self._mature_ms
                pending = any(self._majority(one, jury, neighbours, awake_ms, 0.0) for one in (accuser, boot))
                if not (patient and pending):
                    pairs.append((accuser, boot))
        for one, other in pairs:
            pair = (min(one, other), max(one, other))
            if pair not in self.parted(awake_ms):
                self._partings.strike(pair, awake_ms)
            self._parted[pair] = awake_ms
        return pairs

    def _present(self, accuser: int, awake_ms: float) -> dict[int, _Accusation]:
        """The accusations of `accuser` that were repeated lately."""
        accused = self._of.get(accuser, {})
        return {boot: entry for boot, entry in accused.items() if awake_ms - entry.last_ms < self._gap_ms}

    def _majority(
        self,
        boot: int,
        jury: AbstractSet[int],
        neighbours: Mapping[int, AbstractSet[int]],
        awake_ms: float,
        age_ms: float,
    ) -> int:
        """How many accuse `boot` for at least `age_ms`, if they are two and more than half of its live
        neighbours."""
        peers = neighbours.get(boot, frozenset()) & jury
        accusers = 0
        for peer in peers:
            entry = self._present(peer, awake_ms).get(boot)
            accusers += entry is not None and awake_ms - entry.since_ms >= age_ms
        return accusers if accusers >= 2 and 2 * accusers > len(peers) else 0

    def _most_accused(
        self, jury: AbstractSet[int], neighbours: Mapping[int, AbstractSet[int]], awake_ms: float
    ) -> int | None:
        votes = {b: self._majority(b, jury, neighbours, awake_ms, self._mature_ms) for b in jury}
        guilty = max(sorted(jury), key=lambda boot: votes[boot], default=None)
        return guilty if guilty is not None and votes[guilty] else None
