"""What becomes of the shards when members go or come back: pure functions from a map to its next version.

Nothing here remembers anything. `reconfigure` looks at the states of the members and says which sets have to
change; asked again with the same states it changes nothing. That makes the manager's decisions the same
whether deaths come one by one or together, before its restart or after. What has to be done for the sets to
be whole and balanced again is not decided here, but in `moves`.

The rules (SAFETY 1, 22, 31, 32):

- A set goes on with members that were in it. If it changes anyway, learners reported filled under the present
  epoch join it, since the change would end what they are; where no member is left they are the set.
- A set whose members are all gone stays as it is: it remembers who has the data. Those that come back first
  take it.
- No set is left to suspects while a better choice may show: members that are only *silent* leave a set when
  one with fresh heartbeats remains. Members *proven dead* leave as soon as anyone remains.
- Learners that are gone leave, since those reported filled hold up commits. The others stay learners.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from zkv.core.placement.initial import Candidate, form, successor
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import DEAD, DOWN, UP, Member, Shard, ShardMap

RELUCTANCE = 1 << 32
"""Primaries that a reluctant member counts as having on top of its own."""


class Plan(NamedTuple):
    """The entries that change, and whether a change was put off until a suspect is either heard or given
    up."""

    shards: dict[int, Shard]
    postponed: bool


class Survivors(NamedTuple):
    """What is left of one shard."""

    replicas: tuple[int, ...]
    """In sync, in the order of the old set, those just promoted last."""
    learners: tuple[int, ...]
    postponed: bool = False
    """Whether more would have to go but for the lack of a fresh member."""


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
    filled: Mapping[int, AbstractSet[int]] | None = None,
    reluctant: AbstractSet[int] = frozenset(),
) -> Plan:
    """The shards of `old` that have to change, given the members as they are now.

    `fresh`: members that are up with fresh heartbeats; `drops`: pairs (primary, backup) that cannot work
    together; `active`: by shard, the newest epoch whose primary reported its activation; `version`: of the
    map to come; `filled`: by shard, the learners reported filled under its present epoch; `reluctant`:
    members that become primary only where nobody else can.
    """
    filled = filled or {}
    kept: dict[tuple[int, ...], Survivors] = {}
    changes: dict[int, Shard] = {}
    load = Counter(shard.primary for shard in old.shards)
    load.update(dict.fromkeys(reluctant, RELUCTANCE))
    postponed = False
    for number, shard in enumerate(old.shards):
        if shard.learners:
            left = survivors(shard, members, fresh, drops, filled.get(number, frozenset()))
        elif (known := kept.get(shard.replicas)) is not None:
            left = known
        else:
            left = kept[shard.replicas] = survivors(shard, members, fresh, drops, frozenset())
        postponed = postponed or left.postponed
        if left.replicas == shard.replicas and left.learners == shard.learners:
            continue
        all_of_them = (*shard.replicas, *(boot for boot in left.replicas if boot not in shard.replicas))
        gone = set(all_of_them).difference(left.replicas)
        keep = successor(all_of_them, gone, set(left.replicas).difference(fresh), load)
        load[shard.primary] -= 1
        load[keep[0]] += 1
        changes[number] = next_entry(shard, version, members, active[number], keep, left.learners)
    return Plan(changes, postponed)


def survivors(
    shard: Shard,
    members: Mapping[int, Member],
    fresh: AbstractSet[int],
    drops: AbstractSet[tuple[int, int]],
    filled: AbstractSet[int],
) -> Survivors:
    """Who stays of one shard."""
    replicas = shard.replicas
    unchanged = Survivors(replicas, shard.learners)
    stay = tuple(boot for boot in replicas if members[boot].state == UP)
    living = tuple(boot for boot in shard.learners if members[boot].state == UP)
    ready = tuple(boot for boot in living if boot in filled)
    keep = stay + ready
    if not keep:
        return unchanged
    if any(members[boot].state == DOWN for boot in replicas) and fresh.isdisjoint(keep):
        return unchanged._replace(postponed=True)
    if keep[0] == replicas[0]:
        paired = tuple(boot for boot in keep if boot == keep[0] or (keep[0], boot) not in drops)
        if not fresh.isdisjoint(paired):
            keep = paired
            living = tuple(boot for boot in living if (keep[0], boot) not in drops)
    if set(keep).issuperset(replicas) and living == shard.learners:
        return unchanged
    return Survivors(keep, tuple(boot for boot in living if boot not in ready))


def next_entry(
    shard: Shard,
    version: int,
    members: Mapping[int, Member],
    active: int,
    replicas: tuple[int, ...],
    learners: tuple[int, ...] = (),
    *,
    withheld: bool | None = None,
) -> Shard:
    """The entry that follows on `shard`, in map `version`, with these members and nothing else changed.

    `active`: the newest epoch reported active.
    """
    wait = wait_list(shard, replicas, members, active == shard.epoch)
    hidden = shard.withheld if withheld is None else withheld
    return Shard(shard.epoch + 1, version, replicas, learners, wait, shard.born, hidden)


def reset_entry(shard: Shard, version: int, members: Mapping[int, Member], replicas: tuple[int, ...]) -> Shard:
    """The entry by which a lost shard is created empty on `replicas`. For shards with `is_proven_lost` alone (SAFETY
    33)."""
    wait = wait_list(shard, replicas, members, activated=False)
    return Shard(shard.epoch + 1, version, replicas, (), wait, shard.epoch + 1)


def wait_list(shard: Shard, keep: Collection[int], members: Mapping[int, Member], activated: bool) -> tuple[int, ...]:
    """Who may still hold a lease on `shard` from an earlier set: those a new primary has to wait for (SAFETY
    1, 15).

    Learners never hold one: they grant leases, and get none. Who has left the table of members holds none either: it
    stayed as long as the shard was not known to be active without it (`referenced`).
    """
    held = shard.replicas if activated else (*shard.wait, *shard.replicas)
    waiting = [boot for boot in held if boot not in keep and boot in members and members[boot].state != DEAD]
    return tuple(dict.fromkeys(waiting))


def is_proven_lost(shard: Shard, members: Mapping[int, Member], filled: AbstractSet[int]) -> bool:
    """Whether everyone who had all of the shard's data is proven dead; being silent is not enough (SAFETY 33)."""
    return all(members[boot].state == DEAD for boot in (*shard.replicas, *sorted(filled)))


def subset_violation(old: Shard, new: Shard) -> str | None:
    """What is wrong with the step from `old` to `new`, the next entry of the same shard; None if nothing
    is."""
    if new.epoch == old.epoch:
        return None if new == old else "changed without a new epoch"
    if new.epoch < old.epoch:
        return f"the epoch went back from {old.epoch} to {new.epoch}"
    if not set(new.learners).isdisjoint(new.replicas):
        return f"a member is to learn what it holds, at epoch {new.epoch}"
    if new.withheld and new.learners:
        return f"withheld, and yet filled, at epoch {new.epoch}"
    if new.epoch > old.epoch + 1:
        return None
    if new.born != old.born:
        return None if new.born == new.epoch and not new.learners else f"born at {new.born}, in epoch {new.epoch}"
    if not set(new.replicas) <= {*old.replicas, *old.learners}:
        return f"members that were not in sync joined the set at epoch {new.epoch}"
    return None


def neighbours(map: ShardMap) -> dict[int, set[int]]:
    """Who shares a shard with whom."""
    pairs: dict[int, set[int]] = {}
    for replicas, learners in {(shard.replicas, shard.learners) for shard in map.shards}:
        for boot in replicas:
            pairs.setdefault(boot, set()).update(replicas)
        # Learners have to do with the primary alone.
        for boot in learners:
            pairs.setdefault(boot, set()).add(replicas[0])
            pairs[replicas[0]].add(boot)
    for boot, others in pairs.items():
        others.discard(boot)
    return pairs


def leaves_a_primary(map: ShardMap, up: AbstractSet[int], shunned: AbstractSet[int]) -> bool:
    """Whether each shard that has an in-sync member that is up has one that is not shunned."""
    rest = up - shunned
    sets = {shard.replicas for shard in map.shards}
    return all(up.isdisjoint(replicas) or not rest.isdisjoint(replicas) for replicas in sets)


def referenced(map: ShardMap, active: Sequence[int]) -> set[int]:
    """The members that some shard names. `active`: by shard, the newest epoch reported active: whoever such a shard's
    wait list names has been waited for."""
    boots: set[int] = set()
    for replicas, learners in {(shard.replicas, shard.learners) for shard in map.shards}:
        boots.update(replicas, learners)
    for shard, epoch in zip(map.shards, active, strict=True):
        if shard.wait and epoch != shard.epoch:
            boots.update(shard.wait)
    return boots
