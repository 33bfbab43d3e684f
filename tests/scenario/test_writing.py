"""Rules 2 to 10: boot ids, fencing, learning the map, commit, refusals, streams, replies, deletes."""

from __future__ import annotations

import pytest

from tests.scenario.bench import S2, T2, Bench, S, T
from zkv.core import wire

# --- rule 2: boot ids ------------------------------------------------------------------------------------------------


def test_rule_02_a_frame_for_an_earlier_start_is_refused() -> None:
    bench = Bench(s="PB", t="PB")
    bench.crash("B")
    bench.start("B'")
    bench.tell("B'")
    ask = bench.put("P", S, "one")
    bench.advance(50)
    assert ask.status == "UNANSWERED"
    assert bench.node("B'").local.incoming == {}
    assert "B' -> P REFUSED" in bench.trace


def test_rule_02_an_acknowledgement_counts_for_its_own_boot_alone() -> None:
    bench = Bench(s="PB", t="PB", others="C")
    acks = bench.hold("B", "P", "ACK")
    ask = bench.put("P", S, "one")
    assert acks.held is not None
    ack = acks.held.pop()
    forged = wire.HEADER.pack(*wire.HEADER.unpack_from(ack.data)[:4], bench.boot("C"), bench.boot("P"), 1)
    ack.data = forged + ack.data[wire.HEADER.size :]
    bench.replay(ack)
    assert ask.status == "UNANSWERED"


# --- rule 3: fencing -------------------------------------------------------------------------------------------------


def test_rule_03_members_refuse_entries_of_an_epoch_below_the_one_they_know() -> None:
    bench = Bench(s="PBC", t="CBP")
    bench.drop("*", "P", "MAP")
    bench.decide(s="BC")
    bench.tell("B", "C")
    ask = bench.put("P", S, "stale")
    assert ask.status == "UNANSWERED"
    assert bench.held_by("B", S) is None
    assert bench.held_by("C", S) is None
    assert not bench.serves("P", "s")


def test_rule_03_the_fence_stands_while_only_one_member_knows() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.drop("*", "P", "MAP")
    bench.decide(s="BC")
    bench.tell("B")
    both = bench.put("P", [S, T], ["stale", "fresh"])
    other = bench.put("P", T2, "fresh")
    assert both.status == "UNANSWERED"
    assert other.status == "OK"
    assert bench.held_by("B", S) is None
    assert bench.held_by("B", T) == bench.held_by("C", T) == bench.held_by("P", T), "the rest of the batch was taken"


# --- rule 4: a refusal teaches the map -----------------------------------------------------------------------------


def test_rule_04_a_primary_pulls_the_map_from_the_member_that_refused_it() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.decide(s="PB")
    bench.tell("B")  # and there the manager dies, in mid-broadcast
    ask = bench.put("P", S, "one")
    assert bench.node("P").map.version == 2
    bench.advance(50)  # a grant that knows the change
    assert ask.status == "OK"
    assert bench.held_by("B", S) == (ask.version, "one", 0)


def test_rule_04_a_member_pulls_the_map_before_it_acts_on_an_epoch() -> None:
    bench = Bench(s="PBC", t="PBC")
    maps = bench.hold("P", "C", "MAP")
    bench.decide(s="PCB")
    bench.tell("P")
    ask = bench.put("P", T, "one")
    assert bench.node("B").map.version == 2
    assert ask.status == "UNANSWERED"
    assert bench.held_by("B", T) is not None
    assert bench.held_by("C", T) is None
    bench.heal(maps)
    assert ask.status == "OK"


def test_rule_04_a_node_pulls_the_map_from_a_client() -> None:
    bench = Bench(s="PB", t="PB", others="C")
    bench.client("x")
    bench.drop("B", "P")  # P hears of nothing but its client
    bench.decide(s="BP")
    bench.tell("x")
    ask = bench.put("P", T, "by x", client="x", routed_by=2)
    assert "P -> x MAP_PULL" in bench.trace
    assert "x -> P MAP" in bench.trace
    assert bench.node("P").map.version == 2
    assert ask.status == "UNANSWERED"


def test_rule_04_a_request_by_a_newer_map_waits_for_that_map() -> None:
    bench = Bench(s="PB", t="PB")
    bench.decide(s="BP")
    ask = bench.put("P", S, "one", routed_by=2)
    assert ask.status == "UNANSWERED"
    assert bench.held_by("P", S) is None
    bench.tell("P")
    assert ask.status == "MOVED"


# --- rule 5: commit --------------------------------------------------------------------------------------------------


def test_rule_05_a_write_waits_for_every_member_however_long() -> None:
    bench = Bench(s="PBC", t="PBC")
    acks = bench.drop("C", "P", "ACK")
    ask = bench.put("P", S, "one")
    assert bench.held_by("B", S) is not None
    bench.advance(20_000)
    assert ask.status == "UNANSWERED"
    bench.heal(acks)
    bench.advance(1000)
    assert ask.status == "OK"


def test_rule_05_the_lease_is_checked_again_before_the_acknowledgement() -> None:
    bench = Bench(s="PBC", t="PBC")
    acks = bench.hold("C", "P", "ACK")
    ask = bench.put("P", S, "one")
    grants = bench.drop("B", "P", "GRANT")
    bench.advance(700)
    bench.heal(acks)
    assert ask.status == "UNANSWERED"
    assert bench.node("P").serving.group_of[0].committed > 0  # type: ignore[union-attr]
    bench.heal(grants)
    bench.advance(50)
    assert ask.status == "OK"


def test_rule_05_acknowledgements_of_the_former_epoch_do_not_count() -> None:
    bench = Bench(s="PBC", t="BPC")
    acks = bench.hold("C", "P", "ACK")
    ask = bench.put("P", S, "one")
    tails = bench.hold("*", "P", "TAILS")
    bench.decide(s="PCB")
    bench.tell("P")
    bench.release(acks)
    assert ask.status == "UNANSWERED"
    bench.heal(tails, acks)
    bench.advance(50)  # a grant that knows the change
    assert ask.status == "OK"


# --- rule 6: partial refusal -----------------------------------------------------------------------------------------


def test_rule_06_a_refusal_is_repeated_until_a_batch_shows_the_newer_map() -> None:
    bench = Bench(s="PB", t="PB", others="C")
    bench.drop("*", "P", "MAP")
    acks = bench.hold("B", "P", "ACK")
    bench.decide(s="BP")
    bench.tell("B")
    bench.put("P", S, "refused")
    bench.put("P", T, "one")
    bench.put("P", T, "two")
    assert acks.held is not None
    refusals = [wire.decode_body(frame.data)[2] for frame in acks.held]
    assert refusals == [[[0, 2, 2]]] * 3
    bench.faults.clear()
    bench.tell("P")
    bench.advance(1)
    seen = bench.hold("B", "P", "ACK")
    bench.put("P", T, "three")
    assert seen.held is not None
    assert wire.decode_body(seen.held[0].data)[2] == []


def test_rule_06_what_is_refused_does_not_hold_up_the_rest_of_its_batch() -> None:
    bench = Bench(s="PB", t="PB")
    bench.drop("*", "P", "MAP")
    bench.decide(s="BP")
    bench.tell("B")
    batches = bench.hold("P", "B", "BATCH")
    refused, applied = bench.put("P", S, "one"), bench.put("P", T, "two")
    bench.heal(batches)
    assert applied.status == "OK"
    assert refused.status == "UNANSWERED"


# --- rule 7: streams -------------------------------------------------------------------------------------------------


def test_rule_07_a_gap_is_refused_and_sent_again() -> None:
    bench = Bench(s="PB", t="PB")
    lost = bench.drop("P", "B", "BATCH")
    first = bench.put("P", S, "one")
    bench.heal(lost)
    resent = bench.hold("P", "B", "BATCH")
    second = bench.put("P", S, "two")
    bench.release(resent, most=1)  # the second batch, behind the gap
    assert bench.held_by("B", S) is None
    bench.heal(resent)
    assert (first.status, second.status) == ("OK", "OK")
    assert bench.held_by("B", S) == (second.version, "two", 0)


def test_rule_07_a_batch_lost_without_a_successor_is_sent_again() -> None:
    bench = Bench(s="PB", t="PB")
    lost = bench.drop("P", "B", "BATCH")
    ask = bench.put("P", S, "one")
    bench.heal(lost)
    bench.advance(200)
    assert ask.status == "OK"


def test_rule_07_a_batch_that_comes_twice_is_applied_once() -> None:
    bench = Bench(s="PB", t="PB")
    held = bench.hold("P", "B", "BATCH")
    bench.put("P", S, "old")
    bench.put("P", S, "new")
    assert held.held is not None
    old = held.held[0]
    bench.heal(held)
    bench.replay(old)
    assert bench.held_by("B", S) == bench.held_by("P", S)


# --- rule 8: no reply before its commit ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["get", "exists", "delete of what a pending delete removed", "retry", "many"])
def test_rule_08_a_reply_waits_for_the_commit_of_what_it_shows(kind: str) -> None:
    bench = Bench(s="PB", t="PB")
    bench.put("P", S2, "before")
    acks = bench.hold("B", "P", "ACK")
    write = bench.put("P", S, "one")
    match kind:
        case "get":
            ask = bench.get("P", S, client="y")
        case "many":
            ask = bench.get("P", [S2, S, T], client="y")
        case "exists":
            ask = bench.exists("P", S, client="y")
        case "retry":
            ask = bench.again(write, "P")
        case _:
            bench.delete("P", S, client="z")
            ask = bench.delete("P", S, client="y")
    assert ask.status == "UNANSWERED"
    assert bench.get("P", S2).status == "OK", "what is committed is shown at once"
    bench.heal(acks)
    assert ask.status == ("UNMET" if kind.startswith("delete") else "OK")


def test_rule_08_a_delete_of_what_never_was_depends_on_nothing() -> None:
    bench = Bench(s="PB", t="PB")
    bench.drop("B", "P", "ACK")
    bench.put("P", S, "one")
    ask = bench.delete("P", S2)
    assert (ask.status, ask.version) == ("UNMET", 0)


def test_rule_08_the_commit_point_is_kept_per_replica_set() -> None:
    bench = Bench(s="PB", t="PC")
    acks = bench.hold("B", "P", "ACK")
    first = bench.put("P", S, "one")
    second = bench.put("P", T, "two")
    assert second.status == "OK", "a slow member holds up its own groups only"
    read = bench.get("P", S)
    assert (first.status, read.status) == ("UNANSWERED", "UNANSWERED")
    bench.heal(acks)
    assert (first.status, read.value) == ("OK", "one")


def test_rule_08_a_batch_over_two_sets_waits_for_both() -> None:
    bench = Bench(s="PB", t="PC")
    acks = bench.hold("B", "P", "ACK")
    ask = bench.put("P", [S, T], ["one", "two"])
    assert ask.status == "UNANSWERED"
    bench.heal(acks)
    assert ask.status == "OK"


# --- rules 9 and 10: outcomes, deletes -----------------------------------------------------------------------------


def test_rule_09_members_apply_the_outcome_not_the_condition() -> None:
    bench = Bench(s="PB", t="PB")
    bench.put("P", S, "one")
    held = bench.hold("P", "B", "BATCH")
    bench.delete("P", S)
    bench.delete("P", S)  # meets nothing: no outcome, no entry
    assert held.held is not None
    assert len(held.held) == 1
    bench.heal(held)
    assert bench.held_by("B", S) == bench.held_by("P", S)


def test_rule_10_a_delete_leaves_a_version_until_all_have_passed_it() -> None:
    bench = Bench(s="PBC", t="PBC", tombstone_ms=1000)
    bench.put("P", S, "one")
    acks = bench.hold("C", "P", "ACK")
    delete = bench.delete("P", S)
    bench.advance(3000)
    assert bench.held_by("P", S) is not None, "C has not passed it"
    bench.heal(acks)
    assert delete.status == "OK"
    read = bench.get("P", S)
    assert (read.status, read.value, read.version) == ("OK", None, delete.version)
    bench.advance(3000)
    assert [bench.held_by(pid, S) for pid in "PBC"] == [None, None, None]
    assert bench.get("P", S).version == 0


def test_rule_10_a_key_written_again_outlives_its_tombstone() -> None:
    bench = Bench(s="PB", t="PB", tombstone_ms=1000)
    bench.put("P", S, "one")
    bench.delete("P", S)
    bench.put("P", S, "two")
    bench.advance(3000)
    assert bench.get("P", S).value == "two"
    assert bench.held_by("B", S) == bench.held_by("P", S)
