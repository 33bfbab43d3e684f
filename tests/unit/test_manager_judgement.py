"""The manager's judgement: silence, proof and complaint, and what they do to the shards (SAFETY 1, 31,
32)."""

from __future__ import annotations

import pytest

from tests.unit.manager_world import World, boot_of, told
from zkv.core import wire
from zkv.core.load import Load


def test_silence_takes_a_suspicion_a_probe_and_a_wait_list() -> None:
    world = World()
    world.speaking.discard("A")
    world.run(350)
    assert world.probes == []
    world.run(100)
    assert set(world.probes) == {"A"}
    world.run(300)
    assert world.notes == []
    world.run(100)
    assert world.story() == told("""
        A is taken for down: silent for 800 ms
        epoch 2 on C B, waits for A
        epoch 2 on B C, waits for A
        A is down
    """)


def test_a_refused_probe_is_proof() -> None:
    world = World()
    world.speaking.discard("A")
    world.run(450)
    world.step(probes=[(boot_of("A"), True)])
    assert world.story() == told("""
        A is dead: its port refuses connections
        epoch 2 on C B
        epoch 2 on B C
        A is dead
    """)


def test_a_late_proof_is_told_by_the_member_alone() -> None:
    world = World()
    world.speaking.discard("A")
    world.run(900)
    world.story()
    world.proof("A")
    assert world.story() == told("""
        A is dead: its process was reaped
        epoch 2 on C B, waits for A
        epoch 2 on B C, waits for A
        A is dead
    """)


def test_wait_lists_grow_until_an_activation_is_reported() -> None:
    world = World("ABC", shards=1)
    world.speaking.discard("A")
    world.run(900)
    world.speaking.discard("B")
    world.run(900)  # B had not reported: A may still hold a lease
    assert world.map()[0] == "epoch 3 on C, waits for A B"

    world = World("ABC", shards=1)
    world.speaking.discard("A")
    world.run(900)
    world.active("B")
    world.speaking.discard("B")
    world.run(900)
    assert world.map()[0] == "epoch 3 on C, waits for B"


def test_two_die_at_the_same_instant() -> None:
    world = World("ABCDE")
    world.step([world.frame(wire.DEAD, "E", [boot_of(n)], cluster=0) for n in "AB"])
    assert world.manager.map.version == 2
    assert all(s.epoch == 2 and not s.wait for s in world.manager.map.shards if len(s.replicas) < 3)


def test_the_new_primary_is_one_that_is_heard() -> None:
    world = World("ABC", shards=1)
    world.speaking.discard("B")
    world.run(500)  # B is suspected
    world.proof("A")
    assert world.map()[0] == "epoch 2 on C B"


def test_a_set_is_not_left_to_a_suspect() -> None:
    world = World("ABC", replicas=2, shards=3, scatter_width=2)
    assert world.map() == ["epoch 1 on A B", "epoch 1 on C A", "epoch 1 on B C"]
    world.speaking.discard("A")
    world.run(200)
    world.speaking.discard("B")
    world.run(2000)
    # Most are silent: nothing is decided. C hears nothing of them either, and says so.
    assert world.story() == told("""
        most nodes fell silent at once: waiting for a proof, or for this to last
        epoch 1 on A B
        epoch 1 on C A
        epoch 1 on B C
    """)
    world.accusing["C"] = "A B"
    world.run(100)
    assert world.story() == told("""
        A is taken for down: silent for 2300 ms
        B is taken for down: silent for 2100 ms
        1 shards are UNAVAILABLE: none of those that had their data is up
        epoch 1 on A B
        epoch 2 on C, waits for A
        epoch 2 on C, waits for B
        A is down
        B is down
    """)
    # B comes back first. A might follow; then it is too late for A.
    world.accusing.clear()
    world.speaking.add("B")
    world.run(500)
    assert world.map()[0] == "epoch 1 on A B"
    world.run(500)
    assert world.map()[0] == "epoch 2 on B, waits for A"


def test_members_of_a_lost_set_that_come_back_together_keep_it() -> None:
    world = World("ABC", shards=1)
    world.speaking.clear()
    world.run(3500)
    assert world.manager.status()["health"] == "healthy", "all are silent: rather the manager is deaf"
    world.run(1000)
    assert world.manager.status()["health"] == "unavailable"
    world.speaking.update("CB")
    world.run(300)
    world.speaking.add("A")
    world.run(2000)
    assert world.map() == ["epoch 1 on A B C"]


def test_nobody_is_blamed_for_the_managers_own_pause() -> None:
    world = World()
    world.speaking.discard("A")
    world.run(700)
    world.now_ms += 10_000
    world.step()
    world.step([world.frame(wire.HEARTBEAT, "A", list(Load(1, 2)))])
    world.speaking.add("A")
    world.run(500)
    assert world.notes == []


def test_a_manager_that_is_always_late_still_sees_a_death() -> None:
    world = World()
    for _ in range(20):
        world.now_ms += 300
        world.step([world.frame(wire.HEARTBEAT, name, list(Load(1, 2))) for name in "BC"])
    assert "A is down" in world.map()


def test_a_down_node_comes_back_without_shards() -> None:
    world = World()
    world.speaking.discard("A")
    world.run(900)
    world.story()
    world.speaking.add("A")
    world.run(100)
    assert world.story() == told("""
        A is back
        epoch 2 on C B, waits for A
        epoch 2 on B C, waits for A
    """)


def test_one_cut_off_by_most_of_its_peers_goes() -> None:
    world = World("ABC", shards=1)
    world.accusing = {"A": "B C", "B": "A", "C": "A"}
    world.run(700)
    assert world.notes == []
    world.run(250)
    assert world.story() == told("""
        A is taken for down: most of its peers cannot reach it
        epoch 2 on B C, waits for A
        A is down
    """)
    world.run(2000)
    world.accusing.clear()
    world.run(3000)
    assert "A is down" in world.map()
    world.run(600)
    assert world.map() == ["epoch 2 on B C, waits for A"]


def test_complaints_must_last() -> None:
    world = World("ABC", shards=1)
    for _ in range(5):
        world.accusing = {"B": "A", "C": "A"}
        world.run(600)
        world.accusing = {"B": "", "C": ""}
        world.run(100)
    assert world.notes == []


@pytest.mark.parametrize("complaints", [{"A": "B"}, {"B": "A"}, {"A": "B", "B": "A"}])
def test_of_a_pair_that_disagrees_the_backup_goes(complaints: dict[str, str]) -> None:
    world = World("ABC", shards=3, scatter_width=2)
    assert world.map() == ["epoch 1 on A B C", "epoch 1 on B C A", "epoch 1 on C A B"]
    world.accusing = complaints
    world.run(1000)
    assert world.story() == told("""
        epoch 2 on A C, waits for B
        epoch 2 on B C, waits for A
        epoch 1 on C A B
    """)


def test_halves_do_not_expel_each_other() -> None:
    world = World("ABCD", replicas=4, shards=1)
    world.accusing = {"A": "C D", "B": "C D", "C": "A B", "D": "A B"}
    world.run(1200)
    assert [line for line in world.map() if "down" in line] == ["A is down", "B is down"]
    assert world.map()[0] == "epoch 2 on C D, waits for A B"


def test_complaints_never_leave_a_set_to_a_suspect() -> None:
    world = World("ABC", replicas=2, shards=1, scatter_width=2)
    assert world.map() == ["epoch 1 on B C"]
    world.accusing = {"C": "B"}
    world.run(500)
    world.speaking.discard("B")
    world.run(700)  # B is suspected, and C's complaint has lasted: it would leave the set to B alone
    assert world.map() == ["epoch 1 on B C"]
    world.run(200)
    assert world.map()[0] == "epoch 2 on C, waits for B"


def test_a_pair_waits_while_one_of_them_has_not_been_heard() -> None:
    # Cut off before its first heartbeat arrived, B is silent within its allowance as one that just joined:
    # of the two it is B that is cut off, and A must not leave the shards that B leads and cannot serve.
    world = World("AB", join=False, replicas=2)
    world.join("A")
    world.join("B")
    world.speaking.discard("B")
    world.accusing = {"A": "B"}
    while "B is down" not in world.map():
        world.run(50)
        assert world.now_ms < 60_000.0
    assert world.story() == told("""
        A joins from tcp://A:1 (1 of 2)
        B joins from tcp://B:1 (2 of 2)
        map 1: 2 shards on 2 nodes, 2 replicas
        B is taken for down: silent for 800 ms
        epoch 2 on A, waits for B
        epoch 2 on A, waits for B
        B is down
    """)
