"""A watch, step by step: the test is its face, and plays all nodes: what it asks of whom, and what it makes of answers.

Shard 0 is S's, shard 1 T's, as in `client_talk`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tests.unit.client_talk import CLUSTER, S2, S3, A, B, C, Request, S, T, Talk, map_of
from zkv import Event
from zkv.client import watching
from zkv.client.coordination import WaitOperations
from zkv.client.failures import call_of, outcome_of
from zkv.client.plans import AnyOf, Begin, GiveUp, LearnMap, Many, Pause
from zkv.client.watching import Watch, WatchOperations
from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.errors import ProtocolError, TimedOut, UsageError, WatchLost
from zkv.values import TYPED

PUT, DELETE, EXPIRE = wire.PUT_EVENT, wire.DELETE_EVENT, wire.EXPIRE_EVENT


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes here: nobody is left alone for a while, and no answer comes too soon."""
    monkeypatch.setattr(watching, "PAUSE_S", 0.0)


class Standing:
    """A call under way, as hosts know it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.given_up = False

    @property
    def done(self) -> bool:
        return self.call.done


class Face:
    """Runs steps up to where an answer is needed."""

    _codec = TYPED
    manager = "tcp://m:1"
    timeout_s = 5.0

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.pauses: list[float] = []
        self.given_up: list[Any] = []

    def begin(self, plan: Many[Any], timeout_ms: float = 2000.0) -> Call:
        call = self.talk.core.submit(call_of(plan, self.talk.now_ms, timeout_ms))
        self.talk.step()
        return call

    def run(self, steps: Generator[Any, Any, Any], *answers: Any) -> Any:
        """Run it to its end. `answers`: called one by one when a step waits for a call."""
        left = list(answers)
        try:
            step = next(steps)
            while True:
                outcome: Any = None
                if type(step) is LearnMap:
                    outcome = self.talk.core.map
                elif type(step) is Many:
                    call = self.begin(step)
                    while not call.done:
                        left.pop(0)()
                    outcome = outcome_of(step, call, self.talk.core.map, self.manager)
                elif type(step) is Begin:
                    outcome = Standing(self.begin(step.plan))
                elif type(step) is AnyOf:
                    while not any(one.done for one in step.standing) and left:
                        left.pop(0)()
                    outcome = self.talk.core.map
                elif type(step) is Pause:
                    self.pauses.append(step.seconds)
                elif type(step) is GiveUp:
                    self.given_up += step.standing
                else:
                    raise AssertionError(f"a step of kind {type(step)}")
                step = steps.send(outcome)
        except StopIteration as end:
            assert not left, "not all answers were asked for"
            return end.value


def events(*rows: tuple[int, int, str, Any]) -> list[Any]:
    """An answer: (version, kind, key, value)."""
    versions, kinds, keys, values = zip(*rows, strict=True)
    return [wire.pack_u64(versions), bytes(kinds), list(keys), list(values), wire.pack_u64([0] * len(rows))]


class Watched:
    """A watch that begins at version 100 of both shards; A is primary of shard 0, B of shard 1."""

    def __init__(self, since: Any = None) -> None:
        self.talk = Talk()
        self.face = Face(self.talk)
        self.watch = WatchOperations(self.face, "k", since)

    def begin(self) -> None:
        self.face.run(self.watch._begin_steps(), lambda: self.reply({A: [(100, None)], B: [(100, None)]}))

    def asked(self) -> dict[int, Request]:
        """The questions since, by node."""
        return {request.to: request for request in self.talk.requests()}

    def reply(self, answers: dict[int, list[tuple[int, Any]]], statuses: dict[int, list[int]] | None = None) -> None:
        """Answer what was asked: node -> (version, value) of each operation."""
        asked = self.asked()
        assert asked.keys() == answers.keys()
        for boot, rows in answers.items():
            versions, values = [version for version, _ in rows], [value for _, value in rows]
            self.talk.reply(asked[boot], versions, (statuses or {}).get(boot), values)

    def next(self, *answers: Any, until_s: float = 0.0) -> Event | None:
        found = self.face.run(self.watch._next_steps(until_s), *answers)
        assert found is None or isinstance(found, Event)
        return found


@pytest.fixture
def watched() -> Watched:
    watched = Watched()
    watched.begin()
    return watched


def test_it_begins_now_and_asks_each_node_for_what_follows(watched: Watched) -> None:
    assert watched.next() is None
    asked = watched.asked()
    assert asked.keys() == {A, B}
    for boot, shard in ((A, 0), (B, 1)):
        request = asked[boot]
        assert (request.op, request.keys, request.operands, request.shards) == (wire.WATCH, ["k"], [100], [shard])
    assert watched.next() is None
    assert watched.asked() == {}  # one question a node


def test_where_it_begins_is_asked_for() -> None:
    watched = Watched()
    with pytest.raises(UsageError, match="not begun"):
        watched.watch.position  # noqa: B018
    looked = []

    def look() -> None:
        looked.append(watched.talk.requests())
        for request in looked[0]:
            watched.talk.reply(request, [7], None, [None])

    watched.face.run(watched.watch._begin_steps(), look)
    assert [request.operands for request in looked[0]] == [[wire.NOW], [wire.NOW]]
    assert watched.watch.position == {"cluster": f"{CLUSTER:016x}", "versions": [7, 7]}


def test_events_come_in_order_and_the_next_question_follows_them(watched: Watched) -> None:
    one = watched.next(
        lambda: watched.reply({
            A: [(112, events((105, PUT, S, 1), (110, DELETE, S, None)))], B: [(107, events((107, EXPIRE, T, None)))],
        })
    )  # fmt: skip
    assert one == Event("put", S, 1, 105)
    assert watched.watch.position["versions"] == [105, 100]  # what was delivered, not what was fetched
    assert [watched.next(), watched.next()] == [Event("delete", S, None, 110), Event("expire", T, None, 107)]
    assert watched.asked() == {}
    assert watched.next() is None
    assert watched.watch.position["versions"] == [112, 107]
    assert {boot: request.operands for boot, request in watched.asked().items()} == {A: [112], B: [107]}


def test_what_was_told_before_is_not_told_again(watched: Watched) -> None:
    rows = (99, PUT, S, 0), (100, PUT, S, 1), (101, PUT, S, 2)
    first = watched.next(lambda: watched.reply({A: [(101, events(*rows))], B: [(100, None)]}))
    assert first == Event("put", S, 2, 101)
    again = lambda: watched.reply({A: [(101, events(*rows))], B: [(90, None)]})  # noqa: E731
    assert watched.next(again) is None
    assert watched.watch.position["versions"] == [101, 100]


def test_an_interrupt_while_answers_are_taken_makes_no_duplicate(watched: Watched) -> None:
    """As if it came after the events were queued, and before the question was forgotten."""
    watched.next()
    (poll, *_) = [poll for poll in watched.watch._polls.values() if list(poll.shards) == [0]]
    watched.reply({A: [(102, events((101, PUT, S, 1), (102, PUT, S, 2)))], B: [(100, None)]})
    watched.watch._take_answer(poll, poll.standing.call, watching._settled(poll.standing.call))
    assert [watched.next(), watched.next(), watched.next()] == [
        Event("put", S, 1, 101), Event("put", S, 2, 102), None,
    ]  # fmt: skip


def test_a_history_that_is_gone_is_said_after_what_came(watched: Watched) -> None:
    first = watched.next(
        lambda: watched.reply({A: [(101, events((101, PUT, S, 1)))], B: [(100, None)]}, {B: [wire.GONE]})
    )
    assert first == Event("put", S, 1, 101)
    for _ in range(2):
        with pytest.raises(WatchLost) as raised:
            watched.next()
        assert raised.value.shard == 1


def test_who_moves_is_asked_at_the_new_place_and_with_the_others_there(watched: Watched) -> None:
    watched.next()
    asked = watched.asked()
    watched.talk.reply(asked[A], [100], None, [None])
    watched.talk.tell(map_of((B, A), (B, C), version=2))
    assert watched.next() is None
    assert watched.asked() == {}  # B answers before it is asked again
    watched.talk.reply(asked[B], [100], None, [None])
    assert watched.next() is None
    assert watched.next() is None
    request = watched.asked()[B]
    assert (request.shards, request.operands) == ([0, 1], [100, 100])


def test_a_shard_that_gives_trouble_is_left_alone_then_asked_by_itself() -> None:
    watched = Watched()
    watched.talk.tell(map_of((A, B), (A, C), version=2))
    watched.face.run(watched.watch._begin_steps(), lambda: watched.reply({A: [(100, None), (100, None)]}))
    assert watched.next() is None
    request = watched.asked()[A]
    assert request.shards == [0, 1]
    told = events((101, PUT, S, 1))
    watched.talk.reply(request, [101, 100], [wire.OK, wire.NOT_READY], [told, None])
    assert watched.next() == Event("put", S, 1, 101)  # at once: the others need not wait
    assert len(watched.face.given_up) == 1
    assert watched.next() is None
    assert [poll.shards for poll in watched.watch._polls.values()] == [[0], [1]]


def test_who_is_turned_away_waits_a_moment(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with nothing to tell answers late, unless it has too many watches: not to be asked at once again."""
    monkeypatch.setattr(watching, "PAUSE_S", 1e9)
    watched.next(lambda: watched.reply({A: [(101, events((101, PUT, S, 1)))], B: [(100, None)]}))
    assert watched.next() is None
    assert watched.asked().keys() == {A}


def test_nobody_is_there(watched: Watched) -> None:
    """It goes on from the same tokens, as long as somebody waits."""
    watched.next()
    watched.talk.requests()
    watched.talk.wait(2000.0)  # the questions' deadline
    assert watched.next() is None
    assert watched.next() is None
    assert [poll.shards for poll in watched.watch._polls.values()] == [[0], [1]]
    assert watched.watch.position["versions"] == [100, 100]


def test_going_on_elsewhere() -> None:
    position = {"cluster": f"{CLUSTER:016x}", "versions": [55, 77]}
    watched = Watched(position)
    assert watched.watch.position == position
    watched.face.run(watched.watch._begin_steps())
    assert watched.next() is None
    assert {boot: request.operands for boot, request in watched.asked().items()} == {A: [55], B: [77]}
    for wrong in ({**position, "versions": [1]}, {**position, "cluster": "0"}):
        other = Watched(wrong)
        with pytest.raises(UsageError, match="another cluster"):
            other.face.run(other.watch._begin_steps())


def test_closing(watched: Watched) -> None:
    first = watched.next(
        lambda: watched.reply({A: [(102, events((101, PUT, S, 1), (102, PUT, S, 2)))], B: [(100, None)]})
    )
    assert first is not None
    watched.face.run(watched.watch._close_steps())
    assert watched.next() is None
    assert watched.watch.position["versions"] == [101, 100]


@pytest.mark.parametrize(
    "value",
    [[b"", b"", [], []], [b"abc", b"\0", ["k"], [1], b""], [wire.pack_u64([101]), b"\0", [], [], b""],
     events((101, 9, S, 1)), events((105, PUT, S, 1), (104, PUT, S, 1)), 5],
)  # fmt: skip
def test_answers_that_cannot_be_read(watched: Watched, value: Any) -> None:
    with pytest.raises(ProtocolError):
        watched.next(lambda: watched.reply({A: [(105, value)], B: [(100, None)]}))


def test_one_waits_at_a_time(watched: Watched) -> None:
    steps = watched.watch._next_steps(float("inf"))
    next(steps)
    with pytest.raises(UsageError, match="make one for each"):
        watched.next()
    steps.close()  # as an interrupt does
    assert watched.next() is None
    assert issubclass(Watch, WatchOperations)


# --- wait ----------------------------------------------------------------------------------------------------------


class Waiting(WaitOperations):
    manager = "tcp://m:1"
    timeout_s = 5.0


def test_waiting_watches_what_is_missing_and_nothing_else() -> None:
    talk = Talk()
    face = Face(talk)
    asked: list[Request] = []

    def answer(value: Any, version: int = 100, status: int = wire.OK) -> Any:
        def reply() -> None:
            for request in talk.requests():
                asked.append(request)
                count = len(request.keys)
                values = [value(key) if callable(value) else value for key in request.keys]
                talk.reply(request, [version] * count, [status] * count, values)

        return reply

    def put(key: str) -> Any:
        return events((101, PUT, f"{key} and more", 1), (102, PUT, key, 1)) if key == T else None

    face.run(
        Waiting()._wait_steps([S, T, S], 60.0),
        answer(lambda key: key == "neither"),  # not there
        answer(None), answer(lambda key: key == S),  # from where to watch; one of them came in between
        answer(None),  # nothing for a while
        answer(None, status=wire.GONE),  # too late: it looks again
        answer(None), answer(False),
        answer(put, version=102),
    )  # fmt: skip
    assert [(request.op, request.keys, request.operands) for request in asked] == [
        (wire.EXISTS, [S], None), (wire.EXISTS, [T], None),
        (wire.WATCH, ["\0"], [wire.NOW]), (wire.WATCH, ["\0"], [wire.NOW]),
        (wire.EXISTS, [S], None), (wire.EXISTS, [T], None),
        (wire.WATCH, [T], [100]), (wire.WATCH, [T], [100]),
        (wire.WATCH, ["\0"], [wire.NOW]), (wire.EXISTS, [T], None), (wire.WATCH, [T], [100]),
    ]  # fmt: skip


def test_waiting_asks_for_each_shard_once() -> None:
    """Keys of one shard that begin alike together; else one after the other, each from where it was left."""
    talk = Talk()
    face = Face(talk)
    asked: list[tuple[Any, Any]] = []

    def answer(value: Any, version: int = 100) -> Any:
        def reply() -> None:
            for request in talk.requests():
                asked.append((request.keys, request.operands))
                count = len(request.keys)
                talk.reply(request, [version] * count, [wire.OK] * count, [value] * count)

        return reply

    one, two, other = S, S2, S3.encode()  # a str key and a bytes key never begin alike
    face.run(
        Waiting()._wait_steps([one, other, two], 60.0),
        answer(False), answer(None), answer(False),
        answer(events((103, PUT, one, 1)), 103),
        answer([wire.pack_u64([101]), bytes([PUT]), [other], [1], wire.pack_u64([0])], 105),
        answer(events((105, PUT, two, 1)), 105),
    )  # fmt: skip
    assert asked[2:] == [([one, other, two], None), (["k"], [100]), ([other], [100]), ([two], [103])]


def test_waiting_in_vain_takes_no_longer() -> None:
    face = Face(Talk())
    with pytest.raises(TimedOut, match="1 key does not exist after 0 s: 'key'"):
        face.run(Waiting()._wait_steps(["key"], 0.0))
