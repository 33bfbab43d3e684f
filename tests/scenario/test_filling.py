"""Making new copies (SAFETY 20-23): who is filled with what, when it counts, and what may go wrong meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.bench import S2, S3, Bench, S, T
from zkv.core.node import filling


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry a chunk, one chunk under way: so that something can happen in the middle."""
    monkeypatch.setattr(filling, "CHUNK_ENTRIES", 1)
    monkeypatch.setattr(filling, "WINDOW_CHUNKS", 1)


def filled(bench: Bench, shard: str = "s", *, learners: str = "L") -> bool:
    """Let time pass until the manager was told, or half a second is over."""
    for _ in range(50):
        bench.advance(10)
        if bench.filled.get(shard, set()) == set(learners):
            return True
    return False


def entries(bench: Bench, pid: str) -> dict[Any, tuple[int, Any, int]]:
    return bench.node(pid).local.store.opened(0)


def test_rule_20_to_22_a_learner_is_filled_and_takes_over() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", [S, S2], ["one", "two"])
    bench.delete("P", S2)
    bench.change(s="PB+L")
    assert filled(bench)
    assert entries(bench, "L") == entries(bench, "P"), "tombstones too"
    bench.put("P", S3, "three")
    bench.change(s="LPB")
    bench.advance(50)
    assert bench.active("s") == "L"
    assert bench.get("L", [S, S2, S3]).results == ["one", None, "three"]


def test_rule_05_a_filled_learner_is_waited_for_and_one_that_is_being_filled_is_not() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", S, "one")
    deaf = bench.drop("P", "L", "BATCH")
    bench.change(s="PB+L")
    assert bench.put("P", S, "two").status == "OK", "a learner that is being filled holds up nobody"
    bench.heal(deaf)
    assert filled(bench)
    bench.drop("P", "L", "BATCH")
    held = bench.put("P", S, "three")
    bench.advance(100)
    assert held.status == "UNANSWERED", "one that was reported does"
    bench.change(s="PB")
    bench.advance(50)
    assert held.status == "OK"


def test_rule_11_a_filled_learner_s_grants_are_required() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.change(s="PB+L")
    assert filled(bench)
    bench.drop("L", "P", "GRANT")
    bench.advance(700)
    assert not bench.serves("P", "s")
    assert bench.serves("B", "t"), "other shards do not mind"


def test_rule_20_a_fill_starts_from_empty_and_anew_at_every_epoch() -> None:
    bench = Bench(s="PBL", t="BP", tombstone_ms=0)
    bench.put("P", [S, S2], ["one", "two"])
    bench.change(s="PB")
    assert entries(bench, "L") == {}, "who is dropped keeps nothing"
    bench.drop("P", "L", "BATCH")
    bench.change(s="PB+L")
    bench.faults.clear()
    bench.advance(200)
    assert entries(bench, "L").keys() == {S, S2}
    bench.delete("P", S)
    deaf = bench.hold("B", "L", "BATCH")
    bench.change(s="BP+L")
    assert entries(bench, "L") == {}, "a new epoch, a new fill"
    bench.heal(deaf)
    assert filled(bench)
    assert bench.get("B", [S, S2]).results == [None, "two"]
    assert entries(bench, "L")[S2] == entries(bench, "B")[S2]


def test_rule_20_what_a_dropped_member_alone_had_does_not_come_back() -> None:
    """An uncommitted write on L alone is lost with its primary; L is dropped before it could offer it, and returns."""
    bench = Bench(s="PBL", t="BP")
    bench.put("P", S, "old")
    bench.drop("P", "B", "BATCH")
    lost = bench.put("P", S, "on P and L alone")
    assert lost.status == "UNANSWERED"
    bench.crash("P")
    bench.faults.clear()
    bench.change(s="B", t="B", dead="P")  # L too is given up
    bench.advance(800)
    assert bench.get("B", S).value == "old"
    bench.change(s="B+L")
    assert filled(bench)
    bench.change(s="LB")
    bench.advance(50)
    assert bench.get("L", S).value == "old"
    retry = bench.again(lost, "L")
    assert retry.status == "OK"
    assert bench.get("L", S).value == "on P and L alone", "the retry was executed, not remembered from a former life"
    assert entries(bench, "B")[S] == entries(bench, "L")[S]


def test_rule_20_a_tail_from_a_former_membership_is_not_offered() -> None:
    bench = Bench(s="PBL", t="BPL")
    bench.drop("P", "B", "BATCH")
    lost = bench.put("P", S, "on P and L alone")
    bench.crash("P")
    bench.faults.clear()
    bench.decide(s="B", t="B", dead="P")
    bench.drop("B", "L")
    bench.tell("B")  # L does not hear that it was dropped, and next of all that it is a learner
    bench.advance(800)
    bench.faults.clear()
    bench.change(s="B+L")
    assert filled(bench)
    bench.crash("B")
    bench.change(s="L", t="L", dead="B")
    bench.advance(50)
    assert lost.status == "UNANSWERED"
    assert bench.node("L").local.tails.collect((0,), lambda shard: 0)[0] == []
    assert bench.get("L", S).value is None


def test_rule_20_no_tombstone_goes_while_a_learner_fills() -> None:
    """Schedule 8: the key was on its way to the learner when it was deleted and forgotten by the others."""
    bench = Bench(s="PB", t="BP", others="L", tombstone_ms=0)
    bench.put("P", S, "one")
    bench.drop("L", "P", "GRANT")  # everything is sent, but it may not join
    bench.change(s="PB+L")
    bench.advance(100)
    bench.delete("P", S)
    bench.advance(300)
    assert S in entries(bench, "P"), "the tombstone is still there"
    bench.faults.clear()
    assert filled(bench)
    bench.change(s="PBL")
    bench.advance(300)
    assert [entries(bench, pid) for pid in "PBL"] == [{}, {}, {}], "now it is not needed any more"


def test_rule_21_a_chunk_never_overwrites_what_is_newer() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", [S, S2, S3], ["one", "two", "three"])
    slow = bench.hold("P", "L", "BATCH")
    bench.change(s="PB+L")
    bench.put("P", [S, S2, S3], ["ONE", "TWO", "THREE"])
    bench.heal(slow)
    assert filled(bench)
    assert entries(bench, "L") == entries(bench, "P")


def test_rule_21_a_chunk_that_was_made_before_a_write_and_comes_after_it() -> None:
    store = Bench(s="PB", t="BP").node("P").local.store
    store.apply((0, 0), ("a", "b"), (7, 8), ("new", None))
    store.fill(0, ["a", "b", "c"], [3, 4, 5], ["old", "old", "kept"], [0, 0, 0], 0.0)
    assert {key: store.opened(0)[key] for key in "abc"} == {
        "a": (7, "new", 0), "b": (8, None, 0), "c": (5, "kept", 0),
    }  # fmt: skip


def test_rule_22_a_report_counts_for_its_epoch_alone_and_is_repeated() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    acks = bench.drop("M", "P", "FILLED_ACK")
    bench.change(s="PB+L")
    assert filled(bench)
    bench.advance(1000)
    told = bench.trace.count("P -> M FILLED")
    assert told > 3, "until the manager answers"
    bench.heal(acks)
    bench.advance(1000)
    told = bench.trace.count("P -> M FILLED")
    bench.advance(1000)
    assert bench.trace.count("P -> M FILLED") == told
    bench.manager_boot = 8
    bench.welcome("P")
    assert bench.trace.count("P -> M FILLED") == told + 1, "another manager may have forgotten it"
    bench.drop("B", "L", "BATCH")
    bench.change(s="BP+L")
    bench.advance(1000)
    assert bench.filled == {}, "the next epoch's fill has yet to be done"


def test_rule_22_filled_is_what_was_acknowledged_not_what_was_sent() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", [S, S2], ["one", "two"])
    bench.drop("L", "P", "ACK")
    bench.change(s="PB+L")
    assert not filled(bench)
    bench.faults.clear()
    assert filled(bench)


def test_rule_22_and_not_before_everything_committed_is_acknowledged() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.drop("L", "P", "GRANT")
    bench.change(s="PB+L")
    bench.advance(100)
    assert bench.put("P", S, "committed without L").status == "OK"
    bench.drop("P", "L", "BATCH")
    assert bench.put("P", S, "and this on its way to L").status == "OK"
    for fault in [fault for fault in bench.faults if fault.kind == "GRANT"]:
        bench.heal(fault)
    assert not filled(bench)
    bench.faults.clear()
    assert filled(bench)
    assert entries(bench, "L") == entries(bench, "P")


def test_rule_23_a_fill_carries_sessions_with_their_watermarks() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    first = bench.put("P", S, "one", client="x")
    bench.put("P", S, "two", client="x")
    late = bench.put("P", [S, T][:1], ["three"], client="y", watermark=0)
    bench.put("P", S2, "four", client="y", watermark=2)  # y is done with its first batch
    bench.change(s="PB+L")
    assert filled(bench)
    bench.change(s="L")
    bench.advance(800)
    again = bench.again(first, "L")
    assert (again.status, again.version) == ("OK", first.version), "the first result"
    assert bench.again(late, "L").status == "EXPIRED", "never executed a second time"
    assert bench.get("L", S).value == "three"


def test_a_learner_that_dies_after_its_report_is_dropped_and_the_write_goes_through() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.change(s="PB+L")
    assert filled(bench)
    bench.crash("L")
    held = bench.put("P", S, "one")
    assert held.status == "UNANSWERED"
    bench.change(s="PB", dead="L")
    bench.advance(50)
    assert held.status == "OK"


def test_a_set_of_one_fills_its_learner_and_is_not_held_up_by_it() -> None:
    bench = Bench(s="P", t="P", others="L")
    bench.put("P", S, "one")
    deaf = bench.drop("P", "L", "BATCH")
    bench.change(s="P+L")
    assert bench.put("P", S2, "two").status == "OK"
    bench.heal(deaf)
    assert filled(bench)
    bench.put("P", S3, "three")
    bench.change(s="L")
    bench.advance(800)
    assert bench.get("L", [S, S2, S3]).results == ["one", "two", "three"]


def test_two_learners_are_filled_side_by_side_and_reported_one_by_one() -> None:
    bench = Bench(s="P", t="P", others="LM".replace("M", "N"))
    bench.put("P", [S, S2], ["one", "two"])
    slow = bench.drop("N", "P", "ACK")
    bench.change(s="P+LN")
    assert filled(bench, learners="L")
    bench.heal(slow)
    assert filled(bench, learners="LN")
    bench.change(s="NLP")
    bench.advance(50)
    assert bench.get("N", [S, S2]).results == ["one", "two"]


def test_a_shard_born_anew_meets_no_data_of_its_former_life() -> None:
    """SAFETY 33: a member that missed everything in between is named in the set of a shard that was reset."""
    bench = Bench(s="PB", t="PB", others="C")
    bench.put("P", S, "old")
    deaf = [bench.drop("*", "B"), bench.drop("B", "*")]
    bench.change(s="P")
    bench.advance(800)
    bench.crash("P")
    bench.decide(s="BC", t="BC", dead="P")
    bench.reborn("s")
    bench.heal(*deaf)
    bench.tell("B", "C")
    bench.advance(800)
    assert bench.get("B", S).value is None
    assert bench.put("B", S, "new").status == "OK"


def test_a_withheld_shard_keeps_its_data_and_serves_nobody() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", S, "one")
    deaf = bench.drop("B", "P", "ACK")
    held = bench.put("P", S2, "two")
    bench.decide(s="PB")
    bench.withhold("s")
    bench.tell("P", "B")
    assert held.status == "MAYBE"
    bench.heal(deaf)
    bench.advance(1000)
    assert bench.active("s") == ""
    assert bench.get("P", S).status == "NOT_READY"
    bench.change(s="PB")
    bench.advance(1000)
    assert bench.get("P", S).value == "one"
    assert bench.again(held, "P").status == "OK"


# --- pace -----------------------------------------------------------------------------------------------------------


def bench_with_much(**settings: Any) -> Bench:
    """P of s holds 300 values of a thousand bytes; L is to learn them."""
    bench = Bench(s="PB", t="BP", others="L", **settings)
    store = bench.node("P").local.store
    keys = [f"k{number}" for number in range(300)]
    store.fill(0, keys, [1] * 300, ["x" * 1000] * 300, [0] * 300, 0.0)
    return bench


@pytest.fixture
def usual_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "CHUNK_ENTRIES", 512)
    monkeypatch.setattr(filling, "WINDOW_CHUNKS", 4)


@pytest.mark.usefixtures("usual_chunks")
def test_fills_keep_to_their_bandwidth() -> None:
    bench = bench_with_much(fill_bytes_per_s=100_000)
    bench.change(s="PB+L")
    bench.advance(1000)
    assert 50_000 < bench.node("P").local.fill_bytes < 200_000, "a second's worth, and a chunk"
    assert not bench.filled
    bench.advance(3000)
    assert bench.filled == {"s": {"L"}}


@pytest.mark.usefixtures("usual_chunks")
def test_few_chunks_are_under_way_at_once() -> None:
    bench = bench_with_much()
    held = bench.hold("L", "P", "ACK")
    bench.change(s="PB+L")
    bench.advance(50)
    assert bench.node("P").local.fired["chunks sent"] == 4
    bench.heal(held)
    bench.advance(200)
    assert bench.filled == {"s": {"L"}}


@pytest.mark.usefixtures("usual_chunks")
@pytest.mark.parametrize("late", [False, True])
def test_fills_yield_to_clients_while_chunks_come_late(late: bool) -> None:
    bench = bench_with_much(fill_bytes_per_s=8_000_000)
    acks = bench.hold("L", "P", "ACK") if late else None
    bench.put("P", S, "v")
    bench.change(s="PB+L")
    for _ in range(60):
        bench.put("P", S, "v")  # clients keep it busy
        bench.advance(10)
        if acks is not None:
            bench.release(acks)
    sent = bench.node("P").local.fill_bytes
    # 0.6 s: a thirty-second part of the bandwidth is 150 kB, and a chunk of a busy node 16 kB.
    assert sent < 180_000 if late else sent > 180_000


def test_a_value_longer_than_a_chunk_travels_by_itself() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", S, "x" * 300_000)
    bench.change(s="PB+L")
    assert filled(bench)
    assert entries(bench, "L") == entries(bench, "P")


def test_rule_20_a_shard_that_leaves_a_fill_and_comes_back_is_sent_again() -> None:
    """Its learner has cleared it, and the other shard of the group keeps the fill alive meanwhile."""
    bench = Bench(s="PB", t="PB", others="L")
    bench.put("P", [S, S2, S3, T], ["one", "two", "three", "t1"])
    long = bench.drop("L", "P", "GRANT")  # without a grant no learner joins: so the fill of t takes long
    bench.change(s="PB+L", t="PB+L")
    bench.advance(300)
    assert entries(bench, "L") == entries(bench, "P")
    bench.change(s="PB")
    bench.advance(50)
    assert entries(bench, "L") == {}
    bench.change(s="PB+L")
    bench.heal(long)
    assert filled(bench)
    assert entries(bench, "L") == entries(bench, "P")


def test_rule_23_sessions_of_one_client_travel_in_pieces() -> None:
    """A client with thousands of operations must not make a turn as long as a lease."""
    bench = Bench(s="PB", t="BP", others="L")
    writes = [bench.put("P", S, f"v{number}", client="x") for number in range(20)]
    bench.change(s="PB+L")
    assert filled(bench)
    pieces = bench.node("P").local.fired["chunks sent"]
    assert pieces >= 20, "one remembered operation a piece, as CHUNK_ENTRIES is 1"
    bench.change(s="LPB")
    bench.advance(50)
    assert [bench.again(write, "L").version for write in writes] == [write.version for write in writes]
