"""What to tell a caller whose operation cannot be answered: why, and whether it may have been done (SAFETY 25)."""

from __future__ import annotations

from collections.abc import Set

from zkv.core import wire
from zkv.core.client.batches import Batch
from zkv.core.client.calls import NOT_FORMED, TIMED_OUT, UNAVAILABLE, UNREACHABLE, Call, Failure
from zkv.core.shardmap import DEAD, UP, ShardMap


def in_doubt(batch: Batch, index: int, under_way: Set[tuple[Batch, int]]) -> bool:
    """Whether an operation without an answer may have been done: a try left and was not definitely refused.

    `under_way`: (batch, index) of tries that have not been answered.
    """
    return batch.op_at(index) in wire.WRITES and (index in batch.doubt or (batch, index) in under_way)


def unrouted(call: Call, *, greeted: bool, mapped: bool) -> Failure:
    """The deadline passed before there was a map. `greeted`: the manager has been heard; `mapped`: there was one, and
    the time was over before the call could be sent."""
    waited = _after(call)
    if mapped:
        return Failure(TIMED_OUT, f"it was not sent {waited}: this process was paused, or busy", unknown=False)
    if not greeted:
        return Failure(UNREACHABLE, f"no answer from the manager {waited}", unknown=False)
    return Failure(NOT_FORMED, f"the cluster has not formed {waited}", unknown=False)


def expired(
    call: Call, shard: int, batch: Batch | None, shard_map: ShardMap, *, unknown: bool, silent: bool
) -> Failure:
    """The deadline of an operation on `shard` passed. `silent`: its primary gives no sign of life to us."""
    waited = _after(call)
    entry = shard_map.shards[shard]
    kind, text = TIMED_OUT, f"no answer {waited}"
    if all(state_of(shard_map, boot) != UP for boot in entry.replicas):
        kind, text = UNAVAILABLE, f"no copy of shard {shard} is reachable {waited}"
    elif batch is not None and batch.thin:
        kind, text = UNAVAILABLE, f"too few in-sync copies to take a write {waited} (min_in_sync)"
    elif silent:
        text = f"{shard_map.name_of(entry.primary)} gives no sign of life {waited}"
    return located(kind, text, shard, batch, shard_map, unknown=unknown)


def located(
    kind: str, text: str, shard: int, batch: Batch | None, shard_map: ShardMap, *, unknown: bool
) -> Failure:
    """A failure with all that is known of where and how often it was tried."""
    member = shard_map.members.get(shard_map.shards[shard].primary)
    endpoint = "" if member is None else member.endpoint
    return Failure(kind, text, unknown, shard, endpoint, 0 if batch is None else batch.attempt)


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


def state_of(shard_map: ShardMap, boot: int) -> int:
    """A member's state; DEAD for one that has left the map."""
    member = shard_map.members.get(boot)
    return member.state if member else DEAD


def _after(call: Call) -> str:
    return f"after {(call.deadline_ms - call.started_ms) / 1000:g} s"
