"""What a node remembers of its last writes, beside a model that remembers everything: nothing is missing above a floor,
and the floor is no higher than it must be."""

from __future__ import annotations

import random

import pytest

from zkv.core import wire
from zkv.core.node.history import ROW_BYTES, SEGMENTS, SYSTEM, Event, History
from zkv.core.node.tails import Part

SHARDS = 3


class Modelled:
    """A history, and beside it all events of each shard's present copy."""

    def __init__(self, limit_bytes: int) -> None:
        self.history = History(limit_bytes)
        self.positions = dict.fromkeys(range(SHARDS), 0)
        self.events: dict[int, list[Event]] = {shard: [] for shard in range(SHARDS)}
        self.begins = dict.fromkeys(range(SHARDS), 0)
        """What the present copy began at."""
        self.version = 0
        self.now_ms = 0.0

    def add(self, shards: list[int], keys: list[str], values: list[str | None], kind: int | None = None) -> None:
        versions = list(range(self.version + 1, self.version + 1 + len(shards)))
        self.version += len(shards)
        expiries = [0 if value is None else 7 * version for value, version in zip(values, versions, strict=True)]
        client, batch = (5, 1) if kind is None else (SYSTEM, kind)
        part = Part(client, batch, 0, None, shards, versions, keys, values, None, expiries if any(expiries) else None)
        self.history.before(self.positions)
        self.positions.update(zip(shards, versions, strict=True))
        self.history.add(part, sum(len(value or "") for value in values))
        for shard, version, key, value, until in zip(shards, versions, keys, values, expiries, strict=True):
            what = wire.PUT_EVENT if value is not None else wire.DELETE_EVENT if kind is None else kind
            self.events[shard].append(Event(version, what, key, value, until))

    def begin(self, shard: int, *, emptied: bool) -> None:
        """The copy of a shard is cleared; or, after that, is told where its history begins."""
        self.events[shard] = []
        self.version += 1
        self.begins[shard] = self.version
        self.positions[shard] = 0 if emptied else self.version
        self.history.begin(shard, self.version)

    def floor(self, shard: int) -> int:
        return self.history.floor(shard)

    def check(self, shard: int, token: int) -> None:
        """A watch that goes on after `token`."""
        history = self.history
        history.track({shard: token}, self.now_ms)
        track = history.tracks[shard]
        if token < track.floor:
            assert token < history.floor(shard), "it is said to be lost, and is not"
            return
        expected = [event for event in self.events[shard] if event.version > token]
        assert list(track.after(token)) == expected


def write_something(world: Modelled, rng: random.Random) -> None:
    count = rng.randrange(1, 6)
    shards = [rng.randrange(SHARDS) for _ in range(count)]
    keys = [f"k{rng.randrange(5)}" for _ in range(count)]
    if rng.random() < 0.2:
        world.add(shards, keys, [None] * count, rng.choice((wire.EXPIRE_EVENT, wire.EVICT_EVENT)))
    else:
        world.add(shards, keys, [rng.choice((None, "", "v" * rng.randrange(300))) for _ in range(count)])


@pytest.mark.parametrize("limit_bytes", [1, 3000, 20_000, 10**9])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_nothing_is_missing_above_the_floor(seed: int, limit_bytes: int) -> None:
    rng = random.Random(seed)
    world = Modelled(limit_bytes)
    for _ in range(400):
        world.now_ms += 1
        floors = {shard: world.floor(shard) for shard in range(SHARDS)}
        begun = None
        draw = rng.random()
        if draw < 0.6:
            write_something(world, rng)
        elif draw < 0.64:
            begun = rng.randrange(SHARDS)
            world.begin(begun, emptied=rng.random() < 0.5)
        elif draw < 0.7:
            world.history.untrack(world.now_ms - rng.randrange(30))
        else:
            shard = rng.randrange(SHARDS)
            known = [event.version for event in world.events[shard]]
            token = rng.choice((world.floor(shard), world.version, rng.randrange(world.version + 1), *known[-3:]))
            world.check(shard, token)
        for shard in range(SHARDS):
            assert shard == begun or world.floor(shard) >= floors[shard], "what was gone cannot come back"
            assert world.floor(shard) >= world.begins[shard], "of a former copy nothing counts"
    for shard in range(SHARDS):
        world.check(shard, world.floor(shard))


@pytest.mark.parametrize("tracked", [False, True])
def test_what_is_remembered_is_bounded_and_not_much_less_than_allowed(tracked: bool) -> None:
    limit_bytes = 100_000
    world = Modelled(limit_bytes)
    if tracked:
        world.check(0, 0)
    for number in range(2000):
        world.add([0], [f"k{number}"], ["v" * 100])
    world.check(0, world.floor(0))
    kept = sum(event.version > world.floor(0) for event in world.events[0])
    allowed = limit_bytes // (ROW_BYTES + 100)
    assert (1 - 1 / SEGMENTS) * allowed - SEGMENTS <= kept <= allowed + SEGMENTS
    assert len(world.history.tracks[0].events) <= kept


def test_a_quiet_shard_loses_nothing_to_the_noise_of_others() -> None:
    """Its last event is long gone; but a token at it misses nothing."""
    world = Modelled(2000)
    world.add([0], ["k"], ["v"])
    for _ in range(500):
        world.add([1], ["noise"], ["v" * 100])
    assert world.floor(0) == 1
    world.check(0, 1)
    world.check(0, 0)
    world.add([0], ["k"], ["again"])
    assert [event.value for event in world.history.tracks[0].after(1)] == ["again"]


def test_a_track_that_began_late_reaches_back_when_somebody_asks_for_more() -> None:
    world = Modelled(10**6)
    for number in range(100):
        world.add([0], ["k"], [str(number)])
    world.check(0, 100)
    assert world.history.tracks[0].events == []
    world.check(0, 37)
    world.check(0, 0)
    world.check(0, 100)
    assert len(world.history.tracks[0].events) == 100


def test_who_waits_is_told_that_a_copy_was_cleared() -> None:
    world = Modelled(10**6)
    world.add([0], ["k"], ["v"])
    world.check(0, 0)
    world.history.touched.clear()
    world.begin(0, emptied=True)
    assert 0 in world.history.touched
    assert 0 not in world.history.tracks
    world.check(0, 0)
    assert world.floor(0) == 2


def test_shards_that_nobody_asks_for_are_tracked_no_more() -> None:
    world = Modelled(10**6)
    for shard in range(SHARDS):
        world.now_ms = 10.0 * shard
        world.check(shard, 0)
    world.history.untrack(15.0)
    assert set(world.history.tracks) == {2}
    world.add([0, 1, 2], ["a", "b", "c"], ["v"] * 3)
    world.check(0, 0)


# --- what a learner is told of the past ------------------------------------------------------------------------------


def told(world: Modelled, learner: History, shards: list[int], piece: int) -> None:
    """The past of `world` arrives at a learner whose copies begin at the present positions."""
    floors = {shard: world.history.floor(shard) for shard in shards}
    rows = [row for some, _ in world.history.past(shards) for row in some]
    for start in range(0, len(rows) + 1, piece):
        for shard in shards:
            learner.inherit(shard, floors[shard], [event for at, event in rows[start : start + piece] if at == shard])


def check_learner(world: Modelled, learner: History, rng: random.Random) -> None:
    """Whatever the learner does not call gone it knows completely."""
    for shard in range(SHARDS):
        known = [event.version for event in world.events[shard]]
        for token in {0, world.floor(shard), world.version, *rng.choices(known or [0], k=5)}:
            learner.track({shard: token}, 0.0)
            if token >= learner.tracks[shard].floor:
                expected = [event for event in world.events[shard] if event.version > token]
                assert list(learner.tracks[shard].after(token)) == expected


@pytest.mark.parametrize("limit_bytes", [1, 3000, 20_000, 10**9])
@pytest.mark.parametrize("seed", range(8))
def test_what_a_learner_inherits_has_no_gap(seed: int, limit_bytes: int) -> None:
    rng = random.Random(seed)
    world = Modelled(rng.choice((3000, 20_000, 10**9)))
    learner = History(limit_bytes)
    positions = dict.fromkeys(range(SHARDS), 0)
    for _ in range(3):
        for _ in range(60):
            write_something(world, rng)
        for shard in range(SHARDS):
            learner.begin(shard, world.positions[shard])
            positions[shard] = world.positions[shard]
        told(world, learner, list(range(SHARDS)), rng.choice((1, 3, 100)))
        check_learner(world, learner, rng)
        for _ in range(rng.randrange(30)):  # by the subscription
            write_something(world, rng)
            part = next(iter(world.history.since(world.history.count - 1)))
            learner.before(positions)
            positions.update(zip(part.shards, part.versions, strict=True))
            learner.add(part, 0)
        check_learner(world, learner, rng)


def test_a_learner_with_room_knows_all_that_is_known() -> None:
    rng = random.Random(1)
    world = Modelled(10**9)
    for _ in range(100):
        write_something(world, rng)
    learner = History(10**9)
    for shard in range(SHARDS):
        learner.begin(shard, world.positions[shard])
    told(world, learner, [0, 2], 7)
    assert [learner.floor(shard) for shard in range(SHARDS)] == [0, world.positions[1], 0]
    check_learner(world, learner, rng)


def test_a_past_that_ends_above_the_beginning_takes_nothing_away() -> None:
    """Whoever fills has forgotten what was before; the learner knows all since it subscribed."""
    learner = History(10**9)
    learner.begin(0, 50)
    learner.inherit(0, 70, [])
    assert learner.floor(0) == 50
