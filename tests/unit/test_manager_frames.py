"""A manager takes whatever arrives: no frame of a stranger, and no strange frame of a node, may end it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.frames import BODIES
from tests.unit.manager_world import CLUSTER, World, boot_of
from zkv.core import wire

KINDS = [kind for name, kind in ((name, kind) for kind, name in wire.KIND_NAMES.items()) if name != "DEAD"]


@pytest.fixture(scope="module")
def formed() -> World:
    return World()


@given(st.binary(max_size=80))
@example(b"")
def test_noise_is_dropped(formed: World, frame: bytes) -> None:
    assert formed.step([(b"q", frame)]) == []


@given(st.sampled_from(KINDS), st.binary(max_size=60))
@example(wire.JOIN, b"\x81\x90\x01")
@example(wire.ACCUSE, b"\x91" * 600 + b"\x01")
def test_a_header_before_noise_changes_nothing(formed: World, kind: int, body: bytes) -> None:
    for sender in (boot_of("A"), 2**40):
        formed.step([(b"q", wire.encode_header(kind, CLUSTER, sender, 0, 0) + body)])
    assert formed.manager.map.version == 1


@given(st.sampled_from(KINDS), BODIES)
@example(wire.JOIN, {"name": "A", "endpoint": "tcp://h:1", "zone": "", "weight": float("inf")})
@example(wire.JOIN, {"name": "A", "endpoint": "tcp://h:1", "zone": "", "weight": float("nan")})
@example(wire.HEARTBEAT, [float("inf"), 1])
@example(wire.ACTIVE, [b"\xff" * 8, b"\xff" * 8])
@example(wire.ACCUSE, [[2**64 - 1]])
@example(wire.FILLED, [1, b"\xff" * 8, b"\xff" * 8])
@example(wire.ADMIN, ["drain", {"name": "A", "force": [1]}])
@example(wire.ADMIN, ["join", {"name": b"A"}])
@example(wire.ADMIN, ["reset", {"shards": [-1, 2**63, None]}])
@example(wire.ADMIN, ["events", {"after": float("inf"), "limit": 2**63}])
@example(wire.ADMIN, ["plan", {}])
def test_a_body_of_anything_changes_nothing(formed: World, kind: int, body: Any) -> None:
    frame = wire.encode(kind, CLUSTER, 2**40, 0, 0, body)
    formed.step([(b"q", frame), (b"", frame)])
    assert formed.manager.map.version == 1
