"""What does it cost a node to remember what it has done, so that no retry is done twice?

The table that every replica keeps (`zkv.core.node.sessions`), filled as clients fill it, and the memory that Python
says it takes: a client that makes single writes; one that makes increments, whose results are remembered too; one whose
batches hold a thousand operations; one that swaps large values, where a bound gives up the oldest results. The columns
of a batch belong to the table here; in a node the tails and the replication share them while they need them.

\b
    python experiments/sessions.py
    python experiments/sessions.py --clients 100000
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import click
from record import record

from zkv.core.node.sessions import RECORDS_LIMIT, RESULTS_BYTES, SESSIONS_LIMIT, Sessions

Fill = Callable[[Sessions], None]


def clients(count: int, results: list[Any] | None) -> Fill:
    """So many clients, each with one write that may still be asked about."""

    def fill(sessions: Sessions) -> None:
        for client in range(count):
            sessions.remember(2**40 + client, 1, 1, None, (client % 1024,), (2**41 + client,), 0.0, results)

    return fill


def batches(count: int, operations: int) -> Fill:
    """One client with so many batches of several operations outstanding."""

    def fill(sessions: Sessions) -> None:
        for batch in range(count):
            first = 2**41 + batch * operations
            shards = [place % 1024 for place in range(operations)]
            sessions.remember(2**40, batch, 0, None, shards, list(range(first, first + operations)), 0.0)

    return fill


def swaps(count: int, size: int) -> Fill:
    """One client that swapped large values, and has not been told of any."""

    def fill(sessions: Sessions) -> None:
        for batch in range(count):
            sessions.remember(2**40, batch, 0, None, (1,), (2**41 + batch,), 0.0, [bytes(size)])

    return fill


def memory_of(fill: Fill) -> int:
    """Bytes that a table takes once it is filled."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    sessions = Sessions(20_000)
    fill(sessions)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before


@click.command(help=__doc__)
@click.option("--clients", "count", default=20_000, show_default=True, help="Clients that are remembered.")
def main(count: int) -> None:
    one, incremented = memory_of(clients(count, None)) / count, memory_of(clients(count, [7])) / count
    operations, number = 1000, 200
    of_batches = memory_of(batches(number, operations)) / (number * operations)
    swapped = memory_of(swaps(400, 1024 * 1024))
    figures = {
        "bytes_a_client_with_one_put": round(one),
        "bytes_a_client_with_one_incr": round(incremented),
        "bytes_an_operation_in_batches_of_1000": round(of_batches, 1),
        "mib_after_swapping_400_values_of_1_mib": round(swapped / 2**20, 1),
    }
    for what, figure in figures.items():
        print(f"{what.replace('_', ' ')}: {figure}")
    print(
        f"bounds: {SESSIONS_LIMIT} clients, {RECORDS_LIMIT} batches a client, {RESULTS_BYTES // 2**20} MiB of results; "
        f"with one write each, all clients take {one * SESSIONS_LIMIT / 2**20:.0f} MiB"
    )
    record("sessions", clients=count, **figures)


if __name__ == "__main__":
    main()
