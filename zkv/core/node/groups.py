"""Replica groups: the unit of replication and of the commit point (SAFETY 5, 8).

All shards of a primary with the same backups form one group. In a turn of the node their outcomes become one batch,
encoded once and sent to each member in its stream; the batch commits when *all* members have acknowledged it. The
commit point is kept per group, never as "the newest batch": a slow member holds up its own groups only.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zkv.core.node.replies import Held
    from zkv.core.node.tails import Part


class Group:
    """The shards of this primary that share one set of backups, and of learners."""

    __slots__ = (
        "backups",
        "changed",
        "committed",
        "learners",
        "mark",
        "members",
        "parts",
        "pending",
        "receivers",
        "required",
        "shards",
        "source",
        "until_ms",
        "waiters",
        "wire",
    )

    def __init__(self, backups: tuple[int, ...], learners: tuple[int, ...], source: int) -> None:
        self.backups = backups
        """The other in-sync members."""
        self.learners = learners
        """Members that are being filled with these shards."""
        self.receivers = backups + learners
        """All who are sent what is written: a learner subscribes before it is filled (SAFETY 21)."""
        self.members = backups
        """Those whose acknowledgements and grants are required: the backups, and learners once they have joined; they
        never leave again (SAFETY 5, 11, 22)."""
        self.required: tuple[int, ...] | None = tuple(range(len(backups))) if learners else None
        """Places of the members among the receivers; None: all."""
        self.mark: tuple[int, ...] = (0,) * len(self.receivers)
        """Sequence number in each receiver's stream of the newest batch that is committed."""
        self.source = source
        """This group's name in `Tails`: a negative number."""
        self.shards: set[int] = set()
        self.committed = 0
        """Counter up to which everything this primary made for the group is committed."""
        self.pending: deque[tuple[int, tuple[int, ...]]] = deque()
        """(last counter, sequence number in each receiver's stream) of batches not yet committed."""
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

    def join(self, learner: int) -> None:
        """`learner` is a member from now on."""
        self.members = tuple(peer for peer in self.receivers if peer in self.members or peer == learner)
        places = tuple(place for place, peer in enumerate(self.receivers) if peer in self.members)
        self.required = None if len(places) == len(self.receivers) else places

    @property
    def joined(self) -> bool:
        """Whether a learner has joined: then it takes in no further shards, as it would not be filled with them."""
        return len(self.members) > len(self.backups)
