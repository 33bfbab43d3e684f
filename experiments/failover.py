"""What do clients notice when nodes die, fall silent, are cut off, come and go? And is anything lost?

Two parts, or one of them (--part):

\b
timeline  One cluster, an open loop of puts and gets, and one event after the other: a kill (SIGKILL), a pause (SIGSTOP,
          then SIGCONT), a partition, a join, a drain. Operations a second, latency and errors in bins of 100 ms.
trials    How long are writes interrupted? Each trial is a fresh cluster, writers that put without pause, a fault after
          a while; the load goes on, and every key is read back. One writer puts keys whose shards the victim holds (as
          their primary, or as a backup), another puts keys of all shards. A trial's interruption is the longest time
          between two acknowledged writes of the first; beside it stands that of equally long trials without a fault.

A partition is one of the network: each process is in a network namespace, and the victim's port is taken off the bridge
(`ip netns`: root and iproute2). Where that cannot be had partitions are left out, and it is said why.

\b
    python experiments/failover.py
    python experiments/failover.py --quick
    python experiments/failover.py --part timeline
    python experiments/failover.py --part trials --kills 5 --stops 0 --partitions 3

Exit status 1 if an acknowledged write was lost.
"""

from __future__ import annotations

import signal
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, Final, NamedTuple

import click
from load import percentile
from namespaces import CLIENTS, MANAGER, NamespacedCluster, Network, missing
from record import record
from timeline import NODES, REPLICAS, Cluster, Settings, timeline

from zkv import Client, LocalCluster, ZkvError
from zkv.cli.live import progress
from zkv.core.shardmap import shard_of
from zkv.net.admin import AdminLink

BEFORE_S: Final = 0.7
"""Load before the fault."""
CALM_EVERY: Final = 4
"""Among so many trials with a fault there is one without."""
KILL_LIMITS_MS: Final = {"p50_ms": 100.0, "p95_ms": 250.0}
SILENCE_LIMITS_MS: Final = {"longest_ms": 1500.0}


class Trial(NamedTuple):
    """What one trial came to."""

    interrupted_ms: float
    """Longest time between two acknowledged writes to shards of the victim."""
    lost: int
    acknowledged: int


class Writer(threading.Thread):
    """Puts keys in turn, one after the other, and remembers what was acknowledged."""

    def __init__(self, manager: str, name: str, keys: list[str]) -> None:
        super().__init__()
        self.manager = manager
        self.label = name
        self.keys = keys
        self.stop = threading.Event()
        self.acks_s: list[float] = []
        self.ended_s = 0.0
        self.newest: dict[str, tuple[int, str]] = {}
        self.unsure: dict[str, set[str]] = {}

    def run(self) -> None:
        with Client(self.manager, timeout_s=10) as kv:
            number = 0
            while not self.stop.is_set():
                key, value = self.keys[number % len(self.keys)], f"{self.label}-{number}"
                number += 1
                try:
                    result = kv.put(key, value)
                except ZkvError as error:
                    if error.outcome_unknown:
                        self.unsure.setdefault(key, set()).add(value)
                    continue
                self.acks_s.append(time.monotonic())
                self.newest[key] = (result.version, value)
            self.ended_s = time.monotonic()

    def longest_gap_ms(self) -> float:
        """The longest time between two acknowledgements, or from the last one to the end: whoever never succeeds again
        must not look uninterrupted."""
        gaps_s = [later - earlier for earlier, later in pairwise([*self.acks_s, self.ended_s])]
        return max(gaps_s, default=float("inf")) * 1000

    def lost(self, kv: Client) -> int:
        """Acknowledged writes that a read does not show, nor anything newer of this writer."""
        missing = 0
        for key, (version, value) in self.newest.items():
            entry = kv.entry(key)
            found = entry is not None and (
                (entry.version == version and entry.value == value)
                or (entry.version > version and entry.value in self.unsure.get(key, ()))
            )
            missing += not found
        return missing


def keys_held_by(manager: str, victim: str, *, as_primary: bool, prefix: str) -> list[str]:
    """Keys whose shards `victim` serves, or backs up."""
    with AdminLink(manager) as link:
        shard_map = link.map()
    boot = next(member.boot for member in shard_map.members.values() if member.name == victim)
    chosen = []
    for number in range(100_000):
        key = f"{prefix}{number}"
        replicas = shard_map.shards[shard_of(key, len(shard_map.shards))].replicas
        if (replicas[0] == boot) if as_primary else (boot in replicas[1:]):
            chosen.append(key)
        if len(chosen) == 50:
            break
    return chosen


class Series(NamedTuple):
    """Trials of one kind."""

    title: str
    trials: int
    fault: str
    """"kill", "stop" or "partition"."""
    as_primary: bool
    """Whether the victim is primary of the shards that are written to; else their backup."""
    after_s: float
    """Load after the fault."""
    limits_ms: dict[str, float]
    """What is asked for: figure -> at most."""


def trial(series: Series, *, faulty: bool, network: Network | None) -> Trial:
    """One cluster, one fault, or none. `network`: each process is in a namespace of it."""
    with ExitStack() as stack:
        cluster: Cluster
        if network is not None:
            stack.enter_context(network.entered(CLIENTS))
            cluster = stack.enter_context(NamespacedCluster(network, NODES, REPLICAS))
        else:
            cluster = stack.enter_context(LocalCluster(NODES, REPLICAS))
        victim = "server2"
        held = keys_held_by(cluster.manager, victim, as_primary=series.as_primary, prefix="held")
        writers = [
            Writer(cluster.manager, "held", held),
            Writer(cluster.manager, "any", [f"any{number}" for number in range(200)]),
        ]
        for writer in writers:
            writer.start()
        # The load is what is measured, so this sleep is the experiment's own time, not a wait for anything.
        time.sleep(BEFORE_S)
        if faulty:
            {"kill": cluster.kill, "stop": cluster.pause, "partition": cluster.partition}[series.fault](victim)
        time.sleep(series.after_s)
        for writer in writers:
            writer.stop.set()
        for writer in writers:
            writer.join()
        with cluster.client(timeout_s=10) as kv:
            lost = sum(writer.lost(kv) for writer in writers)
        return Trial(writers[0].longest_gap_ms(), lost, sum(len(writer.acks_s) for writer in writers))


def run(series: Series) -> dict[str, Any]:
    """Trials with and without the fault, interleaved; what they came to."""
    hit, calm = [], []
    with ExitStack() as stack:
        network = None
        if series.fault == "partition":
            names = (f"server{number + 1}" for number in range(NODES))
            network = stack.enter_context(Network(CLIENTS, MANAGER, *names))
        show = stack.enter_context(progress(series.title, "trials"))
        for number in range(series.trials):
            hit.append(trial(series, faulty=True, network=network))
            if number % CALM_EVERY == 0:
                calm.append(trial(series, faulty=False, network=network))
            show(number + 1, series.trials)
    gaps_ms = sorted(one.interrupted_ms for one in hit)
    calm_ms = sorted(one.interrupted_ms for one in calm)
    return {
        "fault": series.title, "interrupted_ms": [round(gap, 1) for gap in gaps_ms],
        "without_fault_ms": [round(gap, 1) for gap in calm_ms],
        "p50_ms": round(statistics.median(gaps_ms), 1), "p95_ms": round(percentile(gaps_ms, 0.95), 1),
        "longest_ms": round(gaps_ms[-1], 1), "limits_ms": series.limits_ms,
        "acknowledged": sum(one.acknowledged for one in hit + calm), "lost": sum(one.lost for one in hit + calm),
    }  # fmt: skip


def told(found: dict[str, Any]) -> str:
    """A line about a series."""
    calm_ms = found["without_fault_ms"]
    asked = ", ".join(
        f"{name.removesuffix('_ms')} at most {limit:g} ms: {'yes' if found[name] <= limit else 'NO'}"
        for name, limit in found["limits_ms"].items()
    )
    return (
        f"{found['fault']}: {len(found['interrupted_ms'])} trials, interrupted median {found['p50_ms']:.0f} ms, "
        f"p95 {found['p95_ms']:.0f} ms, longest {found['longest_ms']:.0f} ms ({asked}); "
        f"without a fault median {statistics.median(calm_ms):.0f} ms, longest {calm_ms[-1]:.0f} ms; "
        f"{found['acknowledged']} writes acknowledged, {found['lost']} lost"
    )


def told_of(events: dict[str, Any]) -> str:
    """The timeline in words."""
    lines = [("quiet", "", events["quiet"], "")]
    lines += [
        (one["what"], one["who"], one, f", well again after {one['well_at_s'] - one['at_s']:.1f} s")
        for one in events["events"]
    ]
    return "\n".join(
        f"  {what:9} {who:8} {seen['operations']:6} operations, p50 {seen['p50_ms']:6.1f} ms, "
        f"p99 {seen['p99_ms']:7.1f} ms, longest {seen['longest_ms'] or 0:7.1f} ms, "
        f"errors: {', '.join(f'{count} {kind}' for kind, count in seen['errors'].items()) or 'none'}{rest}"
        for what, who, seen, rest in lines
    )


@click.command(help=__doc__)
@click.option("--part", type=click.Choice(["all", "timeline", "trials"]), default="all", show_default=True)
@click.option("--kills", default=100, show_default=True, help="SIGKILLs of a primary.")
@click.option("--stops", default=30, show_default=True, help="SIGSTOPs of a primary, and as many of a backup.")
@click.option("--partitions", default=30, show_default=True, help="Partitions of a primary, and as many of a backup.")
@click.option("--per-s", default=500.0, show_default=True, help="Timeline: operations a second.")
@click.option("--keys", default=20_000, show_default=True, help="Timeline: keys.")
@click.option("--seed", default=1, show_default=True, help="Timeline: of the order of keys.")
@click.option("--quick", is_flag=True, help="A short timeline, two trials of each kind: to see that it works.")
def main(
    part: str, kills: int, stops: int, partitions: int, per_s: float, keys: int, seed: int, quick: bool
) -> None:  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the namespaces are removed
    settings = Settings(per_s, processes=2, keys=keys, quiet_s=3.0, held_s=2.0, seed=seed)
    if quick:
        kills = stops = partitions = 2
        settings = settings._replace(per_s=200.0, keys=2000, quiet_s=1.0, held_s=1.5)
    lack = missing()
    if lack is not None:
        click.echo(f"partitions are left out: {lack}")
        partitions = 0
    if part != "trials":
        found = timeline(settings, namespaces=lack is None)
        click.echo(told_of(found))
        record("failover", part="timeline", quick=quick, settings=settings._asdict(), **found)
    lost = 0
    for series in (
        Series("SIGKILL of a primary", kills, "kill", True, 1.5, KILL_LIMITS_MS),
        Series("SIGSTOP of a primary", stops, "stop", True, 3.0, SILENCE_LIMITS_MS),
        Series("SIGSTOP of a backup", stops, "stop", False, 3.0, SILENCE_LIMITS_MS),
        Series("partition of a primary", partitions, "partition", True, 3.0, SILENCE_LIMITS_MS),
        Series("partition of a backup", partitions, "partition", False, 3.0, SILENCE_LIMITS_MS),
    ):
        if part != "timeline" and series.trials:
            found = run(series)
            lost += found["lost"]
            click.echo(told(found))
            record("failover", part="trials", quick=quick, **found)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
