"""A node's relation to its manager: joining, heartbeats, noticing its silence, and accusing peers (SAFETY 31, 32).

The manager is not on the path of reads and writes: everything here may fail for as long as it likes, and only changes
of
the map wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from zkv.core import wire
from zkv.core.node.local import MANAGER, PUBLISH, Local
from zkv.core.shardmap import DEAD, UP

JOIN_MS: Final = 200.0
"""Interval at which a node asks the manager to let it in."""
REFUSED_MS: Final = 3000.0
"""How long a node goes on asking where the reason for refusing it may pass."""
BEACON_LOST_MS: Final = 1000.0
"""Silence of the manager after which its subscription is renewed and the map pulled."""


class Contact:
    """What one node knows of its manager. The host reads the endpoints and connects accordingly."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.about = about
        self.rejected: str | None = None
        """Why the manager refuses this node for good."""
        self._refused_ms: float | None = None
        """Since when the manager has refused it for a reason that may pass."""
        self.released = False
        """Whether this node was drained: it holds nothing any more, and may end."""
        self._was_member = False
        self._draining = False
        self.map_endpoint = ""
        """Where the manager publishes map changes."""
        self.heartbeat_endpoint = ""
        """Where the manager listens to heartbeats."""
        self.subscription = 0
        """Raised when the subscription has to be made anew: beacons stayed away (ZEROMQ.md, slow joiners)."""
        self.manager_boot = 0
        self._joined = False
        self._join_ms = float("-inf")
        self._beacon_ms: float | None = None
        self._heartbeat_ms = float("-inf")
        self._peers: set[int] = set()
        self._owners: set[int] = set()
        self._since_ms: dict[int, float] = {}
        """peer -> since when it shares shards with us."""

    def keep(self, local: Local, wake: Callable[[float], None]) -> None:
        """End of a turn: join, heartbeat, and notice a manager that fell silent."""
        now_ms = local.now_ms
        if self._beacon_ms is None:
            self._beacon_ms = now_ms
        member = local.map.members.get(local.boot)
        if member is not None and member.state == DEAD:
            self.rejected = "the manager holds proof that this node's process died"
        elif member is None and self._draining:
            self.released = True
        elif member is None and self._was_member:
            # Peers have dropped their streams: the same boot could not take part again.
            self.rejected = "the manager has forgotten it after a long silence; start it again"
        self._was_member = self._was_member or member is not None
        self._draining = member.draining if member is not None else self._draining
        lost = now_ms - self._beacon_ms > BEACON_LOST_MS
        outside = not self._joined or member is None
        if (lost or outside) and now_ms - self._join_ms >= JOIN_MS:
            self._join_ms = now_ms
            local.send(MANAGER, wire.JOIN, {**self.about, "member": self._was_member})
            local.clock.asked(now_ms)
            if lost and self._joined:
                self.subscription += 1
                self._beacon_ms = now_ms - BEACON_LOST_MS / 2
        if self._joined and now_ms - self._heartbeat_ms >= local.settings.heartbeat_ms:
            self._heartbeat_ms = now_ms
            local.send(PUBLISH, wire.HEARTBEAT, list(local.load()))
            accused = self.accused(local)
            if accused:
                local.send(MANAGER, wire.ACCUSE, [accused])
        if self._joined and local.clock.is_due(now_ms):
            local.send(MANAGER, wire.HELLO, now_ms)
            local.clock.asked(now_ms)
        if outside:
            wake(self._join_ms + JOIN_MS)
        if self._joined:
            wake(self._heartbeat_ms + local.settings.heartbeat_ms)

    def accused(self, local: Local) -> list[int]:
        """Members that do not answer us: backups that grant nothing, primaries that ask for nothing (SAFETY 32)."""
        horizon_ms = local.now_ms - local.settings.dead_ms
        silent = []
        for peer, since_ms in self._since_ms.items():
            if since_ms > horizon_ms or local.map.members[peer].state != UP:
                continue
            deaf = peer in self._peers and local.leases.heard_ms(peer) < horizon_ms
            mute = peer in self._owners and local.given.granted_ms(peer) < horizon_ms
            if deaf or mute:
                silent.append(peer)
        return silent

    def shares_with(self, peers: Iterable[int], owners: Iterable[int], now_ms: float) -> None:
        """From now on `peers` back up shards of ours, and `owners` are primaries of shards that we back up."""
        self._peers, self._owners = set(peers), set(owners)
        together = sorted(self._peers | self._owners)
        self._since_ms = {peer: self._since_ms.get(peer, now_ms) for peer in together}

    def refused(self, code: int, text: str, now_ms: float) -> None:
        """The manager does not let us in. A name may be free again in a moment, when a death is noticed."""
        if self._draining and code == wire.WRONG_BOOT:
            self.released = True  # it let us go, and we did not hear of it
            return
        if self._refused_ms is None:
            self._refused_ms = now_ms
        if code != wire.BAD_REQUEST or now_ms - self._refused_ms >= REFUSED_MS:
            self.rejected = text

    def welcomed(self, heartbeat_endpoint: str, map_endpoint: str, manager_boot: int, now_ms: float) -> bool:
        """The manager let us in; True if it is another incarnation than we knew."""
        self._joined = True
        self._refused_ms = None
        self.heartbeat_endpoint, self.map_endpoint = heartbeat_endpoint, map_endpoint
        return self.heard(manager_boot, now_ms)

    def heard(self, manager_boot: int, now_ms: float) -> bool:
        """The manager lives; True if it is another incarnation than we knew."""
        self._beacon_ms = now_ms
        new = manager_boot != self.manager_boot
        self.manager_boot = manager_boot
        return new
