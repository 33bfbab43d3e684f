"""How fast does the cluster heal after a death, and what do clients notice of it?

`--trials` times: a cluster of 7 nodes with 3 copies gets 1,000,000 keys with values of 100 bytes; four client processes
read and write without pause; one node is killed; the clock stops when the manager reports the cluster healthy again:
every shard has its three copies. Beside the time stand the p99 of all calls before, during and after, and the entries
sent against the least that could be: what the dead node held.

\b
    python experiments/recovery.py
    python experiments/recovery.py --keys 100000 --trials 1

Exit status 1 if a call failed or a write was lost.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import click
from load import Load, percentile
from record import record

from zkv import LocalCluster
from zkv.net.admin import AdminLink

QUIET_S = 5.0
"""Load before the fault, and after the healing."""
STEP = 8192
LOOK_S = 0.1
"""Interval of asking the manager, who shares the machine."""


def preload(cluster: LocalCluster, keys: int, value_bytes: int) -> None:
    """Put `keys` keys."""
    with cluster.client(timeout_s=60) as kv:
        for start in range(0, keys, STEP):
            chosen = range(start, min(start + STEP, keys))
            kv.mput({f"key{number:09d}": f"{number:09d}".ljust(value_bytes, "x") for number in chosen})


class Meter:
    """Counts what the nodes of a cluster have sent to learners, those that have gone included."""

    def __init__(self) -> None:
        self._sent: dict[str, tuple[int, int]] = {}

    def read(self, link: AdminLink) -> dict[str, Any]:
        """Ask for the status, and keep what each node says of itself."""
        status = link.status()
        self._sent.update({node["boot"]: (node["fill_keys"], node["fill_bytes"]) for node in status["nodes"]})
        return status

    def total(self) -> tuple[int, int]:
        """(entries, bytes) sent so far."""
        return sum(keys for keys, _ in self._sent.values()), sum(size for _, size in self._sent.values())


def until_healthy(link: AdminLink, meter: Meter, changed_from: int) -> float:
    """Wait until the cluster is healthy and at rest under a newer map; when that was."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        status = meter.read(link)
        if status["health"] == "healthy" and status["map_version"] > changed_from and not status["moving"]["shards"]:
            return time.monotonic()
        time.sleep(LOOK_S)
    raise TimeoutError(f"not healed: {status}")


def trial(nodes: int, keys: int, value_bytes: int, victim: str, pace_s: float) -> dict[str, Any]:
    """One death."""
    with LocalCluster(nodes=nodes, replicas=3) as cluster, AdminLink(cluster.manager, timeout_s=10) as link:
        preload(cluster, keys, value_bytes)
        meter = Meter()
        before = meter.read(link)
        sent_before = meter.total()
        held = next(node["keys"] for node in before["nodes"] if node["name"] == victim)
        with Load(cluster.manager, pace_s=pace_s) as load:
            began_s = time.monotonic()
            time.sleep(QUIET_S)  # the load is what is measured: this is the experiment's own time
            killed_s = time.monotonic()
            cluster.kill(victim)
            healed_s = until_healthy(link, meter, before["map_version"])
            time.sleep(QUIET_S)
            ended_s = time.monotonic()
            meter.read(link)
        sent_keys, sent_bytes = (now - then for now, then in zip(meter.total(), sent_before, strict=True))
        during = load.latencies_ms(killed_s, healed_s)
        return {
            "healed_s": round(healed_s - killed_s, 2),
            "p99_before_ms": round(percentile(load.latencies_ms(began_s, killed_s), 0.99), 2),
            "p99_during_ms": round(percentile(during, 0.99), 2),
            "p99_after_ms": round(percentile(load.latencies_ms(healed_s, ended_s), 0.99), 2),
            "longest_ms": round(during[-1], 1),
            "sent_keys": sent_keys,
            "least_keys": held,
            "sent_bytes": sent_bytes,
            "errors": len(load.errors),
            "lost": load.wrong,
            "acknowledged": load.acknowledged,
        }


@click.command(help=__doc__)
@click.option("--nodes", default=7, show_default=True)
@click.option("--keys", default=1_000_000, show_default=True)
@click.option("--value-bytes", default=100, show_default=True)
@click.option("--trials", default=3, show_default=True)
@click.option("--pace-ms", default=0.0, show_default=True, help="Pause of each client process between two calls.")
def main(nodes: int, keys: int, value_bytes: int, trials: int, pace_ms: float) -> None:
    found = []
    for number in range(trials):
        found.append(trial(nodes, keys, value_bytes, f"server{number % nodes + 1}", pace_ms / 1000))
        click.echo(f"trial {number + 1}: " + ", ".join(f"{name} {figure}" for name, figure in found[-1].items()))
    record("recovery", nodes=nodes, keys=keys, value_bytes=value_bytes, pace_ms=pace_ms, trials=found)
    for name in ("healed_s", "p99_before_ms", "p99_during_ms", "p99_after_ms"):
        click.echo(f"{name}: median {statistics.median(one[name] for one in found)}")
    sys.exit(1 if any(one["errors"] or one["lost"] for one in found) else 0)


if __name__ == "__main__":
    main()
