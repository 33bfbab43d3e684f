"""What to tell a caller whose call cannot be answered: why, and whether it may have been done (SAFETY 25)."""

from __future__ import annotations

from collections.abc import Set

from zkv.core.calls import Batch, Call, Failure
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
    return Failure(Failure.TIMED_OUT, f"no answer {waited}", unknown=unknown)


def lost_shard(call: Call, shard_map: ShardMap) -> int | None:
    """A shard that the call still needs and that has only dead copies: waiting would not bring it back."""
    for shard in _open_shards(call):
        if all(state_of(shard_map, boot) == DEAD for boot in shard_map.shards[shard].replicas):
            return shard
    return None


def lost(shard: int, *, unknown: bool) -> Failure:
    """The failure of a call that needs a lost shard."""
    text = f"every node that held shard {shard} is dead; its keys are lost"
    return Failure(Failure.UNAVAILABLE, text, unknown=unknown, shard=shard)


def state_of(shard_map: ShardMap, boot: int) -> int:
    """A member's state; DEAD for one that has left the map."""
    member = shard_map.members.get(boot)
    return member.state if member else DEAD


def _open_shards(call: Call) -> list[int]:
    """Shards of operations without a result, each once."""
    return sorted({batch.shards[index] for batch in call.batches for index in batch.open()})
