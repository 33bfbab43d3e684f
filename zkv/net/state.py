"""The manager's durable state: one SQLite file, held by one manager at a time (SAFETY 30).

A change is one transaction that writes the rows it changes and no others. Each is checked before it is
written: it must follow on the version that the file holds, and no epoch may go back. Journal in WAL mode,
synchronous FULL: one fsync a change (0.2 ms for a row, 0.9 ms for 600 shards on an SSD; the rollback journal
took a third longer). The lock is SQLite's own exclusive lock, which the kernel drops with the process:
nothing has to be cleaned up after a SIGKILL.

`MemoryState` is the same without a file, for clusters that may be lost with their manager.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from zkv.core.manager.effects import Event, Persist, Stored, applied
from zkv.core.manager.events import KEPT
from zkv.core.manager.reconfigure import subset_violation
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import Member, Shard, ShardMap
from zkv.core.wire import pack_u64, unpack_u64
from zkv.errors import SettingError, UsageError, ZkvError

FILE_NAME: Final = "manager.sqlite"
FORMAT: Final = 4

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE members (
    boot INTEGER PRIMARY KEY, name TEXT NOT NULL, endpoint TEXT NOT NULL, zone TEXT NOT NULL, weight REAL NOT
    NULL, state INTEGER NOT NULL, draining INTEGER NOT NULL
);
CREATE TABLE shards (
    number INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, changed INTEGER NOT NULL, replicas BLOB NOT NULL,
    learners BLOB NOT NULL, wait BLOB NOT NULL, born INTEGER NOT NULL, withheld INTEGER NOT NULL
);
CREATE TABLE filled (
    shard INTEGER NOT NULL, learner INTEGER NOT NULL, PRIMARY KEY (shard, learner)
) WITHOUT ROWID;
CREATE TABLE events (
    number INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL
);
"""


class State(Protocol):
    """Where a manager keeps what its successor must know."""

    def load(self) -> Stored | None:
        """What is kept, None where there is no cluster yet."""

    def persist(self, persist: Persist) -> None:
        """Make `persist` durable. Raises ZkvError if that is impossible; the manager must then stop."""

    def record(self, events: Sequence[Event]) -> None:
        """Make `events` durable; the oldest make room for them. Raises like `persist`."""

    def ports(self) -> tuple[int, int] | None:
        """The ports for heartbeats and maps that were used last."""

    def keep_ports(self, heartbeat_port: int, map_port: int) -> None:
        """Remember them."""

    def close(self) -> None:
        """Let go of the state."""


class _Checked:
    """What both kinds have in common: the present state in memory, and the checks."""

    _stored: Stored | None = None

    def load(self) -> Stored | None:
        return self._stored

    def _next(self, persist: Persist) -> Stored:
        """The state after `persist`; raises ZkvError if versions or epochs would not advance as they must."""
        try:
            after = applied(self._stored, persist)
        except ValueError as error:
            raise ZkvError(f"the manager's state does not take this change: {error}") from error
        if persist.delta and self._stored:
            for number, new in persist.delta.shards.items():
                before = self._stored.map.shards
                violation = subset_violation(before[number], new) if before else None
                if violation:
                    raise ZkvError(f"the manager's state does not take this change: shard {number}: {violation}")
        return after


class MemoryState(_Checked):
    """State that ends with the process, and so does not keep events: nobody will ask for them again."""

    def persist(self, persist: Persist) -> None:
        self._stored = self._next(persist)

    def record(self, events: Sequence[Event]) -> None:
        pass

    def ports(self) -> tuple[int, int] | None:
        return None

    def keep_ports(self, heartbeat_port: int, map_port: int) -> None:
        pass

    def close(self) -> None:
        pass


class FileState(_Checked):
    """State in an SQLite file in `directory`, which is made if need be.

    Raises SettingError if another manager holds it, UsageError if it cannot be used.
    """

    def __init__(self, directory: str | Path) -> None:
        import sqlite3

        self._path = Path(directory) / FILE_NAME
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=0.0)
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"the state directory {directory} cannot be used: {error}") from error
        try:
            self._open()
            self._stored = self._read()
        except sqlite3.OperationalError as error:
            self._db.close()
            if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise SettingError(
                    f"the state in {directory} is in use by another manager: stop that one, "
                    "or choose another directory with --state-dir"
                ) from error
            raise UsageError(f"the state in {self._path} cannot be used: {error}") from error
        except (sqlite3.Error, ValueError, KeyError) as error:
            self._db.close()
            raise UsageError(f"{self._path} is not the state of a zkv manager: {error}") from error

    def _open(self) -> None:
        """Take the lock for good, then make the tables where there are none."""
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        self._db.execute("BEGIN EXCLUSIVE")
        if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._put_meta("format", str(FORMAT))
        self._db.execute("COMMIT")
        found = self._meta("format")
        if found != str(FORMAT):
            raise ValueError(f"its format is {found}, this version of zkv knows format {FORMAT}")

    def _read(self) -> Stored | None:
        cluster_hex = self._meta("cluster")
        if cluster_hex is None:
            return None
        cluster = int(cluster_hex, 16)
        settings = ClusterSettings.from_wire(json.loads(self._meta("settings") or "{}"))
        rows = self._db.execute("SELECT boot, name, endpoint, zone, weight, state, draining FROM members")
        members = {row[0]: Member(*row)._replace(draining=bool(row[6])) for row in rows}
        shards: list[Shard] = []
        columns = "SELECT number, epoch, changed, born, withheld, replicas, learners, wait FROM shards ORDER BY number"
        for number, epoch, changed, born, withheld, *boots in self._db.execute(columns):
            if number != len(shards):
                raise ValueError(f"shard {len(shards)} is missing")
            replicas, learners, wait = (tuple(unpack_u64(column)) for column in boots)
            shards.append(Shard(epoch, changed, replicas, learners, wait, born, bool(withheld)))
        version = int(self._meta("version") or 0)
        shard_map = ShardMap(cluster, version, members, tuple(shards))
        layout, resets = self._meta("layout") or "", int(self._meta("resets") or 0)
        factors = json.loads(self._meta("factors") or "{}")
        return Stored(cluster, settings, shard_map, layout, resets, self._read_events(), self._read_filled(), factors)

    def _read_filled(self) -> dict[int, frozenset[int]]:
        found: dict[int, frozenset[int]] = {}
        for shard, learner in self._db.execute("SELECT shard, learner FROM filled"):
            found[shard] = found.get(shard, frozenset()) | {learner}
        return found

    def _read_events(self) -> tuple[Event, ...]:
        rows = self._db.execute("SELECT kind, text, data, number, time_ms FROM events ORDER BY number")
        return tuple(Event(kind, text, json.loads(data), *rest) for kind, text, data, *rest in rows)

    def persist(self, persist: Persist) -> None:
        import sqlite3

        after = self._next(persist)
        delta = persist.delta
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if persist.created is not None:
                self._put_meta("cluster", f"{after.cluster:016x}")
                self._put_meta("settings", json.dumps(after.settings.to_wire()))
            self._put_meta("version", str(after.map.version))
            self._put_meta("resets", str(after.resets))
            if persist.layout is not None:
                self._put_meta("layout", persist.layout)
            if persist.factors is not None:
                self._put_meta("factors", json.dumps(after.factors))
            if delta is not None:
                self._db.executemany("DELETE FROM members WHERE boot = ?", [(boot,) for boot in delta.removed])
                self._db.executemany("REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?)", delta.members)
                self._db.executemany(
                    "REPLACE INTO shards VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (number, one.epoch, one.changed, *map(pack_u64, (one.replicas, one.learners, one.wait)),
                         one.born, one.withheld)
                        for number, one in delta.shards.items()
                    ],
                )
                self._db.executemany("DELETE FROM filled WHERE shard = ?", [(number,) for number in delta.shards])
            rows = [(number, boot) for number, boots in persist.filled.items() for boot in sorted(boots)]
            self._db.executemany("REPLACE INTO filled VALUES (?, ?)", rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise ZkvError(f"the manager cannot write its state to {self._path}: {error}") from error
        self._stored = after

    def record(self, events: Sequence[Event]) -> None:
        import sqlite3

        rows = [(one.number, one.time_ms, one.kind, one.text, json.dumps(dict(one.data))) for one in events]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("REPLACE INTO events VALUES (?, ?, ?, ?, ?)", rows)
            self._db.execute("DELETE FROM events WHERE number <= ?", (events[-1].number - KEPT,))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise ZkvError(f"the manager cannot write its state to {self._path}: {error}") from error

    def ports(self) -> tuple[int, int] | None:
        kept = self._meta("ports")
        if kept is None:
            return None
        heartbeat_port, map_port = kept.split()
        return int(heartbeat_port), int(map_port)

    def keep_ports(self, heartbeat_port: int, map_port: int) -> None:
        if self.ports() != (heartbeat_port, map_port):
            self._put_meta("ports", f"{heartbeat_port} {map_port}")

    def close(self) -> None:
        self._db.close()

    def _meta(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def _put_meta(self, key: str, value: str) -> None:
        self._db.execute("REPLACE INTO meta VALUES (?, ?)", (key, value))
