"""Executing client requests: first the checks, then how each operation comes to its answer (SAFETY 8, 9, 24, 26).

A request whose shards are all active, leased and routed by a map young enough is executed as a whole: three comparisons
and a few loops in C. Only where one of them fails is each operation looked at by itself.

A request for a shard that is just being reconciled waits here for a moment instead of being refused: a change of the
epoch takes two round trips, and asking again would cost the client as much, and the node more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from msgpack import ExtType

from zkv.core import wire
from zkv.core.node.groups import Group
from zkv.core.node.local import Address, Local
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
TURN_BYTES: Final = 4 * 1024 * 1024
"""After so many bytes of requests a batch leaves before its turn ends: none must be too long for the queues."""

BUSY_MS: Final = 1000.0
"""A node counts as busy for so long after a request: clients that are slowed down must not look like clients gone."""


PARKED_MS: Final = 100.0
"""How long a request waits for a takeover before it is refused."""
PARKED_BYTES: Final = 64 * 1024 * 1024


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
                self.handle(one.source, one.header, one.frame, may_wait=False)
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
        body = wire.decode_body(frame)
        request, attempt, batch, watermark, deadline_ms, op, indices, shards, keys, values, ack = body
        local = self.local
        where = None if indices is None else wire.unpack_u16(indices)
        numbers = wire.unpack_u16(shards)
        check_identity(request, attempt, batch, watermark, deadline_ms)
        check_request(local.settings, op, where, numbers, keys, values)
        if op == wire.PUT and len(frame) > local.settings.value_limit_bytes:
            check_sizes(values, local.settings.value_limit_bytes)
        if ack not in (wire.ACK_DEFAULT, wire.ACK_ALL, wire.ACK_PRIMARY):
            raise Malformed(f"there is no acknowledgement level {ack}")
        held = Held(source, request, attempt, numbers, deadline_ms, writes=op in wire.WRITES)
        if local.now_ms > deadline_ms:
            local.fired["late requests"] += 1
            was_answered = held.writes and self._was_answered(header.sender, batch, attempt)
            held.versions = [0] * len(keys)
            held.statuses = bytearray((wire.MAYBE if was_answered else wire.LATE,)) * len(keys)
            local.send(source, wire.REPLY, held.body(local.now_ms))
            return
        if deadline_ms - local.now_ms > 2 * local.settings.timeout_limit_ms:
            raise Malformed(f"the deadline is further away than {local.settings.timeout_limit_ms} ms")
        if op == wire.GET_ANY:
            if not self.serving.active.issuperset(numbers):
                self.reading.read(held, keys)
                return
            op = wire.GET
        unserved = not self.serving.active.issuperset(numbers) or local.now_ms >= self.serving.covered_until_ms
        if unserved and may_wait and self._park(numbers, source, header, frame):
            return
        early = held.writes and (ack or self._default_ack) == wire.ACK_PRIMARY
        self._execute(held, header, batch, watermark, op, where, keys, values, early)
        local.operations += len(keys)
        local.busy_until_ms = local.now_ms + BUSY_MS
        self._taken_bytes += len(frame)
        if self._taken_bytes > TURN_BYTES:
            self._taken_bytes = 0
            self.serving.flush()

    def _execute(
        self, held: Held, header: wire.Header, batch: int, watermark: int, op: int, indices: Any, keys: Any,
        values: Any, early: bool,
    ) -> None:  # fmt: skip
        """Execute a checked request, or refuse it, operation by operation where need be; queue or hold its reply.

        `early`: the reply does not wait for the commit of what it wrote itself (SAFETY 27).
        """
        local = self.local
        shards = held.shards
        count = len(keys)
        session: Session | None = None
        unknown = wire.OK
        if op in wire.WRITES:
            session, unknown = self._admit(header.sender, batch, watermark, held.attempt)
        record = session.records.get(batch) if session is not None else None
        whole = (
            local.now_ms < self.serving.covered_until_ms
            and header.map_version >= self.serving.youngest_reign
            and self.serving.active.issuperset(shards)
            and record is None
            and unknown == wire.OK
            and len(self.serving.held) < HELD_LIMIT
            and not (held.writes and self.serving.is_thin(shards))
            and not any(stream.full for stream in local.outgoing.values())
        )
        if whole:
            chosen: Sequence[int] | None = None
        else:
            chosen = self._choose(held, header, record, unknown, indices, op)
            if len(chosen) == count:
                chosen = None
        waits: dict[Group, int] = {}
        if op == wire.PUT and chosen is None:
            held.versions = self._put(waits, header.sender, batch, watermark, indices, shards, keys, values)
        elif op == wire.GET and chosen is None:
            entries = [
                table.get(key, ABSENT)
                for table, key in zip(map(local.store.tables.__getitem__, shards), keys, strict=True)
            ]
            held.versions = [entry[0] for entry in entries]
            held.values = [entry[1] for entry in entries]
        else:
            self._each(waits, held, header.sender, batch, watermark, op, indices, keys, values, chosen)
        if session is not None and unknown == wire.OK:
            session.record(batch).attempt = held.attempt
        if early:
            local.fired["early acknowledgements"] += 1
            waits = {}
            if held.statuses is not None:
                self._depend(waits, held, [at for at, status in enumerate(held.statuses) if status == wire.MISSING])
        elif self.serving.unsettled and (op != wire.PUT or chosen is not None):
            self._depend(waits, held, range(len(shards)))
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

    def _choose(
        self, held: Held, header: wire.Header, record: Record | None, unknown: int, indices: Any, op: int
    ) -> list[int]:
        """Positions that may be executed; the others get their status, or the result of an earlier try."""
        held.versions = [0] * len(held.shards)
        full = {peer for peer, stream in self.local.outgoing.items() if stream.full}
        chosen = []
        for position, shard in enumerate(held.shards):
            status = self._refusal(shard, header.map_version, full, op)
            if status == wire.OK and record is not None:
                index = position if indices is None else indices[position]
                if (found := record.version(index)) is not None:
                    self.local.fired["retries found"] += 1
                    held.versions[position] = found
                    continue
                if index in record.misses:
                    held.versions[position], _ = record.misses[index]
                    held.set_status(position, wire.MISSING)
                    continue
            status = unknown if unknown == wire.MAYBE else status or unknown
            if status == wire.OK:
                chosen.append(position)
            else:
                held.set_status(position, status)
        return chosen

    def _refusal(self, shard: int, routed_by: int, full: set[int], op: int) -> int:
        """Why this node does not execute an operation on `shard` now, or OK."""
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
        if op in wire.WRITES and self.serving.is_thin((shard,)):
            return wire.THIN
        if len(self.serving.held) >= HELD_LIMIT or (op in wire.WRITES and not full.isdisjoint(group.receivers)):
            return wire.BUSY
        return wire.OK

    def _put(
        self, waits: dict[Group, int], client: int, batch: int, watermark: int, indices: Any, shards: Sequence[int],
        keys: Sequence[Any], values: Sequence[Any],
    ) -> list[int]:  # fmt: skip
        """Make new versions for puts, apply, remember and replicate them."""
        local = self.local
        versions = self.serving.next_versions(shards)
        local.store.apply(shards, keys, versions, values)
        local.sessions.remember(client, batch, watermark, indices, shards, versions, local.now_ms)
        self.serving.replicate(waits, Part(client, batch, watermark, indices, shards, versions, keys, values))
        return versions

    def _each(
        self, waits: dict[Group, int], held: Held, client: int, batch: int, watermark: int, op: int, indices: Any,
        keys: Sequence[Any], values: Sequence[Any], chosen: Sequence[int] | None,
    ) -> None:  # fmt: skip
        """Execute what is not a whole batch of puts or gets: the chosen positions, one after the other."""
        tables = self.local.store.tables
        if chosen is None:
            chosen = range(len(keys))
        if not held.versions:
            held.versions = [0] * len(keys)
        if op == wire.DELETE and len({keys[position] for position in chosen}) < len(chosen):
            # A key named twice: the second delete has to see the first.
            for position in chosen:
                self._each(waits, held, client, batch, watermark, op, indices, keys, values, (position,))
            return
        if op in (wire.GET, wire.EXISTS):
            held.values = [None] * len(keys)
            for position in chosen:
                version, value = tables[held.shards[position]].get(keys[position], ABSENT)
                held.versions[position] = version
                held.values[position] = value if op == wire.GET else value is not None
            return
        done = [position for position in chosen if op == wire.PUT or self._exists(held, position, keys[position])]
        if op == wire.DELETE:
            self._remember_misses(held, client, batch, watermark, indices, set(chosen) - set(done))
        if not done:
            return
        where = [position if indices is None else indices[position] for position in done]
        shards = [held.shards[position] for position in done]
        chosen_keys = [keys[position] for position in done]
        chosen_values = [values[position] if op == wire.PUT else None for position in done]
        versions = self._put(waits, client, batch, watermark, where, shards, chosen_keys, chosen_values)
        if op == wire.DELETE:
            self.local.store.bury(shards, chosen_keys, versions, self.local.now_ms)
        for position, version in zip(done, versions, strict=True):
            held.versions[position] = version

    def _exists(self, held: Held, position: int, key: Any) -> bool:
        """Whether there is something to delete; if not, the miss becomes the answer."""
        version, value = self.local.store.tables[held.shards[position]].get(key, ABSENT)
        if value is None:
            held.set_status(position, wire.MISSING)
            held.versions[position] = version
        return value is not None

    def _remember_misses(
        self, held: Held, client: int, batch: int, watermark: int, indices: Any, positions: Iterable[int]
    ) -> None:
        """A later try of the same delete must not delete what an earlier one found missing (SAFETY 24)."""
        local = self.local
        local.sessions.remember(client, batch, watermark, (), (), (), local.now_ms)
        session = local.sessions.find(client)
        record = session.records.get(batch) if session else None
        if record is not None:
            for position in positions:
                index = position if indices is None else indices[position]
                record.misses[index] = held.versions[position], held.shards[position]

    def _depend(self, waits: dict[Group, int], held: Held, positions: Iterable[int]) -> None:
        """Add what the shown versions depend on: within an epoch, one comparison says whether one is committed."""
        bases, group_of = self.serving.bases, self.serving.group_of
        for position in positions:
            shard, version = held.shards[position], held.versions[position]
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


def check_request(settings: ClusterSettings, op: Any, indices: Any, shards: list[int], keys: Any, values: Any) -> None:
    """Raise `Malformed` for what could harm others. Costs a C-level pass over the keys, not a look at each."""
    count = len(shards)
    if type(keys) is not list or (op == wire.PUT and type(values) is not list):
        # Other sequences could be applied here, and then not be split by replica set.
        raise Malformed("keys and values are lists")
    if not 0 < count <= OPS_LIMIT or len(keys) != count or (indices is not None and len(indices) != count):
        raise Malformed("columns of different length, or none, or too many")
    if op not in wire.OPERATIONS:
        raise Malformed(f"operation {op} is unknown")
    if not set(map(type, keys)) <= {str, bytes} or _longest(keys, settings.key_limit_bytes) > settings.key_limit_bytes:
        raise Malformed(f"a key is neither str nor bytes, or longer than {settings.key_limit_bytes} bytes")
    if max(shards) >= settings.shards or shard_of(keys[0], settings.shards) != shards[0]:
        # One key tells whether the client hashes as we do; all would cost more than executing the request.
        raise Malformed("the first key does not belong to the shard named for it")
    if op == wire.PUT:
        types = set(map(type, values))
        if len(values) != count or type(None) in types or list in types or dict in types:
            raise Malformed("values are bytes, str, numbers, bool or extension types, one for each key")


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
