"""Rules 24 to 26 at the nodes: identity, watermarks, failed conditions, deadlines.

The client's half is in tests/unit/test_client_core.py.
"""

from __future__ import annotations

import pytest

from tests.scenario.bench import S2, S3, Bench, S, T
from zkv.core import wire
from zkv.core.node import sessions

# --- rule 24: identity -----------------------------------------------------------------------------------------------


def test_rule_24_a_retry_returns_the_first_result() -> None:
    bench = Bench(s="PB", t="PB")
    first = bench.put("P", S, "one", client="x")
    bench.put("P", S, "two", client="y")
    retry = bench.again(first, "P")
    assert (retry.status, retry.version) == ("OK", first.version)
    assert bench.get("P", S).value == "two"


def test_rule_24_a_retry_of_a_delete_returns_the_first_result() -> None:
    bench = Bench(s="PB", t="PB")
    bench.put("P", S, "one")
    first = bench.delete("P", S)
    retry = bench.again(first, "P")
    assert (retry.status, retry.version) == ("OK", first.version)


def test_rule_24_a_retry_is_recognised_by_the_next_primary() -> None:
    bench = Bench(s="PBC", t="CBP")
    first = bench.put("P", S, "one", client="x")
    bench.put("P", S, "two", client="y")
    bench.crash("P")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    retry = bench.again(first, "B")
    assert (retry.status, retry.version) == ("OK", first.version)
    assert bench.get("B", S).value == "two"


def test_rule_24_a_retry_of_an_adopted_entry_is_recognised() -> None:
    bench = Bench(s="PBC", t="CBP")
    bench.drop("P", "B", "BATCH")
    first = bench.put("P", [S, S2], ["one", "two"])
    bench.crash("P")
    bench.faults.clear()
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    for pid, change in (("B", "CB"), ("C", "BC")):  # both the adopter and who it was adopted from remember
        retry = bench.again(first, pid)
        assert retry.status == "OK"
        assert [wire.epoch_of(version) for version in retry.versions] == [1, 1]
        bench.change(s=change)
        bench.advance(50)


def test_rule_24_parts_of_a_batch_split_over_primaries_are_found_by_index() -> None:
    bench = Bench(s="PBC", t="CBP")
    half = bench.put("P", [S], ["one"], batch=1, indices=[0])
    other = bench.put("C", [T], ["two"], batch=1, indices=[1])
    bench.crash("P")
    bench.crash("C")
    bench.change(s="B", t="B", dead="PC")
    bench.advance(50)
    whole = bench.put("B", [S, T, S3], ["one", "two", "three"], batch=1)
    assert whole.statuses == ["OK", "OK", "OK"]
    assert whole.versions[:2] == [half.version, other.version]
    assert wire.epoch_of(whole.versions[2]) == 2


def test_rule_24_a_retry_of_what_was_half_done_does_the_other_half() -> None:
    bench = Bench(s="PB", t="BP")
    first = bench.put("P", [S, T], ["one", "two"])
    assert first.statuses == ["OK", "MOVED"]
    bench.change(t="PB")
    bench.advance(50)
    retry = bench.again(first, "P")
    assert retry.statuses == ["OK", "OK"]
    assert retry.versions[0] == first.versions[0]
    assert bench.get("P", T).value == "two"


def test_rule_24_below_the_watermark_nothing_is_executed() -> None:
    bench = Bench(s="PB", t="PB")
    first = bench.put("P", S, "one", batch=1)
    bench.put("P", S2, "two", batch=3, watermark=3)
    again, never_seen = bench.again(first, "P"), bench.put("P", S3, "late", batch=2)
    assert (again.status, never_seen.status) == ("EXPIRED", "EXPIRED")
    assert bench.held_by("P", S3) is None


def test_rule_24_the_watermark_travels_to_the_next_primary() -> None:
    bench = Bench(s="PBC", t="CBP")
    bench.put("P", S2, "two", batch=3, watermark=3)
    bench.crash("P")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    assert bench.put("B", S3, "late", batch=2).status == "EXPIRED"


def test_rule_24_a_failed_condition_is_remembered() -> None:
    bench = Bench(s="PB", t="PB")
    bench.drop("P", "x", "REPLY")
    first = bench.delete("P", S, client="x")
    bench.put("P", S, "since then", client="y")
    bench.faults.clear()
    assert bench.again(first, "P").status == "UNMET"
    assert bench.get("P", S).value == "since then"


def test_rule_24_one_batch_may_hit_and_miss() -> None:
    bench = Bench(s="PB", t="PB")
    bench.put("P", S, "one", client="y")
    first = bench.delete("P", [S, S2, S], client="x")
    assert first.statuses == ["OK", "UNMET", "UNMET"]
    assert first.versions[2] == first.versions[0]
    bench.put("P", [S, S2], ["new", "new"], client="y")
    retry = bench.again(first, "P")
    assert (retry.statuses, retry.versions) == (first.statuses, first.versions)
    assert bench.get("P", [S, S2]).results == ["new", "new"]


def test_rule_24_a_primary_that_answered_maybe_remembers_the_result() -> None:
    bench = Bench(s="PBC", t="BPC")
    bench.drop("C", "P", "ACK")
    first = bench.put("P", [S, S2], ["one", "two"])
    bench.change(s="BPC")
    assert first.status == "MAYBE"
    bench.faults.clear()
    bench.advance(50)
    bench.change(s="PBC")  # and back
    bench.advance(50)
    retry = bench.again(first, "P")
    assert retry.status == "OK"
    assert retry.versions == bench.get("P", [S, S2]).versions
    assert [wire.epoch_of(version) for version in retry.versions] == [1, 1]


def test_rule_25_a_duplicate_of_a_try_that_was_refused_does_nothing() -> None:
    bench = Bench(s="PB", t="PB")
    requests = bench.hold("x", "P", "REQUEST")
    grants = bench.drop("B", "P", "GRANT")
    bench.advance(700)
    refused = bench.put("P", S, "one")
    assert requests.held
    frame = requests.held[0]
    bench.heal(requests)
    assert refused.status == "NOT_READY", "which the client may take for certain"
    bench.heal(grants)
    bench.advance(50)
    bench.replay(frame)
    bench.advance(50)
    assert bench.held_by("P", S) is None
    assert bench.again(refused, "P").status == "OK", "the next try is another matter"


def test_rule_25_a_duplicate_of_a_try_that_was_done_denies_nothing() -> None:
    """The first waits for its commit when the duplicate meets an expired lease, or comes past the deadline."""
    for later_ms in (700, 810):
        duplicate_denies_nothing(later_ms)


def duplicate_denies_nothing(later_ms: float) -> None:
    bench = Bench(s="PB", t="PB")
    requests = bench.hold("x", "P", "REQUEST")
    batches = bench.hold("P", "B", "BATCH")
    write = bench.put("P", S, "one", timeout_ms=800)
    assert requests.held
    frame = requests.held[0]
    bench.heal(requests)
    assert write.status == "UNANSWERED"
    assert bench.held_by("P", S) is not None
    grants = bench.drop("B", "P", "GRANT")
    bench.advance(later_ms)
    bench.replay(frame)
    bench.advance(150)
    assert write.status == "MAYBE", "the client takes this for the answer of the try"
    bench.heal(grants)
    bench.heal(batches)
    bench.advance(50)
    assert bench.get("P", S).value == "one"


def test_rule_24_sessions_outlive_every_deadline() -> None:
    bench = Bench(s="PB", t="PB", session_ttl_ms=1000, timeout_limit_ms=400)
    first = bench.put("P", S, "one", client="x", timeout_ms=800)
    bench.put("P", S, "two", client="y", timeout_ms=800)
    assert bench.put("P", S2, "never", client="y", timeout_ms=900).status == "REFUSED"
    bench.advance(790)
    assert bench.again(first, "P").version == first.version
    bench.advance(2500)
    assert len(bench.node("P").local.sessions) == 0
    assert bench.again(first, "P").status == "LATE"
    assert bench.get("P", S, timeout_ms=100).value == "two"


# --- rule 26: deadlines ----------------------------------------------------------------------------------------------


def test_rule_26_late_work_is_dropped_before_it_is_applied() -> None:
    bench = Bench(s="PB", t="PB")
    requests = bench.hold("x", "P", "REQUEST")
    write, read = bench.put("P", S, "late", timeout_ms=100), bench.get("P", S, timeout_ms=100)
    bench.advance(101)
    bench.heal(requests)
    assert (write.status, read.status) == ("LATE", "LATE")
    assert bench.held_by("P", S) is None


def test_rule_26_a_node_that_slept_reads_its_clock_after_its_inbox() -> None:
    bench = Bench(s="PB", t="PB")
    bench.pause("P")
    write = bench.put("P", S, "late", timeout_ms=100)
    bench.advance(101)
    bench.resume("P")
    assert write.status == "LATE"
    assert bench.held_by("P", S) is None


def test_rule_26_a_request_that_waited_for_the_map_is_checked_when_the_map_comes() -> None:
    bench = Bench(s="PB", t="PB")
    bench.decide(t="BP")
    write = bench.put("P", S, "late", timeout_ms=100, routed_by=2)
    bench.advance(101)
    bench.tell("P")
    assert write.status == "LATE"


def test_rule_26_deadlines_are_told_in_the_nodes_clock() -> None:
    bench = Bench(s="PB", t="PB", rates={"P": 1.1})
    bench.client("x")
    bench.advance(3000)
    requests = bench.hold("x", "P", "REQUEST")
    call = bench.call("x", wire.PUT, [S], ["late"], timeout_ms=300)
    assert requests.held
    bench.advance(301)
    assert call.failure is not None
    assert call.failure.unknown
    bench.heal(requests)
    assert bench.held_by("P", S) is None


def test_rule_25_a_refusal_that_nobody_remembers_is_not_definite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "RECORDS_LIMIT", 2)
    bench = Bench(s="PB", t="PB")
    assert [bench.put("P", key, "one").status for key in (S, S2)] == ["OK", "OK"]
    assert bench.put("P", S3, "one").status == "MAYBE", "there may be room for its duplicate"
    monkeypatch.setattr(sessions, "SESSIONS_LIMIT", 1)
    assert bench.put("P", S3, "one", client="y").status == "MAYBE"
