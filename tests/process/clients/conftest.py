"""What the tests of clients share: the faces, and for what harms nobody one cluster a module, empty before each test.

Whether anything is left is looked at when a module is through: its cluster outlives the tests.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
from collections.abc import Iterator

import pytest

from tests.process.clients.faces import FACES, Face
from tests.process.support import gone, marked_processes, own_listeners
from zkv import Client, LocalCluster


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After each module: no process of ours, no listening socket, no file of a running cluster."""
    directory = tmp_path_factory.mktemp("left")
    temporary = directory / "tmp"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ZKV_")]:
            patch.delenv(name)  # a developer's settings must not decide what is tested
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setenv("HOME", str(directory / "home"))
        listeners = own_listeners()
        yield
    left = {pid: command for pid, command in marked_processes().items() if not gone(pid, 5.0)}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"processes are left: {left}"
    assert own_listeners() == listeners, "a listening socket of the tests themselves is left"
    files = list(temporary.iterdir())
    assert not files, f"files are left: {files}"


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name == "uvloop" else ()) for name in FACES],
)
def face(request: pytest.FixtureRequest) -> Face:
    """A way of using zkv; each test is run with all of them."""
    if importlib.util.find_spec(request.param) is None and request.param != "blocking":
        pytest.skip(f"{request.param} is not installed")
    return Face(request.param)


@pytest.fixture(scope="module")
def cluster(nothing_is_left: None) -> Iterator[LocalCluster]:
    """A cluster that no test of the module disturbs."""
    with LocalCluster(nodes=3, replicas=2, shards=16) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def housekeeper(cluster: LocalCluster) -> Iterator[Client]:
    """A client that is under no test."""
    with cluster.client(timeout_s=30.0) as client:
        yield client


@pytest.fixture
def kv(face: Face, cluster: LocalCluster, housekeeper: Client) -> Iterator[Client]:
    """A client of a cluster without keys."""
    for prefix in ("", b""):
        housekeeper.mdelete(housekeeper.keys(prefix))
    with face.open(cluster.manager, timeout_s=30.0) as client:
        yield client
