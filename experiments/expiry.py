"""What does it cost when keys expire, how late are they reclaimed, and is a read ever wrong about it?

Two parts, or one of them (--part), in clusters of 3 nodes with 3 copies of every key.

\b
lag     A writer rewrites every key steadily, with TTLs spread evenly from nothing to twice the time until it is
        rewritten: so about 1,000,000 keys are there, half of them expire before they are rewritten, thousands a
        second, and the other half is overwritten while it waits in the wheel. Meanwhile: how late entries are
        reclaimed (p99 of the last 5 s, as the nodes report it: lag_us of `zkv-admin status --json`), and reads at the
        very moment that is a TTL after the acknowledgement, which have to miss, and shortly before it, which must not.
writes  The time a write takes by 1,000,000 keys that expire, thousands a second, against as many that never do: single
        puts, and batches of 100, at a steady pace, counted from when they were due. Each run has a fresh cluster, the
        kinds take turns, the median counts. Before that the cluster is idle for a while: what processor time nodes use
        without TTLs, with TTLs that are far away, and with keys that expire.

\b
    python experiments/expiry.py
    python experiments/expiry.py --quick
    python experiments/expiry.py --part writes --runs 5

Exit status 1 if a read was wrong, the lag was above 50 ms, or a write took more than 1.5 times as long (p99).
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

import click
from paced import cpu_s, curve, fill, key_of, median_of, paced, put_with_ttls, summary, value_of
from record import record

from zkv import Client, LocalCluster
from zkv.cli.live import progress
from zkv.net.admin import AdminLink

NODES: Final = 3
VALUE_BYTES: Final = 100
LAG_LIMIT_MS: Final = 50.0
P99_TIMES: Final = 1.5
FAR_S: Final = 100_000.0
WINDOW_S: Final = 5.0
"""The nodes report the lag of so long."""
ROUND_KEYS: Final = 48
"""Keys whose expiry is waited for at a time."""
EARLY_S: Final = 0.004
"""How long before its expiry a key is read that must still be there."""
GRAIN_S: Final = 0.001
"""Cluster time is kept in milliseconds: an entry may go so much earlier."""
BATCH: Final = 100


class Settings(NamedTuple):
    """What the options say."""

    keys: int
    expiring_per_s: int
    seconds: float
    runs: int
    singles_per_s: int
    batches_per_s: int
    seed: int


# --- lag and reads --------------------------------------------------------------------------------------------------


class Flow(NamedTuple):
    """Keys that are rewritten one after the other, for ever."""

    space: int
    """How many there are; of these three quarters exist at any moment."""
    cycle_s: float
    """Each is rewritten so often, with a TTL between 0 and twice that."""
    seed: int

    @classmethod
    def of(cls, settings: Settings) -> Flow:
        """`expiring_per_s` is half of what is written: the other half does not live to see it."""
        space = settings.keys * 4 // 3
        return cls(space, space / (2 * settings.expiring_per_s), settings.seed)

    def left_at_first(self, number: int, rng: random.Random) -> float | None:
        """What is left of a key's TTL in the middle of things, when key 0 is next to be rewritten; None: nothing."""
        age_s = self.cycle_s * (1 - number / self.space)
        left_s = rng.uniform(0, 2 * self.cycle_s) - age_s
        return left_s if left_s > 0.01 else None


def _rewrite(end: Connection, manager: str, flow: Flow) -> None:
    """A process: rewrites the keys, and sends how many it has and how far behind it was at worst, once stopped."""
    rng = random.Random(flow.seed + 1)
    per_s, step = flow.space / flow.cycle_s, 200
    written, behind_s = 0, 0.0
    with Client(manager, timeout_s=20) as kv:
        end.send("ready")
        end.recv()
        began_s = time.monotonic()
        while not end.poll(max(0.0, began_s + written / per_s - time.monotonic())):
            behind_s = max(behind_s, time.monotonic() - began_s - written / per_s)
            numbers = (number % flow.space for number in range(written, written + step))
            put_with_ttls(kv, ((number, rng.uniform(0.01, 2 * flow.cycle_s)) for number in numbers), VALUE_BYTES)
            written += step
        end.recv()
    end.send((written / (time.monotonic() - began_s), behind_s))


@contextmanager
def rewriting(manager: str, flow: Flow, found: dict[str, Any]) -> Iterator[None]:
    """The keys are rewritten within the block; what that came to is in `found` afterwards."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_rewrite, args=(theirs, manager, flow), daemon=True)
    process.start()
    theirs.close()
    ours.recv()
    ours.send("go")
    yield
    ours.send("stop")
    written_per_s, behind_s = ours.recv()
    process.join()
    found |= {"written_per_s": round(written_per_s), "writer_behind_s": round(behind_s, 3)}


class Reads:
    """Keys that are read as they expire, through a client that reads at primaries and one that reads anywhere."""

    def __init__(self, kv: Client, anywhere: Client, rng: random.Random) -> None:
        self._kv = kv
        self._clients = (kv, anywhere)
        self._rng = rng
        self._number = 0
        self.after = self.after_wrong = self.before = self.before_wrong = 0
        """Reads begun at or after the expiry, and those of them that hit; answered before it, and that missed."""

    def go_round(self) -> None:
        """Put some keys with short TTLs, and read each a moment before, and at the very moment of, its expiry."""
        agenda: list[tuple[float, bool, str, float]] = []
        for _ in range(ROUND_KEYS):
            self._number += 1
            key, ttl_s = f"moment:{self._number}", round(self._rng.uniform(0.1, 0.5), 3)
            sent_s = time.monotonic()
            self._kv.put(key, self._number, ttl_s=ttl_s)
            acked_s = time.monotonic()
            agenda.append((sent_s + ttl_s - EARLY_S, False, key, sent_s + ttl_s - GRAIN_S))
            agenda.append((acked_s + ttl_s, True, key, acked_s + ttl_s))
        for place, (due_s, late, key, bound_s) in enumerate(sorted(agenda)):
            time.sleep(max(0.0, due_s - time.monotonic() - 0.001))
            while time.monotonic() < due_s:
                pass  # to the moment: a sleep is not as exact as the question
            found = self._clients[place % 2].get(key)
            if late:
                self.after += 1
                self.after_wrong += found is not None
            elif time.monotonic() < bound_s:
                self.before += 1
                self.before_wrong += found is None


def lag(settings: Settings) -> dict[str, Any]:
    """The first part."""
    flow, rng = Flow.of(settings), random.Random(settings.seed)
    found: dict[str, Any] = {"space": flow.space, "cycle_s": round(flow.cycle_s, 1), "samples": []}
    with (
        LocalCluster(nodes=NODES, replicas=NODES) as cluster,
        cluster.client(timeout_s=60) as kv,
        cluster.client(timeout_s=60, read="any") as anywhere,
        AdminLink(cluster.manager, timeout_s=10) as link,
    ):
        fill(kv, range(flow.space), VALUE_BYTES, lambda number: flow.left_at_first(number, rng))
        reads = Reads(kv, anywhere, rng)
        with rewriting(cluster.manager, flow, found), progress("expiring", "s") as show:
            began_s = looked_s = time.monotonic()
            while (now_s := time.monotonic()) - began_s < WINDOW_S + settings.seconds:
                reads.go_round()
                if now_s - looked_s >= 1.0:
                    looked_s = now_s
                    found["samples"].append(sample(link, now_s - began_s))
                    show(round(now_s - began_s), round(WINDOW_S + settings.seconds))
    samples = [one for one in found["samples"] if one["at_s"] >= WINDOW_S]  # before, it was being filled
    first, last = samples[0], samples[-1]
    lags = sorted(ms for one in samples for ms in one["lag_ms"])
    return found | {
        "expiring_keys": round(statistics.median(one["expiring_keys"] for one in samples)),
        "expired_per_s": round((last["expired"] - first["expired"]) / (last["at_s"] - first["at_s"])),
        "lag_p99_ms_median": statistics.median(lags),
        "lag_p99_ms_worst": lags[-1],
        "reads_at_expiry": reads.after, "reads_at_expiry_wrong": reads.after_wrong,
        "reads_before_expiry": reads.before, "reads_before_expiry_wrong": reads.before_wrong,
    }  # fmt: skip


def sample(link: AdminLink, at_s: float) -> dict[str, Any]:
    """What the nodes say of their expiries. Each counts what it deletes as a primary, and has a copy of everything."""
    nodes = link.status()["nodes"]
    return {
        "at_s": round(at_s, 2), "expiring_keys": max(node["expiring_keys"] for node in nodes),
        "expired": sum(node["expired"] for node in nodes), "lag_ms": [node["lag_us"] / 1000 for node in nodes],
        "busy_permille": [node["busy_permille"] for node in nodes],
    }  # fmt: skip


# --- writes, and nodes that are idle --------------------------------------------------------------------------------


def ttl_for(kind: str, settings: Settings, rng: random.Random) -> Callable[[int], float] | None:
    """The TTLs of the keys of a cluster: spread so that `expiring_per_s` go, far away, or none."""
    if kind == "none":
        return None
    first_s = 10.0 if kind == "expiring" else FAR_S
    return lambda _: rng.uniform(first_s, first_s + settings.keys / settings.expiring_per_s)


def writes_trial(kind: str, settings: Settings, seed: int) -> dict[str, Any]:
    """One fresh cluster of one kind."""
    rng = random.Random(seed)
    with LocalCluster(nodes=NODES, replicas=NODES) as cluster, cluster.client(timeout_s=60) as kv:
        ttl_of = ttl_for(kind, settings, rng)
        filled_s = fill(kv, range(settings.keys), VALUE_BYTES, ttl_of, label=f"filling ({kind})")
        pids = [node["pid"] for node in cluster.status()["nodes"]]
        time.sleep(10.0 if kind == "expiring" else 2.0)  # until keys expire, and the filling has been digested
        before_s = cpu_s(pids)
        time.sleep(settings.seconds / 2)  # idle
        figures: dict[str, Any] = {
            "filled_s": round(filled_s, 1),
            "idle_cpu_ms_per_s": round(1000 * (cpu_s(pids) - before_s) / (settings.seconds / 2) / NODES, 1),
            "busy_permille": statistics.fmean(node["busy_permille"] for node in cluster.health()["nodes"]),
        }
        if kind != "far":
            figures |= measure_writes(kv, settings, rng, None if ttl_of is None else settings.keys)
        nodes = cluster.health()["nodes"]
        figures["expired"] = sum(node["expired"] for node in nodes)
        figures["expiring_keys"] = max(node["expiring_keys"] for node in nodes)
    return figures


def measure_writes(kv: Client, settings: Settings, rng: random.Random, expiring: int | None) -> dict[str, Any]:
    """Single puts, then batches, of keys that are there, with TTLs if the others have them."""
    ttl_s = None if expiring is None else settings.keys / settings.expiring_per_s
    options = {} if ttl_s is None else {"ttl_s": ttl_s}

    def single() -> None:
        number = rng.randrange(settings.keys)
        kv.put(key_of(number), value_of(number, VALUE_BYTES), **options)

    def batch() -> None:
        numbers = [rng.randrange(settings.keys) for _ in range(BATCH)]
        kv.mput({key_of(number): value_of(number, VALUE_BYTES) for number in numbers}, **options)

    paced(single, settings.singles_per_s, 0.5)  # warm
    singles = paced(single, settings.singles_per_s, settings.seconds)
    batches = paced(batch, settings.batches_per_s, settings.seconds)
    return {"single": summary(singles), "batch": summary(batches), "took": {"single": singles, "batch": batches}}


def writes(settings: Settings) -> dict[str, Any]:
    """The second part."""
    rows: dict[str, list[dict[str, Any]]] = {"none": [], "expiring": [], "far": []}
    for run in range(settings.runs):
        for kind, found in rows.items():
            found.append(writes_trial(kind, settings, settings.seed + run))
            shown = {name: figure for name, figure in found[-1].items() if name != "took"}
            click.echo(f"run {run + 1}, {kind}: {shown}")
    figures: dict[str, Any] = {"idle_cpu_ms_per_s": {}, "curves": {}}
    for kind, found in rows.items():
        figures["idle_cpu_ms_per_s"][kind] = median_of(found, "idle_cpu_ms_per_s")
        for row in found:
            for what, took_ms in row.pop("took", {}).items():
                figures["curves"].setdefault(kind, {}).setdefault(what, []).extend(took_ms)
    figures["curves"] = {
        kind: {what: curve(took_ms) for what, took_ms in of.items()} for kind, of in figures["curves"].items()
    }
    for what in ("single", "batch"):
        none, expiring = (median_of([row[what] for row in rows[kind]], "p99_ms") for kind in ("none", "expiring"))
        figures[f"{what}_p99_ms"] = {"none": none, "expiring": expiring}
        figures[f"{what}_p99_times"] = round(expiring / none, 3)
    return figures | {"rows": rows}


# --- the command ----------------------------------------------------------------------------------------------------


@click.command(help=__doc__)
@click.option("--part", type=click.Choice(["lag", "writes", "all"]), default="all", show_default=True)
@click.option("--keys", default=1_000_000, show_default=True, help="Keys with a TTL.")
@click.option("--expiring-per-s", default=5000, show_default=True, help="How many of them expire each second.")
@click.option("--seconds", default=6.0, show_default=True, help="Time of each measurement; of the lag ten times that.")
@click.option("--runs", default=3, show_default=True, help="Clusters of each kind.")
@click.option("--singles-per-s", default=200, show_default=True)
@click.option("--batches-per-s", default=50, show_default=True, help=f"Of {BATCH} keys.")
@click.option("--seed", default=1, show_default=True)
@click.option("--quick", is_flag=True, help="50,000 keys, one run, two seconds: to see that it works.")
def main(part: str, quick: bool, **options: Any) -> None:
    if quick:
        options |= {"keys": 50_000, "runs": 1, "seconds": 2.0, "expiring_per_s": 1000}
    settings = Settings(**options)
    good = True
    if part in ("lag", "all"):
        found = lag(settings._replace(seconds=10 * settings.seconds))
        for name, figure in found.items():
            if name != "samples":
                click.echo(f"{name.replace('_', ' ')}: {figure}")
        record("expiry", part="lag", quick=quick, settings=settings._asdict(), **found)
        wrong = found["reads_at_expiry_wrong"] + found["reads_before_expiry_wrong"]
        good &= found["lag_p99_ms_worst"] <= LAG_LIMIT_MS and not wrong
    if part in ("writes", "all"):
        found = writes(settings)
        for what in ("single", "batch"):
            click.echo(f"{what}: p99 {found[f'{what}_p99_ms']} ms, {found[f'{what}_p99_times']} times")
            good &= found[f"{what}_p99_times"] <= P99_TIMES
        click.echo(f"an idle node, ms of processor time a second: {found['idle_cpu_ms_per_s']}")
        record("expiry", part="writes", quick=quick, settings=settings._asdict(), **found)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
