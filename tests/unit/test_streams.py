"""Both ends of a numbered stream (rules 6 and 7), alone and against each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zkv.core.node.streams import GAP_MS, RESEND_BATCHES, RESEND_MAX_MS, RESEND_MS, WINDOW_BATCHES, InStream, OutStream


def push(stream: OutStream, now_ms: float = 0.0, frame: bytes = b"frame") -> int:
    seq = stream.next_seq()
    stream.push(frame, now_ms)
    stream.uncommitted.append(seq)
    return seq


def test_an_acknowledgement_is_cumulative() -> None:
    stream = OutStream()
    for _ in range(3):
        push(stream)
    assert stream.acknowledge(2, 1.0)
    assert [seq for seq, _ in stream.unacked] == [3]
    assert stream.bytes == len(b"frame")


def test_acknowledgements_never_go_back_nor_ahead_of_what_was_sent() -> None:
    stream = OutStream()
    push(stream)
    push(stream)
    assert stream.acknowledge(1, 1.0)
    assert not stream.acknowledge(1, 2.0)
    assert not stream.acknowledge(0, 2.0)
    assert not stream.acknowledge(3, 2.0)
    assert stream.acked == 1


def test_silence_makes_it_send_again_ever_more_patiently() -> None:
    stream = OutStream()
    push(stream)
    assert stream.overdue(RESEND_MS - 1) == []
    now_ms, waits = 0.0, []
    for _ in range(6):
        now_ms += stream.interval_ms
        waits.append(stream.interval_ms)
        assert stream.overdue(now_ms) == [b"frame"]
    assert waits == [RESEND_MS, 2 * RESEND_MS, 4 * RESEND_MS, *[RESEND_MAX_MS] * 3]
    stream.acknowledge(1, now_ms)
    assert stream.interval_ms == RESEND_MS
    assert stream.overdue(now_ms + 10 * RESEND_MAX_MS) == []


def test_a_gap_is_filled_at_once_but_not_for_every_batch_behind_it() -> None:
    stream = OutStream()
    push(stream)
    assert stream.fill_gap(100.0) == [b"frame"]
    assert stream.fill_gap(100.0 + GAP_MS - 1) == []
    assert stream.fill_gap(100.0 + GAP_MS) == [b"frame"]


def test_one_resend_is_bounded_and_starts_at_the_oldest() -> None:
    stream = OutStream()
    for number in range(RESEND_BATCHES + 10):
        push(stream, frame=b"%d" % number)
    assert stream.fill_gap(0.0) == [b"%d" % number for number in range(RESEND_BATCHES)]


def test_a_lost_window_is_sent_again_as_fast_as_it_is_acknowledged() -> None:
    stream = OutStream()
    for number in range(2 * RESEND_BATCHES + 10):
        push(stream, frame=b"%d" % number)
    stream.fill_gap(0.0)
    stream.acknowledge(RESEND_BATCHES - 1, 1.0)
    assert stream.catch_up(1.0) == [], "the peer has yet to take what was sent"
    stream.acknowledge(RESEND_BATCHES, 2.0)
    assert stream.catch_up(2.0) == [b"%d" % number for number in range(RESEND_BATCHES, 2 * RESEND_BATCHES)]
    stream.acknowledge(2 * RESEND_BATCHES, 3.0)
    assert len(stream.catch_up(3.0)) == 10
    stream.acknowledge(2 * RESEND_BATCHES + 10, 4.0)
    push(stream)
    assert stream.catch_up(5.0) == [], "a batch that was never lost is not sent twice"


def test_a_full_window_says_so() -> None:
    stream = OutStream()
    for _ in range(WINDOW_BATCHES):
        assert not stream.full
        push(stream)
    assert stream.full
    stream.acknowledge(1, 0.0)
    assert not stream.full


@given(st.permutations(range(1, 9)))
def test_the_commit_point_is_the_last_batch_before_the_first_unsettled_one(order: list[int]) -> None:
    stream = OutStream()
    for _ in range(8):
        push(stream)
    settled: set[int] = set()
    for seq in order:
        stream.settle(seq)
        stream.settle(seq)  # once more is no harm
        settled.add(seq)
        assert stream.committed == next(number for number in range(9) if number + 1 not in settled)


def test_a_gap_is_refused_until_it_is_filled() -> None:
    stream = InStream()
    assert stream.accept(1)
    assert not stream.accept(3)
    assert (stream.received, stream.gap) == (1, True)
    assert stream.accept(2)
    assert stream.accept(3)
    assert (stream.received, stream.gap) == (3, False)
    assert not stream.accept(2), "a duplicate"
    assert not stream.gap


def test_a_refusal_keeps_its_first_batch_and_its_newest_epoch() -> None:
    stream = InStream()
    stream.refuse(7, 3, 2)
    stream.refuse(7, 5, 4)
    assert stream.refused == {7: (3, 4)}


@given(st.lists(st.sampled_from(["send", "lose", "arrive", "twice", "ack", "ack lost", "wait"]), max_size=60))
def test_whatever_is_lost_or_doubled_everything_arrives_once_and_in_order(events: list[str]) -> None:
    out, receiver = OutStream(), InStream()
    wire: list[tuple[int, bytes]] = []
    applied: list[bytes] = []
    now_ms = 0.0

    def arrive() -> None:
        seq, frame = wire.pop(0)
        if receiver.accept(seq):
            applied.append(frame)

    def resend(frames: list[bytes]) -> None:
        wire.extend((int(frame), frame) for frame in frames)

    for event in [*events, *["arrive", "ack", "wait"] * 80]:
        now_ms += 1.0
        match event:
            case "send" if out.last_seq < 20:
                seq = out.next_seq()
                out.push(b"%d" % seq, now_ms)
                wire.append((seq, b"%d" % seq))
            case "lose" if wire:
                wire.pop(0)
            case "twice" if wire:
                wire.append(wire[0])
                arrive()
            case "arrive":
                while wire:
                    arrive()
            case "ack":
                out.acknowledge(receiver.received, now_ms)
                if receiver.gap:
                    resend(out.fill_gap(now_ms))
            case "wait":
                now_ms += RESEND_MAX_MS
                resend(out.overdue(now_ms))
        assert applied == [b"%d" % seq for seq in range(1, len(applied) + 1)]
        assert out.acked <= receiver.received <= out.last_seq
    assert len(applied) == out.last_seq
    assert not out.unacked
    assert out.bytes == 0
