"""Clusters of real processes that heal, grow, shrink, lose shards, and follow the operator's file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.process.support import WAIT_S, command, environment, eventually, gone, run, succeed
from zkv import LocalCluster
from zkv.core.shardmap import UP
from zkv.errors import ShardUnavailable, UsageError
from zkv.local.plan import Autoscale, LaunchError
from zkv.net.admin import AdminLink, AdminRefused

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="looks for processes as Linux shows them"),
]

Make = Callable[..., LocalCluster]
KEYS: dict[str | bytes, Any] = {f"key{number}": f"value{number}" for number in range(300)}


def copies(cluster: LocalCluster) -> set[int]:
    """How many living in-sync copies the shards have."""
    with AdminLink(cluster.manager) as link:
        map = link.map()
    return {sum(map.members[boot].state == UP for boot in shard.replicas) for shard in map.shards}


def kinds(cluster: LocalCluster) -> dict[str, list[dict[str, Any]]]:
    """The events so far, by kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in cluster.events():
        found.setdefault(event["kind"], []).append(event)
    return found


# --- healing ------------------------------------------------------------------------------------------------------


def test_it_heals_after_each_death_until_there_are_too_few_nodes(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=5, replicas=3, shards=64)
    with cluster.client() as kv:
        kv.mput(KEYS)
        for victim in ("server2", "server4"):
            cluster.kill(victim)
            status = cluster.wait_healthy()
            assert (status["short_shards"], status["moving"]["shards"], copies(cluster)) == (0, 0, {3})
            assert status["balance"]["copies"] < 1
            assert kv.mget(list(KEYS)) == list(KEYS.values())
        cluster.kill("server1")
        eventually(lambda: cluster.health()["health"] == "degraded", "two nodes cannot hold three copies")
        assert kv.mget(list(KEYS)) == list(KEYS.values())
        cluster.add()  # at rest again: the third copies are made
        assert copies(cluster) == {3}
        assert kv.mget(list(KEYS)) == list(KEYS.values())
    events = kinds(cluster)
    assert [event["node"] for event in events["death"]] == ["server2", "server4", "server1"]
    assert all("reaped" in event["evidence"] for event in events["death"])
    assert all(event["duration_ms"] >= 0 for kind in ("takeover", "fill") for event in events[kind])


def test_a_dead_node_is_replaced_under_its_name(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=3, replicas=3, shards=32, respawn=True)
    before = cluster.status()["nodes"]
    with cluster.client() as kv:
        kv.mput(KEYS)
        cluster.kill("server1", "server2")
        status = cluster.wait_healthy()
        assert copies(cluster) == {3}
        assert all(node["primaries"] for node in status["nodes"])
        assert kv.mget(list(KEYS)) == list(KEYS.values())
    after = cluster.status()["nodes"]
    assert [node["name"] for node in after] == ["server1", "server2", "server3"]
    assert [one["boot"] == other["boot"] for one, other in zip(before, after, strict=True)] == [False, False, True]
    assert [node["state"] for node in after] == ["up"] * 3
    cluster.kill("server3", signal="TERM")  # asked to end: that is no death
    eventually(lambda: cluster.status()["nodes"][2]["state"] == "left", "server3 leaves")


# --- growing and shrinking ----------------------------------------------------------------------------------------


@contextmanager
def load(cluster: LocalCluster) -> Iterator[dict[str, int]]:
    """Writes and reads all the time; what was acknowledged last. Any error fails the test at the end."""
    stop = threading.Event()
    newest: dict[str, int] = {}
    wrong: list[object] = []

    def work(number: int) -> None:
        with cluster.client() as kv:
            count = 0
            while not stop.is_set():
                key = f"load{number}-{count % 50}"
                try:
                    kv.put(key, count)
                    newest[key] = count
                    if kv.get(key) != count:
                        wrong.append(f"{key} is not {count}")
                except Exception as error:  # noqa: BLE001  # whatever it is, no client is to see it
                    wrong.append(error)
                count += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    try:
        eventually(lambda: len(newest) == 100, "the load has begun")
        yield newest
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_add_and_drain_under_load(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=3, replicas=2, shards=64)
    with load(cluster) as newest:
        assert cluster.add() == "server4"
        assert cluster.add(2, wait=False) == ["server5", "server6"]
        cluster.wait_healthy()
        held = {node["name"]: node["primaries"] + node["backups"] for node in cluster.health()["nodes"]}
        assert sorted(held) == cluster.names == [f"server{number}" for number in range(1, 7)]
        assert all(21 <= count <= 22 for count in held.values())  # 128 copies on six nodes
        cluster.drain("server1")
        assert cluster.status()["nodes"][0]["state"] == "left"
        cluster.drain("server2")
        cluster.wait_healthy()
    with cluster.client() as kv:
        assert kv.mget(list(newest)) == list(newest.values())
    assert [node["name"] for node in cluster.health()["nodes"]] == ["server3", "server4", "server5", "server6"]
    events = kinds(cluster)
    assert "death" not in events
    assert [event["node"] for event in events["drained"]] == ["server1", "server2"]


def test_drains_that_are_refused_forced_or_taken_back(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=3, replicas=3, shards=16)
    manager = {"ZKV_MANAGER": cluster.manager}
    for arguments, complaint in (
        (("drain", "server9"), "no node is called server9: there are server1, server2, server3"),
        (("drain", "server1"), "2 nodes would remain, and each shard is to have 3 copies: add a node first"),
        (("join", "server1"), "server1 is not being drained"),
    ):
        done = run("admin", *arguments, **manager)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert complaint in done.stderr
    with pytest.raises(AdminRefused, match="no node is called"):
        cluster.drain("server9")

    answer = json.loads(succeed("admin", "drain", "server1", "--force", "--no-wait", "--json", **manager))
    assert (answer["name"], answer["drained"]) == ("server1", False)
    eventually(lambda: len(cluster.health()["nodes"]) == 2, "it leaves although copies are lost with it")
    assert copies(cluster) == {2}


def test_a_drain_is_taken_back(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=4, replicas=3, shards=16, fill_bytes_per_s=64 * 1024)
    manager = {"ZKV_MANAGER": cluster.manager}
    values: dict[str | bytes, Any] = {f"key{number}": bytes(64 * 1024) for number in range(48)}
    with cluster.client() as kv:
        kv.mput(values)
        said = succeed("admin", "drain", "server1", "--no-wait", **manager)  # takes many seconds
        assert "server1 is being drained: it holds 12 copies" in said
        assert "server1 is being drained already" in run("admin", "drain", "server1", **manager).stderr
        assert re.search(r"^server1 +draining ", succeed("admin", "status", **manager), re.MULTILINE)
        assert succeed("admin", "join", "server1", **manager) == "server1 stays\n"
        status = cluster.health()
        assert (status["draining"], len(status["nodes"])) == ([], 4)
        assert kv.mget(list(values)) == list(values.values())


def test_a_node_that_dies_while_it_is_drained_is_a_dead_node(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=4, replicas=2, shards=16, fill_bytes_per_s=64 * 1024)
    with cluster.client() as kv:
        kv.mput({f"key{number}": bytes(16 * 1024) for number in range(32)})
        cluster.drain("server1", wait=False)
        cluster.kill("server1")
        assert cluster.wait_healthy()["draining"] == []
        assert None not in kv.mget([f"key{number}" for number in range(32)])


def test_what_a_local_cluster_cannot_do(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=1, replicas=1, shards=4)
    for count in (0, -1):
        with pytest.raises(UsageError, match="number of nodes"):
            cluster.add(count)
    with pytest.raises(LaunchError, match="one word"):
        cluster.add(zone="two words")
    cluster.close()
    for call in (cluster.wait_healthy, cluster.events, cluster.health, cluster.add):
        with pytest.raises(LaunchError, match="closed"):
            call()


def test_a_node_started_by_hand_joins_and_is_drained(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=2, replicas=2, shards=16)
    arguments = ("--name", "extra", "--manager", cluster.manager, "--weight", "2")
    node = subprocess.Popen(command("node", *arguments), env=environment(), stderr=subprocess.DEVNULL)
    try:

        def share() -> bool:
            status = cluster.health()
            held = {one["name"]: one["primaries"] + one["backups"] for one in status["nodes"]}
            return held == {"server1": 8, "server2": 8, "extra": 16} and not status["moving"]["shards"]

        eventually(share, "extra is given twice the share of the others")
        said = succeed("admin", "drain", "extra", ZKV_MANAGER=cluster.manager)
        assert said.startswith("extra is being drained: it holds 16 copies, ")
        assert said.endswith("extra has left\n")
        assert node.wait(WAIT_S) == 0
    finally:
        node.kill()
        node.wait()


def test_nodes_come_and_go_with_the_load(local_cluster: Make) -> None:
    """Idle nodes are let go down to the least number, and a dead one below it is replaced."""
    cluster = local_cluster(nodes=4, replicas=2, shards=16, autoscale=Autoscale(3, 4, hold_s=0.2, cooldown_s=0.2))

    def states() -> list[str]:
        return sorted(node["state"] for node in cluster.status()["nodes"])

    eventually(lambda: states() == ["left", "up", "up", "up"], "one is let go")
    cluster.kill(next(node["name"] for node in cluster.status()["nodes"] if node["up"]))
    eventually(lambda: states() == ["dead", "left", "up", "up", "up"], "another one is added")
    cluster.wait_healthy()
    log = (cluster.run_dir / "launcher.log").read_text()
    assert re.search(r"autoscale drains server\d: busy for .*at least 3 nodes", log)
    assert "autoscale adds server5: there are fewer than 3 nodes" in log


def test_the_launcher_adds_nodes_in_zones(tmp_path: Path) -> None:
    run_dir = {"ZKV_RUN_DIR": str(tmp_path / "run")}
    size = ("--nodes", "4", "--rep", "2", "--shards", "32", "--zones", "A,B", "--memory-limit", "32MiB")
    succeed("launch", "start", *size, "--port", "0", "--detach", **run_dir)
    try:
        status = json.loads(succeed("launch", "status", "--json", **run_dir))
        said = succeed("launch", "add", "--wait", **run_dir)
        assert said.startswith("server5 listens on tcp://127.0.0.1:")
        assert said.endswith("Everything is where it should be; the cluster is healthy.\n")
        flags = ("--zone", "B", "--weight", "2", "--memory-limit", "64MiB", "--json", "--wait")
        answer = json.loads(succeed("launch", "add", "1", *flags, **run_dir))
        assert [node["name"] for node in answer["nodes"]] == ["server6"]
        with AdminLink(status["manager"]["endpoint"]) as link:
            told = link.status()
            map = link.map()
        nodes = {node["name"]: (node["zone"], node["weight"]) for node in told["nodes"]}
        limits = {node["name"]: node["limit_bytes"] for node in told["nodes"]}
        assert limits == {**dict.fromkeys(limits, 32 * 2**20), "server6": 64 * 2**20}
        assert told["memory"]["fits_after_loss"] is True
        zones = [(name, zone) for name, (zone, _) in nodes.items()]
        assert [zone for _, zone in sorted(zones)] == ["A", "B", "A", "B", "A", "B"]
        assert nodes["server6"] == ("B", 2.0)
        for shard in map.shards:
            assert {map.members[boot].zone for boot in shard.replicas} == {"A", "B"}
        assert run("launch", "add", "--weight", "0", **run_dir).returncode == 2
    finally:
        succeed("launch", "stop", **run_dir)


# --- loss ---------------------------------------------------------------------------------------------------------


def test_lost_shards_wait_for_who_may_return_and_are_reset_when_nobody_can(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=2, replicas=1, shards=8)
    manager = {"ZKV_MANAGER": cluster.manager}
    with cluster.client() as kv:
        kv.mput(KEYS)
        key = next(key for key in KEYS if kv.locate(key) == "server1")
        assert "no shard is lost" in run("admin", "reset-shards", "--all-lost", "--yes", **manager).stderr

        cluster.pause("server1")
        eventually(lambda: cluster.health()["lost_shards"], "its shards count as lost")
        refused = run("admin", "reset-shards", "--all-lost", "--yes", **manager)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "server1" in refused.stderr
        assert "proven dead" in refused.stderr
        cluster.resume("server1")
        cluster.wait_healthy()
        assert kv.mget(list(KEYS)) == list(KEYS.values())

        eventually(lambda: "healed" in kinds(cluster), "the log says so")
        cluster.kill("server1")
        lost = eventually(lambda: cluster.health()["lost_shards"], "its shards are lost")
        with pytest.raises(ShardUnavailable):
            kv.get(key)
        unsure = run("admin", "reset-shards", "--all-lost", **manager)  # nobody there to be asked
        assert (unsure.returncode, "--yes" in unsure.stderr) == (2, True)
        assert f"All keys of {lost} shard" in unsure.stdout
        assert cluster.health()["lost_shards"] == lost
        answer = json.loads(succeed("admin", "reset-shards", "--all-lost", "--yes", "--json", **manager))
        assert len(answer["reset"]) == lost
        status = cluster.wait_healthy()
        assert (status["resets"], status["lost_shards"]) == (lost, 0)
        assert kv.get(key) is None
        assert kv.put(key, "again").server == "server2"
    assert {"lost", "reset"} <= set(kinds(cluster))


def test_a_cache_resets_what_it_has_lost_by_itself(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=2, replicas=1, shards=8, on_loss="reset", loss_grace_s=0.0)
    with cluster.client(timeout_s=WAIT_S) as kv:
        kv.mput(KEYS)
        cluster.kill("server1")
        status = cluster.wait_healthy()
        assert status["resets"] > 0
        values = kv.mget(list(KEYS))
    assert None in values
    assert {value for value in values if value is not None} <= set(KEYS.values())
    assert "reset" in kinds(cluster)


# --- the operator's file ------------------------------------------------------------------------------------------


def test_the_cluster_follows_the_operators_file(local_cluster: Make, tmp_path: Path) -> None:
    file = tmp_path / "map.json"

    def write(**shards: list[str]) -> None:
        body = {"nodes": ["server1", "server2", "server3"], "shards": {key[1:]: names for key, names in shards.items()}}
        file.with_suffix(".new").write_text(json.dumps(body).replace("_", "-"))
        file.with_suffix(".new").replace(file)  # as an editor does

    def held() -> list[list[str]]:
        with AdminLink(cluster.manager) as link:
            map = link.map()
        done = not any(shard.learners for shard in map.shards) and cluster.health()["inactive_shards"] == 0
        return [[map.name_of(boot) for boot in shard.replicas] for shard in map.shards] if done else []

    write(s0_3=["server1", "server2"], s4_7=["server2", "server1"])
    cluster = local_cluster(shard_map=file)
    assert cluster.names == ["server1", "server2", "server3"]
    assert held() == [["server1", "server2"]] * 4 + [["server2", "server1"]] * 4
    with cluster.client() as kv:
        kv.mput(KEYS)
        write(s0_3=["server3", "server2"], s4_7=["server2", "server1"])
        eventually(lambda: held() == [["server3", "server2"]] * 4 + [["server2", "server1"]] * 4, "it is followed")
        assert kv.mget(list(KEYS)) == list(KEYS.values())

        write(s0_3=[], s4_7=["server2", "server1"])
        eventually(lambda: cluster.health()["withheld_shards"] == 4, "four are withheld")
        assert cluster.health()["health"] == "unavailable"
        shown = succeed("admin", "map", ZKV_MANAGER=cluster.manager)
        assert re.search(r"^0-3 .*nobody \(withheld; kept by server3, server2\)$", shown, re.MULTILINE)
        with pytest.raises(ShardUnavailable, match="names no holder"):
            kv.mget(list(KEYS))

        write(s0_3=["server7"], s4_7=["server2", "server1"])
        eventually(lambda: cluster.health()["layout"]["refused"], "nonsense is refused")
        assert cluster.health()["withheld_shards"] == 4  # as a whole: nothing has changed

        write(s0_3=["server1", "server3"], s4_7=["server2", "server3"])
        eventually(lambda: held() == [["server1", "server3"]] * 4 + [["server2", "server3"]] * 4, "they are put back")
        assert kv.mget(list(KEYS)) == list(KEYS.values())
    assert {"layout", "layout_refused"} <= set(kinds(cluster))
    with pytest.raises(AdminRefused, match="the operator's file places the shards"):
        cluster.drain("server1")


# --- watching -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("status", "--watch", "--interval", "0.05", "--json"), ("events", "--follow", "--json")]
)
def test_watching_ends_with_ctrl_c(local_cluster: Make, arguments: tuple[str, ...]) -> None:
    cluster = local_cluster(nodes=2, replicas=2, shards=16)
    process = subprocess.Popen(
        command("admin", *arguments), env=environment(ZKV_MANAGER=cluster.manager, PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        cluster.kill("server2")
        while lines[-1].get("kind") != "death" and lines[-1].get("health") in (None, "healthy"):
            lines.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=WAIT_S)
    assert (process.returncode, errors) == (0, "")


def test_what_an_operator_sees(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=3, replicas=2, shards=16)
    manager = {"ZKV_MANAGER": cluster.manager}
    assert json.loads(succeed("admin", "rebalance", "--dry-run", "--json", **manager))["balanced"] is True
    assert succeed("admin", "rebalance", **manager) == "Nothing to move: every copy is where it should be.\n"
    assert json.loads(succeed("admin", "advise", "--json", **manager))["advice"] in ("none", "drain", "add")
    assert succeed("admin", "events", **manager).count(" joins from ") == 3
    events = [json.loads(line) for line in succeed("admin", "events", "--json", **manager).splitlines()]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    later = succeed("admin", "events", "--json", "--after", "1", "--limit", "2", **manager).splitlines()
    assert [json.loads(line)["number"] for line in later] == [2, 3]
    shards = json.loads(succeed("admin", "map", "--json", **manager))["shards"]
    assert [(shard["shard"], len(shard["replicas"]), shard["learners"]) for shard in shards] == [
        (number, 2, []) for number in range(16)
    ]
    pid = cluster.status()["nodes"][2]["pid"]
    cluster.kill("server3")
    assert gone(pid)
    cluster.wait_healthy()
    assert re.search(r"^server3 +dead ", succeed("admin", "status", **manager), re.MULTILINE)
