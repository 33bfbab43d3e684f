"""Planted bugs must be caught: a simulator that misses them proves nothing by its silence.

Each plant is tried with the seed that is known to catch it, then with others, so that a change of the simulator which
shifts its random walks costs time here rather than truth. Some plants break rules in ways that random walks hardly
meet: for them a directed test must fail.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module

import pytest

from zkv.sim.__main__ import run_seed
from zkv.sim.plants import PLANTS, planted

CATCHES = {
    "batches-sent-under-the-next-map": 58,
    "dumps-of-several-moments": 2,
    "dumps-of-walks-that-thaw": 2,
    "loads-drop-expiries": 2,
    "loads-of-void-attempts": 2,
    "loads-renew-lifetimes": 2,
    "rule-01-named-learners-join": 1,
    "rule-01-wait-list-forgotten": 4,
    "rule-03-stale-epochs-accepted": 7,
    "rule-05-commit-on-one-ack": 3,
    "rule-06-refusal-not-counted": 14,
    "rule-07-gaps-accepted": 1,
    "rule-08-reads-before-commit": 4,
    "rule-09-conditions-looked-at-before-the-batch": 1,
    "rule-09-conditions-not-looked-at": 1,
    "rule-09-removals-not-replicated": 1,
    "rule-11-leases-never-expire": 15,
    "rule-13-newer-epoch-keeps-lease": 75,
    "rule-15-last-grant-forgotten": 27,
    "rule-15-no-wait": 9,
    "rule-16-lacking-not-resent": 4,
    "rule-16-longest-tail-not-adopted": 4,
    "rule-22-filled-learners-not-required": 14,
    "rule-22-reported-before-it-has-all": 53,
    "rule-24-batches-of-one-call-not-in-order": 17,
    "rule-24-reads-overtaken-by-their-own-writes": 11,
    "rule-24-record-blanked": 23,
    "rule-24-results-lost-in-takeovers": 20,
    "rule-24-results-not-replicated": 7,
    "rule-24-sessions-not-replicated": 1,
    "rule-24-watermark-ignored": 2,
    "rule-25-new-identity-for-retries": 1,
    "rule-25-timeouts-reported-as-not-done": 1,
    "rule-28-own-clocks": 16,
    "rule-28-the-wall-clock-counts": 28,
    "rule-30-told-before-durable": 7,
    "scans-by-place": 1,
    "stranded-tails-forgotten": 9,
    "watches-not-told-of-adopted-tails": 25,
    "watches-tokens-run-ahead": 1,
    "watches-told-before-commit": 1,
    "watches-told-twice": 1,
}
"""plant -> a seed that catches it"""
DIRECTED = {
    "watches-inherit-nothing": (
        "scenario.test_watching.test_a_learner_that_became_primary_knows_what_came_before_it_and_since"
    ),
    "rule-18-demotion-says-not-done": "scenario.test_takeovers.test_rule_18_held_replies_of_a_lost_shard_say_maybe",
    "rule-20-fills-onto-what-is-there": (
        "scenario.test_filling.test_rule_20_a_fill_starts_from_empty_and_anew_at_every_epoch"
    ),
    "rule-20-sessions-kept": "scenario.test_filling.test_rule_20_what_a_dropped_member_alone_had_does_not_come_back",
    "rule-20-tails-kept": "scenario.test_filling.test_rule_20_a_tail_from_a_former_membership_is_not_offered",
    "rule-20-shards-that-left-count-as-sent": (
        "scenario.test_filling.test_rule_20_a_shard_that_leaves_a_fill_and_comes_back_is_sent_again"
    ),
    "rule-20-tombstones-dropped-while-filling": (
        "scenario.test_filling.test_rule_20_no_tombstone_goes_while_a_learner_fills"
    ),
    "rule-21-chunks-overwrite-newer": (
        "scenario.test_filling.test_rule_21_a_chunk_that_was_made_before_a_write_and_comes_after_it"
    ),
    "rule-22-filled-only-when-nothing-is-under-way": (
        "scenario.test_schedules.test_schedule_6_a_fill_under_steady_load_finishes"
    ),
    "rule-22-stale-reports-count": (
        "unit.test_manager_steering.test_a_report_counts_from_the_primary_for_a_learner_under_the_present_epoch_only"
    ),
    "rule-23-sessions-not-filled": "scenario.test_filling.test_rule_23_a_fill_carries_sessions_with_their_watermarks",
    "rule-27-copies-not-counted-again": (
        "scenario.test_acknowledging.test_rule_27_the_copies_are_counted_again_at_the_acknowledgement"
    ),
    "rule-27-early-writes-read": (
        "scenario.test_acknowledging.test_rule_27_an_early_acknowledgement_waits_for_nobody_and_its_readers_do"
    ),
    "rule-33-former-life-kept": "scenario.test_filling.test_a_shard_born_anew_meets_no_data_of_its_former_life",
    "rule-25-duplicates-denied": "scenario.test_retries.test_rule_25_a_duplicate_of_a_try_that_was_done_denies_nothing",
    "rule-06-stale-reads-of-refused-entries": (
        "scenario.test_operations.test_a_stale_read_at_a_primary_that_was_fenced_shows_no_refused_entry"
    ),
    "rule-13-read-leases-not-waited-for": (
        "scenario.test_reading.test_rule_15_a_primary_that_stays_waits_for_the_read_leases_of_who_was_dropped"
    ),
    "rule-15-wait-too-short": "scenario.test_leases.test_rule_15_the_wait_counts_from_the_last_grant_given",
    "rule-33-reset-on-silence": "unit.test_manager_operators.test_silence_is_no_proof_of_loss",
    "rule-24-any-miss-counts": "scenario.test_retries.test_rule_24_a_failed_condition_is_remembered",
    "rule-12-grants-count-for-all": (
        "scenario.test_leases.test_rule_12_a_pair_that_shares_t_does_not_keep_the_deposed_primary_of_s_alive"
    ),
    "rule-14-replica-shows-uncommitted": (
        "scenario.test_reading.test_rule_14_a_backup_shows_nothing_that_it_does_not_know_to_be_committed"
    ),
    "rule-28-expiries-lost-in-fills": (
        "scenario.test_expiry.test_rule_28_a_fill_brings_expiries_and_what_expired_meanwhile_goes"
    ),
    "rule-28-due-entries-forgotten-in-takeovers": (
        "scenario.test_expiry.test_rule_28_what_was_due_at_a_backup_is_reclaimed_by_the_new_primary"
    ),
    "rule-28-operations-do-not-look": "scenario.test_expiry.test_rule_28_a_read_at_or_after_the_expiry_misses",
    "rule-28-expiries-lost-in-takeovers": "scenario.test_expiry.test_rule_28_an_adopted_tail_brings_its_expiries",
    "watches-believe-in-any-history": "scenario.test_watching.test_what_is_not_remembered_any_more_is_gone",
}
ARGUMENTS = {"rule-28-expiries-lost-in-takeovers": ("B",)}
"""Of directed tests that are given something."""
SEEDS = range(1, 400)


@pytest.fixture(scope="module")
def pinned() -> dict[str, bool]:
    """plant -> whether its seed still catches it; all of them at once, on all processors."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(run_seed, CATCHES.values(), CATCHES)
        return {name: outcome.failure is not None for name, outcome in zip(CATCHES, outcomes, strict=True)}


@pytest.mark.parametrize("name", sorted(set(PLANTS) - set(DIRECTED)))
def test_plant_is_caught_by_a_random_walk(pinned: dict[str, bool], name: str) -> None:
    caught = pinned.get(name) or any(run_seed(seed, name).failure is not None for seed in SEEDS)
    assert caught, f"{name} went unnoticed in all seeds"


@pytest.mark.parametrize("name", sorted(DIRECTED))
def test_plant_is_caught_by_a_directed_test(name: str) -> None:
    module, _, function = DIRECTED[name].rpartition(".")
    test = partial(getattr(import_module(f"tests.{module}"), function), *ARGUMENTS.get(name, ()))
    test()
    with planted(name), pytest.raises(AssertionError):
        test()
