"""What nodes hold next to what they may: who is over its limit, and whether a node could be lost (pure)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from zkv.core.load import Load
from zkv.core.placement.initial import natural_order
from zkv.core.shardmap import UP, Member, ShardMap


def is_over(load: Load) -> bool:
    """Whether a node holds more than it may."""
    return 0 < load.limit_bytes < load.bytes


def memory(map: ShardMap, members: Collection[Member], load: Mapping[int, Load], replicas: int) -> dict[str, Any]:
    """The "memory" of a STATUS.

    `load`: boot -> what its last heartbeat said; `replicas`: how many copies each shard is to have.
    """
    up = sorted((one for one in members if one.state == UP), key=lambda one: natural_order(one.name))
    held = {one.boot: load.get(one.boot, Load()) for one in up}
    limits = [one.limit_bytes for one in held.values()]
    largest = max((one for one in up if not one.draining), key=lambda one: held[one.boot].bytes, default=None)
    return {
        "bytes": sum(one.bytes for one in held.values()),
        "limit_bytes": sum(limits) if limits and all(limits) else 0,
        "over": [one.name for one in up if is_over(held[one.boot])],
        "largest": largest.name if largest is not None else "",
        "fits_after_loss": _fits_without(map, up, held, replicas, largest),
    }


def _fits_without(
    map: ShardMap, up: Collection[Member], held: Mapping[int, Load], replicas: int, lost: Member | None
) -> bool | None:
    """Whether the others have room for as many copies as they are to hold once `lost` is gone; None if there is no
    telling, as some node has no limit.

    No node can hold a shard twice: room for more than one copy of all data is no room. Where fewer nodes remain than
    each shard is to have copies, each needs room for one of everything.
    """
    rest = [held[one.boot].limit_bytes for one in up if one is not lost and not one.draining]
    if lost is None or not map.version or not all(one.limit_bytes for one in held.values()):
        return None
    copies = sum(len(shard.replicas) for shard in map.shards) / len(map.shards)
    once = sum(one.bytes for one in held.values()) / copies
    # A byte of grace: fractions do not add up to what they were cut from.
    return bool(rest) and sum(min(limit, once) for limit in rest) + 1 >= once * min(replicas, len(rest))
