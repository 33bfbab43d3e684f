"""For tests of programs that use zkv: `zkv_cluster` and `zkv_client`, real clusters as pytest fixtures.

    def test_my_cache_survives_a_crash(zkv_cluster, zkv_client):
        zkv_client.put("key1", "value1")
        zkv_cluster.kill(zkv_client.locate("key1"))
        assert zkv_client.get("key1") == "value1"

Every test gets a new cluster. A cluster is the memory of its processes, and only new processes are certain to know
nothing of the test before: keys can be deleted, but versions, where copies live, and whom the manager has learned to
distrust would stay, and a test that passes because of its neighbour is worth less than the half second that a small
cluster takes to start. Where those add up, `shared=True` takes one cluster for all tests that ask for the same: it is
emptied before each of them, and replaced where somebody has killed, paused, partitioned, added or drained in it, or
where it is not as it was at its start for any other reason.

What a cluster is like comes from these, the later ones first: the ini option `zkv_cluster`, the fixture
`zkv_cluster_options`, the marker `zkv`, an indirect parameter of `zkv_cluster`. docs/TESTING.md has examples.

Every pytest run loads this module wherever zkv is installed: so nothing else of zkv is imported before it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from zkv import Client, LocalCluster

DEFAULTS: Final = {"nodes": 3, "replicas": 2, "shards": 16}
"""Any node may die, and the others make up for it. Few shards have soon been moved to where they belong."""
SHARED_LIMIT: Final = 3
"""Shared clusters of different settings that run at the same time."""
LOG_LINES: Final = 20
"""Of each log, with the report of a test that failed."""

_MARKER: Final = (
    "zkv(shared=False, client={}, **options): what the cluster of zkv_cluster is like. `options`: those of "
    "zkv.LocalCluster, `nodes=5, lease_ms=300`; `client`: those of zkv_client; `shared`: tests that ask for the same "
    "take turns with one cluster."
)


class _Wanted(NamedTuple):
    """What a test asks for."""

    cluster: dict[str, Any]
    client: dict[str, Any]
    shared: bool


class _Given(NamedTuple):
    """What a test has got."""

    cluster: LocalCluster
    client: dict[str, Any]


_GIVEN: Final = pytest.StashKey[_Given]()


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "clusters of zkv_cluster, one NAME=VALUE a line: `nodes=5`, `shared=true`, any option of zkv.LocalCluster"
    parser.addini("zkv_cluster", text, type="linelist", default=[])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


# --- fixtures ------------------------------------------------------------------------------------------------------


@pytest.fixture
def zkv_cluster_options() -> dict[str, Any]:
    """Options of `zkv_cluster`; for modules and conftest files to override."""
    return {}


@pytest.fixture
def zkv_client_options() -> dict[str, Any]:
    """Options of `zkv_client`, those of `zkv.Client`; for modules and conftest files to override."""
    return {}


@pytest.fixture
def zkv_cluster(
    request: pytest.FixtureRequest, zkv_cluster_options: Mapping[str, Any], _zkv_shared: _Shared
) -> Iterator[LocalCluster]:
    """A `zkv.LocalCluster` in which every key is served: `kill`, `pause`, `resume`, `partition`, `reconnect`, `add`, …

    3 nodes, 2 copies of each key, unless the marker `zkv`, the fixture `zkv_cluster_options`, the ini option
    `zkv_cluster` or an indirect parameter say otherwise.
    """
    from zkv import LocalCluster

    wanted = _wanted(request, zkv_cluster_options)
    if wanted.shared:
        cluster = _zkv_shared.take(wanted.cluster)
        request.node.stash[_GIVEN] = _Given(cluster, wanted.client)
        yield cluster
    else:
        with LocalCluster(**wanted.cluster) as cluster:
            request.node.stash[_GIVEN] = _Given(cluster, wanted.client)
            yield cluster


@pytest.fixture
def zkv_client(
    request: pytest.FixtureRequest, zkv_cluster: LocalCluster, zkv_client_options: Mapping[str, Any]
) -> Iterator[Client]:
    """A `zkv.Client` of `zkv_cluster`."""
    with zkv_cluster.client(**{**zkv_client_options, **request.node.stash[_GIVEN].client}) as client:
        yield client


@pytest.fixture(scope="session")
def _zkv_shared() -> Iterator[_Shared]:
    shared = _Shared()
    yield shared
    shared.close()


# --- what a test asks for ------------------------------------------------------------------------------------------


def _wanted(request: pytest.FixtureRequest, of_fixture: Mapping[str, Any]) -> _Wanted:
    options = _of_ini(request.config)
    options |= of_fixture
    client: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("zkv"))):  # the closest comes first, and has the last word
        if mark.args:
            raise pytest.UsageError(f"the marker zkv takes names and values, as in zkv(nodes=5), not {mark.args[0]!r}")
        options |= mark.kwargs
        client |= options.pop("client", {})
    parameter = getattr(request, "param", {})
    if not isinstance(parameter, Mapping):
        raise pytest.UsageError(f"a parameter of zkv_cluster is a dict of options, not {parameter!r}")
    options |= parameter
    client |= options.pop("client", {})
    shared = bool(options.pop("shared", False))
    return _Wanted(_completed(options), client, shared)


def _of_ini(config: pytest.Config) -> dict[str, Any]:
    options = {}
    for line in config.getini("zkv_cluster"):
        name, equals, text = (part.strip() for part in line.partition("="))
        if not equals or not name:
            raise pytest.UsageError(f"the ini option zkv_cluster is NAME=VALUE on each line, not {line!r}")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def _completed(options: dict[str, Any]) -> dict[str, Any]:
    """With defaults for what is not said. An operator's placement says everything; one node has one copy."""
    if "shard_map" in options:
        return options
    alone = {"replicas": 1} if options.get("nodes") == 1 else {}
    return {**DEFAULTS, **alone, **options}


# --- sharing -------------------------------------------------------------------------------------------------------


class _Shared:
    """Clusters that several tests use in turn, by what was asked for; the one used last is at the end."""

    def __init__(self) -> None:
        self._clusters: dict[str, tuple[LocalCluster, object]] = {}

    def take(self, options: dict[str, Any]) -> LocalCluster:
        """One that is as good as new."""
        from zkv import LocalCluster

        key = repr(sorted(options.items()))
        found = self._clusters.pop(key, None)
        if found is not None and not _is_as_new(*found):
            found[0].close()
            found = None
        if found is None:
            while len(self._clusters) >= SHARED_LIMIT:
                oldest, _ = self._clusters.pop(next(iter(self._clusters)))
                oldest.close()
            cluster = LocalCluster(**options)
            found = (cluster, _likeness(cluster))
        self._clusters[key] = found
        return found[0]

    def close(self) -> None:
        for cluster, _ in self._clusters.values():
            cluster.close()
        self._clusters.clear()


def _likeness(cluster: LocalCluster) -> object:
    """What stays the same for as long as nobody dies, comes, goes, or is suspected."""
    return cluster.status(), cluster.health()["map_version"]


def _is_as_new(cluster: LocalCluster, likeness: object) -> bool:
    """Whether a cluster that was used is what it was at its start; afterwards there are no keys in it."""
    from zkv import ZkvError

    try:
        if cluster.disturbed or _likeness(cluster) != likeness:
            return False
        with cluster.client(timeout_s=30.0) as kv:
            for prefix in ("", b""):
                kv.mdelete(kv.keys(prefix))
    except ZkvError:
        return False  # somebody closed it, or has ended its processes
    return True


# --- reports -------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With the failure of a test goes what its cluster said last."""
    report = yield
    given = item.stash.get(_GIVEN, None)
    if report.when == "call" and report.failed and given is not None:
        for name in ("launcher", "manager"):
            text = _tail(given.cluster.run_dir / f"{name}.log")
            if text:
                report.sections.append((f"zkv {name}.log", text))
    return report


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""  # the test has closed its cluster
    return "\n".join(lines[-LOG_LINES:])
