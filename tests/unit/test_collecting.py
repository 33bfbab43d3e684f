"""The garbage collector of a node: only the young are looked at, and what stays is never looked at again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from zkv.net import collecting


@pytest.fixture
def visited() -> Iterator[list[int]]:
    """The generations that were collected since `collecting.begin`."""
    generations: list[int] = []

    def note(phase: str, info: dict[str, Any]) -> None:
        if phase == "stop":
            generations.append(info["generation"])

    thresholds = gc.get_threshold()
    collecting.begin()
    gc.callbacks.append(note)
    yield generations
    gc.callbacks.remove(note)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_is_kept_becomes_permanent_and_no_older_generation_is_ever_collected(visited: list[int]) -> None:
    kept: list[list[int]] = []
    before = gc.get_freeze_count()
    for _ in range(50):
        kept += [[n] for n in range(collecting.YOUNG // 2)]  # lists: the collector keeps track of them
        collecting.rest()
    assert set(visited) == {0}
    assert len(visited) >= 25
    assert gc.get_freeze_count() - before >= len(kept) - 2 * collecting.YOUNG
    assert gc.get_count()[1:] == (0, 0)


class Loop:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_cycles_of_a_turn_are_found_and_what_is_permanent_is_freed_by_its_count(visited: list[int]) -> None:
    stays = Loop()
    stays_on = weakref.ref(stays)
    dropped = weakref.ref(Loop())
    kept = [[n] for n in range(2 * collecting.YOUNG)]
    collecting.rest()
    assert dropped() is None
    frozen = gc.get_freeze_count()
    kept.clear()
    assert gc.get_freeze_count() <= frozen - collecting.YOUNG
    stays.itself = None  # type: ignore[assignment]  # no cycle any more
    del stays
    assert stays_on() is None


def test_what_is_freed_of_the_frozen_puts_nothing_off(visited: list[int]) -> None:
    """It counts against what is made: the collector's own threshold would be met late, or never."""
    table = {number: (number, 0, 0) for number in range(20_000)}
    collecting.rest()
    for number in range(20_000):
        table[number] = (number, 1, 0)
    visited.clear()
    collecting.rest()
    assert gc.get_count()[0] < collecting.YOUNG
    assert visited
