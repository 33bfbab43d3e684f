"""Where the shards are to be, and the steps that take them there, a few at a time.

After deaths the sets are what is left (`reconfigure`). From there on the manager steers: it keeps a *target*, one set a
shard, and changes shards step by step (`moves`) until all are there. The target follows from the nodes that may hold
shards (or from the operator's placement), and is made anew when these change and not otherwise, from where the copies
are or are about to be. So in a constant world the map comes to rest.

Copies that are lacking are made at once, all of them: the next death may come at any moment. What moves only for the
sake of balance is throttled.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from zkv.core.manager.moves import Guests, Kind, Step, next_step
from zkv.core.manager.reconfigure import next_entry
from zkv.core.placement.initial import Candidate, natural_order
from zkv.core.placement.layout import Layout
from zkv.core.placement.rearrange import rearrange
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import UP, Member, Shard, ShardMap

MOVES_AT_LEAST: Final = 8
MOVES_PART: Final = 16
"""One shard in so many may be under way for the sake of balance at once."""
LEISURE_BEATS: Final = 3
"""Shards that have all their copies change at every third heartbeat at most. Each change of the map makes what is under
way wait for some milliseconds, whatever it changes: so that is less than one call in a hundred."""


class Changes(NamedTuple):
    """What one step of steering decided."""

    shards: dict[int, Shard]
    kinds: Counter[Kind]
    promoted: dict[int, list[int]]
    """learner -> shards whose set it joins."""
    graceful: set[int]
    """Shards that had all their copies before, and have them now."""


class World(NamedTuple):
    """What the steering looks at, as it is now."""

    map: ShardMap
    members: Mapping[int, Member]
    fresh: AbstractSet[int]
    """Members that are up with fresh heartbeats."""
    active: Sequence[int]
    """By shard, the newest epoch reported active."""
    filled: Mapping[int, AbstractSet[int]]
    """By shard, the learners reported filled under its present epoch."""
    holders: Sequence[Member]
    """Those that may be given shards."""
    guests: Guests
    shunned: AbstractSet[int]
    """Members that lead no shard where another can."""
    parted: AbstractSet[tuple[int, int]]
    """Pairs that had better share no shard."""


class Steering:
    """The target, and which shards are not there yet."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self.layout: Layout | None = None
        """The operator's placement, where he has one."""
        self.target: list[tuple[int, ...]] = []
        """By shard, its holders to be, as far as there are any now; the primary first."""
        self._plain: list[tuple[int, ...]] = []
        """The target before anybody was shunned."""
        self._basis: object = None
        self._shunned: AbstractSet[int] = frozenset()
        self._open: set[int] = set()
        self._beats = 0

    def wanted(self, shard: int) -> int:
        """How many copies a shard is to have."""
        return len(self.layout.shards[shard]) if self.layout else self._settings.replicas

    def touched(self, shards: Iterable[int]) -> None:
        """These have changed: look whether they are where they should be."""
        self._open.update(shards)

    def start_over(self) -> None:
        """Forget where copies were to go: the next target is made from where they are."""
        self._basis, self._plain = None, []

    def aim(self, world: World) -> None:
        """Make the target anew if that which it follows from has changed."""
        holders = sorted(world.holders, key=lambda member: natural_order(member.name))
        basis = ([(one.boot, one.zone, one.weight) for one in holders], self.layout, world.parted)
        if basis != self._basis:
            self._basis = basis
            self._plain = self._placed(world, holders)
            if world.parted:
                _part(self._plain, world.map, holders, world.parted)
        elif world.shunned == self._shunned:
            return
        self._shunned = set(world.shunned)
        self.target = [self._led(holding) for holding in self._plain] if self._shunned else self._plain
        self._open.update(range(len(world.map.shards)))

    def _placed(self, world: World, holders: Sequence[Member]) -> list[tuple[int, ...]]:
        if self.layout:
            boots = {member.name: member.boot for member in holders}
            return [tuple(boots[name] for name in names if name in boots) for names in self.layout.shards]
        current = self._headed(world.map, frozenset(member.boot for member in holders))
        arrangement = rearrange(candidates(holders), current, self._settings.replicas, self._settings.scatter_width)
        return arrangement.sets

    def _headed(self, map: ShardMap, boots: frozenset[int]) -> list[tuple[int, ...]]:
        """Where the copies are, or are about to be: fills under way count as done, moves not begun as given up."""
        headed = []
        for number, shard in enumerate(map.shards):
            there = shard.replicas
            if shard.learners:
                there = (*shard.replicas, *shard.learners)
                if self._plain:
                    aimed = [boot for boot in self._plain[number] if boot in there and boot in boots]
                    rest = [boot for boot in there if boot in boots and boot not in aimed]
                    there = tuple(aimed + rest[: max(0, self._settings.replicas - len(aimed))])
            headed.append(there)
        return headed

    def _led(self, holding: tuple[int, ...]) -> tuple[int, ...]:
        """The same set, led by somebody who is not shunned."""
        return tuple(sorted(holding, key=self._shunned.__contains__)) if self._shunned else holding

    def steps(self, world: World) -> Changes:
        """The shards that change now; called once a heartbeat. Call `aim` before."""
        map = world.map
        changes = Changes({}, Counter(), defaultdict(list), set())
        self._beats += 1
        leisure = self._beats % LEISURE_BEATS == 0
        up = {boot for boot, member in world.members.items() if member.state == UP}
        limit = max(MOVES_AT_LEAST, len(map.shards) // MOVES_PART)
        shards, active = map.shards, world.active
        under_way = sum(
            1
            for n in self._open
            if (shards[n].learners or active[n] != shards[n].epoch)
            and not shards[n].withheld
            and up.issuperset(shards[n].replicas)  # else it does not move, and nobody can say how long
        )
        for number in sorted(self._open):
            shard, target = shards[number], self.target[number]
            if shard.withheld or not self.wanted(number):
                if (entry := self._veiled(number, world)) is not None:
                    changes.shards[number] = entry
                elif shard.withheld:
                    self._open.discard(number)
                continue
            whole = len(shard.replicas) >= self.wanted(number)
            if (whole and not leisure) or active[number] != shard.epoch or not up.issuperset(shard.replicas):
                continue
            filled = world.filled.get(number, frozenset())
            step = next_step(shard, target, self.wanted(number), filled, world.guests)
            if step is None:
                if not shard.learners and world.guests.staying.isdisjoint(shard.replicas):
                    self._open.discard(number)
                continue
            if not _is_safe(step, shard, world.fresh):
                continue
            if step.kind in (Kind.MOVE, Kind.HANDOVER):
                if under_way >= limit:
                    continue
                under_way += 1
            changes.kinds[step.kind] += 1
            if whole:
                changes.graceful.add(number)
            for boot in step.replicas:
                if boot in shard.learners:
                    changes.promoted[boot].append(number)
            changes.shards[number] = next_entry(
                shard, map.version + 1, world.members, active[number], step.replicas, step.learners
            )
        return changes

    def _veiled(self, number: int, world: World) -> Shard | None:
        """The next entry of a shard that is withheld, or is to be: its last holders keep the data until it is put
        back."""
        shard, version = world.map.shards[number], world.map.version + 1
        wanted = self.wanted(number)
        if shard.withheld == (not wanted):
            return None
        keep = shard.replicas
        if wanted:
            # All of them: who is not wanted goes once others have taken its place.
            candidates = [boot for boot in (*self.target[number], *keep) if boot in keep and boot in world.fresh]
            keep = tuple(dict.fromkeys((*candidates[:1], *keep)))
        return next_entry(shard, version, world.members, world.active[number], keep, withheld=not wanted)


def _is_safe(step: Step, shard: Shard, fresh: AbstractSet[int]) -> bool:
    """Whether nobody leaves for the sake of suspects, and no suspect is to lead (SAFETY 31)."""
    if step.replicas[0] != shard.primary and step.replicas[0] not in fresh:
        return False
    return set(step.replicas).issuperset(shard.replicas) or set(step.replicas) <= fresh


def candidates(members: Iterable[Member]) -> list[Candidate]:
    """Members as the planner wants them."""
    return [Candidate(member.name, member.boot, member.zone, member.weight) for member in members]


def _part(
    target: list[tuple[int, ...]], map: ShardMap, holders: Sequence[Member], parted: AbstractSet[tuple[int, int]]
) -> None:
    """Replace one of each pair that cannot work together by whoever holds least, in another zone where there is one."""
    zones = {member.boot: member.zone for member in holders}
    copies = Counter(boot for holding in target for boot in holding)
    for number, holding in enumerate(target):
        for one, other in sorted(parted):
            if one not in holding or other not in holding:
                continue
            # The one that is not in sync goes, else the later one.
            goes = max((one, other), key=lambda boot: (boot not in map.shards[number].replicas, holding.index(boot)))
            rest = [boot for boot in holding if boot != goes]
            taken = {zones[boot] for boot in rest}
            free = [
                boot
                for boot in zones
                if boot not in holding and not any((min(boot, b), max(boot, b)) in parted for b in rest)
            ]
            stands_in = min(free, key=lambda boot: (zones[boot] in taken, copies[boot]), default=None)
            copies[goes] -= 1
            if stands_in is not None:
                copies[stands_in] += 1
            holding = tuple(
                boot for boot in (stands_in if b == goes else b for b in holding) if boot is not None
            )
        target[number] = holding
