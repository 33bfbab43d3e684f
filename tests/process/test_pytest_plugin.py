"""`zkv.pytest_plugin`: other people's tests, run by a pytest of their own that finds the plugin as they would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.support import environment

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="looks for processes as Linux shows them"),
]

HELPERS = """
import os
from pathlib import Path
import pytest

def pids(cluster):
    status = cluster.status()
    return [status["manager"]["pid"], *(node["pid"] for node in status["nodes"])]

def note(cluster):
    with open("clusters", "a") as file:
        print(cluster.launcher_pid, file=file)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Where the tests of somebody else live, with warnings as errors and strict markers."""
    for name in [name for name in os.environ if name.startswith(("PYTEST_XDIST", "COV_"))]:
        monkeypatch.delenv(name)
    pytester.makeini("[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\n")
    return pytester


def passed(run: pytest.Pytester, text: str, count: int, *arguments: str) -> pytest.RunResult:
    """Run `text` as a test module, all of whose tests must pass."""
    run.makepyfile(HELPERS + text)
    result = run.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=count)
    return result


def clusters(run: pytest.Pytester) -> list[str]:
    """The launchers of the clusters that were noted, one for each note."""
    return (run.path / "clusters").read_text().split()


def test_every_test_has_a_new_cluster(run: pytest.Pytester) -> None:
    text = """
@pytest.mark.parametrize("number", range(2))
def test_new(zkv_cluster, zkv_client, number):
    note(zkv_cluster)
    assert zkv_cluster.names == ["server1", "server2", "server3"]
    assert not zkv_client.exists("key")
    zkv_client.put("key", number)
    zkv_cluster.kill(zkv_client.locate("key"))
    assert zkv_client.get("key") == number
    assert zkv_cluster.wait_healthy()["replicas"] == 2
"""
    passed(run, text, 2)
    assert len(set(clusters(run))) == 2


def test_nothing_is_left_where_a_test_fails(run: pytest.Pytester) -> None:
    run.makepyfile(HELPERS + """
def test_fails(zkv_cluster, zkv_client):
    zkv_client.put("key", 1)
    zkv_cluster.pause("server1")
    Path("pids").write_text(" ".join(map(str, pids(zkv_cluster))))
    zkv_cluster.kill("server2")
    assert zkv_client.get("key") == 2
""")  # fmt: skip
    result = run.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*zkv launcher.log*", "*sent SIGKILL to server2*", "*zkv manager.log*", "*map 1:*"])
    for pid in (run.path / "pids").read_text().split():
        assert not Path(f"/proc/{pid}").exists()


def test_options_and_who_has_the_last_word(run: pytest.Pytester) -> None:
    """ini, fixture, markers from the outside in, parameter."""
    with (run.path / "tox.ini").open("a") as ini:
        ini.write('\nzkv_cluster =\n    nodes=1\n    lease_ms = 500\n    zones=["a"]\n    on_loss=reset\n')
    text = """
def flag(cluster, name):
    command = Path(f"/proc/{pids(cluster)[0]}/cmdline").read_text().split(chr(0))
    return command[command.index(name) + 1]

@pytest.fixture
def zkv_cluster_options():
    return {"lease_ms": 550}

@pytest.fixture
def zkv_client_options():
    return {"timeout_s": 2.5, "subscribe": False}

def test_ini_and_fixture(zkv_cluster, zkv_client):
    assert flag(zkv_cluster, "--nodes") == flag(zkv_cluster, "--replicas") == "1"
    assert flag(zkv_cluster, "--lease-ms") == "550"
    assert flag(zkv_cluster, "--on-loss") == "reset"
    assert zkv_cluster.health()["nodes"][0]["zone"] == "a"
    assert zkv_client.timeout_s == 2.5

@pytest.mark.zkv(nodes=2, lease_ms=560, client={"timeout_s": 3.0, "raw": True})
class TestMarked:
    @pytest.mark.zkv(nodes=3, client={"timeout_s": 4.0})
    def test_marker(self, zkv_cluster, zkv_client):
        assert (flag(zkv_cluster, "--nodes"), flag(zkv_cluster, "--lease-ms")) == ("3", "560")
        assert zkv_client.timeout_s == 4.0
        with pytest.raises(ValueError, match="bytes"):
            zkv_client.put("key", "no bytes")

    @pytest.mark.parametrize("zkv_cluster", [{"nodes": 1}, {"nodes": 3}], indirect=True)
    def test_parameter(self, zkv_cluster):
        with open("nodes", "a") as file:
            print(flag(zkv_cluster, "--nodes"), file=file)
"""
    passed(run, text, 4)
    assert (run.path / "nodes").read_text().split() == ["1", "3"]


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        ("@pytest.mark.zkv(5)", "*the marker zkv takes names and values*not 5*"),
        ("@pytest.mark.zkv(lease=5)", "*there is no cluster setting lease*"),
        ("@pytest.mark.zkv(nodes=1, replicas=2)", "*replicas <= nodes*"),
        ('@pytest.mark.parametrize("zkv_cluster", [5], indirect=True)', "*is a dict of options, not 5*"),
    ],
)
def test_options_that_cannot_be(run: pytest.Pytester, head: str, complaint: str) -> None:
    run.makepyfile(HELPERS + f"\n{head}\ndef test_it(zkv_cluster): pass\n")
    result = run.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([complaint])


def test_an_ini_option_that_makes_no_sense(run: pytest.Pytester) -> None:
    run.makepyfile("def test_it(zkv_cluster): pass\n")
    result = run.runpytest_subprocess("-o", "zkv_cluster=nodes")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*NAME=VALUE on each line, not 'nodes'*"])


def test_a_shared_cluster_is_emptied(run: pytest.Pytester) -> None:
    text = """
@pytest.mark.parametrize("number", range(3))
def test_shared(zkv_cluster, zkv_client, number):
    note(zkv_cluster)
    assert zkv_client.mget(["key", b"key"]) == [None, None]
    assert zkv_client.keys("") == zkv_client.keys(b"") == []
    zkv_client.mput({"key": 1, b"key": 2})
    zkv_client.mput({f"key{number}": number for number in range(3000)})

@pytest.mark.zkv(shared=False)
def test_alone(zkv_cluster):
    note(zkv_cluster)
"""
    passed(run, text, 4, "-o", "zkv_cluster=shared=true")
    assert len(set(clusters(run)[:3])) == 1
    assert len(set(clusters(run))) == 2


@pytest.mark.slow
def test_a_shared_cluster_that_is_not_as_it_was_is_replaced(run: pytest.Pytester) -> None:
    text = """
import signal
pytestmark = pytest.mark.zkv(shared=True)

def kill(cluster): cluster.kill("server1")
def pause(cluster): cluster.pause("server1")
def paused(cluster): cluster.pause("server1"); cluster.resume("server1")
def partition(cluster): cluster.partition("server1"); cluster.reconnect()
def add(cluster): cluster.add(wait=False)
def drain(cluster): cluster.drain("server1", wait=False)
def restart(cluster): cluster.restart_manager()
def close(cluster): cluster.close()
def behind_its_back(cluster): os.kill(pids(cluster)[1], signal.SIGKILL)
def nothing(cluster): pass

@pytest.mark.parametrize("fault", [kill, pause, paused, partition, add, drain, restart, close, behind_its_back,
                                   nothing, nothing])
def test_shared(zkv_cluster, fault):
    note(zkv_cluster)
    assert zkv_cluster.health()["health"] == "healthy"
    assert len(zkv_cluster.names) == 3
    fault(zkv_cluster)
"""
    passed(run, text, 11)
    noted = clusters(run)
    assert len(set(noted)) == 10
    assert noted[-1] == noted[-2]


def test_shared_clusters_of_different_settings(run: pytest.Pytester) -> None:
    """Each has its own; those that were not used for the longest time end."""
    text = """
@pytest.mark.zkv(shared=True, nodes=1)
@pytest.mark.parametrize("zkv_cluster", [{"shards": n} for n in (1, 2, 3, 1, 4, 2, 1)], indirect=True)
def test_shared(zkv_cluster):
    note(zkv_cluster)
"""
    passed(run, text, 7)
    one, two, three, one_again, four, two_again, one_last = clusters(run)
    assert one == one_again == one_last
    assert two != two_again  # 3 at a time, and 4 came in its place
    assert len({one, two, three, four, two_again}) == 5


@pytest.mark.slow
def test_the_documentation(run: pytest.Pytester) -> None:
    """docs/TESTING.md: its examples run."""
    text = (Path(__file__).parents[2] / "docs" / "TESTING.md").read_text(encoding="utf-8")
    examples = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    modules = {text.split("\n")[0].removeprefix("# "): text for text in examples if text.startswith("# test_")}
    assert len(modules) == 2
    for name, example in modules.items():
        run.makepyfile(**{name.removesuffix(".py"): example})
    result = run.runpytest_subprocess()
    assert result.ret == 0
    assert list(result.parseoutcomes()) == ["passed"]


def test_loading_the_plugin_loads_nothing_else_of_zkv() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, zkv.pytest_plugin; print(*sorted(n for n in sys.modules if 'z' in n))"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = [name for name in done.stdout.split() if name.startswith(("zkv", "zmq", "msgpack", "xxhash"))]
    assert loaded == ["zkv", "zkv.pytest_plugin"]
