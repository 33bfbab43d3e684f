"""A cluster whose every member has a network of its own, so that a partition is one of the network itself.

Each member is in a network namespace (`ip netns`) and has a pair of virtual interfaces: `eth0`, and a port of a bridge
that is in one more namespace. A port taken off the bridge is a silent partition: the member sees that its link is up,
nobody is told anything, and no packet arrives. Nothing appears in the machine's own network: no interface, no address.

`missing` says what this needs and is not there. Namespaces are called zkv-PID-NAME after the process that made them.
They are removed with the `with` block, and those of a process that was killed by the next one that makes some.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from children import Children

from zkv import Client
from zkv.core.settings import BOOT_ID_HIGH, BOOT_ID_LOW
from zkv.errors import TimedOut
from zkv.local.processes import child_environment, python_command
from zkv.net.admin import AdminLink
from zkv.net.waiting import draining, settling

RUN: Final = Path("/run/netns")
"""Where `ip netns` keeps the names."""
BRIDGE: Final = "bridge"
"""Of the namespace that has only the bridge in it."""
CLIENTS: Final = "clients"
MANAGER: Final = "manager"
SUBNET: Final = "10.10.10"
"""It is used within the namespaces alone, so it cannot collide with anything."""
PORT: Final = 5550
ADMIN_S: Final = 10.0
_CLONE_NEWNET: Final = 0x40000000


def missing() -> str | None:
    """What there would have to be for a `Network`; None: nothing."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if shutil.which("ip") is None:
        return "there is no `ip` here (apt install iproute2)"
    if os.geteuid() != 0:
        return "making network namespaces takes root"
    name = f"zkv-{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two")
        _ip("-n", name, "link", "add", "bridge", "type", "bridge")
    except OSError as error:
        return f"this machine does not allow it: {error}"
    finally:
        if (RUN / name).exists():
            _ip("netns", "del", name)
    return None


class Network:
    """Namespaces on one bridge: a context manager that makes them for `names`, and for those added later, and always
    removes them. Processes in them must have ended by then."""

    def __init__(self, *names: str) -> None:
        self._prefix = f"zkv-{os.getpid()}-"
        self._numbers: dict[str, int] = {}
        remove_abandoned()
        try:
            _ip("netns", "add", self.path_of(BRIDGE).name)
            _ip("-n", self.path_of(BRIDGE).name, "link", "add", BRIDGE, "type", "bridge")
            _ip("-n", self.path_of(BRIDGE).name, "link", "set", BRIDGE, "up")
            for name in names:
                self.add(name)
        except BaseException:
            self.close()
            raise

    def path_of(self, name: str) -> Path:
        """Where the namespace is; the last part is how `ip` calls it."""
        return RUN / (self._prefix + name)

    def add(self, name: str) -> None:
        """One more, connected to all others."""
        number = len(self._numbers) + 1
        own, bridge = self.path_of(name).name, self.path_of(BRIDGE).name
        _ip("netns", "add", own)
        self._numbers[name] = number
        # Both ends are made where they belong; neither is ever in the machine's own network.
        _ip("link", "add", "eth0", "netns", own, "type", "veth", "peer", "name", f"port{number}", "netns", bridge)
        _ip("-n", own, "address", "add", f"{self.address_of(name)}/24", "dev", "eth0")
        _ip("-n", own, "link", "set", "lo", "up")
        _ip("-n", own, "link", "set", "eth0", "up")
        _ip("-n", bridge, "link", "set", f"port{number}", "master", BRIDGE, "up")

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def address_of(self, name: str) -> str:
        """Its IPv4 address."""
        return f"{SUBNET}.{self._numbers[name]}"

    def cut(self, name: str) -> None:
        """Take it off the bridge."""
        _ip("-n", self.path_of(BRIDGE).name, "link", "set", f"port{self._numbers[name]}", "nomaster")

    def mend(self, name: str) -> None:
        """Put it back on the bridge."""
        _ip("-n", self.path_of(BRIDGE).name, "link", "set", f"port{self._numbers[name]}", "master", BRIDGE)

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in there. It becomes the command's own process."""
        return ["ip", "netns", "exec", self.path_of(name).name, *command]

    @contextmanager
    def entered(self, name: str) -> Iterator[None]:
        """Within the block this thread is in there, and whatever threads and processes it starts, with all sockets
        that they make; those that exist stay where they are."""
        with Path("/proc/thread-self/ns/net").open("rb") as before, self.path_of(name).open("rb") as inside:
            _set_namespace(inside.fileno())
            try:
                yield
            finally:
                _set_namespace(before.fileno())

    def close(self) -> None:
        """Remove all of them. May be called again."""
        failures = []
        for path in sorted(RUN.glob(f"{self._prefix}*")):
            try:
                _ip("netns", "del", path.name)
            except OSError as error:
                failures.append(error)  # the others go all the same
        self._numbers.clear()
        if failures:
            raise failures[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NamespacedCluster:
    """A manager and `server1` … `serverN`, each in a namespace of its own, started as one does on several machines.

    It has those methods of `LocalCluster` that the experiments here use. Whoever talks to it has to be in a namespace
    too: `with network.entered(CLIENTS)`. As a launcher does on its machine, it tells the manager of nodes that it has
    killed and reaped. The namespaces are the network's, which has to outlive it.
    """

    def __init__(self, network: Network, nodes: int = 5, replicas: int = 3, **settings: int | float | str) -> None:
        self._network = network
        self._boots: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._unheard: set[str] = set()
        self._cut: set[str] = set()
        with ExitStack() as stack:
            self._children = stack.enter_context(Children())
            flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
            self.manager = self._start(
                MANAGER, "zkv.cli.manager", "--in-memory", f"--nodes={nodes}", f"--replicas={replicas}", *flags,
            )  # fmt: skip
            """Its endpoint."""
            self._link = stack.enter_context(AdminLink(self.manager, timeout_s=ADMIN_S))
            stack.callback(self.reconnect)
            for _ in range(nodes):
                self.add(wait=False)
            self.wait_healthy()
            self._stack = stack.pop_all()

    @property
    def names(self) -> list[str]:
        """The nodes', also of those that have ended."""
        return list(self._boots)

    def client(self, **options: Any) -> Client:
        """A new client, which the caller closes."""
        return Client(self.manager, **options)

    def kill(self, name: str) -> None:
        """SIGKILL; returns when the manager knows of the death."""
        self._processes[name].kill()
        self._processes[name].wait()
        self._link.report_dead(self._boots[name])

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self._processes[name].send_signal(signal.SIGSTOP)
        self._unheard.add(name)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._processes[name].send_signal(signal.SIGCONT)
        self._unheard.discard(name)

    def partition(self, name: str) -> None:
        """Cut it off from everybody, silently and both ways."""
        self._network.cut(name)
        self._cut.add(name)

    def reconnect(self) -> None:
        """End all partitions."""
        for name in sorted(self._cut):
            self._network.mend(name)
        self._cut.clear()

    def add(self, *, wait: bool = True) -> str:
        """Start one more node; its name."""
        name = f"server{len(self._boots) + 1}"
        if name not in self._network:
            self._network.add(name)
        self._boots[name] = BOOT_ID_LOW + secrets.randbelow(BOOT_ID_HIGH - BOOT_ID_LOW)
        self._start(
            name, "zkv.cli.node", f"--name={name}", f"--manager={self.manager}", f"--boot-id={self._boots[name]:016x}"
        )
        if wait:
            self.wait_healthy()
        return name

    def drain(self, name: str, *, wait: bool = True, timeout_s: float = 60.0) -> None:
        """Empty a node, then let it go; with `wait` it returns when that is done."""
        deadline_s = time.monotonic() + timeout_s
        self._link.drain(name)
        for left in draining(self._link, name) if wait else ():
            if time.monotonic() > deadline_s:
                raise TimedOut(f"{name} still holds {left} copies after {timeout_s:g} s", outcome_unknown=False)

    def health(self) -> dict[str, Any]:
        """What the manager says of the cluster."""
        return self._link.status()

    def wait_healthy(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until it is healthy, with everything where it should be, as the manager sees it."""
        deadline_s = time.monotonic() + timeout_s
        status: dict[str, Any] = {}
        for status in settling(self._link, self._known, healthy=True):
            if time.monotonic() > deadline_s:
                raise TimedOut(f"{status['health']} and not at rest after {timeout_s:g} s", outcome_unknown=False)
        return status

    def close(self) -> None:
        """End everything; returns when no process is left."""
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)  # who is stopped does not hear that he is to end
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, name: str, module: str, *arguments: str) -> str:
        endpoint = f"tcp://{self._network.address_of(name)}:{PORT}"
        command = self._network.command(name, python_command(module, *arguments, f"--bind={endpoint}"))
        self._processes[name], ready = self._children.start_ready(name, command, environment=child_environment())
        return ready

    def _known(self) -> list[dict[str, Any]]:
        """The nodes as `settling` wants to know them."""
        return [
            {
                "boot": f"{boot:016x}", "up": self._processes[name].poll() is None,
                "heard": name not in self._unheard | self._cut,
            }
            for name, boot in self._boots.items()
        ]  # fmt: skip


def remove_abandoned() -> None:
    """Remove the namespaces of processes that were killed before they could do so themselves."""
    for path in RUN.glob("zkv-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and not _ip("netns", "pids", path.name).strip():
            _ip("netns", "del", path.name)


def _ip(*arguments: str) -> str:
    """What `ip` prints. Raises OSError with what it complains of."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout


def _set_namespace(descriptor: int) -> None:
    # os.setns comes with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
