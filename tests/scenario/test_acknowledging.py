"""When a write is acknowledged: by all, or early, and never with too few copies (SAFETY 27)."""

from __future__ import annotations

import pytest

from tests.scenario.bench import S2, Bench, S


def test_rule_27_an_early_acknowledgement_waits_for_nobody_and_its_readers_do() -> None:
    bench = Bench(s="PB", t="BP")
    slow = bench.hold("P", "B", "BATCH")
    assert bench.put("P", S, "early", ack="primary").status == "OK"
    reader = bench.get("P", S)
    assert reader.status == "UNANSWERED", "nobody reads it before its commit"
    bench.heal(slow)
    assert reader.value == "early"


@pytest.mark.parametrize("ack", ["all", "primary"])
def test_rule_27_what_a_cluster_does_by_itself_a_request_may_ask_otherwise(ack: str) -> None:
    bench = Bench(s="PB", t="BP", ack="primary" if ack == "all" else "all")
    bench.hold("P", "B", "BATCH")
    assert bench.put("P", S, "one", ack=ack).status == ("UNANSWERED" if ack == "all" else "OK")


def test_rule_27_an_early_write_is_reconciled_like_any_other() -> None:
    bench = Bench(s="PBC", t="BP")
    bench.drop("P", "C", "BATCH")
    early = bench.put("P", S, "early", ack="primary")
    assert early.status == "OK"
    bench.crash("P")
    bench.faults.clear()
    bench.change(s="CB", t="B", dead="P")
    bench.advance(50)
    assert bench.get("C", S).value == "early", "B had it"
    assert bench.again(early, "C").version == early.version


def test_rule_27_only_the_primarys_crash_loses_it() -> None:
    bench = Bench(s="PB", t="BP")
    bench.drop("P", "B", "BATCH")
    assert bench.put("P", S, "early", ack="primary").status == "OK"
    bench.crash("P")
    bench.faults.clear()
    bench.change(s="B", t="B", dead="P")
    bench.advance(50)
    assert bench.get("B", S).value is None


def test_rule_27_a_failed_condition_shows_what_it_saw_and_waits_for_that() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", S, "one")
    slow = bench.hold("P", "B", "BATCH")
    assert bench.delete("P", S, ack="primary").status == "OK"
    missing = bench.delete("P", [S, S2], ack="primary")
    assert missing.status == "UNANSWERED", "that S is missing depends on a delete that is not committed"
    bench.heal(slow)
    assert missing.status == "UNMET"


@pytest.mark.parametrize("ack", ["all", "primary"])
def test_rule_27_too_few_copies_take_no_write_and_go_on_reading(ack: str) -> None:
    bench = Bench(s="PB", t="BP", min_in_sync=2)
    assert bench.put("P", S, "one", ack=ack).status == "OK"
    bench.crash("B")
    bench.change(s="P", t="P", dead="B")
    bench.advance(50)
    assert bench.get("P", S).value == "one"
    assert bench.put("P", S, "two", ack=ack).status == "THIN"
    assert bench.delete("P", S, ack=ack).status == "THIN"
    assert bench.get("P", S).value == "one"


def test_rule_27_the_copies_are_counted_again_at_the_acknowledgement() -> None:
    bench = Bench(s="PBC", t="BP", others="L", min_in_sync=2)
    bench.drop("P", "B", "BATCH")
    held = bench.put("P", S, "one")
    bench.crash("B")
    bench.crash("C")
    bench.faults.clear()
    bench.change(s="P", t="P", dead="BC")
    bench.advance(50)
    assert held.status == "UNANSWERED", "it is on P alone now"
    bench.change(s="P+L")
    bench.advance(200)
    bench.change(s="PL")
    bench.advance(50)
    assert held.status == "OK"


def test_rule_27_a_write_that_waits_for_copies_is_forgotten_after_its_deadline() -> None:
    bench = Bench(s="PB", t="BP", others="L", min_in_sync=2)
    bench.drop("P", "B", "BATCH")
    held = bench.put("P", S, "one", timeout_ms=1000)
    bench.crash("B")
    bench.faults.clear()
    bench.change(s="P", t="P", dead="B")
    bench.advance(2000)
    bench.change(s="P+L")
    bench.advance(200)
    bench.change(s="PL")
    bench.advance(100)
    assert held.status == "UNANSWERED", "its client has long said that the outcome is unknown"
    assert not bench.node("P").serving.unleased
    assert bench.get("P", S).value == "one"
