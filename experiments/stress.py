"""Gets and sets at a steady rate, whatever the cluster does, with short times to live; and is what gets show right?

An open loop on a cluster that it starts itself: each request is due at a moment that was fixed before, its latency
counts from then, and requests run at the same time. Of each get that succeeds it follows from the sets, their times and
their times to live what it may show (experiments/stress_check.py).

\b
    python experiments/stress.py                    100 get/s, 30 set/s with a TTL of 2 s, for 60 s
    python experiments/stress.py --get-qps 600 --set-qps 200 --ttl 0.5s --duration 60s --num-keys 1000
    python experiments/stress.py --shard-map launch/shardmaps/three.json
    python experiments/stress.py --churn            while holders are removed from the shard map and put back
    python experiments/stress.py --quick            five seconds of it

Exit status 1 if a get showed what it must not; then the first of them are told.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
from record import record
from stress_check import MARGIN_MS, NEVER, Get, Put, Verdict, judge
from stress_churn import Churn, ring, written

from zkv import AsyncClient, LocalCluster, ZkvError
from zkv.bench.clients import Show, exact_loop
from zkv.bench.pacing import SECOND_NS
from zkv.bench.tally import GET, PUT, Tally, table_of
from zkv.cli.live import progress
from zkv.local.plan import LaunchError

QUICK_S: Final = 5.0
UNDER_WAY: Final = 1000
"""Requests at once at most. Those that have to wait for others count from when they were due all the same."""
SHOW_S: Final = 0.1
CHURN_SHARDS: Final = 64
"""Of the placement that is made where --churn is given and no file."""
HEAD_START_NS: Final = SECOND_NS // 20


class Seconds(click.ParamType[float]):
    """A time: 60s, 0.5s, 500ms, 2m, or a number of seconds."""

    name = "time"
    UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(ms|s|m|h|)", value)
        seconds = float(match[1]) * self.UNITS[match[2]] if match else 0.0
        if not 0.001 <= seconds <= 86400:
            self.fail(f"{value!r} is no time from 1ms to 24h: write 60s, 0.5s, 500ms or 2m", param, ctx)
        return seconds


@dataclass(frozen=True)
class Settings:
    """What is asked for."""

    get_qps: float
    set_qps: float
    ttl_s: float
    duration_s: float
    num_keys: int
    seed: int


class Load:
    """The requests of one run."""

    def __init__(self, settings: Settings, manager: str) -> None:
        self.settings = settings
        self.tally = Tally()
        self.puts: list[Put] = []
        self.gets: list[Get] = []
        self.requests = {GET: 0, PUT: 0}
        self._manager = manager
        self._rng = random.Random(settings.seed)
        self._slots = asyncio.Semaphore(UNDER_WAY)

    def due(self) -> Iterator[tuple[int, str]]:
        """When each request is due, in nanoseconds from the beginning, and its kind."""

        def one_kind(kind: str, per_s: float) -> Iterator[tuple[int, str]]:
            for number in range(round(per_s * self.settings.duration_s)):
                yield round(number * SECOND_NS / per_s), kind

        return heapq.merge(one_kind(GET, self.settings.get_qps), one_kind(PUT, self.settings.set_qps))

    async def run(self, show: Show) -> None:
        """All of it."""
        total = sum(1 for _ in self.due())
        async with AsyncClient(self._manager) as kv:
            await kv.mget([f"warm{number}" for number in range(1000)])  # connected to all before it counts
            self.tally.began_ns = time.monotonic_ns() + HEAD_START_NS
            meter = asyncio.create_task(self._meter(show, total))
            async with asyncio.TaskGroup() as group:
                for after_ns, kind in self.due():
                    due_ns = self.tally.began_ns + after_ns
                    while (left_ns := due_ns - time.monotonic_ns()) > 0:
                        await asyncio.sleep(left_ns / SECOND_NS)
                    await self._slots.acquire()
                    key = f"stress:{self._rng.randrange(self.settings.num_keys)}"
                    group.create_task(self._get(kv, key, due_ns) if kind == GET else self._set(kv, key, due_ns))
            self.tally.ended_ns = time.monotonic_ns()
            meter.cancel()
            show(total, total)

    async def _meter(self, show: Show, total: int) -> None:
        while True:
            show(self.tally.operations + self.tally.failures, total)
            await asyncio.sleep(SHOW_S)

    async def _get(self, kv: AsyncClient, key: str, due_ns: int) -> None:
        self.requests[GET] += 1
        sent_ns = time.monotonic_ns()
        try:
            found = await kv.get(key)
        except ZkvError as error:
            self.tally.failed(GET, error)
        else:
            done_ns = time.monotonic_ns()
            self.tally.succeeded(GET, done_ns - due_ns)
            self.tally.missed += found is None
            self.gets.append(Get(key, found, self._ms(sent_ns), self._ms(done_ns)))
        finally:
            self._slots.release()

    async def _set(self, kv: AsyncClient, key: str, due_ns: int) -> None:
        self.requests[PUT] += 1
        value = f"value{self.requests[PUT]}"
        sent_ns, ttl_ms = time.monotonic_ns(), 1000 * self.settings.ttl_s
        try:
            await kv.put(key, value, ttl_s=self.settings.ttl_s)
        except ZkvError as error:
            self.tally.failed(PUT, error)
            if error.outcome_unknown:
                self.puts.append(Put(key, value, self._ms(sent_ns), NEVER, ttl_ms))
        else:
            done_ns = time.monotonic_ns()
            self.tally.succeeded(PUT, done_ns - due_ns)
            self.puts.append(Put(key, value, self._ms(sent_ns), self._ms(done_ns), ttl_ms))
        finally:
            self._slots.release()

    def _ms(self, at_ns: int) -> float:
        return (at_ns - self.tally.began_ns) / 1e6


def part(right: int, whole: int) -> str:
    """35169/35169 … = 100.000000%: the end of it; nothing of nothing is all."""
    return f"{100 * right / whole if whole else 100:.6f}%"


def report(load: Load, verdict: Verdict) -> str:
    """What is printed."""
    lines = []
    for name, kind in (("Get", GET), ("Set", PUT)):
        done, asked = load.tally.latencies[kind].count, load.requests[kind]
        lines.append(f"{name} requests: {done}/{asked} succeeded = {part(done, asked)} success rate")
    lines.append(
        f"Correct responses: {verdict.correct}/{verdict.determined} = {part(verdict.correct, verdict.determined)}"
    )
    total = sum(load.requests.values())
    lines += [f"Total requests: {total} = {total / load.tally.seconds:.6f} QPS", ""]
    lines += ["Latency, from when a request was due:", table_of(load.tally.figures()["kinds"])]
    lines += [
        f"{kind}: {count} x {name}" for kind, errors in load.tally.errors.items() for name, count in errors.items()
    ]
    return "\n".join(lines)


def cluster_of(stack: ExitStack, nodes: int, replicas: int, shard_map: str | None, churn: bool) -> tuple[Any, Any]:
    """The cluster, and the file that it follows, if there is one."""
    if shard_map is None and churn:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="stress-"))
        shard_map = f"{directory}/shard_map.json"
        Path(shard_map).write_text(written(ring(nodes, replicas, CHURN_SHARDS)), encoding="utf-8")
    if shard_map is None:
        return stack.enter_context(LocalCluster(nodes=nodes, replicas=replicas)), None
    return stack.enter_context(LocalCluster(shard_map=shard_map)), Path(shard_map)


def measured(
    settings: Settings, nodes: int, replicas: int, shard_map: str | None, churn: bool
) -> tuple[Load, list[str], Churn | None]:
    """One run: its requests, the names of the nodes, and what was done to the placement."""
    with ExitStack() as stack:
        cluster, file = cluster_of(stack, nodes, replicas, shard_map, churn)
        load = Load(settings, cluster.manager)
        gone_back = Churn(file, cluster.manager, settings.seed) if churn else None
        gc.collect()
        gc.freeze()  # what is there by now is not walked over while latencies are measured
        show = stack.enter_context(progress("load", "requests"))
        with gone_back or nullcontext(), asyncio.Runner(loop_factory=exact_loop) as runner:
            runner.run(load.run(show))
        return load, cluster.names, gone_back


@click.command(help=__doc__)
@click.option("--get-qps", type=click.FloatRange(0, 100_000), default=100.0, show_default=True, help="Gets a second.")
@click.option("--set-qps", type=click.FloatRange(0, 100_000), default=30.0, show_default=True, help="Sets a second.")
@click.option("--ttl", "ttl_s", type=Seconds(), default="2s", show_default=True, help="Time to live of what is set.")
@click.option("--duration", "duration_s", type=Seconds(), default="60s", show_default=True, help="How long.")
@click.option("--num-keys", type=click.IntRange(1, 10_000_000), default=100, show_default=True, help="Different keys.")
@click.option(
    "--shard-map", type=click.Path(dir_okay=False), metavar="FILE",
    help="The cluster is as this placement says, and follows it (docs/OPERATIONS.md).  [default: the manager places]",
)  # fmt: skip
@click.option("--nodes", type=click.IntRange(1, 64), help="Of the cluster.  [default: 5, or as --shard-map says]")
@click.option("--replicas", type=click.IntRange(1, 16), help="Copies.  [default: 3, or as --shard-map says]")
@click.option(
    "--churn", is_flag=True,
    help="Meanwhile remove holders from FILE and put them back; it is as before in the end. Without --shard-map it is "
    "a file of its own.",
)  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Decides which keys are asked for, in what order.")
@click.option("--quick", is_flag=True, help=f"{QUICK_S:g} seconds, however long --duration is.")
@click.option("--no-record", is_flag=True, help="Leave results/ alone.")
def main(
    shard_map: str | None, nodes: int | None, replicas: int | None, churn: bool, quick: bool, no_record: bool,
    **options: Any,
) -> None:  # fmt: skip
    if shard_map is not None and (nodes or replicas):
        raise click.UsageError("--shard-map says how many nodes and replicas: leave --nodes and --replicas out")
    nodes, replicas = nodes or 5, replicas or min(3, nodes or 5)
    if churn and shard_map is None and not 2 <= replicas <= nodes:
        raise click.UsageError("--churn needs at least 2 replicas, and as many nodes: a shard keeps one of its holders")
    settings = Settings(**options)
    if quick:
        settings = Settings(**(options | {"duration_s": min(QUICK_S, settings.duration_s)}))
    if not round(settings.get_qps * settings.duration_s) + round(settings.set_qps * settings.duration_s):
        raise click.UsageError("that is no request at all: raise --get-qps, --set-qps or --duration")
    try:
        load, names, gone_back = measured(settings, nodes, replicas, shard_map, churn)
    except (ZkvError, LaunchError, OSError) as error:
        raise click.ClickException(str(error)) from None
    verdict = judge(load.puts, load.gets)
    click.echo(report(load, verdict))
    churned: dict[str, Any] | None = None
    if gone_back is not None:
        churned = {"removed": gone_back.removed, "put_back": gone_back.put_back, "followed_ms": gone_back.followed_ms}
        longest_ms = max(gone_back.followed_ms, default=0.0)
        click.echo(
            f"Holders were removed {gone_back.removed} times and put back {gone_back.put_back} times; the cluster "
            f"followed within {longest_ms:.0f} ms"
        )
    for story in verdict.stories:
        click.echo(f"wrong: {story}", err=True)
    if not no_record:
        record(
            "stress", quick=quick, nodes=len(names), replicas=replicas if shard_map is None else None,
            shard_map=shard_map, settings=asdict(settings), requests=load.requests, determined=verdict.determined,
            correct=verdict.correct, wrong=verdict.wrong, gets_with_value=verdict.found, margin_ms=MARGIN_MS,
            qps=round(sum(load.requests.values()) / load.tally.seconds, 6), churn=churned, **load.tally.figures(),
        )  # fmt: skip
    sys.exit(1 if verdict.wrong else 0)


if __name__ == "__main__":
    main()
