"""The schedules that random walks missed (SAFETY.md, at its end)."""

from __future__ import annotations

import pytest

from tests.scenario.bench import S2, T2, Bench, S, T
from zkv.core import wire


def test_schedule_1_a_refusal_whose_acknowledgement_was_lost() -> None:
    """Rule 6: B refuses s in batch 1, that ack is lost, batch 2 carries t and is acked cumulatively, P crashes."""
    bench = Bench(s="PBC", t="PB")
    bench.drop("*", "P", "MAP")  # P learns nothing but what acknowledgements say
    bench.drop("B", "C")
    bench.decide(s="PB")
    bench.tell("B")
    acks = bench.drop("B", "P", "ACK")
    on_s = bench.put("P", S, "one")
    assert bench.lost[-1].kind == "ACK"
    bench.heal(acks)
    on_t = bench.put("P", T, "two")
    assert on_t.status == "OK", "what is refused must not hold up the rest"
    stream = bench.node("P").local.outgoing[bench.boot("B")]
    assert stream.acked == stream.last_seq
    assert on_s.status == "UNANSWERED", "its batch is acknowledged by all, its entry is not"
    bench.crash("P")
    bench.crash("C")
    bench.faults.clear()
    bench.decide(s="B", t="B", dead="PC")
    bench.tell("B")
    bench.advance(50)
    assert bench.get("B", [S, T]).results == [None, "two"]
    assert on_s.status == "UNANSWERED"


def test_schedule_1_the_sender_learns_the_map_and_both_come_through() -> None:
    bench = Bench(s="PBC", t="PB")
    maps = bench.hold("*", "P", "MAP")
    bench.decide(s="PB")
    bench.tell("B")
    acks = bench.drop("B", "P", "ACK")
    on_s = bench.put("P", S, "one")
    bench.heal(acks)
    on_t = bench.put("P", T, "two")
    bench.heal(maps)
    bench.advance(50)
    assert (on_s.status, on_t.status) == ("OK", "OK")
    assert bench.held_by("B", S) == (on_s.version, "one", 0)


def reads_at(bench: Bench, pid: str) -> bool:
    """Whether a backup answers a read of S by itself."""
    return bench.get_any(pid, S).status == "OK"


def lease_reads(bench: Bench, pid: str) -> None:
    """Have a backup ask for read leases, and get them."""
    reads_at(bench, pid)
    bench.advance(130)
    assert reads_at(bench, pid)


def test_schedule_2_a_read_lease_that_was_given_before_the_learner_had_to_grant() -> None:
    """Rule 15 (b): L's last grant to P is old; P, on B's grants, gives B a read lease, then reports L; sets {P,B,L},
    then {L}; P proven dead, B cut off; L must wait for B."""
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", S, "old")
    chunks = bench.drop("P", "L", "BATCH")
    bench.change(s="PB+L")
    bench.advance(100)
    no_more = bench.drop("P", "L", "LEASE")
    bench.advance(400)  # L's last grant is old, and still covers the moment of the report
    lease_reads(bench, "B")
    bench.heal(chunks)
    bench.advance(200)
    bench.heal(no_more)
    bench.drop("B", "*")
    for sender in "PLM":
        bench.drop(sender, "B")
    if not bench.filled:
        bench.advance(50)
    assert bench.filled == {"s": {"L"}}
    bench.decide(s="PBL")
    bench.crash("P")
    bench.decide(s="L", t="L", dead="P")
    bench.tell("L")
    bench.heal(*[fault for fault in bench.faults if fault.sender == "B" and fault.receiver == "*"])
    bench.drop("B", "L")
    read_until = served_from = 0.0
    for _ in range(1500):
        bench.advance(1)
        if reads_at(bench, "B"):
            read_until = bench.now_ms
        if bench.active("s") == "L":
            served_from = bench.now_ms
            break
    assert 0 < read_until < served_from


def test_schedule_3_the_wait_list_names_whom_the_learner_never_saw() -> None:
    """Rule 1's wait list: L was filled by messages alone and never saw an entry that lists B."""
    bench = Bench(s="PB", t="BP", others="L")
    bench.drop("P", "M", "ACTIVE")  # the manager never hears that the second epoch was active
    bench.drop("*", "L", "MAP")
    bench.change(s="P")
    bench.advance(700)
    bench.faults.pop()
    bench.decide(s="P+L")
    bench.tell("P", "L")
    bench.advance(200)
    assert bench.filled == {"s": {"L"}}
    bench.crash("P")
    bench.drop("L", "B")
    bench.drop("B", "L")
    bench.decide(s="L", t="L", dead="P")
    bench.tell("L")
    waiting = bench.node("L").takeovers.running[0].wait
    assert waiting == {bench.boot("B")}, "named by the entry, not by what L has seen"
    bench.advance(600)
    assert bench.active("s") == ""
    bench.advance(100)
    assert bench.active("s") == "L"


def test_schedule_5_only_an_active_primary_fills_and_reports() -> None:
    """Rule 22: P, not active yet because B holds a read lease, would fill and report L, then be proven dead."""
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", S, "old")
    lease_reads(bench, "B")
    for other in "PLM":
        bench.drop(other, "B")
        bench.drop("B", other)
    bench.decide(s="P+L")
    bench.tell("P", "L")
    filled_at = read_until = 0.0
    for _ in range(1500):
        bench.advance(1)
        if reads_at(bench, "B"):
            read_until = bench.now_ms
        if bench.held_by("L", S) and not filled_at:
            filled_at = bench.now_ms
        if bench.filled:
            break
    assert 0 < read_until < filled_at
    assert bench.filled == {"s": {"L"}}


def test_schedule_6_a_fill_under_steady_load_finishes() -> None:
    """Rule 22: filled is every batch up to the commit point, and the commit point must not run away for ever."""
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", S2, "one")
    behind = bench.hold("L", "P", "ACK")
    bench.change(s="PB+L")
    for number in range(300):
        bench.put("P", S, f"v{number}")
        if len(behind.held or ()) > 3:
            bench.release(behind, 1)
        bench.advance(1)
        if bench.filled:
            break
    assert bench.filled == {"s": {"L"}}, "L is always three batches behind, and has to get in all the same"
    assert number < 250


def test_schedule_4_a_dropped_member_that_goes_on_receiving_our_grants() -> None:
    """Rule 15 (a): dropped B is primary of t and goes on receiving N's pair-wide grants; N must still activate."""
    bench = Bench(s="BNC", t="BN")
    bench.put("B", S, "one")
    bench.drop("*", "B", "MAP")
    bench.drop("N", "B", "FENCE")
    bench.decide(s="NC")
    bench.tell("N", "C")
    asked = bench.trace.count("N -> B GRANT")
    bench.advance(659)
    assert bench.trace.count("N -> B GRANT") > asked + 5
    assert bench.active("s") == "B"
    bench.advance(2)
    assert bench.serves("N", "s"), "grants by a map that knows of the change hold up nobody"
    assert not bench.serves("B", "s")
    assert bench.get("N", S).value == "one"


def test_schedule_7_a_first_try_that_arrives_after_everything() -> None:
    """Rule 19: the first try is cut off, the retry succeeds at N, the session is forgotten, P is primary again."""
    bench = Bench(s="PN", t="NP")
    cut_off = bench.hold("x", "P", "REQUEST")
    first = bench.put("P", S, "one", client="x")
    bench.change(s="NP")
    bench.advance(50)
    assert bench.again(first, "N").status == "OK"
    bench.put("N", S, "two", client="y")
    for pid in "PN":
        # No deadline outlives a session by the settings' relations; rule 19 must do without their help.
        bench.node(pid).local.sessions.expire(float("inf"))
    bench.change(s="PN")
    bench.advance(50)
    assert bench.get("P", S, client="y").value == "two"
    bench.heal(cut_off)
    assert first.status == "OLD_ROUTE"
    assert bench.get("P", S, client="y").value == "two", "a write takes effect at most once"


def test_schedule_8_a_tail_of_a_long_gone_primary_brings_nothing_back() -> None:
    """Rules 16, 17: entries adopted under epoch 2, deleted, forgotten; then another takeover with a tail."""
    bench = Bench(s="PBCD", t="DCBP", tombstone_ms=1000)
    bench.drop("P", "B", "BATCH")
    bench.drop("P", "C", "BATCH")
    bench.put("P", S, "on D alone")
    bench.put("P", S2, "on D alone")
    bench.crash("P")
    bench.faults.clear()
    bench.change(s="BCD", t="DCB", dead="P")
    bench.advance(50)
    assert bench.get("B", S).value == "on D alone"
    deleted = bench.delete("B", S)
    bench.advance(3000)
    assert deleted.status == "OK"
    assert [bench.held_by(pid, S) for pid in "BCD"] == [None, None, None], "the tombstone is gone"
    bench.drop("B", "C", "BATCH")
    bench.drop("B", "x")
    bench.put("B", S2, "half way")
    bench.crash("B")
    bench.faults.clear()
    tails = bench.hold("D", "C", "TAILS")
    bench.change(s="CD", t="DC", dead="B")
    assert tails.held
    ((_, _, _, rows),) = wire.decode_body(tails.held[0].data)
    assert [row[1:3] for row in rows] == [[S2, "half way"]], "a tail is what lies above the commit position"
    bench.heal(tails)
    bench.advance(50)
    assert bench.active("s") == "C"
    assert bench.get("C", [S, S2]).results == [None, "half way"]
    assert bench.held_by("D", S) is None


def test_schedule_8_batches_of_two_dead_primaries_make_one_tail() -> None:
    """Rule 17: a tail is read over the streams of all senders, and each adopts what the one before had adopted."""
    bench = Bench(s="PBCD", t="DCBP")
    bench.drop("P", "B", "BATCH")
    bench.drop("P", "D", "BATCH")
    bench.put("P", S, "on C alone")
    bench.crash("P")
    written = bench.held_by("C", S)
    bench.faults.clear()
    bench.drop("B", "D", "BATCH")  # B adopts it, and dies before D has it
    bench.change(s="BCD", t="DCB", dead="P")
    bench.advance(50)
    assert bench.held_by("B", S) == written
    assert bench.active("s") == ""
    bench.crash("B")
    bench.faults.clear()
    bench.change(s="DC", t="DC", dead="B")
    bench.advance(50)
    assert bench.active("s") == "D"
    assert bench.held_by("D", S) == written
    assert bench.get("D", S).value == "on C alone"


def test_schedule_8_the_former_primary_stays_as_a_backup_with_the_longest_tail() -> None:
    bench = Bench(s="PBC", t="CBP")
    bench.drop("P", "B", "BATCH")
    bench.drop("P", "C", "BATCH")
    write = bench.put("P", S, "on P alone")
    bench.change(s="BPC")
    bench.advance(50)
    assert write.status == "MAYBE"
    assert bench.get("B", S).value == "on P alone"
    assert bench.again(write, "B").version == bench.get("B", S).version
    bench.faults.clear()
    assert bench.held_by("C", S) == bench.held_by("P", S)


@pytest.mark.parametrize(("fast", "slow"), [("PN", ""), ("N", "P"), ("P", "N")])
def test_schedule_8_leases_with_the_clock_rates_at_the_edge_of_the_margin(fast: str, slow: str) -> None:
    """Rules 15, 29: P hears of nothing and serves as long as its clock lets it; N starts as soon as its own does."""
    bench = Bench(s="PN", t="NP", rates=dict.fromkeys(fast, 1.1) | dict.fromkeys(slow, 1.0))
    bench.put("P", S, "old")
    bench.put("N", T2, "two")
    bench.advance(119)
    bench.drop("N", "P")
    asked_last = bench.now_ms
    bench.decide(s="N", t="N")
    bench.advance(2)  # P's last question arrives, the answer does not
    bench.tell("N")
    served_until = served_from = 0.0
    for _ in range(1000):
        bench.advance(1)  # at every turn the bench checks that not both serve
        if bench.get("P", S).status == "OK":
            served_until = bench.now_ms
        if bench.get("N", S).status == "OK":
            served_from = bench.now_ms
            break
    assert asked_last < served_until < served_from <= bench.now_ms
    assert bench.get("N", S).value == "old"
