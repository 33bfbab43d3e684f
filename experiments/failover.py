"""For how long are writes interrupted when a node dies or falls silent? And is anything lost?

Each trial: a fresh cluster, writers that put without pause, a fault after a while, the load goes on, every key is read
back. One writer puts keys whose shards the victim holds (as their primary, or as a backup), another puts keys of all
shards. A trial's interruption is the longest time between two acknowledged writes of the first; beside it stands that
of
an equally long trial without a fault.

\b
    python experiments/failover.py
    python experiments/failover.py --kills 5 --stops 2

Exit status 1 if an acknowledged write was lost.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from itertools import pairwise
from typing import Any, NamedTuple

import click
from record import record

from zkv import Client, LocalCluster, ZkvError
from zkv.core.shardmap import shard_of
from zkv.net.admin import AdminLink

BEFORE_S = 0.7
"""Load before the fault."""


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

    def longest_gap_ms(self) -> float:
        """The longest time between two acknowledgements."""
        return max((later - earlier for earlier, later in pairwise(self.acks_s)), default=float("inf")) * 1000

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


def trial(fault: str, *, as_primary: bool, after_s: float) -> Trial:
    """One cluster, one fault: `kill`, `stop` or `none`."""
    with LocalCluster(nodes=5, replicas=3) as cluster:
        victim = "server2"
        held = keys_held_by(cluster.manager, victim, as_primary=as_primary, prefix="held")
        writers = [
            Writer(cluster.manager, "held", held),
            Writer(cluster.manager, "any", [f"any{number}" for number in range(200)]),
        ]
        for writer in writers:
            writer.start()
        # The load is what is measured, so this sleep is the experiment's own time, not a wait for anything.
        time.sleep(BEFORE_S)
        if fault == "kill":
            cluster.kill(victim)
        elif fault == "stop":
            cluster.pause(victim)
        time.sleep(after_s)
        for writer in writers:
            writer.stop.set()
        for writer in writers:
            writer.join()
        with cluster.client(timeout_s=10) as kv:
            lost = sum(writer.lost(kv) for writer in writers)
        return Trial(writers[0].longest_gap_ms(), lost, sum(len(writer.acks_s) for writer in writers))


def series(title: str, count: int, fault: str, *, as_primary: bool, after_s: float) -> dict[str, Any]:
    """Trials with and without the fault, interleaved."""
    hit, calm = [], []
    for number in range(count):
        hit.append(trial(fault, as_primary=as_primary, after_s=after_s))
        if number % 4 == 0:
            calm.append(trial("none", as_primary=as_primary, after_s=after_s))
    gaps = sorted(one.interrupted_ms for one in hit)
    calm_gaps = [one.interrupted_ms for one in calm]
    lost = sum(one.lost for one in hit + calm)
    acknowledged = sum(one.acknowledged for one in hit + calm)
    click.echo(
        f"{title}: {count} trials, interrupted median {statistics.median(gaps):.0f} ms, worst {gaps[-1]:.0f} ms; "
        f"without a fault median {statistics.median(calm_gaps):.0f} ms, worst {max(calm_gaps):.0f} ms; "
        f"{acknowledged} writes acknowledged, {lost} lost"
    )
    figures = {
        "fault": title, "interrupted_ms": [round(gap, 1) for gap in gaps],
        "without_fault_ms": [round(gap, 1) for gap in calm_gaps], "acknowledged": acknowledged, "lost": lost,
    }  # fmt: skip
    record("failover", **figures)
    return figures


@click.command(help=__doc__)
@click.option("--kills", default=30, show_default=True, help="SIGKILLs of a primary.")
@click.option("--stops", default=20, show_default=True, help="SIGSTOPs of a primary, and as many of a backup.")
def main(kills: int, stops: int) -> None:
    lost = 0
    for title, count, fault, as_primary, after_s in (
        ("SIGKILL of a primary", kills, "kill", True, 1.5),
        ("SIGSTOP of a primary", stops, "stop", True, 3.0),
        ("SIGSTOP of a backup", stops, "stop", False, 3.0),
    ):
        if count:
            lost += series(title, count, fault, as_primary=as_primary, after_s=after_s)["lost"]
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
