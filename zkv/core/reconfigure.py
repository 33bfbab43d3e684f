"""What becomes of the shards when members go or come back: pure functions from a map to its next version.

Nothing here remembers anything. `reconfigure` looks at the states of the members and says which sets have to
change; asked again with the same states it changes nothing. That makes the manager's decisions the same
whether deaths come one by one or together, before its restart or after.

The rules (SAFETY 1, 31, 32):

- A set only ever shrinks to members that were in it. (Learners, which let it grow, belong to filling.)
- A set whose members are all gone stays as it is: it remembers who has the data. Those that come back first
  take it.
- No set is left to suspects while a better choice may show: members that are only *silent* leave a set when
  one with fresh heartbeats remains. Members *proven dead* leave as soon as anyone remains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from zkv.core.placement import Candidate, form, successor
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import DEAD, DOWN, UP, Member, Shard, ShardMap


class Plan(NamedTuple):
    """The entries that change, and whether a change was put off until a suspect is either heard or given
    up."""

    shards: dict[int, Shard]
    postponed: bool


def formation(candidates: Iterable[Member], settings: ClusterSettings) -> dict[int, Shard]:
    """The first entries of all shards: version 1, epoch 1, spread over `candidates`."""
    nodes = [Candidate(member.name, member.boot, member.zone, member.weight) for member in candidates]
    sets = form(nodes, settings.shards, settings.replicas, settings.scatter_width)
    return {number: Shard(1, 1, replicas) for number, replicas in enumerate(sets)}


def reconfigure(
    old: ShardMap,
    members: Mapping[int, Member],
    fresh: AbstractSet[int],
    drops: AbstractSet[tuple[int, int]],
    active: Sequence[int],
    version: int,
) -> Plan:
    """The shards of `old` that have to change, given the members as they are now.

    `fresh`: members that are up with fresh heartbeats; `drops`: pairs (primary, backup) that cannot work
    together; `active`: by shard, the newest epoch whose primary reported its activation; `version`: of the
    map to come.
    """
    kept: dict[tuple[int, ...], tuple[int, ...]] = {}
    changes: dict[int, Shard] = {}
    load = Counter(shard.primary for shard in old.shards)
    postponed = False
    for number, shard in enumerate(old.shards):
        keep = kept.get(shard.replicas)
        if keep is None:
            keep, waits = survivors(shard.replicas, members, fresh, drops)
            kept[shard.replicas] = keep
            postponed = postponed or waits
        if keep == shard.replicas:
            continue
        gone = set(shard.replicas).difference(keep)
        keep = successor(shard.replicas, gone, set(keep).difference(fresh), load)
        load[shard.primary] -= 1
        load[keep[0]] += 1
        wait = wait_list(shard, keep, members, active[number] == shard.epoch)
        changes[number] = Shard(shard.epoch + 1, version, keep, (), wait)
    return Plan(changes, postponed)


def survivors(
    replicas: tuple[int, ...],
    members: Mapping[int, Member],
    fresh: AbstractSet[int],
    drops: AbstractSet[tuple[int, int]],
) -> tuple[tuple[int, ...], bool]:
    """Who stays of one set, in its order, and whether more would have to go but for the lack of a fresh
    member."""
    keep = tuple(boot for boot in replicas if members[boot].state == UP)
    if not keep:
        return replicas, False
    silent = any(members[boot].state == DOWN for boot in replicas)
    if silent and fresh.isdisjoint(keep):
        return replicas, True
    paired = tuple(boot for boot in keep if boot == keep[0] or (keep[0], boot) not in drops)
    if paired != keep and keep[0] == replicas[0] and not fresh.isdisjoint(paired):
        keep = paired
    return keep, False


def wait_list(shard: Shard, keep: Collection[int], members: Mapping[int, Member], activated: bool) -> tuple[int, ...]:
    """Who may still hold a lease on `shard` from an earlier set: those a new primary has to wait for (SAFETY
    1, 15).

    Learners never hold one: they grant leases, and get none.
    """
    held = shard.replicas if activated else (*shard.wait, *shard.replicas)
    waiting = [boot for boot in held if boot not in keep and not _is_dead(boot, members)]
    return tuple(dict.fromkeys(waiting))


def subset_violation(old: Shard, new: Shard) -> str | None:
    """What is wrong with the step from `old` to `new`, the next entry of the same shard; None if nothing
    is."""
    if new.epoch == old.epoch:
        return None if new == old else "changed without a new epoch"
    if new.epoch < old.epoch:
        return f"the epoch went back from {old.epoch} to {new.epoch}"
    if new.epoch == old.epoch + 1 and not set(new.replicas) <= {*old.replicas, *old.learners}:
        return f"members that were not in sync joined the set at epoch {new.epoch}"
    return None


def _is_dead(boot: int, members: Mapping[int, Member]) -> bool:
    member = members.get(boot)
    return member is not None and member.state == DEAD


def neighbours(map: ShardMap) -> dict[int, set[int]]:
    """Who shares a shard with whom."""
    pairs: dict[int, set[int]] = {}
    for replicas in {shard.replicas for shard in map.shards}:
        for boot in replicas:
            pairs.setdefault(boot, set()).update(replicas)
    for boot, others in pairs.items():
        others.discard(boot)
    return pairs


def referenced(map: ShardMap) -> set[int]:
    """The members that some shard names."""
    boots: set[int] = set()
    for shard in set(map.shards):
        boots.update(shard.replicas, shard.learners, shard.wait)
    return boots
