"""Who is over the limit, and whether what the largest node holds would fit elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from zkv.core.load import Load
from zkv.core.manager.memory import memory
from zkv.core.shardmap import DOWN, UP, Member, Shard, ShardMap


def told(held: list[tuple[int, int]], replicas: int, **first: Any) -> dict[str, Any]:
    """`held`: (bytes, limit) of server1, server2, …; `first`: how server1 differs."""
    members = [Member(n, f"server{n}", f"tcp://h:{n}", "", 1.0, UP) for n in range(1, len(held) + 1)]
    members[0] = members[0]._replace(**first)
    count = min(replicas, len(held))
    boots = range(1, len(held) + 1)
    shards = tuple(Shard(1, 1, tuple((*boots, *boots)[n % len(held) :][:count])) for n in range(12))
    load = {n: Load(bytes=size, limit_bytes=limit) for n, (size, limit) in enumerate(held, start=1)}
    return memory(ShardMap(9, 1, {one.boot: one for one in members}, shards), members, load, replicas)


def test_who_is_over() -> None:
    shown = told([(50, 60), (70, 60), (60, 60), (61, 60)], 2)
    assert (shown["bytes"], shown["limit_bytes"], shown["over"]) == (241, 240, ["server2", "server4"])
    assert shown["largest"] == "server2"
    assert told([(50, 60), (70, 0)], 1) == {
        "bytes": 120, "limit_bytes": 0, "over": [], "largest": "server2", "fits_after_loss": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("held", "replicas", "fits"),
    [
        ([(60, 100)] * 3, 2, True),  # 180 into 200
        ([(70, 100)] * 3, 2, False),  # 210 into 200
        ([(60, 100)] * 3, 1, True),
        ([(90, 100)] * 3, 3, True),  # everybody has everything already
        ([(90, 100), (90, 100), (90, 80)], 3, False),
        # A large node is no help beyond one copy of everything: 60 and 80 of 240, where 3 * 80 are wanted.
        ([(60, 1000), (60, 60), (60, 60), (60, 60)], 3, False),
        ([(60, 1000), (60, 81), (60, 81), (61, 60)], 3, True),
        ([(50, 100)], 1, False),  # nobody is left
        ([(50, 0), (50, 100)], 1, None),
    ],
)
def test_whether_it_fits_after_the_loss_of_the_largest(
    held: list[tuple[int, int]], replicas: int, fits: bool | None
) -> None:
    assert told(held, replicas)["fits_after_loss"] is fits


def test_only_who_is_up_and_stays_has_room() -> None:
    held = [(0, 1000), (60, 100), (70, 100), (60, 100)]
    assert told(held, 2)["fits_after_loss"] is True
    assert told([(size, 100) for size, _ in held], 2, state=DOWN)["fits_after_loss"] is True  # 190 into 200
    assert told([(size, 90) for size, _ in held], 2, state=DOWN)["fits_after_loss"] is False
    assert told([(size, 90) for size, _ in held], 2, draining=True)["fits_after_loss"] is False
