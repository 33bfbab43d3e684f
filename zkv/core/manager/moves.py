"""The next step of one shard towards the set that it is to have: a pure function.

A copy moves in two steps, each a new epoch: the new holder is named learner; when it is filled it joins the set, and in
the same step whoever is not wanted any more leaves, and the primary changes if it is to (SAFETY 1, 20, 22). So no step
leaves fewer in-sync copies than there were, or than are wanted.

Each new epoch interrupts the shard for a moment, and starts all its fills again from empty. Therefore nothing changes
while a learner that is still wanted is being filled; all ready learners join together; and the order of backups is
left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import NamedTuple

from zkv.core.shardmap import Shard


class Kind(Enum):
    """Why a shard changes."""

    REPAIR = "learners for copies that are lacking"
    MOVE = "learners for copies that are to be elsewhere"
    PROMOTION = "filled learners join"
    TRIM = "whoever is not wanted leaves"
    HANDOVER = "another member becomes primary"


class Step(NamedTuple):
    """The members of the next entry."""

    kind: Kind
    replicas: tuple[int, ...]
    learners: tuple[int, ...] = ()


class Guests(NamedTuple):
    """Members that are not treated like the others."""

    staying: AbstractSet[int] = frozenset()
    """They are given nothing just now, and keep what they have: they are on probation."""
    leaving: AbstractSet[int] = frozenset()
    """They leave first: they are drained."""
    forced: AbstractSet[int] = frozenset()
    """They leave although a copy is lost with them."""


def next_step(
    shard: Shard, target: tuple[int, ...], wanted: int, filled: AbstractSet[int], guests: Guests
) -> Step | None:
    """What is to be changed now; None if nothing is, or nothing can be before a fill ends.

    `target`: the holders to be, the primary first, as far as there are any now; `wanted`: how many there are to be;
    `filled`: learners reported filled under the present epoch. All replicas of the shard are up, it is active.
    """
    if not target:
        return None
    if shard.learners:
        return _after_fills(shard, target, wanted, filled, guests)
    replicas = shard.replicas
    missing = tuple(boot for boot in target if boot not in replicas)
    held = any(boot in guests.staying and boot not in target for boot in replicas)
    if missing and len(replicas) < wanted:
        return Step(Kind.REPAIR, replicas, missing[: wanted - len(replicas)] if held else missing)
    if held:
        return None
    if missing:
        return Step(Kind.MOVE, replicas, missing)
    settled = _settled(replicas, target, wanted, guests)
    if set(settled) != set(replicas):
        return Step(Kind.TRIM, settled)
    if settled[0] != replicas[0]:
        return Step(Kind.HANDOVER, settled)
    return None


def _after_fills(
    shard: Shard, target: tuple[int, ...], wanted: int, filled: AbstractSet[int], guests: Guests
) -> Step | None:
    """The step that ends the fills, once those that are still wanted have ended."""
    if any(boot in target and boot not in filled for boot in shard.learners):
        return None
    ready = tuple(boot for boot in shard.learners if boot in filled)
    if not ready and not any(boot in target for boot in shard.learners):
        return Step(Kind.TRIM, shard.replicas)  # none of them is wanted any more
    settled = _settled(shard.replicas + ready, target, wanted, guests)
    held = any(boot in guests.staying and boot not in target for boot in settled)
    missing = () if held else tuple(boot for boot in target if boot not in settled)
    return Step(Kind.PROMOTION, settled, missing)


def _settled(in_sync: Sequence[int], target: tuple[int, ...], wanted: int, guests: Guests) -> tuple[int, ...]:
    """The best set that can be made of `in_sync`: the target, and others where it lacks members."""
    chosen = [boot for boot in target if boot in in_sync]
    others = [boot for boot in in_sync if boot not in target and boot not in guests.forced]
    others.sort(key=lambda boot: (boot in guests.leaving, boot not in guests.staying))
    chosen += others[: max(0, wanted - len(chosen))]
    return tuple(chosen) or tuple(in_sync)
