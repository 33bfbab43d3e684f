"""Where the copies of each shard should be, given where they are: the plan for a cluster that runs.

Copies are a flow: each shard sends out `replicas` units, through its zones to nodes, at most one to a node;
between the zone's limits for a shard through each zone; and into each node its share of all copies, rounded down
or up. Shares that keep to the limits are such a flow in fractions (initial.form draws one as a line), hence
there is one in whole copies (the integrality theorem: Ahuja, Magnanti, Orlin, "Network Flows", ch. 9): copies
always come within one of the ideal. What costs is a copy where none is now, and the plan is the cheapest flow or
close to it, found by successive shortest paths from what is there already:

1. trim: drop what cannot stay (copies on nodes that are gone; too many in a shard, or in one zone of it);
2. fill: each missing copy goes to a node with room for it;
3. relieve: nodes with too many copies hand shards to nodes with too few;
4. chains: where no single step leads from too many to too few, the shortest chain of nodes does, each of which
   hands a shard to the next. Such are rare, so that what needs no change is hardly looked at;
5. primaries: whoever leads stays, and what balance still asks for moves along chains (initial.even_out).

Steps 2 and 3 move one copy for each that is missing or in excess, and no plan does with less. Steps 1 and 4 do not
weigh every way against each other: with zones or weights, about one small cluster in a hundred moves a copy or two
more than it must (tests/unit/test_rearrange.py compares). Whether a node
rounds down or up is left open all along: `Copies.spare` counts how many more may round up, so that those who
have a copy more keep it. Among the moves of equal cost the company decides, the nodes that share shards already:
so each primary keeps few peers (`scatter_width`), and yet many nodes take part in each repair, because none has
room for much.

No hash, no randomness: equal input gives equal output on any machine.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from zkv.core.placement.copies import NOBODY, Copies
from zkv.core.placement.initial import Candidate, check_nodes, even_out, natural_order

__all__ = ["Arrangement", "Bound", "rearrange"]

_NOTHING = -1
"""What is handed on where one node rounds down so that another may round up."""

# How to look for a chain: by steps that make no further copy, by those that do, by either as they come.
_FREE: Final = (True,)
_THRIFTY: Final = (True, False)
_SHORT: Final = (False,)


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
    copies = Copies(nodes, current, min(replicas, len(nodes)), scatter_width)
    _trim(copies)
    _fill(copies)
    _relieve(copies)
    primaries = _lead(copies)

    sets = list(current)
    for shard in copies.changed:
        sets[shard] = tuple(nodes[member].boot for member in copies.members[shard])
    return Arrangement(sets, Bound(copies.distance(), primaries))


# --- copies ---------------------------------------------------------------------------------------------------------


def _trim(copies: Copies) -> None:
    """Drop copies until what is left of each shard can be part of a whole set; the fullest nodes' first."""
    surplus = {members: bool(_surplus(copies, members)) for members in set(copies.members)}
    for shard, members in enumerate(copies.origin):
        while surplus[members] and (choice := _surplus(copies, copies.members[shard])):
            # The last among equals: the first leads.
            giver = max(reversed(choice), key=lambda member: len(copies.held[member]) - copies.ideals[member])
            copies.hand(shard, giver, NOBODY)
    # Where another member had better gone, they can still change places at no cost.
    while copies.changed and (path := _chain(copies, None, _FREE)) and not _winds(path):
        _hand_all(copies, path)


def _surplus(copies: Copies, members: tuple[int, ...]) -> list[int]:
    """Those of a shard's members of whom one has to go; empty where all can stay."""
    if not copies.zoned:
        return list(members) if len(members) > copies.replicas else []
    zones = [copies.zone[member] for member in members]
    over = [zones.count(zone) > copies.limits[zone][1] for zone in zones]
    if not any(over) and copies.demand(zones) > copies.replicas:
        over = [zones.count(zone) > copies.limits[zone][0] for zone in zones]
    return [member for member, is_over in zip(members, over, strict=True) if is_over]


def _fill(copies: Copies) -> None:
    """Give each missing copy to a node with room for it."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for shard, members in enumerate(copies.members):
        if len(members) < copies.replicas:
            alike.setdefault(members, []).append(shard)
    # The sets take turns in proportion to their shards: else the last would find room only where they are already.
    turns = [((turn + 0.5) / len(shards), shard) for shards in alike.values() for turn, shard in enumerate(shards)]
    # Those with the most room first. Room only shrinks here, so entries that are out of date sink.
    heap = [(-copies.room(node), node) for node in range(len(copies.held)) if copies.room(node) > 0]
    heapq.heapify(heap)
    for _, shard in sorted(turns):
        while len(copies.members[shard]) < copies.replicas:
            taker = _companion(copies, shard)
            if taker == NOBODY:
                taker = _roomiest(copies, shard, heap)
            if taker != NOBODY:
                copies.hand(shard, NOBODY, taker)
            else:
                _hand_along(copies, shard)


def _companion(copies: Copies, shard: int) -> int:
    """Who should take the missing copy, so that members with enough peers get few new ones; or nobody."""
    members = copies.members[shard]
    companies = [copies.company(member) for member in members]
    # Where everybody is a peer already, company cannot decide.
    crowded = [company for company in companies if copies.scatter_width < len(company) < len(copies.held)]
    if not crowded:
        return NOBODY
    known = [node for node in sorted(set().union(*crowded)) if copies.room(node) > 0 and copies.fits(shard, node)]
    return min(
        known,
        key=lambda node: (
            node not in companies[0],  # the primary's first
            sum(node not in company for company in crowded),
            -copies.room(node),
        ),
        default=NOBODY,
    )


def _roomiest(copies: Copies, shard: int, heap: list[tuple[int, int]]) -> int:
    """The node with the most room for a copy of the shard, or nobody."""
    blocked: list[tuple[int, int]] = []
    found = NOBODY
    while heap and found == NOBODY:
        room, node = heapq.heappop(heap)
        if copies.room(node) == -room:
            blocked.append((room, node))
            found = node if copies.fits(shard, node) else NOBODY
        elif copies.room(node) > 0:
            heapq.heappush(heap, (-copies.room(node), node))
    for entry in blocked:
        heapq.heappush(heap, entry)
    return found


def _relieve(copies: Copies) -> None:
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


def _around(copies: Copies, taker: int, givers: Iterable[int]) -> Iterator[int]:
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


def _take(copies: Copies, giver: int, taker: int, amount: int) -> bool:
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


def _hand_along(copies: Copies, lacking: int | None = None) -> None:
    """Hand on one copy along the cheapest chain from a node with too many, or from the shard that lacks one,
    to a node with room. There always is one: see the top of this module."""
    path = _chain(copies, lacking, _THRIFTY)
    if _winds(path):
        path = _chain(copies, lacking, _SHORT)
    assert path, "balance is always within reach"
    _hand_all(copies, path)


def _hand_all(copies: Copies, path: Sequence[tuple[int, int, int]]) -> None:
    for shard, giver, taker in path:
        assert copies.fits(shard, taker, giver)
        copies.hand(shard, giver, taker)


def _winds(path: Sequence[tuple[int, int, int]]) -> bool:
    """Whether a shard occurs twice. Two steps of one shard may be at odds, except in a chain of the fewest steps."""
    return len({shard for shard, _, _ in path}) < len(path)


def _chain(copies: Copies, lacking: int | None, passes: Sequence[bool]) -> list[tuple[int, int, int]]:
    """The steps (shard, giver, taker) of a chain, last step first; empty where there is none. Breadth first, by
    the number of copies that are newly made, or by the number of steps where `passes` does not tell them apart.

    A chain may also leave a node that then rounds up and go on from any that rounded up, which then rounds down:
    so it passes between zones where no shard does.
    """
    nodes = range(len(copies.held))
    level = [node for node in nodes if copies.excess(node) > 0] if lacking is None else [NOBODY]
    first = () if lacking is None else (lacking,)
    left: list[dict[int, None]] = [{} for _ in copies.limits]  # those not reached yet, by zone
    for node in sorted(set(nodes).difference(level)):
        left[copies.zone[node]][node] = None
    came: dict[int, tuple[int, int]] = {}
    while level:
        following: list[int] = []
        for free in passes:
            for giver in level:  # grows, by those who are reached at no cost
                for node in _exchangeable(copies, giver, left):
                    came[node] = (_NOTHING, giver)
                    del left[copies.zone[node]][node]
                    level.append(node)
                shards: Iterable[int] = first if giver == NOBODY else copies.held[giver]
                if free and giver != NOBODY:
                    # Only one that changed may go at no cost. Of very many, those that came last are enough.
                    shards = islice(filter(copies.changed.__contains__, reversed(copies.held[giver])), 64)
                for shard in shards:
                    for taker in _reached(copies, shard, giver, left, free):
                        came[taker] = (shard, giver)
                        if copies.room(taker) > 0:
                            return _steps(came, taker)
                        del left[copies.zone[taker]][taker]
                        (level if free else following).append(taker)
        level = following
    return []


def _exchangeable(copies: Copies, node: int, left: Sequence[dict[int, None]]) -> list[int]:
    """Those of `left` who can round down so that the node may keep one more, and round up."""
    if node == NOBODY or not copies.low[node] == len(copies.held[node]) < copies.high[node]:
        return []
    others = (other for zone in left for other in zone if copies.pool[other] == copies.pool[node])
    return [other for other in others if copies.rounds_up(other)]


def _reached(copies: Copies, shard: int, giver: int, left: Sequence[dict[int, None]], free: bool) -> list[int]:
    """Those of `left` who may take the shard from `giver`; if `free`, only where that makes no further copy."""
    if free and (giver == NOBODY or giver in copies.origin[shard]):
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


def _lead(copies: Copies) -> float:
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


def _shift_leads(copies: Copies) -> None:
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


def _promote(copies: Copies, shard: int, leader: int) -> None:
    """Put `leader` first; the others stay in order."""
    copies.members[shard] = (leader, *(member for member in copies.members[shard] if member != leader))
    copies.changed.add(shard)
