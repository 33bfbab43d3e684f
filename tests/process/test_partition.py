"""`LocalCluster.partition`: what a cluster of real processes does when the network swallows what they send."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.process.support import WAIT_S, eventually
from zkv import LocalCluster
from zkv.errors import TimedOut, UsageError
from zkv.local.plan import LaunchError
from zkv.net.admin import AdminLink

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="looks for processes as Linux shows them"),
]

Make = Callable[..., LocalCluster]
KEYS = {f"key{number}": number for number in range(64)}


def states(cluster: LocalCluster) -> dict[str, str]:
    """Name -> state, as the manager sees the boots that run."""
    boots = {node["boot"] for node in cluster.status()["nodes"] if node["up"]}
    return {node["name"]: node["state"] for node in cluster.health()["nodes"] if node["boot"] in boots}


def shared(cluster: LocalCluster, *names: str) -> int:
    """How many shards have copies on all of these."""
    with AdminLink(cluster.manager) as link:
        shard_map = link.map()
    boots = {boot for boot, member in shard_map.members.items() if member.name in names}
    return sum(boots <= set(shard.replicas) for shard in shard_map.shards)


def kinds(cluster: LocalCluster) -> list[str]:
    return [event["kind"] for event in cluster.events()]


class Writer(threading.Thread):
    """Writes a counter under one key, and keeps what was acknowledged last."""

    def __init__(self, cluster: LocalCluster, key: str) -> None:
        super().__init__()
        self.key = key
        self.acknowledged: tuple[int, int] = (0, -1)
        self._cluster = cluster
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        with self._cluster.client(timeout_s=WAIT_S) as kv:
            count = 0
            while not self._over.is_set():
                self.acknowledged = (kv.put(self.key, count).version, count)
                count += 1

    def goes_on(self) -> None:
        """Wait for ten more."""
        seen = self.acknowledged[1]
        eventually(lambda: self.acknowledged[1] > seen + 10 or not self.is_alive(), f"{self.key} is written")
        assert self.is_alive()

    def end(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def writers() -> Iterator[Callable[..., list[Writer]]]:
    """Makes writers, which end with the test."""
    made: list[Writer] = []

    def make(cluster: LocalCluster, *keys: str) -> list[Writer]:
        made.extend(Writer(cluster, key) for key in keys)
        return list(made)

    yield make
    for writer in made:
        writer.end()


def check(kv: Any, writers: list[Writer]) -> None:
    """Every writer's last acknowledged write is there."""
    for writer in writers:
        writer.end()
        entry = kv.entry(writer.key)
        assert (entry.version, entry.value) == writer.acknowledged


def test_a_primary_that_is_cut_off_is_replaced_and_comes_back(
    local_cluster: Make, writers: Callable[..., list[Writer]]
) -> None:
    """Nothing acknowledged is lost, on neither side: the old primary acknowledges nothing any more."""
    cluster = local_cluster(nodes=4, replicas=3, shards=64)
    with cluster.client(timeout_s=WAIT_S) as kv:
        kv.mput(KEYS)
        busy = writers(cluster, "key0", "key1", "key2", "key3")
        for writer in busy:
            writer.goes_on()
        victim = kv.locate("key0")
        cluster.partition(victim)
        for writer in busy:
            writer.goes_on()
        cluster.wait_healthy()
        assert kv.exists("key0")
        assert kv.locate("key0") != victim
        assert states(cluster)[victim] == "down"
        assert cluster.status()["nodes"][cluster.names.index(victim)]["up"]

        cluster.reconnect()
        cluster.wait_healthy()
        assert states(cluster) == dict.fromkeys(cluster.names, "up")
        check(kv, busy)
        rest = [key for key in KEYS if key not in {writer.key for writer in busy}]
        assert kv.mget(rest) == [KEYS[key] for key in rest]


def test_two_nodes_that_cannot_reach_each_other(local_cluster: Make, writers: Callable[..., list[Writer]]) -> None:
    """The manager hears both, believes their accusations in the end, and lets them share no shard (SAFETY 32)."""
    cluster = local_cluster(nodes=4, replicas=3, shards=64)
    with cluster.client(timeout_s=WAIT_S) as kv:
        kv.mput(KEYS)
        assert shared(cluster, "server1", "server2")
        cluster.partition("server1", apart_from="server2")
        kv.mput({key: value + 1 for key, value in KEYS.items()})
        busy = writers(cluster, "key0", "key1", "key2", "key3")
        for writer in busy:
            writer.goes_on()
        eventually(lambda: not shared(cluster, "server1", "server2"), "they share no shard any more")
        eventually(lambda: cluster.health()["health"] == "healthy", "others take the copies")
        assert states(cluster) == dict.fromkeys(cluster.names, "up")
        cluster.reconnect()
        check(kv, busy)
        eventually(lambda: shared(cluster, "server1", "server2"), "they are brought together again")


def test_a_side_with_the_manager_and_one_without(local_cluster: Make) -> None:
    """Those of one side are among themselves, and the side that the manager is on goes on."""
    cluster = local_cluster(nodes=5, replicas=3, shards=64)
    with cluster.client(timeout_s=WAIT_S) as kv:
        kv.mput(KEYS)
        cluster.partition("server1", "server2")
        kv.mput({key: value + 1 for key, value in KEYS.items()})
        assert {kv.locate(key) for key in KEYS} <= {"server3", "server4", "server5"}
        cluster.reconnect()
        assert kv.mget(list(KEYS)) == [value + 1 for value in KEYS.values()]


def test_without_the_manager_reads_and_writes_go_on(local_cluster: Make, writers: Callable[..., list[Writer]]) -> None:
    cluster = local_cluster(nodes=3, replicas=2, shards=64)
    with cluster.client() as kv:
        kv.mput(KEYS)
        busy = writers(cluster, "key0", "key1")
        for writer in busy:
            writer.goes_on()
        cluster.partition("manager")
        eventually(lambda: "doubt" in kinds(cluster), "it hears nobody, and doubts itself")
        for writer in busy:
            writer.goes_on()
        cluster.reconnect()
        cluster.wait_healthy()
        check(kv, busy)


def test_clients_alone_are_cut_off(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=1, replicas=1, shards=16)
    with cluster.client() as kv:
        kv.put("key", 1)
        cluster.partition("server1", apart_from=["clients"])
        with pytest.raises(TimedOut) as cut:
            kv.put("key", 2, timeout_s=0.3)
        assert cut.value.outcome_unknown
        assert cluster.wait_healthy()["health"] == "healthy"  # the manager has no complaint
        cluster.reconnect()
        assert kv.get("key") == 1


def test_who_comes_later_is_cut_off_too(local_cluster: Make) -> None:
    """Here one that takes a dead one's place."""
    cluster = local_cluster(nodes=3, replicas=2, shards=16, respawn=True)
    cluster.partition("server1")
    cluster.kill("server1")
    eventually(lambda: cluster.status()["nodes"][0]["endpoint"] is not None and "server1" not in states(cluster),
               "another process bears its name")  # fmt: skip
    # This one is added later, and has its share by the time that this returns: the other could be in as well.
    assert cluster.add() == "server4"
    assert "server1" not in states(cluster)
    cluster.reconnect()
    cluster.wait_healthy()
    assert states(cluster) == dict.fromkeys(cluster.names, "up")


def test_a_paused_node_is_not_waited_for(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=3, replicas=2, shards=16)
    with cluster.client(timeout_s=WAIT_S) as kv:
        cluster.pause("server1")
        cluster.partition("server1")
        kv.mput(KEYS)
        cluster.resume("server1")
        cluster.wait_healthy()
        assert states(cluster)["server1"] == "down"  # it runs, and nobody hears it
        assert kv.mget(list(KEYS)) == list(KEYS.values())


def test_what_cannot_be(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=2, replicas=1, shards=16)
    with pytest.raises(LaunchError, match="there is no 'server3' here"):
        cluster.partition("server3")
    with pytest.raises(LaunchError, match="there is no 'server3' here"):
        cluster.partition("server1", apart_from="server3")
    with pytest.raises(UsageError, match="two sides"):
        cluster.partition()
    with pytest.raises(UsageError, match="both sides"):
        cluster.partition("server1", apart_from=["server1"])
    assert not (cluster.run_dir / "cuts.json").exists()
    cluster.reconnect()  # nothing to end
