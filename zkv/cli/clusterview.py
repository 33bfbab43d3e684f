"""A cluster as text: what `zkv-admin` and `zkv-launch` print of the manager's answers. Pure functions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from zkv.cli.render import as_text, byte_count, counted, table

if TYPE_CHECKING:
    from zkv.core.shardmap import ShardMap

SHARDS_SHOWN: Final = 12
"""Shard numbers or ranges that a line lists."""


# --- status -------------------------------------------------------------------------------------------------------


def status_text(status: Mapping[str, Any]) -> str:
    """What `zkv-admin status` prints."""
    lines = [headline(status), *remarks(status)]
    if status["nodes"]:
        lines += ["", table(*node_table(status))]
    return "\n".join(lines)


def headline(status: Mapping[str, Any]) -> str:
    """One line: how it is."""
    return (
        f"{status['health']}: {status['shards']} shards, {status['replicas']} replicas, "
        f"map version {status['map_version']}"
    )


def remarks(status: Mapping[str, Any]) -> list[str]:
    """What is not as usual, a line each."""
    if status["health"] == "forming":
        return [f"{len(status['nodes'])} of {status['expected_nodes']} nodes have joined"]
    lost, withheld, moving = status["lost_shards"], status["withheld_shards"], status["moving"]
    inactive, short = status["inactive_shards"] - lost, status["short_shards"] - lost
    lines = []
    if lost:
        lines.append(f"{_shards(lost)} LOST: no copy is up (zkv-admin map shows who held them)")
    if withheld and not (status["layout"] and status["layout"]["warnings"]):
        lines.append(f"{_shards(withheld)} withheld: the shard map file names no holder")
    if inactive > 0:
        lines.append(f"{_shards(inactive)} not served at present")
    if short > 0:
        lines.append(f"{counted(short, 'shard has', 'shards have')} fewer copies than wanted")
    if moving["shards"]:
        lines.append(f"{_shards(moving['shards'])} given new copies, {moving['left_keys']} keys left to send")
    copies = {node["name"]: node["primaries"] + node["backups"] for node in status["nodes"] if node["draining"]}
    lines += [f"{name} is being drained: {counted(left, 'copy', 'copies')} left" for name, left in copies.items()]
    if status["resets"]:
        lines.append(f"{_shards(status['resets'])} created anew, empty, since the cluster formed")
    lines += _memory(status)
    if status["layout"]:
        lines += _layout(status["layout"])
    return lines


def _memory(status: Mapping[str, Any]) -> list[str]:
    """Who holds more than allowed; and, where all nodes have a limit, whether all fits without the largest."""
    memory = status["memory"]
    held = {node["name"]: node for node in status["nodes"] if node["state"] == "up"}
    lines = [f"{name} is OVER its memory limit: {_of_limit(held[name])}" for name in memory["over"] if name in held]
    if memory["limit_bytes"]:
        used = f"memory: {byte_count(memory['bytes'])} of {byte_count(memory['limit_bytes'])}"
        if memory["fits_after_loss"] is None:
            lines.append(used)
        elif memory["fits_after_loss"]:
            lines.append(f"{used}; all copies would still fit after the loss of the largest node, {memory['largest']}")
        else:
            lines.append(f"{used}; after the loss of the largest node, {memory['largest']}, NOT all copies would fit")
    return lines


def _of_limit(node: Mapping[str, Any]) -> str:
    return f"{byte_count(node['bytes'])} of {byte_count(node['limit_bytes'])}"


def _layout(layout: Mapping[str, Any]) -> list[str]:
    since = f", since {local_time(layout['accepted_ms'])}" if layout["accepted_ms"] else ""
    lines = [f"{layout['file']} places the shards{since}"]
    if layout["refused"]:
        lines.append(f"its last edit is REFUSED, the map stays: {layout['refused']}")
    return lines + list(layout["warnings"])


def _shards(count: int) -> str:
    return f"{counted(count, 'shard')} {'is' if count == 1 else 'are'}"


def node_table(status: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Head and rows of the table of nodes; rare columns only where they say something."""
    nodes = status["nodes"]
    weights = any(node["weight"] != 1 for node in nodes)
    filling = any(node["fill_left_keys"] for node in nodes)
    limited = any(node["limit_bytes"] for node in nodes)
    counts = [name for name in ("evicted", "refused") if any(node[name] for node in nodes)]
    head = ("node", "state", "endpoint", "zone", *(("weight",) if weights else ()), "primaries", "backups", "keys")
    head += ("size", *(("limit",) if limited else ()), *counts, *(("to send",) if filling else ()), "busy")
    rows: list[tuple[object, ...]] = []
    for node in nodes:
        state = "draining" if node["draining"] and node["state"] == "up" else node["state"]
        row = (node["name"], state, node["endpoint"], node["zone"] or "-", *((node["weight"],) if weights else ()))
        row += (node["primaries"], node["backups"], node["keys"], byte_count(node["bytes"]))
        row += (*((_limit(node),) if limited else ()), *(node[name] for name in counts))
        row += (*((node["fill_left_keys"],) if filling else ()), f"{node['busy_permille'] / 10:.0f} %")
        rows.append(row)
    return head, rows


def _limit(node: Mapping[str, Any]) -> str:
    if not node["limit_bytes"]:
        return "-"
    over = ", OVER" if node["bytes"] > node["limit_bytes"] else ""
    return f"{byte_count(node['limit_bytes'])} ({100 * node['bytes'] / node['limit_bytes']:.0f} %{over})"


def shares(status: Mapping[str, Any]) -> dict[str, float]:
    """About how many copies each node that stays should hold, by weight."""
    staying = [node for node in status["nodes"] if node["state"] == "up" and not node["draining"]]
    weights = sum(node["placed_weight"] for node in staying)
    copies = status["shards"] * min(status["replicas"], len(staying))
    return {node["name"]: min(status["shards"], copies * node["placed_weight"] / weights) for node in staying}


# --- the map ------------------------------------------------------------------------------------------------------


def map_json(map: ShardMap) -> dict[str, Any]:
    """What `zkv-admin map --json` prints."""
    shards = [
        {
            "shard": number,
            "epoch": shard.epoch,
            "replicas": [map.name_of(boot) for boot in shard.replicas],
            "learners": [map.name_of(boot) for boot in shard.learners],
            "withheld": shard.withheld,
        }
        for number, shard in enumerate(map.shards)
    ]
    return {"cluster": f"{map.cluster:016x}", "map_version": map.version, "shards": shards}


def map_text(map: ShardMap) -> str:
    """What `zkv-admin map` prints: neighbours with the same holders and epoch share a line."""
    lines = [f"map version {map.version}, {len(map.shards)} shards"]
    rows: list[tuple[str, int, str]] = []
    first = 0
    described = [(shard.epoch, _holders(map, number)) for number, shard in enumerate(map.shards)]
    for number, row in enumerate(described):
        if number + 1 == len(described) or described[number + 1] != row:
            rows.append((_span(first, number), *row))
            first = number + 1
    if rows:
        lines.append(table(("shards", "epoch", "replicas"), rows))
    return "\n".join(lines)


def _holders(map: ShardMap, number: int) -> str:
    shard = map.shards[number]
    names = [_named(map, boot) for boot in shard.replicas]
    if shard.withheld:
        return f"nobody (withheld; kept by {', '.join(names)})"
    return ", ".join([*names, *(f"{map.name_of(boot)} (filling)" for boot in shard.learners)])


def _named(map: ShardMap, boot: int) -> str:
    """A holder's name, and its state where that is not up."""
    from zkv.core.shardmap import DEAD, STATE_NAMES, UP

    member = map.members.get(boot)
    state = member.state if member else DEAD
    return map.name_of(boot) if state == UP else f"{map.name_of(boot)} ({STATE_NAMES[state]})"


def lost_shards(map: ShardMap) -> list[int]:
    """Those of which no copy is up."""
    from zkv.core.shardmap import UP

    up = {boot for boot, member in map.members.items() if member.state == UP}
    return [number for number, shard in enumerate(map.shards) if up.isdisjoint(shard.replicas)]


def loss_text(map: ShardMap, shards: Sequence[int]) -> str:
    """Exactly what is lost if these are created anew."""
    holders: dict[str, list[int]] = {}
    for number in shards:
        holders.setdefault(_holders(map, number), []).append(number)
    lines = [f"  {spans(numbers)}: held by {names}" for names, numbers in holders.items()]
    part = 100 * len(shards) / len(map.shards)
    what = f"All keys of {counted(len(shards), 'shard')} ({part:.3g} % of all keys) will be lost for ever:"
    return "\n".join([what, *lines])


def spans(numbers: Sequence[int], shown: int = SHARDS_SHOWN) -> str:
    """1, 2, 3, 7 -> '1-3, 7'."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    texts = [_span(first, last) for first, last in found[:shown]]
    return ", ".join(texts + ["…"] * (len(found) > shown))


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


# --- moves, advice, events ----------------------------------------------------------------------------------------


def plan_text(plan: Mapping[str, Any], *, begun: bool) -> str:
    """What a rebalance moves, or would move."""
    if plan["balanced"]:
        lines = ["Nothing to move: every copy is where it should be."]
    else:
        copies = counted(plan["copies"], "copy", "copies")
        what = f"{copies} ({plan['keys']} keys, {byte_count(plan['bytes'])})"
        primaries = counted(plan["primaries"], "primary", "primaries")
        lines = [f"Moving {what}, changing {primaries}." if begun else f"Would move {what}, and change {primaries}."]
    rows = list(_moves(plan["moves"]))
    if rows:
        lines += ["", table(("from", "to", "copies", "keys", "size"), rows)]
        if len(plan["moves"]) < plan["copies"]:
            lines.append(f"(the first {len(plan['moves'])} moves)")
    if plan["bound"].get("primaries", 0) >= 1:
        off = plan["bound"]["primaries"]
        lines.append(f"No placement brings every node nearer to its share than {off:g} primaries.")
    return "\n".join(lines)


def _moves(moves: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, int, int, str]]:
    """Who gives to whom: givers and takers of a shard side by side; a copy that is lacking has no giver."""
    total: dict[tuple[str, str], Counter[str]] = {}
    for move in moves:
        givers, takers = list(move["from"]), list(move["to"])
        width = max(len(givers), len(takers))
        pairs = zip(givers + ["-"] * (width - len(givers)), takers + ["-"] * (width - len(takers)), strict=True)
        for pair in pairs:
            counts = total.setdefault(pair, Counter())
            counts["copies"] += 1
            if pair[1] != "-":
                counts["keys"] += move["keys"] // len(takers)
                counts["bytes"] += move["bytes"] // len(takers)
    for (giver, taker), counts in sorted(total.items()):
        yield giver, taker, counts["copies"], counts["keys"], byte_count(counts["bytes"])


def advice_text(answer: Mapping[str, Any]) -> str:
    """What the manager advises, and why."""
    advice = {"add": "add a node", "drain": f"drain {answer['node']}"}.get(answer["advice"], "nothing to change")
    figures = answer["figures"]
    lines = [f"{advice}: {answer['reason']}"]
    if "busy_permille" in figures:
        held = f"{figures['nodes']} nodes hold {byte_count(figures['bytes'])}, with {figures['replicas']} replicas"
        lines.append(f"{held}; {figures['busy_permille'] / 10:g} % busy on average")
    return "\n".join(lines)


def event_line(event: Mapping[str, Any]) -> str:
    """One event."""
    return f"{event['number']:5}  {local_time(event['time_ms'])}  {event['kind']:14}  {as_text(event['text'])}"


def local_time(unix_ms: int) -> str:
    """2025-11-21 07:21:33.123"""
    seconds, ms = divmod(int(unix_ms), 1000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{ms:03d}"
