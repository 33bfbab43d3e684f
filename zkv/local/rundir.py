"""The run directory of a cluster of local processes.

    lock            flock'ed by the launcher for its life; the kernel gives it back however the launcher ends
    cluster.json    what runs: names, pids with start times, endpoints, boot ids (mode 0600)
    control.sock    requests to the launcher (mode 0600)
    cuts.json       which nodes are cut off from whom, where that was asked for (`zkv.local.cuts`; mode 0600)
    state/          the manager's durable state
    launcher.log    manager.log    server1.log …

`lock` alone says whether a cluster runs here. All other files may have been left behind by a launcher that was killed,
and do not hinder a new start, which begins a new cluster: the nodes hold their data in memory, so the state of an
earlier manager would describe shards that nobody has.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from zkv.local.plan import LaunchError
from zkv.local.processes import signal_process, start_time_of

__all__ = ["RunDir", "default_run_dir"]

_SWEEP_TIMEOUT_S = 5.0


def default_run_dir() -> Path:
    """`~/.zkv/default`: one place that does not depend on where a command is typed, or on the login session."""
    return Path.home() / ".zkv" / "default"


def _shown(path: Path) -> str:
    with contextlib.suppress(ValueError, RuntimeError):
        return f"~/{path.relative_to(Path.home())}"
    return str(path)


class RunDir:
    """Paths and the lock. Making one touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.lock_file = self.path / "lock"
        self.cluster_file = self.path / "cluster.json"
        self.cuts_file = self.path / "cuts.json"
        self.socket = self.path / "control.sock"
        self.state = self.path / "state"
        self._lock_fd: int | None = None

    def __str__(self) -> str:
        """For people: with `~` for the home directory."""
        return _shown(self.path)

    def log(self, name: str) -> Path:
        """The log of one process: `manager.log`, `server1.log`, `launcher.log`."""
        return self.path / f"{name}.log"

    def acquire(self) -> None:
        """Make the directory, lock it, and clear what an earlier cluster left.

        Raises LaunchError if a cluster runs here, or if the directory is not ours to clear.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.lock_file.exists() and any(self.path.iterdir()):
                raise LaunchError(
                    f"{self} is not empty and no run directory of zkv: name another with --run-dir", exit_status=2
                )
            fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LaunchError(
                f"cannot use {self} as run directory ({error.strerror}): name another with --run-dir", exit_status=2
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            launcher = self.read().get("supervisor")
            pid = launcher.get("pid") if isinstance(launcher, dict) else None
            where = "" if self.path == default_run_dir() else f" --run-dir {self}"
            raise LaunchError(
                f"a cluster already runs in {self}{f' (launcher pid {pid})' if pid else ''}: end it with "
                f"`zkv-launch stop{where}`, or start this one beside it with --run-dir OTHER --port 0",
                exit_status=2,
            ) from None
        self._lock_fd = fd
        self._sweep()
        self._clear(logs=True)

    def release(self) -> None:
        """Remove everything but the logs, and unlock."""
        if self._lock_fd is None:
            return
        self._clear(logs=False)
        os.close(self._lock_fd)
        self._lock_fd = None

    def remove(self) -> None:
        """Remove the directory with all in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def write(self, cluster: dict[str, Any]) -> None:
        """Replace `cluster.json`."""
        self._replace(self.cluster_file, json.dumps(cluster, indent=1))

    def write_cuts(self, text: str) -> None:
        """Replace `cuts.json`. Raises OSError."""
        self._replace(self.cuts_file, text)

    def _replace(self, path: Path, text: str) -> None:
        """A reader sees the old or the new one, never half of it."""
        temporary = path.with_name(f"{path.name}.new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
        temporary.replace(path)

    def read(self) -> dict[str, Any]:
        """What `cluster.json` says, or an empty dict."""
        try:
            cluster = json.loads(self.cluster_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return cluster if isinstance(cluster, dict) else {}

    def _sweep(self) -> None:
        """End what is left of a cluster whose launcher was killed.

        On Linux the kernel has begun to do that; here the new cluster waits for it, as it may want the same port.
        """
        left = []
        cluster = self.read()
        nodes = cluster.get("nodes")
        for entry in [cluster.get("manager"), *(nodes if isinstance(nodes, list) else ())]:
            with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError):
                pid, start_time = int(entry["pid"]), entry["start_time"]
                if signal_process(pid, start_time, signal.SIGKILL):
                    left.append((pid, start_time))
        deadline = time.monotonic() + _SWEEP_TIMEOUT_S
        for pid, start_time in left:
            # Not our children, so there is nothing to wait on but their disappearance.
            while start_time_of(pid) == start_time and time.monotonic() < deadline:
                time.sleep(0.002)

    def _clear(self, *, logs: bool) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
        names = [self.cluster_file, self.cuts_file, self.socket]
        for path in [*names, *self.path.glob("*.json.new"), *(self.path.glob("*.log") if logs else ())]:
            with contextlib.suppress(OSError):
                path.unlink()
