"""`experiments/soak.py`: a few seconds of it, and that its checks find what is wrong in the records of a run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.process.support import WAIT_S, environment
from zkv.core.shardmap import shard_of

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes as Linux shows them"),
]

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
SHARDS = 4
PLAIN, TTL, COUNT = "plain-0001-7", "ttl-0001-7", "count-0001-7"


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", EXPERIMENTS / "soak.py", *arguments], env=environment(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10 * WAIT_S, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_nothing_is_violated_and_nothing_is_left() -> None:
    done = soak("--minutes", "0.15", "--seed", "5", "--json", "--no-record")
    figures = json.loads(done.stdout)
    assert figures["violations"] == []
    assert (done.returncode, done.stderr) == (0, "")
    assert figures["checked_main"]["operations"]
    assert figures["checked_cache"]["operations"]


def test_help_says_how() -> None:
    done = soak("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python experiments/soak.py --quick" in done.stdout


# --- the checks ---------------------------------------------------------------------------------------------------


class Records:
    """Records of a run that never was: two puts and a delete, counts, a key that expires, a watch, scans, a lock."""

    def __init__(self, directory: Path) -> None:
        self.records = importlib.import_module("soak_records")
        self.check = importlib.import_module("soak_check")
        self.site = self.check.Site(directory, SHARDS, False)
        self.rows = {
            "put": self.row("put", PLAIN, 10, "v1", 5),
            "get": self.row("get", PLAIN, 20, "v1", 5),
            "cas": self.row("put", PLAIN, 30, "v2", 6, saw=[5]),
            "again": self.row("get", PLAIN, 40, "v2", 6),
            "delete": self.row("delete", PLAIN, 200, None, 9),
            "gone": self.row("get", PLAIN, 220, None, 9),
            "short": self.row("put", TTL, 10, "v3", 5, ttl_ms=2000.0),
            "ttl": self.row("get", TTL, 510, None, 5, there=True, left_ms=1500.0),
            "late": self.row("get", TTL, 9000, None, 8),
            "one": self.row("incr", COUNT, 10, 1, 5, result=1),
            "two": self.row("incr", COUNT, 30, 1, 6, result=2),
            "sum": self.row("get", COUNT, 50, 2, 6),
        }
        tokens = [0] * SHARDS
        self.notes: dict[str, dict[str, Any]] = {
            "begun": {"what": "watch", "stretch": "w", "prefix": "plain-", "versions": tokens, "at_ms": 0.0},
            "ended": {"what": "watched", "stretch": "w", "versions": [20] * SHARDS},
            "scan": {"what": "scan", "prefix": "", "start_ms": 60.0, "end_ms": 70.0, "seen": [PLAIN, COUNT]},
            "count": {"what": "count", "prefix": "plain-0001-", "start_ms": 60.0, "end_ms": 70.0, "count": 1},
            "wait": {"what": "waited", "keys": [PLAIN], "end_ms": 15.0},
            "lock": self.lock(1, 0, 50),
            "next": self.lock(2, 20, 90),
        }
        self.events = {
            version: self.records.EventRow("w", PLAIN, version, kind, value, 300.0)
            for version, kind, value in ((5, 0, "v1"), (6, 0, "v2"), (9, 1, None))
        }

    def row(self, kind: str, key: str, start_ms: float, value: Any, version: int, **more: Any) -> Any:
        usual = {"existed": True, "stale": False, "saw": [], "result": None, "ttl_ms": 0.0}
        return self.records.Row("c", kind, key, start_ms, value, start_ms + 5, "ok", version, **(usual | more))

    def lock(self, token: int, asked_ms: float, got_ms: float) -> dict[str, Any]:
        times = {"asked_ms": asked_ms, "got_ms": got_ms, "held_ms": got_ms + 30}
        return {"what": "lock", "name": "a", "token": token, **times}

    def change(self, what: str, **fields: Any) -> None:
        if what in self.notes:
            self.notes[what] = self.notes[what] | fields
        else:
            self.rows[what] = self.rows[what]._replace(**fields)

    def violations(self) -> list[str]:
        recorder = self.records.Recorder(self.site.directory, "c", 0)
        for row in self.rows.values():
            recorder.row(row)
        for note in self.notes.values():
            recorder.note(**note)
        for event in self.events.values():
            recorder.event(event)
        recorder.close()
        notes = self.check.read_notes(self.site)
        found = [*notes.violations, *self.check.check_locks(notes.locks)]
        for group in ("plain-0001", "ttl-0001", "count-0001"):
            found += self.check.Group(group, self.site, notes).check().violations
        return found


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return Records(tmp_path)


def test_a_run_in_which_all_was_right(records: Records) -> None:
    assert records.violations() == []


WRONG: dict[str, tuple[Callable[[Records], Any], str]] = {
    "a write is lost": (lambda r: r.change("again", value="v1", version=5), "went back in time"),
    "a write takes effect twice": (lambda r: r.change("again", value="v1", version=7), "under two versions"),
    "a value nobody wrote": (lambda r: r.change("get", value="damaged: b''"), "nobody wrote"),
    "a refused write is seen": (lambda r: r.change("put", outcome="not done"), "as not done was read"),
    "a write between": (lambda r: r.change("cas", saw=[3]), "another write lies between"),
    "an increment is lost": (lambda r: r.change("two", result=1), "an increment did not count"),
    "an increment counts twice": (lambda r: r.change("sum", value=3), "counted twice"),
    "an entry outlives its time": (
        lambda r: r.change("late", value="v3", version=5), "a value was read long after it had expired"
    ),
    "an entry expires early": (
        lambda r: r.rows.update(ttl=r.rows["late"]._replace(start_ms=100, end_ms=105)), "missing that had not expired"
    ),
    "a time to live is wrong": (lambda r: r.change("ttl", left_ms=9500.0), "time to live was"),
    "a time to live is gone": (lambda r: r.change("ttl", left_ms=-1.0), "said to stay for ever"),
    "an event is missing": (lambda r: r.events.pop(6), "was not told of"),
    "an event is of another value": (
        lambda r: r.events.update({6: r.events[6]._replace(value="v1")}), "a watch was told"
    ),
    "events out of order": (
        lambda r: r.events.update({5: r.events.pop(6), 6: r.events.pop(5)}), "out of order"
    ),
    "an event twice": (lambda r: r.events.update({7: r.events[6]}), "told of versions twice"),
    "a watch without an end": (lambda r: r.notes.pop("ended"), "has no end"),
    "a scan misses a key": (lambda r: r.change("scan", seen=[COUNT]), "a scan missed"),
    "a scan sees a key twice": (lambda r: r.change("scan", seen=[PLAIN, PLAIN, COUNT]), "twice"),
    "a scan sees what is not": (lambda r: r.change("scan", seen=["plain-0001-8", PLAIN, COUNT]), "nobody had written"),
    "a count is too small": (lambda r: r.change("count", count=0), "a count of 1 to 1 keys"),
    "a count is too great": (lambda r: r.change("count", count=2), "a count of 1 to 1 keys"),
    "a wait ends early": (lambda r: r.change("wait", end_ms=5.0), "ended before anybody put it"),
    "two hold a lock": (lambda r: r.change("next", got_ms=60.0), "two hold a lock"),
    "tokens do not grow": (lambda r: r.change("next", token=1), "tokens of a lock do not grow"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(records: Records, what: str) -> None:
    spoil, says = WRONG[what]
    assert len({shard_of(key, SHARDS) for key in (PLAIN, TTL, COUNT)}) > 1
    spoil(records)
    assert any(says in text for text in records.violations())
