"""Replica groups: the unit of replication and of the commit point (SAFETY 5, 8).

All shards of a primary with the same backups form one group. In a turn of the node their outcomes become one batch,
encoded once and sent to each member in its stream; the batch commits when *all* members have acknowledged it. The
commit point is kept per group, never as "the newest batch": a slow member holds up its own groups only.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zkv.core.replies import Held
    from zkv.core.tails import Part


class Group:
    """The shards of this primary that share one set of backups."""

    __slots__ = (
        "changed",
        "committed",
        "members",
        "parts",
        "pending",
        "shards",
        "source",
        "until_ms",
        "waiters",
        "wire",
    )

    def __init__(self, members: tuple[int, ...], source: int) -> None:
        self.members = members
        self.source = source
        """This group's name in `Tails`: a negative number."""
        self.shards: set[int] = set()
        self.committed = 0
        """Counter up to which everything this primary made for the group is committed."""
        self.pending: deque[tuple[int, tuple[int, ...]]] = deque()
        """(last counter, sequence number in each member's stream) of batches not yet committed."""
        self.waiters: deque[tuple[int, Held]] = deque()
        """(counter, reply that waits for its commit), in counter order."""
        self.parts: list[Part] = []
        """Outcomes of this turn, to be sent at its end."""
        self.wire: list[Any] = []
        """The same parts and the notices of this turn, as they travel."""
        self.changed = 0
        """Newest map version at which one of its shards changed: what grants must know to cover the whole group."""
        self.until_ms = float("-inf")
        """Until when leases cover every active shard of the group."""
