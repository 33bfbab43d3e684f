"""What becomes of sets, checked on random maps: the rules that hold whatever happened."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from zkv.core.manager.moves import Guests, next_step
from zkv.core.manager.reconfigure import (
    Plan,
    is_proven_lost,
    next_entry,
    reconfigure,
    reset_entry,
    subset_violation,
    wait_list,
)
from zkv.core.shardmap import DEAD, DOWN, UP, Delta, Member, Shard, ShardMap

BOOTS = range(1, 7)

sets = st.lists(st.sampled_from(BOOTS), min_size=1, max_size=4, unique=True)


class World(NamedTuple):
    """A map, who is heard, which pairs disagree, what was reported active, and filled."""

    map: ShardMap
    fresh: set[int]
    pairs: set[tuple[int, int]]
    active: list[int]
    filled: dict[int, set[int]]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    members = {}
    for boot in BOOTS:
        members[boot] = Member(boot, f"n{boot}", f"tcp://h:{boot}", "", 1.0, draw(st.sampled_from((UP, DOWN, DEAD))))
    shards = []
    filled = {}
    for number, replicas in enumerate(draw(st.lists(sets, min_size=1, max_size=8))):
        wait = [boot for boot in draw(sets) if boot not in replicas]
        learners = tuple(boot for boot in BOOTS if boot not in replicas and draw(st.booleans()))
        filled[number] = {boot for boot in learners if draw(st.booleans())}
        shards.append(Shard(draw(st.integers(1, 3)), 1, tuple(replicas), learners, tuple(wait)))
    up = [boot for boot in BOOTS if members[boot].state == UP]
    fresh = {boot for boot in up if draw(st.booleans())}
    pairs = draw(st.sets(st.tuples(st.sampled_from(BOOTS), st.sampled_from(BOOTS)), max_size=4))
    active = [draw(st.integers(0, shard.epoch)) for shard in shards]
    return World(ShardMap(1, 7, members, tuple(shards)), fresh, pairs, active, filled)


def plan(world: World) -> tuple[World, Plan]:
    """The world after one reconfiguration: what changed is neither active nor filled any more."""
    map, fresh, pairs, active, filled = world
    made = reconfigure(map, map.members, fresh, pairs, active, map.version + 1, filled)
    new = map.with_changes(Delta(map.cluster, map.version, map.version + 1, made.shards))
    left = {number: learners for number, learners in filled.items() if number not in made.shards}
    return World(new, fresh, pairs, active, left), made


def in_sync(world: World, number: int) -> set[int]:
    """Who has all of a shard's committed data (SAFETY 1)."""
    return set(world.map.shards[number].replicas) | world.filled[number]


@given(worlds())
def test_sets_change_by_one_epoch_to_members_that_were_in_sync(world: World) -> None:
    old = world.map
    (new, *_), made = plan(world)
    for number, shard in enumerate(new.shards):
        assert subset_violation(old.shards[number], shard) is None
        if number in made.shards:
            before = old.shards[number]
            assert (shard.epoch, shard.changed) == (before.epoch + 1, new.version)
            assert (shard.born, shard.withheld) == (before.born, before.withheld)
            assert all(old.members[boot].state == UP for boot in (*shard.replicas, *shard.learners))
            assert set(shard.replicas) <= in_sync(world, number)


@given(worlds())
def test_ready_learners_join_and_the_others_stay_learners(world: World) -> None:
    old = world.map
    _, made = plan(world)
    for number, shard in made.shards.items():
        before = old.shards[number]
        apart = {backup for primary, backup in world.pairs if primary == before.primary}
        for boot in before.learners:
            if old.members[boot].state == UP and boot not in apart:
                assert boot in (shard.replicas if boot in world.filled[number] else shard.learners)
        assert set(shard.learners) <= set(before.learners)


@given(worlds())
def test_who_may_hold_a_lease_is_waited_for(world: World) -> None:
    old = world.map
    _, made = plan(world)
    for number, shard in made.shards.items():
        before = old.shards[number]
        suspects = set(before.replicas) | (set(before.wait) if world.active[number] != before.epoch else set())
        alive = {boot for boot in suspects if old.members[boot].state != DEAD}
        assert set(shard.wait) == alive - set(shard.replicas)


@given(worlds())
def test_a_set_keeps_a_member_that_is_heard(world: World) -> None:
    old = world.map
    _, made = plan(world)
    for number, shard in made.shards.items():
        before = old.shards[number]
        if world.fresh & set(before.replicas):
            assert world.fresh & set(shard.replicas)
            assert shard.primary in world.fresh or shard.primary == before.primary
        elif not world.fresh & set(shard.replicas):
            gone = set(before.replicas) - set(shard.replicas)
            assert all(old.members[boot].state == DEAD for boot in gone)


@given(worlds())
def test_asked_again_nothing_changes(world: World) -> None:
    quiet = world._replace(pairs=set(), active=[0] * len(world.map.shards))
    once, _ = plan(quiet)
    assert plan(once)[1].shards == {}
    # With pairs that disagree it may take one round a member, as primaries change, and then it ends.
    again = once._replace(pairs=world.pairs)
    for _ in BOOTS:
        again, made = plan(again)
    assert not made.shards


@given(worlds())
def test_the_reluctant_lead_only_where_nobody_else_can(world: World) -> None:
    map, fresh, pairs, active, filled = world
    everyone = set(BOOTS)
    made = reconfigure(map, map.members, everyone, pairs, active, map.version + 1, filled, {1, 2, 3})
    for number, shard in made.shards.items():
        if shard.primary in (1, 2, 3) and shard.primary != map.shards[number].primary:
            assert set(shard.replicas) <= {1, 2, 3}
    assert fresh <= everyone


@given(worlds(), st.lists(st.lists(st.sampled_from(BOOTS), max_size=4, unique=True), min_size=8, max_size=8),
       st.integers(1, 4), st.sets(st.sampled_from(BOOTS)), st.sets(st.sampled_from(BOOTS)))  # fmt: skip
def test_steps_towards_a_target_keep_the_rules_and_the_copies(
    world: World, targets: list[list[int]], wanted: int, staying: set[int], leaving: set[int]
) -> None:
    guests = Guests(frozenset(staying), frozenset(leaving))
    for number, shard in enumerate(world.map.shards):
        target = tuple(boot for boot in targets[number] if boot not in staying | leaving)
        filled = world.filled[number]
        step = next_step(shard, target, wanted, filled, guests)
        if step is None:
            continue
        new = next_entry(shard, 8, world.map.members, shard.epoch, step.replicas, step.learners)
        assert subset_violation(shard, new) is None
        assert set(new.replicas) <= in_sync(world, number)
        assert len(new.replicas) >= min(len(shard.replicas), wanted), "no voluntary step costs a copy"
        assert (new.replicas, new.learners) != (shard.replicas, shard.learners)
        wanted_fills = set(shard.learners) & set(target)
        assert wanted_fills <= filled, "a fill that is wanted was disturbed"


@given(worlds(), st.lists(st.sampled_from(BOOTS), min_size=1, max_size=4, unique=True))
def test_steps_lead_to_the_target_and_end_there(world: World, target: list[int]) -> None:
    for shard in world.map.shards:
        for _ in range(6):
            filled = frozenset(shard.learners)
            step = next_step(shard, tuple(target), len(target), filled, Guests())
            if step is None:
                break
            shard = next_entry(shard, 8, world.map.members, shard.epoch, step.replicas, step.learners)
        assert step is None, "it does not end"
        assert (set(shard.replicas), shard.primary, shard.learners) == (set(target), target[0], ())


@given(worlds())
def test_only_what_nobody_can_bring_back_is_created_anew(world: World) -> None:
    map = world.map
    for number, shard in enumerate(map.shards):
        dead = all(map.members[boot].state == DEAD for boot in in_sync(world, number))
        assert is_proven_lost(shard, map.members, world.filled[number]) == dead
        if dead:
            new = reset_entry(shard, 8, map.members, (6, 5))
            assert subset_violation(shard, new) is None
            assert new.born == new.epoch == shard.epoch + 1
            assert new.wait == wait_list(shard, (6, 5), map.members, activated=False)
            assert set(new.wait).isdisjoint(shard.replicas)


def test_steps_that_break_the_rules_are_named() -> None:
    old = Shard(4, 1, (1, 2), (3,))
    assert subset_violation(old, Shard(5, 2, (1, 2, 3))) is None
    assert subset_violation(old, Shard(5, 2, (4,), born=5)) is None
    for wrong, reason in (
        (Shard(5, 2, (1, 4)), "not in sync"),
        (Shard(3, 2, (1, 2)), "went back"),
        (Shard(4, 2, (1, 2)), "without a new epoch"),
        (Shard(5, 2, (1, 2), (2,)), "learn what it holds"),
        (Shard(5, 2, (1, 2), (3,), withheld=True), "withheld"),
        (Shard(5, 2, (4,), born=4), "born at 4"),
        (Shard(5, 2, (1,), (3,), born=5), "born at 5"),
    ):
        assert reason in (subset_violation(old, wrong) or "")
