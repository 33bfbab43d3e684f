"""After each test with real processes: the proof that none of them, nor anything of theirs, is left."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.support import gone, marked_processes, own_listeners
from zkv import LocalCluster


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After each test: no process of ours, no listening socket, no file of a running cluster."""
    for name in [name for name in os.environ if name.startswith("ZKV_")]:
        monkeypatch.delenv(name)  # a developer's settings must not decide what is tested
    if not Path("/proc/self/environ").exists():
        yield
        return
    # Whatever makes a temporary directory makes it here, where it can be found.
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    listeners = own_listeners()
    yield
    # A process that has been told to die may take a moment.
    left = {pid: command for pid, command in marked_processes().items() if not gone(pid, 5.0)}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"processes are left: {left}"
    assert own_listeners() == listeners, "a listening socket of the test itself is left"
    files = [path for name in ("cluster.json", "control.sock", "state") for path in tmp_path.rglob(name)]
    files += temporary.iterdir()
    assert not files, f"files are left: {files}"


@pytest.fixture
def local_cluster() -> Iterator[Callable[..., LocalCluster]]:
    """Makes `LocalCluster`s that end with the test."""
    made: list[LocalCluster] = []

    def make(*arguments: Any, **options: Any) -> LocalCluster:
        made.append(LocalCluster(*arguments, **options))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()
