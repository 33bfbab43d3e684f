"""Nodes that are short of memory are relieved by those that have room; and the map comes to rest, and stays so."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.unit.manager_world import World, boot_of
from zkv.core.load import Load

MIB = 2**20


class Weighed(World):
    """A world in which copies take memory."""

    def __init__(self, names: str, limits: dict[str, int], *, copy: int = MIB, **settings: Any) -> None:
        self.limits = limits
        """By name; no limit for others."""
        self.copy = copy
        """What a copy takes."""
        self.refused: Counter[str] = Counter()
        super().__init__(names, working=True, **settings)

    def run(self, duration_ms: float) -> None:
        for _ in range(int(duration_ms / 100)):
            held = self.copies()
            for name in self.speaking:
                limit = self.limits.get(name, 0)
                self.load[name] = Load(1, held[name] * self.copy, limit_bytes=limit, refused=self.refused[name])
            super().run(100)

    def copies(self) -> Counter[str]:
        return Counter(self.names[boot] for shard in self.manager.map.shards for boot in shard.replicas)

    def over(self) -> list[str]:
        names: list[str] = self.manager.status()["memory"]["over"]
        return names

    def settle(self) -> None:
        """Until the map has been the same for as long as it takes to decide anything."""
        for _ in range(40):
            version = self.manager.map.version
            self.run(9_000)
            if version == self.manager.map.version:
                return
        raise AssertionError("the map does not come to rest")


def test_a_node_over_its_limit_gives_shards_to_those_that_have_room() -> None:
    world = Weighed("ABCD", {"A": 40 * MIB, "B": 100 * MIB, "C": 100 * MIB, "D": 100 * MIB}, shards=80, replicas=2)
    world.run(200)
    assert world.copies() == {"A": 40, "B": 40, "C": 40, "D": 40}
    world.settle()
    assert world.manager.map.version == 1, "at its limit is not over it"
    world.copy = MIB * 5 // 4
    world.run(2000)
    assert world.over() == ["A"]
    assert world.told("memory")[0].text == f"A is over its memory limit: {50 * MIB} of {40 * MIB} bytes"
    world.settle()
    assert world.over() == []
    assert world.copies() == {"A": 28, "B": 44, "C": 44, "D": 44}, "28 * 1.25 MiB is below 90 % of the limit"
    assert world.manager.status()["health"] == "healthy"
    assert all(len(shard.replicas) == 2 for shard in world.manager.map.shards)
    assert [event.data["over"] for event in world.told("memory")] == [True, False]
    assert world.admin("plan")["balanced"], "a rebalance does not undo it"
    assert world.manager.status()["nodes"][0]["placed_weight"] < 0.75
    assert world.manager.status()["balance"] == {"primaries": 0.0, "copies": 0.0}


def test_it_stays_so_through_growth_and_a_restart_of_the_manager() -> None:
    world = Weighed("ABCD", {"A": 40 * MIB}, copy=MIB * 5 // 4, shards=80, replicas=2)
    world.settle()
    moved = world.copies()
    assert moved["A"] == 28
    version = world.manager.map.version
    world.start_manager(2)
    world.settle()
    assert (world.copies(), world.manager.map.version) == (moved, version)
    world.copy = int(MIB * 1.4)  # 39.2 of 40 MiB
    world.settle()
    assert world.copies() == moved
    world.copy = int(MIB * 1.5)
    world.settle()
    assert world.copies()["A"] == 24


def test_weights_return_when_memory_has_not_been_short_for_long() -> None:
    world = Weighed("ABCD", {"A": 40 * MIB}, copy=MIB * 5 // 4, shards=80, replicas=2)
    world.settle()
    world.copy = MIB * 3 // 4  # 30 of 40 MiB with plain weights
    world.run(200_000)
    assert world.copies()["A"] == 28
    world.copy = MIB * 2 // 3
    world.run(100_000)
    assert world.copies()["A"] == 28, "not at once"
    world.run(60_000)
    world.settle()
    assert world.copies() == {"A": 40, "B": 40, "C": 40, "D": 40}
    assert world.disk is not None
    assert world.disk.factors == {}


def test_what_has_no_room_elsewhere_stays() -> None:
    full = Weighed("ABC", dict.fromkeys("ABC", 9 * MIB), shards=15, replicas=2)
    full.settle()
    assert full.over() == ["A", "B", "C"]
    assert full.manager.map.version == 1
    everywhere = Weighed("ABC", {"A": 10 * MIB}, shards=15, replicas=3)
    everywhere.settle()
    assert everywhere.over() == ["A"]
    assert everywhere.manager.map.version == 1, "everybody has everything already"


def test_nobody_is_filled_beyond_what_leaves_him_room() -> None:
    world = Weighed("ABCD", {"A": 20 * MIB, "B": 50 * MIB, "C": 41 * MIB, "D": 45 * MIB}, shards=80, replicas=2)
    world.settle()
    assert world.copies() == {"A": 38, "B": 42, "C": 40, "D": 40}, "42 are 85 % of 50; C and D have no room"
    assert world.over() == ["A"]
    world.join("E")
    world.limits["E"] = 100 * MIB
    world.settle()
    assert world.over() == []
    assert world.copies()["A"] <= 18


def test_a_node_that_refuses_writes_is_short_of_memory_too() -> None:
    world = Weighed("ABCD", {"A": 42 * MIB, "B": 100 * MIB, "C": 100 * MIB, "D": 100 * MIB}, shards=160, replicas=1)
    world.settle()
    assert world.copies()["A"] == 40
    while world.copies()["A"] == 40:
        world.refused["A"] += 1
        world.run(1000)
    world.settle()
    assert world.copies()["A"] == 36
    assert not world.told("memory")


def test_a_fluctuation_moves_nothing() -> None:
    world = Weighed("ABCD", {"A": 40 * MIB}, shards=80, replicas=2)
    for _ in range(30):
        world.copy = MIB + 1
        world.run(2000)
        world.copy = MIB
        world.run(1000)
    assert world.manager.map.version == 1


def test_limits_may_go() -> None:
    world = Weighed("ABCD", {"A": 40 * MIB}, copy=MIB * 5 // 4, shards=80, replicas=2)
    world.settle()
    assert world.copies()["A"] == 28
    world.limits.clear()
    world.run(150_000)
    world.settle()
    assert world.copies()["A"] == 40


@pytest.mark.parametrize("zones", ["xxyy", "xyzz", "xxxy"])
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_zones_are_kept_and_nobody_else_is_pressed(zones: str, replicas: int) -> None:
    shards = 30
    world = Weighed("ABCD", {}, join=False, shards=shards, replicas=replicas)
    for name, zone in zip("ABCD", zones, strict=True):
        world.join(name, zone=zone)
    world.settle()
    before = world.copies()
    world.limits = {name: int(count * MIB * 1.3) for name, count in before.items()} | {
        "A": int(before["A"] * MIB * 0.8)
    }
    spread = {len({zones["ABCD".index(world.names[b])] for b in s.replicas}) for s in world.manager.map.shards}
    world.settle()
    assert spread == {len({zones["ABCD".index(world.names[b])] for b in s.replicas}) for s in world.manager.map.shards}
    assert set(world.over()) <= {"A"}
    assert world.copies()["A"] <= before["A"]
    assert world.manager.status()["health"] == "healthy"


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("shards", [1, 24])
def test_the_map_comes_to_rest_whatever_happens_meanwhile(shards: int, replicas: int) -> None:
    limits = {name: shards * replicas * MIB // (8 - 2 * place) for place, name in enumerate("ABC")}
    world = Weighed("ABCD", limits, shards=shards, replicas=replicas, on_loss="reset", loss_grace_s=0.5)
    world.settle()
    for happen in (
        lambda: world.proof("B"),
        lambda: world.join("1", weight=2.0),
        lambda: world.join("B'", endpoint="tcp://B:9", node="B"),
        lambda: world.admin("drain", name="C"),
        lambda: world.limits.update({"D": shards * MIB // 3}),
        lambda: world.start_manager(2),
        lambda: world.limits.update({"A": 1}),
    ):
        happen()
        world.settle()
        assert world.manager.status()["health"] == "healthy"
        assert world.admin("plan")["balanced"]
        assert all(boot_of("C") not in shard.learners for shard in world.manager.map.shards)
