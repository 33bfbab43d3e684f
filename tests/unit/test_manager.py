"""The manager's conversation: joining, proofs, answers, what a restart remembers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.manager_world import CLUSTER, World, boot_of, told
from zkv.core import wire
from zkv.core.load import Load
from zkv.core.manager.effects import Persist, Publish
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import Delta, ShardMap


def test_a_cluster_forms_when_all_have_joined() -> None:
    world = World("ABC", join=False)
    (welcome, body), (kind, empty) = world.join("A")
    assert welcome == wire.WELCOME
    assert body == [world.settings.to_wire(), "tcp://h:1", "tcp://h:2", 1, int(world.now_ms)]
    assert kind == wire.MAP
    assert ShardMap.from_wire(empty) == ShardMap.empty(CLUSTER)
    world.join("B")
    assert world.manager.status()["health"] == "forming"
    _, (_, full) = world.join("C")
    assert ShardMap.from_wire(full).version == 1
    assert world.story() == told("""
        A joins from tcp://A:1 (1 of 3)
        B joins from tcp://B:1 (2 of 3)
        C joins from tcp://C:1 (3 of 3)
        map 1: 2 shards on 3 nodes, 3 replicas
        epoch 1 on A B C
        epoch 1 on B C A
    """)


def test_a_joiner_that_dies_before_the_cluster_forms_does_not_count() -> None:
    world = World("ABC", join=False)
    world.join("A")
    world.join("B")
    world.proof("B")
    world.join("C")
    assert world.manager.map.version == 0
    assert world.join("B")[0][0] == wire.REFUSED
    world.join("D")
    assert world.manager.map.version == 1


def test_a_proof_acts_at_once() -> None:
    world = World()
    world.proof("A")
    assert world.story() == told("""
        A is dead: its process was reaped
        epoch 2 on C B
        epoch 2 on B C
        A is dead
    """)
    assert world.published[-1].kind == wire.MAP_DELTA


def test_an_activation_counts_from_the_primary_under_the_present_epoch_only() -> None:
    world = World("ABC", shards=1)
    world.speaking.discard("A")
    world.run(900)
    late = [wire.pack_u64([0, 7]), wire.pack_u64([1, 1])]
    assert world.ask(wire.ACTIVE, "B", late) == [(wire.ACTIVE_ACK, late)]
    world.ask(wire.ACTIVE, "C", [wire.pack_u64([0]), wire.pack_u64([2])])
    assert world.manager.status()["inactive_shards"] == 1
    world.ask(wire.ACTIVE, "B", [wire.pack_u64([0]), wire.pack_u64([2])])
    assert world.manager.status()["inactive_shards"] == 0


def test_a_new_boot_on_the_same_endpoint_proves_the_old_one_dead() -> None:
    world = World()
    ((kind, _),) = world.join("A'", endpoint="tcp://A:1", node="A")
    assert kind == wire.REFUSED, "a JOIN may be older than the member that it contradicts"
    world.speaking -= {"A", "A'"}
    world.run(500)
    world.story()
    world.join("A'", endpoint="tcp://A:1", node="A")
    assert world.story() == told("""
        A is dead: a new process, A', listens on its endpoint
        A joins from tcp://A:1
        epoch 2 on C B
        epoch 2 on B C
        A is dead
    """)


def test_an_advertised_endpoint_is_no_proof_while_its_bearer_is_heard() -> None:
    world = World()
    ((kind, (_, code, text)),) = world.join("D", endpoint="tcp://A:1", bound=False)
    assert (kind, code) == (wire.REFUSED, wire.BAD_REQUEST)
    assert text.endswith("still speaks from tcp://A:1")


def test_a_name_is_taken_while_its_bearer_is_heard() -> None:
    world = World()
    ((kind, (request, code, text)),) = world.join("A'", endpoint="tcp://A:2", node="A")
    assert (kind, request, code) == (wire.REFUSED, 0, wire.BAD_REQUEST)
    assert text == "the name A is taken by the node at tcp://A:1; choose another name"
    assert world.probes == ["A"]
    world.speaking -= {"A", "A'"}
    world.run(500)
    assert world.join("A'", endpoint="tcp://A:2", node="A")[0][0] == wire.WELCOME


def test_joining_again_changes_nothing_and_a_dead_boot_stays_dead() -> None:
    world = World()
    assert world.join("A")[0][0] == wire.WELCOME
    assert world.manager.map.version == 1
    world.proof("A")
    ((kind, (_, code, text)),) = world.join("A")
    assert (kind, code) == (wire.REFUSED, wire.WRONG_BOOT)
    assert "proven dead" in text


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"name": "A"},
        {"name": "x y", "endpoint": "tcp://h:1"},
        {"name": "A", "endpoint": "tcp://h:0"},
        {"name": "A", "endpoint": "tcp://h:1", "weight": "much"},
        {"name": "A", "endpoint": "tcp://h:1", "weight": -1.0},
    ],
)
def test_a_join_that_makes_no_sense_is_refused(body: Any) -> None:
    world = World(join=False)
    ((kind, reply),) = world.ask(wire.JOIN, "A", body)
    assert (kind, reply[1]) == (wire.REFUSED, wire.BAD_REQUEST)


def test_strangers_are_refused_and_rubbish_is_dropped() -> None:
    world = World()
    ((kind, reply),) = world.ask(wire.MAP_PULL, "A", None, cluster=7)
    assert (kind, reply[:2]) == (wire.REFUSED, [0, wire.WRONG_CLUSTER])
    assert world.ask(wire.ACTIVE, "A", [b"", b""], cluster=0)[0][0] == wire.REFUSED
    assert world.ask(wire.GRANT, "A", [])[0][1] == [0, wire.BAD_REQUEST, "a manager does not take GRANT"]
    assert world.ask(wire.REFUSED, "A", []) == []
    for kind in (wire.ACTIVE, wire.ACCUSE, wire.DEAD):
        ((answer, reply),) = world.ask(kind, "A", ["x"])
        assert (answer, reply[1]) == (wire.REFUSED, wire.BAD_REQUEST)
    world.step([(b"A", b"rubbish"), (b"", b""), world.frame(wire.HEARTBEAT, "A", [1])])
    assert world.manager.map.version == 1


def test_the_beacon_shows_the_version() -> None:
    world = World()
    world.proof("A")
    world.published.clear()
    world.run(1000)
    beacons = [header.map_version for header in world.published if header.kind == wire.BEACON]
    assert beacons == [2] * 10


def test_a_restarted_manager_remembers_and_gives_everyone_time() -> None:
    world = World(shards=1)
    world.speaking.discard("A")
    world.run(900)
    settings = world.settings
    world.settings = ClusterSettings(nodes=7, shards=8)
    world.start_manager(2)
    assert world.manager.settings == settings
    world.story()
    world.speaking.clear()
    world.run(1500)
    assert world.story() == told("""
        epoch 2 on B C, waits for A
        A is down
    """)
    world.speaking.update("BC")
    world.run(200)
    assert world.join("B")[0][1][3] == 2
    world.speaking.discard("B")
    world.run(1000)
    assert world.map()[0] == "epoch 3 on C, waits for A B"


def test_a_manager_with_an_old_copy_of_its_state_changes_nothing() -> None:
    world = World()
    old = world.disk
    world.proof("A")
    world.disk = old
    world.start_manager(2)
    newer = wire.encode(wire.HEARTBEAT, CLUSTER, boot_of("B"), 0, 2, list(Load(1, 2)))
    world.manager.step([(b"", newer)], world.now_ms)
    effects = world.manager.step([world.frame(wire.DEAD, "E", [boot_of("A")])], world.now_ms)
    assert not any(isinstance(effect, Persist) for effect in effects)


def test_the_dead_leave_the_table_when_nothing_names_them() -> None:
    world = World("ABCD", shards=1)
    assert world.map() == ["epoch 1 on B C D"]
    world.proof("A")
    world.run(59_000)
    assert "A is dead" in world.map()
    world.run(2_000)
    assert world.map() == ["epoch 1 on B C D"]
    assert world.join("A")[0][0] == wire.REFUSED


def test_status() -> None:
    world = World("ABC", shards=2)
    world.run(100)
    status = world.manager.status()
    assert status["health"] == "healthy"
    assert status["nodes"][0] == {
        "name": "A",
        "endpoint": "tcp://A:1",
        "state": "up",
        "zone": "",
        "weight": 1.0,
        "placed_weight": 1.0,
        "draining": False,
        "primaries": 1,
        "backups": 1,
        "keys": 1,
        "bytes": 2,
        "fill_left_keys": 0,
        "fill_keys": 0,
        "fill_bytes": 0,
        "operations": 0,
        "busy_permille": 0,
        "rss_bytes": 0,
        "limit_bytes": 0,
        "expiring_keys": 0,
        "expired": 0,
        "evicted": 0,
        "refused": 0,
        "lag_us": 0,
        "boot": f"{boot_of('A'):016x}",
    }
    assert status["memory"] == {
        "bytes": 6, "limit_bytes": 0, "over": [], "largest": "A", "fits_after_loss": None,
    }  # fmt: skip
    world.proof("A")
    assert world.manager.status()["health"] == "healing"
    world.active("B")
    world.active("C")
    assert world.ask(wire.STATUS_PULL, "B", None, cluster=0)[0][1]["health"] == "degraded"
    world.join("A'", endpoint="tcp://A:9", node="A")
    assert [(n["name"], n["state"]) for n in world.manager.status()["nodes"]] == [("A", "up"), ("B", "up"), ("C", "up")]


def test_the_published_delta_carries_the_change() -> None:
    world = World()
    before = world.manager.map
    effects = world.step([world.frame(wire.DEAD, "E", [boot_of("A")])])
    (frame,) = (
        e.frame for e in effects if isinstance(e, Publish) and wire.decode_header(e.frame).kind == wire.MAP_DELTA
    )
    assert before.with_changes(Delta.from_wire(wire.decode_body(frame))) == world.manager.map
