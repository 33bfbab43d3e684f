"""The client's part in rules 4, 24 and 26: routing, merging by index, identity of retries, deadlines."""

from __future__ import annotations

from tests.unit.client_talk import CLOCKS, CLUSTER, S2, S3, T2, A, B, C, S, T, Talk, columns, failure_of, map_of
from zkv.core import wire
from zkv.core.client.client import BATCH_OPS, HOLD_MS, TRY_MS, WINDOW
from zkv.core.client.links import CLOCK_MS, Link
from zkv.core.client.retrying import BACKOFF_MAX_MS
from zkv.core.node.local import MANAGER
from zkv.core.shardmap import DEAD, Delta, Shard

# --- routing and merging ---------------------------------------------------------------------------------------------


def test_operations_go_to_their_primaries_and_merge_in_the_callers_order() -> None:
    talk = Talk()
    call = talk.put(T, S, T2)
    to_b, to_a = sorted(talk.requests(), key=lambda request: request.to == A)
    assert (to_b.to, to_b.keys, to_b.values) == (B, [T, T2], [f"v{T}", f"v{T2}"])
    assert (to_a.to, to_a.keys, to_a.indices) == (A, [S], None)
    assert to_a.batch != to_b.batch
    talk.reply(to_a, [10])
    assert not call.done
    talk.reply(to_b, [20, 21])
    assert list(call.columns()[0]) == [20, 10, 21]
    assert list(call.columns()[3]) == [B, A, B]


def test_values_and_misses_of_a_read_come_back_in_place() -> None:
    talk = Talk()
    call = talk.call(wire.GET, [S, T, S2])
    for request in talk.requests():
        talk.reply(request, [7] * len(request.keys), values=[f"is {key}" for key in request.keys])
    assert list(call.columns()[1]) == [f"is {S}", f"is {T}", f"is {S2}"]


def test_long_calls_are_cut_and_the_window_bounds_what_is_under_way() -> None:
    talk = Talk()
    talk.call(wire.GET, [S] * (BATCH_OPS * (WINDOW + 2) - 5))
    requests = talk.requests()
    assert len(requests) == WINDOW
    assert {len(request.keys) for request in requests} == {BATCH_OPS}
    talk.reply(requests[0], [1] * BATCH_OPS, values=["v"] * BATCH_OPS)
    assert len(talk.requests()) == 1


def test_an_empty_call_is_done_at_once() -> None:
    assert Talk().call(wire.GET, []).done


def test_a_refused_part_is_tried_again_and_merged_by_index() -> None:
    talk = Talk()
    call = talk.put(S, S2, S3)
    first = talk.request()
    talk.reply(first, [10, 0, 12], [wire.OK, wire.NOT_READY, wire.OK])
    assert not call.done
    talk.wait(BACKOFF_MAX_MS)
    again = talk.request()
    assert (again.batch, again.indices, again.keys, again.attempt) == (first.batch, [1], [S2], 2)
    talk.reply(again, [31])
    assert list(call.columns()[0]) == [10, 31, 12]


def test_parts_that_end_up_at_two_primaries_keep_their_identity() -> None:
    talk = Talk(s=(A, B), t=(A, C))
    call = talk.put(S, T, S2)
    first = talk.request()
    talk.tell(map_of((B,), (C,), 2, a=DEAD))
    by_node = {request.to: request for request in talk.requests()}
    assert (by_node[B].batch, by_node[B].indices) == (first.batch, [0, 2])
    assert (by_node[C].batch, by_node[C].indices) == (first.batch, [1])
    assert {request.map_version for request in by_node.values()} == {2}
    talk.reply(by_node[C], [21], map_version=2)
    talk.reply(by_node[B], [10, 12], map_version=2)
    assert list(call.columns()[0]) == [10, 21, 12]


def test_a_newer_map_shown_by_a_node_is_pulled_from_it_and_the_manager() -> None:
    talk = Talk()
    talk.put(S)
    talk.reply(talk.request(), [0], [wire.MOVED], map_version=2)
    assert "MAP_PULL" in talk.kinds(A)
    assert "MAP_PULL" in talk.kinds(MANAGER)
    talk.tell(map_of((B,), (B, C), 2))
    assert talk.request().to == B, "a new map cuts the pause short"


def test_the_map_is_given_to_a_node_that_asks() -> None:
    talk = Talk()
    talk.step(A, wire.encode(wire.MAP_PULL, CLUSTER, A, 0, 1, None))
    assert talk.kinds(A) == ["MAP"]


def test_deltas_fit_or_the_map_is_pulled() -> None:
    talk = Talk()
    for base, version in ((1, 2), (4, 5)):
        delta = Delta(CLUSTER, base, version, {0: Shard(version, version, (C,))})
        talk.step(MANAGER, wire.encode(wire.MAP_DELTA, CLUSTER, 1, 0, version, delta.to_wire()))
    assert talk.core.map.version == 2
    assert talk.core.map.shards[0].primary == C
    assert talk.kinds(MANAGER) == ["MAP_PULL"]


# --- rule 24: identity -----------------------------------------------------------------------------------------------


def test_rule_24_a_retry_has_the_batch_number_of_its_first_try() -> None:
    talk = Talk()
    call = talk.put(S)
    first = talk.request()
    talk.wait(TRY_MS)
    second = talk.request()
    assert (second.batch, second.attempt, second.number) == (first.batch, 2, first.number + 1)
    talk.reply(second, [10])
    assert call.done
    talk.put(S)
    assert talk.request().batch == first.batch + 1


def test_rule_24_the_watermark_is_the_lowest_batch_without_all_results() -> None:
    talk = Talk()
    for _ in range(3):
        talk.put(S)
        talk.wait(HOLD_MS)
    one, two, three = talk.requests()
    assert (one.watermark, two.watermark, three.watermark) == (1, 1, 1)
    talk.reply(two, [1])
    talk.put(S)
    assert talk.request().watermark == 1
    talk.wait(HOLD_MS)
    talk.reply(one, [1])
    talk.put(S)
    assert talk.request().watermark == 3


def test_rule_24_a_call_that_was_given_up_is_below_the_watermark() -> None:
    talk = Talk()
    call = talk.put(S, timeout_ms=100)
    talk.requests()
    talk.wait(100)
    assert call.failure
    talk.put(S)
    assert talk.request().watermark == 2
    talk.wait(HOLD_MS)
    abandoned = talk.put(S)
    talk.core.abandon(abandoned)
    talk.wait(HOLD_MS)
    talk.requests()
    talk.put(S)
    assert talk.request().watermark == 2, "only the lowest counts"


def test_rule_24_missing_counts_only_as_the_answer_to_the_latest_try() -> None:
    talk = Talk()
    call = talk.call(wire.DELETE, [S, S2])
    first = talk.request()
    talk.reply(first, [0, 0], [wire.NOT_READY, wire.NOT_READY])
    talk.wait(BACKOFF_MAX_MS)
    second = talk.request()
    # The first try's doubles cannot be told from its answer: the request number is used up.
    talk.reply(first, [9, 9], [wire.UNMET, wire.UNMET])
    assert not call.done
    talk.reply(second, [12, 7], [wire.OK, wire.UNMET])
    assert columns(call)[::2] == ([12, 7], [wire.OK, wire.UNMET])


def test_rule_24_an_older_trys_missing_is_no_answer_but_its_success_is() -> None:
    talk = Talk(s=(A, B), t=(A, B))
    call = talk.call(wire.DELETE, [S, T])
    first = talk.request()
    attempt = talk.core._links[A].tries[first.number]
    talk.core._try(attempt.batch, [0, 1])  # while the first is still under way
    talk.step()
    second = talk.request()
    talk.reply(first, [9, 11], [wire.UNMET, wire.OK])
    assert not call.done
    talk.reply(second, [10, 11], [wire.OK, wire.OK])
    assert columns(call)[::2] == ([10, 11], [wire.OK, wire.OK])


def test_rule_24_a_client_that_wakes_from_a_pause_looks_at_its_deadlines_first() -> None:
    talk = Talk()
    call = talk.put(S, timeout_ms=300)
    request = talk.request()
    talk.now_ms = 301.0
    talk.reply(request, [10])
    assert failure_of(call).unknown
    assert talk.requests() == []


# --- rule 26: deadlines in the node's clock --------------------------------------------------------------------------


def test_rule_26_a_request_names_its_deadline_in_the_nodes_clock() -> None:
    talk = Talk()
    talk.now_ms = 40.0
    talk.put(S, T, timeout_ms=300)
    for request in talk.requests():
        assert 0 <= request.deadline_ms - (340.0 + CLOCKS[request.to]) <= 1.0


def test_rule_26_a_late_refusal_corrects_the_estimate() -> None:
    talk = Talk()
    call = talk.put(S, timeout_ms=300)
    first = talk.request()
    talk.reply(first, [0], [wire.LATE], node_ms=talk.node_ms(A) + 10_000)
    talk.wait(BACKOFF_MAX_MS)
    again = talk.request()
    assert again.deadline_ms >= first.deadline_ms + 9_999
    talk.reply(again, [3])
    assert list(call.columns()[0]) == [3]


def test_the_clock_estimate_is_an_upper_bound_that_tightens_and_ages() -> None:
    link = Link()
    link.hear_clock(100.0, 1100.0, 180.0)
    assert link.offset_ms == 1001.0, "as if the node had answered the moment we asked"
    link.hear_clock(200.0, 1260.0, 300.0)
    assert link.offset_ms == 1001.0, "a slower round trip says less"
    link.hear_clock(300.0, 1290.0, 310.0)
    assert link.offset_ms == 991.0
    link.hear_clock(400.0, 1500.0, 310.0 + CLOCK_MS + 1)
    assert link.offset_ms == 1101.0, "clocks drift: an old estimate gives way"


# --- whatever arrives ------------------------------------------------------------------------------------------------


def test_strange_answers_are_ignored() -> None:
    talk = Talk()
    call = talk.put(S)
    request = talk.request()
    talk.step(A, b"", b"zk", wire.encode(wire.REPLY, CLUSTER, A, 0, 1, None))
    talk.step(A, wire.encode(wire.REPLY, CLUSTER + 1, A, 0, 1, [request.number, 1, 0, None, wire.pack_u64([9]), None]))
    talk.step(A, wire.encode(wire.REPLY, CLUSTER, A, 0, 1, [[], 1, 0, None, wire.pack_u64([9]), None]))
    talk.step(A, wire.encode(wire.REPLY, CLUSTER, C, 0, 1, [request.number, 1, 0, None, wire.pack_u64([9]), None]))
    talk.step(MANAGER, wire.encode(wire.MAP, CLUSTER, 1, 0, 9, [1, float("inf"), [], b"", b"", b"", [], []]))
    assert not call.done
    talk.reply(request, [4])
    assert list(call.columns()[0]) == [4]
    talk.reply(request, [5])
    assert list(call.columns()[0]) == [4], "a duplicate"
