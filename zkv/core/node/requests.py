"""Executing client requests: first the checks, then how each operation comes to its answer (SAFETY 8, 9, 24, 26).

A request of puts or gets whose shards are all active, leased and routed by a map young enough is executed as a whole:
three comparisons and a few loops in C. Only where one of them fails, or for other operations, is each looked at by
itself (`evaluate` says what it does). Operations of one request take effect in their order.

A request for a shard that is just being reconciled waits here for a moment instead of being refused: a change of the
epoch takes two round trips, and asking again would cost the client as much, and the node more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from msgpack import ExtType

from zkv.core import wire
from zkv.core.node.evaluate import BLIND, EVALUATIONS
from zkv.core.node.groups import Group
from zkv.core.node.local import Address, Local
from zkv.core.node.pages import page_of_keys
from zkv.core.node.reading import Reading
from zkv.core.node.replies import Held
from zkv.core.node.serving import HELD_LIMIT, Serving
from zkv.core.node.sessions import Record, Session, status_of_unknown
from zkv.core.node.store import ABSENT
from zkv.core.node.tails import Part
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import shard_of
from zkv.core.wire import Malformed

OPS_LIMIT: Final = 16_384
"""Operations of one request."""
RETURNING: Final = frozenset((wire.INCR, wire.APPEND, wire.GETSET))
"""Writes that return more than a version."""
TURN_BYTES: Final = 4 * 1024 * 1024
"""After so many bytes of requests a batch leaves before its turn ends: none must be too long for the queues."""

PAGES_LIMIT: Final = 64
"""Pages of keys of one request: each looks at a whole shard."""
BUSY_MS: Final = 1000.0
"""A node counts as busy for so long after a request: clients that are slowed down must not look like clients gone."""


PARKED_MS: Final = 100.0
"""How long a request waits for a takeover before it is refused."""
PARKED_BYTES: Final = 64 * 1024 * 1024


class Request(NamedTuple):
    """The columns of one request, besides those that its reply keeps."""

    client: int
    routed_by: int
    """Version of the map that the client chose this node by."""
    batch: int
    watermark: int
    op: int | bytes
    """One for all operations, or one for each."""
    indices: list[int] | None
    """Place of each operation in its batch; None: 0…n-1."""
    keys: list[Any]
    values: list[Any] | None
    operands: list[int] | None
    """What conditions compare versions with; cursors."""
    early: bool = False
    """Whether the reply does not wait for the commit of what it wrote itself (SAFETY 27)."""

    @property
    def writes(self) -> bool:
        """Whether some operation may change something."""
        return self.op in wire.WRITES if isinstance(self.op, int) else not wire.WRITES.isdisjoint(self.op)

    def place(self, position: int) -> int:
        """Place of an operation in its batch."""
        return position if self.indices is None else self.indices[position]

    def op_at(self, position: int) -> int:
        """The operation at a position."""
        return self.op if isinstance(self.op, int) else self.op[position]


class Parked(NamedTuple):
    """A request that waits for a takeover."""

    until_ms: float
    shards: Sequence[int]
    source: Address
    header: wire.Header
    frame: bytes


class Requests:
    """The client's side of a primary: requests in, replies into `Serving.hold`."""

    def __init__(self, local: Local, serving: Serving, reading: Reading) -> None:
        self.local = local
        self.serving = serving
        self.reading = reading
        self._taken_bytes = 0
        self._parked: deque[Parked] = deque()
        self._parked_bytes = 0
        self._default_ack = wire.ACK_LEVELS[local.settings.ack]

    def retry_parked(self, wake: Callable[[float], None]) -> None:
        """End of a turn: take up the requests whose takeover is over, or has taken too long."""
        if not self._parked:
            return
        parked, self._parked = self._parked, deque()
        for one in parked:
            if self.local.now_ms < one.until_ms and self.serving.is_settling(one.shards):
                self._parked.append(one)
            else:
                self._parked_bytes -= len(one.frame)
                try:
                    self.handle(one.source, one.header, one.frame, may_wait=False)
                except wire.UNPARSABLE:
                    self.local.fired["malformed frames"] += 1  # it was looked at when it came: the client's error still
        if self._parked:
            wake(self._parked[0].until_ms)

    def _park(self, shards: Sequence[int], source: Address, header: wire.Header, frame: bytes) -> bool:
        """Let a request wait, if that may help it; False if it is to be looked at now."""
        if self._parked_bytes + len(frame) > PARKED_BYTES or not self.serving.is_settling(shards):
            return False
        self._parked.append(Parked(self.local.now_ms + PARKED_MS, shards, source, header, frame))
        self._parked_bytes += len(frame)
        self.local.fired["requests parked"] += 1
        return True

    def handle(self, source: Address, header: wire.Header, frame: bytes, *, may_wait: bool = True) -> None:
        """One REQUEST. Raises `Malformed`; what is late is dropped before it is looked at any further."""
        (
            number, attempt, batch, watermark, deadline_ms, op, packed_indices, packed_shards, keys, values, ack,
            packed_operands,
        ) = wire.decode_body(frame)  # fmt: skip
        local = self.local
        indices = None if packed_indices is None else wire.unpack_u16(packed_indices)
        operands = None if packed_operands is None else wire.unpack_u64(packed_operands)
        shards = wire.unpack_u16(packed_shards)
        check_identity(number, attempt, batch, watermark, deadline_ms)
        request = Request(header.sender, header.map_version, batch, watermark, op, indices, keys, values, operands)
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
            local.send(source, wire.REPLY, held.body(local.now_ms))
            return
        if deadline_ms - local.now_ms > 2 * local.settings.timeout_limit_ms:
            raise Malformed(f"the deadline is further away than {local.settings.timeout_limit_ms} ms")
        if op in wire.REPLICA_READS:
            if op == wire.GET_STALE or not self.serving.active.issuperset(shards):
                self.reading.read(held, keys, stale=op == wire.GET_STALE)
                local.operations += len(keys)
                return
            request = request._replace(op=wire.GET)
        unserved = not self.serving.active.issuperset(shards) or local.now_ms >= self.serving.covered_until_ms
        if unserved and may_wait and self._park(shards, source, header, frame):
            return
        if held.writes and (ack or self._default_ack) == wire.ACK_PRIMARY:
            request = request._replace(early=True)
        self._execute(held, request)
        local.operations += len(keys)
        local.busy_until_ms = local.now_ms + BUSY_MS
        self._taken_bytes += len(frame)
        if self._taken_bytes > TURN_BYTES:
            self._taken_bytes = 0
            self.serving.flush()

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
            and not (held.writes and self.serving.is_thin(shards))
            and not any(stream.full for stream in local.outgoing.values())
        )
        if whole:
            chosen: Sequence[int] = range(len(shards))
        else:
            chosen = self._choose(held, request, record, unknown)
            whole = len(chosen) == len(shards)
        waits: dict[Group, int] = {}
        if whole and op == wire.PUT:
            assert request.values is not None
            versions = held.versions = self.serving.next_versions(shards)
            held.values = None
            local.store.apply(shards, request.keys, versions, request.values)
            self._replicate(waits, request, request.indices, shards, versions, request.keys, request.values, None)
        elif whole and op == wire.GET:
            tables = map(local.store.tables.__getitem__, shards)
            entries = [table.get(key, ABSENT) for table, key in zip(tables, request.keys, strict=True)]
            held.versions = [entry[0] for entry in entries]
            held.values = [entry[1] for entry in entries]
        else:
            self._each(waits, held, request, chosen)
        if session is not None and unknown == wire.OK:
            session.record(request.batch).attempt = held.attempt
        if request.early:
            local.fired["early acknowledgements"] += 1
            waits = {}
            self._depend(waits, held.shards, held.seen.items())
        elif self.serving.unsettled and (op != wire.PUT or not whole):
            self._depend(waits, held.shards, enumerate(held.versions))
        self.serving.hold(held, waits)

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
        if unknown == wire.MAYBE and isinstance(request.op, bytes):
            record = None  # of a duplicate nothing is told: a part of it alone would lose the order of the rest
        executed: set[Any] = set()
        chosen = []
        for position, shard in enumerate(held.shards):
            status = self._refusal(shard, request.routed_by, full, writes=held.writes)
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

    def _each(self, waits: dict[Group, int], held: Held, request: Request, chosen: Iterable[int]) -> None:
        """Execute the chosen positions, one after the other: each sees what those before it did."""
        local, store = self.local, self.local.store
        count, limit_bytes = len(held.shards), local.settings.value_limit_bytes
        if not held.versions:
            held.versions = [0] * count
        if held.values is None:
            held.values = [None] * count
        given, operands = request.values, request.operands
        done: list[int] = []
        versions: list[int] = []
        values: list[Any] = []
        results: list[Any] = []
        failed: list[tuple[int, int]] = []
        for position in chosen:
            op, shard, key = request.op_at(position), held.shards[position], request.keys[position]
            operand = 0 if operands is None else operands[position]
            if op == wire.KEYS:
                held.versions[position] = store.positions[shard]
                held.values[position] = page_of_keys(store.tables[shard], key, operand)
                continue
            version, value = store.tables[shard].get(key, ABSENT)
            outcome = EVALUATIONS[op](version, value, given[position] if given else None, operand, limit_bytes)
            if op not in BLIND:
                held.seen[position] = version
            if outcome.changes:
                (version,) = self.serving.next_versions((shard,))
                store.apply((shard,), (key,), (version,), (outcome.value,))
                if outcome.value is None:
                    store.bury((shard,), (key,), (version,), local.now_ms)
                done.append(position)
                versions.append(version)
                values.append(outcome.value)
                results.append(outcome.result)
            held.versions[position] = version
            if outcome.status:
                held.set_status(position, outcome.status)
                failed.append((position, outcome.status))
            else:
                held.values[position] = outcome.result
        if failed:
            self._remember_failures(held, request, failed)
        if done:
            columns = [held.shards[at] for at in done], versions, [request.keys[at] for at in done], values
            kept = results if any(result is not None for result in results) else None
            self._replicate(waits, request, [request.place(at) for at in done], *columns, kept)
        if not any(value is not None for value in held.values):
            held.values = None

    def _replicate(
        self, waits: dict[Group, int], request: Request, indices: Sequence[int] | None, shards: Sequence[int],
        versions: Sequence[int], keys: Sequence[Any], values: Sequence[Any], results: Sequence[Any] | None,
    ) -> None:  # fmt: skip
        """Remember and send on what was applied here."""
        client, batch, watermark = request.client, request.batch, request.watermark
        self.local.sessions.remember(
            client, batch, watermark, indices, shards, versions, self.local.now_ms, results
        )
        part = Part(client, batch, watermark, indices, shards, versions, keys, values, results)
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


def check_identity(request: Any, attempt: Any, batch: Any, watermark: Any, deadline_ms: Any) -> None:
    """Raise `Malformed` unless these are numbers that every replica can send on and every reply can return."""
    for number in (request, attempt, batch, watermark):
        if type(number) is not int or not 0 <= number < 2**63:
            raise Malformed("request, attempt, batch and watermark are numbers from 0 to 2**63 - 1")
    if type(deadline_ms) not in (int, float) or deadline_ms != deadline_ms:
        raise Malformed("the deadline is no number")


def check_request(settings: ClusterSettings, request: Request, shards: list[int]) -> None:
    """Raise `Malformed` for what could harm others. Costs a C-level pass over the keys, not a look at each."""
    count = len(shards)
    op, keys, values, operands = request.op, request.keys, request.values, request.operands
    if type(keys) is not list or (values is not None and type(values) is not list):
        # Other sequences could be applied here, and then not be split by replica set.
        raise Malformed("keys and values are lists")
    columns: tuple[Any, ...] = (keys, request.indices, values, operands, op if type(op) is bytes else None)
    if not 0 < count <= OPS_LIMIT or any(column is not None and len(column) != count for column in columns):
        raise Malformed("columns of different length, or none, or too many")
    kinds = {op} if type(op) is int else set(op) if type(op) is bytes else {None}
    if not kinds <= (wire.MIXABLE if type(op) is bytes else wire.OPERATIONS):
        raise Malformed(f"operation {op!r} is unknown, or does not go with others")
    if op == wire.KEYS and count > PAGES_LIMIT:
        raise Malformed(f"at most {PAGES_LIMIT} pages of keys are made for one request")
    if not set(map(type, keys)) <= {str, bytes} or _longest(keys, settings.key_limit_bytes) > settings.key_limit_bytes:
        raise Malformed(f"a key is neither str nor bytes, or longer than {settings.key_limit_bytes} bytes")
    if max(shards) >= settings.shards or (op != wire.KEYS and shard_of(keys[0], settings.shards) != shards[0]):
        # One key tells whether the client hashes as we do; all would cost more than executing the request.
        raise Malformed("the first key does not belong to the shard named for it")
    if not kinds.isdisjoint(wire.TAKES_VALUE):
        types = set(map(type, values or ()))
        if values is None or list in types or dict in types:
            raise Malformed("values are bytes, str, numbers, bool or extension types, one for each key")
        if type(None) in types and any(
            value is None and request.op_at(position) in wire.TAKES_VALUE for position, value in enumerate(values)
        ):
            raise Malformed("an operation lacks its value")


def check_sizes(values: Sequence[Any], limit_bytes: int) -> None:
    """Raise `Malformed` for a value above the limit. Called only where the whole request is longer than one may be."""
    for value in values:
        if isinstance(value, str):
            size = len(value.encode())
        elif isinstance(value, bytes):
            size = len(value)
        else:
            size = len(value.data) if isinstance(value, ExtType) else 0
        if size > limit_bytes:
            raise Malformed(f"a value has {size} bytes, this cluster takes at most {limit_bytes}")


def _longest(keys: Sequence[str | bytes], limit_bytes: int) -> int:
    """Bytes of the longest key; its characters, at most four bytes each, where they settle the question."""
    longest = max(map(len, keys))
    if 4 * longest <= limit_bytes or longest > limit_bytes:
        return longest
    return max(len(key.encode()) if isinstance(key, str) else len(key) for key in keys)
