"""What operators ask of a manager, verb by verb: each takes the arguments of an ADMIN frame and returns a dictionary.

Whatever cannot be done is refused with one line that says why, and what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from zkv.core.load import Load
from zkv.core.manager.advice import advise
from zkv.core.manager.losses import unproven
from zkv.core.manager.status import holdings
from zkv.core.manager.steering import candidates
from zkv.core.placement.rearrange import Bound, rearrange
from zkv.core.shardmap import UP, Member
from zkv.core.wire import Malformed

if TYPE_CHECKING:
    from zkv.core.manager.manager import Manager

MOVES_SHOWN: Final = 1000
"""Moves that a plan lists; its totals count all."""
NAMES_SHOWN: Final = 5


class Refused(Exception):
    """The wish cannot be fulfilled; the text says why, in one line."""


def _drain(manager: Manager, args: Mapping[str, Any]) -> dict[str, Any]:
    _formed(manager)
    if manager.placement.layout is not None:
        raise Refused("the operator's file places the shards: take the node out of the lists there")
    member = _named(manager, _text(args, "name"))
    roster, force = manager.roster, args.get("force", False)
    if not isinstance(force, bool):
        raise Malformed("force must be true or false")
    if member.state != UP:
        raise Refused(f"{member.name} is not up: it holds nothing that could be moved")
    if member.draining and not force:
        raise Refused(f"{member.name} is being drained already")
    left = [one for one in roster.members.values() if one.state == UP and not one.draining and one.boot != member.boot]
    wanted = manager.settings.replicas
    if not left:
        raise Refused(f"{member.name} is the last node: its data would have nowhere to go")
    if len(left) < wanted and not force:
        raise Refused(
            f"{len(left)} nodes would remain, and each shard is to have {wanted} copies: add a node first, or use force"
        )
    roster.drain(member.boot, True, force)
    manager.steering.touched(range(len(manager.map.shards)))
    held = roster.load.get(member.boot, Load())
    return {"name": member.name, "shards": holdings(manager.map)[1][member.boot], "bytes": held.bytes}


def _join(manager: Manager, args: Mapping[str, Any]) -> dict[str, Any]:
    member = _named(manager, _text(args, "name"))
    if not member.draining:
        raise Refused(f"{member.name} is not being drained")
    manager.roster.drain(member.boot, False)
    return {"name": member.name}


def _plan(manager: Manager, args: Mapping[str, Any]) -> dict[str, Any]:
    return _moves(manager, *_rebalanced(manager))


def _rebalance(manager: Manager, args: Mapping[str, Any]) -> dict[str, Any]:
    sets, bound = _rebalanced(manager)
    manager.roster.end_probations()
    manager.steering.start_over()
    return _moves(manager, sets, bound)


def _rebalanced(manager: Manager) -> tuple[list[tuple[int, ...]], Bound | None]:
    """Where the copies would be if they were placed anew from where they are now; and what the planner says of it."""
    _formed(manager)
    map, layout = manager.map, manager.placement.layout
    holders = manager.roster.holders(on_probation=True)
    if layout is not None:
        names = {member.name: member.boot for member in holders}
        return [tuple(names[name] for name in row if name in names) for row in layout.shards], None
    if not holders:
        raise Refused("no node is up that could hold shards: start one, or take a drain back")
    holders = manager.pressure.weighed(holders)
    current = [shard.replicas for shard in map.shards]
    arrangement = rearrange(
        candidates(holders), current, manager.settings.replicas, manager.settings.scatter_width
    )
    return arrangement.sets, arrangement.bound


def _moves(manager: Manager, sets: list[tuple[int, ...]], bound: Bound | None) -> dict[str, Any]:
    """What differs between these sets and the map, and what it weighs: a node's bytes over the copies that it holds."""
    map, load = manager.map, manager.roster.load
    held = holdings(map)[1]
    listed: list[dict[str, Any]] = []
    copies = primaries = all_keys = all_bytes = 0
    for number, (shard, target) in enumerate(zip(map.shards, sets, strict=True)):
        if not target:
            continue
        primaries += target[0] != shard.primary
        joining = [boot for boot in target if boot not in shard.replicas]
        leaving = [boot for boot in shard.replicas if boot not in target]
        if not (joining or leaving):
            continue
        source = load.get(shard.primary, Load())
        keys = round(source.keys / held[shard.primary]) * len(joining)
        size = round(source.bytes / held[shard.primary]) * len(joining)
        copies, all_keys, all_bytes = copies + len(joining), all_keys + keys, all_bytes + size
        if len(listed) < MOVES_SHOWN:
            names = {"from": list(map_names(manager, leaving)), "to": list(map_names(manager, joining))}
            listed.append({"shard": number, **names, "keys": keys, "bytes": size})
    return {
        "moves": listed,
        "copies": copies,
        "primaries": primaries,
        "keys": all_keys,
        "bytes": all_bytes,
        "balanced": not (copies or primaries or listed),
        "bound": bound._asdict() if bound is not None else {},
    }


def _advise(manager: Manager, args: Mapping[str, Any]) -> dict[str, Any]:
    _formed(manager)
    holders, copies = manager.roster.holders(on_probation=True), holdings(manager.map)[1]
    answer = advise(holders, manager.roster.load, copies, manager.settings.replicas)
    if manager.placement.layout is not None and answer["advice"] != "none":
        wish = "another node" if answer["advice"] == "add" else f"no {answer['node']}"
        reason = f"the operator's file says which nodes hold what; it might name {wish}: {answer['reason']}"
        return {**answer, "advice": "none", "node": None, "reason": reason}
    return answer


def _reset(manager: Manager, args: Mapping[str, Any]) -> dict[str, Any]:
    _formed(manager)
    map, members = manager.map, manager.roster.members
    asked = args.get("shards")
    if asked is None:
        asked = sorted(manager.losses.since_ms)
        if not asked:
            raise Refused("no shard is lost")
    if not isinstance(asked, list) or not all(type(one) is int and 0 <= one < len(map.shards) for one in asked):
        raise Refused(f"shards are numbered from 0 to {len(map.shards) - 1}")
    for number in asked:
        if number not in manager.losses.since_ms:
            raise Refused(f"shard {number} is not lost")
        alive = unproven(map, members, manager.filled.get(number, set()), number)
        if alive:
            names = ", ".join(map_names(manager, alive[:NAMES_SHOWN]))
            raise Refused(
                f"shard {number} may still be alive: {names} held it and {'is' if len(alive) == 1 else 'are'} not "
                "proven dead: end the process for good (zkv-launch kill NAME), or bring it back"
            )
    world = manager.world()
    manager.steering.aim(world)
    homeless = [number for number in asked if not manager.steering.target[number]]
    if homeless and manager.placement.layout is not None:
        raise Refused(f"the operator's file names nobody for shard {homeless[0]} who is up: name another node there")
    if homeless:
        raise Refused(f"no node is up that could hold shard {homeless[0]}: start one first")
    manager.losses.asked.update(asked)
    return {"reset": sorted(set(asked))}


def _events(manager: Manager, args: Mapping[str, Any]) -> dict[str, Any]:
    after, limit = args.get("after", 0), args.get("limit", MOVES_SHOWN)
    if not all(type(number) is int and number >= 0 for number in (after, limit)):
        raise Refused("after and limit must be numbers")
    return {"events": manager.log.after(after, limit), "last": manager.log.last}


VERBS: Final[Mapping[str, Callable[[Manager, Mapping[str, Any]], dict[str, Any]]]] = {
    "drain": _drain,
    "join": _join,
    "plan": _plan,
    "rebalance": _rebalance,
    "advise": _advise,
    "reset": _reset,
    "events": _events,
}


# --- arguments ----------------------------------------------------------------------------------------------------


def _formed(manager: Manager) -> None:
    if not manager.map.version:
        raise Refused("the cluster has not formed yet: wait until all its nodes have joined")


def _text(args: Mapping[str, Any], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str):
        raise Malformed(f"{name} must be a text")
    return value


def _named(manager: Manager, name: str) -> Member:
    """The member of this name: the one that is up, if there is one."""
    found = [member for member in manager.roster.members.values() if member.name == name]
    if not found:
        known = sorted({member.name for member in manager.roster.members.values()})
        raise Refused(f"no node is called {name}: there are {', '.join(known[:20])}")
    return min(found, key=lambda member: (member.state, member.boot))


def map_names(manager: Manager, boots: list[int]) -> list[str]:
    """Names of members."""
    return [manager.map.name_of(boot) for boot in boots]
