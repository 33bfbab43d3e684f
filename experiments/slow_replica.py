"""One of three replicas is 20 ms away: what do reads from any replica notice of it, and what do hedges cost?

Three nodes, three copies of each key, so that every key has a copy on the slow node. That node is reached through a
forwarder, by clients and peers, which delays each chunk by 10 ms each way, or not at all: the path is the same. In each
run, healthy and slowed, new clients read one key at a time: from primaries, from any replica, from any with hedges.
Nothing is written meanwhile, as commit on all copies makes every write wait for the slow one.

\b
    python experiments/slow_replica.py
    python experiments/slow_replica.py --runs 1 --seconds 0.5

Exit status 1 if the p99 of hedged reads is more than 3 times what it is in health (the median of the runs).
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
from children import Children
from forwarder import Slowness, start_forwarder
from load import percentile
from record import record

from zkv import Client
from zkv.local.ports import HOST, reserve
from zkv.local.processes import child_environment, python_command
from zkv.net.admin import AdminLink

NODES: Final = 3
FORM_S: Final = 30.0
WAYS: Final[dict[str, dict[str, Any]]] = {
    "primary": {"read": "primary"},
    "any": {"read": "any"},
    "any_hedged": {"read": "any", "hedge": True},
}
STATES: Final = ("healthy", "slowed")
P99_TIMES: Final = 3.0
"""How much slower hedged reads may be while a replica is."""


@contextmanager
def cluster() -> Iterator[tuple[str, Slowness]]:
    """Three nodes, the first behind a forwarder: endpoint of their manager, and the forwarder."""
    environment = child_environment()
    with Children() as children:
        settings = ["--in-memory", "--nodes", str(NODES), "--replicas", str(NODES)]
        command = python_command("zkv.cli.manager", "--bind", f"tcp://{HOST}:0", *settings)
        _, manager = children.start_ready("manager", command, environment=environment)
        held, port = reserve(0)
        slowness = start_forwarder(children, "forwarder", HOST, port)
        for number in range(1, NODES + 1):
            where = ["--bind", f"tcp://{HOST}:0"]
            if number == 1:
                where = ["--bind", f"tcp://{HOST}:{port}", "--advertise", slowness.endpoint]
            command = python_command("zkv.cli.node", "--name", f"server{number}", "--manager", manager, *where)
            children.start_ready(f"server{number}", command, environment=environment)
        if held is not None:
            held.close()
        until_healthy(manager)
        yield manager, slowness


def until_healthy(manager: str) -> None:
    """Wait until every shard is served and has all its copies."""
    deadline_s = time.monotonic() + FORM_S
    with AdminLink(manager, timeout_s=10) as link:
        while link.status()["health"] != "healthy":
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the cluster did not form: {link.status()}")
            time.sleep(0.05)


def measure(manager: str, way: dict[str, Any], values: dict[str, str], seconds: float, seed: int) -> dict[str, float]:
    """Read one key at a time for a while, with a client of its own."""
    rng, keys = random.Random(seed), list(values)
    took_ms: list[float] = []
    with Client(manager, timeout_s=20, **way) as kv:
        # Before it counts the client is connected to all, and has had one answer of each.
        kv.mget(keys)
        before = kv.stats()
        end_s = time.perf_counter() + seconds
        then_s = 0.0
        while then_s < end_s:
            key = rng.choice(keys)
            then_s = time.perf_counter()
            found = kv.get(key)
            took_ms.append(1000 * (time.perf_counter() - then_s))
            assert found == values[key], "a value was not what had been put"
        after = kv.stats()
    took_ms.sort()
    requests, hedges = (after.get(name, 0) - before.get(name, 0) for name in ("requests", "hedges"))
    figures = {
        "p50_ms": percentile(took_ms, 0.5),
        "p99_ms": percentile(took_ms, 0.99),
        "p999_ms": percentile(took_ms, 0.999),
        "longest_ms": took_ms[-1],
        "reads_per_s": len(took_ms) / seconds,
        "hedges_percent": 100 * hedges / len(took_ms),
        # Hedges, and reads that a replica sent on to the primary.
        "extra_requests_percent": 100 * (requests / len(took_ms) - 1),
    }
    return {name: round(figure, 4) for name, figure in figures.items()}


@click.command(help=__doc__)
@click.option("--runs", default=5, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Time of each measurement.")
@click.option("--delay-ms", default=10.0, show_default=True, help="Of each chunk, each way.")
@click.option("--keys", default=1000, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(runs: int, seconds: float, delay_ms: float, keys: int, seed: int) -> None:
    values = {f"key{number:06d}": f"value{number:06d}" for number in range(keys)}
    found: dict[str, dict[str, list[dict[str, float]]]] = {way: {state: [] for state in STATES} for way in WAYS}
    with cluster() as (manager, slowness):
        with Client(manager, timeout_s=20) as kv:
            kv.mput(values)
        for number in range(runs):
            for state in STATES:
                slowness.delay(delay_ms if state == "slowed" else 0.0)
                for way, options in WAYS.items():
                    found[way][state].append(measure(manager, options, values, seconds, seed + number))
    click.echo(f"reads one at a time, in health and with one of three replicas {2 * delay_ms:g} ms slower; {runs} runs")
    times = {}
    for way, of in found.items():
        for state, rows in of.items():
            medians = "  ".join(f"{name} {statistics.median(row[name] for row in rows):.2f}" for name in rows[0])
            click.echo(f"{way:12}{state:9}{medians}")
        pairs = zip(of["healthy"], of["slowed"], strict=True)
        times[way] = round(statistics.median(slowed["p99_ms"] / healthy["p99_ms"] for healthy, slowed in pairs), 3)
        click.echo(f"{way:12}p99 with the slow replica is {times[way]:.2f} times that of health")
    record(
        "slow_replica", runs=runs, seconds=seconds, delay_ms=delay_ms, keys=keys, seed=seed,
        found=found, p99_times=times,
    )  # fmt: skip
    sys.exit(0 if times["any_hedged"] <= P99_TIMES else 1)


if __name__ == "__main__":
    main()
