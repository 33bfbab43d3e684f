"""The cluster as an operator sees it: the dictionary of `zkv-admin status --json` (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zkv.core.load import Load
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import STATE_NAMES, UP, Member, ShardMap


def status(
    map: ShardMap,
    settings: ClusterSettings,
    members: Collection[Member],
    active: Sequence[int],
    load: Mapping[int, Load],
) -> dict[str, Any]:
    """The state of the cluster.

    `members`: of the map, or those that have joined so far; `active`: by shard, the newest epoch reported
    active; `load`: boot -> what its last heartbeat said.
    """
    up = {member.boot for member in members if member.state == UP}
    primaries: Counter[int] = Counter()
    backups: Counter[int] = Counter()
    inactive = short = lost = 0
    for number, shard in enumerate(map.shards):
        primaries[shard.primary] += 1
        backups.update(shard.replicas[1:])
        alive = sum(boot in up for boot in shard.replicas)
        inactive += active[number] != shard.epoch or shard.primary not in up
        short += alive < settings.replicas
        lost += not alive

    # A node that came back under its name, with a new boot id, stands for its former incarnations.
    back = {member.name for member in members if member.state == UP}
    nodes = []
    for member in sorted(members, key=lambda member: (member.name, -member.state, member.boot)):
        holds = primaries[member.boot] + backups[member.boot]
        if member.state != UP and not holds and member.name in back:
            continue
        held = load.get(member.boot, Load())
        nodes.append(
            {
                "name": member.name,
                "endpoint": member.endpoint,
                "state": STATE_NAMES[member.state],
                "zone": member.zone,
                "primaries": primaries[member.boot],
                "backups": backups[member.boot],
                "keys": held.keys,
                "bytes": held.bytes,
                "boot": f"{member.boot:016x}",
            }
        )
    if not map.version:
        health = "forming"
    elif lost:
        health = "unavailable"
    elif inactive:
        health = "healing"
    else:
        health = "degraded" if short else "healthy"
    return {
        "health": health,
        "map_version": map.version,
        "shards": settings.shards,
        "replicas": settings.replicas,
        "cluster": f"{map.cluster:016x}",
        "expected_nodes": settings.nodes,
        "inactive_shards": inactive if map.version else settings.shards,
        "nodes": nodes,
    }
