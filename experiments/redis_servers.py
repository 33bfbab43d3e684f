"""A Redis Cluster on this machine for experiments: redis-server processes on loopback, in memory only.

It is what zkv is measured against, so it is put together as its users would have it: snapshots and the append-only file
off, everything else as Redis has it by default, unless that would only make the start slower. Its replication is
asynchronous: a write is acknowledged when the master has it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final, Self

from children import Children

from zkv.local.ports import HOST, reserve

SLOTS: Final = 16384
FORM_S: Final = 60.0
"""How long the cluster may take to form, and replicas to catch up."""
FORMING: Final = {"cluster-node-timeout": 1000, "repl-ping-replica-period": 1}
"""Settings until the cluster has formed: everybody talks more often, so that it takes seconds, not a minute."""
NODE_TIMEOUT_MS: Final = 15_000
SERVING: Final = {"cluster-node-timeout": NODE_TIMEOUT_MS, "repl-ping-replica-period": 10}
"""And from then on: the defaults of Redis."""
LOOK_S: Final = 0.02


def missing() -> str:
    """What is not installed here of what it takes, and how to get it; "" if nothing."""
    wanted = []
    if shutil.which("redis-server") is None:
        wanted.append("redis-server (Debian: apt-get install redis-server)")
    try:
        from redis.utils import HIREDIS_AVAILABLE
    except ImportError:
        HIREDIS_AVAILABLE = False
    if not HIREDIS_AVAILABLE:
        wanted.append("redis-py with hiredis (pip install '.[experiments]')")
    return " and ".join(wanted)


def versions() -> dict[str, str]:
    """Of the server and of its client."""
    answer = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    found = dict(part.split("=", 1) for part in answer.split() if "=" in part)
    return {"redis-server": found["v"], "redis-py": version("redis"), "hiredis": version("hiredis")}


class RedisServers:
    """A context manager: `masters` masters with `replicas` replicas each, ready within the block.

    Servers 0 … masters-1 are the masters; the replicas follow, dealt out in rounds.
    """

    def __init__(self, masters: int = 7, replicas: int = 2, *, node_timeout_ms: int = NODE_TIMEOUT_MS) -> None:
        """`node_timeout_ms`: silence after which a master is failed over."""
        self.masters = masters
        self.replicas = replicas
        self._children = Children()
        self._links: list[Any] = []
        self._first_syncs = 0
        self.ports: list[int] = []
        """Of the servers, in their order."""
        self.processes: list[subprocess.Popen[bytes]] = []
        """The servers, in their order: to be killed or stopped by an experiment."""
        # Two ports each, for clients and for the cluster's own talk. They are held until the servers have them.
        self._held: list[socket.socket] = []
        try:
            self._start()
            self._form(node_timeout_ms)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        """Where clients begin: (host, port) of the first master."""
        return HOST, self.ports[0]

    def settle(self) -> float:
        """Wait until every replica has all that its master has; how many seconds that took.

        Redis goes on working after its last answer. Whatever is measured next must not pay for it.
        """
        began_s = time.monotonic()
        for number in range(self.masters, len(self._links)):
            _until(lambda number=number: self._has_all(number), "a replica does not catch up")
        return time.monotonic() - began_s

    def full_syncs(self) -> int:
        """How often a replica was given all data anew since the start, having fallen behind too far."""
        return sum(link.info("stats")["sync_full"] for link in self._links) - self._first_syncs

    def close(self) -> None:
        """End all servers; returns when none is left."""
        for link in self._links:
            link.close()
        for held in self._held:
            held.close()
        self._children.close()

    def _start(self) -> None:
        import redis

        options = [
            "--bind", HOST, "--save", "", "--appendonly", "no", "--cluster-enabled", "yes",
            # By default a master waits for more replicas before it gives the first one its data.
            "--repl-diskless-sync-delay", "0",
            *(word for name, value in FORMING.items() for word in (f"--{name}", str(value))),
        ]  # fmt: skip
        self._bus_ports = []
        for number in range(self.masters * (1 + self.replicas)):
            port, bus_port = self._port(), self._port()
            directory = self._children.directory / f"redis{number}"
            directory.mkdir()
            own = ["--port", str(port), "--cluster-port", str(bus_port), "--dir", str(directory)]
            self.processes.append(self._children.start(f"redis-server{number}", ["redis-server", *own, *options]))
            self.ports.append(port)
            self._bus_ports.append(bus_port)
            self._links.append(redis.Redis(HOST, port, decode_responses=True, socket_timeout=FORM_S))
        for number, link in enumerate(self._links):
            self._await_answer(number, link)

    def _await_answer(self, number: int, link: Any) -> None:
        import redis

        def answers() -> bool:
            if self.processes[number].poll() is not None:
                raise self._children.failed(f"redis-server{number}")
            try:
                return bool(link.ping())
            except redis.ConnectionError:
                return False

        _until(answers, f"redis-server{number} does not answer")

    def _form(self, node_timeout_ms: int) -> None:
        """Deal out the slots, make them know each other, give each master its replicas; wait until all is well."""
        links = self._links
        for number, link in enumerate(links):
            link.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < self.masters:
                first, end = SLOTS * number // self.masters, SLOTS * (number + 1) // self.masters
                link.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            if number:
                link.execute_command("CLUSTER", "MEET", HOST, self.ports[0], self._bus_ports[0])
        for link in links:
            _until(lambda link=link: _known(link) == len(links), "the servers do not meet")
        for number, link in enumerate(links[self.masters :]):
            master_id = links[number % self.masters].execute_command("CLUSTER", "MYID")
            _until(lambda link=link, master_id=master_id: _replicate(link, master_id), "a replica finds no master")
        for link in links:
            _until(lambda link=link: self._is_whole(link), "the cluster does not become ok")
        for link in links:
            for name, value in (SERVING | {"cluster-node-timeout": node_timeout_ms}).items():
                link.config_set(name, value)
        self.settle()
        self._first_syncs = self.full_syncs()
        for held in self._held:
            held.close()
        self._held.clear()

    def _is_whole(self, link: Any) -> bool:
        """Whether a server finds all well, and tells clients of every replica."""
        if "cluster_state:ok" not in link.execute_command("CLUSTER", "INFO"):
            return False
        ranges = link.execute_command("CLUSTER", "SLOTS")  # first slot, last slot, master, replica, …
        return len(ranges) == self.masters and all(len(one) == 3 + self.replicas for one in ranges)

    def _has_all(self, number: int) -> bool:
        """Whether a replica has all that its master has. Both are asked: a master hears of it only once a second."""
        master = self._links[number % self.masters].info("replication")
        replica = self._links[number].info("replication")
        return bool(
            replica.get("master_link_status") == "up"
            and not replica["master_sync_in_progress"]
            and replica["slave_repl_offset"] >= master["master_repl_offset"]
        )

    def _port(self) -> int:
        held, port = reserve(0)
        if held is not None:
            self._held.append(held)
        return port


def _known(link: Any) -> int:
    """How many servers a server knows, those left out with which it still shakes hands."""
    return sum("handshake" not in line for line in link.execute_command("CLUSTER", "NODES").splitlines())


def _replicate(link: Any, master_id: str) -> bool:
    """Make a server a replica; False while it has not heard that the other one is a master with slots."""
    import redis

    try:
        link.execute_command("CLUSTER", "REPLICATE", master_id)
    except redis.ResponseError:
        return False
    return True


def _until(condition: Callable[[], bool], why: str) -> None:
    deadline_s = time.monotonic() + FORM_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"Redis Cluster: {why} after {FORM_S:g} s")
        time.sleep(LOOK_S)
