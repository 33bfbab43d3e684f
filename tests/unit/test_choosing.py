"""Which replica a read goes to, hedges, and the budget of retries."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from zkv.core.client import choosing, retrying
from zkv.core.client.batches import Batch, Try
from zkv.core.client.choosing import PROBE_EVERY, Chooser
from zkv.core.client.links import Link
from zkv.core.client.retrying import BACKOFF_MAX_MS, RETRY_BURST, RetryBudget, pause_ms

A, B, C = 1, 2, 3


def link(latency_ms: float | None, under_way: int = 0, *, silent: bool = False) -> Link:
    made = Link()
    made.offset_ms = 0.0
    made.latency_ms = latency_ms
    made.pinged_ms = 0.0 if silent else None
    if under_way:
        batch = Batch(1, 0, range(under_way), [0] * under_way, ["k"] * under_way, None, None)
        made.tries[1] = Try(batch, 1, range(under_way), 1)
    return made


def choices(links: dict[int, Link], number: int, *, sticky: int | None = None, turns: int = 1) -> Counter[int]:
    chooser = Chooser(random.Random(1), sticky=sticky)
    chosen: Counter[int] = Counter()
    for _ in range(turns):
        chooser.begin()
        for _ in range(number):
            chosen[chooser.choose(5, (A, B, C), links)] += 1
    return chosen


def test_equal_replicas_get_equal_shares() -> None:
    chosen = choices({boot: link(1.0) for boot in (A, B, C)}, 300)
    assert set(chosen.values()) == {100}


def test_a_slow_replica_gets_less() -> None:
    chosen = choices({A: link(1.0), B: link(1.0), C: link(10.0)}, 210)
    assert chosen[C] == pytest.approx(10, abs=2)
    assert chosen[A] == pytest.approx(100, abs=3)


def test_one_with_much_under_way_gets_less() -> None:
    chosen = choices({A: link(1.0, 50), B: link(1.0), C: link(1.0)}, 100)
    assert chosen[A] == 0


def test_one_that_was_never_asked_is_tried() -> None:
    assert choices({A: link(1.0), B: link(None), C: link(1.0)}, 1) == {B: 1}


def test_one_that_gives_no_sign_of_life_is_not_asked_unless_all_do() -> None:
    assert choices({A: link(1.0, silent=True), B: link(50.0), C: link(50.0)}, 10)[A] == 0
    assert choices({boot: link(1.0, silent=True) for boot in (A, B, C)}, 10).total() == 10


def test_a_slow_one_is_probed_now_and_then() -> None:
    chosen = choices({A: link(1.0), B: link(1.0), C: link(1000.0)}, 1, turns=3 * PROBE_EVERY + 10)
    assert chosen[C] == 3


def test_sticky_reads_stay_where_they_are_while_that_one_answers() -> None:
    links = {A: link(1.0), B: link(1.0), C: link(1.0)}
    ((home, count),) = choices(links, 50, sticky=7).items()
    assert count == 50
    links[home].pinged_ms = 0.0
    assert choices(links, 50, sticky=7)[home] == 0


def test_latency_rises_at_once_and_falls_slowly() -> None:
    node = Link()
    node.hear_latency(1.0)
    node.hear_latency(20.0)
    assert node.latency_ms == 20.0
    node.hear_latency(1.0)
    assert node.latency_ms == pytest.approx(20 - 19 * 0.2)


def test_hedges_are_a_small_part_of_all_reads() -> None:
    chooser = Chooser(random.Random(1), sticky=None)
    hedges = 0
    for _ in range(10_000):
        chooser.asked(1)
        hedges += chooser.may_hedge(1)
    assert hedges <= 10_000 * choosing.HEDGE_SHARE + 1


def test_hedges_are_not_saved_up_for_ever() -> None:
    chooser = Chooser(random.Random(1), sticky=None)
    chooser.asked(10**6)
    assert sum(chooser.may_hedge(1) for _ in range(1000)) == choosing.HEDGE_BURST


def test_late_is_relative_to_the_usual() -> None:
    chooser = Chooser(random.Random(1), sticky=None)
    assert chooser.late_ms == float("inf"), "nothing is usual yet"
    for _ in range(1000):
        chooser.heard(4.0)
    assert chooser.late_ms == pytest.approx(12.0, rel=0.1)


def test_retries_are_a_part_of_first_tries_beyond_a_few() -> None:
    budget = RetryBudget()
    retries = 0
    for _ in range(10_000):
        budget.first_try()
        retries += budget.take(0.0)
    assert retries <= RETRY_BURST + 10_000 * retrying.RETRY_SHARE


def test_a_spent_budget_refills_with_time() -> None:
    budget = RetryBudget()
    while budget.take(0.0):
        pass
    assert not budget.take(budget.wait_ms / 2)
    assert budget.take(2 * budget.wait_ms + 1)


def test_pauses_grow_to_a_limit() -> None:
    rng = random.Random(1)
    assert all(pause_ms(attempt, rng) <= BACKOFF_MAX_MS for attempt in range(1, 100))
    assert max(pause_ms(1, rng) for _ in range(100)) < min(pause_ms(5, rng) for _ in range(100))
