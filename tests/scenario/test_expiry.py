"""Rule 28: expiry takes effect as its committed delete, at the primary alone, by a clock that nobody sets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.bench import S2, S3, T2, Bench, S, T
from zkv.core import wire
from zkv.core.node import expiring, streams
from zkv.core.shardmap import shard_of


def left_ms(bench: Bench, at: str, key: str) -> int:
    """What a TTL says."""
    left = bench.ttl(at, key).value
    assert type(left) is int
    return left


def test_rule_28_a_read_at_or_after_the_expiry_misses() -> None:
    bench = Bench(s="PB", t="BP")
    put = bench.put("P", S, "v", ttls=[100])
    bench.advance(99)
    read = bench.get("P", S)
    assert (read.value, read.version) == ("v", put.version)
    bench.advance(1)
    gone = bench.get("P", S)
    assert gone.value is None
    assert gone.version > put.version, "a delete like any other"
    assert bench.node("P").local.expired == 1


def test_rule_28_nobody_has_to_ask_for_it() -> None:
    bench = Bench(s="PBC", t="BPC")
    bench.put("P", [S, S2, S3], ["v"] * 3, ttls=[50, 120, 0])
    bench.advance(100)
    for pid in "PBC":
        assert [bench.held_by(pid, key) and bench.held_by(pid, key)[1] for key in (S, S2, S3)] == [None, "v", "v"]  # type: ignore[index]
    bench.advance(1000)
    for pid in "PBC":
        assert [bench.held_by(pid, key) is None for key in (S, S2, S3)] == [True, True, False], "not even a tombstone"
        assert bench.node(pid).local.store.expiry.count == 0


def test_rule_28_expiry_takes_effect_as_its_committed_delete() -> None:
    bench = Bench(s="PB", t="BP")
    put = bench.put("P", S, "v", ttls=[100])
    bench.advance(50)
    slow = bench.hold("P", "B", "BATCH")
    bench.advance(60)
    asks = [
        bench.get("P", S), bench.exists("P", S), bench.ttl("P", S), bench.delete("P", S), bench.touch("P", S, 5000),
        bench.op(wire.PUT_IF_PRESENT, "P", [S], ["w"]),
        bench.op(wire.DELETE_IF_VERSION, "P", [S], None, operands=[put.version]),
    ]  # fmt: skip
    assert {ask.status for ask in asks} == {"UNANSWERED"}
    assert bench.held_by("B", S)[:2] == (put.version, "v")  # type: ignore[index]
    bench.heal(slow)
    assert [ask.status for ask in asks] == ["OK"] * 3 + ["UNMET"] * 4
    assert [ask.value for ask in asks[:3]] == [None, False, None]


def test_rule_28_a_deposed_primary_expires_nothing_for_others() -> None:
    """Its delete is refused by who knows the newer epoch; the key goes by the successor's."""
    bench = Bench(s="PBC", t="BPC")
    bench.put("P", S, "v", ttls=[100])
    for kind in ("MAP", "MAP_DELTA"):
        bench.drop("*", "P", kind)
    bench.decide(s="BC")
    bench.tell("B", "C")
    bench.drop("B", "C", "BATCH")
    bench.advance(105)
    assert bench.held_by("C", S), "P's is refused, B's is lost"
    bench.faults.clear()
    bench.advance(2000)
    assert bench.active("s") == "B"
    assert bench.get("B", S).value is None
    assert bench.node("B").local.expired == 1


@pytest.mark.parametrize("op", [wire.PUT_IF_ABSENT, wire.INCR, wire.APPEND])
def test_rule_28_a_write_that_meets_an_expired_entry_begins_anew(op: int) -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", S, 5 if op == wire.INCR else "old", ttls=[100])
    bench.advance(100)
    bench.op(op, "P", [S], [2 if op == wire.INCR else "new"])
    assert bench.get("P", S).value == (2 if op == wire.INCR else "new")
    assert left_ms(bench, "P", S) == -1


def test_what_writes_do_to_an_expiry() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", [S, S2, S3], [1, "two", "three"], ttls=[5000] * 3)
    bench.op(wire.INCR, "P", [S], [1])
    bench.op(wire.APPEND, "P", [S2], ["!"])
    bench.put("P", S3, "three again")
    assert [bench.ttl("P", key).value for key in (S, S2, S3)] == [5000, 5000, -1]
    assert bench.touch("P", S2, 0).status == "OK"
    assert bench.touch("P", S3, 70).status == "OK"
    assert [bench.ttl("P", key).value for key in (S, S2, S3)] == [5000, -1, 70]
    assert bench.get("P", [S2, S3]).results == ["two!", "three again"]
    assert {key: bench.held_by("B", key) for key in (S, S2, S3)} == {
        key: bench.held_by("P", key) for key in (S, S2, S3)
    }
    bench.advance(70)
    assert bench.get("P", [S, S2, S3]).results == [2, "two!", None]
    assert bench.touch("P", S3, 70).status == "UNMET"
    assert bench.ttl("P", S3).value is None


def test_operations_of_one_request_see_the_expiries_that_those_before_them_set() -> None:
    bench = Bench(s="PB", t="BP")
    ops = bytes((wire.PUT, wire.TTL, wire.TOUCH, wire.TTL, wire.PUT, wire.TTL))
    ask = bench.mixed("P", ops, [S] * 6, ["v", None, None, None, "w", None], ttls=[50, 0, 700, 0, 0, 0])
    assert ask.results == [None, 50, None, 700, None, -1]
    bench.advance(1000)
    assert bench.get("P", S).value == "w"


# --- more than a turn can do -----------------------------------------------------------------------------------------


def test_rule_28_where_more_is_due_than_a_turn_deletes_what_is_met_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiring, "RECLAIMED_AT_ONCE", 1)
    bench = Bench(s="PB", t="PB")
    keys = [f"k{number}" for number in range(40)]
    bench.put("P", keys, ["v"] * 40, ttls=[100] * 40)
    bench.pause("P")
    bench.advance(100)
    read = bench.get("P", keys)
    mixed = bench.mixed("P", bytes((wire.EXISTS, wire.PUT_IF_ABSENT)), [keys[0]] * 2, [None, "new"])
    bench.resume("P")
    assert read.results == [None] * 40
    assert mixed.statuses == ["OK", "OK"]
    assert mixed.results[0] is False
    bench.advance(200)
    assert bench.node("P").local.expired == 40
    assert bench.get("P", keys[0]).value == "new"


def test_rule_28_a_backup_that_takes_no_more_does_not_keep_the_expired_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(s="PB", t="PC")
    bench.put("P", [S, S2, T], ["v"] * 3, ttls=[100] * 3)
    monkeypatch.setattr(streams, "WINDOW_BATCHES", 3)
    deaf = bench.drop("P", "B", "BATCH")
    writes = [bench.put("P", S3, number) for number in range(4)]
    assert writes[3].status == "BUSY"
    bench.advance(110)
    assert bench.get("P", T).value is None, "another backup's shard goes on"
    assert bench.held_by("C", T) is None or bench.held_by("C", T)[1] is None  # type: ignore[index]
    read = bench.get("P", S)
    assert read.status == "UNANSWERED", "it is deleted as it is met, and that is not committed"
    bench.heal(deaf)
    bench.advance(1000)
    assert (read.status, read.value) == ("OK", None)
    assert bench.held_by("B", S2) is None, "what nobody met goes once there is room"


def test_rule_28_a_backup_that_takes_no_more_is_sent_no_more_of_what_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(s="PB", t="PC")
    keys = [f"k{number}" for number in range(60) if shard_of(f"k{number}", 2) == 0][:20]
    bench.put("P", keys, ["v"] * 20, ttls=[100 + 10 * number for number in range(20)])
    monkeypatch.setattr(streams, "WINDOW_BATCHES", 3)
    deaf = bench.drop("P", "B", "BATCH")
    for number in range(3):
        bench.put("P", S3, number)
    bench.advance(400)
    assert len(bench.node("P").local.outgoing[bench.boot("B")].unacked) == 3
    bench.heal(deaf)
    bench.advance(1500)
    assert bench.get("P", keys).results == [None] * 20
    assert not set(keys) & set(bench.node("B").local.store.tables[0])


# --- backups ---------------------------------------------------------------------------------------------------------


def test_rule_28_a_backup_near_an_expiry_sends_readers_to_the_primary_and_deletes_nothing() -> None:
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", [S, S2], ["v", "w"], ttls=[1000, 0])
    bench.get_any("B", S)
    bench.advance(400)
    assert bench.get_any("B", [S, S2]).results == ["v", "w"]
    assert bench.op(wire.GET_STALE, "B", [S], None).value == "v"
    bench.advance(510)
    for op in (wire.GET_ANY, wire.GET_STALE):
        read = bench.op(op, "B", [S, S2], None)
        assert (read.statuses, read.results[1]) == (["MOVED", "OK"], "w")
    bench.hold("P", "*", "BATCH")
    bench.advance(5000)
    for pid in "BC":
        assert bench.held_by(pid, S)[1] == "v", "only the primary's delete takes it away"  # type: ignore[index]


def test_rule_28_a_backup_without_cluster_time_shows_nothing_that_expires() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", [S, S2], ["v", "w"], ttls=[10**6, 0])
    bench.timeless = True
    bench.start("N")
    bench.change(s="PB+N")
    bench.advance(200)
    bench.change(s="PBN")
    bench.advance(100)
    bench.get_any("N", S)
    bench.advance(200)
    assert bench.get_any("N", [S, S2]).statuses == ["MOVED", "OK"]
    bench.timeless = False
    bench.advance(1500)
    assert bench.get_any("N", [S, S2]).results == ["v", "w"]


# --- taking over -----------------------------------------------------------------------------------------------------


def test_rule_28_what_was_due_at_a_backup_is_reclaimed_by_the_new_primary() -> None:
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", [S, S2, S3], ["v"] * 3, ttls=[100, 10_000, 0])
    bench.crash("P")
    bench.advance(200)
    assert bench.held_by("B", S)[1] == "v"  # type: ignore[index]
    slow = bench.hold("B", "C", "BATCH")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    read = bench.get("B", [S, S2, S3])
    assert read.status == "UNANSWERED"
    bench.heal(slow)
    bench.advance(50)
    assert read.results == [None, "v", "v"]
    assert bench.held_by("C", S) is None or bench.held_by("C", S)[1] is None  # type: ignore[index]
    assert left_ms(bench, "B", S2) == 10_000 - 300
    bench.advance(10_000 - 300)
    assert bench.get("B", S2).value is None


def test_rule_28_the_first_read_after_an_activation_meets_nothing_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in the very turn of the activation, before anything of it was reclaimed."""
    monkeypatch.setattr(expiring, "RECLAIMED_AT_ONCE", 1)
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", [S, S2, S3], ["v"] * 3, ttls=[100] * 3)
    bench.crash("P")
    bench.advance(200)
    tails = bench.hold("C", "B", "TAILS")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(5)
    read = bench.get("B", [S3, S2, S])
    assert bench.node("B").local.fired["requests parked"] == 1
    bench.heal(tails)
    bench.advance(50)
    assert read.results == [None] * 3


@pytest.mark.parametrize("reached", "BC")
def test_rule_28_an_adopted_tail_brings_its_expiries(reached: str) -> None:
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", S2, "w", ttls=[300])
    bench.drop("P", "B" if reached == "C" else "C", "BATCH")
    put = bench.put("P", S, "v", ttls=[500])
    touch = bench.touch("P", S2, 5000)
    assert put.status == touch.status == "UNANSWERED"
    bench.advance(50)
    bench.crash("P")
    bench.faults.clear()
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    assert (left_ms(bench, "B", S), left_ms(bench, "B", S2)) == (400, 4900)
    assert bench.again(put, "B").version == bench.held_by("C", S)[0]  # type: ignore[index]
    assert bench.again(touch, "B").status == "OK"
    assert bench.held_by("C", S2) == bench.held_by("B", S2)
    bench.advance(350)
    assert bench.get("B", S2).value == "w", "the touch counts"
    bench.advance(50)
    assert bench.get("B", S).value is None
    assert bench.held_by("C", S) is None or bench.held_by("C", S)[1] is None  # type: ignore[index]


def test_rule_28_a_fill_brings_expiries_and_what_expired_meanwhile_goes() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", [S, S2, S3], ["v", "w", "x"], ttls=[1000, 150, 0])
    slow = bench.hold("P", "L", "BATCH")
    bench.change(s="PB+L")
    bench.advance(300)
    bench.heal(slow)
    bench.advance(300)
    assert bench.filled == {"s": {"L"}}
    assert bench.node("L").local.store.tables[0] == bench.node("P").local.store.tables[0]
    assert bench.node("L").local.store.expiry.count == 1
    bench.change(s="L")
    bench.advance(390)
    assert bench.get("L", [S, S2, S3]).results == ["v", None, "x"]
    bench.advance(10)
    assert bench.get("L", [S, S2, S3]).results == [None, None, "x"]


def test_rule_28_a_shard_that_leaves_takes_its_expiries_with_it() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", [S, S2], ["v", "w"], ttls=[400, 100])
    bench.advance(101)
    bench.change(s="BP", t="BP")
    bench.change(s="B", t="B")
    bench.advance(1000)
    assert bench.node("P").local.store.expiry.count == 0
    assert bench.node("P").local.store.bytes == 0
    assert bench.get("B", [S, S2]).results == [None, None]


# --- cluster time ----------------------------------------------------------------------------------------------------


def test_rule_28_before_cluster_time_is_known_nothing_is_given_a_time_to_live() -> None:
    bench = Bench(s="PB", t="BP", timeless=True)
    assert bench.put("P", S, "v").status == "OK"
    for ask in (
        bench.put("P", S, "w", ttls=[100]),
        bench.put("P", [S, S2], ["w", "w"], ttls=[0, 100]),
        bench.touch("P", S, 100),
        bench.ttl("P", S),
        bench.mixed("P", bytes((wire.PUT, wire.TTL)), [S, S], ["w", None]),
        bench.mixed("P", bytes((wire.TOUCH, wire.GET)), [S, S], [None, None], ttls=[5, 0]),
    ):
        assert set(ask.statuses) == {"NOT_READY"}
        assert bench.get("P", S).value == "v"
    assert bench.touch("P", S, 0).status == "OK", "to be there for ever needs no clock"
    assert bench.put("P", S, "x", ttls=[0]).status == "OK"
    bench.timeless = False
    bench.advance(1500)
    assert bench.put("P", S, "w", ttls=[100]).status == "OK"
    assert left_ms(bench, "P", S) == 100


def test_rule_28_a_primary_that_does_not_know_the_time_shows_nothing_that_may_have_expired() -> None:
    """It joined while the manager did not know it, was filled, and the others died."""
    bench = Bench(s="PB", t="BP")
    bench.put("P", [S, S2], ["v", "w"], ttls=[300, 0])
    bench.timeless = True
    bench.start("L")
    bench.change(s="PB+L")
    bench.advance(150)
    assert bench.filled == {"s": {"L"}}
    bench.change(s="L", t="BP")
    bench.advance(1000)
    assert bench.active("s") == "L"
    for ask in (bench.get("L", S), bench.exists("L", S), bench.scan("L"), bench.op(wire.GETSET, "L", [S], ["x"])):
        assert ask.status == "NOT_READY"
    bench.timeless = False
    bench.advance(1500)
    assert bench.get("L", [S, S2]).results == [None, "w"]


@pytest.mark.parametrize("stepped_ms", [-3_600_000, 3_600_000])
def test_rule_28_a_stepped_wall_clock_expires_nothing(stepped_ms: int) -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", [S, S2], ["v", "w"], ttls=[4000, 20_000])
    bench.stepped_ms = stepped_ms
    bench.manager_boot = 8
    for pid in "PB":
        bench.welcome(pid)
    bench.advance(3000)
    assert bench.get("P", S).value == "v"
    bench.advance(2000)
    assert bench.get("P", [S, S2]).results == [None, "w"]


def test_rule_28_clocks_that_run_at_different_rates_agree_on_the_time() -> None:
    bench = Bench(s="PB", t="BP", rates={"P": 1.04, "B": 0.96})
    bench.advance(20_000)
    bench.put("P", S, "v", ttls=[10_000])
    bench.advance(5000)
    bench.change(s="BP")
    bench.advance(100)
    assert bench.active("s") == "B"
    bench.advance(4900 - 150)
    assert bench.get("B", S).value == "v"
    bench.advance(300)
    assert bench.get("B", S).value is None


# --- identities ------------------------------------------------------------------------------------------------------


def test_rule_24_a_touch_that_was_done_is_not_done_again() -> None:
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", S, "v", ttls=[1000])
    lost = bench.drop("P", "x")
    first = bench.touch("P", S, 5000, client="x")
    bench.heal(lost)
    bench.advance(100)
    bench.touch("P", S, 300, client="y")
    bench.crash("P")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    version = bench.held_by("B", S)[0]  # type: ignore[index]
    again = bench.again(first, "B")
    assert (again.status, again.version < version) == ("OK", True)
    assert left_ms(bench, "B", S) == 250
    bench.advance(250)
    assert bench.again(first, "B").status == "OK", "it was done"
    assert bench.get("B", S).value is None, "and does not bring back what has expired since"


def test_rule_24_a_read_before_a_touch_that_was_done_is_overtaken() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", S, "v", ttls=[1000])
    lost = bench.drop("P", "x")
    first = bench.mixed("P", bytes((wire.TTL, wire.TOUCH, wire.TTL)), [S] * 3, [None] * 3, ttls=[0, 5000, 0])
    bench.heal(lost)
    again = bench.again(first, "P")
    assert again.statuses == ["OVERTAKEN", "OK", "OK"]
    assert again.results[2] == 5000


def test_rule_24_a_touch_that_met_nothing_is_not_done_later() -> None:
    bench = Bench(s="PB", t="BP")
    first = bench.touch("P", S, 5000, client="x")
    assert first.status == "UNMET"
    bench.put("P", S, "v", ttls=[1000], client="y")
    assert bench.again(first, "P").status == "UNMET"
    assert left_ms(bench, "P", S) == 1000


def test_rule_27_an_early_touch_says_nothing_of_what_is_not_committed() -> None:
    bench = Bench(s="PB", t="BP")
    slow = bench.hold("P", "B", "BATCH")
    bench.put("P", S, "v", ack="primary")
    touch = bench.touch("P", S, 100, ack="primary")
    assert touch.status == "UNANSWERED", "it says that there is something"
    bench.heal(slow)
    assert touch.status == "OK"


# --- what clients may send -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttls", [[2**42 + 1], [2**64 - 1], [5, 5], [0, 0], []])
def test_a_time_to_live_that_makes_no_sense_is_refused(ttls: list[int]) -> None:
    bench = Bench(s="PB", t="BP")
    assert bench.put("P", S, "v", ttls=ttls).status == "REFUSED"
    assert bench.put("P", S, "v", ttls=[2**42]).status == "OK"
    assert left_ms(bench, "P", S) == 2**42
    bench.advance(10_000)
    assert bench.get("P", S).value == "v"


def test_a_key_named_for_a_wrong_shard_harms_nobody_else() -> None:
    """Only the first key of a request is compared with its shard: so one key can be in both."""
    bench = Bench(s="PBC", t="PBC")

    def both(value: Any, ttls: list[int]) -> None:
        lies = [shard_of(S, 2), 1 - shard_of(S2, 2), shard_of(S2, 2)]
        assert bench.put("P", [S, S2, S2], [value] * 3, ttls=ttls, shards=lies).status == "OK"

    for span in (50, 5000, 20_000):
        both("v", [0, span, span + 1])
        both("w", [0, 0, 0])
        both("v", [0, span, span])
        bench.put("P", [T, T2], ["t", "u"], ttls=[span, 0])
        bench.advance(span / 2)
        bench.delete("P", S2)
        bench.advance(span)
        assert bench.get("P", [T, T2]).results == [None, "u"]
    bench.crash("P")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(1000)
    assert bench.put("B", S, "v", ttls=[100]).status == "OK"
    bench.advance(100)
    assert bench.get("B", S).value is None
