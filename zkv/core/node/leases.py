"""Leases between peers: why a primary may answer alone, and when a successor may (SAFETY 11, 12, 15).

A primary asks every peer it replicates to for a *grant*. A grant covers all shards of the pair at once and carries
the grantor's map version: it counts for a shard only if the grantor knew the shard's latest change, and if the
holder's map is at least as new as the grantor's. Hence a member that learned of a takeover stops feeding the deposed
primary's lease on that shard, although it goes on granting for the shards they still share.

The holder counts from the sending of its request, the grantor from its answer, which is later: what the holder
believes ends first. Both clocks count sleep; their rates may differ within the stated margin (SAFETY 29).

Source: Gray & Cheriton, "Leases" (SOSP 1989); leases from the replicas instead of a master as in Spanner's
and Moraru et al.'s "Paxos Quorum Leases" (SoCC 2014).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ASKED_LIMIT: Final = 16
"""Requests to one peer that may be under way; older ones are forgotten, their answers ignored."""
LATER_LIMIT: Final = 8
"""Grants kept from peers whose map is newer than ours."""


class PeerLease:
    """What one peer granted to us."""

    __slots__ = ("asked", "asked_ms", "expiry_ms", "heard_ms", "later", "version")

    def __init__(self) -> None:
        self.asked: dict[int, float] = {}
        """Request token -> when it was sent."""
        self.asked_ms = float("-inf")
        self.heard_ms = float("-inf")
        """When it was asked the question that it answered last."""
        self.expiry_ms = float("-inf")
        self.version = -1
        """Map version of the grantor in the grant that counts now."""
        self.later: list[tuple[int, float]] = []
        """(map version, expiry) of grants by a newer map than ours: they count once we have caught up."""


class Leases:
    """The holder's side: grants from all peers, and until when they cover a shard."""

    __slots__ = ("_peers", "_token", "lease_ms")

    def __init__(self, lease_ms: float) -> None:
        self.lease_ms = lease_ms
        self._peers: dict[int, PeerLease] = {}
        self._token = 0

    def ask(self, peer: int, now_ms: float) -> int:
        """A request is being sent to `peer` now: returns its token."""
        lease = self._peers.setdefault(peer, PeerLease())
        self._token += 1
        lease.asked[self._token] = lease.asked_ms = now_ms
        if len(lease.asked) > ASKED_LIMIT:
            del lease.asked[next(iter(lease.asked))]
        return self._token

    def asked_ms(self, peer: int) -> float:
        """When `peer` was last asked (-inf: never)."""
        lease = self._peers.get(peer)
        return lease.asked_ms if lease else float("-inf")

    def ask_soon(self, changed: int) -> None:
        """Have peers asked at once whose grant does not know map version `changed`: a takeover needs it just now."""
        for lease in self._peers.values():
            if lease.version < changed:
                lease.asked_ms = float("-inf")

    def heard_ms(self, peer: int) -> float:
        """When `peer` was asked the question that it answered last (-inf: never answered)."""
        lease = self._peers.get(peer)
        return lease.heard_ms if lease else float("-inf")

    def granted(self, peer: int, token: int, grantor_version: int, own_version: int) -> bool:
        """Take a grant; False if it answers nothing that was asked."""
        lease = self._peers.get(peer)
        sent_ms = lease.asked.pop(token, None) if lease else None
        if lease is None or sent_ms is None:
            return False
        lease.heard_ms = max(lease.heard_ms, sent_ms)
        # Never lets a grant that does not count yet replace one that does.
        lease.later.append((grantor_version, sent_ms + self.lease_ms))
        self._count(lease, own_version)
        del lease.later[:-LATER_LIMIT]
        return True

    def caught_up(self, own_version: int) -> None:
        """Our map is now at `own_version`: grants by maps up to it begin to count."""
        for lease in self._peers.values():
            self._count(lease, own_version)

    def _count(self, lease: PeerLease, own_version: int) -> None:
        waiting = []
        for version, expiry_ms in lease.later:
            if not self.counts(version, own_version):
                waiting.append((version, expiry_ms))
            elif (expiry_ms, version) > (lease.expiry_ms, lease.version):
                lease.version, lease.expiry_ms = version, expiry_ms
        lease.later = waiting

    def counts(self, grantor_version: int, own_version: int) -> bool:
        """The holder's map must be at least as new as the grantor's (SAFETY 12)."""
        return grantor_version <= own_version

    def until_ms(self, peers: Iterable[int], changed: int) -> float:
        """Until when all `peers` cover a shard whose latest change was at map version `changed`.

        -inf where one of them has not granted, or granted without knowing that change; inf where `peers` is empty:
        no other member exists that could take over.
        """
        until = float("inf")
        for peer in peers:
            lease = self._peers.get(peer)
            if lease is None or lease.version < changed:
                return float("-inf")
            until = min(until, lease.expiry_ms)
        return until

    def forget(self, peers: Iterable[int]) -> None:
        """Drop what is known of peers that left the map."""
        for peer in peers:
            self._peers.pop(peer, None)


class Given:
    """The grantor's side: what we gave, and so how long a successor must wait (SAFETY 15)."""

    __slots__ = ("_grants", "_since", "_wait_from")

    def __init__(self) -> None:
        self._grants: dict[int, float] = {}
        """peer -> when we last granted to it."""
        self._since: dict[int, float] = {}
        """shard -> when we learned that we are in sync."""
        self._wait_from: dict[int, float] = {}
        """shard -> last grant given to a node we then knew as its primary, over all changes we learned since."""

    def grant(self, peer: int, now_ms: float) -> None:
        """A grant is being given to `peer` now."""
        self._grants[peer] = now_ms

    def granted_ms(self, peer: int) -> float:
        """When we last granted to `peer` (-inf: never)."""
        return self._grants.get(peer, float("-inf"))

    def joined(self, shard: int, now_ms: float) -> None:
        """We learned that we are in sync for `shard`."""
        self._since[shard] = now_ms

    def primary_changed(self, shard: int, former: int) -> None:
        """We learned that `former` is no longer the primary: later grants to it do not count for this shard."""
        last = self._grants.get(former, float("-inf"))
        self._wait_from[shard] = max(self._wait_from.get(shard, float("-inf")), last)

    def left(self, shard: int) -> None:
        """We are no longer in the shard's set."""
        self._since.pop(shard, None)
        self._wait_from.pop(shard, None)

    def wait_from_ms(self, shard: int) -> float:
        """The instant from which a successor counts a lease plus the margin."""
        return max(self._wait_from.get(shard, float("-inf")), self._since.get(shard, float("-inf")))

    def forget(self, peers: Iterable[int]) -> None:
        """Drop what is known of peers that left the map."""
        for peer in peers:
            self._grants.pop(peer, None)
