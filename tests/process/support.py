"""What the tests with real processes need: commands, waiting, and finding every process they started."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from zkv import LocalCluster
from zkv.local.processes import child_environment

# Inherited by every process that the tests start, however far down, also by those whose parent is gone.
# (Not ZKV_…: those variables are settings, and a launcher does not hand them on.)
MARK = f"ZKVTEST_{uuid.uuid4().hex}"
os.environ[MARK] = "1"

WAIT_S = 30.0
"""How long a test waits for what must happen. Not an expectation: only a failing test takes that long."""


def eventually(holds: Callable[[], Any], what: str) -> Any:
    """Wait until `holds()` is true, and return what it returned; fails the test after a long while."""
    deadline = time.monotonic() + WAIT_S
    while not (result := holds()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        select.select([], [], [], 0.01)
    return result


def gone(pid: int, timeout_s: float = WAIT_S) -> bool:
    """Wait for the end of any process, child or not; whether it ended in time. A zombie has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)


def is_up(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    return not gone(pid, 0)


def marked_processes() -> dict[int, str]:
    """All processes that the tests started and that still run: pid -> command line."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        pid = int(directory.name)
        try:
            if pid != os.getpid() and f"{MARK}=1".encode() in (directory / "environ").read_bytes().split(b"\0"):
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if is_up(pid):
                    found[pid] = command
        except OSError:
            continue
    return found


def own_listeners() -> set[str]:
    """The inodes of this process's own listening sockets."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        inodes |= {line.split()[9] for line in lines if line.split()[3] == "0A"}
    own = set()
    for fd in Path("/proc/self/fd").glob("*"):
        try:
            own.add(os.readlink(fd))
        except OSError:
            continue
    return {inode for inode in inodes if f"socket:[{inode}]" in own}


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, and is gone at the end however the test goes."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as process:
        try:
            yield process
        finally:
            process.kill()


def command(name: str, *arguments: str) -> list[str]:
    """The command line of `zkv-NAME`, found also where it is not installed."""
    return [sys.executable, "-P", "-m", f"zkv.cli.{name}", *arguments]


def environment(**extra: str) -> dict[str, str]:
    """For commands: this checkout, none of our settings but those given."""
    return {name: value for name, value in child_environment().items() if not name.startswith("ZKV_")} | extra


def run(name: str, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run `zkv-NAME`, and check that no traceback comes out of it."""
    done = subprocess.run(
        command(name, *arguments), env=environment(**extra), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def succeed(name: str, *arguments: str, **extra: str) -> str:
    """Run `zkv-NAME`, which must succeed, and return what it printed."""
    done = run(name, *arguments, **extra)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@contextmanager
def cluster_of_module(tmp_path_factory: pytest.TempPathFactory, **options: Any) -> Iterator[LocalCluster]:
    """A cluster for all tests of a module, away from a developer's settings; it leaves no file."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ZKV_")]:
            patch.delenv(name)
        temporary = tmp_path_factory.mktemp("tmp")
        patch.setattr(tempfile, "tempdir", str(temporary))
        with LocalCluster(**options) as cluster:
            yield cluster
        assert not [*temporary.iterdir()]
