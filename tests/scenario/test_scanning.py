"""Scans at the nodes: through failovers and handovers every key that lives throughout comes exactly once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.bench import Bench, S
from tests.scenario.parts import CLUSTER, Frame
from zkv.core import wire
from zkv.core.node import checks, parking, walks
from zkv.core.shardmap import shard_of

KEYS = [f"k{number}" for number in range(120) if shard_of(f"k{number}", 2) == 0][:40]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "PAGE_KEYS", 3)


def page(bench: Bench, at: str, cursor: int, **how: Any) -> tuple[list[Any], int | None]:
    """Keys of the next page, and where the one behind it begins."""
    for _ in range(50):
        bench.advance(1)
        ask = bench.scan(at, cursor=cursor, **how)
        if ask.status == "OK" and (ask.value[0] or ask.value[4] != cursor):
            return ask.value[0], ask.value[4]
    raise AssertionError("there is no page")


def rest(bench: Bench, at: str, cursor: int | None, **how: Any) -> list[Any]:
    seen = []
    while cursor is not None:
        keys, cursor = page(bench, at, cursor, **how)
        seen += keys
    return seen


@pytest.mark.parametrize("mode", [wire.SCAN_KEYS, wire.SCAN_ENTRIES])
def test_a_scan_goes_on_at_whoever_is_primary(mode: int) -> None:
    bench = Bench(s="PBC", t="CPB", others="L")
    bench.put("P", KEYS, ["v"] * len(KEYS))
    seen: list[Any] = []
    cursor: int | None = 0
    for at in ("P", "P", "B", "C", "P", "L", "L"):
        if at == "L":
            bench.change(s="PBC+L")
            bench.advance(300)
            assert bench.filled == {"s": {"L"}}
        if bench.active("s") != at:
            bench.change(s=at + "PBC".replace(at, ""))
            bench.advance(100)
        bench.put(at, KEYS[::3], [at] * len(KEYS[::3]))
        bench.delete(at, KEYS[1])
        bench.put(at, KEYS[1], "again")
        assert cursor is not None
        keys, cursor = page(bench, at, cursor, mode=mode)
        seen += keys
    seen += rest(bench, "L", cursor, mode=mode)
    assert len(seen) == len(set(seen))
    assert set(KEYS) - {KEYS[1]} <= set(seen) <= set(KEYS)


def test_a_frozen_scan_that_meets_a_failover_shows_that_it_began_anew() -> None:
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", KEYS, ["v"] * len(KEYS))
    bench.advance(1)
    first = bench.scan("P", mode=wire.SCAN_FROZEN)
    bench.put("P", KEYS[0], "later")
    bench.advance(1)
    second = bench.scan("P", mode=wire.SCAN_FROZEN, cursor=first.value[4])
    assert second.version == first.version
    bench.crash("P")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(100)
    third = bench.scan("B", mode=wire.SCAN_FROZEN, cursor=second.value[4])
    assert third.version > first.version


@pytest.mark.parametrize("mode", [wire.SCAN_KEYS, wire.SCAN_ENTRIES, wire.SCAN_FROZEN, wire.SCAN_COUNT])
def test_rule_08_a_page_waits_for_the_commit_of_what_it_shows(mode: int) -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", KEYS[:2], ["v", "w"])
    slow = bench.hold("P", "B", "BATCH")
    bench.delete("P", KEYS[0])
    bench.advance(1)
    ask = bench.scan("P", mode=mode)
    assert ask.status == "UNANSWERED"
    bench.heal(slow)
    assert ask.status == "OK"
    assert ask.value[0] == (None if mode == wire.SCAN_COUNT else [KEYS[1]])


def test_a_page_of_an_expired_entry_does_not_hold_it() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", KEYS, ["v"] * len(KEYS), ttls=[100] * 20 + [0] * 20)
    bench.advance(101)
    assert sorted(rest(bench, "P", 0)) == sorted(KEYS[20:])
    assert bench.scan("P", mode=wire.SCAN_COUNT).value[5] == 20


def test_expiries_of_a_frozen_scan_are_in_cluster_time() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", KEYS[0], "v", ttls=[5000])
    until = bench.cluster_ms + 5000
    bench.advance(100)
    keys, versions, values, expiries, *_ = bench.scan("P", mode=wire.SCAN_FROZEN).value
    assert (keys, values, wire.unpack_u64(expiries)) == ([KEYS[0]], ["v"], [until])
    assert wire.unpack_u64(versions) == [bench.held_by("P", KEYS[0])[0]]  # type: ignore[index]


def test_several_shards_at_once_and_each_by_itself_where_one_is_not_here() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", KEYS[:2], ["v", "w"])
    ask = bench.op(wire.SCAN, "P", ["", ""], [4, 4], operands=[0, 0], shards=[0, 1])
    assert ask.statuses == ["OK", "MOVED"]
    assert sorted(ask.results[0][0]) == sorted(KEYS[:2])
    assert ask.results[1] is None


# --- what clients may send -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "values", "operands", "shards"),
    [
        ([""], None, [0], [0]),
        ([""], [None], [0], [0]),
        ([""], ["4"], [0], [0]),
        ([""], [True], [0], [0]),
        ([""], [-1], [0], [0]),
        ([""], [2**63], [0], [0]),
        ([""], [4.0], [0], [0]),
        ([""], [4], None, [0]),
        ([""], [4], [0, 0], [0]),
        ([""], [4], [0], [2]),
        ([5], [4], [0], [0]),
        ([""] * 65, [4] * 65, [0] * 65, [0] * 65),
    ],
)
def test_a_scan_that_makes_no_sense_is_refused(
    keys: list[Any], values: list[Any] | None, operands: list[int] | None, shards: list[int]
) -> None:
    assert checks.PAGES_LIMIT == 64
    bench = Bench(s="PB", t="BP")
    assert bench.op(wire.SCAN, "P", keys, values, operands=operands, shards=shards).status == "REFUSED"
    assert bench.put("P", S, "v").status == "OK"


def test_any_cursor_and_walk_are_taken() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", KEYS, ["v"] * len(KEYS))
    for cursor, what in ((2**64 - 1, 4), (0, 2**63 - 1), (2**63, 0)):
        bench.advance(1)
        ask = bench.op(wire.SCAN, "P", [""], [what], operands=[cursor], shards=[0])
        assert ask.status == "OK"


def test_a_client_has_an_identity() -> None:
    """Client 0 is what expires and is evicted by: its outcomes are not remembered, and told as such."""
    bench = Bench(s="PB", t="BP")
    deadline_ms = bench.clock_ms("P") + 100
    for op, values in ((wire.PUT, ["v"]), (wire.GET, None)):
        body = [1, 1, wire.EXPIRE_EVENT, 0, deadline_ms, op, None, wire.pack_u16([0]), [S], values, 0, None, None]
        data = wire.encode(wire.REQUEST, CLUSTER, 0, bench.boot("P"), 1, body)
        answers = bench.hold("P", "q")
        bench.replay(Frame("q", "P", b"q", data))
        assert [frame.kind for frame in answers.held or []] == ["REFUSED"]
        answers.held = []
        bench.heal(answers)
    assert bench.held_by("P", S) is None


def test_a_scan_gives_way_to_the_requests_of_others() -> None:
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", KEYS, ["v"] * len(KEYS), client="y")
    first = bench.scan("P")
    asks = [bench.scan("P", walk=walk) for walk in (2, 3)]
    assert first.status == "OK"
    assert [ask.status for ask in asks] == ["UNANSWERED"] * 2
    bench.get("P", KEYS[0], client="y")
    bench.advance(parking.SCAN_MS - 1)
    assert [ask.status for ask in asks] == ["UNANSWERED"] * 2, "others have their turn first"
    bench.advance(2)
    assert [ask.status for ask in asks] == ["OK", "UNANSWERED"], "in the order in which they came, one at a time"
    bench.advance(parking.SCAN_MS + 1)
    assert {ask.status for ask in asks} == {"OK"}
    assert bench.node("P").local.fired["scans paced"] == 2


def test_a_scan_does_not_wait_for_its_own_client() -> None:
    """`flush` deletes what it finds, page by page."""
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", KEYS, ["v"] * len(KEYS))
    assert [bench.scan("P", walk=walk).status for walk in (1, 2, 3)] == ["OK"] * 3
    bench.put("P", KEYS[0], "w", client="y")
    bench.put("P", KEYS[0], "x")
    assert bench.scan("P").status == "UNANSWERED"
    bench.advance(parking.BUSY_MS)
    assert [bench.scan("P", walk=walk).status for walk in (1, 2, 3)] == ["OK"] * 3, "the other one is gone"


def test_a_scan_that_waits_too_long_is_late() -> None:
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", KEYS, ["v"] * len(KEYS), client="y")
    bench.scan("P")
    ask = bench.scan("P", timeout_ms=parking.SCAN_MS / 2)
    bench.advance(parking.SCAN_MS + 1)
    assert ask.status == "LATE"


def test_what_is_due_is_deleted_before_a_scan_shows_anything() -> None:
    bench = Bench(s="PBC", t="CPB")
    bench.put("P", KEYS, ["v"] * len(KEYS), ttls=[100 + number for number in range(len(KEYS))])
    began_ms = bench.now_ms
    shown = []
    cursor: int | None = 0
    while bench.now_ms < began_ms + 200:
        keys, cursor = page(bench, "P", cursor or 0)
        left_ms = [began_ms + 100 + KEYS.index(key) - bench.now_ms for key in keys]
        assert min(left_ms, default=1) > 0
        shown += left_ms
    assert min(shown) <= 2, "they are shown to the last"
