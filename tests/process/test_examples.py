"""The programs in `examples/`, as users run them: warnings are errors, and each says at its end that all was right."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.process.support import WAIT_S, environment
from zkv import LocalCluster

pytestmark = pytest.mark.process

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
SAYS: Final = {
    "batch_loader": ["all records are there: True", "the counts are right: True"],
    "cache_decorator": ["three more:      3142 3142 3142"],
    "counter": ["4 processes counted 500 times each: 2000", "every call had a number of its own: True"],
    "leader_election": ["tokens grow: True", "a write of the first leader, too late: refused"],
    "sessions": ["ada's cart: ['lamp', 'book']", "secrets in use: 1", "20 vouchers were won 20 times"],
    "shared_arrays": ["equal to the product made here: True"],
    "training_barrier": ["after 25 steps: y = 2.92 * x + 1.14", "all 3 workers have the same model: True"],
    "web_handler": ["100 visitors were given the numbers 1 to 100: True", "{'page': '/about.html', 'visits': 1}"],
    "work_queue": ["jobs left: 0", "results as they should be: True"],
}
"""Lines that each prints, whatever the machine is doing."""
OF_PYTEST: Final = "test_with_fixtures"
OWN_CLUSTER: Final = "batch_loader"
"""Kills a node, and so asks for nobody else's cluster."""


def run(*arguments: str | Path, **extra: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], env=environment(**extra), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=4 * WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", SAYS)
def test_with_a_cluster_of_its_own(name: str) -> None:
    if name == "shared_arrays":
        pytest.importorskip("numpy")
    lines = run(EXAMPLES / f"{name}.py").splitlines()
    assert not [line for line in SAYS[name] if line not in lines]


@pytest.mark.slow
def test_twice_with_one_cluster_that_runs_already(local_cluster: Callable[..., LocalCluster]) -> None:
    """Nothing that a run leaves there is in the way of the next one."""
    pytest.importorskip("numpy")
    cluster = local_cluster(nodes=3, replicas=2)
    for name in [*SAYS, *SAYS]:
        if name != OWN_CLUSTER:
            lines = run(EXAMPLES / f"{name}.py", ZKV_MANAGER=cluster.manager).splitlines()
            assert not [line for line in SAYS[name] if line not in lines], name
    assert all(node["up"] for node in cluster.status()["nodes"])


def test_under_pytest() -> None:
    output = run("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / f"{OF_PYTEST}.py")
    assert re.search(r"^4 passed in ", output, re.MULTILINE)


def test_all_of_them_are_here_and_in_the_table() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {*SAYS, OF_PYTEST}
    table = re.findall(r"^\| \[(\w+)\.py\]\((\w+)\.py\) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert {*table} == {(name, name) for name in names}
