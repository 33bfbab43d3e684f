"""Planted bugs must be caught: a simulator that misses them proves nothing by its silence.

Each plant is tried with the seed that is known to catch it, then with others, so that a change of the simulator which
shifts its random walks costs time here rather than truth. Two plants break rules in ways that random walks hardly meet:
for them a directed test must fail.
"""

from __future__ import annotations

from importlib import import_module
from itertools import chain

import pytest

from zkv.sim.__main__ import run_seed
from zkv.sim.plants import PLANTS, planted

CATCHES = {
    "rule-03-stale-epochs-accepted": 9,
    "rule-05-commit-on-one-ack": 2,
    "rule-06-refusal-not-counted": 22,
    "rule-07-gaps-accepted": 2,
    "rule-08-reads-before-commit": 3,
    "rule-11-leases-never-expire": 4,
    "rule-13-read-leases-not-waited-for": 24,
    "rule-13-newer-epoch-keeps-lease": 7,
    "rule-14-replica-shows-uncommitted": 45,
    "rule-15-no-wait": 3,
    "rule-15-wait-too-short": 146,
    "rule-15-last-grant-forgotten": 3,
    "rule-16-longest-tail-not-adopted": 9,
    "rule-16-lacking-not-resent": 15,
    "rule-24-sessions-not-replicated": 2,
    "rule-24-record-blanked": 29,
    "rule-24-watermark-ignored": 1,
    "rule-25-timeouts-reported-as-not-done": 3,
    "rule-25-new-identity-for-retries": 2,
    "rule-30-told-before-durable": 2,
    "stranded-tails-forgotten": 22,
    "batches-sent-under-the-next-map": 51,
    "rule-12-grants-count-for-all": 229,
}
"""plant -> a seed that catches it"""
DIRECTED = {
    "rule-18-demotion-says-not-done": "test_takeovers.test_rule_18_held_replies_of_a_lost_shard_say_maybe",
    "rule-24-any-miss-counts": "test_retries.test_rule_24_a_failed_condition_is_remembered",
}
SEEDS = range(1, 400)


@pytest.mark.parametrize("name", sorted(set(PLANTS) - set(DIRECTED)))
def test_plant_is_caught_by_a_random_walk(name: str) -> None:
    tried = chain((CATCHES[name],) if name in CATCHES else (), SEEDS)
    assert any(run_seed(seed, name).failure is not None for seed in tried), f"{name} went unnoticed in all seeds"


@pytest.mark.parametrize("name", sorted(DIRECTED))
def test_plant_is_caught_by_a_directed_test(name: str) -> None:
    module, _, function = DIRECTED[name].rpartition(".")
    test = getattr(import_module(f"tests.scenario.{module}"), function)
    test()
    with planted(name), pytest.raises(AssertionError):
        test()
