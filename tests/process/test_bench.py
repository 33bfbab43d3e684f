"""`zkv-bench` and `experiments/stress.py` on real clusters: they run, they count, and they leave nothing behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.support import WAIT_S, command, environment, run
from zkv import LocalCluster

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes as Linux shows them"),
]

Make = Callable[..., LocalCluster]
EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
FEW = ("--keys", "50", "--value-bytes", "20")


def test_every_mode_measures_and_takes_its_keys_away(local_cluster: Make) -> None:
    manager = (cluster := local_cluster(nodes=2, replicas=2, shards=16)).manager
    with cluster.client() as kv:
        kv.put("mine", "stays")
        for mode, *more in (
            ("one", "--reads", "0"), ("pipeline", "--clients", "2"), ("batch", "--batch", "10", "--read", "any"),
            ("asyncio", "--rate", "2000", "--zipf", "1"),
        ):  # fmt: skip
            done = run("bench", "--mode", mode, "--operations", "200", "--json", *FEW, *more, ZKV_MANAGER=manager)
            assert (done.returncode, done.stderr) == (0, "")
            figures = json.loads(done.stdout)
            assert (figures["mode"], figures["missed"], figures["skipped"]) == (mode, 0, 0)
            kinds = figures["kinds"]
            assert kinds["all"]["count"] == 200 or mode == "batch"  # where keys may be drawn twice
            assert ("get" in kinds) is (mode != "one")
            assert all(0 < one["p50_ms"] <= one["p99_9_ms"] <= one["max_ms"] for one in kinds.values())
            assert list(kv.keys("")) == ["mine"]
    check_table_and_interruption(cluster)


def check_table_and_interruption(cluster: LocalCluster) -> None:
    """As a table, with --keep, and when it is interrupted."""
    done = run("bench", "--seconds", "0.1", "--keep", "--prefix", "kept:", *FEW, ZKV_MANAGER=cluster.manager)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 client, one operation at a time, closed loop" in done.stdout
    assert re.search(r"^all( +[\d.,]+){7} +0$", done.stdout, re.MULTILINE)
    with cluster.client() as kv:
        assert kv.count("kept:") == 50
        for end in (signal.SIGINT, signal.SIGTERM):
            process = subprocess.Popen(
                command("bench", "--seconds", "1000", *FEW), env=environment(ZKV_MANAGER=cluster.manager),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            with process:
                assert process.stdout is not None
                while not (line := process.stdout.readline()).startswith("measuring: "):
                    assert line
                process.send_signal(end)
                _, errors = process.communicate(timeout=WAIT_S)
            assert (process.returncode, errors) == (128 + end, "interrupted\n")
            assert kv.count("") == 51


def test_nobody_is_there() -> None:
    done = run("bench", "--timeout", "0.2", ZKV_MANAGER="tcp://127.0.0.1:1")
    assert done.returncode == 3
    assert re.fullmatch(r"Error: .*start a cluster with .*\n", done.stderr)


def stress(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", EXPERIMENTS / "stress.py", *arguments, "--no-record"], env=environment(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * WAIT_S, check=False,
    )  # fmt: skip


def test_stress_while_the_operators_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    text = '{"nodes": ["server1", "server2"], "shards": {"0-7": ["server1", "server2"]}}'
    file.write_text(text)
    done = stress(
        "--get-qps", "200", "--set-qps", "100", "--ttl", "0.2s", "--duration", "1600ms", "--num-keys", "50",
        "--shard-map", str(file), "--churn",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout[done.stdout.index("Get requests") :].splitlines()
    assert lines[0] == "Get requests: 320/320 succeeded = 100.000000% success rate"
    assert lines[1] == "Set requests: 160/160 succeeded = 100.000000% success rate"
    assert re.fullmatch(r"Correct responses: (\d+)/\1 = 100\.000000%", lines[2])
    assert re.fullmatch(r"Total requests: 480 = \d+\.\d{6} QPS", lines[3])
    assert re.fullmatch(r"Holders were removed [1-9] times and put back \d times; .*", lines[-1])
    assert file.read_text() == text
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["map.json"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--help",), 0, "python experiments/stress.py --get-qps 600 --set-qps 200 --ttl 0.5s"),
        (("--shard-map", "no-such-file.json"), 1, "no-such-file.json cannot be read: No such file"),
    ],
)
def test_stress_says_how(arguments: tuple[str, ...], status: int, words: str) -> None:
    done = stress(*arguments)
    assert done.returncode == status
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
