"""Who takes part in a comparison: zkv, the floor, and what else one reaches for from Python, each behind the faces of
`sides`. Nodes, servers and masters are as many for each.

Memcached and a manager's dict keep no copies, however many the others keep.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.managers import SyncManager
from typing import Any, Final, NamedTuple

import redis_servers
from children import READY_S, Children
from floor import FloorServers
from sides import TIMEOUT_S, Awaited, Face, FloorFace, Get, Open, Put, RedisFace, Servers, ZkvFace, ZkvServers

from zkv.local.ports import HOST, reserve

BATCHED: Final = "batched"
PIPELINED: Final = "pipelined"
ASYNCIO: Final = "asyncio"
ONE: Final = "one"
CLIENTS: Final = (ONE, PIPELINED, BATCHED, ASYNCIO)
"""Kinds of clients: one operation at a time; puts and gets in one pipeline; calls with many keys; coroutines."""
MEMCACHED_MB: Final = 1024
"""Memory of a memcached, which by default has 64 MB and drops what does not fit."""


class MemcachedServers(Open):
    """As many memcached processes, of which the client chooses by key."""

    def __init__(self, nodes: int, copies: int) -> None:
        self.address: list[tuple[str, int]] = []
        user = ["-u", "root"] if os.geteuid() == 0 else []  # it refuses to be root unless it is told to
        with ExitStack() as stack:
            children = stack.enter_context(Children())
            for number in range(nodes):
                held, port = reserve(0)
                name = f"memcached{number}"
                limits = ["-m", str(MEMCACHED_MB), "-I", "8m", "-U", "0"]
                process = children.start(name, ["memcached", "-l", HOST, "-p", str(port), *limits, *user])
                _await_listener(port, process, partial(children.failed, name))
                if held is not None:
                    held.close()
                self.address.append((HOST, port))
            self._stack = stack.pop_all()

    def settle(self) -> None:
        """There is nothing to wait for."""


def _await_listener(port: int, process: subprocess.Popen[bytes], failed: Callable[[], RuntimeError]) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        try:
            socket.create_connection((HOST, port), READY_S).close()
            return
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise failed() from None
            time.sleep(0.02)


class MemcachedFace(Open):
    """pymemcache. A put waits until the server has it: by default pymemcache does not."""

    def __init__(self, address: Sequence[tuple[str, int]]) -> None:
        from pymemcache.client.hash import HashClient

        client = HashClient(address, default_noreply=False, no_delay=True, timeout=TIMEOUT_S)
        self._client = client
        self._stack = ExitStack()
        self._stack.callback(client.close)
        self.put: Put = client.set
        self.get: Get = client.get

    def put_batch(self, items: Mapping[str, Any]) -> None:
        failed = self._client.set_many(items)
        assert not failed, f"{len(failed)} puts failed"

    def get_batch(self, keys: Sequence[str]) -> list[Any]:
        return list(map(self._client.get_many(keys).get, keys))

    def mixed_batch(self, items: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
        raise NotImplementedError("pymemcache has no pipelines")

    def asynchronous(self, connections: int) -> AbstractAsyncContextManager[Awaited]:
        raise NotImplementedError("pymemcache has no asynchronous client")


class ManagerDict(Open):
    """`multiprocessing.Manager().dict()`: one server process, however many nodes the others have."""

    def __init__(self, nodes: int, copies: int) -> None:
        manager = SyncManager(ctx=get_context("spawn"))
        manager.start(_end_with_parent, (os.getpid(),))
        self._stack = ExitStack()
        self._stack.callback(manager.shutdown)
        self.address = manager.dict()

    def settle(self) -> None:
        """There is nothing to wait for."""


def _end_with_parent(parent: int) -> None:
    """In the server's process: it would outlive an experiment that is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class ManagerDictFace(Open):
    """A proxy of the dict. It puts many in one call, but gets one by one."""

    def __init__(self, proxy: Any) -> None:
        self._stack = ExitStack()
        self._proxy = proxy
        self.put: Put = proxy.__setitem__
        self.get: Get = proxy.get

    def put_batch(self, items: Mapping[str, Any]) -> None:
        self._proxy.update(items)

    def get_batch(self, keys: Sequence[str]) -> list[Any]:
        return list(map(self.get, keys))

    def mixed_batch(self, items: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
        raise NotImplementedError("a manager's dict has no pipelines")

    def asynchronous(self, connections: int) -> AbstractAsyncContextManager[Awaited]:
        raise NotImplementedError("a manager's dict has no asynchronous client")


def _nothing() -> str:
    return ""


def memcached_missing() -> str:
    """What is not installed here of what it takes, and how to get it; "" if nothing."""
    wanted = []
    if shutil.which("memcached") is None:
        wanted.append("memcached (Debian: apt-get install memcached)")
    if importlib.util.find_spec("pymemcache") is None:
        wanted.append("pymemcache (pip install pymemcache)")
    return " and ".join(wanted)


class Peer(NamedTuple):
    """One that takes part."""

    servers: Callable[[int, int], Servers]
    """Starts them: how many nodes, and copies of each key."""
    face: Callable[[Any], Face]
    """A client: of which address."""
    clients: frozenset[str]
    """Which kinds of clients it has."""
    missing: Callable[[], str] = _nothing
    """What it takes and is not installed here, with how to get it; "" if nothing."""
    slow_batches: bool = False
    """Whether its batches are little faster than one operation at a time."""


PEERS: Final[dict[str, Peer]] = {
    "zkv": Peer(ZkvServers, ZkvFace, frozenset(CLIENTS)),
    "floor": Peer(FloorServers, FloorFace, frozenset(CLIENTS)),
    "redis": Peer(
        lambda nodes, copies: redis_servers.RedisServers(nodes, copies - 1), RedisFace, frozenset(CLIENTS),
        redis_servers.missing,
    ),
    "memcached": Peer(MemcachedServers, MemcachedFace, frozenset((ONE, BATCHED)), memcached_missing),
    "manager-dict": Peer(ManagerDict, ManagerDictFace, frozenset((ONE, BATCHED)), slow_batches=True),
}  # fmt: skip
"""By name, in the order in which they take turns."""


def present(names: Sequence[str], tell: Callable[[str], object]) -> list[str]:
    """Those that can run here; of each other one `tell` hears a line."""
    found = []
    for name in names:
        missing = PEERS[name].missing()
        if missing:
            tell(f"{name} is left out: this machine lacks {missing}.")
        else:
            found.append(name)
    return found


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of the peers' servers and clients."""
    found: dict[str, str] = {}
    if "redis" in names:
        found |= redis_servers.versions()
    if "memcached" in names:
        answer = subprocess.run(["memcached", "-V"], capture_output=True, text=True, check=True).stdout
        found |= {"memcached": answer.split()[-1], "pymemcache": version("pymemcache")}
    return found


