"""One child process at a time: `zkv.local.processes`, and `zkv.local.lifeline` for those who are children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.support import WAIT_S, environment, gone, is_up, sleeper
from zkv.local.loop import Loop
from zkv.local.processes import Child, child_environment, signal_process, start_time_of

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="looks for processes as Linux shows them"),
]

SLEEP = "import time; time.sleep(1000)"


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def run_until_end(loop: Loop, code: str, log: Path, *, pidfd: bool = True) -> Child:
    ended: list[Child] = []
    ready: list[Child] = []
    if not pidfd:
        loop.on_signals((signal.SIGCHLD,), lambda: child.reap())
    child = Child(
        loop, "child", [sys.executable, "-c", code], log=log, on_ready=ready.append, on_exit=ended.append
    )  # fmt: skip
    while not ended:
        loop.turn()
    child.reap()  # once more: nothing happens
    assert ended == [child]
    assert ready == ([child] if child.endpoint else [])
    return child


@pytest.mark.parametrize("pidfd", [True, False])
def test_end_is_noticed(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pidfd: bool) -> None:
    """With the kernel's process descriptors, and without, by SIGCHLD."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    child = run_until_end(loop, "import sys; sys.exit(7)", tmp_path / "log", pidfd=pidfd)
    assert (child.up, child.exit_status, child.describe_exit()) == (False, 7, "ended with status 7")


def test_end_by_a_signal(loop: Loop, tmp_path: Path) -> None:
    child = run_until_end(loop, "import os; os.kill(os.getpid(), 9)", tmp_path / "log")
    assert child.describe_exit() == "was killed by SIGKILL"


def test_ready_and_dead_in_one_turn(loop: Loop, tmp_path: Path) -> None:
    code = "import os, sys; os.write(int(sys.argv[-1]), b'tcp://127.0.0.1:7\\n')"
    child = run_until_end(loop, code, tmp_path / "log")
    assert child.endpoint == "tcp://127.0.0.1:7"


def test_output_goes_to_the_log(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    run_until_end(loop, "import sys; print('out'); print('error', file=sys.stderr)", tmp_path / "log")
    assert (tmp_path / "log").read_text() == "before\nout\nerror\n"


PARENT = f"""
import sys
from pathlib import Path
from zkv.local.loop import Loop
from zkv.local.processes import Child
child = Child(Loop(), "child", [sys.executable, "-c", {SLEEP!r}], log=Path(sys.argv[1]), on_ready=print, on_exit=print)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children look for themselves")
def test_it_dies_with_its_parent_without_doing_anything(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log")], env=environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_up(pid)
        parent.kill()
        assert gone(pid)


def test_a_process_is_more_than_its_pid() -> None:
    with sleeper() as process:
        start_time = start_time_of(process.pid)
        assert start_time is not None
        assert not signal_process(process.pid, "1", signal.SIGKILL)
        assert not signal_process(process.pid, None, signal.SIGKILL)
        assert is_up(process.pid)
        assert signal_process(process.pid, start_time, signal.SIGKILL)
        assert gone(process.pid)
        assert start_time_of(process.pid) is None  # only its zombie is left
    assert not signal_process(process.pid, start_time, signal.SIGKILL)


LIFELINE = "from zkv.local.lifeline import parent_is_gone; print(parent_is_gone())"


@pytest.mark.parametrize(
    ("parent", "expected"), [(str(os.getpid()), "False"), ("1", "True"), (None, "False")], ids=["alive", "gone", "none"]
)
def test_lifeline(parent: str | None, expected: str) -> None:
    """The parent is there; it is another one by now; nobody launched this process."""
    done = subprocess.run(
        [sys.executable, "-c", LIFELINE], env=environment(**({"ZKV_PARENT_PID": parent} if parent else {})),
        capture_output=True, text=True, timeout=WAIT_S, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == expected


def test_children_inherit_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKV_LEASE_MS", "1")
    monkeypatch.setenv("OTHER", "kept")
    inherited = child_environment()
    assert "ZKV_LEASE_MS" not in inherited
    assert inherited["OTHER"] == "kept"
    assert inherited["ZKV_PARENT_PID"] == str(os.getpid())
