"""What does a key take in memory, does the account say so, what is evicted, and does the garbage collector pause?

Four parts, or one of them (--part), each with nodes that do nothing else.

\b
bytes     One node with one copy is filled with keys like key:000000123456 and values of 16, 100 and 1000 bytes: how
          much its memory (RSS) grows for each, and what its own account says (`bytes` in the status), step by step.
          Beside it Redis, one server, with the same keys and values, if there are redis-server and redis-py.
eviction  One node with --eviction lru and a limit of 10 and 25 % of what all keys would take; gets by a zipfian law
          (s = 0.99 and 0.8), 100 in a call, what was not there is put. The hit rate of the second half, against an
          exact LRU and a random eviction that hold as many entries as the node did, asked for the same.
pauses    One node with 5,000,000 keys, which notes every pause of its garbage collector while it is filled, read,
          overwritten, scanned and expires keys. And for comparison with a fifth of the keys and the collector as
          CPython has it.
layouts   Without nodes: other ways of keeping an entry than the tuple (version, value, expiry) of a node, such as one
          bytes object with the version in front of the value. What a key takes in each, and what a get and a put cost
          (see `layouts.py`).

\b
    python experiments/memory.py
    python experiments/memory.py --quick
    python experiments/memory.py --part bytes --runs 5

Exit status 1 if the account was off by more than a quarter, a hit rate was more than 0.02 below the exact LRU's, or the
collector paused for more than 10 ms.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import layouts
import redis_servers
from caches import ExactLru, RandomEviction, zipfian
from children import Children
from paced import STEP, fill, key_of, median_of, rss_bytes, value_of
from record import record
from slow_replica import until_healthy

from zkv import Client, LocalCluster
from zkv.cli.live import progress
from zkv.core.node.entries import size_of_stored, stored
from zkv.core.node.sizes import ENTRY_BYTES, size_of
from zkv.local.ports import HOST, reserve
from zkv.local.processes import child_environment, python_command

SIZES: Final = (16, 100, 1000)
POINTS: Final = 10
"""How often the memory is looked at while a node is filled."""
BEATS_S: Final = 0.5
"""So long after a change the status knows it."""
RATIO: Final = (0.75, 1.25)
SKEWS: Final = (0.99, 0.8)
PARTS: Final = (0.1, 0.25)
BATCH: Final = 100
BELOW_LRU: Final = 0.02
PAUSE_LIMIT_MS: Final = 10.0
PAUSE_VALUE_BYTES: Final = 16
BYTES_NEEDED: Final = 500
"""For a key of the last part, of the machine's memory."""
DRAWN_FROM_MS: Final = 0.05
"""Shorter pauses are only counted."""


class Settings(NamedTuple):
    """What the options say."""

    keys: int
    runs: int
    cached_keys: int
    accesses: int
    pause_keys: int
    seconds: float
    seed: int


# --- bytes ----------------------------------------------------------------------------------------------------------


def zkv_bytes(keys: int, size: int) -> dict[str, Any]:
    """Fill one node, and look at it on the way."""
    with LocalCluster(nodes=1, replicas=1) as cluster, cluster.client(timeout_s=60) as kv:
        kv.mget([key_of(number) for number in range(1000)])  # connected, and warm
        pid = cluster.status()["nodes"][0]["pid"]
        at_first = rss_bytes(pid)
        samples = []
        for point in range(POINTS):
            first, end = (keys * part // POINTS for part in (point, point + 1))
            fill(kv, range(first, end), size, label=f"zkv, {size} bytes, {point + 1}/{POINTS}")
            time.sleep(BEATS_S)
            account = cluster.health()["nodes"][0]["bytes"]
            samples.append({"keys": end, "rss_bytes": rss_bytes(pid) - at_first, "account_bytes": account})
    last = samples[-1]
    rss, account = last["rss_bytes"], last["account_bytes"]
    return {
        "rss_per_key": round(rss / keys, 1), "account_per_key": round(account / keys, 1),
        "account_to_rss": round(account / rss, 3), "samples": samples,
    }  # fmt: skip


def redis_bytes(keys: int, size: int) -> dict[str, Any]:
    """The same in one Redis server."""
    import redis

    with Children() as children:
        held, port = reserve(0)
        command = ["redis-server", "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no"]
        children.start("redis-server", command)
        link = redis.Redis(HOST, port, socket_timeout=30, retry_on_error=[redis.ConnectionError])
        deadline_s = time.monotonic() + 20
        while True:
            try:
                link.ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > deadline_s:
                    raise children.failed("redis-server") from None
                time.sleep(0.05)
        if held is not None:
            held.close()
        before = link.info("memory")
        with progress(f"redis, {size} bytes", "keys") as show:
            for first in range(0, keys, STEP):
                numbers = range(first, min(first + STEP, keys))
                with link.pipeline(transaction=False) as pipeline:
                    for number in numbers:
                        pipeline.set(key_of(number), value_of(number, size))
                    pipeline.execute()
                show(numbers.stop, keys)
        time.sleep(BEATS_S)
        after = link.info("memory")
        link.close()
    rss, used = (after[name] - before[name] for name in ("used_memory_rss", "used_memory"))
    return {"rss_per_key": round(rss / keys, 1), "used_per_key": round(used / keys, 1)}


def measure_bytes(settings: Settings) -> dict[str, Any]:
    """The first part."""
    missing = redis_servers.missing()
    if missing:
        click.echo(f"without Redis: {missing} is not installed")
    sides = {"zkv": zkv_bytes} | ({} if missing else {"redis": redis_bytes})
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {side: {str(size): [] for size in SIZES} for side in sides}
    for run in range(settings.runs):
        for size in SIZES:
            keys = settings.keys if size < SIZES[-1] else settings.keys // 5
            for side, measure in sides.items():
                found = measure(keys, size)
                rows[side][str(size)].append(found)
                shown = {name: figure for name, figure in found.items() if name != "samples"}
                click.echo(f"run {run + 1}, {side}, {size} bytes: {shown}")
    medians = {
        side: {size: {name: median_of(found, name) for name in found[0] if name != "samples"}
               for size, found in of.items()}
        for side, of in rows.items()
    }  # fmt: skip
    return {"medians": medians, "rows": rows, "redis": None if missing else redis_servers.versions()}


# --- eviction -------------------------------------------------------------------------------------------------------


def evict(skew: float, part: float, settings: Settings) -> dict[str, Any]:
    """One law and one limit."""
    keys, value = settings.cached_keys, value_of(0, 100)
    rng = random.Random(settings.seed)
    accesses = zipfian(keys, skew, settings.accesses, rng)
    batches = [accesses[first : first + BATCH] for first in range(0, len(accesses), BATCH)]
    limit = round(part * keys * (ENTRY_BYTES + size_of(key_of(0)) + size_of_stored(stored(2**50, value, 0))))
    half, counted, held = len(batches) // 2, 0, []
    first = range(round(0.85 * part * keys))  # the cache is nearly full when it begins
    label = f"s = {skew}, {part:.0%} of the memory"
    with (
        LocalCluster(nodes=1, replicas=1, memory_limit=limit, eviction="lru") as cluster,
        cluster.client(timeout_s=60) as kv,
        progress(label, "accesses") as show,
    ):
        fill(kv, first, len(value))
        for place, batch in enumerate(batches):
            names = [key_of(number) for number in batch]
            found = kv.mget(names)
            lacking = {name: value for name, one in zip(names, found, strict=True) if one is None}
            if lacking:
                kv.mput(lacking)
            if place >= half:
                counted += sum(one is not None for one in found)
                if (place - half) % max(1, half // 10) == 0:
                    held.append(kv.count())
            if place % 100 == 0:
                show(place * BATCH, len(accesses))
        time.sleep(BEATS_S)
        node = cluster.health()["nodes"][0]
    entries = round(statistics.fmean(held))
    rates = {"zkv": counted / ((len(batches) - half) * BATCH)}
    for name, cache in (("exact_lru", ExactLru(entries)), ("random", RandomEviction(entries, rng))):
        cache.put(first)
        hits = [cache.hits(batch) for batch in batches]
        rates[name] = sum(hits[half:]) / ((len(batches) - half) * BATCH)
    found = {"skew": skew, "part": part, "limit_bytes": limit, "entries": entries, "evicted": node["evicted"]}
    return found | {name: round(rate, 4) for name, rate in rates.items()}


# --- pauses ---------------------------------------------------------------------------------------------------------


def pauses(keys: int, seconds: float, *, default_collector: bool) -> dict[str, Any]:
    """The pauses of a node with so many keys."""
    environment = child_environment()
    with Children() as children:
        settings = ["--in-memory", "--nodes", "1", "--replicas", "1"]
        command = python_command("zkv.cli.manager", "--bind", f"tcp://{HOST}:0", *settings)
        _, manager = children.start_ready("manager", command, environment=environment)
        file = children.directory / "pauses.json"
        command = [
            sys.executable, str(Path(__file__).with_name("watched_node.py")), "--pauses", str(file),
            *(["--default-collector"] if default_collector else []),
            "--name", "server1", "--manager", manager, "--bind", f"tcp://{HOST}:0",
        ]  # fmt: skip
        process, _ = children.start_ready("server1", command, environment=environment)
        until_healthy(manager)
        with Client(manager, timeout_s=60) as kv:
            fill(kv, range(keys), PAUSE_VALUE_BYTES, label=f"filling{', collector as usual' * default_collector}")
            work(kv, keys, seconds)
            rss = rss_bytes(process.pid)
        process.terminate()
        process.wait(60)
        found = json.loads(file.read_text())
    rows = list(zip(found["generations"], found["keys"], found["ms"], found["cpu_ms"], strict=True))
    starting = [ms for _, held, ms, _ in rows if not held]  # the node holds nothing, and serves nothing
    serving = [ms for _, held, ms, _ in rows if held]
    return {
        "keys": keys, "default_collector": default_collector, "rss_per_key": round(rss / keys, 1),
        "collections": len(serving), "full_collections": sum(bool(held) and kind == 2 for kind, held, *_ in rows),
        "longest_ms": round(max(serving), 3),
        "longest_cpu_ms": round(max(cpu_ms for _, held, _, cpu_ms in rows if held), 3),
        "total_ms": round(sum(serving), 1),
        "longest_at_start_ms": round(max(starting, default=0.0), 3),
        "drawn": [[held, round(ms, 3)] for _, held, ms, _ in rows if held and ms >= DRAWN_FROM_MS],
    }  # fmt: skip


def work(kv: Client, keys: int, seconds: float) -> None:
    """All kinds of operations for a while."""
    rng = random.Random(keys)
    end_s = time.monotonic() + seconds
    entries = kv.scan()
    while time.monotonic() < end_s:
        some = [key_of(rng.randrange(keys)) for _ in range(1000)]
        kv.mget(some)
        kv.mput(dict.fromkeys(some[:500], b"overwritten"))
        kv.mput(dict.fromkeys(some[500:600], b"passing by"), ttl_s=1.0)
        kv.incr("counter")
        for key in some[600:610]:
            kv.delete(key)
            kv.append(f"text:{key}", b"more")
        for _ in range(1000):
            next(entries, None)


def measure_pauses(settings: Settings) -> list[dict[str, Any]]:
    """The third part."""
    needed, free = settings.pause_keys * BYTES_NEEDED, free_bytes()
    if needed > free:
        raise click.ClickException(
            f"{settings.pause_keys:,} keys need about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: "
            "choose fewer with --pause-keys"
        )
    return [
        pauses(settings.pause_keys, settings.seconds, default_collector=False),
        pauses(settings.pause_keys // 5, settings.seconds / 5, default_collector=True),
    ]


def free_bytes() -> int:
    """Memory that this machine has left."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


# --- the command ----------------------------------------------------------------------------------------------------


@click.command(help=__doc__)
@click.option(
    "--part", type=click.Choice(["bytes", "eviction", "pauses", "layouts", "all"]), default="all", show_default=True
)
@click.option(
    "--keys", default=1_000_000, show_default=True, help="For the bytes and layouts; a fifth with the largest values."
)
@click.option("--runs", default=3, show_default=True, help="For the bytes and layouts.")
@click.option("--cached-keys", default=300_000, show_default=True, help="For the eviction.")
@click.option("--accesses", default=600_000, show_default=True, help="For the eviction.")
@click.option("--pause-keys", default=5_000_000, show_default=True, help="For the pauses.")
@click.option("--seconds", default=20.0, show_default=True, help="Of work on them.")
@click.option("--seed", default=1, show_default=True)
@click.option("--quick", is_flag=True, help="Much less of all that: to see that it works.")
def main(part: str, quick: bool, **options: Any) -> None:
    if quick:
        small = {"keys": 200_000, "runs": 1, "cached_keys": 50_000, "accesses": 100_000, "pause_keys": 250_000}
        options |= small | {"seconds": 2.0}
    settings = Settings(**options)
    good = True

    def note(name: str, found: dict[str, Any]) -> None:
        record("memory", part=name, quick=quick, settings=settings._asdict(), **found)

    if part in ("bytes", "all"):
        found = measure_bytes(settings)
        for side, of in found["medians"].items():
            for size, figures in of.items():
                click.echo(f"{side}, values of {size} bytes: {figures}")
        ratios = [figures["account_to_rss"] for figures in found["medians"]["zkv"].values()]
        good &= all(RATIO[0] <= ratio <= RATIO[1] for ratio in ratios)
        note("bytes", found)
    if part in ("eviction", "all"):
        rows = []
        for skew in SKEWS:
            for share in PARTS:
                rows.append(evict(skew, share, settings))
                click.echo(", ".join(f"{name} {figure}" for name, figure in rows[-1].items()))
                good &= rows[-1]["zkv"] >= rows[-1]["exact_lru"] - BELOW_LRU
        note("eviction", {"rows": rows})
    if part in ("pauses", "all"):
        rows = measure_pauses(settings)
        for row in rows:
            click.echo(", ".join(f"{name} {figure}" for name, figure in row.items() if name != "drawn"))
        good &= rows[0]["longest_ms"] <= PAUSE_LIMIT_MS
        note("pauses", {"rows": rows})
    if part in ("layouts", "all"):
        found = layouts.measure(settings.keys, settings.runs, settings.seed)
        layouts.show(found)
        note("layouts", found)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
