"""A plan in the making: who is to hold which copies, what each node has too many or too few of, and what fits.

The steps of the plan are taken by zkv.core.placement.rearrange, which also says what the plan is for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from zkv.core.placement.initial import Candidate, shares, zone_limits

__all__ = ["NOBODY", "Copies"]

NOBODY = -1
"""In place of a node: gives the copy that was missing, takes the one that is dropped."""


class Copies:
    """Who holds what in the plan so far. Nodes are positions in the list sorted by name."""

    def __init__(
        self, nodes: Sequence[Candidate], current: Sequence[tuple[int, ...]], replicas: int, scatter_width: int
    ) -> None:
        self.replicas = replicas
        self.scatter_width = scatter_width
        ideals = [part * len(current) for part in shares(nodes, replicas)]
        self.ideals = [float(ideal) for ideal in ideals]
        self.low = [math.floor(ideal) for ideal in ideals]
        self.high = [math.ceil(ideal) for ideal in ideals]
        scale = len(current) / sum((Fraction(node.weight) for node in nodes), Fraction())
        self.lead_ideals = [Fraction(node.weight) * scale for node in nodes]  # never more than its copies

        sizes = Counter(node.zone for node in nodes)
        numbers = {zone: number for number, zone in enumerate(sorted(sizes))}
        self.zone = [numbers[node.zone] for node in nodes]
        self.limits = zone_limits([sizes[zone] for zone in numbers], replicas)
        self.zoned = any(  # else the limits say nothing that "one copy a node" does not say
            high < min(sizes[zone], replicas) or low > max(0, replicas - len(nodes) + sizes[zone])
            for zone, (low, high) in zip(numbers, self.limits, strict=True)
        )

        # Few distinct sets stand for many shards.
        position = {node.boot: number for number, node in enumerate(nodes)}
        known = {boots: tuple(position[b] for b in dict.fromkeys(boots) if b in position) for boots in set(current)}
        led = {boots: bool(known[boots]) and position.get(boots[0]) == known[boots][0] for boots in known}
        self.origin = [known[boots] for boots in current]
        """By shard: those who hold a copy now."""
        self.members = self.origin.copy()
        """By shard: those who are to hold a copy."""
        self.leaderless = {shard for shard, boots in enumerate(current) if not led[boots]}
        self.changed = {shard for shard, boots in enumerate(current) if len(known[boots]) != len(boots)}
        self.leads = [0] * len(nodes)
        for boots, times in Counter(current).items():
            if led[boots]:
                self.leads[known[boots][0]] += times
        # Dictionaries as sets with an order.
        self.held: list[dict[int, None]] = [{} for _ in nodes]
        for shard, members in enumerate(self.members):
            for member in members:
                self.held[member][shard] = None
        self.pool, self.spare = self._pools(ideals, len(current))
        """By node: its pool. By pool: how many more of its nodes may round up; when negative, so many of them must
        round down after all."""
        self._company: dict[int, set[int]] = {}

    def _pools(self, ideals: Sequence[Fraction], shards: int) -> tuple[list[int], list[int]]:
        """A zone whose limits leave it no choice has a fixed number of copies to round with, the others share."""
        totals = [Fraction()] * len(self.limits)
        for zone, ideal in zip(self.zone, ideals, strict=True):
            totals[zone] += ideal
        own = [total in (low * shards, high * shards) for total, (low, high) in zip(totals, self.limits, strict=True)]
        pool = [1 + zone if own[zone] else 0 for zone in self.zone]
        spare = [Fraction()] * (1 + len(totals))
        for node, number in enumerate(pool):
            spare[number] += ideals[node] - self.low[node] - self.rounds_up(node)
        return pool, [int(number) for number in spare]

    def rounds_up(self, node: int) -> bool:
        """Whether it holds its ideal rounded up, or more, where that is more than rounded down."""
        return self.low[node] < self.high[node] <= len(self.held[node])

    def room(self, node: int) -> int:
        """How many copies it is to take (at most 0: none)."""
        return (self.high if self.spare[self.pool[node]] > 0 else self.low)[node] - len(self.held[node])

    def excess(self, node: int) -> int:
        """How many copies it is to give (at most 0: none)."""
        return len(self.held[node]) - (self.low if self.spare[self.pool[node]] < 0 else self.high)[node]

    def lead_lack(self, node: int) -> float:
        """How many more shards it should be the primary of (negative: fewer)."""
        return float(self.lead_ideals[node]) - self.leads[node]

    def company(self, node: int) -> set[int]:
        """The node itself and those who share a shard with it, or did at some time in the plan."""
        if node not in self._company:
            sets = {self.members[shard] for shard in self.held[node]}
            self._company[node] = {node}.union(*sets)
        return self._company[node]

    def fits(self, shard: int, taker: int, giver: int = NOBODY) -> bool:
        """Whether the shard may go to `taker`, from `giver` or as a copy that was missing."""
        return taker not in self.members[shard] and self.fits_zone(shard, self.zone[taker], giver)

    def fits_zone(self, shard: int, zone: int, giver: int) -> bool:
        """Whether a new holder in this zone, in place of `giver`, leaves room for what other zones lack."""
        if not self.zoned or (giver != NOBODY and self.zone[giver] == zone):
            return True
        zones = [self.zone[member] for member in self.members[shard] if member != giver]
        if zones.count(zone) >= self.limits[zone][1]:
            return False
        return self.demand([*zones, zone]) <= self.replicas

    def demand(self, zones: Sequence[int]) -> int:
        """The copies of a shard in these zones, with those that are still to come to zones below their limit."""
        if len(self.limits) >= self.replicas:
            return len(zones)  # no zone has to have one
        return sum(max(zones.count(zone), low) for zone, (low, _) in enumerate(self.limits))

    def hand(self, shard: int, giver: int, taker: int) -> None:
        """Move a copy. Either may be nobody: a copy dropped, or one that was missing."""
        members = self.members[shard]
        if members[:1] == (giver,):
            self.leaderless.add(shard)
        if giver != NOBODY:
            members = tuple(member for member in members if member != giver)
            self.spare[self.pool[giver]] += self.rounds_up(giver)
            del self.held[giver][shard]
            self.spare[self.pool[giver]] -= self.rounds_up(giver)
        if taker != NOBODY:
            for member in members:
                self.company(member).add(taker)
            self.company(taker).update(members)
            members = (*members, taker)
            self.spare[self.pool[taker]] += self.rounds_up(taker)
            self.held[taker][shard] = None
            self.spare[self.pool[taker]] -= self.rounds_up(taker)
        self.members[shard] = members
        self.changed.add(shard)

    def distance(self) -> float:
        """The largest of any node's number of copies from its ideal."""
        return max(abs(len(held) - ideal) for held, ideal in zip(self.held, self.ideals, strict=True))
