"""Rules 13 and 14, and rule 15 where it waits for read leases: reads at a backup."""

from __future__ import annotations

import pytest

from tests.scenario.bench import S2, Bench, S, T

LEASE_MS = 600
WAIT_MS = 660


EDGES = [{}, {"P": 1.1, "C": 1.1, "B": 1.0}, {"P": 1.0, "C": 1.1, "B": 1.0}, {"P": 1.1, "C": 1.0, "B": 1.0}]
"""Clock rates at the edge of the margin: a reader whose lease lasts long, waited for by whose time flies."""


def bench_with_readers(s: str = "PBC", t: str = "CPB", at: str = "B", rates: dict[str, float] | None = None) -> Bench:
    """S holds "old", and `at` has read it under a lease; C's grants to P run out together with it."""
    bench = Bench(s=s, t=t, rates=rates)
    bench.put("P", S, "old")
    for pid in at:
        bench.get_any(pid, S)
    bench.advance(200)
    for pid in at:
        assert bench.get_any(pid, S).value == "old"
    return bench


# --- rule 13: read leases ------------------------------------------------------------------------------------------


def test_rule_13_a_backup_without_a_lease_sends_the_reader_to_the_primary() -> None:
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", S, "one")
    bench.drop("P", "B", "READ_GRANT")
    bench.advance(200)
    for _ in range(3):
        assert bench.get_any("B", S).status == "MOVED"
        bench.advance(100)
    assert bench.get_any("P", S).value == "one", "the primary answers as it always does"


def test_rule_13_leases_are_asked_for_only_while_somebody_reads() -> None:
    bench = bench_with_readers()
    asked = bench.trace.count("B -> P READ_LEASE")
    bench.advance(1900)
    assert bench.trace.count("B -> P READ_LEASE") > asked + 10
    bench.advance(200)
    asked = bench.trace.count("B -> P READ_LEASE")
    bench.advance(5000)
    assert bench.trace.count("B -> P READ_LEASE") == asked


def test_rule_13_a_read_lease_ends_with_the_primarys_own() -> None:
    bench = bench_with_readers()
    bench.drop("C", "P", "GRANT")
    bench.advance(LEASE_MS - 200)
    asked_late = bench.trace.count("P -> B READ_GRANT")
    assert bench.get_any("B", S).value == "old"
    bench.advance(200)
    assert bench.trace.count("P -> B READ_GRANT") > asked_late, "it went on granting, ever less"
    assert not bench.serves("P", "s")
    assert bench.get_any("B", S).status == "MOVED"


def test_rule_13_a_read_lease_runs_from_the_backups_sending() -> None:
    bench = bench_with_readers()
    grants = bench.hold("P", "B", "READ_GRANT")
    bench.advance(LEASE_MS + 300)
    assert bench.get_any("B", S).status == "MOVED"
    bench.release(grants, most=1)
    assert bench.get_any("B", S).status == "MOVED"
    bench.heal(grants)
    assert bench.get_any("B", S).value == "old"


def test_rule_13_only_an_active_primary_gives_read_leases() -> None:
    bench = bench_with_readers()
    tails = bench.hold("*", "P", "TAILS")
    bench.change(s="PBC")
    bench.advance(100)
    assert bench.get_any("B", S).status == "MOVED"
    bench.heal(tails)
    bench.advance(200)
    assert bench.get_any("B", S).value == "old"


def test_rule_13_a_newer_epoch_ends_a_read_lease() -> None:
    bench = bench_with_readers()
    bench.drop("P", "B")
    assert bench.get_any("B", [S, S2]).results == ["old", None]
    bench.decide(s="PBC")
    bench.tell("B")
    assert bench.get_any("B", [S, S2]).status == "MOVED"


# --- rule 14: what a backup may show ---------------------------------------------------------------------------------


def test_rule_14_a_backup_shows_nothing_that_it_does_not_know_to_be_committed() -> None:
    bench = bench_with_readers()
    acks = bench.hold("C", "P", "ACK")
    write = bench.put("P", S, "new")
    assert bench.held_by("B", S) == bench.held_by("P", S)
    assert bench.get_any("B", S).status == "MOVED"
    bench.advance(300)
    assert bench.get_any("B", S).status == "MOVED"
    bench.heal(acks)
    assert write.status == "OK"
    assert bench.get_any("B", S).status == "MOVED", "it has not heard yet"
    bench.advance(200)
    read = bench.get_any("B", [S, S2])
    assert (read.results, read.versions) == (["new", None], [write.version, 0])


def test_rule_14_what_a_slow_set_has_not_committed_is_not_shown_with_the_rest() -> None:
    bench = Bench(s="PB", t="PBC")
    bench.get_any("B", S)
    acks = bench.hold("C", "P", "ACK")
    slow = bench.put("P", T, "slow")
    fast = bench.put("P", S, "fast")
    bench.advance(300)
    assert (slow.status, fast.status) == ("UNANSWERED", "OK")
    assert bench.get_any("B", T).status == "MOVED"
    bench.heal(acks)
    bench.advance(300)
    assert bench.get_any("B", [T, S]).results == ["slow", "fast"]


def test_rule_14_entries_of_an_earlier_epoch_are_shown_once_activation_covers_them() -> None:
    bench = Bench(s="PBC", t="CPB")
    bench.drop("C", "P", "ACK")
    bench.put("P", S, "old")
    bench.crash("P")
    bench.faults.clear()
    bench.get_any("C", S)
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(300)
    assert bench.active("s") == "B"
    assert bench.get_any("C", S).value == "old"


# --- rule 15: read leases given are waited for -----------------------------------------------------------------------


def test_rule_15_a_primary_that_stays_waits_for_the_read_leases_of_who_was_dropped() -> None:
    bench = bench_with_readers()
    bench.cut("B")
    bench.change(s="PC", t="CP")
    bench.advance(100)
    assert bench.put("P", S, "new").status == "UNANSWERED"
    bench.advance(WAIT_MS)
    assert bench.put("P", S, "new").status == "OK"


@pytest.mark.parametrize("rates", EDGES)
def test_rule_15_no_backup_shows_the_past_of_a_set_that_dropped_it(rates: dict[str, float]) -> None:
    bench = bench_with_readers(rates=rates)
    for pid in "PC":
        bench.drop("B", pid)
        bench.drop(pid, "B")
    bench.decide(s="PC", t="CP")
    bench.tell("P", "C")
    overwritten = False
    for _ in range(200):
        bench.advance(5)
        overwritten = overwritten or bench.put("P", S, "new").status == "OK"
        read = bench.get_any("B", S)
        assert not overwritten or read.status == "MOVED"
    assert overwritten


def test_rule_15_an_acknowledgement_or_proof_ends_the_wait_for_a_reader() -> None:
    for how in ("fenced", "proof"):
        bench = bench_with_readers()
        if how == "proof":
            bench.crash("B")
        bench.change(s="PC", t="CP", dead="B" if how == "proof" else "")
        bench.advance(50)
        assert bench.put("P", S, "new").status == "OK"


@pytest.mark.parametrize("rates", EDGES)
def test_rule_15_a_successor_waits_for_readers_that_the_former_primary_leased(rates: dict[str, float]) -> None:
    """Schedule 8: a read lease with the clock rates at the edge of the margin."""
    bench = bench_with_readers(rates=rates)
    bench.crash("P")
    bench.drop("B", "C")
    bench.drop("C", "B")
    bench.decide(s="C", t="C", dead="P")
    bench.tell("C")  # P is proven dead; B is cut off, and may hold a read lease of P's
    overwritten = False
    for _ in range(160):
        bench.advance(5)
        overwritten = overwritten or bench.put("C", S, "new").status == "OK"
        read = bench.get_any("B", S)
        assert not overwritten or read.status == "MOVED"
    assert overwritten
