"""Many seeded runs, in which nothing may go wrong and everything must have happened.

A failing seed prints its replay line: `python -m zkv.sim --seed N`.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from zkv.sim.__main__ import DUMPS_MUST_FIRE, never_fired, run_seed, run_seeds

FIRST_SEED = 1
SEEDS = 36
DUMPS_SEEDS = 6

FOUND = [28, 80, 89, 145, 170, 193]
"""Seeds in which a bug, real or planted, once showed."""


def test_many_seeds() -> None:
    fired: Counter[str] = Counter()
    operations = 0
    for outcome in run_seeds(FIRST_SEED, SEEDS, jobs=os.cpu_count() or 1):
        assert outcome.failure is None, (
            f"seed {outcome.seed}: {outcome.failure}\nreplay: python -m zkv.sim --seed {outcome.seed}"
        )
        fired.update(outcome.fired)
        operations += outcome.operations
    assert not never_fired(fired), f"{never_fired(fired)} never fired in {SEEDS} seeds: {fired}"
    assert operations > 1000 * SEEDS


def test_many_seeds_with_dumps_and_loads() -> None:
    fired: Counter[str] = Counter()
    for outcome in run_seeds(FIRST_SEED, DUMPS_SEEDS, jobs=os.cpu_count() or 1, dumps=True):
        assert outcome.failure is None, (
            f"seed {outcome.seed}: {outcome.failure}\nreplay: python -m zkv.sim --dumps --seed {outcome.seed}"
        )
        fired.update(outcome.fired)
    missing = never_fired(fired, DUMPS_MUST_FIRE)
    assert not missing, f"{missing} never fired in {DUMPS_SEEDS} seeds: {fired}"


@pytest.mark.parametrize("seed", FOUND)
def test_seeds_that_once_found_something(seed: int) -> None:
    assert run_seed(seed).failure is None, f"replay: python -m zkv.sim --seed {seed}"


def test_a_seed_is_one_run() -> None:
    """The same seed gives the same run, to the last event."""
    one, other = run_seed(7), run_seed(7)
    assert (one.fired, one.operations) == (other.fired, other.operations)
