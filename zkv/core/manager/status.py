"""The cluster as an operator sees it: the dictionary of `zkv-admin status --json` (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zkv.core.load import Load
from zkv.core.manager.health import Survey
from zkv.core.manager.memory import memory
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import DEAD, STATE_NAMES, UP, Member, ShardMap


def status(
    map: ShardMap,
    settings: ClusterSettings,
    members: Collection[Member],
    weighed: Collection[Member],
    found: Survey,
    load: Mapping[int, Load],
) -> dict[str, Any]:
    """The state of the cluster.

    `members`: of the map, or those that have joined so far; `weighed`: the same, with the weights that placement goes
    by; `load`: boot -> what its last heartbeat said.
    """
    primaries, copies = holdings(map)
    # A node that came back under its name, with a new boot id, stands for its former incarnations.
    back = {member.name for member in members if member.state == UP}
    weights = {member.boot: member.weight for member in weighed}
    nodes = []
    for member in sorted(members, key=lambda member: (member.name, -member.state, member.boot)):
        if member.state != UP and not copies[member.boot] and member.name in back:
            continue
        held = load.get(member.boot, Load())
        nodes.append(
            {
                "name": member.name,
                "endpoint": member.endpoint,
                "state": STATE_NAMES[member.state],
                "zone": member.zone,
                "weight": member.weight,
                "placed_weight": round(weights[member.boot], 6),
                "draining": member.draining and member.state != DEAD,
                "primaries": primaries[member.boot],
                "backups": copies[member.boot] - primaries[member.boot],
                "keys": held.keys,
                "bytes": held.bytes,
                "fill_keys": held.fill_keys,
                "fill_bytes": held.fill_bytes,
                "fill_left_keys": held.fill_left_keys,
                "operations": held.operations,
                "busy_permille": held.busy_permille,
                "rss_bytes": held.rss_bytes,
                "limit_bytes": held.limit_bytes,
                "expiring_keys": held.expiring_keys,
                "expired": held.expired,
                "evicted": held.evicted,
                "refused": held.refused,
                "lag_us": held.lag_us,
                "boot": f"{member.boot:016x}",
            }
        )
    loads = load.values()
    return {
        "health": found.health,
        "map_version": map.version,
        "shards": settings.shards,
        "replicas": settings.replicas,
        "cluster": f"{map.cluster:016x}",
        "expected_nodes": settings.nodes,
        "inactive_shards": found.inactive if map.version else settings.shards,
        "lost_shards": found.lost,
        "withheld_shards": found.withheld,
        "short_shards": found.short,
        "moving": {
            "shards": found.moving,
            "left_keys": sum(one.fill_left_keys for one in loads),
            "fill_keys": sum(one.fill_keys for one in loads),
            "fill_bytes": sum(one.fill_bytes for one in loads),
        },
        "draining": sorted(member.name for member in members if member.draining and member.state != DEAD),
        "on_loss": settings.on_loss,
        "eviction": settings.eviction,
        "memory": memory(map, members, load, settings.replicas),
        "balance": balance(map, weighed),
        "nodes": nodes,
    }


def holdings(map: ShardMap) -> tuple[Counter[int], Counter[int]]:
    """Primaries and copies by boot."""
    sets = Counter(shard.replicas for shard in map.shards)
    primaries: Counter[int] = Counter()
    copies: Counter[int] = Counter()
    for replicas, count in sets.items():
        primaries[replicas[0]] += count
        for boot in replicas:
            copies[boot] += count
    return primaries, copies


def balance(map: ShardMap, members: Collection[Member]) -> dict[str, float]:
    """By how many shards the node that is furthest from its part by weight is off, zones aside."""
    nodes = [member for member in members if member.state == UP and not member.draining]
    if not map.version or not nodes:
        return {"primaries": 0.0, "copies": 0.0}
    primaries, copies = holdings(map)
    off = {}
    for name, held in (("primaries", primaries), ("copies", copies)):
        parts = _parts([node.weight for node in nodes], sum(held.values()), len(map.shards))
        off[name] = round(max(abs(held[node.boot] - part) for node, part in zip(nodes, parts, strict=True)), 2)
    return off


def _parts(weights: Sequence[float], total: float, limit: float) -> list[float]:
    """`total` by weight, no part above `limit`: nobody can hold a shard twice."""
    parts = [0.0] * len(weights)
    free = list(range(len(weights)))
    while free:
        scale = total / sum(weights[place] for place in free)
        full = [place for place in free if weights[place] * scale > limit]
        for place in full or free:
            parts[place] = limit if full else weights[place] * scale
        if not full:
            break
        total -= limit * len(full)
        free = [place for place in free if place not in full]
    return parts
