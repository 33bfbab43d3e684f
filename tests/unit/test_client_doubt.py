"""Rule 25 at the client: "not done" only when that is certain, and what it says when it gives up."""

from __future__ import annotations

import pytest

from tests.unit.client_talk import A, B, C, S, T, Talk, failure_of, map_of
from zkv.core import wire
from zkv.core.client import calls, client
from zkv.core.client.calls import Call
from zkv.core.client.client import HELLO_MS, PULL_MS, TRY_MS
from zkv.core.client.retrying import BACKOFF_MAX_MS
from zkv.core.node.local import MANAGER
from zkv.core.shardmap import DEAD, DOWN, ShardMap


@pytest.mark.parametrize("status", sorted(wire.DEFINITE))
def test_rule_25_a_write_that_was_only_ever_refused_is_not_done(status: int) -> None:
    talk = Talk()
    call = talk.put(S, timeout_ms=300)
    refused = 0
    for _ in range(60):
        for request in talk.requests():
            talk.reply(request, [0], [status])
            refused += 1
        talk.wait(5)
    assert refused > 3
    kind = calls.UNAVAILABLE if status == wire.THIN else calls.TIMED_OUT
    assert (failure_of(call).kind, failure_of(call).unknown) == (kind, False)


@pytest.mark.parametrize("how", ["silence", "maybe", "expired", "node lost", "one refusal after silence"])
def test_rule_25_a_write_that_may_have_been_done_is_unknown(how: str) -> None:
    talk = Talk()
    call = talk.put(S, timeout_ms=900)
    request = talk.request()
    match how:
        case "maybe":
            talk.reply(request, [0], [wire.MAYBE])
        case "expired":
            talk.reply(request, [0], [wire.EXPIRED])
            assert call.done, "asking again would not help"
        case "node lost":
            talk.tell(map_of((B,), (B, C), 2, a=DEAD))
        case "one refusal after silence":
            talk.wait(TRY_MS)
            talk.reply(talk.request(), [0], [wire.NOT_READY])
    talk.wait(900)
    for later in talk.requests():
        talk.reply(later, [0], [wire.NOT_READY])
    assert failure_of(call).unknown


def test_rule_25_a_call_of_which_a_part_was_done_is_unknown() -> None:
    talk = Talk()
    call = talk.put(S, T, timeout_ms=300)
    by_node = {request.to: request for request in talk.requests()}
    talk.reply(by_node[A], [10])
    talk.reply(by_node[B], [0], [wire.NOT_READY])
    talk.wait(300)
    assert failure_of(call).unknown


def test_rule_25_a_refused_request_is_not_done_unless_another_part_was() -> None:
    talk = Talk()
    call = talk.put(S)
    talk.refuse(talk.request(), wire.BAD_REQUEST)
    assert (failure_of(call).kind, failure_of(call).unknown) == (calls.REFUSED, False)
    both = talk.put(S, T)
    by_node = {request.to: request for request in talk.requests()}
    talk.reply(by_node[A], [10])
    talk.refuse(by_node[B], wire.BAD_REQUEST)
    assert (failure_of(both).kind, failure_of(both).unknown) == (calls.REFUSED, True)


def test_rule_25_reads_are_never_in_doubt() -> None:
    talk = Talk()
    call = talk.call(wire.GET, [S], timeout_ms=100)
    talk.wait(100)
    assert not failure_of(call).unknown


def test_rule_25_nothing_that_never_left_is_in_doubt() -> None:
    talk = Talk(welcome=False)
    call = talk.put(S, timeout_ms=100)
    talk.wait(100)
    assert (failure_of(call).kind, failure_of(call).unknown) == (calls.UNREACHABLE, False)
    talk.welcome()
    call = talk.put(S, timeout_ms=100)
    talk.wait(100)
    assert (failure_of(call).kind, failure_of(call).unknown) == (calls.NOT_FORMED, False)


def test_a_call_waits_for_the_cluster_to_form() -> None:
    talk = Talk(welcome=False)
    call = talk.put(S)
    assert talk.kinds(MANAGER) == ["HELLO"]
    talk.welcome()
    talk.tell(map_of((A,), (B,)))
    talk.reply(talk.request(), [1])
    assert list(call.columns()[0]) == [1]


def test_keys_whose_every_copy_is_dead_are_lost_at_once() -> None:
    talk = Talk()
    call = talk.put(S)
    talk.tell(map_of((A, B), (C,), 2, a=DEAD, b=DEAD))
    assert failure_of(call).kind == calls.UNAVAILABLE
    assert (failure_of(call).shard, failure_of(call).unknown) == (0, True)


def test_keys_whose_copies_are_only_silent_may_come_back() -> None:
    talk = Talk()
    call = talk.put(S, timeout_ms=700)
    talk.tell(map_of((A,), (C,), 2, a=DOWN))
    assert not call.done
    talk.wait(700)
    assert failure_of(call).kind == calls.UNAVAILABLE


def test_another_start_on_the_same_port_makes_it_ask_for_the_map() -> None:
    talk = Talk()
    call = talk.put(S)
    talk.refuse(talk.request(), wire.WRONG_BOOT, sender=A + 99)
    talk.tell(map_of((B,), (B, C), 2, a=DEAD))
    talk.wait(BACKOFF_MAX_MS)
    talk.reply(talk.request(), [5], map_version=2)
    assert call.done


def accusations(talk: Talk) -> list[list[int]]:
    sent, talk.sent = talk.sent, []
    return [wire.decode_body(frame)[0] for _, frame in sent if frame[3] == wire.ACCUSE]


def test_rule_32_a_node_that_gives_no_sign_of_life_is_reported_for_as_long_as_that_lasts() -> None:
    talk = Talk()
    talk.deaf.add(A)
    talk.put(S, T)
    for _ in range(20):
        talk.wait(50)
    assert len(told := accusations(talk)) >= 3
    assert told == [[A]] * len(told), "and no other"
    talk.deaf.clear()
    talk.wait(200)
    accusations(talk)
    talk.wait(300)
    assert accusations(talk) == []


def test_rule_32_a_node_that_only_takes_its_time_is_not_reported() -> None:
    talk = Talk()
    talk.put(S)
    for _ in range(60):
        talk.wait(50)
    assert accusations(talk) == [], "it greets us: what it holds up has another cause"


def test_a_call_on_a_lost_shard_asks_the_manager_once_more_before_it_fails() -> None:
    talk = Talk()
    talk.tell(map_of((A, B), (C,), 2, a=DEAD, b=DEAD))
    call = talk.put(S)
    assert not call.done
    talk.tell(map_of((A, B), (C,), 2, a=DEAD, b=DEAD))
    assert failure_of(call).kind == calls.UNAVAILABLE
    call = talk.put(S)
    talk.tell(map_of((C,), (C,), 3, a=DEAD, b=DEAD))
    assert not call.done, "it was reset meanwhile"


def test_the_manager_is_asked_again_until_a_call_on_a_lost_shard_can_fail() -> None:
    talk = Talk()
    lost = map_of((A, B), (C,), 2, a=DEAD, b=DEAD)
    talk.tell(lost)
    talk.put(S)
    talk.tell(lost)
    call = talk.put(S)  # at once: the manager was asked a moment ago, and is not asked for this one
    talk.wait(PULL_MS)
    assert "MAP_PULL" in talk.kinds(MANAGER)
    talk.tell(lost)
    assert failure_of(call).kind == calls.UNAVAILABLE


def test_a_shard_that_the_operator_gave_to_nobody_fails_clearly() -> None:
    talk = Talk()
    call = talk.put(S)
    shard_map = map_of((A, B), (C,), 2)
    withheld = shard_map.shards[0]._replace(withheld=True)
    talk.tell(ShardMap(shard_map.cluster, 2, shard_map.members, (withheld, shard_map.shards[1])))
    assert failure_of(call).kind == calls.UNAVAILABLE
    assert "no holder for shard 0" in failure_of(call).text


def test_rule_25_what_failed_before_it_was_sent_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 28 of the simulator, as its walk was in November 2026."""
    monkeypatch.setattr(client, "SMALL_OPS", 1)
    talk = Talk(s=(A, B), t=(A, C))
    talk.deaf.add(A)
    call = talk.put(S, T)
    shard_map = map_of((A, B), (A, C), 2)
    withheld = shard_map.shards[0]._replace(withheld=True)
    talk.tell(ShardMap(shard_map.cluster, 2, shard_map.members, (withheld, shard_map.shards[1])))
    assert not call.failures[0].unknown
    talk.deaf.clear()
    talk.wait(HELLO_MS)
    request = talk.request()
    assert (request.keys, request.indices) == ([T], [1])
    talk.reply(request, [5])
    assert call.done
    assert 1 not in call.failures


def test_rule_27_the_level_of_acknowledgement_travels_with_the_request() -> None:
    talk = Talk()
    for level in (wire.ACK_DEFAULT, wire.ACK_ALL, wire.ACK_PRIMARY):
        talk.core.submit(Call(wire.PUT, [S], ["v"], 0.0, 5000.0, level))
        talk.step()
        assert talk.request().ack == level
