"""The floor that zkv is measured against (`experiments/floor.py`) does what zkv does, and a run that compares the two.

A floor that answered before all copies have a put, or that held fewer of them, would be too fast.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.support import WAIT_S, environment
from zkv.core.shardmap import shard_of
from zkv.core.wire import pack_u16

pytestmark = pytest.mark.process

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
NODES, COPIES = 3, 2
ITEMS = {f"key{number}": b"%d" % number for number in range(5000)}
"""More than a batch for each node."""


class Modules:
    """Of experiments/, which import each other by their bare names."""

    def __init__(self) -> None:
        self.floor = importlib.import_module("floor")
        self.client = importlib.import_module("floor_client")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Modules:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return Modules()


@pytest.fixture
def servers(modules: Modules) -> Iterator[Any]:
    with modules.floor.FloorServers(NODES, COPIES) as servers:
        yield servers


def test_clients_read_what_was_put_and_all_copies_have_it(modules: Modules, servers: Any) -> None:
    everything = ITEMS | {"one": b"alone", "mixed": b"in a pipeline", "large": os.urandom(1_000_000)}

    async def awaited() -> list[Any]:
        with modules.client.AsyncFloorClient(servers.address) as kv:
            await asyncio.gather(*(kv.put(f"awaited {key}", value) for key, value in ITEMS.items()))
            return await asyncio.gather(*(kv.get(f"awaited {key}") for key in (*ITEMS, "no such key")))

    with modules.client.FloorClient(servers.address) as kv:
        kv.put_batch(ITEMS)
        kv.put("one", b"alone")
        assert kv.get("one") == b"alone"
        assert kv.get("no such key") is None
        kv.put("large", everything["large"])
        assert kv.mixed_batch({"mixed": b"in a pipeline"}, ["one"]) == [b"alone"]
        # Each node by itself: put was only what every copy has.
        for number, endpoint in enumerate(servers.address):
            with modules.client.FloorClient([endpoint]) as node:
                found = node.get_batch(list(everything))
            for (key, value), held in zip(everything.items(), found, strict=True):
                first = shard_of(key, modules.floor.SHARDS) % NODES
                assert held == (value if (number - first) % NODES < COPIES else None)
        assert kv.get_batch([*everything, "no such key"]) == [*everything.values(), None]
        assert kv.get_batch([]) == []
        later = {f"later {key}": value for key, value in ITEMS.items()}
        assert kv.mixed_batch(later, list(ITEMS)) == list(ITEMS.values())
        assert kv.get_batch(list(later)) == list(later.values())
    assert asyncio.run(awaited()) == [*ITEMS.values(), None]


def test_a_put_waits_for_all_backups(modules: Modules, servers: Any) -> None:
    key, floor = "key", modules.floor
    shard = shard_of(key, floor.SHARDS)
    primary = shard % NODES
    last = servers.pids[floor.backups(primary, NODES, COPIES)[-1]]
    with modules.client.FloorClient([servers.address[primary]]) as kv:
        (dealer,) = kv._dealers
        kv.put("another key", b"v")  # the nodes are connected by now
        os.kill(last, signal.SIGSTOP)
        try:
            dealer.send(floor.pack((floor.PUT, 11, pack_u16((shard,)), (key,), (b"v",))))
            dealer.send(floor.pack((floor.GET, 12, pack_u16((shard,)), (key,), None)))
            first = floor.unpack(dealer.recv())
        finally:
            os.kill(last, signal.SIGCONT)
        assert first == (12, (b"v",))
        assert floor.unpack(dealer.recv()) == (11, None)


def test_an_echo(modules: Modules) -> None:
    request, reply, value = b"get key", b"reply with a value", b"a value"
    with (
        modules.floor.EchoServers(request, reply, value) as server,
        modules.client.EchoClient(server.address) as client,
    ):
        assert [client.get("any key") for _ in range(3)] == [value] * 3


def throughput(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXPERIMENTS / "throughput.py", "--quick", "--no-record", *arguments], env=environment(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=4 * WAIT_S, check=False,
    )  # fmt: skip


def test_zkv_beside_the_floor() -> None:
    done = throughput(
        "--side", "zkv", "--side", "floor", "--nodes", "2", "--replicas", "2", "--operations", "800", "--processes", "1"
    )
    assert (done.returncode, done.stderr) == (0, "")
    for client in ("one", "pipelined", "batched", "asyncio"):
        assert f"{client}, 2 copies of each key, client processes: 1" in done.stdout


def test_mistakes_are_told_in_a_line() -> None:
    done = throughput("--nodes", "3", "--replicas", "4")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Error: 3 nodes hold at most as many copies, not 4"
