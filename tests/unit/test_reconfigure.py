"""What becomes of sets, checked on random maps: the rules that hold whatever happened."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zkv.core.reconfigure import Plan, reconfigure, subset_violation
from zkv.core.shardmap import DEAD, DOWN, UP, Delta, Member, Shard, ShardMap

BOOTS = range(1, 7)

sets = st.lists(st.sampled_from(BOOTS), min_size=1, max_size=4, unique=True)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[ShardMap, set[int], set[tuple[int, int]], list[int]]:
    """A map, who is heard, which pairs disagree, and what was reported active."""
    members = {}
    for boot in BOOTS:
        members[boot] = Member(boot, f"n{boot}", f"tcp://h:{boot}", "", 1.0, draw(st.sampled_from((UP, DOWN, DEAD))))
    shards = []
    for replicas in draw(st.lists(sets, min_size=1, max_size=8)):
        wait = [boot for boot in draw(sets) if boot not in replicas]
        shards.append(Shard(draw(st.integers(1, 3)), 1, tuple(replicas), (), tuple(wait)))
    up = [boot for boot in BOOTS if members[boot].state == UP]
    fresh = {boot for boot in up if draw(st.booleans())}
    pairs = draw(st.sets(st.tuples(st.sampled_from(BOOTS), st.sampled_from(BOOTS)), max_size=4))
    active = [draw(st.integers(0, shard.epoch)) for shard in shards]
    return ShardMap(1, 7, members, tuple(shards)), fresh, pairs, active


def plan(world: tuple[ShardMap, set[int], set[tuple[int, int]], list[int]]) -> tuple[ShardMap, Plan]:
    map, fresh, pairs, active = world
    made = reconfigure(map, map.members, fresh, pairs, active, map.version + 1)
    return map.with_changes(Delta(map.cluster, map.version, map.version + 1, made.shards)), made


@given(worlds())
def test_sets_shrink_by_one_epoch_to_members_that_were_in_sync(world: tuple) -> None:  # type: ignore[type-arg]
    old = world[0]
    new, made = plan(world)
    for number, shard in enumerate(new.shards):
        assert subset_violation(old.shards[number], shard) is None
        if number in made.shards:
            assert (shard.epoch, shard.changed) == (old.shards[number].epoch + 1, new.version)
            assert all(old.members[boot].state == UP for boot in shard.replicas)
            assert set(shard.replicas) < set(old.shards[number].replicas)


@given(worlds())
def test_who_may_hold_a_lease_is_waited_for(world: tuple) -> None:  # type: ignore[type-arg]
    old, _, _, active = world
    _, made = plan(world)
    for number, shard in made.shards.items():
        before = old.shards[number]
        suspects = set(before.replicas) | (set(before.wait) if active[number] != before.epoch else set())
        alive = {boot for boot in suspects if old.members[boot].state != DEAD}
        assert set(shard.wait) == alive - set(shard.replicas)


@given(worlds())
def test_a_set_keeps_a_member_that_is_heard(world: tuple) -> None:  # type: ignore[type-arg]
    old, fresh, _, _ = world
    _, made = plan(world)
    for number, shard in made.shards.items():
        if fresh & set(old.shards[number].replicas):
            assert fresh & set(shard.replicas)
            assert shard.primary in fresh or shard.primary == old.shards[number].primary
        else:
            gone = set(old.shards[number].replicas) - set(shard.replicas)
            assert all(old.members[boot].state == DEAD for boot in gone)


@given(worlds())
def test_asked_again_nothing_changes(world: tuple) -> None:  # type: ignore[type-arg]
    old, fresh, pairs, _ = world
    new, _ = plan((old, fresh, set(), [0] * len(old.shards)))
    assert plan((new, fresh, set(), [0] * len(old.shards)))[1].shards == {}
    # With pairs that disagree it may take one round a member, as primaries change, and then it ends.
    for _ in BOOTS:
        new, made = plan((new, fresh, pairs, [0] * len(old.shards)))
    assert not made.shards
