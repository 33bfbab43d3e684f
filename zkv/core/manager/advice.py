"""Whether a cluster should have more nodes, or could do with fewer: a pure function of what its nodes say.

The thresholds leave a wide band in which nothing is advised, so that whoever follows the advice does not go to and fro:
after a node was added the others are far from idle, and none is let go whose work would make the rest busy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from zkv.core.load import Load
from zkv.core.placement.initial import natural_order
from zkv.core.shardmap import Member

BUSY_PERMILLE: Final = 750
"""More than this on average is too busy."""
IDLE_PERMILLE: Final = 200
"""Less than this on average is idle."""
STILL_PERMILLE: Final = 500
"""What is left after one has gone has to stay below this."""
FREE_PART: Final = 0.15
"""Less free memory than this part of what a node could have is too little."""


def advise(
    nodes: Sequence[Member], loads: Mapping[int, Load], copies: Mapping[int, int], replicas: int
) -> dict[str, Any]:
    """The answer to the "advise" verb.

    `nodes`: those that may hold shards; `copies`: how many each holds; `replicas`: how many each shard is to have.
    """
    heard = [(node, loads[node.boot]) for node in nodes if node.boot in loads]
    if not heard or len(heard) < len(nodes):
        return _advice("none", None, "not every node has told its load yet", {"nodes": len(nodes), "heard": len(heard)})
    busy = round(sum(load.busy_permille for _, load in heard) / len(heard))
    rest = len(heard) - 1
    shared = round(busy * len(heard) / rest) if rest else None
    figures: dict[str, Any] = {
        "nodes": len(heard), "replicas": replicas, "busy_permille": busy, "busy_permille_with_one_less": shared,
        "bytes": sum(load.bytes for _, load in heard),
    }  # fmt: skip
    if busy > BUSY_PERMILLE:
        return _advice("add", None, f"the nodes are busy for {busy / 10:g} % of the time on average", figures)
    tight = min(heard, key=lambda one: _free(one[1]))
    free = max(0.0, _free(tight[1]))
    figures["least_free_permille"] = round(1000 * free)
    if free < FREE_PART:
        part = f"{100 * free:.0f} % of the memory that {tight[0].name} could have is free"
        return _advice("add", None, part, figures)
    held = Counter({node.boot: copies.get(node.boot, 0) for node in nodes})
    least = min((node for node, _ in heard), key=lambda node: (held[node.boot], natural_order(node.name)))
    idle = len(heard) > max(replicas, 1) and busy < IDLE_PERMILLE and shared is not None and shared < STILL_PERMILLE
    if idle and _has_room(loads[least.boot], [load for node, load in heard if node is not least]):
        reason = f"busy for {busy / 10:g} % of the time on average, and with one less for {(shared or 0) / 10:g} %"
        return _advice("drain", least.name, reason, figures)
    return _advice("none", None, "the nodes are neither too busy nor idle enough to do with one less", figures)


def _advice(advice: str, node: str | None, reason: str, figures: dict[str, Any]) -> dict[str, Any]:
    return {"advice": advice, "node": node, "reason": reason, "figures": figures}


def _free(load: Load) -> float:
    """Which part of the memory that a node could have, or may, is free; all of it where nobody knows or cares."""
    free = load.free_bytes / (load.free_bytes + load.rss_bytes) if load.rss_bytes and load.free_bytes else 1.0
    return min(free, 1 - load.bytes / load.limit_bytes) if load.limit_bytes else free


def _has_room(leaving: Load, rest: Sequence[Load]) -> bool:
    """Whether what one node holds fits into the others, leaving as much free as is advised."""
    share = max(leaving.bytes, leaving.rss_bytes) / len(rest)
    more = leaving.bytes / len(rest)
    if any(load.bytes + more > (1 - FREE_PART) * load.limit_bytes for load in rest if load.limit_bytes):
        return False
    return all(
        load.free_bytes - share >= FREE_PART * (load.free_bytes + load.rss_bytes)
        for load in rest
        if load.rss_bytes and load.free_bytes
    )
