"""What a node says of itself in each heartbeat: how much it holds and may hold, how busy it is, how far its fills are,
what has expired or was evicted, and what time it is."""

from __future__ import annotations

from typing import Any, NamedTuple

from zkv.core.wire import Malformed


class Load(NamedTuple):
    """All plain numbers from 0 to 2**64 - 1. Counts grow from the start of the process."""

    keys: int = 0
    """Entries held, tombstones included, over all shards and roles."""
    bytes: int = 0
    """What these take in the process, overhead included."""
    operations: int = 0
    """Operations of clients executed, counted."""
    busy_permille: int = 0
    """Part of the last second or so in which the process computed instead of waiting."""
    rss_bytes: int = 0
    """Memory of the process; 0 where the host does not know it."""
    free_bytes: int = 0
    """Memory that its machine has left; 0 where the host does not know it."""
    fill_keys: int = 0
    """Entries sent to learners, counted."""
    fill_bytes: int = 0
    """Bytes of the frames that carried them, counted."""
    fill_left_keys: int = 0
    """Entries still to be sent to learners."""
    expiring_keys: int = 0
    """Entries that have an expiry."""
    expired: int = 0
    """Entries that expired and were reclaimed, counted."""
    evicted: int = 0
    """Entries that had to make room, counted."""
    refused: int = 0
    """Writes refused for want of memory, counted."""
    lag_us: int = 0
    """How long after its expiry an entry was reclaimed: p99 of the last seconds, in microseconds."""
    limit_bytes: int = 0
    """What `bytes` may become; 0: no limit."""
    cluster_ms: int = 0
    """Cluster time as this node has it; 0: not known yet."""

    @classmethod
    def from_wire(cls, body: Any) -> Load:
        """A HEARTBEAT's body; raises `Malformed`."""
        if not isinstance(body, list) or len(body) != len(cls._fields):
            raise Malformed(f"HEARTBEAT wants {len(cls._fields)} numbers")
        if not all(type(number) is int and 0 <= number < 2**64 for number in body):
            raise Malformed("HEARTBEAT wants numbers from 0 to 2**64 - 1")
        return cls(*body)
