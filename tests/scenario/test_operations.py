"""Operations that look before they write, at the nodes: what they answer, what is remembered, when it may be shown."""

from __future__ import annotations

import pytest

from tests.scenario.bench import S2, S3, Bench, S, T
from zkv.core import wire
from zkv.core.node import sessions, walks


def held(bench: Bench, pid: str, key: str) -> object:
    """The value in a node's store."""
    entry = bench.held_by(pid, key)
    return None if entry is None else entry[1]


MIXED = bytes((wire.PUT, wire.INCR, wire.GET, wire.DELETE, wire.EXISTS))


def test_operations_of_one_request_see_those_before_them() -> None:
    bench = Bench(s="PB", t="PB")
    ask = bench.mixed("P", MIXED, [S] * 5, [1, 4, None, None, None])
    assert ask.statuses == ["OK"] * 5
    assert ask.results == [None, 5, 5, None, False]
    assert ask.versions == sorted(ask.versions)
    assert held(bench, "B", S) is None


def test_gets_and_puts_of_different_keys_are_one_column_each() -> None:
    bench = Bench(s="PB", t="PB")
    bench.put("P", [S, S2], ["old", "x" * 300], ttls=[5000, 0])
    new, newer = "new", "newer"
    ops = bytes((wire.GET, wire.PUT, wire.GET, wire.GET, wire.PUT))
    first = bench.mixed("P", ops, [S, new, S2, "none", newer], [None, "a", None, None, "b"], client="x")
    assert first.statuses == ["OK"] * 5
    assert first.results == ["old", None, "x" * 300, None, None]
    assert [version > 0 for version in first.versions] == [True, True, True, False, True]
    assert first.versions[1] < first.versions[4]
    assert [held(bench, "B", key) for key in (new, newer)] == ["a", "b"]
    retry = bench.again(first, "P")
    assert retry.statuses == ["OK"] * 5
    assert (retry.versions[1], retry.versions[4]) == (first.versions[1], first.versions[4])
    assert bench.mixed("P", bytes((wire.GET, wire.GET)), [S, new], [None, None]).results == ["old", "a"]


@pytest.mark.parametrize("ack", ["all", "primary"])
def test_rule_27_a_get_beside_a_put_waits_for_the_commit_of_what_it_shows(ack: str) -> None:
    bench = Bench(s="PB", t="PB")
    bench.put("P", S, "old")
    bench.drop("P", "B", "BATCH")
    bench.put("P", S, "new", client="y")
    ask = bench.mixed("P", bytes((wire.GET, wire.PUT)), [S, S2], [None, "v"], client="x", ack=ack)
    assert ask.status == "UNANSWERED", "what it shows is not committed"
    bench.heal()
    bench.advance(500)
    assert ask.results == ["new", None]


def test_a_backup_gets_what_came_of_it_and_nothing_of_how() -> None:
    bench = Bench(s="PB", t="PB")
    bench.op(wire.INCR, "P", [S, S], [2, 3])
    bench.op(wire.APPEND, "P", [S2], ["text"])
    bench.op(wire.PUT_IF_ABSENT, "P", [S2], ["not written"])
    assert held(bench, "B", S) == 5
    assert held(bench, "B", S2) == "text"


@pytest.mark.parametrize(
    ("op", "value", "result"), [(wire.INCR, 5, 15), (wire.APPEND, "b", 2), (wire.GETSET, "b", "a")]
)  # fmt: skip
@pytest.mark.parametrize("way", ["replicated", "adopted", "filled"])
def test_rule_24_a_retry_returns_the_first_result_wherever_it_is_asked(
    op: int, value: object, result: object, way: str
) -> None:
    bench = Bench(s="PC", t="CP", others="B") if way == "filled" else Bench(s="PBC", t="CBP")
    bench.put("P", S, 10 if op == wire.INCR else "a")
    if way == "adopted":
        bench.drop("P", "B", "BATCH")
    first = bench.op(op, "P", [S], [value], client="x")
    assert way == "adopted" or first.results == [result]
    if way == "filled":
        bench.change(s="PC+B")
        bench.advance(200)
        bench.change(s="PCB")
        bench.advance(50)
    bench.crash("P")
    bench.faults.clear()
    bench.change(s="BC", t="C", dead="P")
    bench.advance(50)
    bench.op(op, "B", [S], [value], client="y")
    retry = bench.again(first, "B")
    assert (retry.status, retry.results) == ("OK", [result])


def test_results_beyond_the_limit_are_given_up_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "RESULTS_BYTES", 1000)
    bench = Bench(s="PB", t="PB")
    bench.put("P", S, "x" * 900)
    first = bench.op(wire.GETSET, "P", [S], ["y" * 900], client="x")
    bench.op(wire.GETSET, "P", [S], ["z"], client="y")
    retry = bench.again(first, "P")
    assert retry.status == "OVERTAKEN", "it was done, and what it returned is not known any more"
    assert bench.get("P", S).value == "z"


def test_a_read_before_a_write_that_was_done_is_not_answered_with_that_write() -> None:
    bench = Bench(s="PBC", t="CBP")
    bench.put("P", S, "old")
    replies = bench.drop("P", "x")
    first = bench.mixed("P", bytes((wire.GET, wire.PUT, wire.GET)), [S, S, S], [None, "new", None])
    bench.heal(replies)
    retry = bench.again(first, "P")
    assert retry.statuses == ["OVERTAKEN", "OK", "OK"]
    assert retry.results[2] == "new"


def test_a_condition_after_a_read_that_is_done_again_is_too() -> None:
    """Found by seed 1001: the read showed a version above that of the condition behind it."""
    bench = Bench(s="PB", t="PB")
    bench.put("P", S, "old")
    first = bench.mixed("P", bytes((wire.GET, wire.PUT_IF_ABSENT)), [S, S], [None, "new"], client="x")
    bench.put("P", S, "newer", client="y")
    retry = bench.again(first, "P")
    assert retry.statuses == ["OK", "UNMET"]
    assert retry.versions[0] == retry.versions[1]


def test_all_of_a_request_on_a_shard_is_refused_alike() -> None:
    bench = Bench(s="PB", t="BP", min_in_sync=2)
    bench.crash("B")
    bench.change(s="P", t="P", dead="B")
    bench.advance(50)
    assert bench.mixed("P", bytes((wire.PUT, wire.GET)), [S, S], ["v", None]).statuses == ["THIN", "THIN"]


@pytest.mark.parametrize("op", [wire.GETSET, wire.INCR, wire.APPEND, wire.PUT_IF_PRESENT, wire.PUT_IF_VERSION])
def test_rule_27_an_early_answer_tells_nothing_uncommitted(op: int) -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", S, 1 if op == wire.INCR else "one")
    slow = bench.hold("P", "B", "BATCH")
    seen = bench.put("P", S, 2 if op == wire.INCR else "two", ack="primary")
    assert seen.status == "OK"
    ask = bench.op(op, "P", [S], [3 if op == wire.INCR else "three"], operands=[seen.version], ack="primary")
    assert ask.status == "UNANSWERED", "it says something of a write that is not committed"
    bench.heal(slow)
    assert ask.status == "OK"


def test_rule_27_an_early_answer_waits_for_no_more_than_it_tells() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", S, 1)
    bench.hold("P", "B", "BATCH")
    assert bench.op(wire.INCR, "P", [S], [1], ack="primary").results == [2]


def test_rule_8_a_page_of_keys_waits_for_the_commit_of_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "PAGE_KEYS", 1)
    bench = Bench(s="PB", t="PB")
    bench.put("P", [S, S2], ["one", "two"])
    slow = bench.hold("P", "B", "BATCH")
    bench.put("P", S3, "three")
    page = bench.scan("P")
    assert page.status == "UNANSWERED"
    bench.heal(slow)
    seen = []
    cursor = 0
    for _ in range(10):
        keys, _, _, _, cursor, _ = bench.scan("P", cursor=cursor).value
        seen += keys
        if cursor is None:
            break
    assert sorted(seen) == sorted([S, S2, S3])


# --- reads that may be stale -----------------------------------------------------------------------------------------


def test_a_stale_read_needs_no_lease_and_shows_what_is_committed() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.put("P", S, "one")
    bench.advance(500)  # a lease tells the backup that it is committed
    bench.drop("B", "P")
    bench.drop("P", "B")
    bench.advance(2000)
    assert bench.get_any("B", S).status == "MOVED"
    assert bench.op(wire.GET_STALE, "B", [S], None).value == "one"


def test_a_stale_read_never_shows_what_may_be_lost() -> None:
    bench = Bench(s="PBC", t="PBC")
    bench.put("P", S, "one")
    bench.drop("C", "P", "ACK")
    bench.put("P", S, "two")
    for pid in "PBC":
        assert bench.op(wire.GET_STALE, pid, [S], None).status == "MOVED", "the value before is gone from here"


def test_a_stale_read_at_a_primary_that_was_fenced_shows_no_refused_entry() -> None:
    """Found by seed 30: the group's commit point goes on without a shard that a member refuses (SAFETY 6)."""
    bench = Bench(s="PB", t="PB")
    bench.put("P", [S, T], ["one", "one"])
    for kind in ("MAP", "MAP_DELTA"):
        bench.drop("B", "P", kind)
    bench.drop("M", "P")
    bench.decide(s="BP")
    bench.tell("B")
    bench.put("P", S, "refused")
    assert bench.put("P", T, "two").status == "OK"
    assert bench.held_by("P", S) != bench.held_by("B", S)
    assert bench.op(wire.GET_STALE, "P", [S], None).value != "refused"


def test_only_members_in_sync_answer_stale_reads() -> None:
    bench = Bench(s="PB", t="PB", others="C")
    bench.put("P", S, "one")
    assert bench.op(wire.GET_STALE, "C", [S], None).status == "MOVED"


# --- requests that cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "values", "operands"),
    [
        (99, None, None),
        (0, None, None),
        ("PUT", ["v"], None),
        (bytes((wire.PUT, wire.PUT)), ["v"], None),
        (bytes((wire.GET_STALE, wire.GET)), None, None),
        (bytes((99,)), ["v"], None),
        (bytes((wire.GET_ANY,)), None, None),
        (bytes((wire.GET_STALE,)), None, None),
        (bytes((wire.SCAN,)), [0], [0]),
        (bytes((wire.WATCH,)), None, [0]),
        (bytes((wire.INCR,)), [None], None),
        (wire.GETSET, None, None),
        (wire.PUT_IF_VERSION, ["v"], [1, 2]),
        (wire.PUT_IF_VERSION, [["list"]], [1]),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_as_a_whole(
    op: object, values: list[object] | None, operands: list[int] | None
) -> None:
    bench = Bench(s="PB", t="PB")
    assert bench.op(op, "P", [S], values, operands=operands).status == "REFUSED"  # type: ignore[arg-type]
    assert bench.put("P", S, "v").status == "OK"
