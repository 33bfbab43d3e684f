"""The core of a client: operations in, frames out, results when they are certain. No socket, no clock, no thread.

Theory of operation. A call's operations are grouped by primary and cut into *batches*; a batch of writes has a number,
and (client id, batch, index) names an operation for ever (SAFETY 24). A *try* carries a batch, or what is left of it,
to one node. What a try leaves open (refused, timed out, its node gone) is tried again, at whoever is primary by then,
under the same identity; parts of one batch may end up at several primaries and merge by index. A try that left and was
not definitely refused leaves its operations in *doubt*: if the deadline passes, an operation in doubt may have been
done, any other was certainly not (SAFETY 25).

Every try names its deadline in the clock of the node it goes to, learned in a handshake (SAFETY 26): late work is
dropped there, so that nothing of this client is executed after it has given up.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from zkv.core import wire
from zkv.core.client import verdicts
from zkv.core.client.calls import Batch, Call, Failure, Link, Try, cut, picker
from zkv.core.client.verdicts import state_of
from zkv.core.deltas import RecentDeltas
from zkv.core.fragments import Fragments
from zkv.core.node.local import MANAGER, Address
from zkv.core.shardmap import UP, Delta, ShardMap, shards_of
from zkv.core.wire import Malformed

BATCH_OPS: Final = 1024
"""Operations of one batch: enough to make its overhead vanish, few enough for nodes to work while others travel."""
BATCH_BYTES: Final = 1024 * 1024
"""Values of one batch, but for a single one that is larger."""
WINDOW: Final = 8
"""Tries under way to one node; further batches wait here."""
TRY_MS: Final = 500.0
"""Patience with a try before the manager is asked and the rest is sent again; doubled with each try."""
TRY_MAX_MS: Final = 2000.0
BACKOFF_MS: Final = 4.0
"""Pause before a definitely refused operation is tried again; doubled with each, with jitter, up to the maximum."""
BACKOFF_MAX_MS: Final = 100.0
HELLO_MS: Final = 100.0
ACCUSE_AFTER_MS: Final = 300.0
"""A node that gives no sign of life for so long when asked for one is reported to the manager (SAFETY 32)."""
ACCUSE_MS: Final = 150.0
"""Interval of these reports, while they last: gaps between them must not look like an end."""
PULL_MS: Final = 50.0
MANAGER_MS: Final = 200.0


class ClientCore:
    """The client's side of the protocol.

    `submit` starts a call, `step` moves everything; a host repeats `step` until `call.done`.
    """

    def __init__(self, client: int, rng: random.Random) -> None:
        self.client = client
        self.rng = rng
        self.map = ShardMap.empty()
        self._deltas = RecentDeltas()
        self.map_endpoint = ""
        self.next_wake_ms = 0.0
        self._now_ms = 0.0
        self._calls: dict[Call, None] = {}
        self._batches = 0
        self._open_writes: dict[int, Batch] = {}
        """Batches of writes that may still be asked about, lowest first (SAFETY 24)."""
        self._requests = 0
        self._links: dict[int, Link] = {}
        self._waiting: list[tuple[float, Batch, list[int]]] = []
        """(due, batch, indices) to be tried again."""
        self._primaries: list[int] = []
        self._hopeless: dict[int, str] = {}
        """Shards that nobody will serve under this map, and why."""
        self._greeted_ms: float | None = None
        """When the manager last welcomed us."""
        self._asked_manager_ms = float("-inf")
        self._pulled_ms = float("-inf")
        self._accused_ms = float("-inf")
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

    def submit(
        self, op: int, keys: Sequence[Any], values: Sequence[Any] | None, now_ms: float, deadline_ms: float,
        ack: int = wire.ACK_DEFAULT,
    ) -> Call:  # fmt: skip
        """Start a call of one operation on many keys (values as they travel); results come with `step`.

        `ack`: when writes are acknowledged, one of `wire.ACK_…`.
        """
        self._now_ms = now_ms
        call = Call(len(keys), now_ms, deadline_ms, ack)
        self._calls[call] = None
        call.unrouted = (op, keys, values)
        if self.map.version:
            self._route(call)
        return call

    def abandon(self, call: Call) -> None:
        """The caller gave up (an interrupt): forget the call, and try nothing of it again."""
        self._fail(call, Failure(Failure.TIMED_OUT, "given up by the caller", unknown=self._in_doubt(call)))

    def _route(self, call: Call) -> None:
        """Cut a call into batches by primary."""
        assert call.unrouted is not None
        (op, keys, values), call.unrouted = call.unrouted, None
        shards = shards_of(keys, len(self.map.shards))
        by_target: dict[tuple[int, int], list[int]] = defaultdict(list)
        if op == wire.GET_ANY:
            for position, shard in enumerate(shards):
                by_target[self._any_replica(shard)].append(position)
        else:
            for position, primary in enumerate(map(self._primaries.__getitem__, shards)):
                by_target[primary, op].append(position)
        for (target, target_op), positions in by_target.items():
            for chosen in cut(positions, values, BATCH_OPS, BATCH_BYTES):
                columns: tuple[Sequence[Any], Sequence[Any], Sequence[Any] | None]
                if len(chosen) == len(keys):
                    columns = (shards, keys, values)
                else:
                    pick = picker(chosen)
                    columns = (pick(shards), pick(keys), None if values is None else pick(values))
                number = 0
                if op in wire.WRITES:
                    self._batches += 1
                    number = self._batches
                batch = Batch(call, target_op, number, chosen, *columns)
                if number:
                    self._open_writes[number] = batch
                call.batches.append(batch)
                call.pending += 1
                self._queue(batch, target, target_op, range(len(chosen)))
        if call.done:
            self._end(call)  # it had no operations
        elif self._is_hopeless(call):
            self._pull_map(MANAGER)  # unless the manager knows better the call fails with its answer

    def _is_hopeless(self, call: Call) -> bool:
        """Whether the call wants something of a shard that waiting will not bring back, by the map we have."""
        return bool(self._hopeless) and verdicts.needs_one_of(call, self._hopeless) is not None

    def _any_replica(self, shard: int) -> tuple[int, int]:
        """(boot id, operation) for a read that any in-sync replica may answer."""
        replicas = self.map.shards[shard].replicas
        boot = self.rng.choice([boot for boot in replicas if state_of(self.map, boot) == UP] or replicas)
        return boot, wire.GET if boot == replicas[0] else wire.GET_ANY

    def _try(self, batch: Batch, indices: Sequence[int]) -> None:
        """Try `indices` of a batch again: at each node that is primary of some."""
        by_primary: dict[int, list[int]] = defaultdict(list)
        for index in indices:
            by_primary[self._primaries[batch.shards[index]]].append(index)
        op = wire.GET if batch.op == wire.GET_ANY else batch.op
        for primary, chosen in by_primary.items():
            self._queue(batch, primary, op, chosen)

    def _queue(self, batch: Batch, boot: int, op: int, indices: Sequence[int]) -> None:
        """Queue one try."""
        batch.attempt += 1
        if batch.attempt > 1:
            batch.latest.update(dict.fromkeys(indices, batch.attempt))
        whole = len(indices) == len(batch.keys)
        attempt = Try(batch, op, range(len(indices)) if whole else indices, batch.attempt)
        self._links.setdefault(boot, Link()).queue.append(attempt)

    def _send_tries(self, boot: int, link: Link) -> None:
        """Send what the window allows, once the node's clock is known."""
        if boot not in self.map.members:
            return
        if link.offset_ms is None:
            if link.queue and self._now_ms - link.hello_ms >= HELLO_MS:
                if link.hello_ms > float("-inf"):
                    self._pull_map(MANAGER)  # it does not answer: perhaps it is no longer there
                link.hello_ms = self._now_ms
                self._ping(boot, link)
            return
        while link.queue and len(link.tries) < WINDOW:
            attempt = link.queue.pop(0)
            batch = attempt.batch
            call = batch.call
            if call.failure is not None or self._now_ms >= call.deadline_ms:
                continue  # its deadline comes up in this very step
            self._requests += 1
            attempt.sent_ms = self._now_ms
            attempt.timeout_ms = min(TRY_MS * 2 ** min(attempt.attempt - 1, 8), TRY_MAX_MS)
            link.tries[self._requests] = attempt
            whole = type(attempt.indices) is range
            pick = (lambda column: column) if whole else picker(attempt.indices)
            body = [
                self._requests,
                attempt.attempt,
                batch.number,
                next(iter(self._open_writes), batch.number),
                int(call.deadline_ms + link.offset_ms),
                attempt.op,
                None if whole else wire.pack_u16(attempt.indices),
                wire.pack_u16(pick(batch.shards)),
                pick(batch.keys),
                None if batch.wire_values is None else pick(batch.wire_values),
                call.ack,
            ]
            self._send(boot, wire.REQUEST, body)

    # --- a turn ----------------------------------------------------------------------------------------------------

    def step(self, frames: Iterable[tuple[Address, bytes]], now_ms: float) -> list[tuple[Address, bytes]]:
        """One turn: handle `frames` (source: MANAGER or a boot id), then timers; returns (destination, frame)."""
        self._now_ms = now_ms
        # A client that wakes from a pause looks at its deadlines before anything else (SAFETY 24).
        self._expire_calls()
        for source, frame in frames:
            self._receive(source, frame)
        self._time_out_tries()
        self._try_again()
        for boot, link in self._links.items():
            if link.queue:
                self._send_tries(boot, link)
        self._keep_contact()
        out, self._out = self._out, []
        self.next_wake_ms = max(now_ms + 1.0, self._next_wake_ms())
        return self._fragments.outgoing(out, now_ms)

    def _receive(self, source: Address, frame: bytes) -> None:
        try:
            received = self._fragments.receive(source, frame, self._now_ms)
            if received is None:
                return
            header, frame = received
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
        wakes = [call.deadline_ms for call in self._calls]
        wakes += [due_ms for due_ms, _, _ in self._waiting]
        for link in self._links.values():
            wakes += [attempt.sent_ms + attempt.timeout_ms for attempt in link.tries.values()]
            if link.queue and link.offset_ms is None:
                wakes.append(link.hello_ms + HELLO_MS)
        if self._calls and not self.map.version:
            wakes.append(self._asked_manager_ms + MANAGER_MS)
        if self._calls and any(link.pinged_ms is not None for link in self._links.values()):
            wakes.append(max(self._accused_ms, self._now_ms) + ACCUSE_MS)
        if self._hopeless and self._calls:
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
        del link.tries[request]
        if statuses is not None and wire.LATE in statuses:
            link.offset_ms = None  # our estimate of its clock was too early: take this one
        if statuses is not None:
            current.batch.call.thin = wire.THIN in statuses
        link.hear_clock(current.sent_ms, node_ms, self._now_ms)
        batch = current.batch
        if batch.call.failure is not None:
            return
        if statuses is None and type(current.indices) is range and batch.left is None:
            batch.versions, batch.values, batch.sources = versions, values or [], [header.sender]
            self._finish(batch)
            return
        again = batch.merge(current, header.sender, statuses or bytes(len(versions)), versions, values)
        if again is None:
            self._fail(batch.call, Failure(Failure.TIMED_OUT, "the session expired on the server", unknown=True))
        elif not batch.left:
            self._finish(batch)
        elif again and current.op == wire.GET_ANY:
            self._waiting.append((self._now_ms, batch, again))  # to the primary, at once
        elif again:
            self._later(batch, again)
        if header.map_version > self.map.version:
            self._pull_map(source)

    def _finish(self, batch: Batch) -> None:
        """All results of a batch are in."""
        batch.left = set()
        self._open_writes.pop(batch.number, None)
        batch.call.pending -= 1
        if batch.call.done:
            self._end(batch.call)

    def _on_refused(self, source: Address, header: wire.Header, frame: bytes) -> None:
        request, code, text = wire.decode_body(frame)
        link = self._links.get(header.sender) or (self._links.get(source) if isinstance(source, int) else None)
        if code == wire.WRONG_BOOT and isinstance(source, int):
            # Another start of the node answers on that port: what we sent to the earlier one in this try was not done.
            self._pull_map(MANAGER)
            self._lose(source, BACKOFF_MAX_MS)
        elif code == wire.BAD_REQUEST and link is not None and request in link.tries:
            call = link.tries.pop(request).batch.call
            self._fail(call, Failure(Failure.REFUSED, str(text), unknown=self._in_doubt(call)))

    def _on_hello_ack(self, source: Address, header: wire.Header, frame: bytes) -> None:
        sent_ms, node_ms, _ = wire.decode_body(frame)
        link = self._links.get(header.sender)
        if link is not None:
            link.hear_clock(sent_ms, node_ms, self._now_ms)

    # --- tries that came to nothing --------------------------------------------------------------------------------

    def _later(self, batch: Batch, indices: list[int]) -> None:
        """Try again after a jittered, growing pause; a new map cuts it short."""
        pause_ms = min(BACKOFF_MS * 2 ** min(batch.attempt - 1, 10), BACKOFF_MAX_MS) * self.rng.uniform(0.5, 1.0)
        self._waiting.append((self._now_ms + pause_ms, batch, indices))

    def _try_again(self) -> None:
        if not self._waiting:
            return
        due, self._waiting = (
            [item for item in self._waiting if item[0] <= self._now_ms],
            [item for item in self._waiting if item[0] > self._now_ms],
        )
        for _, batch, indices in due:
            if batch.call.failure is None:
                open_indices = [index for index in indices if batch.left is None or index in batch.left]
                if open_indices:
                    self._try(batch, open_indices)

    def _time_out_tries(self) -> None:
        silent: dict[int, Link] = {}
        for boot, link in self._links.items():
            for request, attempt in list(link.tries.items()):
                if self._now_ms - attempt.sent_ms >= attempt.timeout_ms:
                    del link.tries[request]
                    self._doubt(attempt)
                    silent[boot] = link
                    self._pull_map(MANAGER)
                    self._waiting.append((self._now_ms, attempt.batch, attempt.still_open()))
        for boot, link in silent.items():
            self._ping(boot, link)  # a reply may wait for a commit; a greeting is answered at once

    def _ping(self, boot: int, link: Link) -> None:
        """Ask a node for a sign of life, and for its clock."""
        if link.pinged_ms is None:
            link.pinged_ms = self._now_ms
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
        for attempt in [*link.tries.values(), *link.queue]:
            self._waiting.append((self._now_ms + pause_ms, attempt.batch, attempt.still_open()))

    def _expire_calls(self) -> None:
        for call in list(self._calls):
            if self._now_ms >= call.deadline_ms:
                greeted, unknown = self._greeted_ms is not None, self._in_doubt(call)
                self._fail(call, verdicts.expired(call, self.map, greeted=greeted, unknown=unknown))

    def _in_doubt(self, call: Call) -> bool:
        """Whether some write of the call may have been done."""
        under_way = {attempt.batch for link in self._links.values() for attempt in link.tries.values()}
        return verdicts.in_doubt(call, under_way)

    def _fail(self, call: Call, failure: Failure) -> None:
        call.failure = failure
        self._end(call)

    def _end(self, call: Call) -> None:
        """Forget a call: its batches are below the watermark from here on."""
        self._calls.pop(call, None)
        for batch in call.batches:
            self._open_writes.pop(batch.number, None)
        if call.failure is not None:
            self._waiting = [item for item in self._waiting if item[1].call is not call]
            for link in self._links.values():
                link.queue = [attempt for attempt in link.queue if attempt.batch.call is not call]
                link.tries = {
                    number: attempt for number, attempt in link.tries.items() if attempt.batch.call is not call
                }

    # --- the map ---------------------------------------------------------------------------------------------------

    def _keep_contact(self) -> None:
        """Ask the manager for a map while there is none; tell it of nodes that do not answer."""
        if self._calls and not self.map.version and self._now_ms - self._asked_manager_ms >= MANAGER_MS:
            self._asked_manager_ms = self._now_ms
            self._send(MANAGER, wire.HELLO, self._now_ms)
        if self._hopeless and any(call.unrouted is None and self._is_hopeless(call) for call in self._calls):
            self._pull_map(MANAGER)
        if self._now_ms - self._accused_ms >= ACCUSE_MS and (accused := self._unreachable()):
            self._accused_ms = self._now_ms
            self._send(MANAGER, wire.ACCUSE, [accused])
            for boot in accused:
                self._ping(boot, self._links[boot])

    def _unreachable(self) -> list[int]:
        """Nodes that are up by the map, and give this client no sign of life."""
        horizon_ms = self._now_ms - ACCUSE_AFTER_MS
        since_ms = {boot: link.pinged_ms for boot, link in self._links.items()}
        return [boot for boot, asked_ms in since_ms.items() if asked_ms is not None and asked_ms <= horizon_ms]

    def _pull_map(self, source: Address) -> None:
        """Ask for a newer map: who showed it, and the manager."""
        if self._now_ms - self._pulled_ms >= PULL_MS:
            self._pulled_ms = self._now_ms
            self._send(MANAGER, wire.MAP_PULL, None)
            if source != MANAGER:
                self._send(source, wire.MAP_PULL, None)

    def _on_welcome(self, source: Address, header: wire.Header, frame: bytes) -> None:
        _, _, map_endpoint, _ = wire.decode_body(frame)
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
        self._hopeless = verdicts.hopeless_shards(new)
        for boot in list(self._links):
            if state_of(self.map, boot) != UP:
                self._lose(boot)
            else:
                self._reroute(boot)
        self._waiting = [(self._now_ms, batch, indices) for _, batch, indices in self._waiting]
        for call in list(self._calls):
            if call.unrouted is not None:
                self._route(call)
        self._fail_hopeless()

    def _fail_hopeless(self) -> None:
        """End the calls that no waiting can help, by the newest map there is."""
        for call in list(self._calls) if self._hopeless else ():
            shard = None if call.unrouted is not None else verdicts.needs_one_of(call, self._hopeless)
            if shard is not None:
                unknown = self._in_doubt(call)
                self._fail(call, Failure(Failure.UNAVAILABLE, self._hopeless[shard], unknown=unknown, shard=shard))

    def _reroute(self, boot: int) -> None:
        """Queued tries whose shards have another primary now go there; what is under way is answered by the node."""
        link = self._links[boot]
        primaries = self._primaries
        moved = [
            attempt
            for attempt in link.queue
            if attempt.op != wire.GET_ANY
            and any(primaries[attempt.batch.shards[index]] != boot for index in attempt.indices)
        ]
        if moved:
            link.queue = [attempt for attempt in link.queue if attempt not in moved]
            for attempt in moved:
                self._waiting.append((self._now_ms, attempt.batch, attempt.still_open()))
