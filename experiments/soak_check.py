"""The checks of the soak: its records as `zkv.sim.history.History`, group by group, and what only a real run can ask.

Nobody sees when a primary decides to expire or to evict an entry, so each may happen from the earliest moment on: it
stands in the history as a delete whose outcome is unknown. What watches were told, what scans and dumps showed, are
reads like any other; beside them it is known what they must not have left out.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from soak_records import EventRow, Row, read_records

from zkv.core.shardmap import shard_of
from zkv.sim.history import (
    EVICTED,
    EXPIRED,
    FAST,
    NOT_DONE,
    OFF_MS,
    OK,
    UNKNOWN,
    UNSEEN,
    History,
    Operation,
    Scan,
    Told,
    Violation,
    Watched,
)

NEVER = float("inf")


class Site(NamedTuple):
    """The records of one cluster."""

    directory: Path
    shards: int
    evicts: bool
    """Whether any entry may be evicted at any time."""


class Stretch(NamedTuple):
    """A part of a watch in which nothing may be missing."""

    name: str
    prefix: str | bytes
    begun: list[int]
    ended: list[int]


@dataclass
class Notes:
    """What belongs to no single group."""

    scans: list[dict[str, Any]] = field(default_factory=list)
    counts: list[dict[str, Any]] = field(default_factory=list)
    waits: list[dict[str, Any]] = field(default_factory=list)
    locks: list[dict[str, Any]] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    endless: set[str] = field(default_factory=set)
    """Names of stretches whose end is not known."""
    closing: dict[str, float] = field(default_factory=dict)
    """Group -> when its clearing began, after which it is not recorded any more."""
    closed: dict[str, float] = field(default_factory=dict)
    """Group -> when it was cleared away."""
    violations: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass
class Found:
    """What came of the check of a group."""

    operations: int = 0
    events: int = 0
    keys: int = 0
    late_ms: float = -NEVER
    """How long after an entry must have expired it was read at the latest; negative: before that."""
    off_ms: float = 0.0
    """By how much a time to live that was read was further off than how long the calls took explains."""
    violations: list[str] = field(default_factory=list)


def read_notes(site: Site) -> Notes:
    """The notes of all processes."""
    notes = Notes()
    begun: dict[str, dict[str, Any]] = {}
    lists = {"scan": notes.scans, "count": notes.counts, "waited": notes.waits, "lock": notes.locks}
    for note in read_records(site.directory / "notes"):
        match note["what"]:
            case "watch":
                begun[note["stretch"]] = note
            case "watched":
                first = begun.pop(note["stretch"])
                notes.stretches.append(Stretch(note["stretch"], first["prefix"], first["versions"], note["versions"]))
            case "violation":
                notes.violations.append(f"{note['at_ms'] / 1000:.2f} s, {note['client']}: {note['text']}")
            case "noted":
                notes.remarks.append(f"{note['at_ms'] / 1000:.2f} s, {note['client']}: {note['text']}")
            case "closing":
                notes.closing[note["group"]] = note["at_ms"]
            case "closed":
                notes.closed[note["group"]] = note["at_ms"]
            case what:
                lists[what].append(note)
    notes.endless = set(begun)
    notes.violations += [f"the watch {name} has no end" for name in begun]
    return notes


def check(site: Site, show: Callable[[int, int], object]) -> tuple[list[Found], Notes]:
    """Check all groups of a cluster, in a few processes, and what is between them."""
    notes = read_notes(site)
    notes.violations += check_locks(notes.locks)
    groups = sorted(path.name for path in site.directory.iterdir() if path.name != "notes")
    found: list[Found] = []
    with multiprocessing.get_context("spawn").Pool(2, _begin, (site,)) as pool:
        for one in pool.imap_unordered(_check_one, groups):
            found.append(one)
            show(len(found), len(groups))
    return found, notes


_site: Site
_notes: Notes


def _begin(site: Site) -> None:
    global _site, _notes
    _site, _notes = site, read_notes(site)


def _check_one(group: str) -> Found:
    return Group(group, _site, _notes).check()


class Group:
    """The history of the keys of one kind and generation."""

    def __init__(self, name: str, site: Site, notes: Notes) -> None:
        self.name = name
        self.site = site
        self.notes = notes
        self.found = Found()
        self.until_ms = notes.closing.get(name, NEVER)
        self.rows: dict[str, list[Row]] = defaultdict(list)
        self.told: dict[str, list[EventRow]] = defaultdict(list)
        """Stretch -> its events."""
        self.writers: dict[tuple[str, int], Row] = {}
        """(key, version) -> the write."""
        for record in read_records(site.directory / name):
            if len(record) == len(EventRow._fields):
                event = EventRow(*record)
                self.told[event.stretch].append(event)
            else:
                row = Row(*record)
                if row.start_ms > self.until_ms or (row.kind == "get" and (row.end_ms or 0) > self.until_ms):
                    continue
                self.rows[row.key].append(row)
                if row.kind != "get" and row.outcome == OK and row.existed:
                    self.writers[row.key, row.version or 0] = row
        self.history = History()

    def check(self) -> Found:
        """All checks; a broken promise is reported with its story."""
        self.found.keys = len(self.rows)
        for key, rows in self.rows.items():
            self.found.operations += len(rows)
            self.history.operations[key] = self._operations(rows)
        self._add_events()
        for key in self.history.operations:
            self.history.operations[key].sort(key=lambda one: one.start_ms)
        self._add_scans()
        # The checks of one key each, so that one broken promise does not hide another.
        for key, operations in self.history.operations.items():
            alone = History()
            alone.operations[key] = operations
            self._tried(alone.check)
        whole = History(self.history.operations, self.history.scans)
        for scan in whole.scans:
            self._tried(partial(whole._check_scan, scan))
        self._tried(lambda: self.history.check_watches(lambda key: shard_of(key, self.site.shards)))
        self._check_times()
        self._check_counts()
        self._check_waits()
        return self.found

    def _tried(self, checked: Callable[[], None]) -> None:
        try:
            checked()
        except (Violation, AssertionError) as violation:
            self.found.violations.append(str(violation))

    # --- the history -----------------------------------------------------------------------------------------------

    def _operations(self, rows: list[Row]) -> list[Operation]:
        operations = []
        for row in rows:
            value, outcome = row.value, row.outcome
            if row.there and outcome == OK:
                # It says that a version is there: that of a write which is known, or nothing can be made of it.
                writer = self.writers.get((row.key, row.version or 0))
                value, outcome = (writer.value, OK) if writer is not None and writer.kind == "put" else (None, UNKNOWN)
            end_ms = NEVER if row.end_ms is None else row.end_ms
            operation = Operation(row.client, row.kind, row.key, row.start_ms, value, end_ms, outcome, row.version)
            operation.existed, operation.stale = row.existed, row.stale
            operation.saw = row.saw[0] if row.saw else UNSEEN
            operation.result, operation.ttl_ms = row.result, row.ttl_ms
            operations.append(operation)
            if row.ttl_ms and outcome != NOT_DONE and row.existed:
                may_expire_ms = row.start_ms + row.ttl_ms / FAST - OFF_MS
                operations.append(Operation(EXPIRED, "delete", row.key, max(row.start_ms, may_expire_ms)))
        written = [row.start_ms for row in rows if row.kind != "get"]
        if self.site.evicts and written:
            operations.append(Operation(EVICTED, "delete", rows[0].key, min(written)))
        return operations

    def _add_events(self) -> None:
        shards = self.site.shards
        for stretch in self.notes.stretches:
            if not _covers(stretch.prefix, self.name):
                continue
            watched = {shard: Watched(shard, stretch.begun[shard], stretch.ended[shard]) for shard in range(shards)}
            for event in self.told.pop(stretch.name, ()):
                if event.end_ms > self.until_ms:
                    continue
                self.found.events += 1
                one = watched[shard_of(event.key, shards)]
                one.events.append(Told(event.version, event.kind, event.key, event.value))
                told = Operation(
                    event.stretch, "get", event.key, event.end_ms, event.value, event.end_ms, OK, event.version
                )
                told.told = True
                self.history.operations[event.key].append(told)
                if event.version > one.ended or (event.kind == 0) == (event.value is None):
                    self.found.violations.append(f"an event beyond its token, or without its value: {event}")
            self.history.watches += watched.values()
        self.found.violations += [
            f"events of {name}, which does not watch {self.name}" for name in self.told.keys() - self.notes.endless
        ]

    def _add_scans(self) -> None:
        begun_ms = min((row.start_ms for rows in self.rows.values() for row in rows), default=NEVER)
        closed_ms = self.notes.closed.get(self.name, NEVER)
        for scan in self.notes.scans:
            if not _covers(scan["prefix"], self.name) or scan["end_ms"] >= self.until_ms:
                continue
            seen = [key for key in scan["seen"] if key.startswith(f"{self.name}-")]
            if seen or begun_ms <= scan["start_ms"] < closed_ms:
                self.history.scans.append(Scan(scan["start_ms"], seen, scan["end_ms"]))

    # --- what only a real run can ask ------------------------------------------------------------------------------

    def _check_times(self) -> None:
        """How exactly what expires does, where who wrote it is known."""
        for key, rows in self.rows.items():
            for row in rows:
                if row.kind != "get" or row.outcome != OK or row.stale or row.version is None or row.end_ms is None:
                    continue
                writer = self.writers.get((key, row.version))
                if writer is None or writer.end_ms is None:
                    continue
                earliest_ms, latest_ms = writer.start_ms + writer.ttl_ms, writer.end_ms + writer.ttl_ms
                if row.left_ms is not None and row.left_ms < 0 and writer.ttl_ms and writer.kind != "incr":
                    self.found.violations.append(f"{key} is said to stay for ever, after {writer}: {row}")
                elif row.left_ms is not None and row.left_ms >= 0:
                    if not writer.ttl_ms:
                        self.found.violations.append(f"{key} is said to expire, after {writer}: {row}")
                    off_ms = max(
                        earliest_ms - row.end_ms - row.left_ms - 1, row.left_ms - (latest_ms - row.start_ms) - 1
                    )
                    self.found.off_ms = max(self.found.off_ms, off_ms)
                if writer.ttl_ms and (row.value is not None or row.there):
                    self.found.late_ms = max(self.found.late_ms, row.start_ms - latest_ms)
        if max(self.found.late_ms, self.found.off_ms) > OFF_MS:
            self.found.violations.append(
                f"{self.name}: an entry was read {self.found.late_ms:.0f} ms after its time, or its time to live was "
                f"{self.found.off_ms:.0f} ms off"
            )

    def _check_counts(self) -> None:
        """A count lies between what lived throughout and what may have lived at all."""
        for note in self.notes.counts:
            if not _covers(note["prefix"], self.name) or note["end_ms"] >= self.until_ms:
                continue
            scan = Scan(note["start_ms"], [], note["end_ms"])
            lived = sum(
                self.history._lives_throughout(operations, scan)
                for key, operations in self.history.operations.items()
                if not key.startswith("ttl")
            )
            may_live = sum(
                any(one.kind not in ("get", "delete") and one.start_ms <= scan.end_ms for one in operations)
                for operations in self.history.operations.values()
            )
            if not lived <= note["count"] <= may_live:
                self.found.violations.append(f"a count of {lived} to {may_live} keys of {self.name} found {note}")

    def _check_waits(self) -> None:
        """Who waited for a key did so until somebody put it."""
        for note in self.notes.waits:
            for key in note["keys"]:
                if key in self.rows and not any(
                    row.kind not in ("get", "delete") and row.start_ms <= note["end_ms"] and row.outcome != NOT_DONE
                    for row in self.rows[key]
                ):
                    self.found.violations.append(f"a wait for {key} ended before anybody put it: {note}")


def _covers(prefix: str | bytes | None, group: str) -> bool:
    """Whether a scan or a watch is of this group: None is everything, "" all str keys."""
    if prefix is None:
        return True
    if group.startswith("raw"):
        return isinstance(prefix, bytes) and f"{group}-".encode().startswith(prefix)
    return isinstance(prefix, str) and f"{group}-".startswith(prefix)


def check_locks(notes: Iterable[dict[str, Any]]) -> list[str]:
    """Tokens grow from holder to holder, and no two hold a lock at the same time, as far as each may know."""
    wrong = []
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for note in notes:
        by_name[note["name"]].append(note)
    for holders in by_name.values():
        holders.sort(key=lambda note: note["token"])
        for one, other in pairwise(holders):
            if one["token"] == other["token"] or other["got_ms"] < one["asked_ms"]:
                wrong.append(f"tokens of a lock do not grow: {one}, {other}")
            if other["got_ms"] < one["held_ms"]:
                wrong.append(f"two hold a lock: {one}, {other}")
    return wrong


def longest_gap_s(acks: set[int]) -> float:
    """The longest time in which no write was acknowledged, of hundredths of a second in which one was."""
    return max((later - earlier for earlier, later in pairwise(sorted(acks))), default=0) / 100


def totals(found: Iterable[Found]) -> dict[str, Any]:
    """The figures of all groups."""
    found = list(found)
    sums: Counter[str] = Counter()
    for one in found:
        sums.update(operations=one.operations, events=one.events, keys=one.keys)
    return {
        **sums, "groups": len(found),
        "latest_read_after_expiry_ms": round(max((one.late_ms for one in found), default=-NEVER), 1),
        "ttl_off_ms": round(max((one.off_ms for one in found), default=0.0), 1),
    }  # fmt: skip
