"""Long frames in pieces: whatever is lost, doubled or late, a frame arrives whole and right, or not at all."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkv.core import wire
from zkv.core.fragments import PIECES_LIMIT, STALLED_MS, UNCUT_PIECES, WINDOW, Fragments
from zkv.core.node.local import Address
from zkv.core.wire import FRAGMENT_BYTES, Malformed

SENDER, RECEIVER = 2**32 + 1, 2**32 + 2


def frame_of(pieces: float, kind: int = wire.MAP, fill: int = 0) -> bytes:
    """A frame of `pieces` pieces (0: a short one), told apart by its content."""
    body = bytes([fill % 256]) * max(8, int(pieces * FRAGMENT_BYTES) - 100)
    return wire.encode_header(kind, 1, SENDER, RECEIVER, 3) + body


class Link:
    """Two processes, and both directions between them."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.sender, self.receiver = Fragments(), Fragments()
        self.pieces: deque[bytes] = deque()
        self.acks: deque[bytes] = deque()
        self.arrived: list[bytes] = []

    def send(self, *frames: bytes) -> None:
        self.sort(self.sender.outgoing([(RECEIVER, frame) for frame in frames], self.now_ms))

    def sort(self, out: list[tuple[Address, bytes]]) -> None:
        assert all(to == RECEIVER for to, _ in out)
        assert all(len(frame) <= FRAGMENT_BYTES + 100 for _, frame in out)
        self.pieces.extend(frame for _, frame in out)

    def arrive(self) -> None:
        """The oldest frame under way arrives; acknowledgements go out."""
        if not self.pieces:
            return
        frame = self.pieces.popleft()
        header = wire.decode_header(frame)
        whole: bytes | None = frame
        if header.kind == wire.FRAGMENT:
            whole = self.receiver.incoming(b"route", header, frame, self.now_ms)
        if whole is not None:
            self.arrived.append(whole)
        for to, ack in self.receiver.outgoing([], self.now_ms):
            assert to == b"route"
            self.acks.append(ack)

    def acknowledge(self) -> None:
        """The oldest acknowledgement arrives, and releases the next piece."""
        if self.acks:
            ack = self.acks.popleft()
            assert self.sender.incoming(RECEIVER, wire.decode_header(ack), ack, self.now_ms) is None
        self.send()

    def run(self) -> None:
        while self.pieces or self.acks:
            self.arrive()
            self.acknowledge()


def test_short_frames_pass_untouched() -> None:
    fragments = Fragments()
    out: list[tuple[Address, bytes]] = [(RECEIVER, frame_of(0)), (b"x", frame_of(0))]
    assert fragments.outgoing(out, 0.0) is out
    assert fragments.next_wake_ms() == float("inf")


def test_a_long_frame_arrives_as_it_was() -> None:
    link = Link()
    frame = frame_of(3.5)
    link.send(frame)
    link.run()
    assert link.arrived == [frame]
    assert link.sender.next_wake_ms() == float("inf"), "nothing is left of it"


@pytest.mark.parametrize("rest", [1, 255, 256, 65535, 65536, FRAGMENT_BYTES])
def test_a_piece_is_a_frame_like_any_other(rest: int) -> None:
    frame = wire.encode_header(wire.MAP, 1, SENDER, RECEIVER, 3)
    frame += bytes(range(256)) * (2 * FRAGMENT_BYTES // 256)
    frame = frame[: FRAGMENT_BYTES + rest]
    pieces = [piece for _, piece in Fragments().outgoing([(RECEIVER, frame)], 0.0)]
    for index, piece in enumerate(pieces):
        assert wire.decode_header(piece) == (wire.FRAGMENT, 1, SENDER, RECEIVER, 3)
        chunk = frame[index * FRAGMENT_BYTES : (index + 1) * FRAGMENT_BYTES]
        assert wire.decode_body(piece) == [1, index, 2, chunk]
    assert len(pieces) == 2


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_cut_falls_where_a_frame_grows_too_long(extra: int) -> None:
    link = Link()
    frame = frame_of(0)[: wire.HEADER.size] + b"x" * (FRAGMENT_BYTES - wire.HEADER.size + extra)
    link.send(frame)
    assert len(link.pieces) == (2 if extra > 0 else 1)
    link.run()
    assert link.arrived == [frame]


@pytest.mark.parametrize("kind", [wire.REQUEST, wire.REPLY])
def test_what_clients_ask_and_hear_is_cut_where_it_is_very_long(kind: int) -> None:
    for pieces, cut in ((UNCUT_PIECES, 0), (UNCUT_PIECES + 0.1, UNCUT_PIECES + 1)):
        sender = Fragments()
        frame = frame_of(pieces, kind)
        out = sender.outgoing([(RECEIVER, frame)], 0.0)
        assert [piece for _, piece in out] == [frame] if not cut else len(out) == WINDOW < cut
        assert (sender.next_wake_ms() < float("inf")) == bool(cut)


def test_at_most_a_window_is_under_way() -> None:
    link = Link()
    link.send(frame_of(12), frame_of(5, fill=1))
    assert len(link.pieces) == WINDOW
    for _ in range(3):
        link.send()
        assert len(link.pieces) == WINDOW, "only an acknowledgement releases the next"
    link.arrive()
    link.acknowledge()
    assert len(link.pieces) == WINDOW
    link.run()
    assert [frame[-1] for frame in link.arrived] == [0, 1]


def test_leases_overtake_and_batches_do_not() -> None:
    link = Link()
    long, batch, lease = frame_of(9, wire.BATCH), frame_of(0, wire.BATCH), frame_of(0, wire.LEASE)
    link.send(long)
    link.send(batch, lease)
    link.run()
    assert [wire.KIND_NAMES[frame[3]] for frame in link.arrived] == ["LEASE", "BATCH", "BATCH"]
    assert link.arrived[1:] == [long, batch]


def test_other_destinations_do_not_wait() -> None:
    fragments = Fragments()
    fragments.outgoing([(RECEIVER, frame_of(9))], 0.0)
    batch = frame_of(0, wire.BATCH)
    assert fragments.outgoing([(b"other", batch)], 0.0) == [(b"other", batch)]


def test_a_batch_that_still_waits_is_not_queued_twice() -> None:
    link = Link()
    frame = frame_of(6, wire.BATCH)
    link.send(frame)
    link.send(frame)  # the stream lost patience
    link.run()
    assert link.arrived == [frame]


def test_a_lost_piece_ends_its_transfer_and_the_next_one_gets_through() -> None:
    link = Link()
    lost, after = frame_of(3), frame_of(2, fill=1)
    link.send(lost, after)
    link.pieces.popleft()
    link.run()
    assert link.arrived == []
    assert link.sender.next_wake_ms() == STALLED_MS
    link.now_ms = STALLED_MS + 1
    link.send()
    link.run()
    assert link.arrived == [after]
    link.send(lost)  # whoever sent it sends it again
    link.run()
    assert link.arrived == [after, lost]


def test_incomplete_transfers_are_forgotten() -> None:
    link = Link()
    for fill in range(5):
        link.send(frame_of(6, fill=fill))
        link.arrive()
        link.pieces.clear()
        link.acks.clear()
        link.now_ms += STALLED_MS + 1
    assert len(link.receiver._partial) <= 3
    assert link.receiver._partial_bytes == sum(len(p) for _, ps in link.receiver._partial.values() for p in ps)


def test_senders_behind_one_route_are_told_apart() -> None:
    receiver = Fragments()
    arrived = []
    for index in (0, 1):
        for sender in (SENDER, SENDER + 7):
            piece = wire.encode(wire.FRAGMENT, 1, sender, RECEIVER, 0, [1, index, 2, b"%d/%d " % (sender, index)])
            arrived.append(receiver.incoming(b"r", wire.decode_header(piece), piece, 0.0))
    assert arrived == [None, None, *(b"%d/0 %d/1 " % (sender, sender) for sender in (SENDER, SENDER + 7))]


@pytest.mark.parametrize(
    "body",
    [[1, 0, 1, b""], [1, 2, 2, b""], [1, -1, 2, b""], [1, 0, PIECES_LIMIT + 1, b""], [1, 0, 2, "x"], [1, 0, 2, None]],
)
def test_impossible_pieces_are_malformed(body: list[object]) -> None:
    piece = wire.encode(wire.FRAGMENT, 1, SENDER, RECEIVER, 0, body)
    with pytest.raises(Malformed):
        Fragments().incoming(b"r", wire.decode_header(piece), piece, 0.0)


HAPPENINGS = ["send", "short", "batch", "arrive", "ack", "lose", "lose ack", "twice", "late", "stall"]
EVENTS = st.lists(st.sampled_from(HAPPENINGS), max_size=50)


@given(EVENTS)
def test_whatever_happens_no_frame_arrives_wrong(events: list[str]) -> None:
    link = Link()
    sent: list[bytes] = []
    for number, event in enumerate(events):
        match event:
            case "send" | "short" | "batch":
                pieces = {"send": 2 + number % 4, "short": 0, "batch": 1.5}[event]
                sent.append(frame_of(pieces, wire.BATCH if event == "batch" else wire.MAP, fill=number))
                link.send(sent[-1])
            case "arrive":
                link.arrive()
            case "ack":
                link.acknowledge()
            case "lose" if link.pieces:
                link.pieces.popleft()
            case "lose ack" if link.acks:
                link.acks.popleft()
            case "twice" if link.pieces:
                link.pieces.insert(number % (len(link.pieces) + 1), link.pieces[0])
            case "late" if link.pieces:
                link.pieces.rotate(-1)
            case "stall":
                link.now_ms += STALLED_MS + 1
                link.send()
        assert set(link.arrived) <= set(sent)
        for outbox in link.sender._outboxes.values():
            assert outbox.sent - outbox.acked <= WINDOW
    link.pieces.clear()
    link.acks.clear()
    link.now_ms += 1.0
    for _ in events:  # everything before it stalls, and gives way
        link.now_ms += STALLED_MS + 1
        link.send()
        link.run()
    last = frame_of(3, fill=255)
    link.send(last)
    link.run()
    assert link.arrived[-1] == last
