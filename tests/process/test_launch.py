"""`zkv-launch` as a user has it: starting, ending, and every way of ending that leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.process.support import (
    WAIT_S,
    command,
    environment,
    eventually,
    gone,
    is_up,
    marked_processes,
    run,
    sleeper,
    succeed,
)
from zkv.net.admin import AdminLink

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="looks for processes as Linux shows them"),
]

SMALL = ("--nodes", "3", "--rep", "2", "--shards", "64", "--port", "0")
# With these nobody is found dead by silence while a test runs.
PATIENT = ("--suspect-ms", "300000", "--dead-ms", "600000")


class Launched:
    """A launcher in the foreground, as in a terminal of its own."""

    def __init__(self, run_dir: Path, *arguments: str) -> None:
        self.run_dir = run_dir
        self.process = subprocess.Popen(
            command("launch", "start", "--run-dir", str(run_dir), *arguments), env=environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if line.startswith("Logs are in"):
                break
        if "is ready" not in self.said:
            self.end()
            pytest.fail(self.said)

    def ask(self, what: str, *arguments: str) -> str:
        return succeed("launch", what, *arguments, "--run-dir", str(self.run_dir))

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.ask("status", "--json"))
        return status

    @property
    def manager(self) -> str:
        return str(self.status()["manager"]["endpoint"])

    def node(self, name: str) -> dict[str, Any]:
        return next(node for node in self.status()["nodes"] if node["name"] == name)

    def pids(self) -> list[int]:
        status = self.status()
        return [entry["pid"] for entry in [status["manager"], *status["nodes"]] if entry["up"]]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=WAIT_S)


Launch = Callable[..., Launched]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts launchers in the foreground, and ends those that are left."""
    with ExitStack() as stack:

        def launch(*arguments: str, run_dir: Path = tmp_path / "run") -> Launched:
            launched = Launched(run_dir, *(arguments or SMALL))
            stack.callback(launched.end)
            return launched

        yield launch


# --- starting and stopping ----------------------------------------------------------------------------------------


def test_detached_cluster_from_start_to_stop(tmp_path: Path) -> None:
    run_dir = str(tmp_path / "run")
    said = succeed("launch", "start", *SMALL, "--detach", "--run-dir", run_dir)
    status = json.loads(succeed("launch", "status", "--json", "--run-dir", run_dir))

    assert set(status) == {"manager", "nodes"}
    assert set(status["manager"]) == {"endpoint", "pid", "up"}
    assert [set(node) for node in status["nodes"]] == [{"name", "pid", "endpoint", "up", "state", "boot"}] * 3
    assert [node["name"] for node in status["nodes"]] == ["server1", "server2", "server3"]
    for entry in [status["manager"], *status["nodes"]]:
        assert entry["up"] is True
        assert is_up(entry["pid"])
        assert re.fullmatch(r"tcp://127\.0\.0\.1:\d+", entry["endpoint"])
        assert re.search(rf"\b{entry['pid']} +{re.escape(entry['endpoint'])}$", said, re.MULTILINE)

    manager = status["manager"]["endpoint"]
    assert f"export ZKV_MANAGER={manager}" in said
    with AdminLink(manager) as link:
        cluster = link.status()
    assert cluster["inactive_shards"] == 0  # start returned: every shard is served
    assert (cluster["shards"], cluster["replicas"]) == (64, 2)
    assert re.fullmatch(r"OK, server[123]\n", succeed("client", "put", "key1", "value1", ZKV_MANAGER=manager))

    assert (tmp_path / "run" / "cluster.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "run" / "control.sock").stat().st_mode & 0o777 == 0o600
    record = json.loads((tmp_path / "run" / "cluster.json").read_text())
    launcher = record["supervisor"]["pid"]
    assert [node["pid"] for node in record["nodes"]] == [node["pid"] for node in status["nodes"]]
    assert all(re.fullmatch(r"[0-9a-f]{16}", node["boot"]) for node in record["nodes"])

    assert succeed("launch", "stop", "--run-dir", run_dir) == "stopped\n"
    assert all(not is_up(entry["pid"]) for entry in [status["manager"], *status["nodes"]])
    assert gone(launcher)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "launcher.log", "lock", "manager.log", "server1.log", "server2.log", "server3.log",
    ]  # fmt: skip


@pytest.mark.parametrize("request_", [["status"], ["stop"], ["kill", "server1"], ["restart", "manager"]])
def test_without_a_cluster(tmp_path: Path, request_: list[str]) -> None:
    done = run("launch", *request_, "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 3
    assert done.stderr == (
        f"Error: no cluster runs in {tmp_path}/run: start one with `zkv-launch start`, "
        "or name its directory with --run-dir\n"
    )
    assert not (tmp_path / "run").exists()


def test_status_says_what_is_dead(launch: Launch) -> None:
    cluster = launch()
    pid = cluster.node("server2")["pid"]
    assert cluster.ask("kill", "server2") == f"server2 (pid {pid}) was sent SIGKILL\n"
    assert cluster.node("server2").items() >= {"pid": None, "up": False, "state": "dead"}.items()
    assert re.search(r"^server2 +- +dead +tcp://", cluster.ask("status"), re.MULTILINE)
    done = run("launch", "kill", "server2", "--run-dir", str(cluster.run_dir))
    assert (done.returncode, done.stderr) == (3, "Error: server2 is not running\n")


def test_run_directory_too_long_for_a_socket_address(tmp_path: Path) -> None:
    run_dir = str(tmp_path / ("long" * 30))
    succeed("launch", "start", *SMALL, "--detach", "--run-dir", run_dir)
    assert "server3" in succeed("launch", "status", "--run-dir", run_dir)
    succeed("launch", "stop", "--run-dir", run_dir)


# --- no orphan ----------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_all_in_order(launch: Launch) -> None:
    cluster = launch()
    pids = cluster.pids()
    group = os.getpgid(cluster.process.pid)
    assert all(os.getpgid(pid) != group for pid in pids)  # what a terminal sends reaches the launcher alone
    os.killpg(group, signal.SIGINT)
    assert cluster.process.wait(WAIT_S) == 0
    assert not any(is_up(pid) for pid in pids)
    log = (cluster.run_dir / "launcher.log").read_text()
    ends = re.findall(r"launcher: (\w+) ended with status 0$", log, re.MULTILINE)
    assert sorted(ends[:3]) == ["server1", "server2", "server3"]
    assert ends[3:] == ["manager"]


def test_ctrl_c_during_the_start(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = subprocess.Popen(
        command("launch", "start", *SMALL, "--run-dir", str(run_dir)), env=environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip
    eventually((run_dir / "manager.log").exists, "the manager is started")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_S)
    assert "Traceback" not in errors
    assert not (run_dir / "cluster.json").exists()


def test_stop_does_not_wait_for_a_stopped_process(launch: Launch) -> None:
    cluster = launch()
    pids = cluster.pids()
    cluster.ask("kill", "server1", "manager", "--signal", "STOP")
    cluster.ask("stop")
    assert not any(is_up(pid) for pid in pids)
    assert cluster.process.wait(WAIT_S) == 0
    log = (cluster.run_dir / "launcher.log").read_text()
    assert "server1 ended with status 0" in log  # and not by SIGKILL, when the patience with it was over
    assert "manager ended with status 0" in log


def test_sigkill_of_the_launcher_leaves_nothing_and_hinders_nobody(launch: Launch) -> None:
    cluster = launch()
    pids = cluster.pids()
    port = cluster.manager.rpartition(":")[2]
    cluster.ask("kill", "server2", "--signal", "STOP")  # SIGTERM would not reach it
    cluster.process.kill()
    assert all(gone(pid) for pid in pids)
    cluster.process.wait(WAIT_S)
    assert (cluster.run_dir / "cluster.json").exists()  # nobody was left to remove it
    assert (cluster.run_dir / "control.sock").exists()
    assert run("launch", "status", "--run-dir", str(cluster.run_dir)).returncode == 3

    again = launch("--nodes", "3", "--rep", "2", "--shards", "64", "--port", port)
    assert again.manager.rpartition(":")[2] == port
    assert not set(again.pids()) & set(pids)
    assert run("client", "get", "key1", ZKV_MANAGER=again.manager).returncode == 1  # a new, empty cluster


@pytest.mark.parametrize("ours", [True, False])
def test_what_a_killed_launcher_recorded(launch: Launch, tmp_path: Path, ours: bool) -> None:
    """A child that it left is ended before a new start; a process that only got the pid of one is left alone."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "lock").touch()
    with sleeper() as process:
        start_time = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        entry = {"name": "server1", "pid": process.pid, "start_time": start_time if ours else "1"}
        (run_dir / "cluster.json").write_text(json.dumps({"format": 1, "manager": None, "nodes": [entry]}))
        launch()
        assert is_up(process.pid) is not ours


# --- what cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detach", [["--detach"], []])
def test_second_start_in_the_same_run_directory(launch: Launch, detach: list[str]) -> None:
    cluster = launch()
    pids = cluster.pids()
    done = run("launch", "start", *SMALL, *detach, "--run-dir", str(cluster.run_dir))
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: a cluster already runs in {cluster.run_dir} (launcher pid {cluster.process.pid}): end it with "
        f"`zkv-launch stop --run-dir {cluster.run_dir}`, or start this one beside it with --run-dir OTHER --port 0\n"
    )
    assert cluster.pids() == pids


@pytest.mark.parametrize("detach", [["--detach"], []])
def test_port_taken(tmp_path: Path, detach: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("launch", "start", "--port", str(port), *detach, "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: port {port} cannot be used (address already in use): "
        "name another with --port, or --port 0 for any free one\n"
    )
    assert not marked_processes()


def test_second_cluster_on_the_same_port(launch: Launch, tmp_path: Path) -> None:
    cluster = launch()
    port = cluster.manager.rpartition(":")[2]
    done = run("launch", "start", "--port", port, "--detach", "--run-dir", str(tmp_path / "second"))
    assert done.returncode == 2
    assert f"port {port} cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1


def test_directory_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "state").write_text("precious")
    done = run("launch", "start", *SMALL, "--run-dir", str(tmp_path / "mine"))
    assert done.returncode == 2
    assert "is not empty and no run directory of zkv" in done.stderr
    assert (tmp_path / "mine" / "state").read_text() == "precious"
    (tmp_path / "mine" / "state").unlink()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["start", "--nodes", "2", "--rep", "3"], "replicas <= nodes"),
        (["start", "--nodes", "0"], "nodes is 0"),
        (["start", "--lease-ms", "100000"], "lease_ms"),
        (["start", "--port", "70000"], "70000"),
        (["kill"], "NAME"),
        (["kill", "server1", "--after", "-1"], "--after"),
        (["kill", "server1", "--signal", "HUP"], "HUP"),
        (["restart", "server1"], "server1"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    done = run("launch", *arguments, "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not (tmp_path / "run").exists()


def test_kill_of_an_unknown_name(launch: Launch) -> None:
    done = run("launch", "kill", "server4", "--run-dir", str(launch().run_dir))
    assert done.returncode == 2
    assert done.stderr == "Error: there is no 'server4' here: there are server1, server2, server3, manager\n"


# --- deaths -------------------------------------------------------------------------------------------------------


def reaped(cluster: Launched, name: str) -> bool:
    """Whether the manager says that it was told of the death of `name` by who reaped it."""
    record = json.loads((cluster.run_dir / "cluster.json").read_text())
    boot = next(node["boot"] for node in record["nodes"] if node["name"] == name)
    return f"{name} ({boot}) is dead: its process was reaped" in (cluster.run_dir / "manager.log").read_text()


def test_reaped_child_is_reported(launch: Launch) -> None:
    cluster = launch(*SMALL, *PATIENT)
    os.kill(cluster.node("server2")["pid"], signal.SIGKILL)  # nobody told the launcher
    eventually(lambda: reaped(cluster, "server2"), "the manager is told")
    with AdminLink(cluster.manager) as link:
        states = {node["name"]: node["state"] for node in link.status()["nodes"]}
    assert states == {"server1": "up", "server2": "dead", "server3": "up"}


def test_death_is_reported_to_a_manager_that_was_down(launch: Launch) -> None:
    cluster = launch(*SMALL, *PATIENT, "--no-manager-restart")
    cluster.ask("kill", "manager")
    cluster.ask("kill", "server2")
    assert cluster.status()["manager"]["up"] is False  # and the launcher answers meanwhile
    cluster.ask("restart", "manager")
    eventually(lambda: reaped(cluster, "server2"), "the manager is told")


def test_death_is_reported_to_a_manager_that_was_paused(launch: Launch) -> None:
    cluster = launch(*SMALL, *PATIENT)
    cluster.ask("kill", "manager", "--signal", "STOP")
    cluster.ask("kill", "server2")
    cluster.ask("status")
    cluster.ask("kill", "manager", "--signal", "CONT")
    eventually(lambda: reaped(cluster, "server2"), "the manager is told")


def test_kill_after(launch: Launch) -> None:
    cluster = launch()
    pids = {name: cluster.node(name)["pid"] for name in ("server1", "server2", "server3")}
    assert cluster.ask("kill", "server3", "--after", "3600") == (
        f"server3 (pid {pids['server3']}) will be sent SIGKILL in 3600 s\n"
    )
    cluster.ask("kill", "server1", "--after", "0.05")
    assert gone(pids["server1"])
    eventually(lambda: not cluster.node("server1")["up"], "server1 is reaped")
    assert is_up(pids["server3"])


def test_pause_and_resume(launch: Launch) -> None:
    cluster = launch()
    pid = cluster.node("server1")["pid"]

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    assert cluster.ask("kill", "server1", "--signal", "stop") == f"server1 (pid {pid}) was sent SIGSTOP\n"
    eventually(lambda: state() == "T", "server1 is stopped")
    assert cluster.node("server1")["up"] is True
    cluster.ask("kill", "server1", "--signal", "CONT")
    eventually(lambda: state() != "T", "server1 goes on")


# --- the manager --------------------------------------------------------------------------------------------------


def test_manager_that_dies_is_restarted_on_its_port_with_its_state(launch: Launch) -> None:
    cluster = launch()
    before = cluster.status()["manager"]
    with AdminLink(before["endpoint"]) as link:
        map_before = link.status()
    cluster.ask("kill", "manager")
    eventually(lambda: cluster.status()["manager"]["up"], "the manager is up again")
    after = cluster.status()["manager"]
    assert after["endpoint"] == before["endpoint"]
    assert after["pid"] != before["pid"]
    with AdminLink(after["endpoint"], timeout_s=WAIT_S) as link:
        map_after = link.status()
    assert map_after["cluster"] == map_before["cluster"]
    assert map_after["map_version"] >= map_before["map_version"]


def test_manager_that_dies_again_and_again(launch: Launch) -> None:
    cluster = launch()
    for _ in range(3):
        pid = eventually(lambda: cluster.status()["manager"]["pid"], "the manager is up")
        cluster.ask("kill", "manager")
        assert not is_up(pid)
    eventually(lambda: cluster.status()["manager"]["up"], "the manager is up again")
    succeed("client", "put", "key1", "value1", "--timeout", "20", ZKV_MANAGER=cluster.manager)


def test_restart_of_a_manager_that_runs(launch: Launch) -> None:
    cluster = launch()
    before = cluster.status()["manager"]
    said = cluster.ask("restart", "manager")
    after = cluster.status()["manager"]
    assert said == f"manager listens on {after['endpoint']} (pid {after['pid']})\n"
    assert (after["endpoint"], after["pid"] != before["pid"]) == (before["endpoint"], True)


def test_manager_restart_switched_off(launch: Launch) -> None:
    cluster = launch(*SMALL, "--no-manager-restart")
    endpoint = cluster.manager
    cluster.ask("kill", "manager")
    assert cluster.status()["manager"] == {"endpoint": endpoint, "pid": None, "up": False}
    assert re.search(r"^manager +- +dead +tcp://", cluster.ask("status"), re.MULTILINE)
    done = run("client", "get", "key1", "--timeout", "0.3", ZKV_MANAGER=endpoint)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    cluster.ask("restart", "manager")
    assert cluster.status()["manager"]["up"] is True
    assert run("client", "get", "key1", ZKV_MANAGER=endpoint).returncode == 1


def test_lock_is_not_inherited(launch: Launch) -> None:
    """Else a child that outlives its launcher for a moment would keep the next one from starting."""
    cluster = launch()
    cluster.ask("kill", "server1", "--signal", "STOP")
    os.kill(cluster.process.pid, signal.SIGSTOP)
    for pid in marked_processes():
        links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()] if pid != cluster.process.pid else []
        assert str(cluster.run_dir / "lock") not in links
    with (cluster.run_dir / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(cluster.process.pid, signal.SIGCONT)


def test_launcher_sleeps_while_nothing_happens(launch: Launch) -> None:
    cluster = launch()

    def switches() -> int:
        text = Path(f"/proc/{cluster.process.pid}/status").read_text()
        return int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)[0])

    cluster.ask("status")  # the last thing of the start is done
    before = switches()
    time.sleep(0.5)  # not to wait for something: this is the time in which nothing may happen
    assert switches() - before <= 5
