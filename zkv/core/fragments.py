"""Long frames travel in pieces, paced by the receiver, so that no value starves leases and heartbeats on its link.

A frame longer than `FRAGMENT_BYTES` is cut; at most `WINDOW` pieces to one destination are under way, and each
acknowledgement releases the next. Leases, grants and acknowledgements pass in between. Batches of a numbered stream
do not overtake a long one before them: they would only be refused as a gap. Requests and replies, on whose links
nothing of that kind travels, are only cut where they are longer than `UNCUT_PIECES` pieces: cutting a value of 1 MB
takes as long as all the rest of its way.

A piece that is lost ends its transfer after `STALLED_MS`; whoever sent the frame sends it again, as for any lost frame.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from zkv.core import wire
from zkv.core.node.local import Address
from zkv.core.wire import FRAGMENT_BYTES, HEADER, Malformed

WINDOW: Final = 4
UNCUT_PIECES: Final = 5
"""So that a client's batch (1 MiB of values) stays whole."""
STALLED_MS: Final = 1000.0
QUEUE_BYTES: Final = 256 * 1024 * 1024
"""What may wait for one destination; beyond it long frames are dropped, and come again."""
PARTIAL_BYTES: Final = 512 * 1024 * 1024
"""What incomplete transfers may hold in all."""
PIECES_LIMIT: Final = 4096
IN_STREAM: Final = frozenset((wire.BATCH,))
OF_CLIENTS: Final = frozenset((wire.REQUEST, wire.REPLY))

_EMPTY: Final = wire.pack(b"")
_BIN: Final = struct.Struct(">BI")
"""The head of a MessagePack `bin 32`: its tag and its length."""


class _Outbox:
    """What waits for one destination behind a long frame."""

    __slots__ = ("acked", "bytes", "frames", "number", "progress_ms", "sent")

    def __init__(self, number: int, now_ms: float) -> None:
        self.frames: deque[bytes] = deque()
        self.bytes = 0
        self.number = number
        """Of the transfer at the head."""
        self.sent = 0
        self.acked = 0
        self.progress_ms = now_ms


class Fragments:
    """Both ends of all links of one process."""

    __slots__ = ("_acks", "_outboxes", "_partial", "_partial_bytes", "_transfers")

    def __init__(self) -> None:
        self._outboxes: dict[Address, _Outbox] = {}
        self._partial: dict[tuple[Address, int, int], tuple[float, list[bytes]]] = {}
        self._partial_bytes = 0
        self._acks: list[tuple[Address, bytes]] = []
        self._transfers = 0

    def outgoing(self, out: list[tuple[Address, bytes]], now_ms: float) -> list[tuple[Address, bytes]]:
        """What of `out` leaves now; the rest waits its turn here."""
        if not self._outboxes and not self._acks:
            for _, frame in out:  # a loop, and no `all(…)`: this is executed in every turn, mostly for one frame
                if len(frame) > FRAGMENT_BYTES:
                    break
            else:
                return out
        leaving, self._acks = self._acks, []
        for to, frame in out:
            outbox = self._outboxes.get(to)
            limit = UNCUT_PIECES * FRAGMENT_BYTES if frame[3] in OF_CLIENTS else FRAGMENT_BYTES
            if len(frame) <= limit and (outbox is None or frame[3] not in IN_STREAM):
                leaving.append((to, frame))
                continue
            if outbox is None:
                outbox = self._outboxes[to] = _Outbox(self._next(), now_ms)
            if any(frame is waiting for waiting in outbox.frames):
                continue  # sent again by a stream that lost patience, while it is still under way
            if not outbox.frames or outbox.bytes + len(frame) <= QUEUE_BYTES:
                outbox.frames.append(frame)
                outbox.bytes += len(frame)
        for to in list(self._outboxes):
            self._pump(to, leaving, now_ms)
        return leaving

    def _next(self) -> int:
        self._transfers += 1
        return self._transfers

    def _pump(self, to: Address, leaving: list[tuple[Address, bytes]], now_ms: float) -> None:
        outbox = self._outboxes[to]
        while outbox.frames:
            frame = outbox.frames[0]
            count = -(-len(frame) // FRAGMENT_BYTES)
            stalled = now_ms - outbox.progress_ms > STALLED_MS
            if count == 1:
                leaving.append((to, frame))
            elif outbox.acked < count and not stalled:
                while outbox.sent < min(count, outbox.acked + WINDOW):
                    leaving.append((to, _piece(frame, outbox.number, outbox.sent, count)))
                    outbox.sent += 1
                return
            outbox.frames.popleft()
            outbox.bytes -= len(frame)
            outbox.number, outbox.sent, outbox.acked, outbox.progress_ms = self._next(), 0, 0, now_ms
        del self._outboxes[to]

    def receive(self, source: Address, frame: bytes, now_ms: float) -> tuple[wire.Header, bytes] | None:
        """(header, frame) of what arrived: a frame as it is, a long one with its last piece, None for what is neither.

        Raises `Malformed`.
        """
        header = wire.decode_header(frame)
        if header.kind not in (wire.FRAGMENT, wire.FRAGMENT_ACK):
            return header, frame
        whole = self.incoming(source, header, frame, now_ms)
        return None if whole is None else (wire.decode_header(whole), whole)

    def incoming(self, source: Address, header: wire.Header, frame: bytes, now_ms: float) -> bytes | None:
        """Take a piece or its acknowledgement; returns the whole frame with its last piece."""
        if header.kind == wire.FRAGMENT_ACK:
            number, received = wire.decode_body(frame)
            outbox = self._outboxes.get(source)
            if outbox is not None and outbox.number == number and received > outbox.acked:
                outbox.acked, outbox.progress_ms = received, now_ms
            return None
        number, index, count, piece = wire.decode_body(frame)
        if not isinstance(piece, bytes) or not 1 < count <= PIECES_LIMIT or not 0 <= index < count:
            raise Malformed("a fragment with impossible numbers")
        key = (source, header.sender, number)
        _, pieces = self._partial.get(key, (now_ms, []))
        if index != len(pieces):
            return None  # a piece was lost or came twice: this transfer will stall, or is complete
        pieces.append(piece)
        self._partial_bytes += len(piece)
        self._partial[key] = (now_ms, pieces)
        ack = wire.encode(wire.FRAGMENT_ACK, header.cluster, header.target, header.sender, 0, [number, index + 1])
        self._acks.append((source, ack))
        self._forget_stalled(now_ms)
        if len(pieces) < count:
            return None
        self._drop(key)
        return b"".join(pieces)

    def _forget_stalled(self, now_ms: float) -> None:
        for key, (touched_ms, _) in list(self._partial.items()):
            if now_ms - touched_ms > 2 * STALLED_MS or self._partial_bytes > PARTIAL_BYTES:
                self._drop(key)

    def _drop(self, key: tuple[Address, int, int]) -> None:
        entry = self._partial.pop(key, None)
        if entry is not None:
            self._partial_bytes -= sum(map(len, entry[1]))

    def next_wake_ms(self) -> float:
        """When a stalled transfer has to be looked at."""
        if not self._outboxes:
            return float("inf")
        return min(outbox.progress_ms + STALLED_MS for outbox in self._outboxes.values())


def _piece(frame: bytes, number: int, index: int, count: int) -> bytes:
    """One FRAGMENT of `frame`, under the frame's own addresses."""
    _, _, _, cluster, sender, target, map_version = HEADER.unpack_from(frame)
    chunk = memoryview(frame)[index * FRAGMENT_BYTES : (index + 1) * FRAGMENT_BYTES]
    # Packed like any body, the chunk would be copied four times: by slice, buffer, body and frame. So an empty one is
    # packed, and the real one joined in its place.
    around = wire.encode(wire.FRAGMENT, cluster, sender, target, map_version, [number, index, count, b""])
    return b"".join((around[: -len(_EMPTY)], _BIN.pack(0xC6, len(chunk)), chunk))
