"""How does zkv compare with Redis Cluster, both from Python, on the same machine in the same minutes?

Seven zkv nodes with R copies of each key against seven Redis masters with R-1 replicas each, the one through `zkv`,
the other through redis-py with hiredis. One at a time, in batches, from 256 coroutines, from 16 threads that share a
client, with values of 1 MB, with numpy arrays. Runs are interleaved, each on a fresh cluster, and while one side is
measured the other does not run; medians count, with the range beside them. Every value read is compared.

The promises differ: a write of zkv is on all copies when it returns, one of Redis on its master; its replicas follow.

\b
    python experiments/redis_py.py
    python experiments/redis_py.py --replicas 3 --runs 1 --seconds 0.2
    python experiments/redis_py.py --case threads --case batches

Without redis-server or redis-py the zkv half runs alone.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

import click
import redis_servers
from record import record
from sides import RedisSide, Side, ZkvSide
from workloads import CASES, Workload

PROMISES: Final = (
    "zkv acknowledges a write when all copies have it; Redis when the master has it, replicas follow asynchronously. "
    "So with several copies zkv does more before it answers."
)
SIDES: Final = {"zkv": ZkvSide, "redis": RedisSide}


@dataclass(frozen=True)
class Settings:
    """What a comparison is made with."""

    nodes: int
    cases: tuple[str, ...]
    workload: Workload


def one_run(kind: str, copies: int, settings: Settings) -> dict[str, float]:
    """All cases once on a fresh cluster of one side: figures by name."""
    found: dict[str, float] = {}
    side: Side
    with SIDES[kind](settings.nodes, copies) as side:
        settings.workload.load(side)
        for case in settings.cases:
            side.settle()
            found |= CASES[case](side, settings.workload)
        side.settle()
        if copies > 1:
            found["catch_up_ms"] = 1000 * side.behind_s
            found["full_syncs"] = side.full_syncs()
    return found


def gain(name: str, zkv: float, redis: float) -> float:
    """How many times better zkv is: less time, or more of anything else."""
    better, worse = (redis, zkv) if name.endswith("_ms") else (zkv, redis)
    return better / worse if worse else float("nan")


def shown(figures: list[float]) -> str:
    """Median and range."""
    digits = 0 if min(figures) >= 1000 else 1 if min(figures) >= 10 else 3
    return f"{statistics.median(figures):,.{digits}f} ({min(figures):,.{digits}f} to {max(figures):,.{digits}f})"


def report(copies: int, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Print the figures of all runs side by side; what is to be recorded."""
    rows: dict[str, Any] = {}
    click.echo(f"\n{copies} {'copies' if copies > 1 else 'copy'} of each key; median (least to greatest) of the runs")
    click.echo(f"{'':30}{'zkv':>34}{'redis-py':>34}{'zkv, times as good':>20}")
    for name in runs["zkv"][0]:
        row: dict[str, Any] = {kind: [round(run[name], 4) for run in found] for kind, found in runs.items() if found}
        line = f"{name:30}{shown(row['zkv']):>34}"
        if "redis" in row and name not in ("catch_up_ms", "full_syncs"):
            pairs = zip(row["zkv"], row["redis"], strict=True)
            row["gain"] = round(statistics.median(gain(name, zkv, redis) for zkv, redis in pairs), 3)
            line += f"{shown(row['redis']):>34}{row['gain']:>19.2f}×"
        elif "redis" in row:
            line += f"{shown(row['redis']):>34}"
        click.echo(line)
        rows[name] = row
    return rows


@click.command(help=__doc__)
@click.option("--nodes", default=7, show_default=True, help="zkv nodes, and Redis masters.")
@click.option("--replicas", multiple=True, type=int, default=(3, 1), show_default=True, help="Copies of each key.")
@click.option("--runs", default=5, show_default=True, help="Runs of each side for each number of copies.")
@click.option("--seconds", default=2.0, show_default=True, help="Time of each measurement.")
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), default=tuple(CASES))
@click.option("--keys", default=10_000, show_default=True)
@click.option("--value-bytes", default=100, show_default=True)
@click.option("--step", default=1024, show_default=True, help="Operations of a batch.")
@click.option("--coroutines", default=256, show_default=True)
@click.option("--threads", default=16, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(
    nodes: int, replicas: tuple[int, ...], runs: int, seconds: float, cases: tuple[str, ...], seed: int, **sizes: int
) -> None:
    settings = Settings(nodes, cases, Workload(seconds=seconds, seed=seed, **sizes))
    kinds = ["zkv", "redis"]
    missing = redis_servers.missing()
    if missing:
        click.echo(f"Redis is left out: this machine lacks {missing}.", err=True)
        kinds.remove("redis")
    versions = {"numpy": metadata.version("numpy")} | ({} if missing else redis_servers.versions())
    try:
        versions["uvloop"] = metadata.version("uvloop")
    except metadata.PackageNotFoundError:
        click.echo("uvloop is left out: pip install '.[experiments]' has it.", err=True)
    click.echo(PROMISES)
    for copies in replicas:
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in SIDES}
        for number in range(runs):
            for kind in kinds:
                began_s = time.monotonic()
                found[kind].append(one_run(kind, copies, settings))
                click.echo(f"run {number + 1} of {kind}, {copies} copies: {time.monotonic() - began_s:.0f} s", err=True)
        rows = report(copies, found)
        record(
            "redis_py", nodes=nodes, replicas=copies, runs=runs, seconds=seconds, seed=seed, **sizes,
            other_versions=versions, promises=PROMISES, figures=rows,
        )  # fmt: skip
        if "threads" in cases:
            times = statistics.median(rows["threads_many_to_one"]["zkv"])
            click.echo(f"{sizes['threads']} threads do {times:.2f} times what one does with a zkv client")


if __name__ == "__main__":
    main()
