"""Where the copies of each shard should be, given where they are: the plan for a cluster that runs.

Copies are a flow: each shard sends out `replicas` units, through its zones to nodes, at most one to a node;
between the zone's limits for a shard through each zone; and into each node its share of all copies, rounded down
or up. Shares that keep to the limits are such a flow in fractions (placement.form draws one as a line), hence
there is one in whole copies (the integrality theorem: Ahuja, Magnanti, Orlin, "Network Flows", ch. 9): copies
always come within one of the ideal. What costs is a copy where none is now, and the plan is the cheapest flow,
found by successive shortest paths from what is there already:

1. trim: drop what cannot stay (copies on nodes that are gone; too many in a shard, or in one zone of it);
2. fill: each missing copy goes to a node with room for it;
3. relieve: nodes with too many copies hand shards to nodes with too few;
4. chains: where no single step leads from too many to too few, the shortest chain of nodes does, each of which
   hands a shard to the next. Such are rare, so that what needs no change is hardly looked at;
5. primaries: whoever leads stays, and what balance still asks for moves along chains (placement.even_out).

Steps 2 and 3 move one copy for each that is missing or in excess, and no plan does with less. Whether a node
rounds down or up is left open all along: `_Copies.spare` counts how many more may round up, so that those who
have a copy more keep it. Among the moves of equal cost the company decides, the nodes that share shards already:
so each primary keeps few peers (`scatter_width`), and yet many nodes take part in each repair, because none has
room for much.

No hash, no randomness: equal input gives equal output on any machine.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

from zkv.core.placement import Candidate, check_nodes, even_out, natural_order, shares, zone_limits

__all__ = ["Arrangement", "Bound", "rearrange"]

_NOBODY = -1
"""Holds a missing copy, in chains."""
_NOTHING = -1
"""What is handed on where one node rounds down so that another may round up."""


class Bound(NamedTuple):
    """The largest distance, over all nodes, of what a node gets from its ideal, in shards."""

    copies: float = 0.0
    """Always below 1: less than one shard is lost in rounding."""
    primaries: float = 0.0
    """At least 1 only where the sets allow no better."""


class Arrangement(NamedTuple):
    """Where the copies should be."""

    sets: list[tuple[int, ...]]
    """By shard: boots, the primary first, then those who hold the shard already, then those who are to."""
    bound: Bound


def rearrange(
    nodes: Sequence[Candidate], current: Sequence[tuple[int, ...]], replicas: int, scatter_width: int
) -> Arrangement:
    """The arrangement of the shards on `nodes` that is balanced and near to `current` (by shard: boots, the
    primary first).

    In `current` may be fewer or more than `replicas`, and boots that are not among `nodes` (dead, or being
    drained): the result names only `nodes`, and of these `replicas`, or all where there are fewer. Equal input
    gives equal output, and a result as `current` gives itself. Raises ValueError for impossible requests.
    """
    if replicas < 1 or scatter_width < 0:
        raise ValueError(f"{replicas} replicas with scatter width {scatter_width} cannot be arranged")
    check_nodes(nodes)
    if not nodes:
        return Arrangement([()] * len(current), Bound())
    nodes = sorted(nodes, key=lambda node: natural_order(node.name))
    copies = _Copies(nodes, current, min(replicas, len(nodes)), scatter_width)
    _trim(copies)
    _fill(copies)
    _relieve(copies)
    primaries = _lead(copies)

    sets = list(current)
    for shard in copies.changed:
        sets[shard] = tuple(nodes[member].boot for member in copies.members[shard])
    return Arrangement(sets, Bound(copies.distance(), primaries))


class _Copies:
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

    def fits(self, shard: int, taker: int, giver: int = _NOBODY) -> bool:
        """Whether the shard may go to `taker`, from `giver` or as a copy that was missing."""
        return taker not in self.members[shard] and self.fits_zone(shard, self.zone[taker], giver)

    def fits_zone(self, shard: int, zone: int, giver: int) -> bool:
        """Whether a new holder in this zone, in place of `giver`, leaves room for what other zones lack."""
        if not self.zoned or (giver != _NOBODY and self.zone[giver] == zone):
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
        if giver != _NOBODY:
            members = tuple(member for member in members if member != giver)
            self.spare[self.pool[giver]] += self.rounds_up(giver)
            del self.held[giver][shard]
            self.spare[self.pool[giver]] -= self.rounds_up(giver)
        if taker != _NOBODY:
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


# --- copies ---------------------------------------------------------------------------------------------------------


def _trim(copies: _Copies) -> None:
    """Drop copies until what is left of each shard can be part of a whole set; the fullest nodes' first."""
    surplus = {members: bool(_surplus(copies, members)) for members in set(copies.members)}
    for shard, members in enumerate(copies.origin):
        while surplus[members] and (choice := _surplus(copies, copies.members[shard])):
            # The last among equals: the first leads.
            giver = max(reversed(choice), key=lambda member: len(copies.held[member]) - copies.ideals[member])
            copies.hand(shard, giver, _NOBODY)


def _surplus(copies: _Copies, members: tuple[int, ...]) -> list[int]:
    """Those of a shard's members of whom one has to go; empty where all can stay."""
    if not copies.zoned:
        return list(members) if len(members) > copies.replicas else []
    zones = [copies.zone[member] for member in members]
    over = [zones.count(zone) > copies.limits[zone][1] for zone in zones]
    if not any(over) and copies.demand(zones) > copies.replicas:
        over = [zones.count(zone) > copies.limits[zone][0] for zone in zones]
    return [member for member, is_over in zip(members, over, strict=True) if is_over]


def _fill(copies: _Copies) -> None:
    """Give each missing copy to a node with room for it."""
    lacking = [shard for shard, members in enumerate(copies.members) if len(members) < copies.replicas]
    # Those with the most room first. Room only shrinks here, so entries that are out of date sink.
    heap = [(-copies.room(node), node) for node in range(len(copies.held)) if copies.room(node) > 0]
    heapq.heapify(heap)
    for shard in lacking:
        while len(copies.members[shard]) < copies.replicas:
            taker = _companion(copies, shard)
            if taker == _NOBODY:
                taker = _roomiest(copies, shard, heap)
            if taker != _NOBODY:
                copies.hand(shard, _NOBODY, taker)
            else:
                _hand_along(copies, shard)


def _companion(copies: _Copies, shard: int) -> int:
    """Who should take the missing copy, so that members with enough peers get few new ones; or nobody."""
    members = copies.members[shard]
    crowded = [copies.company(member) for member in members if len(copies.company(member)) > copies.scatter_width]
    first = copies.company(members[0]) if members else set()
    known = [node for node in sorted(set().union(*crowded)) if copies.room(node) > 0 and copies.fits(shard, node)]
    return min(
        known,
        key=lambda node: (node not in first, sum(node not in company for company in crowded), -copies.room(node)),
        default=_NOBODY,
    )


def _roomiest(copies: _Copies, shard: int, heap: list[tuple[int, int]]) -> int:
    """The node with the most room for a copy of the shard, or nobody."""
    blocked: list[tuple[int, int]] = []
    found = _NOBODY
    while heap and found == _NOBODY:
        room, node = heapq.heappop(heap)
        if copies.room(node) == -room:
            blocked.append((room, node))
            found = node if copies.fits(shard, node) else _NOBODY
        elif copies.room(node) > 0:
            heapq.heappush(heap, (-copies.room(node), node))
    for entry in blocked:
        heapq.heappush(heap, entry)
    return found


def _relieve(copies: _Copies) -> None:
    """Move copies from nodes that have too many to nodes that have too few."""
    nodes = range(len(copies.held))
    barren: set[tuple[int, int]] = set()  # (giver, zone): where nothing the giver has fits
    for taker in sorted(nodes, key=lambda node: -copies.room(node)):
        # From some givers a part each, so that many take part; then from whoever has more.
        for part in (-(-copies.room(taker) // max(1, copies.scatter_width)), len(copies.members)):
            givers = [node for node in nodes if copies.excess(node) > 0] if copies.room(taker) > 0 else []
            for giver in _around(copies, taker, givers):
                amount = min(copies.excess(giver), copies.room(taker), part)
                if amount > 0 and (giver, copies.zone[taker]) not in barren:
                    if not _take(copies, giver, taker, amount) and copies.zone[giver] != copies.zone[taker]:
                        barren.add((giver, copies.zone[taker]))
                elif copies.room(taker) <= 0:
                    break
    while any(copies.excess(node) > 0 for node in nodes) or any(copies.room(node) > 0 for node in nodes):
        _hand_along(copies)


def _around(copies: _Copies, taker: int, givers: Iterable[int]) -> Iterator[int]:
    """The givers, each together with those in its company: so the taker will be in few sets."""
    waiting = set(givers)
    queue = deque(sorted(copies.company(taker)))
    seen = set(queue)
    for giver in sorted(waiting, key=lambda node: -copies.excess(node)):
        if giver not in seen:
            queue.append(giver)
            seen.add(giver)
        # A search without an end would cost more than company is worth.
        for _ in range(8 * copies.scatter_width):
            if not queue:
                break
            node = queue.popleft()
            if node in waiting:
                waiting.discard(node)
                yield node
            further = sorted(copies.company(node) - seen)
            queue.extend(further)
            seen.update(further)
        if giver in waiting:
            waiting.discard(giver)
            yield giver


def _take(copies: _Copies, giver: int, taker: int, amount: int) -> bool:
    """Move up to `amount` copies, of shards whose other members the taker knows where possible. Says whether any.

    Of those that the giver leads there are as many as bring its number of primaries nearer to the ideal: so
    fewer primaries change where the copies stay.
    """
    fitting = (shard for shard in copies.held[giver] if copies.fits(shard, taker, giver))
    known = copies.company(taker)
    ranked = sorted(  # enough to choose from; a giver of very many is not looked through for each taker
        islice(fitting, 64 + 4 * amount),
        key=lambda shard: (sum(member not in known for member in copies.members[shard]), copies.members[shard]),
    )
    led = [shard for shard in ranked if copies.members[shard][0] == giver and shard not in copies.leaderless]
    others = [shard for shard in ranked if copies.members[shard][0] != giver or shard in copies.leaderless]
    wish = round(min(-copies.lead_lack(giver), copies.lead_lack(taker)))
    leads = max(0, amount - len(others), min(wish, amount))
    for shard in led[:leads]:
        copies.hand(shard, giver, taker)
        copies.leads[giver] -= 1
        copies.leads[taker] += 1  # as it will most likely be: it lacks them
    for shard in others[: amount - min(leads, len(led))]:
        copies.hand(shard, giver, taker)
    return bool(ranked)


def _hand_along(copies: _Copies, lacking: int | None = None) -> None:
    """Hand on one copy along the cheapest chain from a node with too many, or from the shard that lacks one,
    to a node with room. There always is one: see the top of this module."""
    path = _chain(copies, lacking, thrifty=True)
    if any(times > 1 for times in Counter(shard for shard, _, _ in path).values()):
        # Two steps of one shard may be at odds; not so in a chain that is also the shortest.
        path = _chain(copies, lacking, thrifty=False)
    assert path, "balance is always within reach"
    for shard, giver, taker in path:
        assert copies.fits(shard, taker, giver)
        copies.hand(shard, giver, taker)


def _chain(copies: _Copies, lacking: int | None, thrifty: bool) -> list[tuple[int, int, int]]:
    """The steps (shard, giver, taker) of a chain, last step first; breadth first, by the number of copies that
    are newly made if `thrifty`, else by the number of steps.

    A chain may also leave a node that then rounds up and go on from any that rounded up, which then rounds down:
    so it passes between zones where no shard does.
    """
    nodes = range(len(copies.held))
    level = [node for node in nodes if copies.excess(node) > 0] if lacking is None else [_NOBODY]
    left: list[dict[int, None]] = [{} for _ in copies.limits]  # those not reached yet, by zone
    for node in sorted(set(nodes).difference(level)):
        left[copies.zone[node]][node] = None
    came: dict[int, tuple[int, int]] = {}
    while level:
        following: list[int] = []
        for free in (True, False) if thrifty else (False,):
            after = level if free else following
            for giver in level:  # grows, by those who are reached at no cost
                for shard in copies.held[giver] if giver != _NOBODY else (lacking,):
                    assert shard is not None
                    for taker in _reached(copies, shard, giver, left, free):
                        came[taker] = (shard, giver)
                        if copies.room(taker) > 0:
                            return _steps(came, taker)
                        del left[copies.zone[taker]][taker]
                        after.append(taker)
            for taker in after:
                if copies.low[taker] == len(copies.held[taker]) < copies.high[taker]:
                    others = [node for zone in left for node in zone if copies.pool[node] == copies.pool[taker]]
                    for node in filter(copies.rounds_up, others):
                        came[node] = (_NOTHING, taker)
                        del left[copies.zone[node]][node]
                        after.append(node)
        level = following
    return []


def _reached(
    copies: _Copies, shard: int, giver: int, left: Sequence[dict[int, None]], free: bool
) -> list[int]:
    """Those of `left` who may take the shard from `giver`; if `free`, only where that makes no further copy."""
    if free and (giver == _NOBODY or giver in copies.origin[shard]):
        takers = [node for node in copies.origin[shard] if node in left[copies.zone[node]]]
        return [node for node in takers if copies.fits(shard, node, giver)]
    members = copies.members[shard]
    return [
        node
        for zone, nodes in enumerate(left)
        if nodes and copies.fits_zone(shard, zone, giver)
        for node in nodes
        if node not in members
    ]


def _steps(came: dict[int, tuple[int, int]], end: int) -> list[tuple[int, int, int]]:
    """The chain that leads to `end`, last step first."""
    steps: list[tuple[int, int, int]] = []
    while end in came:
        shard, giver = came[end]
        if shard != _NOTHING:
            steps.append((shard, giver, end))
        end = giver
    return steps


# --- primaries ------------------------------------------------------------------------------------------------------


def _lead(copies: _Copies) -> float:
    """Put each shard's primary first in its members. Returns the largest distance of any node's number of
    primaries from its ideal."""
    copies.leads = [0] * len(copies.held)
    for shard, members in enumerate(copies.members):
        if shard not in copies.leaderless:
            copies.leads[members[0]] += 1
    for shard in sorted(copies.leaderless):
        # The first among equals: one who has a copy already.
        _promote(copies, shard, max(copies.members[shard], key=copies.lead_lack))
        copies.leads[copies.members[shard][0]] += 1
    if any(abs(copies.lead_lack(node)) >= 1 for node in range(len(copies.held))):
        _shift_leads(copies)
    return max(abs(copies.lead_lack(node)) for node in range(len(copies.held)))


def _shift_leads(copies: _Copies) -> None:
    """Balance the primaries, without a change of copies."""
    alike = {members: tuple(sorted(members)) for members in set(copies.members)}
    shards_of: dict[tuple[int, ...], list[int]] = {}
    for shard, members in enumerate(copies.members):
        shards_of.setdefault(alike[members], []).append(shard)
    before = [Counter(copies.members[shard][0] for shard in shards) for shards in shards_of.values()]
    after = [dict(leads) for leads in before]
    even_out(list(shards_of), after, copies.leads, copies.lead_ideals)
    for shards, old, new in zip(shards_of.values(), before, after, strict=True):
        surplus = old - Counter(new)
        heirs = (Counter(new) - old).elements()
        for shard in shards if surplus else ():
            leader = copies.members[shard][0]
            if surplus[leader] > 0:
                surplus[leader] -= 1
                _promote(copies, shard, next(heirs))


def _promote(copies: _Copies, shard: int, leader: int) -> None:
    """Put `leader` first; the others stay in order."""
    copies.members[shard] = (leader, *(member for member in copies.members[shard] if member != leader))
    copies.changed.add(shard)
