"""`python -m zkv.sim`: run seeds, print what they found.

\b
    python -m zkv.sim --seed 7                                   one seed, with its story if it fails
    python -m zkv.sim --first-seed 1 --seeds 300 --jobs 2        many, a summary as the last line
    python -m zkv.sim --plant rule-15-no-wait --seeds 200        with a planted bug, which must be caught
    python -m zkv.sim --dumps --seeds 300 --jobs 2               the cluster is dumped and loaded all the while

Exit status 1 on any violation, and where a kind of event never fired in a run of many seeds (a hundred meet them all).
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

import click

from zkv.sim.archiving import DumpCampaign
from zkv.sim.campaign import Campaign
from zkv.sim.plants import NEED_DUMPS, PLANTS, planted

MUST_FIRE: Final = (
    "overtaken operations", "stale reads", "scans", "hedges", "retries", "conditions that failed",
    "takeovers", "reconciles with a tail", "tails adopted", "re-sends", "lease expiries", "fenced entries",
    "fenced batches", "demotions", "held reads", "held replies demoted", "replica reads", "retries found",
    "late requests", "manager crashes", "node crashes", "node pauses", "node restarts", "cuts", "node joins",
    "nodes drained", "fills begun", "fills reported", "fills struck", "chunks taken", "shards reset", "requests parked",
    "writes acknowledged early", "backups dismissed", "entries expired", "expiries met", "entries evicted",
    "writes refused for want of memory", "events told", "watches lost", "frozen walks begun anew",
)  # fmt: skip
"""A run of seeds in which one of these never happened has not tested what it claims to."""
DUMPS_MUST_FIRE: Final = (
    "dumps", "dumps killed", "dumps and loads struck", "pictures begun anew", "loads", "loads killed", "loads repeated",
    "entries loaded that expire", "entries that expired before they were loaded", "entries kept",
)  # fmt: skip
"""The same of campaigns with dumps."""
SEED_LIMIT_S: Final = 120
"""A seed that runs for longer than this is a livelock."""


class Outcome(NamedTuple):
    """What one seed came to."""

    seed: int
    fired: Counter[str]
    operations: int
    failure: str | None


def run_seed(seed: int, plant: str | None = None, *, dumps: bool = False) -> Outcome:
    """Run one seed, with a planted bug if one is named. `dumps`: with dumps and loads, as some plants need them."""
    campaign = DumpCampaign if dumps or plant in NEED_DUMPS else Campaign
    try:
        with planted(plant) if plant else nullcontext():
            world = campaign(seed).run()
    except AssertionError as error:
        frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
        return Outcome(seed, Counter(), 0, f"{type(error).__name__}: {error}\n{frames}")
    return Outcome(seed, world.fired, world.history.count(), None)


def _guarded(seed: int, plant: str | None, dumps: bool) -> Outcome:
    def too_long(number: int, frame: Any) -> None:
        raise AssertionError(f"the seed did not end within {SEED_LIMIT_S} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SEED_LIMIT_S)
    try:
        return run_seed(seed, plant, dumps=dumps)
    finally:
        signal.alarm(0)


def run_seeds(
    first_seed: int, seeds: int, jobs: int, plant: str | None = None, *, dumps: bool = False
) -> Iterator[Outcome]:
    """Run many seeds on `jobs` processes; outcomes in the order of the seeds."""
    numbers = range(first_seed, first_seed + seeds)
    if jobs == 1:
        yield from (_guarded(seed, plant, dumps) for seed in numbers)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_guarded, numbers, [plant] * seeds, [dumps] * seeds, chunksize=4)


def never_fired(fired: Counter[str], kinds: Sequence[str] = MUST_FIRE) -> list[str]:
    """Kinds of events that a large run must have seen, and did not."""
    return [kind for kind in kinds if not fired[kind]]


@click.command(help=__doc__)
@click.option("--seed", type=int, help="Run this one seed.")
@click.option("--first-seed", type=int, default=1, show_default=True, help="The first of many.")
@click.option("--seeds", type=int, default=100, show_default=True, help="How many.")
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes to run them on.")
@click.option("--plant", type=click.Choice(sorted(PLANTS)), help="A bug to plant; the run must catch it.")
@click.option("--dumps", is_flag=True, help="Dump and load the cluster all the while.")
@click.option("--first-only", is_flag=True, help="Stop at the first violation.")
def main(
    seed: int | None, first_seed: int, seeds: int, jobs: int, plant: str | None, dumps: bool, first_only: bool
) -> None:
    if seed is not None:
        first_seed, seeds = seed, 1
    began_s = time.monotonic()
    fired: Counter[str] = Counter()
    operations = violations = done = 0
    for outcome in run_seeds(first_seed, seeds, jobs, plant, dumps=dumps):
        done += 1
        fired.update(outcome.fired)
        operations += outcome.operations
        if outcome.failure is not None:
            violations += 1
            options = (f" --plant {plant}" if plant else "") + (" --dumps" if dumps else "")
            click.echo(f"seed {outcome.seed} failed: {outcome.failure}")
            click.echo(f"replay: python -m zkv.sim --seed {outcome.seed}{options}")
            if first_only:
                break
    # One seed is a replay; whoever runs many wants to know that they met everything.
    kinds = MUST_FIRE + DUMPS_MUST_FIRE if dumps else MUST_FIRE
    missing = never_fired(fired, kinds) if seed is None and not violations else []
    for kind in missing:
        click.echo(f"never fired: {kind}")
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(fired.items()))
    click.echo(
        f"{done} seeds, {operations} operations, {violations} violations, {time.monotonic() - began_s:.0f} s; {counts}"
    )
    sys.exit(1 if violations or missing else 0)


if __name__ == "__main__":
    main()
