"""What the clients of the soak saw: each operation on each key with its times, kept in files for the checks at the end.

It is written down where a call comes out of the connection, below everything that a client offers, so that pages of a
scan, the deletes of a flush and the steps of a pipeline are seen like any other operation; what the client makes of it
is compared by whoever asked. Rows are the fields of `zkv.sim.history.Operation`. Those of a *group*, the keys of one
kind and one generation (`plain-0007-…`), lie in one directory: they are checked together, and the run takes no more
memory than one group.

Times are of the monotonic clock, which the processes of one machine share, in milliseconds since the run began.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgpack

from zkv import AsyncClient, Client
from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.net.aio import AsyncConnection
from zkv.net.client import Connection, connected
from zkv.sim.history import NOT_DONE, OK, UNKNOWN
from zkv.values import TYPED

KINDS: Final = {
    wire.DELETE: "delete", wire.DELETE_IF_VERSION: "delete", wire.INCR: "incr", wire.APPEND: "append",
    wire.TOUCH: "touch",
}  # fmt: skip
NAMES: Final = {
    wire.GET: "get", wire.PUT: "put", wire.DELETE: "delete", wire.EXISTS: "exists", wire.GET_ANY: "get any",
    wire.GET_STALE: "get stale", wire.PUT_IF_ABSENT: "put if absent", wire.PUT_IF_PRESENT: "put if present",
    wire.PUT_IF_VERSION: "put if version", wire.DELETE_IF_VERSION: "delete if version", wire.INCR: "incr",
    wire.APPEND: "append", wire.GETSET: "getset", wire.TOUCH: "touch", wire.TTL: "ttl",
}  # fmt: skip
KEY_KINDS: Final = ("plain", "raw", "ttl", "count", "log")
"""How the names of keys begin; "raw" ones are bytes. `zkv.sim.history` knows the last three."""
FLUSH_BYTES: Final = 32 * 1024
"""Rows of a group that are kept in memory."""
KNOWN_LIMIT: Final = 20_000
PADS: Final = (0, 8, 60, 900)
BIG: Final = "big"
"""Names of values that are large begin so."""
BIG_BYTES: Final = 3000


class Answers(NamedTuple):
    """What a call came to."""

    versions: Sequence[int]
    values: Sequence[Any]
    statuses: Sequence[int]
    failures: frozenset[int]
    """Places of operations that have no answer."""


last_answers: ContextVar[Answers] = ContextVar("last_answers")
"""What came back last in this thread, or task."""


class Row(NamedTuple):
    """One operation."""

    client: str
    kind: str
    key: str
    start_ms: float
    value: Any
    end_ms: float | None
    """None: it may yet take effect."""
    outcome: str
    version: int | None
    existed: bool
    stale: bool
    saw: list[Any]
    """Empty: nothing is said."""
    result: Any
    ttl_ms: float
    there: bool = False
    """Of a read: only that a value is there is known, and its version."""
    left_ms: float | None = None
    """Of a read of the time to live: what is left of it; None: nothing is said."""


class EventRow(NamedTuple):
    """What a watch told of."""

    stretch: str
    """Name of the part of the watch that it belongs to."""
    key: str
    version: int
    kind: int
    value: Any
    end_ms: float


def value_of(name: str) -> Any:
    """The value that is stored under that name: of several types and sizes, and all of it follows from the name."""
    digest = zlib.crc32(name.encode())
    pad = BIG_BYTES if name.startswith(BIG) else PADS[digest % len(PADS)]
    filling = "x" * pad
    form = digest >> 8 & 3
    if form == 0:
        return f"{name}:{filling}"
    if form == 1:
        return f"{name}:{filling}".encode()
    return [name, filling] if form == 2 else {"name": name, "filling": filling}


def name_of(value: Any) -> str:
    """The inverse; a value that is not wholly as it was put has a name that nobody gave."""
    try:
        if isinstance(value, str):
            name = value.partition(":")[0]
        elif isinstance(value, bytes):
            name = value.partition(b":")[0].decode()
        else:
            name = value[0] if isinstance(value, list) else value["name"]
        whole = value_of(name) == value
    except (TypeError, ValueError, LookupError, AttributeError):
        whole = False
    return name if whole else f"damaged: {value!r:.80}"


def group_of(key: str) -> str:
    """`plain-0007-12` -> `plain-0007`; "" for keys that are none of the soak's."""
    group = key.rpartition("-")[0]
    return group if group.partition("-")[0] in KEY_KINDS else ""


def text_of(key: str | bytes) -> str:
    """A key as the records have it."""
    return key.decode() if isinstance(key, bytes) else key


def shown(key: str, value: Any) -> Any:
    """What a stored value stands for in the history."""
    if value is None or key.startswith(("count", "log")):
        return value
    return name_of(value)


class Recorder:
    """The records of one process. Safe to share between threads."""

    def __init__(self, directory: Path, client: str, began_ns: int) -> None:
        self.client = client
        self.directory = directory
        self.began_ns = began_ns
        self.counts: Counter[str] = Counter()
        """Operations by kind."""
        self.acks: set[int] = set()
        """Hundredths of a second in which a write was acknowledged."""
        self.known: dict[str, int] = {}
        """Versions of keys, as they were seen last."""
        self.unseen: set[str] = set()
        """Groups that are not recorded any more: they are being cleared away."""
        self._lock = threading.Lock()
        self._buffers: dict[str, bytearray] = defaultdict(bytearray)

    def now_ms(self) -> float:
        """Time since the run began."""
        return (time.monotonic_ns() - self.began_ns) / 1e6

    def note(self, what: str, **fields: Any) -> None:
        """Something that belongs to no single group."""
        self._write("", {"what": what, "client": self.client, **fields})

    def violation(self, text: str) -> None:
        """A promise was broken."""
        self.note("violation", text=text, at_ms=self.now_ms())

    def event(self, row: EventRow) -> None:
        """A watch was told of something."""
        if group := group_of(row.key):
            self._write(group, row)

    def take(self, call: Call, start_ms: float) -> None:
        """A call has come to its end."""
        versions, values, statuses, _ = call.columns()
        last_answers.set(Answers(versions, values, statuses, frozenset(call.failures)))
        end_ms = self.now_ms()
        if call.op == wire.SCAN:
            self._take_pages(call, start_ms, end_ms)
        elif call.op != wire.WATCH:
            self._take_operations(call, start_ms, end_ms)

    def gave_up(self, call: Call, start_ms: float) -> None:
        """A call ended with an exception: nothing is known of it."""
        for place, key in enumerate(call.keys):
            op = call.op if isinstance(call.op, int) else call.op[place]
            if op in wire.WRITES:
                row = self._row(op, text_of(key), start_ms, None if call.values is None else call.values[place])
                self.row(row._replace(ttl_ms=float(call.ttls[place]) if call.ttls else 0.0))

    def read(self, key: str, start_ms: float, end_ms: float, version: int, value: Any) -> None:
        """An entry that was seen somewhere."""
        seen = shown(key, value)
        self.row(Row(self.client, "get", key, start_ms, seen, end_ms, OK, version, True, False, [], None, 0.0))

    def row(self, row: Row) -> None:
        """Keep one."""
        group = group_of(row.key)
        if group and group not in self.unseen:
            self._write(group, row)

    def close(self) -> None:
        """Write out what is left."""
        with self._lock:
            for group in list(self._buffers):
                self._flush(group)

    # --- calls -----------------------------------------------------------------------------------------------------

    def _take_operations(self, call: Call, start_ms: float, end_ms: float) -> None:
        versions, values, statuses, _ = call.columns()
        newest: dict[str, int] = {}
        for place, raw in enumerate(call.keys):
            key = text_of(raw)
            op = call.op if isinstance(call.op, int) else call.op[place]
            row = self._row(op, key, start_ms, None if call.values is None else call.values[place])
            if call.ttls is not None:
                row = row._replace(ttl_ms=float(call.ttls[place]))
            failure = call.failures.get(place)
            if failure is not None:
                ended = row.kind == "get" or not failure.unknown
                outcome = UNKNOWN if failure.unknown else NOT_DONE
                self.row(row._replace(end_ms=end_ms if ended else None, outcome=outcome))
                self.counts["failed"] += 1
                continue
            self.counts[NAMES[op]] += 1
            if call.ack == wire.ACK_PRIMARY and op in wire.WRITES:
                self.row(row)  # it may yet be lost, with its primary (SAFETY 27)
                continue
            row = row._replace(end_ms=end_ms, version=versions[place], existed=statuses[place] == wire.OK)
            operand = 0 if call.operands is None else call.operands[place]
            row = self._answered(row, op, operand, statuses[place], values[place])
            self.row(row)
            if row.outcome != OK:
                continue
            self._remember(key, versions[place])
            writes = row.kind != "get" and row.existed
            if writes:
                self.acks.add(int(end_ms / 10))
            if isinstance(call.op, bytes) and versions[place]:
                # Operations of one call on one key take effect in their order.
                before, newest[key] = newest.get(key, 0), versions[place]
                if versions[place] < before or (versions[place] == before and writes):
                    self.violation(f"operations of one call went out of order: {row}")

    def _row(self, op: int, key: str, start_ms: float, value: Any) -> Row:
        """An operation of which nothing is known but that it was asked for."""
        kind = KINDS.get(op, "put" if op in wire.TAKES_VALUE else "get")
        word: Any = None
        if kind == "put":
            word = name_of(TYPED.decode(value))
        elif kind == "append":
            word = value.strip()
        elif kind == "incr":
            word = value
        return Row(self.client, kind, key, start_ms, word, None, UNKNOWN, None, True, False, [], None, 0.0)

    def _answered(self, row: Row, op: int, operand: int, status: int, value: Any) -> Row:
        """With what an answer says besides its version."""
        row = row._replace(outcome=OK, stale=op == wire.GET_STALE)
        if status == wire.NO_ROOM:
            self.counts["refused for want of memory"] += 1
            return row._replace(outcome=NOT_DONE)
        if status not in (wire.OK, wire.UNMET):
            self.violation(f"an answer with status {status}: {row}")
        self.counts["conditions that failed"] += status == wire.UNMET
        if op == wire.TTL:
            return row._replace(there=value is not None, left_ms=value)
        if op == wire.EXISTS:
            if type(value) is not bool:
                self.violation(f"neither there nor not there: {row}")
            return row._replace(there=bool(value))
        if row.kind == "get":
            return row._replace(value=shown(row.key, TYPED.decode(value)))
        if row.kind in ("incr", "append"):
            if value is None and row.existed:
                self.violation(f"the result of a write is gone: {row}")
            return row._replace(result=value)
        if op == wire.GETSET:
            return row._replace(saw=[shown(row.key, TYPED.decode(value))])
        if op == wire.PUT_IF_ABSENT:
            return row._replace(saw=[None])
        if op in (wire.PUT_IF_VERSION, wire.DELETE_IF_VERSION):
            if op == wire.PUT_IF_VERSION and not row.existed and row.version == operand and operand:
                self.violation(f"a condition failed although it held: {row}")
            return row._replace(saw=[operand])
        return row

    def _take_pages(self, call: Call, start_ms: float, end_ms: float) -> None:
        """Entries of a scan are reads like any other. (Those of a dump are read from its file.)"""
        mode = call.values[0] & (1 << wire.SCAN_MODE_BITS) - 1 if call.values else wire.SCAN_KEYS
        if mode != wire.SCAN_ENTRIES or call.failures:
            return
        for page in call.columns()[1]:
            keys, versions, values, _, _, _ = page
            if not keys:
                continue
            for key, version, value in zip(keys, wire.unpack_u64(versions), values, strict=True):
                self.counts["entries scanned"] += 1
                self.read(text_of(key), start_ms, end_ms, version, TYPED.decode(value))

    def _remember(self, key: str, version: int) -> None:
        if len(self.known) > KNOWN_LIMIT:
            self.known.clear()
        self.known[key] = version

    # --- files -----------------------------------------------------------------------------------------------------

    def _write(self, group: str, content: Any) -> None:
        packed = msgpack.packb(content)
        with self._lock:
            buffer = self._buffers[group]
            buffer += packed
            if len(buffer) >= FLUSH_BYTES or not group:
                self._flush(group)

    def _flush(self, group: str) -> None:
        directory = self.directory / (group or "notes")
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / self.client).open("ab") as file:
            file.write(self._buffers.pop(group))


def read_records(directory: Path) -> Iterable[Any]:
    """What all processes wrote about one group."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        with path.open("rb") as file:
            yield from msgpack.Unpacker(file, max_buffer_size=0, strict_map_key=False)


# --- clients that write down what they see ------------------------------------------------------------------------


class RecordingConnection(Connection):
    """Writes down each call."""

    recorder: Recorder

    def perform(self, call: Call) -> None:
        """Run one call to its end."""
        start_ms = self.recorder.now_ms()
        try:
            super().perform(call)
        except BaseException:
            self.recorder.gave_up(call, start_ms)
            raise
        self.recorder.take(call, start_ms)


class RecordingClient(Client):
    """A client whose every call is written down."""

    def __init__(self, manager: str, recorder: Recorder, **options: Any) -> None:
        self.recorder = recorder
        super().__init__(manager, **options)

    def _connect(self) -> Connection:
        connection = connected(RecordingConnection, self.manager, **self._connection_options())
        connection.recorder = self.recorder
        return connection


class RecordingAsyncConnection(AsyncConnection):
    """Writes down each call."""

    recorder: Recorder

    async def perform(self, call: Call) -> None:
        """Run one call to its end."""
        start_ms = self.recorder.now_ms()
        try:
            await super().perform(call)
        except BaseException:
            self.recorder.gave_up(call, start_ms)
            raise
        self.recorder.take(call, start_ms)


class RecordingAsyncClient(AsyncClient):
    """A client whose every call is written down."""

    def __init__(self, manager: str, recorder: Recorder, **options: Any) -> None:
        self.recorder = recorder
        super().__init__(manager, **options)

    def _live(self) -> AsyncConnection:
        if self._connection is None and not self._closed:
            connection = connected(RecordingAsyncConnection, self.manager, **self._connection_options())
            connection.recorder = self.recorder
            self._connection = connection
        return super()._live()
