"""What do 16 threads get out of one client, against one thread?

Operations of threads that wait for one node at the same time travel together, so a client that threads share does more
with each message. How much that gives depends on how many nodes the operations are spread over, and on how busy the
cores are with one thread already: here client and all nodes share one machine.

\b
    python experiments/threads.py
    python experiments/threads.py --nodes 7 --copies 3 --runs 5
"""

from __future__ import annotations

import statistics
import threading
import time
from typing import Final

import click
from record import record

from zkv import Client, LocalCluster

KEYS: Final = 2000
VALUE: Final = "x" * 100


def work(kv: Client, kind: str, thread: int, until_s: float, done: list[int]) -> None:
    """Gets, puts, or both in turn, one at a time."""
    number = 0
    while time.perf_counter() < until_s:
        key = f"key{(thread * 131 + number * 7) % KEYS}"
        if kind == "get" or (kind == "both" and number % 2):
            assert kv.get(key) == VALUE
        else:
            kv.put(key, VALUE)
        number += 1
    done.append(number)


def rate(kv: Client, kind: str, threads: int, seconds: float) -> float:
    """Operations a second of so many threads on one client."""
    done: list[int] = []
    began_s = time.perf_counter()
    until_s = began_s + seconds
    running = [threading.Thread(target=work, args=(kv, kind, number, until_s, done)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(done) / (time.perf_counter() - began_s)


@click.command(help=__doc__)
@click.option("--nodes", multiple=True, type=int, default=(3, 7), show_default=True)
@click.option("--copies", default=3, show_default=True)
@click.option("--threads", default=16, show_default=True)
@click.option("--runs", default=3, show_default=True)
@click.option("--seconds", default=1.0, show_default=True)
def main(nodes: tuple[int, ...], copies: int, threads: int, runs: int, seconds: float) -> None:
    for count in nodes:
        figures = {}
        with LocalCluster(nodes=count, replicas=min(copies, count)) as cluster, cluster.client() as kv:
            kv.mput({f"key{number}": VALUE for number in range(KEYS)})
            for kind in ("get", "put", "both"):
                pairs = [(rate(kv, kind, 1, seconds), rate(kv, kind, threads, seconds)) for _ in range(runs)]
                one, many = (statistics.median(column) for column in zip(*pairs, strict=True))
                gain = statistics.median(second / first for first, second in pairs)
                figures[kind] = {"one": round(one), "many": round(many), "times": round(gain, 2)}
                print(f"{count} nodes, {kind}: one thread {one:,.0f}, {threads} {many:,.0f} a second: {gain:.2f}×")
        record("threads", nodes=count, copies=copies, threads=threads, runs=runs, seconds=seconds, **figures)


if __name__ == "__main__":
    main()
