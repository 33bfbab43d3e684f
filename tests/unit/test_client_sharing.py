"""Operations of several calls in one batch, links that are broken, hedges, order within a call, failures by item."""

from __future__ import annotations

import random

import pytest

from tests.unit.client_talk import CLUSTER, S2, S3, A, B, C, S, T, Talk, columns, failure_of, map_of
from zkv.core import wire
from zkv.core.client import calls, client, retrying
from zkv.core.client.calls import Call
from zkv.core.client.client import HELLO_MS, HOLD_MS, REPLICA_TRY_MS, SMALL_OPS, TRY_MS, ClientCore
from zkv.core.node.local import MANAGER
from zkv.core.shardmap import DEAD


def submit(talk: Talk, op: int | bytes, keys: list[str], timeout_ms: float = 5000.0, ack: int = 0) -> Call:
    """Ask for something, without a turn."""
    ops = [op] * len(keys) if isinstance(op, int) else list(op)
    values = None if wire.TAKES_VALUE.isdisjoint(ops) else [f"v{place}" for place in range(len(keys))]
    return talk.core.submit(Call(op, keys, values, talk.now_ms, talk.now_ms + timeout_ms, ack))


def readers(hedging: bool = False, sticky: bool = False) -> Talk:
    """A talk of a client that reads at any replica."""
    talk = Talk.__new__(Talk)
    talk.core = ClientCore(77, random.Random(1), hedging=hedging, sticky=sticky)
    talk.now_ms, talk.sent, talk.deaf = 0.0, [], set()
    talk.welcome()
    talk.tell(map_of((A, B, C), (B, C, A)))
    return talk


# --- sharing ---------------------------------------------------------------------------------------------------------


def test_what_is_asked_at_once_travels_together() -> None:
    talk = Talk()
    puts = [submit(talk, wire.PUT, [key]) for key in (S, S2, S3)]
    gets = [submit(talk, wire.GET, [key]) for key in (S, S2)]
    talk.step()
    put, get = sorted(talk.requests(), key=lambda request: request.op == wire.GET)
    assert (put.op, put.keys, put.batch) == (wire.PUT, [S, S2, S3], 1)
    assert (get.op, get.keys, get.batch) == (wire.GET, [S, S2], 0)
    talk.reply(put, [11, 12, 13])
    assert [call.answer().version for call in puts] == [11, 12, 13]
    assert not any(call.done for call in gets)
    talk.reply(get, [5, 6], values=["one", None])
    assert [call.answer().value for call in gets] == ["one", None]


def test_a_lone_operation_leaves_at_once_and_the_next_gather_while_it_is_under_way() -> None:
    talk = Talk()
    submit(talk, wire.PUT, [S])
    talk.step()
    first = talk.request()
    for key in (S2, S3):
        submit(talk, wire.PUT, [key])
        talk.step()
    assert not talk.requests()
    talk.reply(first, [1])
    assert talk.request().keys == [S2, S3]


def test_they_do_not_gather_for_long() -> None:
    talk = Talk()
    submit(talk, wire.PUT, [S])
    talk.step()
    submit(talk, wire.PUT, [S2])
    talk.wait(HOLD_MS)
    assert [request.keys for request in talk.requests()] == [[S], [S2]]


def test_small_calls_share_and_large_ones_travel_alone() -> None:
    talk = Talk()
    small = [submit(talk, wire.GET, [S] * SMALL_OPS), submit(talk, wire.GET, [S2])]
    large = submit(talk, wire.GET, [S] * (SMALL_OPS + 1))
    talk.step()
    sizes = {len(request.keys): request for request in talk.requests()}
    assert set(sizes) == {SMALL_OPS + 1}
    talk.reply(talk_request := sizes[SMALL_OPS + 1], [1] * (SMALL_OPS + 1), values=["v"] * (SMALL_OPS + 1))
    assert talk_request.batch == 0
    assert large.done or all(call.done for call in small)


@pytest.mark.parametrize("how", ["ack", "deadline"])
def test_what_does_not_go_together_travels_apart(how: str) -> None:
    talk = Talk()
    submit(talk, wire.PUT, [S])
    if how == "ack":
        submit(talk, wire.PUT, [S2], ack=wire.ACK_PRIMARY)
    else:
        submit(talk, wire.PUT, [S2], timeout_ms=100)
    talk.step()
    assert [request.keys for request in talk.requests()] == [[S], [S2]]


def test_a_shared_batch_has_the_nearest_deadline() -> None:
    talk = Talk()
    submit(talk, wire.PUT, [S], timeout_ms=5000)
    submit(talk, wire.PUT, [S2], timeout_ms=4500)
    talk.step()
    assert talk.request().deadline_ms == pytest.approx(talk.node_ms(A) + 4500, abs=3)


def test_one_call_that_ends_early_does_not_end_its_neighbours() -> None:
    talk = Talk()
    hasty, patient = submit(talk, wire.PUT, [S], timeout_ms=4100), submit(talk, wire.PUT, [S2], timeout_ms=8000)
    talk.step()
    request = talk.request()
    talk.now_ms = 4100.0
    talk.core._links[A].tries[request.number].timeout_ms = 1e6
    talk.step()
    assert (failure_of(hasty).kind, failure_of(hasty).unknown) == (calls.TIMED_OUT, True)
    assert not patient.done
    talk.reply(request, [3, 4])
    assert patient.answer().version == 4


def test_a_call_that_is_abandoned_leaves_its_neighbours_alone() -> None:
    talk = Talk()
    gone, stays = submit(talk, wire.PUT, [S]), submit(talk, wire.PUT, [S2])
    waiting = submit(talk, wire.GET, [S3])
    talk.core.abandon(waiting)
    talk.step()
    request = talk.request()
    talk.core.abandon(gone)
    talk.reply(request, [3, 4])
    assert stays.answer().version == 4


def test_a_shared_batch_that_is_refused_in_part_is_settled_in_part() -> None:
    talk = Talk()
    one, other = submit(talk, wire.PUT, [S]), submit(talk, wire.PUT, [S2])
    talk.step()
    talk.reply(talk.request(), [7, 0], [wire.OK, wire.NOT_READY])
    assert one.done
    assert not other.done
    talk.wait(retrying.BACKOFF_MAX_MS)
    again = talk.request()
    assert (again.keys, again.indices, again.attempt) == ([S2], [1], 2)
    talk.reply(again, [8])
    assert other.answer().version == 8


def test_operations_that_wait_go_to_the_new_primary() -> None:
    talk = Talk()
    talk.deaf.add(A)
    submit(talk, wire.PUT, [S])
    talk.step()
    assert not talk.requests()
    talk.tell(map_of((B, C), (B, C), version=2))
    assert talk.request().to == B


# --- failures, item by item ------------------------------------------------------------------------------------------


def test_each_operation_of_a_call_fails_for_itself() -> None:
    talk = Talk()
    call = talk.put(S, T)
    to_a, to_b = sorted(talk.requests(), key=lambda request: request.to)
    talk.reply(to_b, [9])
    talk.core._links[A].tries[to_a.number].timeout_ms = 1e6
    talk.wait(5000)
    assert set(call.failures) == {0}
    assert call.failures[0].unknown
    assert (call.failures[0].shard, call.failures[0].endpoint, call.failures[0].tries) == (0, "tcp://a:1", 1)
    assert list(call.columns()[0]) == [0, 9]


def test_shards_that_nobody_holds_fail_alone_and_at_once() -> None:
    talk = Talk()
    call = submit(talk, wire.GET, [S, T] * SMALL_OPS)
    news = map_of((A,), (B, C), version=2, a=DEAD)
    talk.tell(news)
    talk.tell(news)  # the manager's answer to "do you know better?"
    to_b = next(request for request in talk.requests() if request.to == B)
    assert call.open
    talk.reply(to_b, [1] * SMALL_OPS, values=["v"] * SMALL_OPS, map_version=2)
    assert call.done
    assert set(call.failures) == set(range(0, 2 * SMALL_OPS, 2))
    assert {failure.kind for failure in call.failures.values()} == {calls.UNAVAILABLE}
    assert [value for value in call.columns()[1] if value] == ["v"] * SMALL_OPS


def test_an_answer_that_is_lost_ends_its_operation_as_unknown() -> None:
    talk = Talk()
    call = talk.put(S, S2)
    talk.reply(talk.request(), [0, 4], [wire.OVERTAKEN, wire.OK])
    assert call.done
    assert call.failures[0].unknown
    assert list(call.columns()[0]) == [0, 4]


# --- order -----------------------------------------------------------------------------------------------------------


def test_operations_of_different_kinds_travel_in_one_message_and_in_order() -> None:
    talk = Talk()
    ops = bytes((wire.PUT, wire.GET, wire.DELETE))
    call = talk.core.submit(Call(ops, [S, S, S], ["v", None, None], 0.0, 5000.0))
    talk.step()
    request = talk.request()
    assert (request.op, request.keys) == (ops, [S, S, S])
    assert request.values == ["v", None, None]
    talk.reply(request, [1, 1, 2], values=[None, "v", None])
    assert columns(call)[:2] == ([1, 1, 2], [None, "v", None])


def test_a_long_call_of_that_kind_waits_for_each_of_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BATCH_OPS", 2)
    talk = Talk()
    call = talk.core.submit(Call(bytes((wire.PUT,) * 5), [S, S2, S, S2, S], list("abcde"), 0.0, 5000.0))
    talk.step()
    for count in (2, 2, 1):
        request = talk.request()
        assert len(request.keys) == count
        talk.reply(request, [1] * count)
    assert call.done


# --- links -----------------------------------------------------------------------------------------------------------


def test_a_silent_node_costs_one_request() -> None:
    talk = Talk()
    talk.put(S)
    assert len(talk.requests()) == 1
    talk.deaf.add(A)
    talk.wait(TRY_MS)
    for _ in range(20):
        submit(talk, wire.PUT, [S2])
        talk.wait(HELLO_MS)
    assert not talk.requests(), "greetings alone are sent to it"
    talk.deaf.clear()
    talk.wait(HELLO_MS)
    assert {request.to for request in talk.requests()} == {A}


def test_what_never_left_for_a_silent_node_was_certainly_not_done() -> None:
    talk = Talk()
    talk.put(S)
    talk.deaf.add(A)
    talk.wait(TRY_MS)
    call = submit(talk, wire.PUT, [S2], timeout_ms=1000)
    talk.step()
    talk.wait(1000)
    assert (failure_of(call).kind, failure_of(call).unknown) == (calls.TIMED_OUT, False)
    assert "gives no sign of life" in failure_of(call).text


def test_a_call_whose_time_has_passed_is_not_sent() -> None:
    talk = Talk()
    call = submit(talk, wire.PUT, [S], timeout_ms=100)
    talk.wait(100)
    assert not talk.requests()
    assert (failure_of(call).kind, failure_of(call).unknown) == (calls.TIMED_OUT, False)


def test_retries_wait_when_their_budget_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY_BURST", 2.0)
    talk = Talk()
    talk.put(S)
    tries = 0
    for _ in range(200):
        for request in talk.requests():
            tries += 1
            talk.reply(request, [0], [wire.BUSY])
        talk.wait(1)
    assert 3 <= tries <= 1 + 2 + 200 * retrying.RETRIES_PER_S / 1000 + 1


# --- replicas --------------------------------------------------------------------------------------------------------


def test_reads_go_to_any_replica_and_to_the_primary_when_that_cannot_say() -> None:
    talk = readers()
    call = talk.call(wire.GET_ANY, [S])
    request = talk.request()
    talk.reply(request, [0], [wire.MOVED], [None])
    if request.to == A:
        talk.wait(retrying.BACKOFF_MAX_MS)
    again = talk.request()
    assert (again.to, again.op) == (A, wire.GET)
    talk.reply(again, [4], values=["v"])
    assert call.answer().value == "v"


def test_a_replica_that_does_not_answer_is_left_for_the_primary() -> None:
    talk = readers()
    for _ in range(20):
        call = talk.call(wire.GET_ANY, [S])
        request = talk.request()
        if request.to != A:
            break
        talk.reply(request, [4], values=["v"])
    talk.wait(REPLICA_TRY_MS)
    again = talk.request()
    assert (again.to, again.op) == (A, wire.GET)
    talk.reply(again, [4], values=["v"])
    assert call.done


def test_a_late_read_is_hedged_and_the_first_answer_counts() -> None:
    talk = readers(hedging=True)
    for _ in range(60):
        talk.call(wire.GET_ANY, [S])
        request = talk.request()
        talk.now_ms += 1.0
        talk.reply(request, [4], values=["v"])
    call = talk.call(wire.GET_ANY, [S])
    slow = talk.request()
    talk.wait(1.0)
    assert not talk.requests()
    talk.wait(4.0)
    hedge = talk.request()
    assert hedge.to != slow.to
    talk.wait(50)
    assert not talk.requests(), "one hedge a read"
    talk.reply(hedge, [4], values=["v"])
    assert call.answer().source == hedge.to
    talk.reply(slow, [3], values=["old"])
    assert call.answer().value == "v"


def test_an_unexpected_frame_of_a_correct_length_is_needed() -> None:
    talk = Talk()
    call = talk.call(wire.GET, [S, S2])
    request = talk.request()
    talk.reply(request, [1, 2], values=["only one"])
    assert not call.done
    talk.step(MANAGER, wire.encode(wire.BEACON, CLUSTER, 1, 0, 1, None))
    talk.reply(request, [1, 2], values=["one", "two"])
    assert columns(call)[1] == ["one", "two"]


# --- found by attack -------------------------------------------------------------------------------------------------


def test_a_read_that_waits_for_a_silent_replica_goes_elsewhere() -> None:
    """A fresh client greets its replica first; one that does not answer must not cost the read its whole deadline."""
    for seed in range(20):
        talk = readers()
        talk.core.rng.seed(seed)
        talk.deaf = {B, C}
        call = talk.call(wire.GET_ANY, [S])
        if not talk.requests():
            break
    else:
        pytest.fail("the primary was chosen each time")
    for _ in range(4):
        talk.wait(REPLICA_TRY_MS / 2)
    request = next(request for request in talk.requests() if request.to == A)
    talk.reply(request, [4], values=["v"])
    assert call.answer().value == "v"


def test_being_sent_to_the_primary_is_no_retry() -> None:
    talk = readers()
    for _ in range(int(4 * retrying.RETRY_BURST)):
        call = talk.call(wire.GET_ANY, [S])
        request = talk.request()
        if request.op == wire.GET_ANY:
            talk.reply(request, [0], [wire.MOVED], [None])
            request = talk.request()
        talk.reply(request, [4], values=["v"])
        assert call.done
    assert not talk.core.counts["retries"]


def test_what_was_never_sent_pays_for_no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BATCH_OPS", 1)
    talk = Talk()
    talk.deaf.add(A)
    many = int(2 * retrying.RETRY_BURST)
    call = talk.call(wire.GET, [S] * max(many, SMALL_OPS + 1))
    talk.tell(map_of((B, C), (B, C), version=2))
    for _ in range(call.count):
        for request in talk.requests():
            talk.reply(request, [1], values=["v"], map_version=2)
    assert call.done
    assert not talk.core.counts["retries"]


def test_small_calls_do_not_wait_behind_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BATCH_OPS", 1)
    talk = Talk()
    talk.call(wire.GET, [S] * (SMALL_OPS + 20))
    talk.requests()
    small = submit(talk, wire.GET, [S2])
    talk.step()
    request = talk.request()
    assert request.keys == [S2]
    talk.reply(request, [1], values=["v"])
    assert small.done


def test_many_calls_that_end_together_cost_a_pass_each() -> None:
    talk = Talk()
    talk.deaf.add(A)
    waiting = [submit(talk, wire.PUT, [S], timeout_ms=1000) for _ in range(3000)]
    talk.step()
    for call in waiting[:1000]:
        talk.core.abandon(call)
    talk.wait(1000)
    assert all(call.done for call in waiting)
    talk.deaf.clear()
    talk.wait(HELLO_MS)
    assert not talk.requests(), "nobody waits for them any more"
