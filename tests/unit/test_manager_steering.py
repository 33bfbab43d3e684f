"""The manager heals, grows and shrinks the cluster: learners, promotions, moves, handovers, drains (SAFETY 1, 20,
22)."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.manager_world import World, boot_of, told
from zkv.core import wire


def spread(world: World) -> Counter[str]:
    """How many copies each node holds."""
    return Counter(world.names[boot] for shard in world.manager.map.shards for boot in shard.replicas)


def leads(world: World) -> Counter[str]:
    return Counter(world.names[shard.primary] for shard in world.manager.map.shards)


def test_after_a_death_learners_are_named_filled_and_promoted() -> None:
    world = World("ABCD", shards=1)
    assert world.map() == ["epoch 1 on B C D"]
    world.run(100)
    world.proof("B")
    assert world.story() == told("""
        B is dead: its process was reaped
        epoch 2 on C D
        B is dead
    """)
    world.run(500)
    assert world.map()[0] == "epoch 2 on C D", "not before the shard is active again"
    assert world.manager.status()["health"] == "healing"
    world.active("C")
    world.run(100)
    assert world.map()[0] == "epoch 3 on C D, teaches A"
    world.active("C")
    world.run(1000)
    assert world.map()[0] == "epoch 3 on C D, teaches A", "not before it is filled"
    assert world.manager.status()["health"] == "healing"
    world.fill("C")
    world.run(100)
    # Four nodes lead a quarter of a shard each: it stays where it is.
    assert world.map()[0] == "epoch 4 on C D A"
    world.active("C")
    world.run(100)
    assert world.manager.status()["health"] == "healthy"
    (fill,), (healed,) = world.told("fill"), world.told("healed")
    assert (fill.data["node"], fill.data["shards"]) == ("A", 1)
    assert healed.data["duration_ms"] > 1600
    (takeover,) = world.told("takeover")
    assert (takeover.data["shards"], takeover.data["duration_ms"]) == (1, 500.0)


def test_a_report_counts_from_the_primary_for_a_learner_under_the_present_epoch_only() -> None:
    world = World("ABCD", shards=1)
    world.proof("B")
    world.active("C")
    world.run(100)
    world.active("C")
    assert world.map()[0] == "epoch 3 on C D, teaches A"
    for sender, learner, shard, epoch in (("C", "A", 0, 2), ("D", "A", 0, 3), ("C", "D", 0, 3), ("C", "A", 7, 3)):
        body = [boot_of(learner), wire.pack_u64([shard]), wire.pack_u64([epoch])]
        assert world.ask(wire.FILLED, sender, body) == [(wire.FILLED_ACK, body)]
        assert not any(world.manager.filled.values())
    world.fill("C")
    assert world.manager.filled[0] == {boot_of("A")}


def test_a_cluster_heals_and_comes_to_rest() -> None:
    world = World("ABCDE", shards=16, working=True)
    world.rest()
    world.proof("A")
    assert world.manager.status()["short_shards"] > 0
    world.rest()
    status = world.manager.status()
    assert (status["health"], status["short_shards"], status["moving"]["shards"]) == ("healthy", 0, 0)
    assert all(len(shard.replicas) == 3 for shard in world.manager.map.shards)
    assert max(spread(world).values()) - min(spread(world).values()) <= 1
    assert max(leads(world).values()) - min(leads(world).values()) <= 1


def test_without_a_spare_node_the_cluster_is_degraded_until_one_joins() -> None:
    world = World("ABC", shards=8, working=True)
    world.proof("A")
    world.rest()
    assert world.manager.status()["health"] == "degraded"
    world.join("A'", endpoint="tcp://A:9", node="A")
    assert world.manager.status()["health"] == "healing"
    world.rest()
    assert world.manager.status()["health"] == "healthy"
    assert leads(world)["A'"] in (2, 3), "it takes its share of primaries again"


def test_a_joiner_gets_its_share_and_no_set_is_ever_smaller() -> None:
    world = World("ABC", shards=30, working=True)
    versions = world.manager.map.version
    world.join("D")
    for _ in range(400):
        world.run(50)
        assert all(len(shard.replicas) == 3 for shard in world.manager.map.shards)
        assert sum(bool(shard.learners) for shard in world.manager.map.shards) <= 8
        assert world.manager.status()["health"] == "healthy"
    world.rest()
    assert spread(world)["D"] in (22, 23)
    assert leads(world)["D"] in (7, 8)
    assert world.manager.map.version - versions < 30
    moved = sum(shard.epoch > 1 for shard in world.manager.map.shards)
    assert moved <= 30
    assert {event.kind for event in world.events} >= {"join", "move", "fill"}
    assert not world.told("healed"), "to be rebalanced is no illness"


def test_a_drained_node_hands_over_and_leaves() -> None:
    world = World("ABCD", shards=12, working=True)
    assert world.admin("drain", name="E") == "refused: no node is called E: there are A, B, C, D"
    answer = world.admin("drain", name="A")
    assert answer == {"name": "A", "shards": spread(world)["A"], "bytes": 2}
    assert world.admin("drain", name="A") == "refused: A is being drained already"
    assert world.admin("drain", name="B").startswith("refused: 2 nodes would remain, and each shard is to have 3")
    assert world.manager.status()["draining"] == ["A"]
    world.rest()
    assert boot_of("A") not in world.manager.map.members
    assert spread(world) == {"B": 12, "C": 12, "D": 12}
    assert [event.data["node"] for event in world.told("drained")] == ["A"]
    assert world.manager.status()["health"] == "healthy"


def test_a_drain_can_be_taken_back_and_survives_the_manager() -> None:
    world = World("ABCD", shards=12, working=True)
    world.filling = False
    world.admin("drain", name="A")
    world.run(500)
    world.start_manager(2)
    assert world.manager.status()["draining"] == ["A"]
    assert world.admin("join", name="B") == "refused: B is not being drained"
    assert world.admin("join", name="A") == {"name": "A"}
    world.filling = True
    world.rest()
    assert world.manager.status()["draining"] == []
    assert spread(world)["A"] == 9


def test_a_drain_that_was_forced_leaves_fewer_copies() -> None:
    world = World("ABC", shards=6, working=True)
    world.admin("drain", name="A", force=True)
    world.rest()
    assert spread(world) == {"B": 6, "C": 6}
    assert boot_of("A") not in world.manager.map.members


def test_a_drain_waits_when_its_replacement_dies() -> None:
    world = World("ABCD", shards=6, working=True)
    world.filling = False
    before = spread(world)["A"]
    world.admin("drain", name="A")
    world.run(300)
    world.proof("B")
    world.filling = True
    world.rest()
    assert spread(world)["A"] == before, "a copy on a node that is to go is better than none"
    assert leads(world)["A"] == 0
    world.join("E")
    world.rest()
    assert boot_of("A") not in world.manager.map.members
    assert spread(world) == {"C": 6, "D": 6, "E": 6}


def test_a_fill_under_way_is_not_disturbed_by_another_joiner() -> None:
    world = World("ABC", shards=16, working=True)
    world.filling = False
    world.join("D")
    world.run(200)
    taught = {n: s.epoch for n, s in enumerate(world.manager.map.shards) if s.learners}
    assert taught
    world.join("E")
    world.run(500)
    for number, epoch in taught.items():
        assert world.manager.map.shards[number].epoch == epoch
    world.filling = True
    world.rest()
    assert max(spread(world).values()) - min(spread(world).values()) <= 1


def test_a_learner_that_dies_is_replaced() -> None:
    world = World("ABCDE", shards=1)
    assert world.map() == ["epoch 1 on B D E"]
    world.working, world.filling = True, False
    world.proof("B")
    world.run(300)
    assert world.map()[0] == "epoch 3 on D E, teaches A"
    world.proof("A")
    world.run(300)
    assert world.map()[0] == "epoch 5 on D E, teaches C"
    world.filling = True
    world.rest()
    assert world.map()[0] == "epoch 6 on D E C"


def test_a_learner_that_falls_silent_is_dropped_like_a_backup() -> None:
    world = World("ABCD", shards=1)
    world.working, world.filling = True, False
    world.proof("B")
    world.run(300)
    assert world.map()[0] == "epoch 3 on C D, teaches A"
    world.speaking.discard("A")
    world.run(900)
    assert world.map()[0] == "epoch 4 on C D"


def test_a_filled_learner_takes_over_when_nobody_else_lives() -> None:
    world = World("ABC", shards=1, replicas=2, scatter_width=2)
    assert world.map() == ["epoch 1 on B C"]
    world.proof("B")
    world.active("C")
    world.run(100)
    world.active("C")
    assert world.map()[0] == "epoch 3 on C, teaches A"
    world.fill("C")
    world.proof("C")
    assert world.map()[0] == "epoch 4 on A"


def test_a_learner_that_is_not_filled_does_not() -> None:
    world = World("ABC", shards=1, replicas=2, scatter_width=2)
    world.proof("B")
    world.active("C")
    world.run(100)
    world.proof("C")
    world.run(500)
    assert world.map()[0] == "epoch 3 on C, teaches A"
    assert world.manager.status()["health"] == "unavailable"
    assert world.manager.status()["lost_shards"] == 1


def test_a_ready_learner_joins_with_any_other_change() -> None:
    world = World("ABCD", shards=1)
    world.proof("B")
    world.active("C")
    world.run(100)
    world.active("C")
    world.fill("C")
    world.proof("D")
    assert world.map()[0] == "epoch 4 on C A"


def test_a_pair_that_was_parted_is_not_brought_together_again() -> None:
    world = World("ABCDE", shards=10, working=True)
    world.rest()
    world.accusing = {"A": "B"}
    world.run(2000)
    world.rest()
    pairs = [{world.names[b] for b in shard.replicas} for shard in world.manager.map.shards]
    assert not [pair for pair in pairs if {"A", "B"} <= pair and world.names]
    assert all(len(pair) == 3 for pair in pairs)


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("shards", [1, 7, 64])
@pytest.mark.parametrize("names", ["ABC", "ABCD", "ABCD0789"])
def test_the_map_comes_to_rest_after_whatever_happened(names: str, shards: int, replicas: int) -> None:
    world = World(names, shards=shards, replicas=replicas, working=True, on_loss="reset", loss_grace_s=0.5)
    world.rest()
    assert world.manager.map.version == 1, "what was formed is what is wanted"
    for happen in (
        lambda: world.proof("A"),
        lambda: world.join("1", weight=2.0),
        lambda: world.join("2", zone="z"),
        lambda: world.admin("drain", name="B"),
        lambda: world.join("3"),
        lambda: _absent(world, "C"),
    ):
        happen()
        world.rest()
        assert world.manager.status()["health"] in ("healthy", "degraded")
        assert not any(shard.learners for shard in world.manager.map.shards)
        assert world.admin("plan")["balanced"], "a rebalance would find nothing to do"


def _absent(world: World, name: str) -> None:
    """`name` is not heard for long enough to be taken for down, and comes back."""
    world.speaking.discard(name)
    world.run(2000)
    world.speaking.add(name)


def test_nobody_leaves_for_the_sake_of_a_suspect() -> None:
    """SAFETY 31 holds for moves, too: the learner was filled, and died before it was promoted."""
    world = World("ABC", working=True, replicas=1, shards=1)
    world.rest()
    owner = world.names[world.manager.map.shards[0].primary]
    world.filling = False
    world.admin("drain", name=owner)
    world.run(1500)
    shard = world.manager.map.shards[0]
    (learner,) = shard.learners
    world.speaking.discard(world.names[learner])
    world.run(450)
    assert world.told("suspect")
    world.ask(wire.FILLED, owner, [learner, wire.pack_u64([0]), wire.pack_u64([shard.epoch])])
    world.filling = True
    for _ in range(40):
        world.run(50)
        assert boot_of(owner) in world.manager.map.shards[0].replicas or world.names[learner] in world.speaking
        if learner not in world.manager.map.shards[0].learners:
            break
    world.proof(world.names[learner])
    world.rest()
    assert not world.told("lost")
    assert world.manager.status()["health"] == "healthy"


def test_lost_shards_do_not_hold_up_the_moves_of_others() -> None:
    world = World("ABCD", working=True, replicas=1, shards=64)
    world.rest()
    world.speaking.discard("A")
    world.run(6000)
    assert world.told("lost")
    world.start_manager(2)  # nobody will report the lost ones active
    for name in "BCD":
        world.join(name)
    world.admin("drain", name="B")
    world.rest()
    assert boot_of("B") not in world.manager.map.members


def test_who_is_filled_survives_the_manager() -> None:
    """SAFETY 22, 33: the report was acknowledged, and may be all that is left of the shard."""
    world = World("ABC", working=True, replicas=1, shards=1, on_loss="reset", loss_grace_s=1.0)
    world.rest()
    owner = world.names[world.manager.map.shards[0].primary]
    world.filling = False
    world.admin("drain", name=owner)
    world.run(1500)
    (learner,) = world.manager.map.shards[0].learners
    world.working = False
    world.active(owner)
    world.fill(owner)
    world.speaking.discard(owner)
    world.start_manager(2)
    world.proof(owner)
    world.run(3000)
    assert world.manager.map.shards[0].replicas == (learner,)
    assert not world.told("reset")


def test_a_boot_that_has_left_the_table_is_not_taken_back() -> None:
    """SAFETY 2, 7: its peers have forgotten their streams to it, and it has not."""
    world = World("ABCD", working=True, replicas=2, shards=4)
    world.rest()
    world.admin("drain", name="D")
    world.rest()
    world.start_manager(2)
    body = {"name": "D", "endpoint": "tcp://D:1", "bound": True}
    assert world.ask(wire.JOIN, "D", {**body, "member": True})[0][0] == wire.REFUSED
    assert boot_of("D") not in world.manager.map.members
