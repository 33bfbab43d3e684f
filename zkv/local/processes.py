"""One child process of the launcher: started so that it cannot outlive it, signalled, reaped at once.

Three things keep a child from being forgotten or mistaken for another:

- On Linux the kernel sends it SIGKILL when the launcher dies, however that happens, and SIGKILL ends a stopped process
  too. Elsewhere the child looks for itself (`zkv.local.lifeline`).
- It has a process group of its own, so that Ctrl-C reaches the launcher alone, which then stops all in order.
- Only its launcher reaps it, so its pid cannot be reused while the launcher may still signal it. Whoever else has a pid
  (from `cluster.json`) also has the time that process started, and `signal_process` compares both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zkv
from zkv.local.lifeline import PARENT_PID_ENV
from zkv.local.loop import Loop

__all__ = ["Child", "child_environment", "python_command", "signal_process", "start_time_of"]

_PR_SET_PDEATHSIG = 1
_ENDPOINT_LIMIT_BYTES = 4096
# A killed process is gone at once, unless a device holds it up in the kernel.
_DEATH_TIMEOUT_S = 5.0


def _load_prctl() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        return ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None


# Looked up before any fork: between fork and exec as little as possible should run.
_prctl = _load_prctl()


def python_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` of this installation with the Python that runs now."""
    # -P: neither the working directory nor anything in it is searched for modules.
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """This process's environment for a child: it finds the same `zkv`, knows its parent, and inherits no setting.

    The launcher has read the ZKV_ variables already and says all that matters in flags; one of them may contradict.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZKV_")}
    home = Path(zkv.__file__).resolve().parent.parent
    if home.name not in ("site-packages", "dist-packages"):  # a checkout that is not installed
        paths = [str(home), *environment.get("PYTHONPATH", "").split(os.pathsep)]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in dict.fromkeys(paths) if path)
    environment[PARENT_PID_ENV] = str(os.getpid())
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


class Child:
    """A process that writes its endpoint to a pipe once it is ready, and whose end is noticed at once.

    Must be made in the launcher's main thread: the kernel ties the death signal to the thread that forked.
    """

    def __init__(
        self,
        loop: Loop,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        on_ready: Callable[[Child], None],
        on_exit: Callable[[Child], None],
        boot_id: int | None = None,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it. Its standard error is appended to `log`; `--ready-fd` is added to `command`. It inherits
        `pass_fds`, and has `environment` beside what all children have. Raises OSError."""
        self.name = name
        self.boot_id = boot_id
        self.endpoint: str | None = None
        self.up = True
        self.stopped = False
        """Whether it was sent SIGSTOP and not SIGCONT since."""
        self.exit_status: int | None = None
        """As subprocess has it: negative is the signal that ended it. None while it runs."""
        self._loop = loop
        self._on_ready = on_ready
        self._on_exit = on_exit
        self._line = b""
        self._pidfd: int | None = None
        self._ready_fd: int | None
        self._ready_fd, ready_write = os.pipe()
        try:
            with log.open("ab") as output:
                self._popen = subprocess.Popen(
                    [*command, "--ready-fd", str(ready_write)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(ready_write, *pass_fds),
                    cwd=log.parent,
                    env=child_environment() | dict(environment or {}),
                    process_group=0,
                    preexec_fn=_die_with(os.getpid()),
                )
        except OSError:
            os.close(self._ready_fd)
            raise
        finally:
            os.close(ready_write)
        self.pid = self._popen.pid
        self.start_time = start_time_of(self.pid)
        os.set_blocking(self._ready_fd, False)
        loop.add(self._ready_fd, self._read_ready)
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # an old kernel or a sandbox: SIGCHLD will do
                self._pidfd = os.pidfd_open(self.pid)
                loop.add(self._pidfd, self.reap)

    def signal(self, number: int) -> None:
        """Send a signal; does nothing if it has ended."""
        if number in (signal.SIGSTOP, signal.SIGCONT):
            self.stopped = number == signal.SIGSTOP
        self._popen.send_signal(number)

    def terminate(self) -> None:
        """Ask it to end. A stopped process would not hear it, so it is woken up as well."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)

    def reap(self) -> None:
        """If it has ended: note that and call `on_exit`, once."""
        if not self.up or self._popen.poll() is None:
            return
        self.up = False
        self.exit_status = self._popen.returncode
        self._read_ready()  # it may have become ready and died in one turn of the loop
        self._close_ready()
        if self._pidfd is not None:
            self._loop.remove(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        self._on_exit(self)

    def wait_for_death(self) -> None:
        """Block until it has ended, for a process that was just killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_DEATH_TIMEOUT_S)

    def describe_exit(self) -> str:
        """`was killed by SIGKILL`, `ended with status 2`."""
        if self.exit_status is None:
            return "runs"
        if self.exit_status < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-self.exit_status).name}"
        return f"ended with status {self.exit_status}"

    def record(self) -> dict[str, Any]:
        """Its entry in `cluster.json`."""
        return {
            "name": self.name,
            "pid": self.pid if self.up else None,
            "start_time": self.start_time if self.up else None,
            "endpoint": self.endpoint,
            "up": self.up,
        } | ({"boot": f"{self.boot_id:016x}"} if self.boot_id is not None else {})

    def _read_ready(self) -> None:
        if self._ready_fd is None:
            return
        try:
            data = os.read(self._ready_fd, _ENDPOINT_LIMIT_BYTES)
        except BlockingIOError:
            return
        self._line += data
        if b"\n" in self._line:
            self.endpoint = self._line.split(b"\n", 1)[0].decode("utf-8", "replace")
            self._close_ready()
            self._on_ready(self)
        elif not data or len(self._line) > _ENDPOINT_LIMIT_BYTES:
            self._close_ready()

    def _close_ready(self) -> None:
        if self._ready_fd is not None:
            self._loop.remove(self._ready_fd)
            os.close(self._ready_fd)
            self._ready_fd = None


def _die_with(parent_pid: int) -> Callable[[], None] | None:
    """What a forked child runs before exec so that it dies with its parent, or None where that cannot be had."""
    prctl = _prctl
    if prctl is None:
        return None

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:  # it died before the line above
            os._exit(1)

    return arm


def start_time_of(pid: int) -> str | None:
    """When a process started, in a form that is only compared; None if there is no such process, or only its zombie.

    Together with the pid it names one process for good, as the pid alone does not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except ProcessLookupError:
        return None
    except OSError:
        return None if Path("/proc/self/stat").exists() else _start_time_by_ps(pid)
    # The second field is the name in brackets, and may hold anything; the start time is the 22nd, in clock ticks.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def _start_time_by_ps(pid: int) -> str | None:
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def signal_process(pid: int, start_time: str | None, number: int) -> bool:
    """Signal the process `pid` if it is still the one that started at `start_time`. Returns whether it was."""
    pidfd = None
    try:
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
        if start_time is None or start_time_of(pid) != start_time:
            return False
        with contextlib.suppress(ProcessLookupError):
            if pidfd is not None:
                signal.pidfd_send_signal(pidfd, number)
            else:
                os.kill(pid, number)
            return True
        return False
    finally:
        if pidfd is not None:
            os.close(pidfd)
