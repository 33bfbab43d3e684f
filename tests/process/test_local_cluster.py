"""`LocalCluster`, and with it what a cluster of real processes does when its members die, pause and return."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.support import WAIT_S, environment, eventually, gone, is_up, succeed
from zkv import LocalCluster
from zkv.errors import SettingError
from zkv.local.plan import LaunchError

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="looks for processes as Linux shows them"),
]

Make = Callable[..., LocalCluster]


def pids_of(cluster: LocalCluster) -> dict[str, int]:
    status = cluster.status()
    return {entry.get("name", "manager"): entry["pid"] for entry in [status["manager"], *status["nodes"]]}


def test_from_start_to_close(tmp_path: Path) -> None:
    with LocalCluster(nodes=3, replicas=2, shards=64) as cluster, cluster.client() as kv:
        assert cluster.names == ["server1", "server2", "server3"]
        assert cluster.health()["inactive_shards"] == 0
        put = kv.put("key1", "value1")
        assert put.server in cluster.names
        assert kv.get("key1") == "value1"
        pids = [*pids_of(cluster).values(), cluster.launcher_pid]
        run_dir = cluster.run_dir
        assert (run_dir / "server1.log").exists()
        assert repr(cluster) == f"<LocalCluster of 3 nodes, {cluster.manager}>"
    assert not any(is_up(pid) for pid in pids)
    assert not run_dir.exists()
    cluster.close()
    with pytest.raises(LaunchError, match="closed"):
        cluster.status()


def test_two_clusters_at_once(local_cluster: Make) -> None:
    first, second = (local_cluster(nodes=1, replicas=1, shards=16) for _ in range(2))
    with first.client() as one, second.client() as two:
        one.put("key", "first")
        assert two.get("key") is None


def test_run_directory_of_ones_own_is_kept(tmp_path: Path) -> None:
    with LocalCluster(nodes=1, replicas=1, shards=16, run_dir=tmp_path / "mine") as cluster:
        # The commands see it too.
        assert "server1" in succeed("launch", "status", "--run-dir", str(cluster.run_dir))
    assert (tmp_path / "mine" / "server1.log").exists()


def test_settings_reach_the_cluster(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=1, replicas=1, shards=16, lease_ms=700, drift_margin=0.125)
    assert cluster.health()["shards"] == 16
    manager = Path(f"/proc/{pids_of(cluster)['manager']}/cmdline").read_text().split("\0")
    assert manager[manager.index("--lease-ms") + 1] == "700"
    assert manager[manager.index("--drift-margin") + 1] == "0.125"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"replicas": 4, "nodes": 3}, "replicas <= nodes"),
        ({"lease": 3}, "no cluster setting lease"),
        ({"port": -1}, "port is -1"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, int], complaint: str) -> None:
    with pytest.raises(SettingError, match=complaint):
        LocalCluster(**options)  # type: ignore[arg-type]


def test_port_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(LaunchError, match="cannot be used"):
        LocalCluster(port=taken.getsockname()[1])


def test_a_start_that_fails_leaves_its_logs_and_says_where(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"not every shard was served within 0\.01 s; the logs are in ") as failed:
        LocalCluster(nodes=2, replicas=2, start_timeout_s=0.01)
    run_dir = Path(str(failed.value).rpartition("the logs are in ")[2])
    assert (run_dir / "manager.log").exists()
    for log in run_dir.iterdir():
        log.unlink()
    run_dir.rmdir()


# --- it ends with the process that made it ------------------------------------------------------------------------

SCRIPT = """
import os, sys, threading
from zkv import LocalCluster
made = []
def make():
    made.append(LocalCluster(nodes=2, replicas=2, shards=16))
    status = made[0].status()
    pids = [status["manager"]["pid"], made[0].launcher_pid, *(node["pid"] for node in status["nodes"])]
    print(*pids, made[0].run_dir, flush=True)
"""


def script(rest: str) -> tuple[subprocess.Popen[str], list[int], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + rest], env=environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    *pids, run_dir = process.stdout.readline().split()
    return process, [int(pid) for pid in pids], Path(run_dir)


@pytest.mark.parametrize("forked", [False, True])
def test_its_process_is_killed(forked: bool) -> None:
    """Also where a forked copy of it holds the same pipes and lives on."""
    fork = "if os.fork() == 0: import time; time.sleep(1000)\nsys.stdin.read()\n"
    process, pids, run_dir = script("make()\n" + (fork if forked else "sys.stdin.read()\n"))
    with process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if forked:
            eventually(lambda: len(children.read_text().split()) == 2, "the copy is made")
        copies = {int(pid) for pid in children.read_text().split()} - set(pids)
        process.kill()
        assert all(gone(pid) for pid in pids)
        assert not run_dir.exists()
        for pid in copies:
            os.kill(pid, signal.SIGKILL)


def test_its_process_ends_without_close() -> None:
    process, pids, run_dir = script("make()\n")
    with process:
        assert process.wait(WAIT_S) == 0
    assert all(gone(pid) for pid in pids)
    assert not run_dir.exists()


def test_the_end_of_a_forked_copy_ends_nothing() -> None:
    process, pids, _ = script(
        "make()\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait()\n"
        "print('waited', flush=True)\n"
        "sys.stdin.read()\n"
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waited\n"
        assert all(is_up(pid) for pid in pids)
        process.communicate("")


def test_the_thread_that_made_it_ends() -> None:
    process, pids, _ = script(
        "thread = threading.Thread(target=make)\n"
        "thread.start()\n"
        "thread.join()\n"
        "print('joined', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "joined\n"
        assert all_live_on(pids)
        process.communicate("")


def all_live_on(pids: list[int]) -> bool:
    """Whether none of them ends within a moment; the kernel would end them at once."""
    return not any(gone(pid, 0.05) for pid in pids)


def test_its_launcher_is_killed(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=2, replicas=2, shards=16)
    pids = pids_of(cluster)
    os.kill(cluster.launcher_pid, signal.SIGKILL)
    assert all(gone(pid) for pid in pids.values())
    with pytest.raises(LaunchError, match="no cluster runs"):
        cluster.status()
    cluster.close()
    assert not cluster.run_dir.exists()


# --- members die, pause, return -----------------------------------------------------------------------------------


def test_kill_returns_when_they_are_dead(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=4, replicas=3, shards=64)
    pids = pids_of(cluster)
    with cluster.client() as kv:
        keys: dict[str | bytes, str] = {f"key{number}": f"value{number}" for number in range(50)}
        kv.mput(keys)
        cluster.kill("server1", "server3")
        assert not is_up(pids["server1"])
        assert not is_up(pids["server3"])
        assert kv.mget(list(keys)) == list(keys.values())
    with pytest.raises(LaunchError, match="server1 is not running"):
        cluster.kill("server1")
    with pytest.raises(LaunchError, match="there is no 'server9' here"):
        cluster.kill("server9")


def test_paused_primary_is_passed_over_and_returns(local_cluster: Make) -> None:
    cluster = local_cluster(nodes=3, replicas=2, shards=64)
    with cluster.client(timeout_s=WAIT_S) as kv:
        first = kv.put("key", 1)
        cluster.pause(first.server)
        second = kv.put("key", 2)
        assert second.server != first.server
        assert second.version > first.version
        cluster.resume(first.server)
        assert kv.get("key") == 2


@pytest.mark.parametrize(
    "duration_s",
    [
        2.0,  # more than three leases
        pytest.param(60.0, marks=pytest.mark.slow),
    ],
)
def test_the_cluster_goes_on_without_its_manager(local_cluster: Make, duration_s: float) -> None:
    cluster = local_cluster(nodes=5, replicas=3, manager_restart=False)
    before = cluster.health()
    with cluster.client() as kv:  # clients that are there already do not need it
        kv.put("key0", "before")
        cluster.kill("manager")
        count = 0
        until = time.monotonic() + duration_s
        while time.monotonic() < until:
            key = f"key{count % 97}"
            kv.put(key, count)
            assert kv.get(key) == count
            count += 1
        assert cluster.status()["manager"]["up"] is False

        cluster.restart_manager()
        after = cluster.health()
        assert after["cluster"] == before["cluster"]
        assert after["map_version"] >= before["map_version"]

        primary = kv.put("key0", "again").server
        cluster.kill(primary)
        put = kv.put("key0", "last")
        assert put.server != primary
        assert kv.get("key0") == "last"


def test_client_without_a_subscription_finds_the_new_primary(local_cluster: Make) -> None:
    """Nobody tells it: its request goes unanswered, it asks the manager, sends again, and succeeds in time."""
    cluster = local_cluster(nodes=5, replicas=3)
    with cluster.client(subscribe=False) as kv:
        first = kv.put("key1", "value1")
        cluster.kill(first.server)
        assert kv.get("key1") == "value1"
        second = kv.put("key1", "value2")
        assert second.server != first.server
        assert second.version > first.version
        cluster.kill(second.server)
        third = kv.put("key1", "value3")
        assert third.server not in (first.server, second.server)


def test_client_that_wrote_while_its_primary_died(local_cluster: Make) -> None:
    """Writers in several threads do not notice more than a pause, and nothing acknowledged is lost."""
    cluster = local_cluster(nodes=5, replicas=3)
    stop = threading.Event()
    newest: dict[str, tuple[int, int]] = {}

    def write(key: str) -> None:
        with cluster.client(timeout_s=WAIT_S) as kv:
            count = 0
            while not stop.is_set():
                newest[key] = (kv.put(key, count).version, count)
                count += 1

    threads = [threading.Thread(target=write, args=(f"key{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    with cluster.client() as kv:
        eventually(lambda: len(newest) == 4, "all writers write")
        victim = kv.locate("key0")
        cluster.kill(victim)
        seen = dict(newest)
        eventually(lambda: all(newest[key][1] > seen[key][1] + 10 for key in seen), "all go on after the kill")
        stop.set()
        for thread in threads:
            thread.join()
        for key, (version, value) in newest.items():
            entry = kv.entry(key)
            assert entry is not None
            assert (entry.version, entry.value) == (version, value)
            assert entry.server != victim
