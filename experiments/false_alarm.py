"""Does a busy machine look like a dead node? It must not.

A cluster of five under load, while other processes keep every core saturated; at the end the map must be the one of
the beginning: no member was ever given up, no primary replaced.

\b
    python experiments/false_alarm.py
    python experiments/false_alarm.py --seconds 30 --burners 8

Exit status 1 if there was a takeover.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

import click
from record import record

from zkv import LocalCluster


def burn() -> None:
    """Use one core for ever."""
    while True:
        sum(range(10_000))


@click.command(help=__doc__)
@click.option("--seconds", default=120, show_default=True)
@click.option("--burners", default=2 * (os.cpu_count() or 1), show_default=True, help="Processes that only compute.")
def main(seconds: int, burners: int) -> None:
    with LocalCluster(nodes=5, replicas=3) as cluster, cluster.client(timeout_s=30) as kv:
        before = cluster.health()["map_version"]
        processes = [multiprocessing.get_context("spawn").Process(target=burn, daemon=True) for _ in range(burners)]
        for process in processes:
            process.start()
        try:
            end_s = time.monotonic() + seconds
            puts, longest_ms, number = 0, 0.0, 0
            while time.monotonic() < end_s:
                batch = {f"key{number % 1000}-{place}": f"value{number}" for place in range(200)}
                began_s = time.monotonic()
                kv.mput(batch)
                assert kv.mget(list(batch)) == list(batch.values())
                longest_ms = max(longest_ms, (time.monotonic() - began_s) * 1000)
                puts += len(batch)
                number += 1
        finally:
            for process in processes:
                process.kill()
        after = cluster.health()
    changes = after["map_version"] - before
    click.echo(
        f"{seconds} s with {burners} busy processes on {os.cpu_count()} cores: {puts:,} puts read back, "
        f"slowest call {longest_ms:.0f} ms, {changes} changes of the map, {after['health']}"
    )
    record(
        "false_alarm",
        seconds=seconds,
        burners=burners,
        puts=puts,
        slowest_call_ms=round(longest_ms),
        map_changes=changes,
    )
    sys.exit(1 if changes else 0)


if __name__ == "__main__":
    main()
