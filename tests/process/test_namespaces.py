"""`experiments/namespaces.py`: networks of namespaces, partitions of them, and that none is left."""

from __future__ import annotations

import importlib
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.support import WAIT_S, eventually

pytestmark = pytest.mark.process

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
OWN = "/proc/thread-self/ns/net"
LOOK = ["readlink", "/proc/self/ns/net"]
PORT = 5000


@pytest.fixture
def namespaces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    module = importlib.import_module("namespaces")
    lack = module.missing()
    if lack is not None:
        pytest.skip(f"no network namespaces: {lack}")
    before = os.readlink(OWN), socket.if_nameindex()
    yield module
    assert (os.readlink(OWN), socket.if_nameindex()) == before
    assert not [*Path("/run/netns").glob(f"zkv-{os.getpid()}-*")]


def bound(network: Any, name: str) -> socket.socket:
    """A socket for datagrams in that namespace."""
    with network.entered(name):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((network.address_of(name), PORT))
    made.setblocking(False)
    return made


def arrives(sender: socket.socket, receiver: socket.socket, wait_s: float) -> bool:
    """Whether a datagram sent now, or one before, is received."""
    sender.sendto(b"?", receiver.getsockname())
    there = bool(select.select([receiver], [], [], wait_s)[0])
    while select.select([receiver], [], [], 0)[0]:
        receiver.recv(1)
    return there


def test_a_cut_is_silent_and_can_be_mended(namespaces: Any) -> None:
    with namespaces.Network("one", "two") as network, bound(network, "one") as one, bound(network, "two") as two:
        assert arrives(one, two, WAIT_S)
        assert arrives(two, one, WAIT_S)
        network.cut("two")
        assert not arrives(one, two, 0.2)
        assert not arrives(two, one, 0.2)
        network.add("three")
        with bound(network, "three") as three:
            assert arrives(one, three, WAIT_S)
        network.mend("two")
        eventually(lambda: arrives(one, two, 0.05), "a datagram after the end of the cut")


def test_what_is_started_inside_is_inside_and_the_rest_is_not(namespaces: Any) -> None:
    with namespaces.Network("one") as network:
        inside = f"net:[{network.path_of('one').stat().st_ino}]"
        seen: list[str] = []
        with network.entered("one"):
            thread = threading.Thread(target=lambda: seen.append(os.readlink(OWN)))
            thread.start()
            thread.join()
            seen.append(subprocess.check_output(LOOK, text=True).strip())
        seen.append(subprocess.check_output(network.command("one", LOOK), text=True).strip())
        assert seen == [inside] * 3
        assert os.readlink(OWN) != inside


def test_none_is_left_after_a_failure(namespaces: Any) -> None:
    with pytest.raises(OSError, match="File exists"):
        namespaces.Network("one", "one")
    with pytest.raises(ZeroDivisionError), namespaces.Network("one") as network, network.entered("one"):
        raise ZeroDivisionError


def test_those_of_the_dead_are_removed_and_no_others(namespaces: Any) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    path = Path(f"/run/netns/zkv-{process.pid}-one")
    subprocess.run(["ip", "netns", "add", path.name], check=True)
    with namespaces.Network("one") as network:  # it looks for them
        assert not path.exists()
        namespaces.remove_abandoned()
        assert network.path_of("one").exists()


def test_a_cluster_goes_on_without_a_node_that_is_cut_off(namespaces: Any) -> None:
    with (
        namespaces.Network("clients", "manager", "server1", "server2", "server3") as network,
        network.entered("clients"),
        # Of two nodes that have only just met, and do not agree, each would be dropped from the other's shards.
        namespaces.NamespacedCluster(network, nodes=3, replicas=3, shards=4) as cluster,
        cluster.client(timeout_s=WAIT_S) as kv,
    ):
        first = kv.put("key", 1)
        cluster.partition(first.server)
        second = kv.put("key", 2)
        assert second.server != first.server
        cluster.pause(first.server)  # it ends all the same, and is still cut off then
        assert kv.get("key") == 2
