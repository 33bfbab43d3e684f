"""What do clients notice when nodes join and leave?

A cluster of 5 nodes with 3 copies and some data; four client processes, half reads, half writes. Two nodes join, then
one is drained. For each step: how long it took, the longest stall of any call and the p99 beside those of quiet, and
the entries sent against the least that could be (what the newcomers hold in the end; what the drained node held).

\b
    python experiments/elasticity.py
    python experiments/elasticity.py --keys 20000 --trials 1

Exit status 1 if a call failed or a write was lost.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import click
from load import Load, percentile
from record import record
from recovery import LOOK_S, Meter, preload, until_healthy

from zkv import LocalCluster
from zkv.net.admin import AdminLink

QUIET_S = 4.0


def keys_of(status: dict[str, Any], names: list[str]) -> int:
    """Entries that these nodes hold together."""
    return sum(node["keys"] for node in status["nodes"] if node["name"] in names)


def trial(keys: int, pace_s: float) -> list[dict[str, Any]]:
    """Join of two and drain of one, in one cluster under load."""
    steps: list[tuple[str, float, float, dict[str, int]]] = []
    meter = Meter()
    with LocalCluster(nodes=5, replicas=3) as cluster, AdminLink(cluster.manager, timeout_s=10) as link:
        preload(cluster, keys, 100)
        with Load(cluster.manager, pace_s=pace_s) as load:
            began_s = time.monotonic()
            time.sleep(QUIET_S)  # the load is what is measured: this is the experiment's own time
            quiet = (began_s, time.monotonic())

            before, start_s = meter.read(link), time.monotonic()
            sent = -meter.total()[0]
            joined = [str(cluster.add(wait=False)) for _ in range(2)]
            cluster.wait_healthy(120)
            end_s = until_healthy(link, meter, before["map_version"])
            time.sleep(QUIET_S)
            after = meter.read(link)
            sent += meter.total()[0]
            steps.append(("join of two", start_s, end_s, {"sent": sent, "least": keys_of(after, joined)}))

            before, start_s = after, time.monotonic()
            sent = -meter.total()[0]
            cluster.drain("server1", wait=False)
            while any(node["name"] == "server1" for node in meter.read(link)["nodes"]):
                time.sleep(LOOK_S)
            end_s = time.monotonic()
            time.sleep(QUIET_S)
            meter.read(link)
            sent += meter.total()[0]
            steps.append(("drain of one", start_s, end_s, {"sent": sent, "least": keys_of(before, ["server1"])}))
    calm = load.latencies_ms(*quiet)
    rows = [{"step": "quiet", "p99_ms": round(percentile(calm, 0.99), 2), "longest_ms": round(calm[-1], 1)}]
    for title, start_s, end_s, counts in steps:
        calls = load.latencies_ms(start_s, end_s)
        rows.append(
            {
                "step": title, "took_s": round(end_s - start_s, 2), "p99_ms": round(percentile(calls, 0.99), 2),
                "longest_ms": round(calls[-1], 1), **counts,
            }
        )  # fmt: skip
    rows.append({"step": "all", "errors": len(load.errors), "lost": load.wrong, "acknowledged": load.acknowledged})
    for error in load.errors[:5]:
        click.echo(error)
    return rows


@click.command(help=__doc__)
@click.option("--keys", default=200_000, show_default=True)
@click.option("--trials", default=3, show_default=True)
@click.option("--pace-ms", default=0.0, show_default=True, help="Pause of each client process between two calls.")
def main(keys: int, trials: int, pace_ms: float) -> None:
    failed = False
    for number in range(trials):
        rows = trial(keys, pace_ms / 1000)
        for row in rows:
            click.echo(f"trial {number + 1}: " + ", ".join(f"{name} {figure}" for name, figure in row.items()))
        record("elasticity", keys=keys, pace_ms=pace_ms, rows=rows)
        failed = failed or bool(rows[-1]["errors"] or rows[-1]["lost"])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
