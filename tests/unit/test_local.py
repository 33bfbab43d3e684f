"""The parts of a launcher that need no process: plans, the run directory, the loop, the control channel, ports."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zkv.core.placement.layout import parse
from zkv.core.settings import ClusterSettings
from zkv.errors import SettingError
from zkv.local.autoscale import Autoscaler, Change
from zkv.local.backoff import Backoff
from zkv.local.control import ControlServer, Reply, call
from zkv.local.loop import Loop
from zkv.local.nodes import Nodes
from zkv.local.plan import Autoscale, LaunchError, NotRunning, Plan, node_names, nodes_of_shard_map
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
    limited = Plan(run_dir="/run", nodes=5, replicas=3, settings={"memory_limit_bytes": 2**28, "eviction": "lru"})
    assert limited.manager_flags()[4:] == ["--memory-limit", "268435456", "--eviction", "lru"]
    full = Plan(
        run_dir="/run", nodes=3, replicas=2, zones=("A", "B"), weights=(1.0, 2.0), respawn=True,
        autoscale=Autoscale(2, 4, 1.0, 2.0),
    )  # fmt: skip
    assert Plan.from_json(full.to_json()) == full
    assert [full.weight(place) for place in range(3)] == [1.0, 2.0, 1.0]
    placed = Plan(run_dir="/run", nodes=3, replicas=2, shard_map="/maps/three.json")
    assert placed.manager_flags()[-2:] == ["--shard-map", "/maps/three.json"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"replicas": 6}, "replicas <= nodes"),
        ({"settings": {"lease": 1, "lease_ms": 600}}, "no cluster setting lease; there are .*lease_ms"),
        ({"settings": {"shards": "many"}}, "shards must be an integer"),
        ({"port": 65536}, "port is 65536"),
        ({"run_dir": "here"}, "must be absolute"),
        ({"shard_map": "map.json"}, "shard_map is map.json, it must be absolute"),
        ({"weights": (0.0,)}, "weight is 0"),
        ({"zones": ("A", "")}, "empty zone"),
        ({"autoscale": Autoscale(2, 4)}, "nodes is 5, it must be within autoscale, 2 to 4"),
        ({"autoscale": Autoscale(5, 6), "shard_map": "/map"}, "exclude each other"),
    ],
)
def test_plan_that_cannot_be(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingError, match=complaint):
        Plan(**{"run_dir": "/run", "nodes": 5, "replicas": 3, **change})


SAMPLES = Path(__file__).resolve().parents[2] / "launch" / "shardmaps"


@pytest.mark.parametrize(("name", "nodes", "replicas"), [("two-full", 2, 2), ("three", 3, 2), ("five", 5, 3)])
def test_samples_of_shard_maps(name: str, nodes: int, replicas: int) -> None:
    path = SAMPLES / f"{name}.json"
    layout = parse(path.read_text())
    assert nodes_of_shard_map(str(path), None, None) == (str(path), nodes, replicas)
    assert {len(names) for names in layout.shards} == {replicas}
    led = Counter(names[0] for names in layout.shards)
    assert max(led.values()) - min(led.values()) <= 1, "primaries are balanced"


def test_a_shard_map_is_at_one_with_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"nodes": ["server1", "server2"], "shards": {"0-3": ["server2"]}}')
    assert nodes_of_shard_map(str(path), 2, 1) == (str(path), 2, 1)
    for nodes, replicas, complaint in ((3, None, "nodes is 3, but"), (None, 2, "replicas is 2, but")):
        with pytest.raises(SettingError, match=complaint):
            nodes_of_shard_map(str(path), nodes, replicas)
    path.write_text('{"nodes": ["server1", "disk7"], "shards": {"0-3": ["disk7"]}}')
    with pytest.raises(SettingError, match="names disk7: a launcher's nodes are called server1 to server2"):
        nodes_of_shard_map(str(path), None, None)
    path.write_text("{")
    with pytest.raises(SettingError, match="is refused: not JSON"):
        nodes_of_shard_map(str(path), None, None)


# --- nodes --------------------------------------------------------------------------------------------------------


class Started:
    """In place of a process."""

    def __init__(self, name: str) -> None:
        self.name, self.up, self.exit_status, self.pid, self.endpoint, self.boot_id = name, True, None, 7, "", 1


def test_a_node_keeps_its_memory_limit_when_it_is_replaced() -> None:
    started: list[tuple[str, str, float, int | None]] = []
    due: list[Any] = []

    def start(name: str, zone: str, weight: float, memory_limit_bytes: int | None) -> Any:
        started.append((name, zone, weight, memory_limit_bytes))
        return Started(name)

    plan = Plan(run_dir="/run", nodes=1, replicas=1, respawn=True)
    nodes = Nodes(plan, start=start, later=lambda delay_s, then: due.append(then), say=lambda text: None)
    assert nodes.add(1) == ["server1"]
    assert nodes.add(1, "rack2", 2.0, 2**30) == ["server2"]
    (child,) = (child for child in nodes.children() if child.name == "server2")
    child.up, child.exit_status = False, -9
    nodes.ended(child, "was killed")
    due[0]()
    assert started == [("server1", "", 1.0, None), *[("server2", "rack2", 2.0, 2**30)] * 2]


# --- replacing, adding, draining -----------------------------------------------------------------------------------


def test_backoff_grows_while_ends_come_early_and_is_forgotten_after_a_steady_run() -> None:
    backoff = Backoff(first_s=0.5, limit_s=2.0, steady_s=10.0)
    now_s = 100.0
    delays = []
    for _ in range(5):
        backoff.started(now_s)
        now_s += 1.0
        delays.append(backoff.ended(now_s))
    assert delays == [0.0, 0.5, 1.0, 2.0, 2.0]
    backoff.started(now_s)
    assert backoff.ended(now_s + 10.0) == 0.0


def advice(advice: str, nodes: int) -> dict[str, Any]:
    return {"advice": advice, "node": "server2", "reason": "so it is", "figures": {"nodes": nodes}}


class Advised:
    """An autoscaler that is asked at its own pace."""

    def __init__(self) -> None:
        self.autoscaler = Autoscaler(Autoscale(2, 4, hold_s=8.0, cooldown_s=30.0))
        self.now_s = 1000.0

    def changes(self, what: str, nodes: int, duration_s: float) -> list[tuple[float, Change]]:
        """What is changed, and after how long, if this is advised for a while."""
        assert self.autoscaler.interval_s == 2.0
        found = []
        begin_s = self.now_s
        while self.now_s < begin_s + duration_s:
            change = self.autoscaler.advised(advice(what, nodes), self.now_s)
            if change is not None:
                found.append((self.now_s - begin_s, change))
            self.now_s += 2.0
        return found


def test_advice_is_followed_once_it_has_lasted_and_then_there_is_a_pause() -> None:
    advised = Advised()
    add = Change(None, "so it is, for 8 s")
    assert advised.changes("add", 3, 6.0) == []
    assert advised.changes("none", 3, 2.0) == []  # it did not last
    assert advised.changes("add", 3, 20.0) == [(8.0, add)]
    (again,) = advised.changes("add", 3, 22.0)  # 30 s after the first
    assert again[0] == 18.0
    assert advised.changes("drain", 3, 60.0)[0][1].drain == "server2"


def test_advice_never_leads_out_of_bounds() -> None:
    assert Advised().changes("add", 4, 100.0) == []
    assert Advised().changes("drain", 2, 100.0) == []
    for what in ("none", "drain", "add"):
        assert Advised().changes(what, 1, 20.0)[0][1] == Change(
            None, "there are fewer than 2 nodes, for 8 s"
        ), "below the bounds nodes are added whatever is advised"


def test_advice_does_not_last_while_the_manager_is_away() -> None:
    advised = Advised()
    assert advised.changes("add", 3, 4.0) == []
    advised.now_s += 60.0
    assert advised.changes("add", 3, 10.0)[0][0] == 8.0


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


def test_posts_of_another_thread(loop: Loop) -> None:
    called: list[int] = []

    def post() -> None:
        for number in range(3):
            loop.post(lambda number=number: called.append(number))  # type: ignore[misc]

    thread = threading.Thread(target=post)
    thread.start()
    while len(called) < 3:
        loop.turn()
    thread.join()
    assert called == [0, 1, 2]


def test_post_after_the_end_is_harmless() -> None:
    loop = Loop()
    loop.close()
    loop.post(lambda: pytest.fail("nobody is left to do this"))


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
            self.loop.post(lambda: None)

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
