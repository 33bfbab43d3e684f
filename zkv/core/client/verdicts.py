"""What to tell a caller whose call cannot be answered: why, and whether it may have been done (SAFETY 25)."""

from __future__ import annotations

from collections.abc import Container, Set

from zkv.core.client.calls import Batch, Call, Failure
from zkv.core.shardmap import DEAD, UP, ShardMap


def in_doubt(call: Call, under_way: Set[Batch]) -> bool:
    """Whether some write of the call was done, or may have been: a try left and was not definitely refused.

    `under_way`: batches with a try that has not been answered.
    """
    for batch in call.batches:
        if not batch.number:
            continue
        left = set(batch.open())
        if len(left) < len(batch.keys) or batch in under_way or not left.isdisjoint(batch.doubt):
            return True
    return False


def expired(call: Call, shard_map: ShardMap, *, greeted: bool, unknown: bool) -> Failure:
    """The deadline passed. `greeted`: the manager has been heard; `unknown`: the outcome is in doubt."""
    waited = f"after {(call.deadline_ms - call.started_ms) / 1000:g} s"
    if call.unrouted is not None:
        if not greeted:
            return Failure(Failure.UNREACHABLE, f"no answer from the manager {waited}", unknown=False)
        return Failure(Failure.NOT_FORMED, f"the cluster has not formed {waited}", unknown=False)
    for shard in _open_shards(call):
        if all(state_of(shard_map, boot) != UP for boot in shard_map.shards[shard].replicas):
            text = f"no copy of shard {shard} is reachable {waited}"
            return Failure(Failure.UNAVAILABLE, text, unknown=unknown, shard=shard)
    if call.thin:
        text = f"too few in-sync copies to take a write {waited} (min_in_sync)"
        return Failure(Failure.UNAVAILABLE, text, unknown=unknown)
    return Failure(Failure.TIMED_OUT, f"no answer {waited}", unknown=unknown)


def hopeless_shards(shard_map: ShardMap) -> dict[int, str]:
    """Shards that waiting will not bring back, and why."""
    why = {}
    dead = {boot for boot, member in shard_map.members.items() if member.state == DEAD}
    for shard, entry in enumerate(shard_map.shards):
        if entry.withheld:
            why[shard] = f"the operator's placement names no holder for shard {shard}; its data is kept"
        elif dead.issuperset(entry.replicas):
            why[shard] = f"every node that held shard {shard} is dead; its keys are lost"
    return why


def needs_one_of(call: Call, shards: Container[int]) -> int | None:
    """A shard among `shards` of which the call still wants something, or None."""
    return next((shard for shard in _open_shards(call) if shard in shards), None)


def state_of(shard_map: ShardMap, boot: int) -> int:
    """A member's state; DEAD for one that has left the map."""
    member = shard_map.members.get(boot)
    return member.state if member else DEAD


def _open_shards(call: Call) -> list[int]:
    """Shards of operations without a result, each once."""
    return sorted({batch.shards[index] for batch in call.batches for index in batch.open()})
