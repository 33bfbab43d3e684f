"""Numbered streams between two members: one for each (primary boot, backup boot) pair (SAFETY 6, 7).

TCP under ZeroMQ keeps order but may lose what was in flight at a reset, silently and on both sides. So batches are
numbered, the receiver refuses a gap, acknowledgements are cumulative, and the sender sends again from the last one.

A receiver refuses entries below the epoch it knows (fencing), shard by shard. A refusal is repeated in every
acknowledgement until a batch shows that the sender has learned the newer map: otherwise the acknowledgement that
carried it could be lost and the next, cumulative, would cover the refused entry.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

WINDOW_BATCHES: Final = 4096
WINDOW_BYTES: Final = 64 * 1024 * 1024
"""What a sender keeps unacknowledged before it refuses further writes for that peer."""
RESEND_MS: Final = 100.0
"""Silence after which unacknowledged batches are sent again; doubled up to `RESEND_MAX_MS` while nothing comes."""
RESEND_MAX_MS: Final = 800.0
GAP_MS: Final = 10.0
"""Shortest interval between two re-sends for a gap."""
RESEND_BATCHES: Final = 64
"""How many batches one re-send carries: the peer may be slow rather than deaf."""


class OutStream:
    """The sending end. Keeps every batch until the peer acknowledged it."""

    __slots__ = (
        "acked", "bytes", "committed", "interval_ms", "last_seq", "progress_ms", "resend_upto", "resent_ms",
        "resent_seq", "unacked", "uncommitted",
    )  # fmt: skip

    def __init__(self) -> None:
        self.last_seq = 0
        self.acked = 0
        self.unacked: deque[tuple[int, bytes]] = deque()
        self.bytes = 0
        self.progress_ms = 0.0
        """When the peer last moved on, or when the stream last began to wait."""
        self.interval_ms = RESEND_MS
        self.resent_ms = float("-inf")
        self.resent_seq = 0
        """The newest batch that was sent again."""
        self.resend_upto = 0
        """What had been sent when a loss was last noticed: up to here everything may have to be sent again."""
        self.uncommitted: deque[int] = deque()
        """Sequence numbers of batches whose group has not committed them, oldest first."""
        self.committed = 0
        """Every batch of this stream up to here is committed."""

    @property
    def full(self) -> bool:
        """Whether the window is used up: the peer is behind, and writes for it must wait at the client."""
        return len(self.unacked) >= WINDOW_BATCHES or self.bytes >= WINDOW_BYTES

    def push(self, frame: bytes, now_ms: float) -> None:
        """Keep the frame that carries batch `last_seq` (the caller took the number with `next_seq`)."""
        if not self.unacked:
            self.progress_ms = now_ms
            self.interval_ms = RESEND_MS
        self.unacked.append((self.last_seq, frame))
        self.bytes += len(frame)

    def next_seq(self) -> int:
        """The number of the next batch."""
        self.last_seq += 1
        return self.last_seq

    def acknowledge(self, received: int, now_ms: float) -> bool:
        """Take a cumulative acknowledgement; True if it covers anything new."""
        if received <= self.acked or received > self.last_seq:
            return False
        self.acked = received
        unacked = self.unacked
        while unacked and unacked[0][0] <= received:
            self.bytes -= len(unacked.popleft()[1])
        self.progress_ms = now_ms
        self.interval_ms = RESEND_MS
        return True

    def settle(self, seq: int) -> None:
        """Batch `seq` is committed, or nothing waits for its commit any more."""
        uncommitted = self.uncommitted
        if uncommitted and uncommitted[0] == seq:
            uncommitted.popleft()
        else:
            try:
                uncommitted.remove(seq)
            except ValueError:
                return
        self.committed = uncommitted[0] - 1 if uncommitted else self.last_seq

    def overdue(self, now_ms: float) -> list[bytes]:
        """The batches to send again now, if the peer has been silent for too long."""
        if not self.unacked or now_ms - self.progress_ms < self.interval_ms:
            return []
        self.interval_ms = min(2 * self.interval_ms, RESEND_MAX_MS)
        return self._resend_from_start(now_ms)

    def fill_gap(self, now_ms: float) -> list[bytes]:
        """The batches to send again because the peer met a gap: at once, but not once for each batch behind the gap."""
        if not self.unacked or now_ms - self.resent_ms < GAP_MS:
            return []
        return self._resend_from_start(now_ms)

    def catch_up(self, now_ms: float) -> list[bytes]:
        """The next batches of a re-send, once the peer has acknowledged those before: a whole window may be lost."""
        if not self.unacked or not self.resent_seq <= self.acked < self.resend_upto:
            return []
        return self._resend(now_ms)

    def _resend_from_start(self, now_ms: float) -> list[bytes]:
        self.resend_upto = self.last_seq
        return self._resend(now_ms)

    def _resend(self, now_ms: float) -> list[bytes]:
        """The oldest unacknowledged batches."""
        self.progress_ms = self.resent_ms = now_ms
        again = list(islice(self.unacked, RESEND_BATCHES))
        self.resent_seq = again[-1][0]
        return [frame for _, frame in again]


class InStream:
    """The receiving end: how far it got, and what it refused."""

    __slots__ = ("gap", "received", "refused")

    def __init__(self) -> None:
        self.received = 0
        self.refused: dict[int, tuple[int, int]] = {}
        """shard -> (first refused batch, the epoch known here), until the sender shows that it knows."""
        self.gap = False
        """A batch ahead of the next expected one was met: ask for a re-send."""

    def accept(self, seq: int) -> bool:
        """Whether batch `seq` is the next one."""
        if seq == self.received + 1:
            self.received = seq
            self.gap = False
            return True
        if seq > self.received:
            self.gap = True
        return False

    def refuse(self, shard: int, seq: int, epoch: int) -> None:
        """Note that entries of `shard` from batch `seq` on are below `epoch`."""
        first, _ = self.refused.get(shard, (seq, 0))
        self.refused[shard] = (first, epoch)
