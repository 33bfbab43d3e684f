"""How many operations a second does one client get through `mput` and `mget`?

Seven nodes on this machine, 1, 3 and 5 replicas, 200,000 operations of which half are writes, in alternating calls of
`--step` keys. Runs are interleaved over the replica counts, and the median counts: the machines are noisy.

\b
    python experiments/throughput.py
    python experiments/throughput.py --replicas 3 --runs 5
"""

from __future__ import annotations

import statistics
import time

import click
from record import record

from zkv import LocalCluster


def one_run(nodes: int, replicas: int, operations: int, step: int) -> float:
    """Operations a second of one run on a fresh cluster; every value read is compared."""
    half = operations // 2
    batches = [
        {f"key{number:08d}": f"value{number:08d}" for number in range(start, min(start + step, half))}
        for start in range(0, half, step)
    ]
    with LocalCluster(nodes=nodes, replicas=replicas) as cluster, cluster.client(timeout_s=30) as kv:
        kv.mput({f"warm{number}": "up" for number in range(1000)})
        began_s = time.perf_counter()
        answers = []
        for batch in batches:
            kv.mput(batch)
            answers.append(kv.mget(list(batch)))
        took_s = time.perf_counter() - began_s
    for batch, answer in zip(batches, answers, strict=True):
        assert answer == list(batch.values()), "a value was not what had been put"
    return operations / took_s


@click.command(help=__doc__)
@click.option("--nodes", default=7, show_default=True)
@click.option("--replicas", multiple=True, type=int, default=(1, 3, 5), show_default=True)
@click.option("--operations", default=200_000, show_default=True)
@click.option("--step", default=8192, show_default=True, help="Keys of one call.")
@click.option("--runs", default=5, show_default=True, help="Runs for each replica count.")
def main(nodes: int, replicas: tuple[int, ...], operations: int, step: int, runs: int) -> None:
    found: dict[int, list[float]] = {count: [] for count in replicas}
    for number in range(runs):
        for count in replicas:
            found[count].append(one_run(nodes, count, operations, step))
            click.echo(f"run {number + 1}: {count} replicas: {found[count][-1]:9,.0f} ops/s")
    for count, rates in found.items():
        median = statistics.median(rates)
        click.echo(f"{count} replicas: median {median:9,.0f} ops/s, {min(rates):,.0f} to {max(rates):,.0f}")
        record(
            "throughput", nodes=nodes, replicas=count, operations=operations, step=step,
            ops_per_s=[round(rate) for rate in rates], median_ops_per_s=round(median),
        )  # fmt: skip


if __name__ == "__main__":
    main()
