"""Cluster time at a node (rule 28): within the bounds of every answer, slow to move, and going on by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkv.core.node.clock import ASK_MS, STRAY_MS, Clock

DRIFT = 0.1
TRUE_MS = 1_700_000_000_000
"""Cluster time less our own clock's, in most tests."""


def exchange(clock: Clock, sent_ms: float, made_ms: float, came_ms: float, offset_ms: int = TRUE_MS) -> None:
    """A question, and an answer that the manager made when our clock showed `made_ms`."""
    clock.asked(sent_ms)
    clock.learn(int(made_ms + offset_ms), came_ms)


def test_nothing_is_known_before_an_answer() -> None:
    clock = Clock(DRIFT)
    assert clock.at(500.0) == 0
    clock.learn(TRUE_MS, 500.0)
    assert clock.at(500.0) == 0, "nobody had asked"
    clock.asked(600.0)
    clock.learn(0, 610.0)
    assert clock.at(610.0) == 0, "the manager does not know it either"


def test_the_first_answer_is_never_taken_for_too_late_a_time() -> None:
    clock = Clock(DRIFT)
    for sent_ms in (0.0, 200.0, 4000.0):
        clock.asked(sent_ms)  # the manager is not there yet
    clock.learn(TRUE_MS + 5000, 5001.0)
    assert TRUE_MS + 5000 - 1 <= clock.at(5000.0) <= TRUE_MS + 5000


def test_the_manager_is_asked_once_a_second() -> None:
    clock = Clock(DRIFT)
    assert clock.is_due(0.0)
    exchange(clock, 0.0, 1.0, 2.0)
    assert not clock.is_due(ASK_MS - 1)
    assert clock.is_due(ASK_MS)


def test_time_goes_on_without_the_manager() -> None:
    clock = Clock(DRIFT)
    exchange(clock, 100.0, 100.0, 100.0)
    day_ms = 86_400_000
    for number in range(100):
        clock.asked(200.0 + number * ASK_MS)
    assert clock.at(100.0 + day_ms) == TRUE_MS + 100 + day_ms
    clock.learn(0, 100.0 + day_ms)
    assert clock.at(100.0 + day_ms) == TRUE_MS + 100 + day_ms, "a restarted one that does not know changes nothing"


@pytest.mark.parametrize("wrong_ms", [-(10**9), -3000, 3000, 10**9])
def test_a_manager_that_is_wrong_all_of_a_sudden_moves_it_by_little(wrong_ms: int) -> None:
    clock = Clock(DRIFT)
    exchange(clock, 0.0, 0.0, 0.0)
    exchange(clock, 1000.0, 1000.0, 1000.0, TRUE_MS + wrong_ms)
    moved_ms = clock.at(1000.0) - (TRUE_MS + 1000)
    assert moved_ms == (100 if wrong_ms > 0 else -100)
    exchange(clock, 2000.0, 2000.0, 2000.0)
    assert clock.at(2000.0) == TRUE_MS + 2000, "and back"


def test_a_slow_exchange_says_little_and_changes_nothing() -> None:
    clock = Clock(DRIFT)
    exchange(clock, 0.0, 0.0, 0.0)
    for number in range(1, 50):
        at_ms = number * 10_000.0
        exchange(clock, at_ms, at_ms + (number % 3) * 400.0, at_ms + 900.0)
        assert clock.at(at_ms + 900.0) == TRUE_MS + at_ms + 900


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), min_size=1, max_size=30), st.floats(-0.04, 0.04))
def test_it_is_never_far_from_the_bounds_of_an_answer(ways: list[tuple[int, int]], drift: float) -> None:
    """Our clock runs `drift` too fast; each way takes as long as it takes."""
    clock = Clock(DRIFT)
    real_ms = 0.0
    for there_ms, back_ms in ways:
        sent_ms, made_ms = real_ms, real_ms + there_ms
        real_ms = made_ms + back_ms
        clock.asked(sent_ms * (1 + drift))
        clock.learn(int(TRUE_MS + made_ms), real_ms * (1 + drift))
        # Too slow by what the answer took, too fast by what the question took; and what our clock has gone wrong.
        slack_ms = 3 + 3000 + 0.05 * 6000
        assert TRUE_MS + real_ms - slack_ms <= clock.at(real_ms * (1 + drift)) <= TRUE_MS + real_ms + slack_ms
        real_ms += 1000.0
    for _ in range(400):  # quick exchanges, at last
        real_ms += 1000.0
        clock.asked(real_ms * (1 + drift))
        clock.learn(int(TRUE_MS + real_ms), (real_ms + 1) * (1 + drift))
    assert abs(clock.at((real_ms + 1) * (1 + drift)) - (TRUE_MS + real_ms + 1)) <= 3


def test_an_answer_is_not_taken_for_that_to_a_later_question() -> None:
    """Where answers take longer than the interval each would be, for ever, and time would be told too late."""
    clock = Clock(DRIFT)
    asked: list[float] = []
    coming: list[tuple[float, int]] = []
    for tick in range(600):
        now_ms = tick * 100.0
        while coming and coming[0][0] <= now_ms:
            clock.learn(coming.pop(0)[1], now_ms)
        if clock.is_due(now_ms):
            clock.asked(now_ms)
            asked.append(now_ms)
            delay_ms = 1500.0 if 5000 < now_ms < 40_000 else 0.0
            coming.append((now_ms + delay_ms, int(TRUE_MS + now_ms)))
        if tick:
            assert abs(clock.at(now_ms) - TRUE_MS - now_ms) <= 100, "no more than a step of this test"
    assert len(asked) > 20


def test_after_a_lost_answer_it_is_asked_again() -> None:
    clock = Clock(DRIFT)
    clock.asked(0.0)
    assert clock.is_due(ASK_MS)
    clock.asked(ASK_MS)
    clock.learn(TRUE_MS + 50_000, 50_000.0)
    assert clock.is_due(50_000.0 + STRAY_MS), "however long it took"
