"""Planted bugs must be caught: a simulator that misses them proves nothing by its silence.

Each plant is tried with seeds known to catch it, then with others, so that a change of the simulator that shifts its
random walks costs time here rather than truth. Three plants break rules in ways that random walks hardly meet; the
directed tests under tests/scenario catch what they stand for.
"""

from __future__ import annotations

from itertools import chain

import pytest

from zkv.sim.__main__ import run_seed
from zkv.sim.plants import PLANTS

CATCHES: dict[str, tuple[int, ...]] = {}
DIRECTED: set[str] = set()
SEEDS = range(1, 400)


@pytest.mark.parametrize("name", sorted(set(PLANTS) - DIRECTED))
def test_plant_is_caught(name: str) -> None:
    tried = chain(CATCHES.get(name, ()), SEEDS)
    assert any(run_seed(seed, name).failure is not None for seed in tried), f"{name} went unnoticed in all seeds"


def test_there_are_enough() -> None:
    assert len(set(PLANTS) - DIRECTED) >= 10
    assert set(PLANTS) >= DIRECTED | set(CATCHES)
