"""Any two of seven nodes, one after the other: does the cluster come back whole each time, and is anything lost?

`--trials` times: 7 nodes, 3 copies, respawn. Two nodes chosen at random are killed under load, the second as soon as
the cluster reports itself healed; each is replaced by a new one. In the end every acknowledged write is read back and
every shard has three copies.

\b
    python experiments/respawn.py

Exit status 1 if a write was lost, a call failed, or the cluster did not heal.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import click
from load import Load
from record import record
from recovery import Meter, preload, until_healthy

from zkv import LocalCluster
from zkv.net.admin import AdminLink


def trial(victims: list[str], keys: int) -> dict[str, Any]:
    """Two deaths in one cluster."""
    healed_s = []
    with (
        LocalCluster(nodes=7, replicas=3, respawn=True) as cluster,
        AdminLink(cluster.manager, timeout_s=10) as link,
    ):
        preload(cluster, keys, 100)
        with Load(cluster.manager, processes=2) as load:
            for victim in victims:
                before, killed_s = link.status(), time.monotonic()
                cluster.kill(victim)
                when_s = until_healthy(link, Meter(), before["map_version"])
                healed_s.append(round(when_s - killed_s, 2))
        with cluster.client(timeout_s=20) as kv:
            missing = 0
            for start in range(0, keys, 8192):
                names = [f"key{number:09d}" for number in range(start, min(start + 8192, keys))]
                missing += sum(value is None for value in kv.mget(names))
        status = link.status()
    whole = status["health"] == "healthy" and not status["short_shards"]
    return {
        "victims": victims, "healed_s": healed_s, "whole": whole, "missing": missing, "lost": load.wrong,
        "errors": len(load.errors), "acknowledged": load.acknowledged,
    }  # fmt: skip


@click.command(help=__doc__)
@click.option("--trials", default=10, show_default=True)
@click.option("--keys", default=100_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(trials: int, keys: int, seed: int) -> None:
    rng = random.Random(seed)
    good = True
    for number in range(trials):
        victims = rng.sample([f"server{place}" for place in range(1, 8)], 2)
        row = trial(victims, keys)
        click.echo(f"trial {number + 1}: " + ", ".join(f"{name} {figure}" for name, figure in row.items()))
        record("respawn", seed=seed, keys=keys, **row)
        good = good and row["whole"] and not (row["missing"] or row["lost"] or row["errors"])
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
