"""How long does it take to plan where the copies go, in a cluster of a thousand nodes?

One planner, `zkv.core.placement.rearrange`, asked for a placement from nothing and for what follows a death, a join,
fifty deaths at once; with equal nodes, and with five zones and three weights. The median of several runs, the copies
that the plan makes, the least that any plan must (what is missing; what a newcomer lacks), and how far the nodes are
from their shares.

\b
    python experiments/planning.py
    python experiments/planning.py --nodes 100 --shards 4096 --runs 3
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from fractions import Fraction

import click
from record import record

from zkv.core.placement.initial import Candidate, form, shares
from zkv.core.placement.rearrange import rearrange

SCATTER_WIDTH = 4
WEIGHTS = (1.0, 2.0, 0.5)
Sets = list[tuple[int, ...]]


def candidates(count: int, *, zones: bool) -> list[Candidate]:
    """Equal nodes, or with zones and weights in turn."""
    if not zones:
        return [Candidate(f"server{number}", number) for number in range(1, count + 1)]
    return [
        Candidate(f"server{number}", number, f"zone{number % 5}", WEIGHTS[number % len(WEIGHTS)])
        for number in range(1, count + 1)
    ]


def least(nodes: Sequence[Candidate], current: Sets, replicas: int) -> int:
    """A bound from below: copies that are missing, or that nodes lack of their share rounded down."""
    there = {node.boot for node in nodes}
    missing = sum(max(0, replicas - sum(boot in there for boot in members)) for members in current)
    held = dict.fromkeys(there, 0)
    for members in current:
        for boot in there.intersection(members):
            held[boot] += 1
    parts = shares(nodes, replicas)
    lacking = sum(
        max(0, math.floor(Fraction(part) * len(current)) - held[node.boot])
        for node, part in zip(nodes, parts, strict=True)
    )
    return max(missing, lacking)


@click.command(help=__doc__)
@click.option("--nodes", default=1000, show_default=True)
@click.option("--shards", default=16_384, show_default=True)
@click.option("--replicas", default=3, show_default=True)
@click.option("--runs", default=5, show_default=True)
def main(nodes: int, shards: int, replicas: int, runs: int) -> None:
    for zones in (False, True):
        before = candidates(nodes, zones=zones)
        placed: Sets = form(before, shards, replicas, SCATTER_WIDTH)
        empty: Sets = [()] * shards
        changes: dict[str, tuple[Sequence[Candidate], Sets]] = {
            "from nothing": (before, empty),
            "no change": (before, placed),
            "one death": ([node for node in before if node.boot != nodes // 2], placed),
            "a join": ([*before, Candidate("server0", nodes + 1, before[0].zone)], placed),
            "deaths of a twentieth": (before[nodes // 20 :], placed),
        }
        kind = "zones and weights" if zones else "equal nodes"
        click.echo(f"{nodes} {kind}, {shards:,} shards with {replicas} copies:")
        for change, (members, current) in changes.items():
            times_ms = []
            for _ in range(runs):
                began_s = time.perf_counter()
                plan = rearrange(members, current, replicas, SCATTER_WIDTH)
                times_ms.append((time.perf_counter() - began_s) * 1000)
            made = sum(len(set(new) - set(old)) for old, new in zip(current, plan.sets, strict=True))
            figures = {
                "median_ms": round(statistics.median(times_ms), 1),
                "slowest_ms": round(max(times_ms), 1),
                "copies_made": made,
                "least": least(members, current, replicas),
                "off_copies": round(plan.bound.copies, 3),
                "off_primaries": round(plan.bound.primaries, 3),
            }
            click.echo(
                f"  {change:22} {figures['median_ms']:7.1f} ms (slowest {figures['slowest_ms']:.1f}), "
                f"{made:,} copies made (least {figures['least']:,}), at most {plan.bound.copies:.2f} copies and "
                f"{plan.bound.primaries:.2f} primaries from the ideal"
            )
            world = {"nodes": nodes, "shards": shards, "replicas": replicas, "kind": kind, "change": change}
            record("planning", **world, runs=runs, **figures)


if __name__ == "__main__":
    main()
