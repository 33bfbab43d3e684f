"""How many operations a second, beside a bare program of the same shape and what else one reaches for from Python?

Half puts and half gets of small values, on seven nodes with 1, 3 and 5 copies of each key: one operation at a time
(`one`), puts and gets in one pipeline (`pipelined`), calls with many keys (`batched`), coroutines (`asyncio`), from 1
to 8 client processes, which share the operations. zkv, the floor (`floor.py`), Redis Cluster through redis-py,
memcached through pymemcache and a `multiprocessing` manager's dict take turns, run by run, each on a fresh cluster.
Every value read is compared. Medians count, with least and greatest; ratios are of the runs of one turn.

zkv and the floor acknowledge a put when all copies have it, Redis when the master has it; the others keep no copies.

\b
    python experiments/throughput.py
    python experiments/throughput.py --client batched --processes 1 --replicas 3 --side zkv --side floor
    python experiments/throughput.py --part rounds
    python experiments/throughput.py --quick

`--part rounds`: one get at a time beside a bare round trip of the same bytes, one put at a time, 64 clients with one
operation under way each, and values of 1 MB, beside the floor's.

One operation at a time, and coroutines, do fewer operations than the rest: a twentieth and a quarter of them.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import click
from peers import ASYNCIO, BATCHED, CLIENTS, ONE, PEERS, Peer, present, versions
from record import record
from throughput_clients import Crew, Task, done
from throughput_rounds import rounds
from throughput_table import Rates, show, summary

from zkv.cli.live import progress

PART_OF: Final = {ONE: 20, ASYNCIO: 4}
"""Kinds of clients of which each operation takes longer do this part of the operations, one in so many."""
ASKED: Final[dict[tuple[str, int], dict[str, float]]] = {
    **{(BATCHED, copies): {"floor": 0.75, "redis": 10 if copies == 1 else 5} for copies in (1, 3, 5)},
    **{(ASYNCIO, copies): {"redis": 5} for copies in (1, 3, 5)},
}
"""(client, copies) -> how many times as many operations zkv is to do, with one client process."""
QUICK: Final[dict[str, Any]] = {
    "nodes": 3, "replicas": (1, 3), "operations": 8000, "step": 1024, "coroutines": 32, "runs": 1, "processes": (1, 2)
}  # fmt: skip


def tasks_for(peer: Peer, clients: tuple[str, ...], settings: dict[str, Any]) -> list[Task]:
    """What this peer is to do."""
    sizes = settings["step"], settings["value_bytes"], settings["coroutines"]
    tasks = []
    for client in clients:
        if client in peer.clients:
            slow = ONE if client == BATCHED and peer.slow_batches else client
            tasks.append(Task(client, settings["operations"] // PART_OF.get(slow, 1), *sizes))
    return tasks


def compare(
    clients: tuple[str, ...], processes: tuple[int, ...], names: list[str], settings: dict[str, Any], *, recorded: bool
) -> None:
    """All runs; a table and a line of results for each number of copies, kind of client and number of processes."""
    nodes, runs = settings["nodes"], settings["runs"]
    turns = [(copies, run, name) for copies in settings["replicas"] for run in range(runs) for name in names]
    rates: dict[tuple[int, str, int], Rates] = {
        (copies, client, count): {}
        for copies in settings["replicas"] for client in clients for count in processes
    }  # fmt: skip
    counts: dict[tuple[str, str, int], int] = {}
    with progress("throughput", "clusters") as told:
        for number, (copies, _, name) in enumerate(turns):
            told(number, len(turns))
            peer = PEERS[name]
            with peer.servers(nodes, copies) as servers, Crew(peer, servers.address, max(processes)) as crew:
                for task in tasks_for(peer, clients, settings):
                    for count in processes:
                        servers.settle()
                        rate = crew.ops_per_s(task, count)
                        rates[copies, task.client, count].setdefault(name, []).append(rate)
                        counts[name, task.client, count] = done(task, count)
        told(len(turns), len(turns))
    other_versions = versions(names)
    for (copies, client, count), found in rates.items():
        if not found:
            continue
        operations = {name: counts[name, client, count] for name in found}
        title = f"{client}, {copies} {'copies' if copies > 1 else 'copy'} of each key, client processes: {count}"
        few = {name: done_ for name, done_ in operations.items() if done_ < settings["operations"]}
        if few:
            listed = ", ".join(f"{name} {done_:,}" for name, done_ in few.items())
            title += f"\n(fewer operations than {settings['operations']:,}: {listed})"
        asked = ASKED.get((client, copies), {}) if count == 1 else {}
        show(title, found, "ops/s", asked)
        if recorded:
            record(
                "throughput", part="operations", client=client, processes=count,
                **settings | {"replicas": copies, "operations": operations},
                asked=asked, other_versions=other_versions, **summary(found, "ops_per_s"),
            )  # fmt: skip


@click.command(help=__doc__)
@click.option("--part", type=click.Choice(("operations", "rounds")), default="operations", show_default=True)
@click.option("--nodes", default=7, show_default=True, help="Nodes of zkv and of the floor, masters, servers.")
@click.option("--replicas", multiple=True, type=click.IntRange(min=1), default=(1, 3, 5), show_default=True,
              help="Copies of each key. Parts with rounds: 1 and 3, unless some are named.")  # fmt: skip
@click.option("--client", "clients", multiple=True, type=click.Choice(CLIENTS), default=CLIENTS, show_default=True)
@click.option("--processes", multiple=True, type=click.IntRange(1, 8), default=(1, 2, 4, 8), show_default=True,
              help="Client processes, that share the operations.")  # fmt: skip
@click.option("--side", "sides", multiple=True, type=click.Choice(list(PEERS)), default=tuple(PEERS),
              show_default=True)  # fmt: skip
@click.option("--operations", default=200_000, show_default=True, help="Of all client processes together.")
@click.option("--step", default=8192, show_default=True, help="Operations of a call, or of a pipeline.")
@click.option("--value-bytes", default=16, show_default=True)
@click.option("--coroutines", default=256, show_default=True, help="Of an asyncio client.")
@click.option("--runs", default=5, show_default=True, help="Clusters of each side for each number of copies.")
@click.option("--seed", default=1, show_default=True, help="Kept with the results; nothing here is drawn by lot.")
@click.option("--quick", is_flag=True, help="Seconds: small clusters and one run, unless an option says otherwise.")
@click.option("--no-record", is_flag=True, help="Print the figures, and keep nothing in results/.")
@click.pass_context
def main(
    context: click.Context, /, part: str, clients: tuple[str, ...], processes: tuple[int, ...], sides: tuple[str, ...],
    quick: bool, no_record: bool, **settings: Any,
) -> None:  # fmt: skip
    def named(option: str) -> bool:
        return context.get_parameter_source(option) is not click.core.ParameterSource.DEFAULT

    if part == "rounds" and not named("replicas"):
        settings["replicas"] = (1, 3)
    if quick:
        changed = {name: value for name, value in QUICK.items() if not named(name)}
        processes = changed.pop("processes", processes)
        settings |= changed
    settings["quick"] = quick
    for copies in settings["replicas"]:
        if copies > settings["nodes"]:
            raise click.UsageError(f"{settings['nodes']} nodes hold at most as many copies, not {copies}")
    names = present(sides, lambda line: click.echo(line, err=True))
    if not names:
        raise click.UsageError("none of these sides can run here: name another --side")
    try:
        if part == "rounds":
            rounds(names, settings, recorded=not no_record)
        else:
            compare(clients, processes, names, settings, recorded=not no_record)
    except RuntimeError as error:
        sys.exit(f"throughput: {error}")


if __name__ == "__main__":
    main()
