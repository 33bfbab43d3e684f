"""Executing client requests: first the checks, then how each operation comes to its answer (SAFETY 8, 9, 24, 26).

A request of puts or gets whose shards are all active, leased and routed by a map young enough is executed as a whole:
three comparisons and a few loops in C; so are puts and gets of different keys. Only where one of them fails, or for
other operations, is each looked at by itself (`evaluate` says what it does). Operations of one request on one key take
effect in their order.

Some requests are better looked at later: those wait in `parking`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

from zkv.core import wire
from zkv.core.node.checks import Request, check_identity, check_request, check_sizes
from zkv.core.node.entries import ABSENT, TUPLE_BYTES, Entry, StoredEntry, opened, size_of_stored, stored, versions_of
from zkv.core.node.evaluate import BLIND, EVALUATIONS, Asked, Outcome
from zkv.core.node.expiring import Expiring
from zkv.core.node.groups import Group
from zkv.core.node.local import Address, Local
from zkv.core.node.parking import Parked, Parking
from zkv.core.node.reading import Reading
from zkv.core.node.replies import Held
from zkv.core.node.room import Room
from zkv.core.node.serving import HELD_LIMIT, Serving
from zkv.core.node.sessions import Record, Session, status_of_unknown
from zkv.core.node.sizes import ENTRY_BYTES, EXPIRY_BYTES, NUMBER_BYTES, size_of, size_of_all
from zkv.core.node.tails import Part
from zkv.core.node.walks import Budget, Walks
from zkv.core.node.watching import Watching
from zkv.core.wire import Malformed

RETURNING: Final = frozenset((wire.INCR, wire.APPEND, wire.GETSET))
"""Writes that return more than a version."""
_FULL: Final = attrgetter("full")
GETS_AND_PUTS: Final = frozenset((wire.GET, wire.PUT))
TURN_BYTES: Final = 4 * 1024 * 1024
"""After so many bytes of requests a batch leaves before its turn ends: none must be too long for the queues."""

MOST_BYTES: Final = ENTRY_BYTES + TUPLE_BYTES + NUMBER_BYTES + EXPIRY_BYTES
"""What an entry takes at most, besides its key and its value."""
TTL_LIMIT_MS: Final = 2**42


class Requests:
    """The client's side of a primary: requests in, replies into `Serving.hold`."""

    def __init__(
        self, local: Local, serving: Serving, reading: Reading, expiring: Expiring, room: Room, watching: Watching
    ) -> None:
        self.local = local
        self.serving = serving
        self.reading = reading
        self.expiring = expiring
        self.room = room
        self.watching = watching
        self.walks = Walks(local)
        self._taken_bytes = 0
        self.parking = Parking(local, serving, self._take_up)
        self._default_ack = wire.ACK_LEVELS[local.settings.ack]

    def _take_up(self, one: Parked) -> None:
        """Look at a request that has waited."""
        try:
            self.handle(one.source, one.header, one.frame, may_wait=False)
        except wire.UNPARSABLE:
            self.local.fired["malformed frames"] += 1  # it was looked at when it came: the client's error still

    def handle(self, source: Address, header: wire.Header, frame: bytes, *, may_wait: bool = True) -> None:
        """One REQUEST. Raises `Malformed`; what is late is dropped before it is looked at any further."""
        (
            number, attempt, batch, watermark, deadline_ms, op, packed_indices, packed_shards, keys, values, ack,
            packed_operands, packed_ttls,
        ) = wire.decode_body(frame)  # fmt: skip
        local = self.local
        indices = None if packed_indices is None else wire.unpack_u16(packed_indices)
        operands = None if packed_operands is None else wire.unpack_u64(packed_operands)
        shards = wire.unpack_u16(packed_shards)
        check_identity(header.sender, number, attempt, batch, watermark, deadline_ms)
        ttls = None if packed_ttls is None else wire.unpack_u64(packed_ttls)
        expiries = None if ttls is None else self._expiries(ttls, len(shards))
        request = Request(
            header.sender, header.map_version, batch, watermark, op, indices, keys, values, operands, expiries
        )
        check_request(local.settings, request, shards)
        if values is not None and len(frame) > local.settings.value_limit_bytes:
            check_sizes(values, local.settings.value_limit_bytes)
        if ack not in (wire.ACK_DEFAULT, wire.ACK_ALL, wire.ACK_PRIMARY):
            raise Malformed(f"there is no acknowledgement level {ack}")
        held = Held(source, number, attempt, shards, deadline_ms, writes=request.writes)
        if local.now_ms > deadline_ms:
            local.fired["late requests"] += 1
            was_answered = held.writes and self._was_answered(header.sender, batch, attempt)
            held.versions = [0] * len(keys)
            held.statuses = bytearray((wire.MAYBE if was_answered else wire.LATE,)) * len(keys)
            local.send_packed(source, wire.REPLY, held.body(local.now_ms))
            return
        if deadline_ms - local.now_ms > 2 * local.settings.timeout_limit_ms:
            raise Malformed(f"the deadline is further away than {local.settings.timeout_limit_ms} ms")
        if op in wire.REPLICA_READS:
            if op == wire.GET_STALE or not self.serving.active.issuperset(shards):
                local.roused = True
                self.reading.read(held, keys, stale=op == wire.GET_STALE)
                local.operations += len(keys)
                return
            request = request._replace(op=wire.GET)
        unserved = not self.serving.active.issuperset(shards) or local.now_ms >= self.serving.covered_until_ms
        if unserved and may_wait and self.parking.park(shards, source, header, frame):
            return
        if op == wire.SCAN:
            if may_wait and self.parking.pace(shards, source, header, frame):
                return
            self.parking.scanned()
        if held.writes and (ack or self._default_ack) == wire.ACK_PRIMARY:
            request = request._replace(early=True)
        if op == wire.WATCH and self._is_served(held, request):
            assert operands is not None
            local.roused = True
            self.watching.ask(held, keys, operands)
            return
        self._execute(held, request)
        local.operations += len(keys)
        if op != wire.SCAN:
            self.parking.served(header.sender)
        self._taken_bytes += len(frame)
        if self._taken_bytes > TURN_BYTES:
            self._taken_bytes = 0
            self.serving.flush()

    def _expiries(self, ttls: list[int], count: int) -> list[int] | None:
        """Times to live as points in cluster time. Raises Malformed."""
        if len(ttls) != count:
            raise Malformed("there is a time to live for each operation, or for none")
        if max(ttls, default=0) > TTL_LIMIT_MS:
            raise Malformed(f"a time to live is at most {TTL_LIMIT_MS} ms")
        cluster_ms = self.local.cluster_ms
        return [cluster_ms + ttl if ttl else 0 for ttl in ttls] if any(ttls) else None

    def _is_served(self, held: Held, request: Request) -> bool:
        """Whether all shards of a request are served here at this moment, by its route."""
        return self.serving.covers(held.shards) and request.routed_by >= self.serving.youngest_reign

    def _lacks_clock(self, request: Request) -> bool:
        """Whether it needs cluster time, and there is none yet: only in the first moments of a node's life. Where
        there are entries that expire anything needs it: who knows what has expired already?"""
        if self.local.cluster_ms:
            return False
        op = request.op
        asks = request.expiries is not None or op == wire.TTL or (isinstance(op, bytes) and wire.TTL in op)
        return asks or self.local.store.expiry.count > 0

    def _execute(self, held: Held, request: Request) -> None:
        """Execute a checked request, or refuse it, operation by operation where need be; queue or hold its reply."""
        local, op = self.local, request.op
        shards = held.shards
        session: Session | None = None
        unknown = wire.OK
        if held.writes:
            session, unknown = self._admit(request.client, request.batch, request.watermark, held.attempt)
        record = session.records.get(request.batch) if session is not None else None
        whole = (
            local.now_ms < self.serving.covered_until_ms
            and request.routed_by >= self.serving.youngest_reign
            and self.serving.active.issuperset(shards)
            and record is None
            and unknown == wire.OK
            and len(self.serving.held) < HELD_LIMIT
            and not (held.writes and (self.serving.is_thin(shards) or self._is_full()))
            and not self._lacks_clock(request)
        )
        if whole:
            chosen: Sequence[int] = range(len(shards))
        else:
            chosen = self._choose(held, request, record, unknown)
            whole = len(chosen) == len(shards)
        waits: dict[Group, int] = {}
        if self.expiring.behind and op not in wire.OF_SHARDS:
            self.expiring.meet(shards, request.keys)
        roomy = True
        if self.room.limited:
            self.room.note(request.keys)
            roomy = not chosen or self._has_room(request)
        if whole and op == wire.PUT and roomy:
            assert request.values is not None
            versions = held.versions = self.serving.next_versions(shards)
            held.values = None
            self._replicate(
                waits, request, request.indices, shards, versions, request.keys, request.values, None,
                request.expiries,
            )  # fmt: skip
        elif whole and op == wire.GET:
            self._show(held, request)
        elif whole and roomy and _is_unordered(request):
            self._gets_and_puts(waits, held, request)
        else:
            local.roused = True
            self._each(waits, held, request, chosen)
        if session is not None and unknown == wire.OK:
            session.record(request.batch).attempt = held.attempt
        if request.early:
            local.fired["early acknowledgements"] += 1
            waits = {}
            self._depend(waits, held.shards, held.seen.items())
        elif self.serving.unsettled and op not in wire.OF_SHARDS and not (
            op == wire.PUT and whole and held.statuses is None
        ):
            self._depend(waits, held.shards, enumerate(held.versions))
        self.serving.hold(held, waits)

    def _is_full(self) -> bool:
        """Whether some backup is too far behind to be sent more."""
        return any(map(_FULL, self.local.outgoing.values()))

    def _admit(self, client: int, batch: int, watermark: int, attempt: int) -> tuple[Session | None, int]:
        """The client's session, and why an operation that it does not know is not executed, or OK (SAFETY 24).

        Of a duplicate nothing is executed: the refusals of the first were definite. Nor is any of it refused for
        certain: the first may have done it, and wait for its commit (SAFETY 25).
        """
        sessions = self.local.sessions
        if not sessions.has_room(client):
            return None, wire.MAYBE  # nobody remembers this refusal, and a duplicate may find room
        session = sessions.open(client, watermark, self.local.now_ms)
        if self._was_answered(client, batch, attempt):
            self.local.fired["duplicate requests"] += 1
            return session, wire.MAYBE
        return session, status_of_unknown(session, batch)

    def _was_answered(self, client: int, batch: int, attempt: int) -> bool:
        """Whether a try is a duplicate of one that was looked at before, or was overtaken by a later one."""
        session = self.local.sessions.find(client)
        record = session.records.get(batch) if session is not None else None
        return record is not None and attempt <= record.attempt

    def _choose(self, held: Held, request: Request, record: Record | None, unknown: int) -> list[int]:
        """Positions that may be executed; the others get their status, or the result of an earlier try."""
        count = len(held.shards)
        held.versions, held.values = [0] * count, [None] * count
        full = {peer for peer, stream in self.local.outgoing.items() if stream.full}
        overtaken = self._overtaken(request, record, count)
        clockless = self._lacks_clock(request)
        if unknown == wire.MAYBE and isinstance(request.op, bytes):
            record = None  # of a duplicate nothing is told: a part of it alone would lose the order of the rest
        executed: set[Any] = set()
        chosen = []
        for position, shard in enumerate(held.shards):
            status = self._refusal(shard, request.routed_by, full, writes=held.writes)
            status = status or (wire.NOT_READY if clockless else wire.OK)
            if status == wire.OK and record is not None:
                # A condition after an operation that is executed afresh, on the same key, is too: they have an order.
                afresh = request.keys[position] in executed
                if self._answer_again(held, request, record, position, afresh=afresh):
                    continue
            if status == wire.OK and position in overtaken:
                self.local.fired["overtaken operations"] += 1
                status = wire.OVERTAKEN
            status = unknown if unknown == wire.MAYBE else status or unknown
            if status == wire.OK:
                chosen.append(position)
                if isinstance(request.op, bytes):
                    executed.add(request.keys[position])
            else:
                held.set_status(position, status)
        return chosen

    def _answer_again(
        self, held: Held, request: Request, record: Record, position: int, *, afresh: bool
    ) -> bool:
        """Give the answer of an earlier try, if it is known (SAFETY 24); `afresh`: unless it was a failed condition."""
        index = request.place(position)
        if (found := record.find(index)) is not None:
            self.local.fired["retries found"] += 1
            held.versions[position], result = found
            assert held.values is not None
            held.values[position] = result
            held.seen[position] = held.versions[position]
            if record.forgetful and request.op_at(position) in RETURNING:
                held.set_status(position, wire.OVERTAKEN)
            return True
        if index in record.misses and not afresh:
            status, held.versions[position], _ = record.misses[index]
            held.seen[position] = held.versions[position]
            if status == wire.NO_ROOM:
                assert held.values is not None
                held.values[position] = self.room.figures
            held.set_status(position, status)
            return True
        return False

    def _overtaken(self, request: Request, record: Record | None, count: int) -> set[int]:
        """Positions before one on the same key that an earlier try has done.

        That try looked at them too, and in their order: they were reads, or conditions that failed. Executed now they
        would see what came after them.
        """
        overtaken: set[int] = set()
        if record is None or isinstance(request.op, int):
            return overtaken
        done_keys = set()
        for position in reversed(range(count)):
            if record.find(request.place(position)) is not None:
                done_keys.add(request.keys[position])
            elif request.keys[position] in done_keys:
                overtaken.add(position)
        return overtaken

    def _refusal(self, shard: int, routed_by: int, full: set[int], *, writes: bool) -> int:
        """Why this node does not execute an operation on `shard` now, or OK. The same for all of one request on the
        shard, so that their order stands."""
        local = self.local
        entries = local.map.shards
        if shard >= len(entries) or entries[shard].primary != local.boot:
            return wire.MOVED
        group = self.serving.group_of[shard]
        if shard not in self.serving.active or group is None or not self.serving.is_covered(shard, group):
            return wire.NOT_READY
        if routed_by < self.serving.reign.get(shard, 0):
            local.fired["old routes refused"] += 1
            return wire.OLD_ROUTE
        if writes and self.serving.is_thin((shard,)):
            return wire.THIN
        if len(self.serving.held) >= HELD_LIMIT or (writes and not full.isdisjoint(group.receivers)):
            return wire.BUSY
        return wire.OK

    def _show(self, held: Held, request: Request) -> list[StoredEntry]:
        """Have the reply bring what is stored under the keys; returns that."""
        tables = map(self.local.store.tables.__getitem__, held.shards)
        held.entries = [table.get(key, ABSENT) for table, key in zip(tables, request.keys, strict=True)]
        held.versions, held.values = versions_of(held.entries), None
        return held.entries

    def _gets_and_puts(self, waits: dict[Group, int], held: Held, request: Request) -> None:
        """Execute gets and puts of different keys, a pipeline's, as columns: first all gets, then all puts."""
        ops, shards, keys, values = request.op, held.shards, request.keys, request.values
        assert isinstance(ops, bytes)
        entries = self._show(held, request)
        if request.early:
            held.seen = {at: held.versions[at] for at, op in enumerate(ops) if op == wire.GET}
        puts = [at for at, op in enumerate(ops) if op == wire.PUT]
        if not puts:
            return
        assert values is not None
        expiries, of_puts = request.expiries, [shards[at] for at in puts]
        versions = self.serving.next_versions(of_puts)
        for at, version in zip(puts, versions, strict=True):
            held.versions[at], entries[at] = version, ABSENT  # a put returns nothing but its version
        self._replicate(
            waits, request, puts if request.indices is None else [request.indices[at] for at in puts], of_puts,
            versions, [keys[at] for at in puts], [values[at] for at in puts], None,
            None if expiries is None else [expiries[at] for at in puts],
        )  # fmt: skip

    def _each(self, waits: dict[Group, int], held: Held, request: Request, chosen: Iterable[int]) -> None:
        """Execute the chosen positions, one after the other: each sees what those before it did."""
        local = self.local
        count, limit_bytes, cluster_ms = len(held.shards), local.settings.value_limit_bytes, local.cluster_ms
        budget = Budget()
        if not held.versions:
            held.versions = [0] * count
        if held.values is None:
            held.values = [None] * count
        given, operands, expiries = request.values, request.operands, request.expiries
        done: list[int] = []
        versions: list[int] = []
        outcomes: list[Outcome] = []
        fresh: dict[Any, Entry] = {}
        grown = 0
        busy: set[int] = set()
        """Shards on which an operation is put off: those behind it are, too, for they have an order."""
        failed: list[tuple[int, int]] = []
        for position in chosen:
            op, shard, key = request.op_at(position), held.shards[position], request.keys[position]
            operand = 0 if operands is None else operands[position]
            if op == wire.SCAN:
                assert given is not None
                if not self.expiring.catch_up():  # what is due and not deleted is neither to be shown nor to be hidden
                    held.values[position] = [[], None, None, None, operand, None]
                    continue
                alone = not self.parking.disturbs(request.client)
                found = self.walks.scan(request.client, shard, key, operand, given[position], budget, alone=alone)
                held.versions[position], held.values[position] = found
                self.serving.depend_on_all(waits, shard)
                continue
            if op == wire.WATCH:  # of a request that is not served here as a whole: nothing is told yet
                held.versions[position] = self.watching.begin(waits, shard, operand)
                continue
            if shard in busy:
                held.set_status(position, wire.BUSY)
                continue
            entry = self._entry(shard, key, fresh)
            version = entry[0]
            until_ms = expiries[position] if expiries else 0
            asked = Asked(given[position] if given else None, operand, until_ms, limit_bytes, cluster_ms)
            outcome = EVALUATIONS[op](*entry, asked)
            if op not in BLIND:
                held.seen[position] = version
            if outcome.changes and self.room.limited:
                growth = _growth(key, entry, outcome)
                outcome = outcome if self.room.fits(grown + growth) or growth <= 0 else self._no_room(growth)
                grown += growth if outcome.changes else 0
            if outcome.changes:
                (version,) = self.serving.next_versions((shard,))
                fresh[key] = version, outcome.value, outcome.expires_ms
                done.append(position)
                versions.append(version)
                outcomes.append(outcome)
            held.versions[position] = version
            held.values[position] = outcome.result
            if outcome.status:
                held.set_status(position, outcome.status)
                if outcome.status in wire.FAILED:
                    failed.append((position, outcome.status))
                else:
                    busy.add(shard)
        if failed:
            self._remember_failures(held, request, failed)
        if done:
            columns = [held.shards[at] for at in done], versions, [request.keys[at] for at in done]
            self._replicate(waits, request, [request.place(at) for at in done], *columns, *_columns_of(outcomes))
        if not any(value is not None for value in held.values):
            held.values = None

    def _entry(self, shard: int, key: Any, fresh: dict[Any, Entry]) -> Entry:
        """What an operation sees; `fresh`: what those before it in the request have made."""
        return fresh.get(key) or opened(self.local.store.tables[shard].get(key, ABSENT))

    def _has_room(self, request: Request) -> bool:
        """Whether a request certainly fits into limited memory, after evictions where there are any."""
        keys, values = request.keys, request.values
        if not request.writes or (values is None and request.expiries is None):
            return True
        self.room.evicts = False
        values, expiries = values or [None] * len(keys), request.expiries or [0] * len(keys)
        if self.room.fits(size_of_all(values) + size_of_all(keys) + MOST_BYTES * len(keys)):
            return True
        return self.room.make(list(map(_size_of_new, keys, values, expiries)), keys)

    def _no_room(self, growth: int) -> Outcome:
        """What becomes of a write that would exceed the limit."""
        if self.room.evicts and growth <= self.room.most_bytes:
            return Outcome(wire.BUSY)  # a bounded number of entries go at once: the next try finds more room
        self.local.refused += 1
        return Outcome(wire.NO_ROOM, result=self.room.figures)

    def _replicate(
        self, waits: dict[Group, int], request: Request, indices: Sequence[int] | None, shards: Sequence[int],
        versions: Sequence[int], keys: Sequence[Any], values: Sequence[Any], results: Sequence[Any] | None,
        expiries: Sequence[int] | None,
    ) -> None:  # fmt: skip
        """Apply, remember and send on what was decided here."""
        client, batch, watermark = request.client, request.batch, request.watermark
        part = Part(client, batch, watermark, indices, shards, versions, keys, values, results, expiries)
        self.local.apply(part)
        self.serving.replicate(waits, part)

    def _remember_failures(self, held: Held, request: Request, failed: Iterable[tuple[int, int]]) -> None:
        """A later try must not do what this one was refused by its condition (SAFETY 24)."""
        local = self.local
        local.sessions.remember(request.client, request.batch, request.watermark, (), (), (), local.now_ms)
        session = local.sessions.find(request.client)
        record = session.records.get(request.batch) if session else None
        if record is not None:
            for position, status in failed:
                version = held.versions[position], held.shards[position]
                record.misses[request.place(position)] = status, *version

    def _depend(self, waits: dict[Group, int], shards: Sequence[int], shown: Iterable[tuple[int, int]]) -> None:
        """Add what the shown versions, by position, depend on: within an epoch, one comparison says whether one is
        committed."""
        bases, group_of = self.serving.bases, self.serving.group_of
        for position, version in shown:
            shard = shards[position]
            base = bases[shard]
            if version > base:
                group = group_of[shard]
                if group is not None and version > base + group.committed:
                    counter = version - base
                    if counter > waits.get(group, 0):
                        waits[group] = counter


def _is_unordered(request: Request) -> bool:
    """Whether these are gets and puts of different keys: then nobody can tell in which order they take effect."""
    ops = request.op
    return isinstance(ops, bytes) and GETS_AND_PUTS.issuperset(ops) and len(set(request.keys)) == len(request.keys)


def _growth(key: Any, entry: Entry, outcome: Outcome) -> int:
    """By how much a new entry in the place of another takes more memory."""
    size = _size_of_new(key, outcome.value, outcome.expires_ms)
    if entry[0]:
        return size - _size_of_new(key, *entry[1:])
    return 0 if outcome.value is None else size


def _size_of_new(key: Any, value: Any, expires_ms: int) -> int:
    """What an entry would take."""
    size = ENTRY_BYTES + size_of(key) + size_of_stored(stored(0, value, expires_ms))
    return size + EXPIRY_BYTES if expires_ms else size


def _columns_of(outcomes: Sequence[Outcome]) -> tuple[list[Any], list[Any] | None, list[int] | None]:
    """Values, results (None: there are none) and expiries (None: nothing expires)."""
    results = [outcome.result for outcome in outcomes]
    expiries = [outcome.expires_ms for outcome in outcomes]
    return (
        [outcome.value for outcome in outcomes],
        results if any(result is not None for result in results) else None,
        expiries if any(expiries) else None,
    )
