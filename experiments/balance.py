"""How evenly do keys spread over the nodes?

For each kind of keys a fresh cluster, 100,000 of them put, and the keys that each node then reports to hold: as a
histogram on the terminal, and in results/ to be drawn.

\b
sequential  key:000000000000, key:000000000001, …: as a counter makes them
uuid        random UUIDs of version 4
words       made-up words of two to five syllables: much alike, and of varying length

\b
    python experiments/balance.py
    python experiments/balance.py --quick
    python experiments/balance.py --kind uuid --nodes 12 --seed 7

Exit status 1 if the fullest node holds more than 1.03 times the mean, or two nodes' shards differ by more than one.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

import click
from paced import STEP, key_of
from record import record

from zkv import LocalCluster
from zkv.cli.live import progress

LIMIT_TIMES: Final = 1.03
"""How much more than the mean the fullest node may hold."""
LIMIT_SHARDS: Final = 1
REPORT_S: Final = 30.0
"""How long the nodes may take to report all keys."""
LOOK_S: Final = 0.1
BAR: Final = 50
"""Characters of the longest bar."""
ONSETS: Final = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr", "pl", "sh")
VOWELS: Final = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
CODAS: Final = ("", "", "", "n", "r", "s", "t", "l", "ck", "nd")


def sequential(_: random.Random) -> Iterator[str]:
    """As a counter makes them."""
    number = 0
    while True:
        yield key_of(number)
        number += 1


def uuids(rng: random.Random) -> Iterator[str]:
    """Random ones, of version 4."""
    while True:
        yield str(uuid.UUID(int=rng.getrandbits(128), version=4))


def words(rng: random.Random) -> Iterator[str]:
    """Made of syllables, none twice."""
    seen: set[str] = set()
    while True:
        syllables = rng.choice((2, 2, 3, 3, 3, 4, 5))
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables))
        if word not in seen:
            seen.add(word)
            yield word


KINDS: Final[dict[str, Callable[[random.Random], Iterator[str]]]] = {
    "sequential": sequential, "uuid": uuids, "words": words,
}  # fmt: skip


def spread(kind: str, *, nodes: int, replicas: int, keys: int, seed: int) -> dict[str, Any]:
    """What the nodes of a fresh cluster hold once all keys of one kind have been put."""
    made = list(islice(KINDS[kind](random.Random(seed)), keys))
    with LocalCluster(nodes=nodes, replicas=replicas) as cluster:
        with cluster.client(timeout_s=30) as kv, progress(f"{kind} keys", "keys") as show:
            for start in range(0, keys, STEP):
                kv.mput(dict.fromkeys(made[start : start + STEP], b""))
                show(min(start + STEP, keys), keys)
        members = reported(cluster, keys * replicas)
    per_node = {member["name"]: member["keys"] for member in members}
    shards = {member["name"]: member["primaries"] + member["backups"] for member in members}
    mean = statistics.mean(per_node.values())
    return {
        "examples": made[:3], "keys_per_node": per_node, "shards_per_node": shards,
        "max_to_mean": round(max(per_node.values()) / mean, 4),
        "min_to_mean": round(min(per_node.values()) / mean, 4),
        "shards_apart": max(shards.values()) - min(shards.values()),
    }  # fmt: skip


def reported(cluster: LocalCluster, copies: int) -> list[dict[str, Any]]:
    """The nodes as the manager knows them, once their heartbeats have told of all `copies`."""
    deadline_s = time.monotonic() + REPORT_S
    while True:
        members: list[dict[str, Any]] = cluster.health()["nodes"]
        held = sum(member["keys"] for member in members)
        if held == copies:
            return members
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the nodes report {held} keys of the {copies} that were put")
        time.sleep(LOOK_S)


def histogram(kind: str, found: dict[str, Any]) -> str:
    """The keys of each node as bars."""
    per_node: dict[str, int] = found["keys_per_node"]
    shards: dict[str, int] = found["shards_per_node"]
    fullest, width = max(per_node.values()), max(map(len, per_node))
    mean = statistics.mean(per_node.values())
    lines = [f"{kind} keys, such as {', '.join(found['examples'])}"]
    for name, count in per_node.items():
        bar = "█" * round(BAR * count / fullest)
        figures = f"{count:7,} keys, {count / mean:.3f} of the mean, {shards[name]} shards"
        lines.append(f"  {name:{width}}  {bar:{BAR}}  {figures}")
    apart = found["shards_apart"]
    lines.append(f"  max/mean {found['max_to_mean']:.4f}; shards of two nodes differ by {apart} at most")
    return "\n".join(lines)


def is_even(found: dict[str, Any]) -> bool:
    """Whether that is what was asked for."""
    return bool(found["max_to_mean"] <= LIMIT_TIMES and found["shards_apart"] <= LIMIT_SHARDS)


@click.command(help=__doc__)
@click.option("--kind", "kinds", type=click.Choice(list(KINDS)), multiple=True, help="Only these. [default: all]")
@click.option("--keys", default=100_000, show_default=True)
@click.option("--nodes", default=7, show_default=True)
@click.option("--replicas", default=1, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of UUIDs and words.")
@click.option("--quick", is_flag=True, help="Sequential keys alone: to see that it works. (Fewer keys are less even.)")
def main(kinds: tuple[str, ...], keys: int, nodes: int, replicas: int, seed: int, quick: bool) -> None:
    chosen = ("sequential",) if quick else kinds or tuple(KINDS)
    found = {}
    for kind in chosen:
        found[kind] = spread(kind, nodes=nodes, replicas=replicas, keys=keys, seed=seed)
        click.echo(histogram(kind, found[kind]))
    record(
        "balance", quick=quick, keys=keys, nodes=nodes, replicas=replicas, seed=seed, limit_times=LIMIT_TIMES,
        kinds=found,
    )  # fmt: skip
    uneven = [kind for kind, one in found.items() if not is_even(one)]
    if uneven:
        click.echo(f"not even enough: {', '.join(uneven)}")
    sys.exit(1 if uneven else 0)


if __name__ == "__main__":
    main()
