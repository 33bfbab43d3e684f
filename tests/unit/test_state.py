"""The manager's durable state: what is written comes back, and never goes back."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zkv.core.manager.effects import Event, Persist, Stored
from zkv.core.manager.events import KEPT
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import DEAD, UP, Delta, Member, Shard, ShardMap
from zkv.errors import SettingError, UsageError, ZkvError
from zkv.net.state import FILE_NAME, FileState, MemoryState, State

SETTINGS = ClusterSettings(nodes=2, replicas=2, shards=2, lease_ms=500)
A, B, C = (Member(2**62 + n, name, f"tcp://h:{n}", "", 1.5, UP) for n, name in enumerate("ABC"))
CREATE = Persist(None, Stored(2**63 - 5, SETTINGS, ShardMap.empty(2**63 - 5)))
FORM = Persist(Delta(2**63 - 5, 0, 1, {n: Shard(1, 1, (A.boot, B.boot)) for n in range(2)}, (A, B, C)))
CHANGE = Persist(
    Delta(2**63 - 5, 1, 2, {1: Shard(2, 2, (B.boot,), (A.boot,), (A.boot,))}, (A._replace(state=DEAD),), (C.boot,))
)


@pytest.fixture(params=["file", "memory"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    made: State = FileState(tmp_path) if request.param == "file" else MemoryState()
    yield made
    made.close()


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    state = FileState(tmp_path / "made" / "for it")
    assert state.load() is None
    for persist in (CREATE, FORM, CHANGE):
        state.persist(persist)
    state.keep_ports(5, 6)
    kept = state.load()
    state.close()
    state = FileState(tmp_path / "made" / "for it")
    assert state.load() == kept
    assert state.ports() == (5, 6)
    state.close()
    assert kept is not None
    assert kept.map.shards[1].wait == (A.boot,)
    assert C.boot not in kept.map.members


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(CREATE, id="created twice"),
        pytest.param(FORM, id="a version twice"),
        pytest.param(Persist(Delta(2**63 - 5, 3, 4, {})), id="a version left out"),
        pytest.param(Persist(Delta(7, 2, 3, {})), id="another cluster"),
        pytest.param(Persist(Delta(2**63 - 5, 2, 3, {1: Shard(1, 3, (B.boot,))})), id="an epoch goes back"),
        pytest.param(Persist(Delta(2**63 - 5, 2, 3, {1: Shard(3, 3, (C.boot,))})), id="a member not in sync"),
        pytest.param(Persist(Delta(2**63 - 5, 2, 3, {0: Shard(1, 3, (A.boot,))})), id="a change without an epoch"),
    ],
)
def test_nothing_goes_back(state: State, wrong: Persist) -> None:
    for persist in (CREATE, FORM, CHANGE):
        state.persist(persist)
    kept = state.load()
    with pytest.raises(ZkvError, match="does not take this change"):
        state.persist(wrong)
    assert state.load() == kept


def test_placement_resets_and_events_come_back(tmp_path: Path) -> None:
    state = FileState(tmp_path)
    state.persist(CREATE)
    state.record([Event("manager", "starts", {"boot": "a"}, 1, 7)])
    state.persist(FORM._replace(layout="{}"))
    state.persist(Persist(Delta(2**63 - 5, 1, 2, {1: Shard(2, 2, (C.boot,), born=2)})))
    state.persist(Persist(None, layout="[]", factors={"A": 0.75, "B": 1.25}))
    state.persist(Persist(None, filled={0: frozenset((C.boot,))}))
    state.record([Event("join", f"node {number}", {}, number) for number in range(2, KEPT + 10)])
    state.close()
    state = FileState(tmp_path)
    kept = state.load()
    state.close()
    assert kept is not None
    assert (kept.layout, kept.resets, kept.map.shards[1].born) == ("[]", 1, 2)
    assert kept.factors == {"A": 0.75, "B": 1.25}
    assert len(kept.events) == KEPT
    assert kept.events[-1] == Event("join", f"node {KEPT + 9}", {}, KEPT + 9)


def test_nothing_comes_before_the_cluster(state: State) -> None:
    with pytest.raises(ZkvError, match="no cluster yet"):
        state.persist(FORM)


def test_one_manager_at_a_time(tmp_path: Path) -> None:
    state = FileState(tmp_path)
    other = f"from zkv.net.state import FileState; FileState({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
    assert "is in use by another manager" in done.stderr
    with pytest.raises(SettingError, match="is in use by another manager"):
        FileState(tmp_path)
    state.persist(CREATE)
    state.close()
    FileState(tmp_path).close()


def test_the_lock_ends_with_its_process_and_the_last_change_stays(tmp_path: Path) -> None:
    killed = (
        f"import os, runpy, signal; names = runpy.run_path({__file__!r}); "
        f"state = names['FileState']({str(tmp_path)!r}); "
        "state.persist(names['CREATE']); state.persist(names['FORM']); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", killed], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    state = FileState(tmp_path)
    kept = state.load()
    state.close()
    assert kept is not None
    assert kept.map.version == 1


def test_a_file_that_is_no_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(UsageError, match=f"{FILE_NAME} is not the state of a zkv manager"):
        FileState(tmp_path)
    path.unlink()
    FileState(tmp_path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    db.close()
    with pytest.raises(UsageError, match="its format is 99"):
        FileState(tmp_path)


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        FileState(tmp_path / "file" / "state")
