"""Whether the cluster is well: how many shards are not as they should be, and whether that can be mended.

- *unavailable*: some shard has no copy that is up, or no holder by the operator's will;
- *healing*: some shard waits for its primary to serve it, or has too few copies and is given more;
- *degraded*: some shard has too few copies, and there is no node that could take another;
- *healthy*: neither, also while shards move for the sake of balance, which takes each of them out of service for a
  moment but costs no copy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from zkv.core.placement.layout import Layout
from zkv.core.shardmap import UP, Member, ShardMap

Mender = Callable[[int, frozenset[int]], bool]
"""(shard, who holds a living copy of it) -> whether a node could take another copy."""


class Survey(NamedTuple):
    """How many shards are not as they should be."""

    health: str
    inactive: int = 0
    """Their primary has not reported that it serves them."""
    lost: int = 0
    """No copy is up, and the operator wants one."""
    withheld: int = 0
    short: int = 0
    """They have fewer in-sync copies that are up than they should."""
    moving: int = 0
    """They have learners."""


def survey(
    map: ShardMap,
    members: Collection[Member],
    active: Sequence[int],
    graceful: AbstractSet[int],
    wanted: Callable[[int], int],
    can_be_mended: Mender,
) -> Survey:
    """The health of the cluster.

    `graceful`: shards that changed, with all their copies, for the sake of balance: that they are not active for a
    moment is no illness; `wanted(shard)`: copies it should have; `can_be_mended(shard, living)`: whether a node could
    take another copy of it, where these hold one.
    """
    if not map.version:
        return Survey("forming")
    up = {member.boot for member in members if member.state == UP}
    living: dict[tuple[int, ...], frozenset[int]] = {}
    ill = inactive = lost = withheld = short = moving = 0
    mending = False
    for number, shard in enumerate(map.shards):
        alive = living.get(shard.replicas)
        if alive is None:
            alive = living[shard.replicas] = frozenset(up.intersection(shard.replicas))
        moving += bool(shard.learners)
        if shard.withheld:
            withheld += 1
            continue
        if active[number] != shard.epoch or shard.replicas[0] not in up:
            inactive += 1
            ill += number not in graceful
        if len(alive) < wanted(number):
            short += 1
            lost += not alive
            mending = mending or bool(alive and (shard.learners or can_be_mended(number, alive)))
    health = "healthy"
    if lost or withheld:
        health = "unavailable"
    elif ill:
        health = "healing"
    elif short:
        health = "healing" if mending else "degraded"
    return Survey(health, inactive, lost, withheld, short, moving)


def mender(holders: Collection[Member], layout: Layout | None) -> Mender:
    """Who could take another copy: any of `holders`, those that may be given shards, or those whom the operator
    names."""
    if layout is None:
        boots = {member.boot for member in holders}
        return lambda _, living: not boots <= living
    names = {member.name: member.boot for member in holders}
    return lambda number, living: any(names.get(name, 0) not in (0, *living) for name in layout.shards[number])


class Moved:
    """Shards that moved for the sake of balance and are not active yet. Not for long: then something is wrong."""

    def __init__(self, patience_ms: float) -> None:
        self._patience_ms = patience_ms
        self.since_ms: dict[int, float] = {}

    def begin(self, shards: Iterable[int], now_ms: float) -> None:
        """These have just moved."""
        self.since_ms.update(dict.fromkeys(shards, now_ms))

    def end(self, shards: Iterable[int]) -> None:
        """These are active, or have changed for another reason."""
        for number in shards:
            self.since_ms.pop(number, None)

    def expire(self, now_ms: float) -> bool:
        """Whether some have been inactive for too long; they count as ill from now on."""
        late = [number for number, since_ms in self.since_ms.items() if now_ms - since_ms > self._patience_ms]
        self.end(late)
        return bool(late)
