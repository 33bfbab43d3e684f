"""The timing wheel, beside a model that is a dict (rule 28): whatever comes, it knows what is due and holds no more."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkv.core.node import expiry
from zkv.core.node.expiry import Expiry, Key

NOW_MS = 1_700_000_000_000
MOST = 10**9
SLOT_MS = 8


class Modelled:
    """A wheel, and beside it what it should hold."""

    def __init__(self) -> None:
        self.until: dict[tuple[int, Key], int] = {}
        """What has an expiry."""
        self.parked: set[tuple[int, Key]] = set()
        self.wheel = Expiry(lambda shard, key: self.until.get((shard, key), 0))
        self.now_ms = 0

    def add(self, shard: int, key: Key, expires_ms: int) -> None:
        self.remove(shard, key)
        self.until[shard, key] = expires_ms
        self.wheel.add(shard, key, expires_ms)

    def remove(self, shard: int, key: Key) -> None:
        expires_ms = self.until.pop((shard, key), None)
        self.parked.discard((shard, key))
        if expires_ms is not None:
            self.wheel.remove(shard, key, expires_ms)

    def due(self, now_ms: int) -> set[tuple[int, Key]]:
        return {name for name, until_ms in self.until.items() if until_ms <= now_ms and name not in self.parked}

    def take(self, now_ms: int, most: int = MOST, *, exactly: bool = False) -> list[tuple[int, Key]]:
        """What is handed out is due, once; the rest is said to be left, and only the newest without saying more."""
        self.now_ms = now_ms
        due = self.due(now_ms)
        found = self.wheel.take(now_ms, most, exactly=exactly)
        assert len(found) == len(set(found)) <= most
        assert set(found) <= due
        if len(found) < len(due):
            assert self.wheel.is_behind(now_ms), "something was left, and nobody is told"
            late = max(now_ms - self.until[name] for name in due - set(found))
            assert self.wheel.is_over(now_ms) or len(found) == most or (not exactly and late < SLOT_MS)
        assert self.wheel.count == len(self.until)
        return found

    def reclaim(self, now_ms: int, most: int = MOST) -> list[tuple[int, Key]]:
        """Take and delete, until nothing is left."""
        gone = []
        for _ in range(100_000):
            found = self.take(now_ms, most, exactly=True)
            for name in found:
                self.remove(*name)
            gone += found
            if not self.wheel.is_over(now_ms) and len(found) < most:
                return gone
        raise AssertionError("it never comes to an end")

    def park_due(self, now_ms: int) -> None:
        while True:
            for shard, key in self.take(now_ms, exactly=True):
                self.wheel.park(shard, key)
                self.parked.add((shard, key))
            if not self.wheel.is_over(now_ms):
                return

    def unpark(self, shard: int) -> None:
        mine = {name for name in self.parked if name[0] == shard}
        self.wheel.unpark(shard)
        self.parked -= mine
        assert not mine or self.wheel.is_behind(self.now_ms)

    def check(self) -> None:
        soonest = list(self.wheel.soonest())
        assert len(soonest) == len(set(soonest))
        assert set(soonest) == set(self.until) - self.parked
        assert self.wheel.count == len(self.until)
        first_ms = min((until for name, until in self.until.items() if name not in self.parked), default=float("inf"))
        assert self.wheel.next_ms() <= first_ms + SLOT_MS - 1, "it would be woken up too late"


SPANS = st.sampled_from((0, 1, 2, 7, 8, 9, 4095, 262_143, 262_144, 262_145, 2**30, 2**32 - 1, 2**32, 2**40, 2**53))
STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 1), st.sampled_from("abcdef"), SPANS),
    st.tuples(st.just("remove"), st.integers(0, 1), st.sampled_from("abcdef"), st.just(0)),
    st.tuples(st.sampled_from(("reclaim", "park", "pass", "jump back")), st.just(0), st.just(""), SPANS),
    st.tuples(st.just("unpark"), st.integers(0, 1), st.just(""), st.just(0)),
)


@given(st.lists(STEPS, max_size=40), st.booleans(), st.integers(1, 3))
def test_it_holds_what_it_was_given(steps: list[tuple[str, int, str, int]], begun: bool, most: int) -> None:
    world = Modelled()
    now_ms = NOW_MS
    if begun:
        world.take(now_ms)
    for verb, shard, key, span in steps:
        # A key belongs to one shard.
        name = f"{shard}{key}"
        if verb == "add":
            world.add(shard, name, now_ms + span)
        elif verb == "remove":
            world.remove(shard, name)
        elif verb == "unpark":
            world.unpark(shard)
        elif verb == "jump back":
            now_ms = max(0, now_ms - span)
        else:
            now_ms += span
            if verb == "reclaim":
                world.reclaim(now_ms, most)
            elif verb == "park":
                world.park_due(now_ms)
        world.check()
    now_ms += 2**54
    for shard in (0, 1):
        world.unpark(shard)
    world.reclaim(now_ms, most)
    assert world.until == {}
    world.check()


@pytest.mark.parametrize("seed", range(8))
def test_many_entries_over_all_spans_go_when_they_are_due(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "MOVED_AT_ONCE", 16)
    rng = random.Random(seed)
    world = Modelled()
    now_ms = NOW_MS
    world.take(now_ms)
    for turn in range(600):
        for number in range(rng.randrange(20)):
            span = int(2 ** rng.uniform(0, rng.choice((4, 10, 16, 26))))
            world.add(number % 3, f"k{number % 3} {rng.randrange(400)}", now_ms + span)
        now_ms += int(2 ** rng.uniform(0, rng.choice((3, 3, 3, 9, 18))))
        gone = world.reclaim(now_ms, 50)
        assert not world.due(now_ms)
        assert gone or turn >= 0
    world.check()


def test_what_is_due_is_handed_out_oldest_first() -> None:
    world = Modelled()
    world.take(NOW_MS)
    order = list(range(200))
    random.Random(1).shuffle(order)
    for number in order:
        world.add(0, f"k{number}", NOW_MS + 1 + number * (SLOT_MS + 1))
    now_ms, gone = NOW_MS, []
    while world.until:
        now_ms += 50
        gone += world.reclaim(now_ms, 3)
    assert gone == [(0, f"k{number}") for number in range(200)]


def test_one_turn_does_a_bounded_amount_of_work_whatever_has_piled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause everything that expired meanwhile is due at once."""
    looked: list[Key] = []
    monkeypatch.setattr(expiry, "MOVED_AT_ONCE", 100)
    until = {f"k{number}": NOW_MS + 300_000 + number for number in range(20_000)}

    def expiry_of(_: int, key: Key) -> int:
        looked.append(key)
        return until[str(key)]

    wheel = Expiry(expiry_of)
    wheel.take(NOW_MS, 10)
    for key, expires_ms in until.items():
        wheel.add(0, key, expires_ms)
    taken = 0
    for _ in range(20_000):
        looked.clear()
        taken += len(wheel.take(NOW_MS + 10**6, 50))
        assert len(looked) <= 100 * expiry.LEVELS
        if not wheel.is_over(NOW_MS + 10**6):
            break
    assert taken == 20_000


def test_what_is_missing_is_not_moved() -> None:
    """A client that names a wrong shard for a key has the key in two of them, which the wheel does not tell apart."""
    until: dict[tuple[int, Key], int] = {}
    wheel = Expiry(lambda shard, key: until.get((shard, key), 0))
    wheel.take(NOW_MS, MOST)
    for shard, span in ((0, 5000), (1, 5001)):
        until[shard, "k"] = NOW_MS + span
        wheel.add(shard, "k", NOW_MS + span)
    for shard in (0, 1):
        wheel.remove(shard, "k", until.pop((shard, "k")))
    wheel.add(0, "j", NOW_MS + 5000)  # never in the table
    found = []
    for span in (1000, 4000, 5000, 10**6):
        found += wheel.take(NOW_MS + span, MOST)
    assert ("k") not in [key for _, key in found]
    assert wheel.count == 1


def test_an_empty_wheel_sleeps() -> None:
    wheel = Expiry(lambda shard, key: 0)
    assert wheel.next_ms() == float("inf")
    wheel.add(0, "k", NOW_MS + 100)
    assert wheel.next_ms() <= NOW_MS + 100
    wheel.remove(0, "k", NOW_MS + 100)
    wheel.take(NOW_MS + 2**25, MOST)
    assert wheel.next_ms() == float("inf")
    assert wheel.count == 0
