"""Watches at the nodes: events at their commit, in order, without gap or duplicate, whoever is primary; or GONE."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.bench import S2, S3, T2, Ask, Bench, S, T
from zkv.core import wire
from zkv.core.node import watching

NAMES = {wire.PUT_EVENT: "put", wire.DELETE_EVENT: "delete", wire.EXPIRE_EVENT: "expire", wire.EVICT_EVENT: "evict"}
PAST_MS = watching.WAIT_MS + 10


def events(ask: Ask, place: int = 0) -> list[tuple[str, str, Any]]:
    """(kind, key, value) of what an answer tells."""
    assert ask.statuses[place] == "OK", ask.status
    if not ask.results or ask.results[place] is None:
        return []
    versions, kinds, keys, values, expiries = ask.results[place]
    assert wire.unpack_u64(versions) == sorted(wire.unpack_u64(versions))
    assert len(wire.unpack_u64(expiries)) == len(kinds)
    assert ask.versions[place] >= wire.unpack_u64(versions)[-1]
    return [(NAMES[kind], key, value) for kind, key, value in zip(kinds, keys, values, strict=True)]


class Watcher:
    """Who watches one shard, and goes on with the token of the last answer."""

    def __init__(self, bench: Bench, at: str, shard: str = "s", prefix: str = "") -> None:
        self.bench, self.shard, self.prefix = bench, shard, prefix
        begun = bench.watch(at, {shard: wire.NOW}, prefix=prefix)
        assert begun.status == "OK"
        self.token = begun.version
        self.told: list[tuple[str, str, Any]] = []

    def ask(self, at: str) -> Ask:
        return self.bench.watch(at, {self.shard: self.token}, prefix=self.prefix)

    def take(self, ask: Ask) -> list[tuple[str, str, Any]]:
        """What an answer tells; the next question goes on behind it."""
        assert ask.version >= self.token
        self.token = ask.version
        found = events(ask)
        self.told += found
        return found

    def read(self, at: str) -> list[tuple[str, str, Any]]:
        """Everything there is."""
        found: list[tuple[str, str, Any]] = []
        while True:
            ask = self.ask(at)
            if ask.status == "UNANSWERED":
                self.bench.advance(PAST_MS)
                assert self.take(ask) == []
                return found
            found += self.take(ask)


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_watch_is_told_what_happens_as_soon_as_it_does() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", S, "before")
    watcher = Watcher(bench, "P")
    ask = watcher.ask("P")
    assert ask.status == "UNANSWERED"
    bench.put("P", [S, S2], ["one", "two"])
    assert watcher.take(ask) == [("put", S, "one"), ("put", S2, "two")]
    bench.delete("P", S)
    bench.op(wire.GETSET, "P", [S2], ["three"])
    bench.op(wire.PUT_IF_ABSENT, "P", [S2], ["not done"])
    assert watcher.read("P") == [("delete", S, None), ("put", S2, "three")]


def test_every_kind_of_event_is_told_with_its_version() -> None:
    bench = Bench(s="PB", t="BP")
    watcher = Watcher(bench, "P")
    put = bench.put("P", [S, S2, S3], ["v", "w", "x"], ttls=[50, 0, 0])
    touch = bench.touch("P", S2, 5000)
    delete = bench.delete("P", S3)
    bench.advance(100)
    ask = watcher.ask("P")
    versions, kinds, keys, values, expiries = ask.value
    assert [NAMES[kind] for kind in kinds] == ["put", "put", "put", "put", "delete", "expire"]
    assert (keys, values) == ([S, S2, S3, S2, S3, S], ["v", "w", "x", "w", None, None])
    assert wire.unpack_u64(versions)[:5] == [*put.versions, touch.version, delete.version]
    assert [until > 0 for until in wire.unpack_u64(expiries)] == [True, False, False, True, False, False]


def test_only_what_begins_with_the_prefix_is_told_and_the_token_goes_on_all_the_same() -> None:
    bench = Bench(s="PB", t="BP")
    watcher = Watcher(bench, "P", prefix=S2)
    before = watcher.token
    ask = watcher.ask("P")
    bench.put("P", [S, S3], ["v", "w"])
    assert ask.status == "UNANSWERED"
    bench.advance(PAST_MS)
    assert watcher.take(ask) == []
    assert watcher.token > before
    bench.put("P", S2, "it")
    assert watcher.read("P") == [("put", S2, "it")]
    bytes_too = bench.watch("P", {"s": before}, prefix=b"")  # type: ignore[arg-type]
    bench.advance(PAST_MS)
    assert events(bytes_too) == [], "str and bytes keys are watched apart"


def test_a_question_about_several_shards_is_answered_as_soon_as_one_has_something() -> None:
    bench = Bench(s="PB", t="PC")
    begun = bench.watch("P", {"s": wire.NOW, "t": wire.NOW})
    ask = bench.watch("P", {"s": begun.versions[0], "t": begun.versions[1]})
    bench.put("P", T, "v")
    assert events(ask, 0) == []
    assert events(ask, 1) == [("put", T, "v")]


def test_many_events_come_in_several_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "REPLY_EVENTS", 3)
    bench = Bench(s="PB", t="BP")
    watcher = Watcher(bench, "P")
    for number in range(10):
        bench.put("P", S, number)
    answers = [len(watcher.take(watcher.ask("P"))) for _ in range(4)]
    assert answers == [3, 3, 3, 1]
    assert [value for _, _, value in watcher.told] == list(range(10))
    monkeypatch.setattr(watching, "REPLY_BYTES", 1000)
    for _ in range(3):
        bench.put("P", S, "x" * 800)
    assert [len(watcher.take(watcher.ask("P"))) for _ in range(2)] == [2, 1]


# --- nothing before its commit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ack", ["all", "primary"])
def test_nothing_is_told_before_its_commit(ack: str) -> None:
    bench = Bench(s="PBC", t="CPB")
    watcher = Watcher(bench, "P")
    slow = bench.hold("C", "P", "ACK")
    bench.put("P", [S, S2], ["one", "two"], ack=ack)
    late = watcher.ask("P")
    bench.advance(PAST_MS)
    assert watcher.take(late) == []
    ask = watcher.ask("P")
    bench.heal(slow)
    assert watcher.take(ask) == [("put", S, "one"), ("put", S2, "two")]


def test_expiries_are_told_at_their_commit() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", S, "v", ttls=[100])
    watcher = Watcher(bench, "P")
    slow = bench.hold("B", "P", "ACK")
    bench.advance(110)
    ask = watcher.ask("P")
    bench.advance(50)
    assert ask.status == "UNANSWERED"
    bench.heal(slow)
    assert watcher.take(ask) == [("expire", S, None)]


def test_a_watch_that_begins_amid_writes_begins_behind_them() -> None:
    """Whoever then reads what there is misses nothing: all up to the token is committed when the answer comes."""
    bench = Bench(s="PB", t="BP")
    slow = bench.hold("P", "B", "BATCH")
    bench.put("P", S, "before")
    begun = bench.watch("P", {"s": wire.NOW})
    bench.put("P", S, "after")
    assert begun.status == "UNANSWERED"
    bench.heal(slow)
    assert bench.put("P", S, "later").status == "OK"
    ask = bench.watch("P", {"s": begun.version})
    assert [value for _, _, value in events(ask)] == ["after", "later"]


def test_what_a_member_refused_is_not_told_by_who_was_deposed() -> None:
    bench = Bench(s="PB", t="PB")
    watcher = Watcher(bench, "P")
    for kind in ("MAP", "MAP_DELTA"):
        bench.drop("B", "P", kind)
    bench.drop("M", "P")
    bench.decide(s="BP")
    bench.tell("B")
    bench.put("P", S, "refused")
    assert bench.put("P", T, "taken").status == "OK"
    ask = watcher.ask("P")
    bench.advance(PAST_MS)
    assert ask.status in ("NOT_READY", "UNANSWERED") or events(ask) == []
    bench.faults.clear()
    bench.tell("P")
    bench.advance(1000)
    assert bench.active("s") == "B"
    assert watcher.read("B") == [("put", S, "refused")], "the takeover brought it through"
    assert bench.get("B", S).value == "refused"


# --- going on at another node ----------------------------------------------------------------------------------------


def test_after_a_crash_the_watch_goes_on_at_the_new_primary_without_gap_or_duplicate() -> None:
    bench = Bench(s="PBC", t="CPB")
    watcher = Watcher(bench, "P")
    bench.put("P", S, 1)
    assert watcher.read("P") == [("put", S, 1)]
    bench.put("P", [S, S2], [2, 2])
    bench.drop("P", "B", "BATCH")
    bench.put("P", S, 3)
    ask = watcher.ask("P")
    assert watcher.take(ask) == [("put", S, 2), ("put", S2, 2)], "the third reached C alone"
    bench.crash("P")
    bench.faults.clear()
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    assert bench.node("B").local.fired["tails adopted"]
    assert watcher.read("B") == [("put", S, 3)]
    bench.put("B", S2, 4)
    bench.change(s="CB")
    bench.advance(50)
    bench.put("C", S2, 5)
    assert watcher.read("C") == [("put", S2, 4), ("put", S2, 5)], "C was sent the tail, or had it"


def test_a_tail_that_a_member_was_sent_again_is_told_once() -> None:
    bench = Bench(s="PBC", t="CPB")
    watcher = Watcher(bench, "P")
    bench.drop("P", "C", "BATCH")
    bench.put("P", [S, S2], ["v", "w"], ttls=[400, 0])
    bench.crash("P")
    bench.faults.clear()
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    bench.change(s="C", t="C")
    bench.advance(1000)
    assert watcher.read("C") == [("put", S, "v"), ("put", S2, "w"), ("expire", S, None)]


def test_nothing_of_a_tail_is_told_before_the_takeover_is_over() -> None:
    bench = Bench(s="PBC", t="CPB")
    watcher = Watcher(bench, "P")
    bench.drop("P", "C", "BATCH")
    bench.put("P", S, "v")
    bench.crash("P")
    bench.faults.clear()
    acks = bench.hold("C", "B", "ACK")
    bench.change(s="BC", t="CB", dead="P")
    bench.advance(50)
    ask = watcher.ask("B")
    bench.advance(150)
    assert ask.status == "NOT_READY", "it waited for a moment"
    bench.heal(acks)
    bench.advance(50)
    assert watcher.read("B") == [("put", S, "v")]


def test_a_learner_that_became_primary_knows_what_came_before_it_and_since() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", [S, S2], ["old", "old"])
    early = Watcher(bench, "P")
    bench.put("P", S, 1)
    bench.change(s="PB+L")
    watcher = Watcher(bench, "P")
    for number in range(2, 6):
        bench.put("P", S, number)
        bench.advance(30)
    assert bench.filled == {"s": {"L"}}
    bench.change(s="PBL")
    bench.put("P", S2, 6)
    bench.change(s="LPB")
    bench.advance(100)
    bench.put("L", S2, 7)
    assert [value for _, _, value in watcher.read("L")] == [2, 3, 4, 5, 6, 7]
    assert [value for _, _, value in early.read("L")] == [1, 2, 3, 4, 5, 6, 7], "it inherited what came before"


def test_a_history_is_inherited_as_far_as_it_reaches() -> None:
    bench = Bench(s="PB", t="BP", others="L", history_bytes=3000)
    early = Watcher(bench, "P")
    for number in range(40):
        bench.put("P", S, number)
    late = Watcher(bench, "P")
    bench.put("P", S, "last")
    bench.change(s="PB+L")
    bench.advance(200)
    assert bench.filled == {"s": {"L"}}
    bench.change(s="L")
    bench.advance(1000)
    assert late.read("L") == [("put", S, "last")]
    assert early.ask("L").status == "GONE", "nor did P know it any more"


def test_a_token_at_which_a_learner_was_activated_is_not_gone() -> None:
    bench = Bench(s="PB", t="BP", others="L")
    bench.put("P", [S, S2], ["old", "old"])
    watcher = Watcher(bench, "P")
    bench.change(s="PB+L")
    bench.advance(200)
    bench.change(s="L")
    bench.advance(1000)
    assert watcher.read("L") == []
    bench.put("L", S, "new")
    assert watcher.read("L") == [("put", S, "new")]


def test_a_demoted_primary_answers_who_waits_at_once() -> None:
    bench = Bench(s="PB", t="PB")
    begun = bench.watch("P", {"s": wire.NOW, "t": wire.NOW})
    ask = bench.watch("P", {"s": begun.versions[0], "t": begun.versions[1]})
    bench.change(s="BP")
    assert ask.statuses == ["NOT_READY", "OK"]
    assert ask.versions[1] >= begun.versions[1]


def test_what_waits_for_its_beginning_when_the_shard_is_lost_may_be_asked_again() -> None:
    bench = Bench(s="PBC", t="CPB")
    slow = bench.hold("P", "B", "BATCH")
    bench.put("P", S, "v")
    begun = bench.watch("P", {"s": wire.NOW})
    bench.change(s="CB")
    bench.heal(slow)
    bench.advance(50)
    assert begun.status == "MAYBE"
    assert begun.versions == [0]


def test_a_node_that_does_not_serve_the_shard_says_so() -> None:
    bench = Bench(s="PB", t="BP")
    assert bench.watch("P", {"s": wire.NOW, "t": wire.NOW}).statuses == ["OK", "MOVED"]
    assert bench.watch("B", {"s": 5}).status == "MOVED"
    begun = bench.watch("P", {"s": 5, "t": 5})
    assert begun.statuses == ["OK", "MOVED"]
    assert begun.versions[0] == 5, "nothing is skipped"


# --- history that is gone --------------------------------------------------------------------------------------------


def test_what_is_not_remembered_any_more_is_gone() -> None:
    bench = Bench(s="PB", t="PB", history_bytes=1)
    watcher = Watcher(bench, "P")
    quiet = Watcher(bench, "P", "t")
    first = bench.put("P", S, 0)
    for number in range(1, 40):
        bench.put("P", S, number)
    for pid in "PB":
        if pid == "B":
            bench.change(s="BP", t="BP")
            bench.advance(50)
        assert watcher.ask(pid).status == "GONE"
        assert bench.watch(pid, {"s": first.version}).status == "GONE"
        assert quiet.read(pid) == [], "of this one nothing was lost"
    fresh = Watcher(bench, "B")
    bench.put("B", S, "new")
    assert fresh.read("B") == [("put", S, "new")]


def test_history_that_is_cut_while_somebody_waits_costs_him_nothing() -> None:
    """He is told as it happens."""
    bench = Bench(s="PB", t="PB", history_bytes=1)
    watcher = Watcher(bench, "P")
    for number in range(30):
        ask = watcher.ask("P")
        bench.put("P", [S, T], [number, number])
        assert watcher.take(ask) == [("put", S, number)]


@pytest.mark.parametrize("fresh", [False, True], ids=["that backed it up", "that has just started"])
def test_a_shard_that_was_reset_says_that_the_past_is_gone(fresh: bool) -> None:
    bench = Bench(s="PB", t="PB", others="" if fresh else "C")
    watcher = Watcher(bench, "P")
    bench.put("P", S, "old")
    assert watcher.read("P")
    bench.crash("P")
    bench.crash("B")
    if fresh:
        bench.decide(s="B", t="B", dead="P")  # nobody hears of this
        bench.start("C")
    bench.decide(s="C", t="C", dead="PB")
    bench.reborn("s")
    bench.reborn("t")
    bench.tell("C")
    bench.advance(1000)
    assert bench.active("s") == "C"
    assert watcher.ask("C").status == "GONE"
    anew = Watcher(bench, "C")
    bench.put("C", S, "new")
    assert anew.read("C") == [("put", S, "new")]
    assert watcher.ask("C").status == "GONE"


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_questions_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLLS_LIMIT", 2)
    bench = Bench(s="PB", t="BP")
    watcher = Watcher(bench, "P")
    asks = [watcher.ask("P") for _ in range(3)]
    assert [ask.status for ask in asks] == ["UNANSWERED", "UNANSWERED", "OK"]
    bench.put("P", S, "v")
    assert [len(events(ask)) for ask in asks] == [1, 1, 0]


def test_a_question_is_answered_before_its_deadline() -> None:
    bench = Bench(s="PB", t="BP")
    watcher = Watcher(bench, "P")
    ask = bench.watch("P", {"s": watcher.token}, timeout_ms=100)
    bench.advance(60)
    assert ask.status == "OK"
    assert bench.watch("P", {"s": watcher.token}, timeout_ms=20).status == "OK", "at once, if there is no time"


def test_shards_that_nobody_watches_cost_nothing() -> None:
    bench = Bench(s="PB", t="PB")
    for shard in "st":
        Watcher(bench, "P", shard).read("P")
    tracks = bench.node("P").local.history.tracks
    assert set(tracks) == {0, 1}
    bench.advance(watching.IDLE_MS + 1000)
    assert set(tracks) == set()


def test_two_who_watch_the_same_are_told_the_same() -> None:
    bench = Bench(s="PB", t="BP")
    bench.put("P", S, 0)
    one = Watcher(bench, "P")
    bench.put("P", S, 1)
    two = Watcher(bench, "P")
    late = two.ask("P")
    bench.put("P", T2, "elsewhere")
    bench.put("P", S, 2)
    assert one.read("P") == [("put", S, 1), ("put", S, 2)]
    assert two.take(late) == [("put", S, 2)]


# --- what clients may send -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operands", "shards"), [(None, [0]), ([1, 2], [0]), ([1], [7])]
)  # fmt: skip
def test_a_watch_that_makes_no_sense_is_refused(operands: list[int] | None, shards: list[int]) -> None:
    bench = Bench(s="PB", t="BP")
    ask = bench.op(wire.WATCH, "P", [""], None, operands=operands, shards=shards)
    assert ask.status == "REFUSED"
    assert bench.put("P", S, "v").status == "OK"


def test_a_token_from_the_future_is_answered_with_itself() -> None:
    bench = Bench(s="PB", t="BP")
    ask = bench.watch("P", {"s": 2**63})
    bench.put("P", S, "v")
    assert ask.status == "UNANSWERED"
    bench.advance(PAST_MS)
    assert ask.versions == [2**63]
