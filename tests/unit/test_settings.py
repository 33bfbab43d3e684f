"""The settings: bounds, relations, their way over the wire, and the documentation made from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkv.core.settings import (
    ClusterSettings,
    ManagerConfig,
    NodeConfig,
    SettingError,
    settings_of,
    split_endpoint,
    to_markdown,
)
from zkv.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_defaults_are_sound() -> None:
    ClusterSettings()
    NodeConfig(name="server1")
    ManagerConfig(in_memory=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replicas": 6, "scatter_width": 5}, ["replicas is 6", "nodes is 5", "replicas <= nodes"]),
        ({"scatter_width": 1}, ["scatter_width is 1", "replicas is 3"]),
        ({"heartbeat_ms": 200}, ["heartbeat_ms is 200", "suspect_ms is 400", "2 * heartbeat_ms < suspect_ms"]),
        ({"suspect_ms": 800}, ["suspect_ms is 800", "dead_ms is 800"]),
        ({"lease_ms": 299}, ["lease_ms is 299", "heartbeat_ms is 100"]),
        ({"lease_ms": 728}, ["lease_ms is 728", "drift_margin is 0.1", "dead_ms is 800"]),
        ({"session_ttl_ms": 264_000}, ["session_ttl_ms is 264000", "timeout_limit_ms is 120000"]),
        ({"shards": 0}, ["shards is 0", "at least 1"]),
        ({"shards": 65537}, ["shards is 65537", "at most 65536"]),
        ({"drift_margin": float("nan")}, ["drift_margin", "finite"]),
        ({"shards": 16.0}, ["shards must be an integer"]),
        ({"replicas": True}, ["replicas must be an integer"]),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        ClusterSettings(**changes)
    assert isinstance(caught.value, UsageError)
    for word in words:
        assert word in str(caught.value)


def test_relations_hold_at_their_edge() -> None:
    # 600 * (1 + 0.1) is more than 660 in floats; the edge belongs to what is allowed.
    ClusterSettings(lease_ms=600, dead_ms=660)
    ClusterSettings(lease_ms=300)
    ClusterSettings(heartbeat_ms=199, lease_ms=600)
    ClusterSettings(session_ttl_ms=264_001)
    with pytest.raises(SettingError):
        ClusterSettings(lease_ms=601, dead_ms=660)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ClusterSettings().shards = 7  # type: ignore[misc]


@given(st.integers(1, 65536), st.integers(1, 5), st.integers(300, 700), st.floats(0, 0.1))
def test_the_wire_brings_back_the_same(shards: int, replicas: int, lease_ms: int, drift_margin: float) -> None:
    settings = ClusterSettings(shards=shards, replicas=replicas, lease_ms=lease_ms, drift_margin=drift_margin)
    wire = settings.to_wire()
    assert all(type(value) in (int, float, str) for value in wire.values())
    assert ClusterSettings.from_wire(wire) == settings


def test_the_wire_of_another_version() -> None:
    assert ClusterSettings.from_wire({"shards": 16, "from_the_future": "?"}) == ClusterSettings(shards=16)


@pytest.mark.parametrize("wire", [None, [], {"shards": "16"}, {"shards": None}, {"lease_ms": -1}])
def test_a_bad_wire_is_refused(wire: Any) -> None:
    with pytest.raises(SettingError):
        ClusterSettings.from_wire(wire)


@pytest.mark.parametrize(
    ("endpoint", "parts"),
    [("tcp://127.0.0.1:0", ("127.0.0.1", 0)), ("tcp://[::1]:5550", ("::1", 5550)), ("tcp://*:1", ("*", 1))],
)
def test_endpoints(endpoint: str, parts: tuple[str, int]) -> None:
    assert split_endpoint(endpoint) == parts


@pytest.mark.parametrize(
    "endpoint", ["", "tcp://", "localhost:5550", "tcp://host", "tcp://host:", "tcp://host:65536", "ipc:///x:1",
                 "tcp://host:²"],
)  # fmt: skip
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(SettingError, match="tcp://HOST:PORT"):
        split_endpoint(endpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x" * 65},
        {"manager": "tcp://127.0.0.1:0"},
        {"manager": "tcp://*:5550"},
        {"bind": "tcp://0.0.0.0:0"},
        {"advertise": "tcp://10.0.0.1:0"},
        {"weight": 0.0},
        {"boot_id": 2**32 - 1},
        {"boot_id": 2**63},
        {"ready_fd": -1},
    ],
)
def test_nodes_that_could_not_work(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(changes))):
        NodeConfig(**{"name": "server1", **changes})


def test_a_wildcard_needs_a_name_for_others() -> None:
    NodeConfig(name="server1", bind="tcp://0.0.0.0:0", advertise="tcp://10.0.0.1:5560")


def test_a_manager_has_one_place_for_its_state() -> None:
    ManagerConfig(state_dir="state")
    for config in ({}, {"state_dir": "state", "in_memory": True}, {"state_dir": ""}):
        with pytest.raises(SettingError, match="state_dir"):
            ManagerConfig(**config)


def test_no_variable_means_two_things() -> None:
    seen = [
        setting.env
        for cls in (ClusterSettings, ManagerConfig, NodeConfig)
        for setting in settings_of(cls)
        if setting.env
    ]
    assert len(seen) == len(set(seen))


def test_identity_is_not_inherited() -> None:
    assert [setting.name for setting in settings_of(NodeConfig) if setting.env is None] == ["boot_id", "ready_fd"]


def test_every_default_lies_within_its_bounds() -> None:
    for cls in (ClusterSettings, ManagerConfig, NodeConfig):
        for setting in settings_of(cls):
            assert setting.help.endswith(".")
            if setting.default is not ...:
                setting.check(setting.default)


def test_the_documentation_is_current() -> None:
    assert (REPOSITORY / "docs" / "SETTINGS.md").read_text() == to_markdown(), "run `make settings`"
