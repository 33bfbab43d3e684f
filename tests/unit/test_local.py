"""The parts of a launcher that need no process: plans, the run directory, the loop, the control channel, ports."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zkv.core.settings import ClusterSettings
from zkv.errors import SettingError
from zkv.local.control import ControlServer, Reply, call
from zkv.local.loop import Loop
from zkv.local.plan import LaunchError, NotRunning, Plan, node_names
from zkv.local.ports import reserve
from zkv.local.rundir import RunDir


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


# --- plans --------------------------------------------------------------------------------------------------------


def test_plan_crosses_as_one_line() -> None:
    plan = Plan(run_dir="/run", nodes=7, replicas=3, settings={"lease_ms": 500, "drift_margin": 0.2})
    assert "\n" not in plan.to_json()
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.cluster_settings() == ClusterSettings(nodes=7, replicas=3, lease_ms=500, drift_margin=0.2)
    assert plan.manager_flags() == [
        "--nodes", "7", "--replicas", "3", "--lease-ms", "500", "--drift-margin", "0.2",
    ]  # fmt: skip
    assert node_names(3) == ["server1", "server2", "server3"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"replicas": 6}, "replicas <= nodes"),
        ({"settings": {"lease": 1, "lease_ms": 600}}, "no cluster setting lease; there are .*lease_ms"),
        ({"settings": {"shards": "many"}}, "shards must be an integer"),
        ({"port": 65536}, "port is 65536"),
        ({"run_dir": "here"}, "must be absolute"),
    ],
)
def test_plan_that_cannot_be(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingError, match=complaint):
        Plan(**{"run_dir": "/run", "nodes": 5, "replicas": 3, **change})


# --- the run directory --------------------------------------------------------------------------------------------


def test_one_launcher_at_a_time(tmp_path: Path) -> None:
    first, second = RunDir(tmp_path / "run"), RunDir(tmp_path / "run")
    first.acquire()
    first.write({"supervisor": {"pid": 4711}})
    with pytest.raises(LaunchError, match=r"already runs in .*/run \(launcher pid 4711\): end it with") as refused:
        second.acquire()
    assert refused.value.exit_status == 2
    first.release()
    assert second.read() == {}
    second.acquire()
    second.release()


def test_a_new_start_begins_anew_and_the_end_keeps_the_logs(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.acquire()
    run_dir.write({"nodes": []})
    run_dir.state.mkdir()
    (run_dir.state / "map").touch()
    run_dir.log("server1").write_text("said\n")
    run_dir.release()
    assert sorted(path.name for path in run_dir.path.iterdir()) == ["lock", "server1.log"]
    run_dir.acquire()
    assert [path.name for path in run_dir.path.iterdir()] == ["lock"]
    run_dir.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"nodes": 3}', '{"manager": 1, "nodes": [{"pid": "x"}, null]}'])
def test_damaged_record_hinders_nobody(tmp_path: Path, content: str) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.lock_file.touch()
    run_dir.cluster_file.write_text(content)
    run_dir.acquire()
    run_dir.release()


def test_directory_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(LaunchError, match="not empty and no run directory"):
        RunDir(tmp_path).acquire()
    assert (tmp_path / "state").is_dir()
    assert not (tmp_path / "lock").exists()


def test_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=r"cannot use .* as run directory"):
        RunDir(tmp_path / "file").acquire()


def test_home_is_shown_as_people_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(RunDir(Path("~/.zkv/default"))) == "~/.zkv/default"
    assert str(RunDir(Path("/elsewhere"))) == "/elsewhere"


# --- the loop -----------------------------------------------------------------------------------------------------


def test_timers_come_in_order_and_can_be_cancelled(loop: Loop) -> None:
    called: list[str] = []
    loop.later(0.002, lambda: called.append("second"))
    loop.later(0.001, lambda: called.append("first"))
    loop.later(0.0015, lambda: called.append("never")).cancel()
    while len(called) < 2:
        loop.turn()
    assert called == ["first", "second"]


def test_callback_removed_by_another_one_of_the_same_turn(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def first_of_all(index: int) -> None:
        called.append(index)
        loop.remove(pairs[1 - index][0].fileno())

    for index, (ours, theirs) in enumerate(pairs):
        loop.add(ours.fileno(), lambda index=index: first_of_all(index))  # type: ignore[misc]
        theirs.send(b"x")
    loop.turn()
    assert len(called) == 1
    loop.remove(pairs[called[0]][0].fileno())
    for pair in pairs:
        for end in pair:
            end.close()


def test_wake_from_another_thread(loop: Loop) -> None:
    called: list[int] = []
    loop.on_wake(lambda: called.append(1))
    thread = threading.Thread(target=loop.wake)
    thread.start()
    while not called:
        loop.turn()
    thread.join()


def test_wake_after_the_end_is_harmless() -> None:
    loop = Loop()
    loop.close()
    loop.wake()


# --- the control channel ------------------------------------------------------------------------------------------


class Served:
    """A control channel whose loop runs in the test's thread while a caller waits in another."""

    def __init__(self, loop: Loop, run_dir: RunDir) -> None:
        self.loop = loop
        self.requests: list[dict[str, Any]] = []
        run_dir.path.mkdir(exist_ok=True)
        self.server = ControlServer(loop, run_dir, self._handle)

    def _handle(self, request: dict[str, Any], reply: Reply) -> None:
        self.requests.append(request)
        if request["do"] == "fail":
            reply.error("it cannot be", exit_status=2)
        else:
            reply.ok(echo=request)

    def close(self) -> None:
        self.server.close()
        self.server.hang_up()

    def while_it_runs(self, target: Any) -> list[Any]:
        answers: list[Any] = []

        def caller() -> None:
            try:
                answers.append(target())
            except LaunchError as error:
                answers.append(error)
            self.loop.wake()

        thread = threading.Thread(target=caller)
        thread.start()
        while not answers:
            self.loop.turn()
        thread.join()
        return answers


def test_request_and_answer(loop: Loop, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / ("d" * 120))  # longer than a socket's address may be
    served = Served(loop, run_dir)
    assert run_dir.socket.stat().st_mode & 0o777 == 0o600
    request = {"do": "status", "names": ["server1"]}
    assert served.while_it_runs(lambda: call(run_dir, request)) == [{"echo": request}]
    [error] = served.while_it_runs(lambda: call(run_dir, {"do": "fail"}))
    assert (str(error), error.exit_status) == ("it cannot be", 2)
    served.close()
    with pytest.raises(NotRunning):  # the file is still there, nobody listens
        call(run_dir, request)


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"\xff\n", b'"do"\n'])
def test_nonsense_is_refused(loop: Loop, tmp_path: Path, line: bytes) -> None:
    run_dir = RunDir(tmp_path)
    served = Served(loop, run_dir)

    def ask() -> Any:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(run_dir.socket))
            connection.sendall(line)
            with connection.makefile() as lines:
                return json.loads(lines.readline())

    [answer] = served.while_it_runs(ask)
    assert answer == {"ok": False, "error": "a request is one JSON object on one line", "exit_status": 2}
    assert served.requests == []
    served.close()


def test_launcher_that_does_not_answer(loop: Loop, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    served = Served(loop, run_dir)
    with pytest.raises(LaunchError, match="does not answer"):
        call(run_dir, {"do": "status"}, timeout_s=0.01)
    served.close()


# --- ports --------------------------------------------------------------------------------------------------------


def test_reserved_port_can_be_listened_on_by_whom_it_is_for() -> None:
    reserved, port = reserve(0)
    listener = socket.create_server(("127.0.0.1", port))  # asks to share it, as ZeroMQ does
    with pytest.raises(LaunchError, match=f"port {port} cannot be used") as refused:
        reserve(port)
    assert refused.value.exit_status == 2
    listener.close()
    if reserved is not None:
        reserved.close()
