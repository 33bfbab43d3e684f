"""Does a scan of the whole cluster stall those who write meanwhile, and how fast is it?

A cluster of 3 nodes with 3 copies holds 1,000,000 keys. One process puts single keys at a steady pace; the time of each
put counts from when it was due. Meanwhile another process does nothing, or scans the whole cluster over and over, or
only computes: all of them share this machine, and what a busy neighbour costs is not the scan's fault. These states
take turns, the median of the runs counts. In the end: how long `count` takes, for all keys and for a prefix, and
`flush`, of a tenth of the keys and of the rest.

\b
    python experiments/scans.py
    python experiments/scans.py --quick

Exit status 1 if puts took more than 2 times as long (p99) while a scan went on, or if a scan did not find every key.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

import click
from paced import curve, fill, key_of, median_of, paced, summary, value_of
from record import record

from zkv import Client, LocalCluster

NODES: Final = 3
VALUE_BYTES: Final = 100
P99_TIMES: Final = 2.0
STATES: Final = ("quiet", "computing", "scanning")


def _neighbour(end: Connection, manager: str) -> None:
    """A process that does as it is told, until it is told something else, and says how many keys it saw."""
    with Client(manager, timeout_s=60) as kv:
        kv.count()  # connected to all
        end.send(0)
        while (state := end.recv()) != "end":
            seen = _scan(end, kv) if state == "scanning" else _compute(end) if state == "computing" else []
            end.recv()  # that it is over
            end.send(seen)


def _scan(end: Connection, kv: Client) -> list[int]:
    """Keys seen by each scan, the last of which was not finished."""
    seen = [0]
    while not end.poll():
        for number, _ in enumerate(kv.scan(), 1):
            seen[-1] = number
            if number % 1000 == 0 and end.poll():
                return seen
        seen.append(0)
    return seen


def _compute(end: Connection) -> list[int]:
    while not end.poll():
        sum(range(10_000))
    return []


@contextmanager
def neighbour(manager: str) -> Iterator[Connection]:
    """Another process, at the other end of a pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_neighbour, args=(theirs, manager), daemon=True)
    process.start()
    theirs.close()
    ours.recv()
    yield ours
    ours.send("end")
    process.join()


def timed(call: Any, *arguments: Any) -> tuple[Any, float]:
    """What a call returned, and how long it took, in seconds."""
    began_s = time.perf_counter()
    found = call(*arguments)
    return found, round(time.perf_counter() - began_s, 3)


def count_and_flush(kv: Client, keys: int) -> dict[str, Any]:
    """The other operations that go through all keys. The prefix is that of a tenth of them."""
    prefix = key_of(0)[: 1 - len(str(keys - 1))]
    total, count_s = timed(kv.count)
    of_prefix, count_prefix_s = timed(kv.count, prefix)
    flushed, flush_prefix_s = timed(kv.flush, prefix)
    rest, flush_s = timed(kv.flush)
    return {
        "count_s": count_s, "count_prefix_s": count_prefix_s, "flush_prefix_s": flush_prefix_s, "flush_s": flush_s,
        "counted": total, "counted_prefix": of_prefix, "flushed_prefix": flushed, "flushed": rest,
        "left": kv.count(),
    }  # fmt: skip


@click.command(help=__doc__)
@click.option("--keys", default=1_000_000, show_default=True)
@click.option("--seconds", default=8.0, show_default=True, help="Time of each measurement.")
@click.option("--runs", default=5, show_default=True)
@click.option("--puts-per-s", default=100, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--quick", is_flag=True, help="100,000 keys, one run, three seconds: to see that it works.")
def main(keys: int, seconds: float, runs: int, puts_per_s: int, seed: int, quick: bool) -> None:
    if quick:
        keys, seconds, runs = 100_000, 3.0, 1
    rng = random.Random(seed)
    rows: dict[str, list[dict[str, Any]]] = {state: [] for state in STATES}
    took_ms: dict[str, list[float]] = {state: [] for state in STATES}
    whole = True
    with LocalCluster(nodes=NODES, replicas=NODES) as cluster, cluster.client(timeout_s=60) as kv:
        filled_s = fill(kv, range(keys), VALUE_BYTES)

        def put() -> None:
            number = rng.randrange(keys)
            kv.put(key_of(number), value_of(number, VALUE_BYTES))

        with neighbour(cluster.manager) as other:
            paced(put, puts_per_s, 0.5)  # warm
            for run in range(runs):
                for state in STATES:
                    other.send(state)
                    began_s = time.monotonic()
                    found = paced(put, puts_per_s, seconds)
                    other.send("enough")
                    seen = other.recv()
                    lasted_s = time.monotonic() - began_s
                    whole &= all(number == keys for number in seen[:-1])
                    took_ms[state] += found
                    rows[state].append(summary(found) | {"keys_per_s": round(sum(seen) / lasted_s)})
                    click.echo(f"run {run + 1}, {state}: {rows[state][-1]}")
        others = count_and_flush(kv, keys)
    medians = {state: {name: median_of(of, name) for name in of[0]} for state, of in rows.items()}
    times = {
        state: round(medians[state]["p99_ms"] / medians["quiet"]["p99_ms"], 3) for state in ("computing", "scanning")
    }
    times["scanning_to_computing"] = round(medians["scanning"]["p99_ms"] / medians["computing"]["p99_ms"], 3)
    for state, figures in medians.items():
        click.echo(f"{state}: {figures}")
    click.echo(f"p99 of puts, times that of quiet: {times}; {others}; whole: {whole}")
    record(
        "scans", keys=keys, seconds=seconds, runs=runs, puts_per_s=puts_per_s, seed=seed, quick=quick,
        filled_s=round(filled_s, 1), medians=medians, p99_times=times, rows=rows, whole=whole, others=others,
        curves={state: curve(of) for state, of in took_ms.items()},
    )  # fmt: skip
    sys.exit(0 if whole and times["scanning"] <= P99_TIMES else 1)


if __name__ == "__main__":
    main()
