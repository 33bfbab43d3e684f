"""Rules 16 to 19: reconciling, tails, demotion, old routes."""

from __future__ import annotations

import pytest

from tests.scenario.bench import S2, S3, T2, Bench, S, T
from zkv.core import wire
from zkv.core.node.parking import PARKED_MS


def bench_with_a_tail(reached: str) -> Bench:
    """P of s has written to S, crashed in the middle of its turn, and only `reached` has what it wrote."""
    bench = Bench(s="PBC", t="CBP")
    bench.put("P", S2, "before")
    for pid in set("BC") - set(reached):
        bench.drop("P", pid, "BATCH")
    bench.drop("P", "x")
    bench.put("P", S, "one")
    bench.crash("P")
    bench.faults.clear()
    return bench


# --- rule 16: reconcile ----------------------------------------------------------------------------------------------


def test_rule_16_a_new_primary_adopts_the_longest_tail() -> None:
    bench = bench_with_a_tail(reached="C")
    written = bench.held_by("C", S)
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    read = bench.get("B", S)
    assert (read.version, read.value, 0) == written
    assert wire.epoch_of(read.version) == 1, "adopted entries keep their original versions"
    assert bench.held_by("B", S) == bench.held_by("C", S)


def test_rule_16_a_new_primary_sends_each_member_what_it_lacks() -> None:
    bench = bench_with_a_tail(reached="B")
    written = bench.held_by("B", S)
    acks = bench.hold("C", "B", "ACK")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    assert bench.active("s") == "", "C has not acknowledged"
    assert bench.get("B", S).status == "UNANSWERED"
    bench.heal(acks)
    bench.advance(50)
    assert bench.active("s") == "B"
    assert bench.held_by("C", S) == written


def test_rule_16_every_member_of_the_new_set_is_asked() -> None:
    bench = Bench(s="PBCD", t="CBP")
    bench.drop("P", "B", "BATCH")
    bench.drop("P", "C", "BATCH")
    bench.put("P", S, "on D alone")
    bench.crash("P")
    bench.faults.clear()
    tails = bench.hold("D", "B", "TAILS")
    bench.change(s="BCD", t="CB", dead="P")
    bench.advance(2000)
    assert bench.active("s") == ""
    bench.heal(tails)
    bench.advance(50)
    assert bench.get("B", S).value == "on D alone"
    assert bench.held_by("C", S) == bench.held_by("D", S)


def test_rule_16_a_tail_of_an_earlier_epoch_is_no_answer() -> None:
    bench = Bench(s="PBC", t="CBP")
    bench.crash("P")
    tails = bench.hold("C", "B", "TAILS")
    bench.change(s="BC", t="CB", dead="P")
    bench.decide(s="BC")
    bench.tell("B")
    assert tails.held
    old = tails.held.pop(0)
    bench.replay(old)
    bench.advance(500)
    assert bench.active("s") == ""
    bench.heal()
    bench.advance(100)
    assert bench.active("s") == "B"


def test_rule_16_no_entry_is_made_before_activation() -> None:
    bench = bench_with_a_tail(reached="C")
    tails = bench.hold("C", "B", "TAILS")
    bench.change(s="BC", t="CB", dead="P")
    early = bench.put("B", S3, "early")
    assert early.status == "UNANSWERED"
    bench.heal(tails)
    bench.advance(50)
    late = bench.again(early, "B")
    assert late.status == "OK"
    assert wire.epoch_of(late.version) == 2
    assert bench.held_by("C", S) == bench.held_by("B", S) != None  # noqa: E711


def test_rule_16_a_primary_that_stays_sends_its_pending_entries_again() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.drop("P", "B", "BATCH")
    first = bench.put("P", S, "one")
    bench.cut("C")  # it has the entry, B does not
    version = bench.held_by("C", S)
    bench.change(s="PB", t="PB")
    bench.heal(bench.faults[0])
    assert first.status == "UNANSWERED"
    bench.advance(200)
    assert first.status == "OK"
    assert bench.held_by("B", S) == version, "under its original version"


def test_rule_16_nothing_of_an_earlier_epoch_counts_before_activation() -> None:
    bench = Bench(s="PBC", t="PBC")
    acks = bench.hold("B", "P", "ACK")
    write = bench.put("P", S, "one")
    tails = bench.hold("B", "P", "TAILS")
    bench.change(s="PB")
    bench.heal(acks)  # now every member of the new set has acknowledged it, under the old epoch
    bench.advance(50)
    read = bench.get("P", S)
    assert (write.status, read.status) == ("UNANSWERED", "UNANSWERED")
    bench.heal(tails)
    bench.advance(50)
    assert write.status == "OK"


def test_rule_16_receivers_skip_what_they_have() -> None:
    bench = Bench(s="PBC", t="CBP")
    for value in ("one", "two"):
        bench.put("P", S, value)
    bench.drop("P", "C", "BATCH")
    bench.put("P", S2, "three")
    bench.crash("P")
    bench.faults.clear()
    before = bench.held_by("C", S)
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    assert bench.held_by("C", S) == before
    assert bench.held_by("C", S2) == bench.held_by("B", S2)


def test_rule_16_a_takeover_starts_over_when_the_epoch_changes_again() -> None:
    bench = bench_with_a_tail(reached="C")
    acks = bench.hold("C", "B", "ACK")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    bench.change(s="CB")  # B had adopted C's tail; now C takes over
    bench.heal(acks)
    bench.advance(100)
    assert bench.active("s") == "C"
    assert bench.get("C", S).value == "one"
    assert bench.held_by("B", S) == bench.held_by("C", S)


# --- rule 17: tails --------------------------------------------------------------------------------------------------


def test_rule_17_activation_commits_and_members_record_it() -> None:
    bench = bench_with_a_tail(reached="C")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    position = bench.node("B").local.store.positions[0]
    for pid in "BC":
        assert bench.node(pid).local.store.committed[0] == position
        assert bench.node(pid).local.tails.collect({0}, lambda shard: 0) == {0: []}


def test_rule_17_an_entry_half_refused_stays_in_the_tail_of_who_applied_it() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.drop("*", "P", "MAP")
    bench.drop("B", "C")
    bench.drop("P", "x")
    bench.decide(s="BC")
    bench.tell("B")
    bench.put("P", S, "on C alone")  # B refuses it, C applies it
    assert bench.held_by("C", S) is not None
    bench.put("P", T, "one")
    bench.advance(100)  # lease requests bring C the commit point of P's stream
    bench.tell("C")
    bench.advance(800)
    bench.heal()
    bench.tell("P")
    bench.advance(100)
    assert bench.active("s") == "B"
    assert bench.get("B", S).value == "on C alone", "C's position covers it, so B must have it"


def test_rule_17_the_commit_point_of_a_stream_says_nothing_of_lost_shards() -> None:
    bench = Bench(s="PBC", t="PC")
    bench.drop("P", "B", "BATCH")
    bench.drop("P", "x")
    bench.put("P", S, "on C alone")
    maps = bench.hold("*", "C", "MAP")
    bench.decide(s="BC")
    bench.tell("P")  # which forgets about the batch: it waits for no one's acknowledgement any more
    bench.advance(200)  # and says so in its lease requests, to a C that has not heard of the change
    bench.heal(maps)
    bench.tell("B")
    bench.advance(50)
    assert bench.get("B", S).value == "on C alone"


def test_rule_17_batches_of_a_turn_that_brings_a_map_leave_under_the_map_they_were_made_under() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.drop("P", "B", "FENCED")
    bench.pause("P")
    bench.put("P", S, "made under version 1")
    bench.change(s="BC")
    bench.resume("P")  # one turn: the request, then the map
    assert bench.held_by("B", S) is None, "the header vouches for the epochs of its entries"
    assert bench.held_by("C", S) is None


# --- rule 18: demotion answers ---------------------------------------------------------------------------------------


def test_rule_18_held_replies_of_a_lost_shard_say_maybe() -> None:
    bench = Bench(s="PBC", t="PB")
    bench.drop("C", "P", "ACK")
    write = bench.put("P", S, "one")
    read = bench.get("P", S)
    acks = bench.hold("B", "P", "ACK")
    both = bench.put("P", [S3, T], ["three", "four"])
    bench.change(s="BCP")
    assert write.status == read.status == "MAYBE"
    assert read.value is None
    assert both.status == "UNANSWERED", "t is still ours"
    bench.heal(acks)
    assert both.status == "MAYBE/OK"
    bench.advance(50)
    assert bench.again(write, "B").status == "OK"
    assert bench.get("B", S).value == "one"


def test_rule_18_nothing_held_is_dropped_by_an_activation() -> None:
    bench = Bench(s="PBC", t="BPC")
    bench.drop("C", "P", "ACK")
    asks = [bench.put("P", S, "one"), bench.get("P", S), bench.delete("P", S), bench.delete("P", S)]
    bench.change(s="PB")
    bench.advance(50)
    assert [ask.status for ask in asks] == ["OK", "OK", "OK", "UNMET"]
    assert asks[1].value == "one"


# --- rule 19: old routes ---------------------------------------------------------------------------------------------


def test_rule_19_a_request_routed_before_the_reign_is_refused() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.change(s="BCP")
    bench.change(s="PBC")
    bench.advance(50)
    assert bench.put("P", S, "old", routed_by=1).status == "OLD_ROUTE"
    assert bench.put("P", S, "old", routed_by=2).status == "OLD_ROUTE"
    assert bench.get("P", S, routed_by=1).status == "OLD_ROUTE"
    assert bench.put("P", [S, T], ["old", "one"], routed_by=1).statuses == ["OLD_ROUTE", "OK"]
    assert bench.put("P", S, "new", routed_by=3).status == "OK"
    assert bench.put("P", T2, "t was never lost", routed_by=1).status == "OK"


def test_rule_19_a_reign_goes_on_through_epochs_of_the_same_primary() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.change(s="PB")
    bench.advance(50)
    assert bench.put("P", S, "one", routed_by=1).status == "OK"


def test_rule_19_a_reign_that_was_interrupted_unseen_is_a_new_one() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.drop("*", "P", "MAP")
    bench.change(s="BCP")
    bench.faults.clear()
    bench.change(s="PBC")  # P sees one map after the other's successor
    bench.advance(1000)
    assert bench.active("s") == "P"
    assert bench.put("P", S, "old", routed_by=1).status == "OLD_ROUTE"


def test_a_request_that_meets_a_takeover_waits_for_it() -> None:
    bench = Bench(s="PBC", t="PBC")
    tails = bench.hold("B", "P", "TAILS")
    bench.change(s="PB")
    asked = [bench.put("P", S, "one"), bench.get("P", S), bench.put("P", S, "late", timeout_ms=20)]
    on_t = bench.get("P", T)
    assert on_t.status == "OK", "others do not wait with it"
    bench.advance(50)
    assert [ask.status for ask in asked] == ["UNANSWERED"] * 3
    bench.heal(tails)
    bench.advance(1)
    assert [ask.status for ask in asked] == ["OK", "OK", "LATE"]
    assert asked[1].value == "one", "in the order in which they came"


def test_and_is_refused_when_that_takes_too_long() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.hold("B", "P", "TAILS")
    bench.change(s="PB")
    asked = bench.put("P", S, "one")
    bench.advance(PARKED_MS + 1)
    assert asked.status == "NOT_READY"


def test_the_requests_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zkv.core.node.parking.PARKED_BYTES", 100)
    bench = Bench(s="PBC", t="PBC")
    bench.hold("B", "P", "TAILS")
    bench.change(s="PB")
    assert [bench.put("P", S, "one").status for _ in range(3)][-1] == "NOT_READY"
