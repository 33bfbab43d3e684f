"""Replies to client requests, held until everything they depend on is committed (SAFETY 8).

A reply shows versions; it leaves when each of them is committed, and while the primary still holds its leases
(SAFETY 5). A reply that waits when its shard changes hands is not dropped: its operations on that shard are answered
"maybe done, ask again under the same identity" (SAFETY 18).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zkv.core import wire
from zkv.core.node.entries import ABSENT, StoredEntry, packed_values


class Held:
    """The reply to one request: its columns, and what it still waits for."""

    __slots__ = (
        "attempt", "blocked", "deadline_ms", "entries", "pending", "request", "route", "seen", "shards", "statuses",
        "values", "versions", "writes",
    )  # fmt: skip

    def __init__(
        self, route: Any, request: int, attempt: int, shards: Sequence[int], deadline_ms: float, *, writes: bool
    ) -> None:
        self.route = route
        self.deadline_ms = deadline_ms
        """On this node's clock; nobody waits for the reply any more after that."""
        self.writes = writes
        self.request = request
        self.attempt = attempt
        self.shards = shards
        """Shard of each operation."""
        self.versions: list[int] = []
        self.values: list[Any] | None = None
        self.entries: list[StoredEntry] | None = None
        """In place of values, where these are what is stored: then the reply brings them as they are."""
        self.seen: dict[int, int] = {}
        """Position -> version of the former state that its answer says something of."""
        self.statuses: bytearray | None = None
        """Status of each operation; None while all are OK."""
        self.pending = 0
        """Groups whose commit it waits for."""
        self.blocked: set[int] = set()
        """Shards that are being reconciled."""

    def body(self, now_ms: float) -> bytes:
        """The MessagePack body of the REPLY."""
        packed = wire.pack(
            [
                self.request,
                self.attempt,
                int(now_ms),
                None if self.statuses is None else bytes(self.statuses),
                wire.pack_u64(self.versions),
                self.values,
            ]
        )
        # The last of it is nil, a single byte, where entries stand in for values.
        assert self.entries is None or self.values is None
        return packed if self.entries is None else packed[:-1] + packed_values(self.entries)

    def set_status(self, position: int, status: int) -> None:
        """Mark one operation; what it would have shown is withheld unless a condition failed."""
        if self.statuses is None:
            self.statuses = bytearray(len(self.shards))
        self.statuses[position] = status
        if status not in wire.FAILED:
            self.versions[position] = 0
            if self.values is not None:
                self.values[position] = None
            if self.entries is not None:
                self.entries[position] = ABSENT

    def demote(self, shards: set[int]) -> None:
        """This node lost `shards`: their operations may have been done, and no longer wait for anything here."""
        # The session's record and the tails hold this very list; what they remember is not for us to blank out.
        self.versions = list(self.versions)
        for position, shard in enumerate(self.shards):
            if shard in shards and (self.statuses is None or self.statuses[position] in wire.ANSWERS):
                self.set_status(position, wire.MAYBE)
        self.blocked -= shards

    def answered(self) -> list[int]:
        """The shards of operations whose answer claims something, for the check of leases before it leaves."""
        if self.statuses is None:
            return list(self.shards)
        return [
            shard for shard, status in zip(self.shards, self.statuses, strict=True) if status in wire.ANSWERS
        ]
