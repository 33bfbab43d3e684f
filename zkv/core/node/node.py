"""The core of a storage node: frames and time in, frames out. No socket, no clock, no thread.

A step is one turn: every frame that was waiting, then the end of the turn, where replication, acknowledgements and
questions leave, once each. `Node` dispatches frames, keeps the map and the timers, and moves shards between the roles:
`Serving` (primary), `Takeovers` (on the way to it), `Following` (backup).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from zkv.core import wire
from zkv.core.deltas import RecentDeltas
from zkv.core.fragments import Fragments
from zkv.core.node.contact import Contact
from zkv.core.node.expiring import Expiring
from zkv.core.node.filling import Filling
from zkv.core.node.following import Following
from zkv.core.node.invariants import check_node
from zkv.core.node.local import MANAGER, PUBLISH, Address, Local
from zkv.core.node.reading import Reading
from zkv.core.node.requests import Requests
from zkv.core.node.room import Room
from zkv.core.node.serving import Serving
from zkv.core.node.takeover import Takeovers
from zkv.core.node.watching import Watching
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import Delta, Shard, ShardMap
from zkv.core.wire import Malformed

PULL_MS: Final = 20.0
"""Shortest interval between two pulls of the map from one source."""
LEASE_RETRY_MS: Final = 20.0
"""Interval at which a peer is asked for a grant that does not count yet."""
EXPIRE_MS: Final = 1000.0
CHORES_MS: Final = 30.0
"""What writes leave to be looked after (a re-send, an expiry) is looked after this soon, and not in every turn."""
STASH_LIMIT: Final = 1024
"""Frames kept until the map they were sent under arrives; further ones are dropped and come again."""
STASH_BYTES: Final = 64 * 1024 * 1024
STASH_MS: Final = 1000.0
"""For so long. Who sent it has tried again by then, or given up."""
STASHED: Final = frozenset((wire.REQUEST, wire.BATCH, wire.TAIL_PULL, wire.TAILS, wire.FENCE))
"""Frames that act on epochs: they wait until this node knows the map they were sent under (SAFETY 4)."""
PLAIN: Final = frozenset((wire.REQUEST, wire.BATCH, wire.ACK))
"""Frames that come all the time. Their handlers say so (`Local.roused`) if one of them calls for chores."""


class Node:
    """One storage node.

    `step` is the only way in. `contact.rejected` is set once the manager refuses this node for good; the host then
    stops.
    """

    def __init__(
        self, name: str, boot: int, endpoint: str, *, zone: str = "", weight: float = 1.0,
        bound: bool = True, memory_limit_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self.boot = boot
        self.name = name
        self.contact = Contact({"name": name, "endpoint": endpoint, "zone": zone, "weight": weight, "bound": bound})
        self.next_wake_ms = 0.0
        self.peers: set[int] = set()
        """Members that back up a shard of which this node is primary."""
        self.owners: set[int] = set()
        """Members that are primary of a shard backed up here."""
        self._held: dict[int, Shard] = {}
        """The shards that this node holds or learns: a map of thousands is not walked for a few that changed."""
        self._deltas = RecentDeltas()
        self._expire_ms = 0.0
        self._pulled_ms: dict[Address, float] = {}
        self._stash: deque[tuple[float, Address, bytes]] = deque()
        """(when it came, source, frame)"""
        self._stash_bytes = 0
        self._wakes: list[float] = []
        self._restless = False
        """Whether something is under way that each turn may move."""
        self._counter = 0
        """That of `serving` when something was last made here."""
        self._memory_limit_bytes = memory_limit_bytes
        self._set_up(ClusterSettings(), ShardMap.empty())
        self._handlers: dict[int, Callable[[Address, wire.Header, bytes], None]] = {
            wire.REQUEST: self._on_request,
            wire.BATCH: self._on_batch,
            wire.ACK: self._on_ack,
            wire.LEASE: self._on_lease,
            wire.GRANT: self._on_grant,
            wire.TAIL_PULL: self._on_tail_pull,
            wire.TAILS: self._on_tails,
            wire.FENCE: self._on_fence,
            wire.FENCED: self._on_fenced,
            wire.READ_LEASE: self._on_read_lease,
            wire.READ_GRANT: self._on_read_grant,
            wire.HELLO: self._on_hello,
            wire.MAP: self._on_map,
            wire.MAP_DELTA: self._on_map_delta,
            wire.MAP_PULL: self._on_map_pull,
            wire.BEACON: self._on_beacon,
            wire.WELCOME: self._on_welcome,
            wire.ACTIVE_ACK: self._on_active_ack,
            wire.FILLED_ACK: self._on_filled_ack,
            wire.REFUSED: self._on_refused,
        }

    def _set_up(self, settings: ClusterSettings, shard_map: ShardMap) -> None:
        """The roles, for a cluster whose settings are known."""
        self.local = Local(self.name, self.boot, settings, shard_map, self._memory_limit_bytes)
        self.serving = Serving(self.local)
        self.following = Following(self.local)
        self.reading = Reading(self.local, self.serving)
        self.takeovers = Takeovers(self.local, self.serving, self.reading)
        self.expiring = Expiring(self.local, self.serving)
        self.room = Room(self.local, self.serving)
        self.watching = Watching(self.local, self.serving)
        self.requests = Requests(
            self.local, self.serving, self.reading, self.expiring, self.room, self.watching
        )
        self.filling = Filling(self.local, self.serving)
        self.fragments = Fragments()

    @property
    def map(self) -> ShardMap:
        """The newest map this node knows."""
        return self.local.map

    # --- a turn ----------------------------------------------------------------------------------------------------

    def step(self, frames: Iterable[tuple[Address, bytes]], now_ms: float) -> list[tuple[Address, bytes]]:
        """One turn: handle `frames` (source, frame), drained before `now_ms` was read; returns (destination, frame)."""
        local = self.local
        local.now_ms = now_ms
        self.expiring.tend()
        for source, frame in frames:
            self._receive(source, frame)
        self._end_turn()
        local = self.local
        out, local.out = local.out, []
        return self.fragments.outgoing(out, now_ms)

    def _receive(self, source: Address, frame: bytes) -> None:
        local = self.local
        try:
            received = self.fragments.receive(source, frame, local.now_ms)
            if received is None:
                return
            header, frame = received
            if not self._addressed_here(source, header):
                return
            if header.kind not in PLAIN:
                local.roused = True
            if header.map_version > local.map.version and header.kind not in (wire.MAP, wire.MAP_DELTA):
                self._pull(source, header.map_version)
                if header.kind in STASHED:
                    self._put_aside(source, frame)
                    return
            handler = self._handlers.get(header.kind)
            if handler is None:
                raise Malformed(f"kind {header.kind} is not for a node")
            handler(source, header, frame)
        except wire.UNPARSABLE as error:
            # The peer's error, not ours: the frame is dropped, and counted. Our own errors are AssertionErrors.
            local.fired["malformed frames"] += 1
            self._refuse(source, frame, wire.BAD_REQUEST, str(error))

    def _addressed_here(self, source: Address, header: wire.Header) -> bool:
        """Whether a frame is meant for this incarnation in this cluster (SAFETY 2, 3)."""
        cluster = self.local.map.cluster
        if header.kind == wire.REFUSED:
            return header.target in (0, self.boot)  # never answered: two nodes would go on for ever
        if header.cluster != cluster and header.cluster and cluster:
            self.local.send(source, wire.REFUSED, [0, wire.WRONG_CLUSTER, "this node belongs to another cluster"])
            return False
        if header.target not in (0, self.boot):
            self.local.send(source, wire.REFUSED, [0, wire.WRONG_BOOT, "meant for an earlier start of this node"])
            return False
        return True

    def _refuse(self, source: Address, frame: bytes, code: int, text: str) -> None:
        """Tell a client what is wrong with its request, by the number it gave it."""
        try:
            if wire.decode_header(frame).kind == wire.REQUEST:
                request = wire.decode_body(frame)[0]
                self.local.send(source, wire.REFUSED, [int(request), code, text])
        except wire.UNPARSABLE:
            return

    def _end_turn(self) -> None:
        """Replication and acknowledgements leave; chores are done where there are any.

        A turn costs tens of microseconds of rarely executed code, and most turns have nothing to look after: leases,
        heartbeats and re-sends follow the clock, and takeovers, fills and watches are rare.
        """
        local, now_ms = self.local, self.local.now_ms
        if local.roused or self._restless or now_ms >= self.next_wake_ms:
            local.roused = False
            self._do_chores()
            return
        if self.serving.counter != self._counter or self.serving.unsettled:
            self._counter = self.serving.counter
            self.next_wake_ms = min(self.next_wake_ms, now_ms + CHORES_MS)
        self.serving.flush()
        self.following.acknowledge()

    def _do_chores(self) -> None:
        """All that the end of a turn may have to look after, and when it has to be looked after again."""
        local, settings = self.local, self.local.settings
        now_ms = local.now_ms
        self._wakes = [now_ms + settings.heartbeat_ms]
        if local.map.version:
            self.takeovers.ask()
            self.takeovers.advance()
            self.takeovers.announce()
            self.requests.parking.advance(self._wakes.append)
            self.room.tend(self._wakes.append)
            self.expiring.wake(self._wakes.append)
            self.serving.drop_tombstones()
            self.serving.flush()
            self.watching.advance(self._wakes.append)
            self.filling.advance(self._wakes.append)
            self.filling.announce(self._wakes.append)
            self.following.acknowledge()
            self._renew_leases()
            self.reading.ask(self.owners, self._wakes.append)
            self._resend()
            self.takeovers.next_wake_ms(self._wakes.append)
            if now_ms >= self._expire_ms:
                self._expire_ms = now_ms + EXPIRE_MS
                local.sessions.expire(now_ms)
                self.requests.walks.forget_idle()
        self.contact.keep(local, self._wakes.append)
        self._wakes.append(self.fragments.next_wake_ms())
        self.next_wake_ms = max(now_ms + 1.0, min(self._wakes))
        self._restless = (
            self.takeovers.busy or self.requests.parking.busy or self.filling.busy or self.watching.busy
            or local.limit_bytes > 0
        )  # fmt: skip

    # --- the manager -----------------------------------------------------------------------------------------------

    def _on_welcome(self, source: Address, header: wire.Header, frame: bytes) -> None:
        settings, heartbeat_endpoint, map_endpoint, manager_boot, cluster_ms = wire.decode_body(frame)
        if type(cluster_ms) is not int or not 0 <= cluster_ms < 2**63:
            raise Malformed("cluster time is a number of milliseconds")
        if self.local.map.cluster == 0:
            now_ms, out, fired = self.local.now_ms, self.local.out, self.local.fired
            clock = self.local.clock
            self._set_up(ClusterSettings.from_wire(settings), ShardMap.empty(header.cluster))
            self.local.now_ms, self.local.out, self.local.fired = now_ms, out, fired
            self.local.clock = clock
            self.local.roused = True
        self.local.clock.learn(cluster_ms, self.local.now_ms)
        endpoints = str(heartbeat_endpoint), str(map_endpoint)
        if self.contact.welcomed(*endpoints, int(manager_boot), self.local.now_ms):
            self._report_again()

    def _on_beacon(self, source: Address, header: wire.Header, frame: bytes) -> None:
        (manager_boot,) = wire.decode_body(frame)
        if self.contact.heard(int(manager_boot), self.local.now_ms):
            self._report_again()

    def _report_again(self) -> None:
        """Another incarnation of the manager: what we reported may be forgotten."""
        self.takeovers.report_again()
        self.filling.report_again()

    def _on_active_ack(self, source: Address, header: wire.Header, frame: bytes) -> None:
        shards, epochs = wire.decode_body(frame)
        self.takeovers.reported(wire.unpack_u64(shards), wire.unpack_u64(epochs))

    def _on_filled_ack(self, source: Address, header: wire.Header, frame: bytes) -> None:
        learner, shards, epochs = wire.decode_body(frame)
        self.filling.reported(int(learner), wire.unpack_u64(shards), wire.unpack_u64(epochs))

    def _on_refused(self, source: Address, header: wire.Header, frame: bytes) -> None:
        _, code, text = wire.decode_body(frame)
        if source == MANAGER:
            self.contact.refused(int(code), str(text), self.local.now_ms)

    # --- the map ---------------------------------------------------------------------------------------------------

    def _pull(self, source: Address, version: int) -> None:
        """Ask for the map: whoever showed a newer one, and the manager (SAFETY 4)."""
        local = self.local
        # No set of addresses: bytes hash differently in every process, and a seed must replay.
        for asked in (MANAGER,) if source in (MANAGER, PUBLISH) else (source, MANAGER):
            if local.now_ms - self._pulled_ms.get(asked, float("-inf")) >= PULL_MS:
                self._pulled_ms[asked] = local.now_ms
                local.send(asked, wire.MAP_PULL, None)
        if len(self._pulled_ms) > STASH_LIMIT:
            self._pulled_ms.clear()

    def _on_map_pull(self, source: Address, header: wire.Header, frame: bytes) -> None:
        local = self.local
        if not local.map.version:
            return
        lacking = self._deltas.since(header.map_version)
        for packed in lacking:
            local.send_packed(source, wire.MAP_DELTA, packed)
        if not lacking:
            local.send(source, wire.MAP, local.map.to_wire())

    def _on_map(self, source: Address, header: wire.Header, frame: bytes) -> None:
        if header.map_version <= self.map.version and header.cluster == self.map.cluster:
            return  # known by now: not worth reading
        self._install(ShardMap.from_wire(wire.decode_body(frame)))

    def _on_map_delta(self, source: Address, header: wire.Header, frame: bytes) -> None:
        delta = Delta.from_wire(wire.decode_body(frame))
        if source in (MANAGER, PUBLISH):
            self.contact.heard(self.contact.manager_boot, self.local.now_ms)
        if delta.version <= self.map.version:
            return
        if delta.base == self.map.version and delta.cluster == self.map.cluster:
            self._install(self.map.with_changes(delta), delta.shards)
            self._deltas.keep(delta, frame[wire.HEADER.size :], self.map)
        else:
            self._pull(MANAGER, delta.version)

    def _install(self, new: ShardMap, touched: Collection[int] | None = None) -> None:
        """Replace the map by a newer one, and move the shards that changed between the roles.

        `touched`: no shard outside it differs; None: any may.
        """
        local, old = self.local, self.local.map
        if new.version <= old.version or new.cluster != old.cluster:
            return
        if len(new.shards) != local.settings.shards:
            raise Malformed("a map with another number of shards than the settings say")
        if touched is None:
            self._deltas.forget()
        # What was made under the old map leaves under the old map: a header vouches for the epochs of its entries.
        self.serving.flush()
        everything = range(len(new.shards))
        looked_at = everything if touched is None else sorted(touched)
        changed = [s for s in looked_at if old.shards[s].epoch != new.shards[s].epoch] if old.shards else everything
        local.strand(shard for shard in changed if shard in self._held)
        local.map = new
        self._change_roles(old, new, changed)
        self.takeovers.proofs_changed()
        self.serving.settle_deferred()
        local.leases.caught_up(new.version)
        self.serving.refresh_leases()
        self._change_peers(old, new, changed)
        self._unstash()

    def _change_roles(self, old: ShardMap, new: ShardMap, changed: Sequence[int]) -> None:
        local, boot = self.local, self.boot
        suspended: set[int] = set()
        demoted: set[int] = set()
        cleared: set[int] = set()
        begun: list[tuple[int, bool]] = []
        for shard in changed:
            after = new.shards[shard]
            before = old.shards[shard] if old.shards else None
            if before is not None and before.primary not in (boot, after.primary):
                local.given.primary_changed(shard, before.primary)
            if boot in after.replicas and (before is None or boot not in before.replicas):
                local.given.joined(shard, local.now_ms)
            if _starts_empty(boot, before, after):
                cleared.add(shard)
            elif before is None and after.born > 1:
                local.history.begin(shard, local.life_begins(shard))  # its former life was not here: it is not known
            was_primary = before is not None and before.primary == boot and not before.withheld
            if after.primary == boot and not after.withheld:
                follows = before is not None and after.epoch == before.epoch + 1
                suspended.add(shard)
                stays = (
                    was_primary
                    and follows
                    and before is not None
                    and (self.takeovers.activated.get(shard) == before.epoch)
                )
                if not (was_primary and follows):
                    self.serving.reign[shard] = new.version
                begun.append((shard, stays))
            elif was_primary:
                demoted.add(shard)
                self.takeovers.abandon(shard)
        self.serving.suspend(suspended)
        if demoted:
            local.fired["demotions"] += 1
            self.serving.demote(demoted)
        self.filling.abandon(suspended | demoted)
        if cleared:
            local.forget(cleared)
        for shard in changed:
            if boot not in new.shards[shard].replicas:
                local.given.left(shard)
        for shard, stays in begun:
            self.takeovers.begin(shard, new.shards[shard], stays=stays)

    def _change_peers(self, old: ShardMap, new: ShardMap, changed: Sequence[int]) -> None:
        local, boot = self.local, self.boot
        for shard in changed:
            entry = new.shards[shard]
            if boot in entry.replicas or boot in entry.learners:
                self._held[shard] = entry
            else:
                self._held.pop(shard, None)
        peers: set[int] = set()
        owners: set[int] = set()
        for replicas, learners in {(entry.replicas, entry.learners) for entry in self._held.values()}:
            if replicas[0] == boot:
                peers.update(replicas[1:], learners)
            else:
                owners.add(replicas[0])
        self.peers, self.owners = peers, owners
        self.contact.shares_with(peers, owners, local.now_ms)
        gone = [peer for peer in old.members if peer not in new.members]
        local.leases.forget(gone)
        local.given.forget(gone)
        self.reading.forget(gone)
        for peer in gone:
            local.outgoing.pop(peer, None)
            local.incoming.pop(peer, None)
        local.prune_tails()

    def _put_aside(self, source: Address, frame: bytes) -> None:
        """Let a frame wait for the map that it was sent under."""
        stash, now_ms = self._stash, self.local.now_ms
        while stash and stash[0][0] <= now_ms - STASH_MS:
            self._stash_bytes -= len(stash.popleft()[2])
        if len(stash) < STASH_LIMIT and self._stash_bytes + len(frame) <= STASH_BYTES:
            stash.append((now_ms, source, frame))
            self._stash_bytes += len(frame)

    def _unstash(self) -> None:
        """Frames that waited for this map."""
        stash, self._stash, self._stash_bytes = self._stash, deque(), 0
        for _, source, frame in stash:
            self._receive(source, frame)

    # --- peers -----------------------------------------------------------------------------------------------------

    def _on_batch(self, source: Address, header: wire.Header, frame: bytes) -> None:
        if header.sender in self.map.members:
            self.following.batch(source, header, frame)

    def _on_ack(self, source: Address, header: wire.Header, frame: bytes) -> None:
        received, gap, refusals = wire.decode_body(frame)
        local = self.local
        stream = local.outgoing.get(header.sender)
        if stream is None:
            return
        local.roused |= bool(refusals)
        for shard, _, epoch in refusals:
            # First the refusals: what they cover must not count when the acknowledgement is taken (SAFETY 6).
            if epoch > self.map.shards[shard].epoch:
                local.fired["fenced batches"] += 1
                self.serving.fence(shard)
                self.takeovers.abandon(shard)
        if stream.acknowledge(received, local.now_ms):
            self.serving.acknowledged(header.sender)
            self._send_again(header.sender, stream.catch_up(local.now_ms))
        if gap:
            self._send_again(header.sender, stream.fill_gap(local.now_ms))

    def _send_again(self, peer: int, frames: list[bytes]) -> None:
        if frames:
            self.local.fired["re-sends"] += 1
            self.local.out.extend((peer, frame) for frame in frames)

    def _resend(self) -> None:
        local = self.local
        for peer, stream in local.outgoing.items():
            if stream.unacked:
                self._send_again(peer, stream.overdue(local.now_ms))
                self._wakes.append(stream.progress_ms + stream.interval_ms)

    def _renew_leases(self) -> None:
        """Ask peers for grants, in time for a second try before they run out."""
        local = self.local
        now_ms, renew_ms = local.now_ms, local.settings.lease_ms / 5
        for peer in self.peers:
            interval_ms = LEASE_RETRY_MS if self._lease_lacks(peer) else renew_ms
            due_ms = local.leases.asked_ms(peer) + interval_ms
            if now_ms >= due_ms:
                token = local.leases.ask(peer, now_ms)
                local.send(peer, wire.LEASE, [token, local.stream_to(peer).committed])
                due_ms = now_ms + interval_ms
            self._wakes.append(due_ms)

    def _lease_lacks(self, peer: int) -> bool:
        """Whether the grant of `peer` does not cover a group that it is in."""
        changed = self.serving.changed_with.get(peer)
        return changed is not None and self.local.leases.until_ms((peer,), changed) <= self.local.now_ms

    def _on_lease(self, source: Address, header: wire.Header, frame: bytes) -> None:
        token, committed = wire.decode_body(frame)
        local = self.local
        if header.sender not in local.map.members:
            return
        local.given.grant(header.sender, local.now_ms)
        local.send(source, wire.GRANT, [token])
        self.following.release(header, committed)

    def _on_grant(self, source: Address, header: wire.Header, frame: bytes) -> None:
        (token,) = wire.decode_body(frame)
        if self.local.leases.granted(header.sender, token, header.map_version, self.map.version):
            self.serving.refresh_leases()

    def _on_tail_pull(self, source: Address, header: wire.Header, frame: bytes) -> None:
        shards, epochs = wire.decode_body(frame)
        self.following.tails(source, header, wire.unpack_u64(shards), wire.unpack_u64(epochs))

    def _on_tails(self, source: Address, header: wire.Header, frame: bytes) -> None:
        for shard, epoch, position, rows in wire.decode_body(frame):
            self.takeovers.tail(header.sender, shard, epoch, position, rows)

    def _on_fence(self, source: Address, header: wire.Header, frame: bytes) -> None:
        shards, epochs = wire.decode_body(frame)
        self.following.fence(source, wire.unpack_u64(shards), wire.unpack_u64(epochs))

    def _on_fenced(self, source: Address, header: wire.Header, frame: bytes) -> None:
        shards, epochs = wire.decode_body(frame)
        self.takeovers.fenced(header.sender, wire.unpack_u64(shards), wire.unpack_u64(epochs))

    def _on_read_lease(self, source: Address, header: wire.Header, frame: bytes) -> None:
        (token,) = wire.decode_body(frame)
        if header.sender in self.map.members:
            self.reading.grant(source, header.sender, token)

    def _on_read_grant(self, source: Address, header: wire.Header, frame: bytes) -> None:
        token, lasting_ms, shards, epochs = wire.decode_body(frame)
        self.reading.granted(token, lasting_ms, wire.unpack_u64(shards), wire.unpack_u64(epochs))

    # --- clients ---------------------------------------------------------------------------------------------------

    def _on_hello(self, source: Address, header: wire.Header, frame: bytes) -> None:
        """A client's first contact: our clock, in which its deadlines are expressed (SAFETY 26)."""
        self.local.send(source, wire.HELLO_ACK, [wire.decode_body(frame), int(self.local.now_ms), self.name])

    def _on_request(self, source: Address, header: wire.Header, frame: bytes) -> None:
        self.requests.handle(source, header, frame)

    def check_invariants(self) -> None:
        """Raise AssertionError if something that must hold between steps does not; for the simulator and the tests."""
        check_node(self)


def _starts_empty(boot: int, before: Shard | None, after: Shard) -> bool:
    """Whether what `boot` holds of a shard is to be forgotten, now that its entry is `after` (SAFETY 20, 33)."""
    if before is None:
        return False  # this node has just started
    left = boot not in after.replicas and (boot in before.replicas or boot in before.learners)
    return left or boot in after.learners or after.born > before.epoch
