"""Rules 11, 12 and 15: why a primary may answer alone, and when a successor may.

With the default timing a lease is 600 ms, and with a margin of ten per cent a successor waits 660 ms.
"""

from __future__ import annotations

import pytest

from tests.scenario.bench import Bench, S, T

LEASE_MS = 600
WAIT_MS = 660

# --- rule 11: a primary serves while it holds grants of all ------------------------------------------------------


def test_rule_11_without_one_members_grants_a_primary_falls_silent() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.put("P", S, "one")
    bench.drop("C", "P", "GRANT")
    bench.advance(LEASE_MS - 150)
    assert bench.get("P", S).value == "one"
    bench.advance(150)
    assert bench.get("P", S).status == "NOT_READY"
    assert bench.put("P", S, "two").status == "NOT_READY"
    assert bench.held_by("P", S) == bench.held_by("B", S)


def test_rule_11_a_grant_runs_from_the_sending_of_the_request() -> None:
    bench = Bench(s="PB", t="PB")
    grants = bench.hold("B", "P", "GRANT")
    bench.advance(LEASE_MS + 200)
    assert not bench.serves("P", "s")
    bench.release(grants, most=1)  # an answer to what was asked more than a lease ago
    assert not bench.serves("P", "s")
    assert bench.get("P", S).status == "NOT_READY"
    bench.heal(grants)
    assert bench.serves("P", "s")


def test_rule_11_an_unasked_grant_is_no_grant() -> None:
    bench = Bench(s="PB", t="PB")
    grants = bench.hold("B", "P", "GRANT")
    bench.advance(150)
    assert grants.held
    frame = grants.held[-1]
    bench.heal(grants)
    bench.drop("B", "P", "GRANT")
    bench.advance(LEASE_MS)
    assert not bench.serves("P", "s")
    bench.replay(frame)  # a duplicate
    assert not bench.serves("P", "s")


def test_rule_11_a_primary_that_wakes_from_a_pause_answers_nobody() -> None:
    bench = Bench(s="PB", t="PB")
    bench.put("P", S, "one")
    bench.pause("P")
    read = bench.get("P", S)
    bench.advance(LEASE_MS + 1)
    grants = bench.hold("B", "P", "GRANT")
    bench.resume("P")
    assert read.status == "NOT_READY"
    bench.heal(grants)
    assert bench.get("P", S).value == "one"


# --- rule 12: a grant carries the grantor's map version ---------------------------------------------------------


def test_rule_12_a_pair_that_shares_t_does_not_keep_the_deposed_primary_of_s_alive() -> None:
    bench = Bench(s="PB", t="PB")
    bench.put("P", S, "one")
    bench.drop("*", "P", "MAP")
    bench.drop("*", "P", "FENCE")
    bench.decide(s="B")
    bench.tell("B")
    bench.advance(WAIT_MS - 1)  # all the while P asks for grants, and is answered
    assert bench.active("s") == "P"
    bench.advance(2)
    assert not bench.serves("P", "s")
    assert bench.serves("B", "s")
    assert bench.get("P", S).status == "NOT_READY"
    assert bench.get("B", S).value == "one"


def test_rule_12_a_grant_that_does_not_know_the_change_does_not_count() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.drop("B", "P", "GRANT")
    bench.change(s="PB")
    assert bench.active("s") == "P"
    assert not bench.serves("P", "s")
    assert bench.get("P", S).status == "UNANSWERED"
    assert bench.get("P", T).status == "OK", "t did not change"
    bench.faults.clear()
    bench.advance(50)
    assert bench.get("P", S).status == "OK"


def test_rule_12_a_grant_that_does_not_count_yet_replaces_none_that_does() -> None:
    bench = Bench(s="PB", t="BP")
    maps = bench.hold("*", "P", "MAP")
    bench.decide(t="B")
    bench.tell("B")
    bench.advance(300)  # B grants under a map that P does not have
    assert bench.serves("P", "s")
    bench.heal(maps)
    bench.drop("B", "P", "GRANT")
    bench.advance(LEASE_MS - 150)
    assert bench.serves("P", "s"), "what B granted counts since P has caught up"
    bench.advance(150)
    assert not bench.serves("P", "s")


# --- rule 15: the wait -----------------------------------------------------------------------------------------------


def test_rule_15_a_successor_waits_for_the_lease_of_a_silent_primary() -> None:
    bench = Bench(s="PBC", t="CBP")
    bench.cut("P")
    bench.change(s="BC", t="CB")
    bench.advance(WAIT_MS - 1)
    assert bench.active("s") == "P"
    assert bench.get("B", S).status == "UNANSWERED", "only active primaries serve, reads included"
    assert bench.put("B", S, "early").status == "UNANSWERED"
    assert bench.held_by("B", S) is None
    bench.advance(2)
    assert bench.active("s") == "BP"
    assert not bench.serves("P", "s")
    assert bench.put("B", S, "in time").status == "OK"


def test_rule_15_the_wait_counts_from_the_last_grant_given() -> None:
    bench = Bench(s="PBC", t="CBP")
    bench.advance(500)
    bench.drop("P", "B")
    bench.drop("B", "P")
    granted_ms = bench.node("B").local.given.granted_ms(bench.boot("P"))
    bench.advance(400)
    bench.change(s="BC")
    bench.advance(granted_ms + WAIT_MS - bench.clock_ms("B") - 1)
    assert "B" not in bench.active("s")
    bench.advance(2)
    assert bench.serves("B", "s")


def test_rule_15_proof_of_death_ends_the_wait() -> None:
    bench = Bench(s="PBC", t="CBP")
    bench.put("P", S, "one")
    bench.crash("P")
    bench.change(s="BC", t="CB")
    assert bench.active("s") == ""
    bench.decide(dead="P")
    bench.tell("B", "C")
    bench.advance(50)
    assert bench.get("B", S).value == "one"


def test_rule_15_proof_releases_only_the_member_it_names() -> None:
    bench = Bench(s="PBC", t="BPC")
    bench.crash("P")
    bench.cut("C")
    bench.decide(s="B", dead="P")
    bench.tell("B")
    assert bench.active("s") == ""
    bench.decide(dead="C")
    bench.tell("B")
    assert bench.active("s") == "B"


def test_rule_15_an_acknowledgement_of_the_new_epoch_ends_the_wait() -> None:
    bench = Bench(s="PBC", t="PBC")
    fenced = bench.hold("P", "B", "FENCED")
    bench.change(s="BC")
    assert bench.active("s") == ""
    bench.heal(fenced)
    assert bench.active("s") == "B"


def test_rule_15_who_does_not_know_the_new_epoch_does_not_acknowledge_it() -> None:
    bench = Bench(s="PBC", t="PBC")
    maps = bench.hold("*", "P", "MAP")
    bench.decide(s="BC")
    bench.tell("B", "C")
    bench.advance(20)
    assert "B -> P FENCE" in bench.trace
    assert bench.active("s") == "P"
    bench.heal(maps)
    bench.advance(50)
    assert bench.active("s") == "B"


def test_rule_15_a_new_member_counts_from_learning_that_it_is_in_sync() -> None:
    bench = Bench(s="PB", t="PB", others="N")
    bench.cut("P")
    bench.decide(s="NB")
    bench.advance(5000)
    bench.tell("N", "B")  # N never granted P anything; B may have passed a lease on
    bench.advance(WAIT_MS - 1)
    assert not bench.serves("N", "s")
    bench.advance(51)
    assert bench.serves("N", "s")


def test_rule_15_a_primary_that_was_active_and_stays_waits_for_nobody() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.cut("C")
    bench.change(s="PB", t="PB")
    bench.advance(50)
    assert bench.serves("P", "s")


def test_rule_15_a_primary_that_never_was_active_inherits_the_wait() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.cut("P")
    bench.change(s="BC")
    bench.advance(100)
    bench.change(s="B")  # before B was active: it still has P to wait for
    assert "B" not in bench.active("s")
    bench.advance(WAIT_MS)
    assert bench.serves("B", "s")


def test_rule_15_an_activation_is_reported_until_the_manager_has_it() -> None:
    bench = Bench(s="PB", t="PB")
    lost = bench.drop("P", "M", "ACTIVE")
    bench.change(s="PB")
    bench.advance(1000)
    assert bench.reported == {0: 1, 1: 1}
    bench.heal(lost)
    bench.advance(200)
    assert bench.reported == {0: 2, 1: 1}
    asked = bench.trace.count("P -> M ACTIVE")
    bench.advance(1000)
    assert bench.trace.count("P -> M ACTIVE") == asked


def test_rule_15_a_new_manager_hears_of_activations_again() -> None:
    bench = Bench(s="PB", t="PB")
    bench.reported.clear()
    bench.manager_boot += 1
    bench.advance(3000)  # without beacons the node asks to join again, and meets the new manager
    assert bench.reported == {0: 1, 1: 1}


@pytest.mark.parametrize(("slow", "fast"), [("P", "B"), ("B", "P")])
def test_rule_29_the_margin_covers_the_clock_rates_to_its_edge(slow: str, fast: str) -> None:
    bench = Bench(s="PBC", t="PBC", rates={slow: 1.0, fast: 1.1})
    bench.put("P", S, "one")
    # P believes in its lease for as long as it can: the grants arrive, B's map and questions do not.
    bench.drop("*", "P", "MAP")
    bench.drop("B", "P", "FENCE")
    bench.decide(s="BC")
    bench.tell("B", "C")
    for _ in range(140):  # at every step the bench checks that not both serve
        bench.advance(5)
        bench.get("P", S)
        bench.get("B", S)
    bench.advance(100)
    assert bench.get("B", S).value == "one"
