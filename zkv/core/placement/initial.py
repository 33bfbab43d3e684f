"""Where the copies of each shard live: a pure function of the nodes.

The picture is a line. Each node is a piece of it, as long as the number of copies that it is to hold; nodes
of one zone lie side by side. The line is `replicas` times as long as there are shards, and shard s takes the
points s, s + shards, s + 2 * shards, … on it. Each node then holds exactly the length of its piece; since no
piece is longer than `shards`, no node holds a shard twice; and where no zone is longer than `shards`, no zone
does.

It also makes *copysets* (Cidon et al., "Copysets", USENIX ATC 2013): the set of nodes changes only where one
of the points steps over the border of a piece, so that there are no more sets than nodes, and each node is in
about `replicas` of them (in just one where the nodes can be dealt out evenly). Few sets are few ways to lose
data in an accident, and full replication batches, which are built per set. Within a set all members are first
equally often, so that a node's primaries are balanced because its copies are. (Where that would take more
peers than `scatter_width`, only those whose pieces begin with the set are first in it.)

More scatter, where it is asked for, comes from more layers: several such lines, each for a part of the
shards, each with its nodes in another order.

Priorities, highest first: never two copies on one node; two in one zone only when there are fewer zones than
copies; balance by weight; scatter. No hash, no randomness: equal input gives equal output on any machine.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from typing import NamedTuple

__all__ = [
    "Candidate", "form", "natural_order", "successor",
    "check_nodes", "even_out", "shares", "zone_limits",  # shared with rearrange
]  # fmt: skip


class Candidate(NamedTuple):
    """A node that may hold shards."""

    name: str
    boot: int
    zone: str = ""
    weight: float = 1.0


class _Run(NamedTuple):
    """Shards `first` … `first + length - 1` live on `members` (positions in the sorted list of nodes)."""

    first: int
    length: int
    members: tuple[int, ...]
    entering: tuple[int, ...]
    """Those whose piece of the line begins with this run. Each node enters just once a layer."""


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key by which server2 comes before server10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    # The text breaks the tie between 7 and 07.
    return tuple((0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts)


def form(nodes: Sequence[Candidate], shards: int, replicas: int, scatter_width: int) -> list[tuple[int, ...]]:
    """The boots that hold each shard, its primary first: a list of `shards` tuples of `replicas` boots.

    Primaries and copies are each within one of what a node's weight asks for, as far as the priorities above
    allow (a node cannot hold more than every shard). With equal weights no primary replicates to more than
    `scatter_width` distinct peers. Raises ValueError for an impossible request.
    """
    if not 1 <= replicas <= len(nodes) or shards < 1:
        raise ValueError(f"{shards} shards with {replicas} replicas cannot be placed on {len(nodes)} nodes")
    check_nodes(nodes)
    nodes = sorted(nodes, key=lambda node: natural_order(node.name))
    equal = len({node.weight for node in nodes}) == 1
    parts = shares(nodes, replicas)
    # Pieces of equal length that fit into a shard's stride without remainder keep the same company all along.
    span = replicas - 1 if equal and len(nodes) % replicas == 0 else 2 * (replicas - 1)
    layers = 1
    if equal and span and len(nodes) > replicas:
        layers = max(1, min(scatter_width // span, len(nodes) // replicas, shards // len(nodes)))
    everyone_leads = span <= scatter_width or len(nodes) - 1 <= scatter_width

    runs: list[_Run] = []
    done = 0
    for layer in range(layers):
        # A whole number of rounds, so that only the last layer has anything to round.
        length = shards - done if layer == layers - 1 else shards // layers // len(nodes) * len(nodes)
        runs += _lay_out(_order(nodes, replicas, layer), parts, replicas, done, length)
        done += length
    leads = [dict.fromkeys(run.members if everyone_leads else run.entering or run.members, 0) for run in runs]
    weights = [Fraction(node.weight) for node in nodes]
    scale = shards / sum(weights, Fraction())
    _elect(runs, leads, [weight * scale for weight in weights])

    placed: list[tuple[int, ...]] = []
    for run, counts in zip(runs, leads, strict=True):
        for at, member in enumerate(run.members):
            # The others follow in a circle: no member is everywhere the first to take over.
            boots = tuple(nodes[other].boot for other in run.members[at:] + run.members[:at])
            placed += [boots] * counts.get(member, 0)
    return placed


def successor(
    replicas: Sequence[int], dead: Collection[int], suspects: Collection[int], load: Mapping[int, int]
) -> tuple[int, ...]:
    """What is left of `replicas` without the `dead`, the new primary first; empty where nobody is.

    A primary that lives stays: a change of primary costs a wait. Otherwise the next one is not a suspect
    where that can be helped, has the fewest primaries by `load` (boot -> number, missing is 0), and is the
    earliest in `replicas` among equals.
    """
    left = [boot for boot in replicas if boot not in dead]
    if not left or left[0] == replicas[0]:
        return tuple(left)
    primary = min(left, key=lambda boot: (boot in suspects, load.get(boot, 0)))  # min() takes the earliest
    return (primary, *(boot for boot in left if boot != primary))


# --- the line -----------------------------------------------------------------------------------------------------


def check_nodes(nodes: Sequence[Candidate]) -> None:
    """Raises ValueError for nodes that no placement can be made of."""
    if len({node.boot for node in nodes}) < len(nodes) or len({node.name for node in nodes}) < len(nodes):
        raise ValueError("two nodes share a name or a boot id")
    if any(not 0 < node.weight < float("inf") for node in nodes):
        raise ValueError("each node's weight must be positive and finite")


def zone_limits(sizes: Sequence[int], copies: int) -> list[tuple[int, int]]:
    """For zones of these `sizes` (nodes), the least and the most of a shard's `copies` that each may hold.

    As even as the sizes admit: with enough zones none takes a second copy, with fewer none a third before
    each (that has the nodes) took its second. There must be `copies` nodes.
    """
    most = next(most for most in range(1, copies + 1) if sum(min(most, size) for size in sizes) >= copies)
    return [(min(most - 1, size), min(most, size)) for size in sizes]


def shares(nodes: Sequence[Candidate], replicas: int) -> list[Fraction]:
    """The part of all shards that each node holds a copy of: at most 1, in all `replicas`."""
    zones: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        zones.setdefault(node.zone, []).append(index)
    bounds = zone_limits([len(members) for members in zones.values()], replicas)
    weights = [sum((Fraction(nodes[i].weight) for i in members), Fraction()) for members in zones.values()]
    parts = [Fraction()] * len(nodes)
    for members, share in zip(zones.values(), _divide(weights, bounds, Fraction(replicas)), strict=True):
        inner = _divide([Fraction(nodes[i].weight) for i in members], [(0, 1)] * len(members), share)
        for index, value in zip(members, inner, strict=True):
            parts[index] = value
    return parts


def _divide(
    weights: Sequence[Fraction], bounds: Sequence[tuple[int, int]], total: Fraction
) -> list[Fraction]:
    """`total` divided in proportion to `weights`, each part within its bounds (which must admit it)."""
    parts = [Fraction()] * len(weights)
    free = set(range(len(weights)))
    rest = total
    while free:
        scale = rest / sum(weights[i] for i in free)
        over = [i for i in sorted(free) if weights[i] * scale > bounds[i][1]]
        under = [i for i in sorted(free) if weights[i] * scale < bounds[i][0]]
        # Pin the side that misses by more: pinning it moves the scale so that its own can only be missed
        # further.
        excess = sum((weights[i] * scale - bounds[i][1] for i in over), Fraction())
        lack = sum((bounds[i][0] - weights[i] * scale for i in under), Fraction())
        pinned = [(i, bounds[i][1]) for i in over] if excess >= lack else [(i, bounds[i][0]) for i in under]
        if not pinned:
            for i in sorted(free):
                parts[i] = weights[i] * scale
            break
        for i, bound in pinned:
            parts[i] = Fraction(bound)
            rest -= bound
            free.discard(i)
    return parts


def _order(nodes: Sequence[Candidate], replicas: int, layer: int) -> list[int]:
    """The nodes as they lie on the line of this layer: in rows, each turned by its own number of steps."""
    indices = sorted(range(len(nodes)), key=lambda i: nodes[i].zone)  # stable: natural order within a zone
    rows = [list(row) for _, row in groupby(indices, key=lambda i: nodes[i].zone)]
    if len(rows) == 1:
        size = -(-len(nodes) // replicas)
        rows = [indices[at : at + size] for at in range(0, len(nodes), size)]
    turned: list[int] = []
    for number, row in enumerate(rows):
        turn = number * layer % len(row)
        turned += row[turn:] + row[:turn]
    return turned


def _lay_out(
    order: Sequence[int], shares: Sequence[Fraction], replicas: int, first: int, length: int
) -> Iterator[_Run]:
    """The runs of `length` shards from `first` on, with the nodes in this `order` on the line."""
    # Rounding the borders instead of the pieces keeps borders that are a whole stride apart exactly so, and
    # no piece grows longer than the stride.
    ends: list[int] = []
    reach = Fraction()
    for index in order:
        reach += shares[index]
        ends.append(int(reach * length))
    entering: dict[int, list[int]] = {}
    for index, start, end in zip(order, [0, *ends], ends, strict=False):
        if end > start:
            entering.setdefault(start % length, []).append(index)
    at = [_holder(ends, point * length) for point in range(replicas)]
    starts = sorted({0, *entering})
    for start, stop in zip(starts, [*starts[1:], length], strict=True):
        for point in range(replicas):
            while ends[at[point]] <= point * length + start:
                at[point] += 1
        members = tuple(order[place] for place in at)
        yield _Run(first + start, stop - start, members, tuple(entering.get(start, ())))


def _holder(ends: Sequence[int], point: int) -> int:
    return next(place for place, end in enumerate(ends) if end > point)


# --- primaries ----------------------------------------------------------------------------------------------------


def _elect(runs: Sequence[_Run], leads: list[dict[int, int]], ideals: Sequence[Fraction]) -> None:
    """Fill in how many shards of each run each of its eligible members leads, so that all come within one of
    `ideals`.

    `leads[r]` names the eligible members of run r. They start with equal parts; what is left over goes to
    whoever lacks most; what is wrong then moves along chains of runs, from nodes with too many to nodes with
    too few.
    """
    counts = [0] * len(ideals)
    wanted = [float(ideal) for ideal in ideals]
    for run, lead in zip(runs, leads, strict=True):
        part = run.length // len(lead)
        for member in lead:
            lead[member] = part
            counts[member] += part
    for run, lead in zip(runs, leads, strict=True):
        for _ in range(run.length - sum(lead.values())):
            member = max(lead, key=lambda i: wanted[i] - counts[i])
            lead[member] += 1
            counts[member] += 1
    even_out([run.members for run in runs], leads, counts, ideals)


def even_out(
    sets: Sequence[Sequence[int]], leads: Sequence[dict[int, int]], counts: list[int], ideals: Sequence[Fraction]
) -> None:
    """Hand primaries on until each node's number of them is its ideal rounded up or down, or as near as the
    sets allow. Changes `leads` and `counts`.

    `leads[r]` says how many shards each member of `sets[r]` leads; `counts[node]` is the sum of them.
    """
    low = [math.floor(ideal) for ideal in ideals]
    high = [math.ceil(ideal) for ideal in ideals]
    sets_of: list[list[int]] = [[] for _ in ideals]
    for number, members in enumerate(sets):
        for member in members:
            sets_of[member].append(number)
    for node in range(len(ideals)):
        while counts[node] < low[node] and _shift(node, 1, low, counts, leads, sets, sets_of):
            pass
    for node in range(len(ideals)):
        while counts[node] > high[node] and _shift(node, -1, high, counts, leads, sets, sets_of):
            pass


def _shift(
    start: int,
    sign: int,
    bound: Sequence[int],
    counts: list[int],
    leads: Sequence[dict[int, int]],
    sets: Sequence[Sequence[int]],
    sets_of: Sequence[Sequence[int]],
) -> bool:
    """Move one primary to (`sign` 1) or from (-1) the node `start`, along the shortest chain of sets that ends well.

    That is at a node which has one to spare above its `bound`, or one of room below it. False where there is
    none.
    """
    came: dict[int, tuple[int, int]] = {start: (-1, -1)}  # node -> the set, and the node before it in the chain
    queue = deque([start])
    while queue:
        node = queue.popleft()
        if (counts[node] - bound[node]) * sign > 0:
            counts[start] += sign
            counts[node] -= sign
            while node != start:
                number, before = came[node]
                giver, taker = (node, before) if sign > 0 else (before, node)
                leads[number][giver] -= 1
                leads[number][taker] = leads[number].get(taker, 0) + 1
                node = before
            return True
        for number in sets_of[node]:
            for other in sets[number]:
                giver = other if sign > 0 else node
                if other not in came and leads[number].get(giver, 0) > 0:
                    came[other] = (number, node)
                    queue.append(other)
    return False
