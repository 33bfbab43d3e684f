"""Requests that wait at a node, a bounded number of bytes of them.

One for a shard that is just being reconciled waits for a moment instead of being refused: a change of the epoch takes
two round trips, and asking again would cost the client as much, and the node more. One that scans waits for its turn
where other clients have requests: it is a millisecond's work, or two, which the others would wait for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from zkv.core import wire
from zkv.core.node.local import Address, Local
from zkv.core.node.serving import Serving

SCAN_MS: Final = 8.0
"""Between two scans where clients have other requests."""
BUSY_MS: Final = 1000.0
"""A node counts as busy for so long after a request: clients that are slowed down must not look like clients gone."""
PARKED_MS: Final = 100.0
"""How long a request waits for a takeover before it is refused."""
PARKED_BYTES: Final = 64 * 1024 * 1024


class Parked(NamedTuple):
    """A request that waits."""

    until_ms: float
    shards: Sequence[int]
    source: Address
    header: wire.Header
    frame: bytes


class Parking:
    """The requests that wait at one node. `take_up` is given those whose time has come."""

    def __init__(self, local: Local, serving: Serving, take_up: Callable[[Parked], None]) -> None:
        self.local = local
        self.serving = serving
        self._take_up = take_up
        self._parked: deque[Parked] = deque()
        self._scans: deque[Parked] = deque()
        self._bytes = 0
        self._scan_ms = float("-inf")
        """From when on the next scan is taken up."""
        self._client = 0
        self._client_ms = self._others_ms = float("-inf")
        """Who had the last request that was no scan, and when; and when others had one before."""

    @property
    def busy(self) -> bool:
        """Whether requests wait here."""
        return bool(self._parked or self._scans)

    def advance(self, wake: Callable[[float], None]) -> None:
        """End of a turn: take up the requests whose takeover is over, or has taken too long, and the next scan."""
        if self._parked:
            parked, self._parked = self._parked, deque()
            for one in parked:
                if self.local.now_ms < one.until_ms and self.serving.is_settling(one.shards):
                    self._parked.append(one)
                else:
                    self._leave(one)
            if self._parked:
                wake(self._parked[0].until_ms)
        if self._scans:
            if self.local.now_ms >= self._scan_ms:
                self._leave(self._scans.popleft())
            if self._scans:
                wake(self._scan_ms)

    def _leave(self, one: Parked) -> None:
        self._bytes -= len(one.frame)
        self._take_up(one)

    def park(self, shards: Sequence[int], source: Address, header: wire.Header, frame: bytes) -> bool:
        """Let a request wait for a takeover, if that may help it; False if it is to be looked at now."""
        if not self.serving.is_settling(shards):
            return False
        one = Parked(self.local.now_ms + PARKED_MS, shards, source, header, frame)
        return self._keep(self._parked, one, "requests parked")

    def pace(self, shards: Sequence[int], source: Address, header: wire.Header, frame: bytes) -> bool:
        """Let a scan wait for its turn, if others have requests here; False if it is to be looked at now."""
        if self.local.now_ms >= self._scan_ms or not self.disturbs(header.sender):
            return False
        return self._keep(self._scans, Parked(self._scan_ms, shards, source, header, frame), "scans paced")

    def _keep(self, queue: deque[Parked], one: Parked, fired: str) -> bool:
        if self._bytes + len(one.frame) > PARKED_BYTES:
            return False
        queue.append(one)
        self._bytes += len(one.frame)
        self.local.roused = True
        self.local.fired[fired] += 1
        return True

    def disturbs(self, client: int) -> bool:
        """Whether clients other than this one had requests here a moment ago."""
        return self.local.now_ms < BUSY_MS + (self._others_ms if client == self._client else self._client_ms)

    def scanned(self) -> None:
        """A scan is looked at now: the next one waits."""
        self._scan_ms = self.local.now_ms + SCAN_MS

    def served(self, client: int) -> None:
        """A client had a request that was no scan."""
        local = self.local
        local.busy_until_ms = local.now_ms + BUSY_MS
        if client != self._client:
            self._client, self._others_ms = client, self._client_ms
        self._client_ms = local.now_ms
