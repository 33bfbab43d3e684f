"""A node takes whatever arrives: frames that do not parse, that lie about their types, or that came to the wrong door.

`Node.step` must never raise on account of a frame, and no frame of a stranger may change what the node holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.scenario.bench import S2, Bench, S, T
from tests.scenario.parts import CLUSTER, LOW, Frame
from tests.unit.frames import BODIES
from zkv.core import wire
from zkv.core.node import node, serving
from zkv.core.node.local import MANAGER
from zkv.core.shardmap import shard_of

KINDS = sorted(wire.KIND_NAMES)
KINDS = [kind for kind in KINDS if kind >= wire.BATCH or kind < wire.GET + 50]


@pytest.fixture(scope="module")
def formed() -> Bench:
    """A cluster that hypothesis sends its frames to: each must leave it as healthy as it was."""
    return Bench(s="PB", t="PC")


def check_health(bench: Bench) -> None:
    """The node under fire still serves, reads and writes, both shards."""
    bench.advance(30)
    write = bench.put("P", [S, T], ["healthy", "too"], client="h")
    bench.advance(30)
    assert write.status == "OK"
    assert bench.get("P", [S, T], client="h").results == ["healthy", "too"]


def request(**changes: Any) -> bytes:
    """A REQUEST of client x to P, correct but for `changes`."""
    fields: dict[str, Any] = {
        "request": 10**6, "attempt": 1, "batch": 1, "watermark": 0, "deadline_ms": 1e300, "op": wire.PUT,
        "indices": None, "shards": wire.pack_u16([shard_of(S2, 2)]), "keys": [S2], "values": ["v"], "ack": 0,
        "operands": None, "ttls": None,
    }  # fmt: skip
    body = [*(fields | changes).values()]
    return wire.encode(wire.REQUEST, CLUSTER, LOW + ord("x"), 0, 1, body)


def statuses(bench: Bench, frame: bytes, at: str = "P") -> Iterator[str]:
    """The kinds of what a frame of a stranger is answered with."""
    before = len(bench.trace)
    answers = bench.hold(at, "q")
    bench.replay(Frame("q", at, b"q", frame))
    assert answers.held is not None
    held, answers.held = answers.held, []
    bench.heal(answers)
    assert len(bench.trace) >= before
    return iter([frame.kind for frame in held])


# --- frames that do not parse ----------------------------------------------------------------------------------------


@given(st.binary(max_size=80))
@example(b"")
@example(b"zk\x01\x16" + bytes(31))
def test_noise_is_dropped(formed: Bench, frame: bytes) -> None:
    assert list(statuses(formed, frame)) == []


@given(st.sampled_from(KINDS), st.binary(max_size=60))
@example(wire.REQUEST, b"\x81\x90\x01")
@example(wire.BATCH, b"")
@example(wire.HELLO, b"\x91" * 600 + b"\x01")
@example(wire.LEASE, b"\x92" + b"\x91" * 600 + b"\x01\x01")
def test_a_header_before_noise_is_dropped(formed: Bench, kind: int, body: bytes) -> None:
    for sender in (LOW + ord("q"), formed.boot("B")):
        header = wire.encode_header(kind, CLUSTER, sender, formed.boot("P"), 1)
        list(statuses(formed, header + body))
    check_health(formed)


# --- frames that parse, and say something strange --------------------------------------------------------------------


@given(st.sampled_from([kind for kind in KINDS if kind not in (wire.WELCOME, wire.MAP, wire.MAP_DELTA)]), BODIES)
def test_a_body_of_anything_from_a_stranger_does_no_harm(formed: Bench, kind: int, body: Any) -> None:
    frame = wire.encode(kind, CLUSTER, LOW + ord("q"), 0, 1, body)
    list(statuses(formed, frame))
    check_health(formed)


FIELDS = [
    "request", "attempt", "batch", "watermark", "deadline_ms", "op", "indices", "shards", "keys", "values", "ack",
    "operands", "ttls",
]  # fmt: skip


def test_the_request_that_the_others_alter_is_served(formed: Bench) -> None:
    assert list(statuses(formed, request(deadline_ms=formed.clock_ms("P") + 100))) == ["REPLY"]


@given(st.sampled_from(FIELDS), BODIES)
@example("batch", float("inf"))
@example("watermark", float("inf"))
@example("batch", "9" * 30)
@example("watermark", "9" * 30)
@example("batch", -(2**63))
@example("deadline_ms", float("nan"))
@example("keys", {S2: 1})
@example("values", {"v": 1})
@example("values", "v")
@example("values", [[["list"]]])
@example("indices", wire.pack_u16([65535]))
@example("shards", wire.pack_u16([9]))
@example("op", True)
@example("op", wire.SCAN)
@example("op", wire.WATCH)
@example("op", wire.TOUCH)
@example("op", wire.TTL)
@example("ack", [1])
@example("operands", wire.pack_u64([1, 2]))
@example("ttls", wire.pack_u64([1, 2]))
@example("ttls", wire.pack_u64([0]))
@example("ttls", wire.pack_u64([2**64 - 1]))
@example("ttls", b"1234567")
@example("ttls", [5])
def test_a_request_with_one_strange_column_does_no_harm(formed: Bench, name: str, value: Any) -> None:
    bench = formed
    kinds = list(statuses(bench, request(**{name: value, "deadline_ms": bench.clock_ms("P") + 100} | {name: value})))
    assert kinds in ([], ["REPLY"], ["REFUSED"])
    check_health(bench)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", float("inf")), ("batch", "9" * 30), ("watermark", "9" * 30), ("request", [1]), ("attempt", None)],
)
def test_an_identity_that_is_no_number_is_refused(name: str, value: Any) -> None:
    bench = Bench(s="PB", t="PC")
    frame = request(**{"deadline_ms": bench.clock_ms("P") + 100, name: value})
    assert set(statuses(bench, frame)) <= {"REFUSED"}
    assert bench.held_by("P", S2) is None
    check_health(bench)


@pytest.mark.parametrize("values", [{"v": 1, "w": 2}, "vw"])
def test_values_that_are_no_list_are_refused_before_anything_is_applied(values: Any) -> None:
    """Halfway through they could only be applied here, and replicated to some of the sets."""
    bench = Bench(s="PB", t="PC")
    columns = {"shards": wire.pack_u16([0, 1]), "keys": [S, T], "values": values}
    frame = request(deadline_ms=bench.clock_ms("P") + 100, **columns)
    assert list(statuses(bench, frame)) == ["REFUSED"]
    assert bench.held_by("P", S) is bench.held_by("P", T) is None
    check_health(bench)


# --- frames at the wrong door ----------------------------------------------------------------------------------------


def test_a_frame_of_another_cluster_is_refused() -> None:
    bench = Bench(s="PB", t="PC")
    frame = wire.encode(wire.LEASE, CLUSTER + 1, bench.boot("B"), 0, 9, [1, 0])
    assert list(statuses(bench, frame)) == ["REFUSED"]
    assert bench.node("P").local.given.granted_ms(bench.boot("B")) == float("-inf")


def test_a_refusal_is_never_refused() -> None:
    """Otherwise two nodes of different clusters, one on the other's former port, would refuse each other for ever."""
    bench = Bench(s="PB", t="PC")
    for cluster, target in ((CLUSTER + 1, 0), (CLUSTER, 12345)):
        frame = wire.encode(wire.REFUSED, cluster, bench.boot("B"), target, 1, [0, wire.WRONG_CLUSTER, "not here"])
        assert list(statuses(bench, frame)) == []


def test_a_refused_request_is_told_by_its_number() -> None:
    bench = Bench(s="PB", t="PC")
    ask = bench.put("P", "k" * 5000, "v")
    assert ask.status == "REFUSED"
    assert bench.put("P", S2, None).status == "REFUSED"
    assert bench.put("P", [S2, S], ["one"]).status == "REFUSED"


@pytest.mark.parametrize(
    ("position", "rows"),
    [
        ("x", []),
        (2**50, []),
        (3 << 60, []),
        (2**40, [[2**40, ["a"], "v", 1, 1, 1, None, 0]]),
        (2**40, [[2**40, "a", "v", 1, 1, "x", None, 0]]),
        (2**40, [[2**40 - 1, "a", "v", 1, 1, 1, None, 0]]),
        (2**40, [[2**40, "a", "v", 1, 1, 1, None, 0], [2**40, "a", "v", 1, 1, 1, None, 0]]),
        (2**40, [[2**40, "a", "v", 1, 1, 1, None, "soon"]]),
        (2**40, [[2**40, "a", "v", 1, 1, 1, None, -5]]),
        (2**40, [[2**40, "a", "v", 1, 1, 1, None]]),
    ],
)
def test_a_tail_that_cannot_be_is_dropped(position: Any, rows: list[Any]) -> None:
    bench = Bench(s="PB", t="PB")
    silent = bench.drop("B", "P", "TAILS")
    bench.change(s="PB")
    data = wire.encode(wire.TAILS, CLUSTER, bench.boot("B"), bench.boot("P"), 2, [[0, 2, position, rows]])
    bench.replay(Frame("B", "P", b"B", data))
    bench.heal(silent)
    bench.advance(100)
    check_health(bench)


def test_a_tail_that_comes_after_the_activation_is_not_read() -> None:
    """Questions are repeated: a late answer names entries made since, and nothing is wrong with it."""
    bench = Bench(s="PB", t="PB")
    asked = bench.hold("P", "B", "TAIL_PULL")
    bench.change(s="PB")
    bench.advance(120)
    first, again = (asked.held or [])[:2]
    bench.replay(first)
    bench.advance(30)
    assert bench.put("P", S, "made since").status == "OK"
    answers = bench.hold("B", "P", "TAILS")
    bench.replay(again)
    bench.advance(5)
    assert answers.held
    bench.heal(answers)
    bench.advance(5)
    assert bench.node("P").local.fired["malformed frames"] == 0
    check_health(bench)


def test_frames_under_a_map_that_never_comes_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "STASH_BYTES", 1000)
    bench = Bench(s="PB", t="PB")
    stash = bench.node("P")._stash
    for _ in range(20):
        bench.put("P", S, "x" * 100, routed_by=2**40)
    assert 1 <= len(stash) < 10
    bench.advance(node.STASH_MS)
    bench.put("P", S, "x", routed_by=2**40)
    assert len(stash) == 1
    check_health(bench)


# --- what a primary would never send ---------------------------------------------------------------------------------

TWO = wire.pack_u64([(1 << 40) + 10**6, (1 << 40) + 10**6 + 1])
S_TWICE = wire.pack_u16([0, 0])


@pytest.mark.parametrize(
    "part",
    [
        [serving.WRITES_PART, 5, 1, 0, None, S_TWICE, TWO, [S, S2], ["v", "w"], None],
        [serving.WRITES_PART, 5, 1, 0, None, S_TWICE, TWO, [S, S2], ["v", "w"], None, wire.pack_u64([7])],
        [serving.WRITES_PART, 5, 1, 0, None, S_TWICE, TWO, [S, S2], ["v", "w"], None, [7, 8]],
        [serving.WRITES_PART, 5, 1, 0, None, S_TWICE, TWO, [S, S2], ["v", "w"], [1], None],
        [serving.WRITES_PART, 5, 1, 0, None, S_TWICE, TWO, [S], ["v", "w"], None, None],
        [serving.WRITES_PART, 5, 1, 0, None, S_TWICE, TWO, [S, S2], ["v"], None, TWO],
        [serving.FILL_PART, 0, 1, [S], wire.pack_u64([7]), ["v"]],
        [serving.FILL_PART, 0, 1, [S], wire.pack_u64([7]), ["v"], "soon"],
        [serving.ADOPT_PART, [[0, 1, [[2**40 + 10**6, S, "v", 5, 1, 0, None, 0, 0]]]]],
        [serving.ADOPT_PART, [[0, 1, [[2**40 + 10**6, S, "v", 5, 1, 0, None, -1]]]]],
    ],
)
def test_a_part_that_cannot_be_is_not_taken_and_not_acknowledged(part: list[Any]) -> None:
    bench = Bench(s="PB", t="PC")
    bench.put("P", [S, S2], ["old", "old"], ttls=[5000, 0])
    store = bench.node("B").local.store
    before, used, expiring = dict(store.tables[0]), store.bytes, store.expiry.count
    stream = bench.node("P").local.outgoing[bench.boot("B")]
    header = wire.encode_header(wire.BATCH, CLUSTER, bench.boot("P"), bench.boot("B"), 1)
    data = header + wire.STREAM.pack(stream.last_seq + 1, 0) + wire.pack([part])
    bench.replay(Frame("P", "B", b"P", data))
    assert bench.node("B").local.fired["malformed frames"] == 1
    assert (dict(store.tables[0]), store.bytes, store.expiry.count) == (before, used, expiring)
    assert stream.acked == stream.last_seq
    check_health(bench)
    assert bench.held_by("B", S) == bench.held_by("P", S)


@pytest.mark.parametrize("cluster_ms", [None, "noon", -1, 1.5, float("nan"), 2**63, True])
def test_a_welcome_without_a_time_is_dropped(cluster_ms: Any) -> None:
    bench = Bench(s="PB", t="PC")
    body = [bench.settings.to_wire(), "tcp://m:1", "tcp://m:2", bench.manager_boot, cluster_ms]
    bench.replay(Frame("M", "P", MANAGER, wire.encode(wire.WELCOME, CLUSTER, bench.manager_boot, 0, 0, body)))
    assert bench.node("P").local.fired["malformed frames"] == 1
    check_health(bench)
    assert bench.node("P").local.load().cluster_ms == bench.cluster_ms
