"""The core of a client: operations in, frames out, results when they are certain. No socket, no clock, no thread.

Theory of operation. A large call is cut into *batches* by primary; operations of small calls wait, by node and kind,
for the next message, and become one batch with all that waits there by then. A batch of writes has a number, and
(client id, batch, index) names an operation for ever (SAFETY 24). A *try* carries a batch, or what is left of it,
to one node. What a try leaves open (refused, timed out, its node gone) is tried again, at whoever is primary by then,
under the same identity; parts of one batch may end up at several primaries and merge by index. A try that left and was
not definitely refused leaves its operations in *doubt*: if the deadline passes, an operation in doubt may have been
done, any other was certainly not (SAFETY 25).

Every try names its deadline in the clock of the node it goes to, learned in a handshake (SAFETY 26): late work is
dropped there, so that nothing of this client is executed after it has given up.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from typing import Any, Final

from zkv.core import wire
from zkv.core.client import verdicts
from zkv.core.client.batches import Batch, Kind, Loose, Try, are_small, cut, picker
from zkv.core.client.calls import REFUSED, TIMED_OUT, UNAVAILABLE, Call, Failure
from zkv.core.client.choosing import Chooser
from zkv.core.client.links import Link
from zkv.core.client.retrying import BACKOFF_MAX_MS, RetryBudget, pause_ms
from zkv.core.client.verdicts import state_of
from zkv.core.deltas import RecentDeltas
from zkv.core.fragments import Fragments
from zkv.core.node.local import MANAGER, Address
from zkv.core.shardmap import UP, Delta, ShardMap, shard_of, shards_of
from zkv.core.wire import Malformed

BATCH_OPS: Final = 1024
"""Operations of one batch: enough to make its overhead vanish, few enough for nodes to work while others travel."""
BATCH_BYTES: Final = 1024 * 1024
"""Values of one batch, but for a single one that is larger."""
SMALL_OPS: Final = 64
"""A call of at most so many operations shares batches with others."""
WINDOW: Final = 8
"""Tries under way to one node; further batches wait here."""
SHARED_WINDOW: Final = 1
"""Tries of one kind under way to one node that hold operations of several calls: while one is, the next gather."""
HOLD_MS: Final = 10.0
"""They gather no longer than this: what holds one up need not concern the next."""
TRY_MS: Final = 500.0
"""Patience with a try before the manager is asked and the rest is sent again; doubled with each try."""
REPLICA_TRY_MS: Final = 150.0
"""Patience with a replica other than the primary, which can always be asked instead."""
TRY_MAX_MS: Final = 2000.0
HELLO_MS: Final = 100.0
ACCUSE_AFTER_MS: Final = 300.0
"""A node that gives no sign of life for so long when asked for one is reported to the manager (SAFETY 32)."""
ACCUSE_MS: Final = 150.0
"""Interval of these reports, while they last: gaps between them must not look like an end."""
PULL_MS: Final = 50.0
MANAGER_MS: Final = 200.0
FINAL: Final = {
    wire.EXPIRED: "the session expired on the server",
    wire.OVERTAKEN: "its answer is lost: an earlier try has come to it",
}
"""Statuses after which nothing can be learned any more, whatever is tried."""


class ClientCore:
    """The client's side of the protocol.

    `submit` starts a call, `step` moves everything; a host repeats `step` until the call is done, or looks at
    `finished` after each. `hedging`: ask a second replica where a read is late; `sticky`: prefer the same replica of a
    shard always. Both concern reads that any replica may answer.
    """

    def __init__(self, client: int, rng: random.Random, *, hedging: bool = False, sticky: bool = False) -> None:
        self.client = client
        self.rng = rng
        self.map = ShardMap.empty()
        self.finished: list[Call] = []
        """Calls that ended in the last step."""
        self.counts: Counter[str] = Counter()
        """What was sent: requests, operations, retries, hedges."""
        self.map_endpoint = ""
        self.next_wake_ms = 0.0
        self._deltas = RecentDeltas()
        self._now_ms = 0.0
        self._fresh: list[Call] = []
        """Calls that have not been routed."""
        self.calls: dict[Call, None] = {}
        """Calls that have not ended."""
        self._deadline_ms = float("inf")
        """At or before the nearest deadline of a call."""
        self._batches = 0
        self._open_writes: dict[int, Batch] = {}
        """Batches of writes that may still be asked about, lowest first (SAFETY 24)."""
        self._requests = 0
        self._links: dict[int, Link] = {}
        self._waiting: list[tuple[float, Batch, list[int], bool]] = []
        """(due, batch, indices, whether they were never sent) to be tried again."""
        self._budget = RetryBudget()
        self._hedging = hedging
        self._chooser = Chooser(rng, sticky=client if sticky else None)
        self._primaries: list[int] = []
        self._readers: dict[int, Sequence[int]] = {}
        """shard -> replicas that may be read, by this map."""
        self._hopeless: dict[int, str] = {}
        """Shards that nobody will serve under this map, and why."""
        self._greeted_ms: float | None = None
        """When the manager last welcomed us."""
        self._asked_manager_ms = float("-inf")
        self._pulled_ms = float("-inf")
        self._accused_ms = float("-inf")
        self._chores_ms = float("-inf")
        """Before this no try times out, and nothing else follows the clock but deadlines."""
        self._roused = False
        """Whether something happened that chores have to look into."""
        self._out: list[tuple[Address, bytes]] = []
        self._fragments = Fragments()
        self._handlers: dict[int, Callable[[Address, wire.Header, bytes], None]] = {
            wire.REPLY: self._on_reply,
            wire.REFUSED: self._on_refused,
            wire.HELLO_ACK: self._on_hello_ack,
            wire.WELCOME: self._on_welcome,
            wire.MAP: self._on_map,
            wire.MAP_DELTA: self._on_map_delta,
            wire.MAP_PULL: self._on_map_pull,
            wire.BEACON: self._on_beacon,
        }

    # --- calls -----------------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> Call:
        """Start a call; it leaves with the next `step`."""
        self.calls[call] = None
        if call.deadline_ms < self._deadline_ms:
            self._deadline_ms = call.deadline_ms
        primaries, op = self._primaries, call.op
        if call.count == 1 and primaries and call.shards is None and type(op) is int and op not in wire.REPLICA_READS:
            # Most calls: it waits where the next message to its node takes it along, and is looked at no more.
            self._add_loose(call, 0, shard_of(call.keys[0], len(primaries)))
        else:
            self._fresh.append(call)
        return call

    def abandon(self, call: Call) -> None:
        """The caller gave up (an interrupt): forget the call, and try nothing of it again."""

        def given_up(shard: int | None, batch: Batch | None, unknown: bool) -> Failure:
            return Failure(TIMED_OUT, "given up by the caller", unknown, shard)

        if not call.done:
            self._fail(call, given_up)
        self.calls.pop(call, None)

    def _route(self) -> None:
        """Send fresh calls on their way, once there is a map to route by."""
        if not self.map.version:
            return
        fresh, self._fresh = self._fresh, []
        self._chooser.begin()
        for call in fresh:
            call.open = 0
            if isinstance(call.op, bytes) or call.count > SMALL_OPS or call.shards is not None:
                self._route_alone(call)
            else:
                self._route_loose(call)
            if not call.open:
                self.finished.append(call)  # it had no operations

    def _route_loose(self, call: Call) -> None:
        """Put the operations of a small call where the next message to their node takes them along."""
        count = len(self.map.shards)
        call.open = call.count
        for place, key in enumerate(call.keys):
            self._add_loose(call, place, shard_of(key, count))

    def _add_loose(self, call: Call, place: int, shard: int) -> None:
        op = call.op
        assert isinstance(op, int)
        spread = op in wire.REPLICA_READS
        boot = self._any_replica(shard) if spread else self._primaries[shard]
        if op == wire.GET_ANY and boot == self._primaries[shard]:
            op = wire.GET
        kind = wire.new_tuple(Kind, (op, call.ack, spread, int(call.deadline_ms - call.started_ms).bit_length()))
        link = self._links.get(boot)
        if link is None:
            link = self._links[boot] = Link()
        loose = link.loose.get(kind)
        if loose is None:
            loose = link.loose[kind] = Loose()
        loose.add(call, place, shard)

    def _route_alone(self, call: Call) -> None:
        """Cut a call into batches of its own, by node."""
        op, keys, values, operands, ttls = call.op, call.keys, call.values, call.operands, call.ttls
        shards = shards_of(keys, len(self.map.shards)) if call.shards is None else call.shards
        by_target: dict[tuple[int, int | bytes], list[int]] = defaultdict(list)
        if op in wire.REPLICA_READS:
            for position, shard in enumerate(shards):
                boot = self._any_replica(shard)
                primary_get = op == wire.GET_ANY and boot == self._primaries[shard]
                by_target[boot, wire.GET if primary_get else op].append(position)
        else:
            primaries = list(map(self._primaries.__getitem__, shards))
            add_to = {primary: by_target[primary, op].append for primary in dict.fromkeys(primaries)}
            for position, primary in enumerate(primaries):
                add_to[primary](position)
        # Operations on one key take effect in their order: batches with such wait for each other.
        ordered = isinstance(op, bytes) and len(set(keys)) < len(keys)
        sized = None if values is None or are_small(values, BATCH_BYTES // BATCH_OPS) else values
        for (target, target_op), positions in by_target.items():
            last: Batch | None = None
            for chosen in cut(positions, sized, BATCH_OPS, BATCH_BYTES):
                whole = len(chosen) == len(keys)
                pick = (lambda column: column) if whole else picker(chosen)
                batch = Batch(
                    target_op if isinstance(target_op, int) else bytes(pick(target_op)), call.ack, chosen,
                    pick(shards), pick(keys), None if values is None else pick(values),
                    None if operands is None else pick(operands), None if ttls is None else pick(ttls), call=call,
                    spread=op in wire.REPLICA_READS,
                )  # fmt: skip
                self._enter(batch)
                call.open += 1
                if last is None or not ordered:
                    self._queue(batch, target, batch.op, range(len(chosen)))
                else:
                    last.next = batch
                last = batch

    def _enter(self, batch: Batch) -> None:
        """Give a batch its identity, and tell its calls."""
        op = batch.op
        if op in wire.WRITES if isinstance(op, int) else not wire.WRITES.isdisjoint(op):
            self._batches += 1
            batch.number = self._batches
            self._open_writes[batch.number] = batch
        for call in (batch.call,) if batch.call is not None else dict.fromkeys(batch.calls):
            call.batches.append(batch)

    def _any_replica(self, shard: int) -> int:
        """Boot id of the replica that a read is sent to."""
        readers = self._readers.get(shard)
        if readers is None:
            replicas = self.map.shards[shard].replicas
            readers = [boot for boot in replicas if state_of(self.map, boot) == UP] or replicas
            self._readers[shard] = readers
        return self._chooser.choose(shard, readers, self._links)

    # --- tries -----------------------------------------------------------------------------------------------------

    def _try(self, batch: Batch, indices: Sequence[int]) -> None:
        """Try `indices` of a batch at the nodes that are primary of some."""
        by_primary: dict[int, list[int]] = defaultdict(list)
        for index in indices:
            by_primary[self._primaries[batch.shards[index]]].append(index)
        op = wire.GET if batch.op in wire.REPLICA_READS else batch.op
        for primary, chosen in by_primary.items():
            self._queue(batch, primary, op, chosen)

    def _queue(self, batch: Batch, boot: int, op: int | bytes, indices: Sequence[int]) -> None:
        """Queue one try."""
        self._links.setdefault(boot, Link()).queue.append(self._new_try(batch, op, indices))

    def _new_try(self, batch: Batch, op: int | bytes, indices: Sequence[int], kind: Kind | None = None) -> Try:
        batch.attempt += 1
        if batch.attempt > 1:
            batch.latest.update(dict.fromkeys(indices, batch.attempt))
        whole = len(indices) == len(batch.keys)
        return Try(batch, op, range(len(indices)) if whole else indices, batch.attempt, kind)

    def _send_tries(self, boot: int, link: Link) -> None:
        """Send what the window allows, if the node is known to live, and its clock is known."""
        if boot not in self.map.members:
            self._roused = True
            return
        if link.broken:
            self._roused = True
            if self._now_ms - link.hello_ms >= HELLO_MS:
                if link.hello_ms > float("-inf"):
                    self._pull_map(MANAGER)  # it does not answer: perhaps it is no longer there
                self._ping(boot, link)
            return
        # Small calls first: large ones would keep the window full.
        for kind in list(link.loose):
            if self._may_share(link, kind) and (attempt := self._gather(link, kind)) is not None:
                self._send_try(boot, link, attempt)
        while link.queue and (link.queue[0].op == wire.WATCH or self._occupied(link) < WINDOW):
            self._send_try(boot, link, link.queue.pop(0))
        if link.loose:
            self._roused = True  # they wait for those under way, but not for ever

    def _occupied(self, link: Link) -> int:
        """Tries under way that keep a node busy: watches only wait there."""
        return len(link.tries) - sum(one.op == wire.WATCH for one in link.tries.values())

    def _may_share(self, link: Link, kind: Kind) -> bool:
        """Whether operations of `kind` need not wait for those before them."""
        if not link.tries:
            return True
        under_way = [one.sent_ms for one in link.tries.values() if one.kind == kind]
        if len(under_way) < SHARED_WINDOW:
            return True
        return len(under_way) < WINDOW and self._now_ms - under_way[-1] >= HOLD_MS

    def _gather(self, link: Link, kind: Kind) -> Try | None:
        """Make a batch of the operations that wait; None if nobody waits for them any more."""
        loose = link.loose[kind]
        for call in loose.calls:
            if not call.open:
                loose = link.loose[kind] = loose.of_open_calls()
                break
        count = len(loose.calls)
        large = loose.values and count > 1 and not are_small(loose.values, BATCH_BYTES // BATCH_OPS)
        if count > BATCH_OPS or large:
            loose = loose.take(BATCH_OPS, BATCH_BYTES)
        if loose is link.loose[kind] or not link.loose[kind]:
            del link.loose[kind]
        if not loose.calls:
            return None
        batch = Batch(
            kind.op, kind.ack, loose.places, loose.shards, loose.keys, loose.values or None, loose.operands or None,
            loose.ttls if any(loose.ttls) else None, calls=loose.calls, spread=kind.spread,
        )  # fmt: skip
        self._enter(batch)
        return self._new_try(batch, kind.op, range(len(loose.calls)), kind)

    def _send_try(self, boot: int, link: Link, attempt: Try) -> None:
        batch = attempt.batch
        if batch.over:
            return
        if batch.left is not None and not batch.left.issuperset(attempt.indices):
            # Some came to their end while this waited to be sent: what was reported as not done must not be done.
            attempt.indices = [index for index in attempt.indices if index in batch.left]
            if not attempt.indices:
                return
        deadline_ms = batch.deadline_ms()
        assert link.offset_ms is not None
        self._requests += 1
        attempt.sent_ms = self._now_ms
        patience_ms = REPLICA_TRY_MS if attempt.op in wire.REPLICA_READS else TRY_MS
        attempt.timeout_ms = min(patience_ms * 2 ** min(attempt.attempt - 1, 8), TRY_MAX_MS)
        self._chores_ms = min(self._chores_ms, self._now_ms + attempt.timeout_ms)
        link.tries[self._requests] = attempt
        self.counts["requests"] += 1
        self.counts["operations"] += len(attempt.indices)
        if attempt.attempt == 1:
            self._budget.first_try()
            if batch.spread:
                self._chooser.asked(len(attempt.indices))
        op, indices = attempt.op, None
        shards, keys, values, operands, ttls = batch.shards, batch.keys, batch.wire_values, batch.operands, batch.ttls
        if type(attempt.indices) is not range:
            pick = picker(attempt.indices)
            op = op if isinstance(op, int) else bytes(pick(op))
            indices, shards, keys = wire.pack_u16(attempt.indices), pick(shards), pick(keys)
            values, operands, ttls = (
                None if column is None else pick(column) for column in (values, operands, ttls)
            )
        body = [
            self._requests,
            attempt.attempt,
            batch.number,
            next(iter(self._open_writes), batch.number),
            int(deadline_ms + link.offset_ms),
            op,
            indices,
            wire.pack_u16(shards),
            keys,
            values,
            batch.ack,
            None if operands is None else wire.pack_u64(operands),
            None if ttls is None else wire.pack_u64(ttls),
        ]
        self._send(boot, wire.REQUEST, body)

    def _hedge(self) -> None:
        """Ask a second replica where a read is later than usual."""
        late_ms = self._chooser.late_ms
        for boot, link in list(self._links.items()):
            for one in list(link.tries.values()):
                batch = one.batch
                if one.hedged or not batch.spread or self._now_ms - one.sent_ms < late_ms:
                    continue
                one.hedged = True
                still_open = one.still_open()
                if not still_open or not self._chooser.may_hedge(len(still_open)):
                    continue
                self.counts["hedges"] += 1
                self.counts["hedged operations"] += len(still_open)
                self._ask_others(batch, boot, still_open)

    def _ask_others(self, batch: Batch, asked: int, indices: Sequence[int]) -> None:
        by_target: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index in indices:
            shard = batch.shards[index]
            readers = self._readers.get(shard) or self.map.shards[shard].replicas
            others = [boot for boot in readers if boot != asked]
            if others:
                boot = self._chooser.choose(shard, others, self._links)
                if (link := self._links.get(boot)) is not None and link.broken:
                    continue  # there it would wait, and be in the way of whoever answers
                stale = batch.op == wire.GET_STALE
                op = wire.GET_STALE if stale else wire.GET if boot == self._primaries[shard] else wire.GET_ANY
                by_target[boot, op].append(index)
        for (boot, op), chosen in by_target.items():
            self._links.setdefault(boot, Link()).queue.append(self._hedged_try(batch, op, chosen))

    def _hedged_try(self, batch: Batch, op: int, indices: Sequence[int]) -> Try:
        hedge = self._new_try(batch, op, indices)
        hedge.hedged = True
        return hedge

    def _rescue_reads(self) -> None:
        """Reads that wait for a replica which gives no sign of life go elsewhere: others can answer them as well."""
        for boot, link in list(self._links.items()):
            if link.pinged_ms is None or not link.waiting or self._now_ms - link.pinged_ms < REPLICA_TRY_MS:
                continue
            for kind in [kind for kind in link.loose if kind.spread]:
                loose = link.loose.pop(kind)
                for call, place, shard in zip(loose.calls, loose.places, loose.shards, strict=True):
                    if call.open:
                        self._add_loose(call, place, shard)  # the choice leaves silent ones out, unless all are
            stuck = [one for one in link.queue if one.op in wire.REPLICA_READS and not self._is_primary(boot, one)]
            if stuck:
                link.queue = [one for one in link.queue if one not in stuck]
                for one in stuck:
                    self._try(one.batch, one.still_open())

    def _is_primary(self, boot: int, attempt: Try) -> bool:
        return all(self._primaries[attempt.batch.shards[index]] == boot for index in attempt.indices)

    # --- a turn ----------------------------------------------------------------------------------------------------

    def step(self, frames: Iterable[tuple[Address, bytes]], now_ms: float) -> list[tuple[Address, bytes]]:
        """One turn: handle `frames` (source: MANAGER or a boot id), then timers; returns (destination, frame)."""
        self._now_ms = now_ms
        self.finished = []
        # A client that wakes from a pause looks at its deadlines before anything else (SAFETY 24).
        if now_ms >= self._deadline_ms:
            self._expire_calls()
        for source, frame in frames:
            self._receive(source, frame)
        # Most turns send fresh calls or take answers; only where something is due, or unusual, is all looked at.
        chores = self._roused or now_ms >= self._chores_ms or self._waiting or self._hedging or self._hopeless
        self._roused = False
        if chores:
            self._time_out_tries()
            if self._hedging:
                self._hedge()
            self._rescue_reads()
            self._try_again()
        if self._fresh:
            self._route()
        for boot, link in self._links.items():
            if link.loose or link.queue or link.pinged_ms is not None:
                self._send_tries(boot, link)
        if chores or self._roused or not self.map.version:
            self._keep_contact()
            self._chores_ms = self._next_wake_ms()
        for call in self.finished:
            self.calls.pop(call, None)
        out, self._out = self._out, []
        deadline_ms = self._deadline_ms if self.calls else float("inf")
        self.next_wake_ms = max(now_ms + 1.0, min(self._chores_ms, deadline_ms))
        return self._fragments.outgoing(out, now_ms)

    def _receive(self, source: Address, frame: bytes) -> None:
        try:
            received = self._fragments.receive(source, frame, self._now_ms)
            if received is None:
                self._roused = True
                return
            header, frame = received
            if header.kind != wire.REPLY:
                self._roused = True
            if isinstance(source, int) and (link := self._links.get(source)) is not None:
                link.pinged_ms = None
            handler = self._handlers.get(header.kind)
            if handler is not None and (header.cluster == self.map.cluster or not self.map.cluster):
                handler(source, header, frame)
        except wire.UNPARSABLE:
            return  # a peer's error: the try it was meant for times out

    def _send(self, to: Address, kind: int, body: Any) -> None:
        self._send_packed(to, kind, wire.pack(body))

    def _send_packed(self, to: Address, kind: int, packed: bytes) -> None:
        target = to if isinstance(to, int) and to != MANAGER else 0
        header = wire.encode_header(kind, self.map.cluster, self.client, target, self.map.version)
        self._out.append((to, header + packed))

    def _next_wake_ms(self) -> float:
        wakes = [due_ms for due_ms, *_ in self._waiting]
        late_ms = self._chooser.late_ms if self._hedging else float("inf")
        for link in self._links.values():
            for one in link.tries.values():
                wakes.append(one.sent_ms + one.timeout_ms)
                if one.batch.spread and not one.hedged:
                    wakes.append(one.sent_ms + late_ms)
                if one.kind is not None and one.kind in link.loose and self._now_ms < one.sent_ms + HOLD_MS:
                    wakes.append(one.sent_ms + HOLD_MS)
            if link.broken and self.calls and (link.waiting or link.pinged_ms is not None):
                wakes.append(link.hello_ms + HELLO_MS)
                if link.pinged_ms is not None and self._now_ms < link.pinged_ms + REPLICA_TRY_MS:
                    wakes.append(link.pinged_ms + REPLICA_TRY_MS)
        if self.calls and not self.map.version:
            wakes.append(self._asked_manager_ms + MANAGER_MS)
        if self.calls and any(link.pinged_ms is not None for link in self._links.values()):
            wakes.append(max(self._accused_ms, self._now_ms) + ACCUSE_MS)
        if self._hopeless and self.calls:
            wakes.append(max(self._pulled_ms, self._now_ms) + PULL_MS)
        wakes.append(self._fragments.next_wake_ms())
        return min(wakes)

    # --- answers ---------------------------------------------------------------------------------------------------

    def _on_reply(self, source: Address, header: wire.Header, frame: bytes) -> None:
        request, _, node_ms, statuses, packed, values = wire.decode_body(frame)
        versions = wire.unpack_u64(packed)
        link = self._links.get(header.sender)
        current = link.tries.get(request) if link else None
        if link is None or current is None:
            return
        if len(versions) != len(current.indices):
            raise Malformed("a reply of another length than its request")  # the try stays open, and in doubt
        if values is not None and len(values) != len(versions):
            raise Malformed("a reply with columns of different length")
        del link.tries[request]
        batch = current.batch
        if statuses is not None and wire.LATE in statuses:
            link.offset_ms = None  # our estimate of its clock was too early: take this one
        link.hear_clock(current.sent_ms, node_ms, self._now_ms)
        if batch.spread:
            latency_ms = self._now_ms - current.sent_ms
            link.hear_latency(latency_ms)
            self._chooser.heard(latency_ms)
        if statuses is None and type(current.indices) is range and batch.left is None:
            batch.take_all(versions, values, header.sender, self.finished)
        elif not batch.over:
            self._roused = True
            self._merge(current, header.sender, statuses or bytes(len(versions)), versions, values)
        if batch.over:
            self._close(batch)
        if header.map_version > self.map.version:
            self._pull_map(source)

    def _merge(
        self, current: Try, sender: int, statuses: bytes, versions: Sequence[int], values: Sequence[Any] | None
    ) -> None:
        """An answer that is not simply "all done"."""
        batch = current.batch
        batch.thin = wire.THIN in statuses
        again = batch.merge(current, sender, statuses, versions, values, self.finished)
        for status, text in FINAL.items():
            if status in statuses:
                for place, index in enumerate(current.indices):
                    if statuses[place] == status and index in (batch.left or ()):
                        unknown = batch.op_at(index) in wire.WRITES
                        failure = self._failure(TIMED_OUT, text, batch, index, unknown=unknown)
                        batch.fail(index, failure, self.finished)
        again = [index for index in again if batch.left is None or index in batch.left]
        if again and current.op in wire.REPLICA_READS:
            self._try(batch, again)  # to the primary, at once: that is no retry, but the way of such reads
        elif again:
            self._waiting.append((self._now_ms + pause_ms(batch.attempt, self.rng), batch, again, False))

    def _failure(self, kind: str, text: str, batch: Batch, index: int, *, unknown: bool) -> Failure:
        return verdicts.located(kind, text, batch.shards[index], batch, self.map, unknown=unknown)

    def _close(self, batch: Batch) -> None:
        """Nothing of a batch is open any more: it is below the watermark from here on."""
        self._open_writes.pop(batch.number, None)
        batch.calls = ()  # they refer to it: nothing of an operation is to wait for the garbage collector
        follower, batch.next = batch.next, None
        if follower is not None and not follower.over:
            self._try(follower, follower.open())

    def _on_refused(self, source: Address, header: wire.Header, frame: bytes) -> None:
        request, code, text = wire.decode_body(frame)
        link = self._links.get(header.sender) or (self._links.get(source) if isinstance(source, int) else None)
        if code == wire.WRONG_BOOT and isinstance(source, int):
            # Another start of the node answers on that port: what we sent to the earlier one in this try was not done.
            self._pull_map(MANAGER)
            self._lose(source, BACKOFF_MAX_MS)
        elif code == wire.BAD_REQUEST and link is not None and request in link.tries:
            attempt = link.tries.pop(request)
            batch, under_way = attempt.batch, self._under_way((attempt.batch,))
            for index in attempt.still_open():
                unknown = verdicts.in_doubt(batch, index, under_way)
                batch.fail(index, self._failure(REFUSED, str(text), batch, index, unknown=unknown), self.finished)
            if batch.over:
                self._close(batch)

    def _on_hello_ack(self, source: Address, header: wire.Header, frame: bytes) -> None:
        sent_ms, node_ms, _ = wire.decode_body(frame)
        link = self._links.get(header.sender)
        if link is not None:
            link.hear_clock(sent_ms, node_ms, self._now_ms)

    # --- tries that came to nothing --------------------------------------------------------------------------------

    def _try_again(self) -> None:
        """Send what is due and still open again, within the budget."""
        if not self._waiting:
            return
        due = [item for item in self._waiting if item[0] <= self._now_ms]
        if not due:
            return
        self._waiting = [item for item in self._waiting if item[0] > self._now_ms]
        for _, batch, indices, unsent in due:
            still_open = [index for index in indices if batch.left is None or index in batch.left]
            if not still_open:
                continue
            if unsent:
                self._try(batch, still_open)
            elif self._budget.take(self._now_ms):
                self.counts["retries"] += 1
                self._try(batch, still_open)
            else:
                self._waiting.append((self._now_ms + self._budget.wait_ms, batch, still_open, False))

    def _time_out_tries(self) -> None:
        silent: dict[int, Link] = {}
        for boot, link in self._links.items():
            for request, attempt in list(link.tries.items()):
                if self._now_ms - attempt.sent_ms >= attempt.timeout_ms:
                    del link.tries[request]
                    self._doubt(attempt)
                    silent[boot] = link
                    self._pull_map(MANAGER)
                    if attempt.batch.spread:
                        link.hear_latency(attempt.timeout_ms)
                    self._waiting.append((self._now_ms, attempt.batch, attempt.still_open(), False))
        for boot, link in silent.items():
            self._ping(boot, link)  # a reply may wait for a commit; a greeting is answered at once

    def _ping(self, boot: int, link: Link) -> None:
        """Ask a node for a sign of life, and for its clock."""
        if link.pinged_ms is None:
            link.pinged_ms = self._now_ms
        link.hello_ms = self._now_ms
        self._send(boot, wire.HELLO, self._now_ms)

    def _doubt(self, attempt: Try) -> None:
        """This try left and was not answered: it may have been, or may yet be, done."""
        attempt.batch.doubt.update(attempt.indices)

    def _lose(self, boot: int, pause_ms: float = 0.0) -> None:
        """A node is gone: what is under way there is tried elsewhere at once, under the same identity."""
        link = self._links.pop(boot, None)
        if link is None:
            return
        for attempt in link.tries.values():
            self._doubt(attempt)
        for attempts, unsent in ((link.tries.values(), False), (link.queue, True)):
            for attempt in attempts:
                self._waiting.append((self._now_ms + pause_ms, attempt.batch, attempt.still_open(), unsent))
        self._put_elsewhere(link)

    def _put_elsewhere(self, link: Link) -> None:
        """Operations that waited for a message to this node wait for one to another."""
        waiting, link.loose = link.loose, {}
        for loose in waiting.values():
            for call, place, shard in zip(loose.calls, loose.places, loose.shards, strict=True):
                if call.open:
                    self._add_loose(call, place, shard)

    # --- operations that have no answer ----------------------------------------------------------------------------

    def _expire_calls(self) -> None:
        self._deadline_ms = float("inf")
        for call in list(self.calls):
            if self._now_ms >= call.deadline_ms:
                self._fail(call, partial(self._expired, call))
                self.calls.pop(call, None)
            else:
                self._deadline_ms = min(self._deadline_ms, call.deadline_ms)

    def _expired(self, call: Call, shard: int | None, batch: Batch | None, unknown: bool) -> Failure:
        if shard is None:
            return verdicts.unrouted(call, greeted=self._greeted_ms is not None, mapped=bool(self.map.version))
        link = self._links.get(self._primaries[shard])
        silent = link is not None and link.pinged_ms is not None
        return verdicts.expired(call, shard, batch, self.map, unknown=unknown, silent=silent)

    def _under_way(self, batches: Container[Batch]) -> set[tuple[Batch, int]]:
        """(batch, index) of every try of these batches that has not been answered."""
        return {
            (attempt.batch, index)
            for link in self._links.values()
            for attempt in link.tries.values()
            if attempt.batch.number and attempt.batch in batches
            for index in attempt.indices
        }

    def _fail(self, call: Call, why: Callable[[int | None, Batch | None, bool], Failure]) -> None:
        """End what is open of a call: `why` says it of (shard, batch, whether it is in doubt)."""
        if call in self._fresh:
            self._fresh.remove(call)
            call.failures = dict.fromkeys(range(max(call.count, 1)), why(None, None, False))
            call.open = 0
            self.finished.append(call)
            return
        under_way = self._under_way(call.batches if len(call.batches) < 8 else set(call.batches))
        known: dict[tuple[int, Batch | None, bool], Failure] = {}

        def failure(shard: int, batch: Batch | None, unknown: bool) -> Failure:
            name = shard, batch, unknown
            if name not in known:
                known[name] = why(*name)
            return known[name]

        for batch in list(call.batches):
            for index in batch.open_of(call):
                unknown = verdicts.in_doubt(batch, index, under_way)
                batch.fail(index, failure(batch.shards[index], batch, unknown), self.finished)
            if batch.over:
                self._close(batch)
        if call.open:  # what is left waits for a message to take it along; there it is passed over from now on
            shards = len(self.map.shards)
            for place, key in enumerate(call.keys):
                if place not in call.answers and place not in call.failures:
                    shard = shard_of(key, shards) if call.shards is None else call.shards[place]
                    call.failures[place] = failure(shard, None, False)
            call.open = 0
            self.finished.append(call)

    def _fail_loose(self, why: Callable[[Call, int], Failure | None]) -> None:
        """End operations that still wait for a message to take them along, where there is a reason."""
        for link in self._links.values():
            for kind, loose in list(link.loose.items()):
                kept = Loose()
                for call, place, shard in zip(loose.calls, loose.places, loose.shards, strict=True):
                    if not call.open:
                        continue
                    failure = why(call, shard)
                    if failure is None:
                        kept.add(call, place, shard)
                        continue
                    call.failures[place] = failure
                    call.open -= 1
                    if not call.open:
                        self.finished.append(call)
                if kept:
                    link.loose[kind] = kept
                else:
                    del link.loose[kind]

    def _open_batches(self) -> dict[Batch, None]:
        return {batch: None for call in self.calls for batch in call.batches if not batch.over}

    def _wants_hopeless(self) -> bool:
        """Whether some operation wants a shard that waiting will not bring back, by the map we have."""
        hopeless = self._hopeless
        return any(
            batch.shards[index] in hopeless for batch in self._open_batches() for index in batch.open()
        ) or any(
            not hopeless.keys().isdisjoint(loose.shards)
            for link in self._links.values()
            for loose in link.loose.values()
        )

    def _fail_hopeless(self) -> None:
        """End the operations that no waiting can help, by the newest map there is."""
        hopeless = self._hopeless
        if not hopeless:
            return
        open_batches = self._open_batches()
        under_way = self._under_way(open_batches)
        for batch in open_batches:
            for index in batch.open():
                why = hopeless.get(batch.shards[index])
                if why is not None:
                    unknown = verdicts.in_doubt(batch, index, under_way)
                    batch.fail(index, self._failure(UNAVAILABLE, why, batch, index, unknown=unknown), self.finished)
            if batch.over:
                self._close(batch)

        def lost(call: Call, shard: int) -> Failure | None:
            why = hopeless.get(shard)
            return None if why is None else verdicts.located(UNAVAILABLE, why, shard, None, self.map, unknown=False)

        self._fail_loose(lost)

    # --- the map ---------------------------------------------------------------------------------------------------

    def _keep_contact(self) -> None:
        """Ask the manager for a map while there is none; tell it of nodes that do not answer."""
        if self.calls and not self.map.version and self._now_ms - self._asked_manager_ms >= MANAGER_MS:
            self._asked_manager_ms = self._now_ms
            self._send(MANAGER, wire.HELLO, self._now_ms)
        if self._hopeless and self._now_ms - self._pulled_ms >= PULL_MS and self._wants_hopeless():
            self._pull_map(MANAGER)  # unless the manager knows better they fail with its answer
        if self._now_ms - self._accused_ms >= ACCUSE_MS and (accused := self._unreachable()):
            self._accused_ms = self._now_ms
            self._send(MANAGER, wire.ACCUSE, [accused])
            for boot in accused:
                self._ping(boot, self._links[boot])

    def _unreachable(self) -> list[int]:
        """Nodes that are up by the map, and give this client no sign of life."""
        horizon_ms = self._now_ms - ACCUSE_AFTER_MS
        return [
            boot
            for boot, link in self._links.items()
            if link.pinged_ms is not None and link.pinged_ms <= horizon_ms
        ]

    def _pull_map(self, source: Address) -> None:
        """Ask for a newer map: who showed it, and the manager."""
        if self._now_ms - self._pulled_ms >= PULL_MS:
            self._pulled_ms = self._now_ms
            self._send(MANAGER, wire.MAP_PULL, None)
            if source != MANAGER:
                self._send(source, wire.MAP_PULL, None)

    def _on_welcome(self, source: Address, header: wire.Header, frame: bytes) -> None:
        _, _, map_endpoint, *_ = wire.decode_body(frame)
        self._greeted_ms = self._now_ms
        self.map_endpoint = str(map_endpoint)
        if not self.map.cluster:
            self.map = ShardMap.empty(header.cluster)

    def _on_map(self, source: Address, header: wire.Header, frame: bytes) -> None:
        if header.map_version > self.map.version or header.cluster != self.map.cluster:  # else it is known by now
            self._install(ShardMap.from_wire(wire.decode_body(frame)))
            self._deltas.forget()
        if source == MANAGER:
            self._fail_hopeless()

    def _on_map_delta(self, source: Address, header: wire.Header, frame: bytes) -> None:
        delta = Delta.from_wire(wire.decode_body(frame))
        if delta.base == self.map.version and delta.cluster == self.map.cluster:
            self._install(self.map.with_changes(delta))
            self._deltas.keep(delta, frame[wire.HEADER.size :], self.map)
        elif delta.version > self.map.version:
            self._pull_map(MANAGER)

    def _on_beacon(self, source: Address, header: wire.Header, frame: bytes) -> None:
        if header.map_version > self.map.version:
            self._pull_map(MANAGER)

    def _on_map_pull(self, source: Address, header: wire.Header, frame: bytes) -> None:
        """A node that has seen our newer map asks for it (SAFETY 4)."""
        lacking = self._deltas.since(header.map_version)
        for packed in lacking:
            self._send_packed(source, wire.MAP_DELTA, packed)
        if self.map.version and not lacking:
            self._send(source, wire.MAP, self.map.to_wire())

    def _install(self, new: ShardMap) -> None:
        """A newer map: whatever waits, or is under way to a node that is gone, is tried again at once."""
        if new.version <= self.map.version or (self.map.cluster and new.cluster != self.map.cluster):
            return
        self.map = new
        self._primaries = [shard.primary for shard in new.shards]
        self._readers.clear()
        self._chooser.begin()
        self._hopeless = verdicts.hopeless_shards(new)
        for boot in list(self._links):
            if state_of(self.map, boot) != UP:
                self._lose(boot)
            else:
                self._reroute(boot)
        self._waiting = [(self._now_ms, *rest) for _, *rest in self._waiting]  # type: ignore[misc]
        self._fail_hopeless()

    def _reroute(self, boot: int) -> None:
        """Queued tries whose shards have another primary now go there; what is under way is answered by the node."""
        link = self._links[boot]
        primaries = self._primaries
        moved = [
            attempt
            for attempt in link.queue
            if attempt.op not in wire.REPLICA_READS
            and any(primaries[attempt.batch.shards[index]] != boot for index in attempt.indices)
        ]
        if moved:
            link.queue = [attempt for attempt in link.queue if attempt not in moved]
            for attempt in moved:
                self._waiting.append((self._now_ms, attempt.batch, attempt.still_open(), True))
        if link.loose:
            self._put_elsewhere(link)
