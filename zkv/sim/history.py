"""The history of a run, and the proof that it is linearizable.

Versions are the witness: per key they give a total order of the writes, so the check is a single pass in real-time
order instead of a search. A history passes if, for each key,

1. each value was written under one version only (a retry took effect once), and each version wrote one value;
2. a write that was reported as not done was never seen;
3. no operation shows a version older than one that was shown, or acknowledged, before it began; and an acknowledged
   write is newer than everything shown before it began (a read that may be stale stands apart from this);
4. what a write says it replaced is what came just before it: no other write lies between.

The values of a run are unique, so a read names its write. A read that finds nothing may show version 0 (never written,
or the tombstone is forgotten): it then stands for the oldest delete that it can stand for.

Three kinds of keys are checked in their own ways besides: counters, which are only incremented by one (each increment
counts once, whatever was retried), logs, to which words are only appended (each word is there once, in order), and keys
that expire (none is shown long after its time, none is missing before it). Expiries and evictions are in the history as
deletes that may have been done, at the moment at which a primary decides on them. Keys from a dump are checked like
those that expire: some do, and their values are not unique, as a load may be repeated.

A watch tells of versions: each committed one that lies between where it began and where it ended is told once, in
order, and what was told is committed, as if it had been read.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zkv.core import wire

STORY_BEFORE = 12
STORY_AFTER = 6
"""Operations on the key that are printed around those of a violation."""
OK = "ok"
UNKNOWN = "unknown"
MANAGER = "manager"
EXPIRED, EVICTED = "expired", "evicted"
"""The clients of deletes that no client asked for."""
NOT_DONE = "not done"
UNSEEN: Any = ("nothing is said",)
COUNTER, LOG, EXPIRING, LOADED = "count", "log", "ttl", "load"
"""How the names of counters, logs, keys that expire, and keys that are loaded from dumps begin."""
MAY_EXPIRE = (EXPIRING, LOADED)
FAST, SLOW = 1.25, 0.85
"""How fast cluster time may run at a node, with the clocks and the margin of the simulation."""
OFF_MS = 700.0
"""By how much two nodes may disagree about it."""


@dataclass
class Operation:
    """One operation on one key, as a client saw it."""

    client: str
    kind: str
    """put, get, delete; incr on counters, append on logs"""
    key: str
    start_ms: float
    value: Any = None
    """What was written, or read (None: nothing there)."""
    end_ms: float = float("inf")
    outcome: str = UNKNOWN
    version: int | None = None
    existed: bool = True
    """Of a write: whether it changed something. A condition that failed, and a delete of nothing, did not."""
    stale: bool = False
    """Of a read that need not be the newest."""
    saw: Any = UNSEEN
    """Of a write that says what it replaced: the value (None: nothing), or the version."""
    result: Any = None
    """What incr and append return."""
    ttl_ms: float = 0.0
    """Of a put or touch: how long the entry lives; 0: for ever."""
    told: bool = False
    """Of a read: an event of a watch, which tells of a version that was committed by then, and perhaps replaced."""

    def __str__(self) -> str:
        version = "?" if self.version is None else f"{self.version >> 40}.{self.version & ((1 << 40) - 1)}"
        return (
            f"{self.start_ms:9.1f}–{self.end_ms:9.1f} {self.client} {self.kind} {self.key} "
            f"value={self.value} version={version} {self.outcome}{'' if self.existed else ' (missing)'}"
        )


class Violation(AssertionError):
    """The promise was broken."""


class Told(NamedTuple):
    """An event, as a watch told of it."""

    version: int
    kind: int
    key: str
    value: Any


@dataclass
class Watched:
    """What a watch was told of one shard, from where it began on, or began anew because the history was gone."""

    shard: int
    begun: int
    """The first token."""
    ended: int
    """The last."""
    events: list[Told] = field(default_factory=list)


@dataclass
class Scan:
    """A walk through all keys."""

    start_ms: float
    seen: list[str] = field(default_factory=list)
    end_ms: float = float("inf")


@dataclass
class History:
    """All operations of a run, by key."""

    operations: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    scans: list[Scan] = field(default_factory=list)
    """Those that came to their end."""
    watches: list[Watched] = field(default_factory=list)

    def removed(self, key: str, version: int, now_ms: float, *, expired: bool) -> None:
        """A primary has decided to expire or evict a key; whether that is ever committed is another matter."""
        client = EXPIRED if expired else EVICTED
        self.operations[key].append(Operation(client, "delete", key, now_ms, outcome=UNKNOWN, version=version))

    def begin(self, client: str, kind: str, key: str, value: Any, now_ms: float) -> Operation:
        """An operation leaves a client."""
        operation = Operation(client, kind, key, now_ms, value)
        self.operations[key].append(operation)
        return operation

    def reset(self, key: str, version: int, now_ms: float) -> None:
        """The key's shard was created anew, empty: a delete that the manager decided on (SAFETY 33).

        `version` is below all of the shard's new life. Nobody may see the former life from now on: all who could have
        shown it are dead.
        """
        self.operations[key].append(Operation(MANAGER, "delete", key, now_ms, None, now_ms, OK, version))

    def check(self) -> None:
        """Raise `Violation` with the operations concerned unless every key's history is linearizable."""
        for key in sorted(self.operations):
            kinds = {COUNTER: _CounterCheck, LOG: _LogCheck, EXPIRING: _ExpiryCheck, LOADED: _ExpiryCheck}
            check = next((kind for name, kind in kinds.items() if key.startswith(name)), _KeyCheck)
            check(self.operations[key]).run()

        for scan in self.scans:
            self._check_scan(scan)

    def check_watches(self, shard_of: Callable[[str], int]) -> None:
        """Raise `Violation` unless each watch was told of everything once, in order."""
        done: dict[int, dict[int, Operation]] = defaultdict(dict)
        for key, operations in self.operations.items():
            for one in operations:
                if one.kind != "get" and one.outcome == OK and one.existed and one.client != MANAGER:
                    done[shard_of(key)][one.version or 0] = one
        for watched in self.watches:
            versions = [event.version for event in watched.events]
            if versions != sorted(set(versions)) or (versions and versions[0] <= watched.begun):
                raise Violation(f"a watch was told of versions twice, or out of order: {watched}")
            told = {event.version: event for event in watched.events}
            for version, one in done[watched.shard].items():
                if not watched.begun < version <= watched.ended:
                    continue
                if version not in told:
                    raise Violation(f"a watch was not told of {one}: {watched}")
                event = told[version]
                if event.key != one.key or (one.kind == "put" and event.value != one.value):
                    raise Violation(f"a watch was told {event} of {one}")
                if (event.kind == wire.PUT_EVENT) == (one.kind == "delete"):
                    raise Violation(f"a watch was told {event} of {one}")

    def _check_scan(self, scan: Scan) -> None:
        """Each key that lived throughout was seen, none twice, and none that nobody wrote."""
        for key in scan.seen:
            if scan.seen.count(key) > 1:
                raise Violation(f"a scan saw {key} twice: {scan}")
            written = (one for one in self.operations[key] if one.kind not in ("get", "delete"))
            if not any(one.start_ms <= scan.end_ms for one in written):
                raise Violation(f"a scan saw {key}, which nobody had written: {scan}")
        for key, operations in self.operations.items():
            if key.startswith(MAY_EXPIRE):
                continue
            if key not in scan.seen and self._lives_throughout(operations, scan):
                raise Violation(f"a scan missed {key}: {scan}")

    def _lives_throughout(self, operations: list[Operation], scan: Scan) -> bool:
        """Whether it is certain that a key existed all the time."""
        written = [
            one.version or 0
            for one in operations
            if one.kind not in ("get", "delete") and one.outcome == OK and one.existed and one.end_ms < scan.start_ms
        ]
        return bool(written) and all(
            one.start_ms > scan.end_ms or (one.outcome == OK and (not one.existed or (one.version or 0) < max(written)))
            for one in operations
            if one.kind == "delete" and one.outcome != NOT_DONE
        )

    def count(self) -> int:
        """Operations that ended with a certain outcome."""
        return sum(operation.outcome == OK for operations in self.operations.values() for operation in operations)


class _KeyCheck:
    """The check of one key."""

    def __init__(self, operations: list[Operation]) -> None:
        self.operations = operations
        self.resets = [operation.version for operation in operations if operation.client == MANAGER]
        self.version_of: dict[Any, int] = {}
        self.writer_of: dict[int, Operation] = {}

    def run(self) -> None:
        """All rules of the module's docstring, in turn."""
        self._collect_writes()
        self._check_reads()
        self._check_order()
        self._check_replaced()

    def _fail(self, text: str, *concerned: Operation) -> None:
        places = [
            place for place, operation in enumerate(self.operations) if any(operation is one for one in concerned)
        ]
        first, last = max(0, min(places) - STORY_BEFORE), max(places) + STORY_AFTER
        story = "\n".join(
            f"    {'>' if first + place in places else ' '} {operation}"
            for place, operation in enumerate(self.operations[first:last])
        )
        raise Violation(f"key {self.operations[0].key}: {text}\n{story}")

    def _collect_writes(self) -> None:
        for operation in self.operations:
            if operation.kind != "get" and operation.outcome == OK and operation.existed:
                assert operation.version is not None
                other = self.writer_of.get(operation.version)
                if other is not None:
                    self._fail("two writes share a version", operation, other)
                self.writer_of[operation.version] = operation
                if operation.kind == "put":
                    self.version_of[operation.value] = operation.version

    def _check_reads(self) -> None:
        by_value = {operation.value: operation for operation in self.operations if operation.kind == "put"}
        for read in self.operations:
            if read.kind != "get" or read.outcome != OK or read.value is None:
                continue
            assert read.version is not None
            write = by_value.get(read.value)
            if write is None:
                self._fail("a value was read that nobody wrote", read)
                return
            if write.outcome == NOT_DONE:
                self._fail("a write that was reported as not done was read", read, write)
            if write.start_ms > read.end_ms:
                self._fail("a value was read before it was written", read, write)
            version = self.version_of.setdefault(read.value, read.version)
            if version != read.version and self._life(version) == self._life(read.version):
                self._fail("one write took effect under two versions", read, write)
            writer = self.writer_of.setdefault(read.version, write)
            if writer is not write:
                self._fail("two writes share a version", read, write, writer)

    def _life(self, version: int) -> int:
        """How many resets lie before a version. A retry after a reset finds nothing of what the former life knew."""
        return sum(reset is not None and reset <= version for reset in self.resets)

    def _check_order(self) -> None:
        """One pass in the order of starts; `shown` is the newest version of what had ended by then."""
        done = [operation for operation in self.operations if operation.outcome == OK and not operation.stale]
        events = [operation for operation in done if operation.told]
        ends = sorted(done, key=lambda operation: operation.end_ms)
        shown, last, position = 0, None, 0
        effective: dict[int, int] = {id(event): event.version or 0 for event in events}
        for operation in sorted(done, key=lambda operation: operation.start_ms):
            if operation.told:
                continue  # it raises what was shown, and may itself be of the past
            while position < len(ends) and ends[position].end_ms < operation.start_ms:
                version = effective[id(ends[position])]
                if version > shown:
                    shown, last = version, ends[position]
                position += 1
            version = self._effective_version(operation, shown)
            effective[id(operation)] = version
            writes = operation.kind != "get" and operation.existed
            if version < shown or (writes and version == shown):
                self._fail("went back in time", operation, *([last] if last else []))

    def _effective_version(self, operation: Operation, shown: int) -> int:
        """The version an operation stands for; for "missing" without one, that of a delete it can stand for."""
        assert operation.version is not None
        missing = operation.value is None if operation.kind == "get" else not operation.existed
        if operation.kind in ("put", "touch") and missing and not operation.version:
            return shown  # a condition failed on a key that may have been missing for long: nothing is said of when
        if not missing or operation.version:
            return operation.version
        if not shown:
            return 0
        candidates = [
            other.version
            for other in self.operations
            if other.kind == "delete" and other.existed and other.version is not None and other.outcome == OK
            and other.version >= shown and other.start_ms <= operation.end_ms
        ]  # fmt: skip
        unknown = any(
            other.kind == "delete" and other.outcome == UNKNOWN and other.start_ms <= operation.end_ms
            for other in self.operations
        )
        return shown if unknown else min(candidates, default=-1)

    def _check_replaced(self) -> None:
        """Rule 4: between what a write saw and itself there is no other write."""
        versions = sorted(self.writer_of)
        lost_deletes = [
            operation for operation in self.operations if operation.kind == "delete" and operation.outcome == UNKNOWN
        ]
        for write in self.operations:
            if write.outcome != OK or not write.existed or write.saw is UNSEEN or write.version is None:
                continue
            before = [version for version in versions if version < write.version]
            if not before or self._life(before[-1]) != self._life(write.version):
                continue
            last = self.writer_of[before[-1]]
            if write.saw is None or write.saw == 0:
                covered = any(delete.start_ms <= write.end_ms for delete in lost_deletes)
                if last.kind == "put" and not covered:
                    self._fail("a write says that it found nothing, and something was there", write, last)
                continue
            seen = write.saw if isinstance(write.saw, int) else self.version_of.get(write.saw)
            if seen is not None and seen < before[-1]:
                self._fail("another write lies between one and what it says it replaced", write, last)


class _CounterCheck(_KeyCheck):
    """A key that is only incremented, by one."""

    def run(self) -> None:
        """Each increment counts once."""
        self._collect_writes()
        self._check_order()
        if self.resets:
            return  # it began anew in between
        increments = [one for one in self.operations if one.kind == "incr" and one.outcome == OK]
        increments.sort(key=lambda one: one.version or 0)
        for one, other in itertools.pairwise(increments):
            if one.result >= other.result:
                self._fail("an increment did not count", one, other)
        possible = sum(one.kind == "incr" and one.outcome != NOT_DONE for one in self.operations)
        for one in self.operations:
            value = one.result if one.kind == "incr" else one.value
            if one.outcome == OK and value is not None and value > possible:
                self._fail("an increment counted twice, or one that was reported as not done", one)
            if one.outcome == OK and one.kind == "get":
                sure = sum(other.version <= one.version for other in increments)  # type: ignore[operator]
                if (value or 0) < sure:
                    self._fail("an acknowledged increment is not counted", one)


class _LogCheck(_KeyCheck):
    """A key that words are only appended to, each once."""

    def run(self) -> None:
        """Each word is there once, in the order of versions."""
        self._collect_writes()
        self._check_order()
        if self.resets:
            return
        appends = [one for one in self.operations if one.kind == "append"]
        done = sorted((one for one in appends if one.outcome == OK), key=lambda one: one.version or 0)
        denied = {one.value: one for one in appends if one.outcome == NOT_DONE}
        for read in self.operations:
            if read.kind != "get" or read.outcome != OK:
                continue
            words = (read.value or "").split()
            if len(set(words)) < len(words):
                self._fail("a word was appended twice", read)
            for word in words:
                if word in denied:
                    self._fail("a word was appended by a write that was reported as not done", read, denied[word])
            sure = [one.value for one in done if one.version <= read.version]  # type: ignore[operator]
            if [word for word in words if word in set(sure)] != sure:
                self._fail("acknowledged words are missing, or in another order", read)


class _ExpiryCheck(_KeyCheck):
    """A key that is put, and touched, with and without a time to live."""

    def run(self) -> None:
        """Nothing is shown long after its time, and nothing is missing before it."""
        self._collect_writes()
        self._check_order()
        if self.resets:
            return
        first_ms: dict[Any, float] = {}
        """Value -> when the first of the writes began that may have been done."""
        for one in self.operations:
            if one.kind == "put" and one.outcome != NOT_DONE:
                first_ms[one.value] = min(one.start_ms, first_ms.get(one.value, one.start_ms))
        for read in self.operations:
            if read.kind != "get" or read.outcome != OK or read.told:
                continue
            if read.value is None:
                self._check_missing(read)
                continue
            if first_ms.get(read.value, float("inf")) > read.end_ms:
                self._fail("a value was read that nobody had written", read)
            writer = self.writer_of.get(read.version or 0)
            if writer is None or read.stale or not writer.ttl_ms:
                continue
            if read.start_ms > writer.end_ms + writer.ttl_ms / SLOW + OFF_MS:
                self._fail("a value was read long after it had expired", read, writer)

    def _check_missing(self, read: Operation) -> None:
        """Something has removed what was there: a delete, or its time was over."""
        before = [one for one in self.writer_of.values() if one.end_ms < read.start_ms]
        last = max(before, key=lambda one: one.version or 0, default=None)
        if last is None or last.kind == "delete" or read.stale:
            return
        for one in self.operations:
            if one.kind == "get" or one.outcome == NOT_DONE or one.start_ms > read.end_ms or one.client == EXPIRED:
                continue
            if one is not last and one.outcome == OK and (one.version or 0) <= (last.version or 0):
                continue
            if one.kind == "delete" or (one.ttl_ms and one.start_ms + one.ttl_ms / FAST - OFF_MS <= read.end_ms):
                return
        self._fail("an entry is missing that had not expired", read, last)
