"""Placement against a checker that counts everything."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkv.core.placement.initial import Candidate, form, natural_order, successor


@st.composite
def clusters(draw: st.DrawFn, *, zones: bool = False, weights: bool = False) -> tuple[list[Candidate], int, int, int]:
    count = draw(st.integers(1, 24))
    replicas = draw(st.integers(1, min(count, 6)))
    nodes = [
        Candidate(
            f"server{number}",
            2**32 + number * 7,
            draw(st.sampled_from(["a", "b", "c", "d"])) if zones else "",
            draw(st.sampled_from([0.5, 1.0, 2.0, 3.7])) if weights else 1.0,
        )
        for number in range(1, count + 1)
    ]
    shards = draw(st.integers(1, 300))
    return draw(st.permutations(nodes)), shards, replicas, draw(st.integers(replicas - 1, 12))


def check_placed(nodes: list[Candidate], shards: int, replicas: int, placed: list[tuple[int, ...]]) -> None:
    """What always holds."""
    boots = {node.boot for node in nodes}
    assert len(placed) == shards
    for members in placed:
        assert len(members) == replicas
        assert len(set(members)) == replicas, "two copies on one node"
        assert boots.issuperset(members)


def ideal(nodes: list[Candidate], total: int) -> dict[int, Fraction]:
    weight = sum(Fraction(node.weight) for node in nodes)
    return {node.boot: Fraction(node.weight) * total / weight for node in nodes}


def peers_of(placed: list[tuple[int, ...]]) -> dict[int, set[int]]:
    peers: dict[int, set[int]] = defaultdict(set)
    for members in placed:
        peers[members[0]].update(members[1:])
    return peers


@given(clusters())
@settings(max_examples=300)
def test_equal_nodes(cluster: tuple[list[Candidate], int, int, int]) -> None:
    nodes, shards, replicas, scatter_width = cluster
    placed = form(nodes, shards, replicas, scatter_width)
    check_placed(nodes, shards, replicas, placed)
    primaries = Counter(members[0] for members in placed)
    copies = Counter(boot for members in placed for boot in members)
    for boot, share in ideal(nodes, shards).items():
        assert abs(primaries[boot] - share) < 1
        assert abs(copies[boot] - share * replicas) < 1
    if shards >= 4 * len(nodes):  # else rounding is all there is
        for peers in peers_of(placed).values():
            assert len(peers) <= max(scatter_width, replicas - 1)


@given(clusters(zones=True, weights=True))
@settings(max_examples=300)
def test_zones_and_weights(cluster: tuple[list[Candidate], int, int, int]) -> None:
    nodes, shards, replicas, scatter_width = cluster
    placed = form(nodes, shards, replicas, scatter_width)
    check_placed(nodes, shards, replicas, placed)
    zone_of = {node.boot: node.zone for node in nodes}
    zones = len(set(zone_of.values()))
    for members in placed:
        assert len({zone_of[boot] for boot in members}) == min(zones, replicas), "two in one zone without need"
    primaries = Counter(members[0] for members in placed)
    for boot, share in ideal(nodes, shards).items():
        assert abs(primaries[boot] - share) <= 2


@given(clusters(weights=True))
@settings(max_examples=300)
def test_weights(cluster: tuple[list[Candidate], int, int, int]) -> None:
    nodes, shards, replicas, scatter_width = cluster
    placed = form(nodes, shards, replicas, scatter_width)
    check_placed(nodes, shards, replicas, placed)
    primaries = Counter(members[0] for members in placed)
    copies = Counter(boot for members in placed for boot in members)
    shares = ideal(nodes, shards * replicas)
    for boot, share in ideal(nodes, shards).items():
        assert abs(primaries[boot] - share) <= 1
    if max(shares.values()) <= shards:  # else the heavy ones hold every shard and the others share the rest
        for boot, share in shares.items():
            assert abs(copies[boot] - share) <= 1


@given(clusters(zones=True, weights=True), st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_does_not_matter(
    cluster: tuple[list[Candidate], int, int, int], rng: random.Random
) -> None:
    nodes, shards, replicas, scatter_width = cluster
    shuffled = nodes[:]
    rng.shuffle(shuffled)
    assert form(nodes, shards, replicas, scatter_width) == form(shuffled, shards, replicas, scatter_width)


@pytest.mark.parametrize(
    ("count", "replicas", "sets_a_primary"),
    [(1, 1, 1), (3, 3, 1), (5, 3, 3), (6, 3, 2), (7, 3, 3), (9, 3, 2), (10, 2, 4)],
)
def test_few_sets_each_led_evenly(count: int, replicas: int, sets_a_primary: int) -> None:
    nodes = [Candidate(f"server{number}", number) for number in range(1, count + 1)]
    placed = form(nodes, 1024, replicas, 4)
    sets: dict[int, set[frozenset[int]]] = defaultdict(set)
    led: dict[frozenset[int], Counter[int]] = defaultdict(Counter)
    orders = set(placed)
    for members in placed:
        sets[members[0]].add(frozenset(members))
        led[frozenset(members)][members[0]] += 1
    assert {len(of) for of in sets.values()} == {sets_a_primary}
    assert len(orders) == sum(len(of) for of in sets.values()), "one order for each primary and set"
    for members_led in led.values():
        assert len(members_led) == replicas
        assert max(members_led.values()) - min(members_led.values()) <= 2


def test_a_known_placement() -> None:
    """Pinned: a manager of another version must not see another cluster."""
    nodes = [Candidate(f"server{number}", number) for number in (10, 2, 1)]
    assert form(nodes, 6, 2, 4) == [(1, 2), (2, 1), (1, 10), (10, 1), (2, 10), (10, 2)]


def test_names_sort_as_people_count() -> None:
    names = ["server10", "server2", "server1", "a", "10", "9", "server02", "server2b", ""]
    assert sorted(names, key=natural_order) == [
        "", "9", "10", "a", "server1", "server02", "server2", "server2b", "server10"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "shards", "replicas"),
    [
        ([], 1, 1),
        ([Candidate("a", 1)], 1, 2),
        ([Candidate("a", 1)], 0, 1),
        ([Candidate("a", 1)], 1, 0),
        ([Candidate("a", 1), Candidate("a", 2)], 1, 1),
        ([Candidate("a", 1), Candidate("b", 1)], 1, 1),
        ([Candidate("a", 1, "", 0.0)], 1, 1),
        ([Candidate("a", 1, "", float("nan"))], 1, 1),
    ],
)
def test_the_impossible_is_refused(nodes: list[Candidate], shards: int, replicas: int) -> None:
    with pytest.raises(ValueError):
        form(nodes, shards, replicas, 4)


@pytest.mark.parametrize(
    ("dead", "suspects", "load", "expected"),
    [
        (set(), set(), {}, (1, 2, 3)),
        (set(), {1}, {1: 9}, (1, 2, 3)),  # a primary that lives stays
        ({2}, set(), {1: 9}, (1, 3)),
        ({1}, set(), {}, (2, 3)),
        ({1}, set(), {2: 5, 3: 4}, (3, 2)),
        ({1}, set(), {2: 5}, (3, 2)),
        ({1}, {3}, {2: 5, 3: 4}, (2, 3)),
        ({1}, {2, 3}, {2: 5, 3: 4}, (3, 2)),
        ({1, 2}, {3}, {}, (3,)),
        ({1, 2, 3}, set(), {}, ()),
    ],
)
def test_successor(dead: set[int], suspects: set[int], load: dict[int, int], expected: tuple[int, ...]) -> None:
    assert successor((1, 2, 3), dead, suspects, load) == expected
