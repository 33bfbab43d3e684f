"""Between an epoch change and service: wait out old leases, reconcile tails, activate (SAFETY 15-17).

Theory of operation. A shard's epoch changes and this node is its primary, newly or still. Then, in any order:

1. *Wait*: every member of the wait list is proven dead (the map says so), acknowledges the new epoch (we ask), or can
   hold no lease any more (a lease plus the drift margin after our last grant to the former primary). A primary that
   was active and stays waits only for the read leases it gave to members dropped.
2. *Collect*: every other member of the new set reports its position and its tail. By answering, it has learned the new
   epoch and refuses entries of older ones. The greatest position wins: entries of one shard travel in counter order
   through FIFO streams, so positions name prefixes of one history, and the longest holds all the others.
3. *Re-send*: each member is sent what it lacks, in its numbered stream, under the new epoch, with the original
   versions; receivers skip what is at or below their position. No entry is made under the new epoch before 4.
4. *Activate*: all have acknowledged. Everything reconciled is committed now, whatever its number.

A further epoch change starts over. This is view change in the sense of Viewstamped Replication Revisited (Liskov &
Cowling, 2012), with the manager's map in the place of the vote.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from zkv.core import wire
from zkv.core.node.local import MANAGER, Local
from zkv.core.node.reading import Reading
from zkv.core.node.serving import ACTIVE_PART, ADOPT_PART, Serving
from zkv.core.node.store import Row, checked_tail
from zkv.core.shardmap import DEAD, Shard
from zkv.core.wire import Malformed

ASK_MS: Final = 50.0
"""Interval at which unanswered questions are asked again."""
REPORT_LIMIT: Final = 8192
"""Activations of one report: the manager takes no fragments."""
REPORT_MS: Final = 200.0
"""Interval at which activations are reported again until the manager has acknowledged them."""


class Takeover:
    """One shard on its way to active at this primary."""

    __slots__ = ("epoch", "lacking", "positions", "resent", "rows", "shard", "wait", "wait_until_ms")

    def __init__(self, shard: int, entry: Shard, others: Iterable[int], wait: set[int], wait_until_ms: float) -> None:
        self.shard = shard
        self.epoch = entry.epoch
        self.lacking = set(others)
        """Members that have not reported their tail."""
        self.positions: dict[int, int] = {}
        self.rows: dict[int, list[Row]] = {}
        """member -> its tail, until reconciled."""
        self.resent: dict[int, int] | None = None
        """member -> sequence number of the batch with what it lacked; None until all tails are in."""
        self.wait = wait
        """Members that may still hold a lease on this shard."""
        self.wait_until_ms = wait_until_ms


class Takeovers:
    """All takeovers of one node."""

    def __init__(self, local: Local, serving: Serving, reading: Reading) -> None:
        self.local = local
        self.serving = serving
        self.reading = reading
        self.running: dict[int, Takeover] = {}
        self.activated: dict[int, int] = {}
        """shard -> epoch under which it was last active here."""
        self.unreported: dict[int, int] = {}
        """shard -> epoch of activations that the manager has not acknowledged."""
        self._asked_ms = float("-inf")
        self._reported_ms = float("-inf")
        self._resend: dict[int, list[list[Any]]] = defaultdict(list)
        """member -> [shard, epoch, rows] to go out at the end of the turn."""
        self._notices: dict[int, int] = {}
        """shard -> position, activated in this turn."""

    # --- start and end ---------------------------------------------------------------------------------------------

    def begin(self, shard: int, entry: Shard, *, stays: bool) -> None:
        """This node is primary of `shard` under a new epoch. `stays`: it was active under the epoch just before."""
        local = self.local
        self.abandon(shard)
        others = [boot for boot in entry.replicas if boot != local.boot]
        wait = self.may_hold_lease(entry)
        until_ms = self.reading.given_until_ms(wait)
        if not stays:
            until_ms = max(until_ms, self.wait_until_ms(shard))
        elif until_ms <= local.now_ms:
            wait = set()  # was active and stays: only the read leases it gave to members dropped count
        self.running[shard] = Takeover(shard, entry, others, wait, until_ms)
        self._asked_ms = float("-inf")
        if not stays and entry.epoch > 1:
            local.fired["takeovers"] += 1

    def may_hold_lease(self, entry: Shard) -> set[int]:
        """Members of the wait list that are not proven dead (SAFETY 15)."""
        members = self.local.map.members
        return {
            boot
            for boot in entry.wait
            if boot != self.local.boot and not (boot in members and members[boot].state == DEAD)
        }

    def wait_until_ms(self, shard: int) -> float:
        """When no lease given through us can be alive any more."""
        settings = self.local.settings
        return self.local.given.wait_from_ms(shard) + settings.lease_ms * (1 + settings.drift_margin)

    def abandon(self, shard: int) -> None:
        """The epoch changed again, or the shard went to another primary."""
        self.running.pop(shard, None)
        self.unreported.pop(shard, None)
        self._notices.pop(shard, None)

    def proofs_changed(self) -> None:
        """The map's member table changed: a proof of death releases the member it names."""
        for takeover in self.running.values():
            takeover.wait &= self.may_hold_lease(self.local.map.shards[takeover.shard])

    # --- questions and answers -------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a takeover is under way, or has yet to be told of."""
        return bool(self.running or self.unreported or self._notices)

    def ask(self) -> None:
        """Ask for tails and for acknowledgements of the new epoch, again and again until they come."""
        local = self.local
        if not self.running or local.now_ms - self._asked_ms < ASK_MS:
            return
        self._asked_ms = local.now_ms
        for kind, field in ((wire.TAIL_PULL, "lacking"), (wire.FENCE, "wait")):
            questions: dict[int, list[Takeover]] = defaultdict(list)
            for takeover in self.running.values():
                for peer in getattr(takeover, field):
                    questions[peer].append(takeover)
            for peer, takeovers in questions.items():
                if peer in local.map.members:
                    # A grant is asked for with the tail: it counts if the peer knows the change already.
                    local.leases.ask_soon(local.map.version)
                    shards = wire.pack_u64(takeover.shard for takeover in takeovers)
                    local.send(peer, kind, [shards, wire.pack_u64(takeover.epoch for takeover in takeovers)])

    def fenced(self, sender: int, shards: Iterable[int], epochs: Iterable[int]) -> None:
        """A member of the wait list acknowledged epochs: it serves under older ones no more."""
        for shard, epoch in zip(shards, epochs, strict=True):
            takeover = self.running.get(shard)
            if takeover is not None and takeover.epoch == epoch:
                takeover.wait.discard(sender)

    def tail(self, sender: int, shard: int, epoch: int, position: int, rows: Any) -> None:
        """A member's position and tail. Raises Malformed where the tail does not say how it got beyond ours.

        Questions are repeated, so an answer may come after the activation and name entries made since: it is not read.
        """
        takeover = self.running.get(shard)
        if takeover is None or takeover.epoch != epoch or sender not in takeover.lacking:
            return
        tail = checked_tail(epoch, position, rows)
        if not tail and position > self.local.store.positions[shard]:
            raise Malformed("a tail does not reach its position")
        takeover.lacking.discard(sender)
        takeover.positions[sender] = position
        takeover.rows[sender] = tail

    # --- the steps of a takeover -----------------------------------------------------------------------------------

    def advance(self) -> None:
        """Move every takeover as far as it can go; called once a turn."""
        if not self.running:
            return
        for takeover in self.running.values():
            if takeover.resent is None and not takeover.lacking:
                self.reconcile(takeover)
        self._send_lacking()
        ready = [
            takeover.shard for takeover in self.running.values() if self._waited(takeover) and self._acked(takeover)
        ]
        if ready:
            self._activate(ready)

    def reconcile(self, takeover: Takeover) -> None:
        """Adopt the longest tail, and work out what each member lacks (SAFETY 16)."""
        local, shard = self.local, takeover.shard
        own = local.store.positions[shard]
        longest = max(takeover.positions, key=takeover.positions.__getitem__, default=None)
        if longest is not None and takeover.positions[longest] > own:
            self.adopt(shard, takeover.rows[longest])
            local.fired["tails adopted"] += 1
        best = local.store.positions[shard]
        assert longest is None or best >= takeover.positions[longest], (
            f"the tail of shard {shard} from {local.map.name_of(longest)} ends before its own position"
        )
        takeover.resent = {}
        behind = {peer: position for peer, position in takeover.positions.items() if position < best}
        if behind:
            local.fired["reconciles with a tail"] += 1
            rows = local.tails.collect((shard,), local.store.committed.__getitem__)[shard]
            for peer, position in behind.items():
                missing = [list(row) for row in rows if row.version > position]
                assert missing and missing[-1][0] == best, f"the tail of shard {shard} does not reach its position"
                self._resend[peer].append([shard, takeover.epoch, missing])
                takeover.resent[peer] = 0
        takeover.rows.clear()

    def adopt(self, shard: int, rows: list[Row]) -> None:
        """Take over entries that another member has and we lack."""
        self.local.adopt(shard, rows)

    def _send_lacking(self) -> None:
        """One batch a member with everything it lacks, in its stream."""
        for peer, items in self._resend.items():
            seq = self.local.send_batch(peer, wire.pack([[ADOPT_PART, items]]), commits=False)
            for shard, _, _ in items:
                resent = self.running[shard].resent
                assert resent is not None
                resent[peer] = seq
        self._resend.clear()

    def _acked(self, takeover: Takeover) -> bool:
        """Whether all members hold everything under the new epoch."""
        if takeover.resent is None:
            return False
        outgoing = self.local.outgoing
        return all(outgoing[peer].acked >= seq for peer, seq in takeover.resent.items())

    def _waited(self, takeover: Takeover) -> bool:
        """Whether no member of an earlier set can hold a lease any more."""
        return not takeover.wait or self.local.now_ms >= takeover.wait_until_ms

    def _activate(self, shards: list[int]) -> None:
        local, serving = self.local, self.serving
        for shard in shards:
            takeover = self.running.pop(shard)
            position = local.store.positions[shard]
            local.store.committed[shard] = position
            serving.activate(shard, serving.reign[shard])
            local.store.expiry.unpark(shard)
            self.activated[shard] = takeover.epoch
            self.unreported[shard] = takeover.epoch
            self._notices[shard] = position
        self._reported_ms = float("-inf")
        # All members have answered under the new epoch, so their next grants count.
        local.leases.ask_soon(max(local.map.shards[shard].changed for shard in shards))
        local.prune_tails()
        serving.refresh_leases()
        serving.unblock(set(shards))

    def announce(self) -> None:
        """Tell members the commit positions, in their streams, and the manager the activations; once a turn."""
        local = self.local
        if self._notices:
            grouped: dict[Any, list[int]] = defaultdict(list)
            for shard in self._notices:
                grouped[self.serving.group_of[shard]].append(shard)
            for group, shards in grouped.items():
                if group is None:
                    continue
                columns = (
                    wire.pack_u64(shards),
                    wire.pack_u64(self.activated[shard] for shard in shards),
                    wire.pack_u64(self._notices[shard] for shard in shards),
                )
                self.serving.notify(group, (ACTIVE_PART, *columns))
            self._notices.clear()
        if self.unreported and local.now_ms - self._reported_ms >= REPORT_MS:
            self._reported_ms = local.now_ms
            shards = list(islice(self.unreported, REPORT_LIMIT))
            local.send(MANAGER, wire.ACTIVE, [wire.pack_u64(shards), wire.pack_u64(self.unreported[s] for s in shards)])

    def reported(self, shards: Iterable[int], epochs: Iterable[int]) -> None:
        """The manager knows these activations."""
        for shard, epoch in zip(shards, epochs, strict=True):
            if self.unreported.get(shard) == epoch:
                del self.unreported[shard]
                self._reported_ms = float("-inf")  # there may be more than one report holds

    def report_again(self) -> None:
        """A new incarnation of the manager: it may have forgotten what was reported."""
        self.unreported = {shard: self.activated[shard] for shard in self.serving.active}
        self._reported_ms = float("-inf")

    def next_wake_ms(self, wake: Callable[[float], None]) -> None:
        """Report when something is due."""
        if self.running:
            wake(self._asked_ms + ASK_MS)
            for takeover in self.running.values():
                if takeover.wait and takeover.wait_until_ms > self.local.now_ms:
                    wake(takeover.wait_until_ms)
        if self.unreported:
            wake(self._reported_ms + REPORT_MS)
