"""A node's limit: what it refuses and what it must not, what makes room, and that backups never refuse."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.bench import S2, S3, Ask, Bench, S, T
from zkv.core import wire
from zkv.core.node import room, streams
from zkv.core.node.room import ROOM_PART
from zkv.core.node.serving import SPENT_MS
from zkv.core.node.sizes import EXPIRY_BYTES
from zkv.core.shardmap import shard_of

LIMIT = 100_000
MIB = 2**20


def keys_of(shard: int, count: int, prefix: str = "k") -> list[str]:
    found = (f"{prefix}{number}" for number in range(10**6))
    return [key for key, _ in zip((key for key in found if shard_of(key, 2) == shard), range(count), strict=False)]


def used(bench: Bench, pid: str = "P") -> int:
    return bench.node(pid).local.store.bytes


def fill_up(bench: Bench, size: int = 500) -> list[str]:
    """Puts values one by one until one is refused, then shorter ones; the keys of the first."""
    taken: list[str] = []
    for length in (size, 0):
        for key in keys_of(0, 1000, f"f{length} "):
            if bench.put("P", key, "x" * length).status != "OK":
                break
            taken += [key] if length == size else []
    assert used(bench) > ROOM_PART * LIMIT - 250
    return taken


def bench_with_limit(eviction: str = "none", s: str = "PB", t: str = "PB", limit: int = LIMIT, **how: Any) -> Bench:
    bench = Bench(s=s, t=t, eviction=eviction, memory_limit_bytes=limit, **how)
    bench.advance(1)
    return bench


# --- none ------------------------------------------------------------------------------------------------------------


def test_a_write_beyond_the_limit_is_refused_with_the_figures() -> None:
    bench = bench_with_limit()
    fill_up(bench)
    assert used(bench) <= ROOM_PART * LIMIT
    before = used(bench)
    refused = bench.put("P", S, "x" * 500)
    assert refused.status == "NO_ROOM"
    assert refused.value == [before, LIMIT]
    assert bench.held_by("P", S) is bench.held_by("B", S) is None
    assert bench.node("P").local.refused == 3
    assert used(bench, "B") == used(bench)


def test_reads_deletes_and_what_takes_no_more_go_on() -> None:
    bench = bench_with_limit()
    taken = fill_up(bench)
    first, second, third = taken[:3]
    assert bench.get("P", taken).results == ["x" * 500] * len(taken)
    assert bench.put("P", first, "y" * 500).status == "OK", "as long as before"
    assert bench.put("P", [first, second], ["z" * 400, ""]).status == "OK", "shorter"
    assert bench.op(wire.GETSET, "P", [third], ["w" * 500]).value == "x" * 500
    assert bench.delete("P", taken[3]).status == "OK"
    assert bench.scan("P").status == "OK"
    assert bench.op(wire.DELETE_IF_VERSION, "P", [first], None, operands=[bench.get("P", first).version]).status == "OK"
    assert bench.put("P", S, "x" * 500).status == "OK", "in the room that is left"


@pytest.mark.parametrize(
    ("op", "value"),
    [(wire.PUT, "x" * 700), (wire.APPEND, "x" * 200), (wire.GETSET, "x" * 700), (wire.PUT_IF_PRESENT, "x" * 700)],
)
def test_any_write_that_takes_more_is_refused_and_changes_nothing(op: int, value: str) -> None:
    bench = bench_with_limit()
    key, *others = fill_up(bench)
    entry = bench.held_by("P", key)
    assert bench.op(op, "P", [key], [value]).status == "NO_ROOM"
    assert bench.held_by("P", key) == entry
    assert bench.op(wire.PUT_IF_ABSENT, "P", [key], [value]).status == "UNMET", "what it is refused for comes first"
    touches = [bench.touch("P", other, 5000).status for other in others[:4]]
    assert touches[-1] == "NO_ROOM", "an expiry takes some room, too"
    assert bench.op(wire.INCR, "P", [S], [1]).status == "NO_ROOM"


def test_what_fits_of_a_request_is_done() -> None:
    bench = bench_with_limit()
    taken = fill_up(bench, size=300)
    bench.delete("P", taken[:2])
    ask = bench.put("P", [S, taken[5], S2, S3], ["x" * 100, "x" * 300, "x" * 5000, "y" * 100])
    assert ask.statuses == ["OK", "OK", "NO_ROOM", "OK"]
    assert bench.get("P", [S, S2, S3]).results == ["x" * 100, None, "y" * 100]
    assert used(bench) <= ROOM_PART * LIMIT


def test_room_that_a_request_makes_itself_counts() -> None:
    bench = bench_with_limit()
    key = fill_up(bench)[0]
    ops = bytes((wire.DELETE, wire.PUT, wire.GET))
    ask = bench.mixed("P", ops, [key, S, S], [None, "x" * 100, None])
    assert ask.statuses == ["OK", "OK", "OK"]
    assert ask.results == [None, None, "x" * 100]
    assert used(bench) <= ROOM_PART * LIMIT


def test_a_refusal_is_the_answer_to_every_try() -> None:
    bench = bench_with_limit()
    taken = fill_up(bench)
    first = bench.put("P", S, "x" * 500, client="y")
    assert first.status == "NO_ROOM"
    bench.delete("P", taken)
    bench.advance(500)
    again = bench.again(first, "P")
    assert again.status == "NO_ROOM"
    assert again.value == [used(bench), LIMIT]
    assert bench.held_by("P", S) is None
    assert bench.put("P", S, "x" * 500, client="y").status == "OK", "another write is another matter"


def test_tombstones_go_when_the_memory_is_needed() -> None:
    bench = bench_with_limit(tombstone_ms=3_600_000)
    keys = keys_of(0, 150, "k" * 360)
    bench.put("P", keys, [""] * 150)
    bench.delete("P", keys)
    assert used(bench) > 0.7 * LIMIT, "only values were given back"
    bench.advance(2 * SPENT_MS)
    assert len(bench.node("P").local.store.tables[0]) == 150, "there is no need"
    more = keys_of(0, 20, "m" * 300)
    bench.put("P", more, [""] * 20)
    bench.advance(2 * SPENT_MS)
    for pid in "PB":
        assert set(bench.node(pid).local.store.tables[0]) == set(more), "the backup drops them, too"
    assert bench.put("P", S, "x" * 20_000).status == "OK"


def test_a_tombstone_that_is_not_committed_stays_whatever_the_need() -> None:
    bench = bench_with_limit(tombstone_ms=3_600_000)
    taken = fill_up(bench, size=10)
    bench.drop("P", "B", "BATCH")
    bench.delete("P", taken[0])
    bench.advance(1000)
    assert bench.held_by("P", taken[0])[1] is None  # type: ignore[index]


def test_without_a_limit_nothing_is_refused() -> None:
    bench = bench_with_limit(limit=0)
    assert bench.put("P", S, "x" * 10**6).status == "OK"


# --- backups ---------------------------------------------------------------------------------------------------------


def test_a_backup_over_its_limit_takes_everything() -> None:
    bench = bench_with_limit(limit=0, s="PB", t="BP")
    bench.node("B").local.limit_bytes = 1000
    for number in range(20):
        assert bench.put("P", [S, S2], ["x" * 500 * number, number], ttls=[0, 5000]).status == "OK"
    assert bench.held_by("B", S) == bench.held_by("P", S)
    assert used(bench, "B") == used(bench) > 1000
    assert bench.put("B", T, "v").status == "NO_ROOM", "as a primary it refuses"
    assert bench.delete("P", S).status == "OK"
    bench.advance(1)
    load = bench.node("B").local.load()
    assert (load.bytes, load.limit_bytes, load.refused) == (used(bench, "B"), 1000, 1)


def test_a_learner_and_who_adopts_a_tail_take_everything() -> None:
    bench = bench_with_limit(limit=0, s="PB", t="BP", others="L")
    for pid in "BL":
        bench.node(pid).local.limit_bytes = 10
    bench.put("P", [S, S2], ["x" * 500, "y"])
    bench.change(s="PB+L")
    bench.advance(300)
    assert bench.filled == {"s": {"L"}}
    bench.change(s="PBL")
    bench.drop("P", "B", "BATCH")
    put = bench.put("P", S3, "x" * 500)
    bench.crash("P")
    bench.faults.clear()
    bench.change(s="BL", t="B", dead="P")
    bench.advance(100)
    assert bench.again(put, "B").status == "OK"
    assert bench.held_by("B", S3) == bench.held_by("L", S3)
    assert bench.put("B", S3, "x" * 501).status == "NO_ROOM"
    assert bench.get("B", [S, S2, S3]).results == ["x" * 500, "y", "x" * 500]


# --- lru -------------------------------------------------------------------------------------------------------------


def settled(bench: Bench) -> None:
    """Time for tombstones to go."""
    bench.advance(3 * SPENT_MS)


def put_all(bench: Bench, keys: list[str], value: str, **how: Any) -> list[Ask]:
    """Puts them one by one, each as often as it takes."""
    asks = []
    for key in keys:
        ask = bench.put("P", key, value, **how)
        for _ in range(100):
            if ask.status != "BUSY":
                break
            bench.advance(20)
            ask = bench.again(ask, "P")
        asks.append(ask)
    return asks


@pytest.mark.parametrize("size", [0, 16, 2000])
def test_eviction_makes_room_for_whatever_comes(size: int) -> None:
    bench = bench_with_limit("lru")
    asks = put_all(bench, keys_of(0, 700), "x" * size)
    assert {ask.status for ask in asks} == {"OK"}
    settled(bench)
    local = bench.node("P").local
    assert local.evicted > 0
    assert local.refused == 0
    assert 0.5 * LIMIT < used(bench) <= ROOM_PART * LIMIT, "no more than was needed"
    assert used(bench, "B") == used(bench)
    assert bench.node("B").local.store.tables == local.store.tables
    assert all(value is not None for _, value, _ in local.store.opened(0).values()), "the tombstones are gone"
    assert local.evicted + len(local.store.tables[0]) == 700


def test_what_is_named_stays() -> None:
    bench = bench_with_limit("lru")
    mine = keys_of(0, 20, "mine")
    put_all(bench, mine, "v")
    others = keys_of(0, 800)
    for start in range(0, 800, 40):
        bench.get("P", mine)
        put_all(bench, others[start : start + 40], "x" * 50)
    assert bench.node("P").local.evicted > 300
    assert bench.get("P", mine).results == ["v"] * 20


def test_where_everything_is_named_room_is_made_all_the_same() -> None:
    bench = bench_with_limit("lru")
    asks: list[Ask] = []
    known: list[str] = []
    for key in keys_of(0, 600):
        asks += put_all(bench, [key], "x" * 100)
        known.append(key)
        bench.get("P", known[-400:])
    assert {ask.status for ask in asks} == {"OK"}


def test_evictions_are_deletes_with_versions_that_wait_for_nobody() -> None:
    bench = bench_with_limit("lru")
    begun = bench.watch("P", {"s": wire.NOW})
    puts = put_all(bench, keys_of(0, 400), "x" * 100)
    told = bench.watch("P", {"s": begun.version}).value
    assert set(told[1]) == {wire.PUT_EVENT, wire.EVICT_EVENT}
    gone = [key for kind, key in zip(told[1], told[2], strict=True) if kind == wire.EVICT_EVENT]
    assert gone
    first = next(ask for ask in puts if ask.keys == [gone[0]])
    read = bench.get("P", gone[0])
    assert (read.status, read.value) == ("OK", None)
    assert bench.again(first, "P").version == first.version, "it was put, and has gone since"
    assert bench.op(wire.PUT_IF_VERSION, "P", [gone[0]], ["x"], operands=[first.version]).status == "UNMET"


def test_a_value_that_can_never_fit_throws_nothing_out() -> None:
    bench = bench_with_limit("lru")
    keys = keys_of(0, 200)
    put_all(bench, keys, "x" * 100)
    settled(bench)
    evicted = bench.node("P").local.evicted
    assert bench.put("P", S, "x" * LIMIT).status == "NO_ROOM"
    assert bench.node("P").local.evicted == evicted
    ask = bench.put("P", [S, S2], ["x" * LIMIT, "small"])
    assert (ask.statuses[0], ask.statuses[1] in ("OK", "BUSY")) == ("NO_ROOM", True)
    settled(bench)
    assert len(bench.node("P").local.store.tables[0]) > 150


def test_a_large_value_is_put_in_the_end() -> None:
    bench = bench_with_limit("lru")
    put_all(bench, keys_of(0, 300), "x" * 100)
    (ask,) = put_all(bench, [S], "x" * int(0.6 * LIMIT))
    assert ask.status == "OK"


def test_operations_behind_one_that_is_put_off_are_put_off_too() -> None:
    """Otherwise the first put of a key would take effect after the second."""
    bench = bench_with_limit("lru")
    put_all(bench, keys_of(0, 400), "x" * 10)
    ask = bench.put("P", [S, S2, S], ["x" * int(0.3 * LIMIT), "two", "last"])
    assert "BUSY" in ask.statuses
    first = ask.statuses.index("BUSY")
    assert ask.statuses == ["OK"] * first + ["BUSY"] * (3 - first)
    for _ in range(100):
        if ask.status == "OK":
            break
        bench.advance(20)
        ask = bench.again(ask, "P")
    assert bench.get("P", [S, S2]).results == ["last", "two"]


def test_a_backup_that_takes_no_more_does_not_empty_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was evicted leaves only when the backup has passed it: no reason to evict ever more."""
    bench = bench_with_limit("lru")
    keys = keys_of(0, 400)
    put_all(bench, keys[:300], "x" * 40)
    settled(bench)
    bench.drop("P", "B", "BATCH")
    evicted = bench.node("P").local.evicted
    for key in keys[300:]:
        bench.put("P", key, "x" * 40)
    bench.advance(150)
    assert bench.node("P").local.evicted - evicted < 150
    monkeypatch.setattr(streams, "WINDOW_BATCHES", 1)
    evicted = bench.node("P").local.evicted
    bench.advance(2000)
    assert bench.node("P").local.evicted == evicted, "it is sent nothing while it is behind"


def test_what_nobody_holds_is_not_noted_for_ever() -> None:
    bench = bench_with_limit("lru")
    put_all(bench, keys_of(0, 300), "x" * 100)
    local = bench.node("P").local
    for number in range(200):
        bench.get("P", [f"missing {number} {place}" for place in range(50)])
    noted = bench.node("P").room
    assert len(noted._recent) + len(noted._former) <= 2 * max(room.NAMES_AT_LEAST, 2 * local.store.count()) + 50


def test_only_the_shards_that_a_node_serves_are_evicted() -> None:
    bench = bench_with_limit("lru", s="PB", t="BP")
    bench.node("B").local.limit_bytes = 0
    theirs = keys_of(1, 150)
    bench.put("B", theirs, ["t" * 50] * 150)
    put_all(bench, keys_of(0, 400), "x" * 100)
    assert bench.node("P").local.evicted > 50
    assert bench.get("B", theirs).results == ["t" * 50] * 150


def test_where_nothing_can_be_evicted_there_is_no_room() -> None:
    bench = bench_with_limit("lru", s="PB", t="BP")
    bench.node("B").local.limit_bytes = 0
    bench.put("B", keys_of(1, 100), ["t" * 1000] * 100)
    assert used(bench) > LIMIT
    assert put_all(bench, [S], "v")[0].status == "NO_ROOM"
    assert bench.delete("B", keys_of(1, 100)).status == "OK"
    bench.node("P").local.limit_bytes = 2 * LIMIT
    assert put_all(bench, [S], "v")[0].status == "OK"


# --- ttl -------------------------------------------------------------------------------------------------------------


def test_what_expires_soonest_goes_first() -> None:
    bench = bench_with_limit("ttl")
    lasting = keys_of(0, 100, "lasting")
    put_all(bench, lasting, "v")
    soon, later = keys_of(0, 80, "soon"), keys_of(0, 80, "later")
    put_all(bench, later, "x" * 120, ttls=[10_000_000])
    put_all(bench, soon, "x" * 120, ttls=[100_000])
    put_all(bench, keys_of(0, 100), "x" * 120, ttls=[20_000_000])
    settled(bench)
    found = bench.get("P", lasting + later + soon).results
    assert found[:100] == ["v"] * 100, "what does not expire is not evicted"
    gone = [value is None for value in found[100:]]
    assert bench.node("P").local.evicted == sum(gone) > 20
    assert sum(gone[80:]) in (80, sum(gone)), "none of the later ones before all of the sooner"


def test_where_nothing_expires_there_is_no_room() -> None:
    bench = bench_with_limit("ttl")
    fill_up(bench, size=100)
    assert bench.put("P", S, "x" * 100).status == "NO_ROOM"
    assert bench.node("P").local.evicted == 0


def test_expiries_are_evicted_from_the_wheel() -> None:
    bench = bench_with_limit("ttl")
    put_all(bench, keys_of(0, 600), "x" * 50, ttls=[10_000])
    settled(bench)
    for pid in "PB":
        store = bench.node(pid).local.store
        assert store.expiry.count == len(store.tables[0]) == sum(until > 0 for _, _, until in store.opened(0).values())
    bench.advance(11_000)
    assert used(bench) == used(bench, "B") == 0


# --- the account -----------------------------------------------------------------------------------------------------


def test_the_account_of_all_members_is_that_of_what_they_hold() -> None:
    bench = bench_with_limit("lru", others="L", limit=30_000)
    for turn in range(30):
        put_all(bench, keys_of(turn % 2, 20, f"{turn % 7} "), "x" * (17 * turn % 90), ttls=[100 * (turn % 3)])
        bench.delete("P", keys_of(0, 3, f"{turn % 5} "))
        if turn == 10:
            bench.change(s="PB+L")
        bench.advance(40)
    for pid in "PBL":
        store = bench.node(pid).local.store
        assert store.bytes == sum(
            store.size_of_entry(key, entry) for table in store.tables for key, entry in table.items()
        )
    assert EXPIRY_BYTES < used(bench) < 30_000
