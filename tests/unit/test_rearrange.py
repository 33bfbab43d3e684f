"""The planner against a model that tries every set for every shard."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkv.core.placement import Candidate, form, shares
from zkv.core.rearrange import Arrangement, rearrange

Sets = list[tuple[int, ...]]


def cluster(count: int, *, first: int = 1, zones: str = "", weight: float = 1.0) -> list[Candidate]:
    """server<first> … with their numbers as boots; the zones take turns."""
    numbers = range(first, first + count)
    return [Candidate(f"server{n}", n, zones[n % len(zones)] if zones else "", weight) for n in numbers]


def without(nodes: list[Candidate], *boots: int) -> list[Candidate]:
    return [node for node in nodes if node.boot not in boots]


def moved(current: Sequence[tuple[int, ...]], sets: Sequence[tuple[int, ...]]) -> int:
    """How many copies are newly made."""
    return sum(len(set(new) - set(old)) for old, new in zip(current, sets, strict=True))


def copies_of(sets: Sequence[tuple[int, ...]]) -> Counter[int]:
    return Counter(boot for members in sets for boot in members)


def leads_of(sets: Sequence[tuple[int, ...]]) -> Counter[int]:
    return Counter(members[0] for members in sets if members)


# --- the model --------------------------------------------------------------------------------------------------------


def whole_sets(nodes: list[Candidate], replicas: int) -> Sets:
    """Every set that a shard may have: as evenly over the zones as any."""

    def unevenness(members: tuple[Candidate, ...]) -> int:
        return sum(count**2 for count in Counter(node.zone for node in members).values())

    every = list(combinations(nodes, min(replicas, len(nodes))))
    best = min(map(unevenness, every))
    return [tuple(node.boot for node in members) for members in every if unevenness(members) == best]


def copy_ideals(nodes: list[Candidate], shards: int, replicas: int) -> dict[int, Fraction]:
    parts = shares(nodes, min(replicas, len(nodes)))
    return {node.boot: part * shards for node, part in zip(nodes, parts, strict=True)}


def lead_ideals(nodes: list[Candidate], shards: int) -> dict[int, Fraction]:
    total = sum(Fraction(node.weight) for node in nodes)
    return {node.boot: Fraction(node.weight) * shards / total for node in nodes}


def balanced(counts: Counter[int], ideals: dict[int, Fraction]) -> bool:
    return all(abs(counts[boot] - ideal) < 1 for boot, ideal in ideals.items())


def least_moves(nodes: list[Candidate], current: Sets, replicas: int) -> int:
    """The fewest new copies of any balanced arrangement: shard by shard, the cheapest way to each distribution."""
    boots = [node.boot for node in nodes]
    options = whole_sets(nodes, replicas)
    ideals = copy_ideals(nodes, len(current), replicas)
    most = [math.ceil(ideals[boot]) for boot in boots]
    cheapest = {(0,) * len(boots): 0}
    for old in current:
        further: dict[tuple[int, ...], int] = {}
        for counts, cost in cheapest.items():
            for members in options:
                after = tuple(count + (boot in members) for count, boot in zip(counts, boots, strict=True))
                if all(count <= bound for count, bound in zip(after, most, strict=True)):
                    new_cost = cost + len(set(members) - set(old))
                    further[after] = min(new_cost, further.get(after, new_cost))
        cheapest = further
    return min(
        cost
        for counts, cost in cheapest.items()
        if balanced(Counter(dict(zip(boots, counts, strict=True))), ideals)
    )


def leads_can_balance(nodes: list[Candidate], sets: Sets) -> bool:
    """Whether some choice of primaries within these sets is balanced."""
    boots = [node.boot for node in nodes]
    reachable = {(0,) * len(boots)}
    for members in sets:
        reachable = {
            tuple(count + (boot == leader) for count, boot in zip(counts, boots, strict=True))
            for counts in reachable
            for leader in members
        }
    ideals = lead_ideals(nodes, len(sets))
    return any(balanced(Counter(dict(zip(boots, counts, strict=True))), ideals) for counts in reachable)


def check(nodes: list[Candidate], current: Sets, replicas: int, plan: Arrangement) -> None:
    """What always holds."""
    assert len(plan.sets) == len(current)
    allowed = set(map(frozenset, whole_sets(nodes, replicas))) if len(nodes) <= 12 else None
    for members in plan.sets:
        assert len(members) == len(set(members)) == min(replicas, len(nodes))
        assert allowed is None or frozenset(members) in allowed
    copies, leads = copies_of(plan.sets), leads_of(plan.sets)
    copy_ideal = copy_ideals(nodes, len(current), replicas)
    lead_ideal = lead_ideals(nodes, len(current))
    assert balanced(copies, copy_ideal)
    assert plan.bound.copies == pytest.approx(max(abs(copies[b] - float(copy_ideal[b])) for b in copy_ideal))
    assert plan.bound.primaries == pytest.approx(max(abs(leads[b] - float(lead_ideal[b])) for b in lead_ideal))


# --- properties -------------------------------------------------------------------------------------------------------


@st.composite
def worlds(
    draw: st.DrawFn, *, zones: bool = False, weights: bool = False, shards: int = 6
) -> tuple[list[Candidate], Sets, int]:
    """Nodes, where the copies are, and the number of replicas. Nodes 6 and 7 are gone."""
    nodes = [
        Candidate(
            f"server{number}",
            number,
            draw(st.sampled_from("abcd")) if zones else "",
            draw(st.sampled_from([0.5, 1.0, 2.0, 3.7])) if weights else 1.0,
        )
        for number in range(1, draw(st.integers(1, 5)) + 1)
    ]
    members = st.lists(st.integers(1, 7), max_size=5, unique=True).map(tuple)
    current = draw(st.lists(members, min_size=1, max_size=shards))
    return draw(st.permutations(nodes)), current, draw(st.integers(1, 4))


@given(worlds())
@settings(max_examples=300, deadline=None)
def test_equal_nodes(world: tuple[list[Candidate], Sets, int]) -> None:
    nodes, current, replicas = world
    plan = rearrange(nodes, current, replicas, 4)
    check(nodes, current, replicas, plan)
    assert moved(current, plan.sets) == least_moves(nodes, current, replicas)
    assert plan.bound.primaries < 1
    assert rearrange(nodes, plan.sets, replicas, 4).sets == plan.sets


@given(worlds(zones=True, weights=True))
@settings(max_examples=300, deadline=None)
def test_zones_and_weights(world: tuple[list[Candidate], Sets, int]) -> None:
    nodes, current, replicas = world
    plan = rearrange(nodes, current, replicas, 4)
    check(nodes, current, replicas, plan)
    assert moved(current, plan.sets) == least_moves(nodes, current, replicas)
    assert (plan.bound.primaries < 1) == leads_can_balance(nodes, plan.sets)
    assert rearrange(nodes, plan.sets, replicas, 4).sets == plan.sets
