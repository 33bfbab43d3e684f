"""What a node says of itself in each heartbeat: how much it holds, how busy it is, how far its fills are."""

from __future__ import annotations

from typing import Any, NamedTuple

from zkv.core.wire import Malformed


class Load(NamedTuple):
    """All plain numbers from 0 to 2**64 - 1. Counts grow from the start of the process."""

    keys: int = 0
    """Entries held, tombstones included, over all shards and roles."""
    bytes: int = 0
    """What these hold, keys and values, estimated from samples."""
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

    @classmethod
    def from_wire(cls, body: Any) -> Load:
        """A HEARTBEAT's body; raises `Malformed`."""
        if not isinstance(body, list) or len(body) != len(cls._fields):
            raise Malformed(f"HEARTBEAT wants {len(cls._fields)} numbers")
        if not all(type(number) is int and 0 <= number < 2**64 for number in body):
            raise Malformed("HEARTBEAT wants numbers from 0 to 2**64 - 1")
        return cls(*body)
