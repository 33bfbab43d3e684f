"""`zkv-bench`: how fast is this cluster, for the clients and the work that one has in mind?

The load itself is in `zkv.bench`; here are the options, the progress and the table.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from zkv import __version__
from zkv.cli.ending import ended_by_signals
from zkv.cli.options import CONTEXT, EXIT_TIMED_OUT, EXIT_UNAVAILABLE, Command, Failure
from zkv.cli.render import as_json, counted
from zkv.cli.session import Session, common_options, read_option
from zkv.errors import ZkvError

if TYPE_CHECKING:
    from zkv.bench.clients import Plan, Show
    from zkv.bench.tally import Tally
    from zkv.bench.workload import Workload
    from zkv.client import Client

SECONDS: Final = 10.0
VALUE_LIMIT: Final = 15 * 2**20
KEYS_LIMIT: Final = 10_000_000

EPILOG = """\
Examples:

  zkv-bench                                      10 s, one client, one operation at a time, half of them reads
  zkv-bench --mode batch --clients 2             how much goes through, 1024 operations a call
  zkv-bench --mode asyncio --batch 64            64 operations under way at once, each a call of its own
  zkv-bench --rate 2000 --clients 4              how long operations take at 2000 a second
  zkv-bench --reads 95 --zipf 1.0 --read any     mostly reads, few keys most of the time, from any replica
  zkv-bench --operations 200000 --mode pipeline --value-bytes 1000
  zkv-bench --json | jq '.kinds.get.p99_ms'
  ZKV_MANAGER=tcp://10.0.0.1:5550 zkv-bench

Keys are put before (not measured) and deleted afterwards, unless --keep is given. They all begin with --prefix;
whatever else is in the cluster is left alone.

Without --rate the loop is closed: a client asks again when it has been answered. That shows how much goes
through; but while the cluster stands still it is asked nothing, so long waits are counted once instead of as
often as users would meet them. With --rate the loop is open: operations are due at that rate, and latency
counts from when they were due, so nothing is left out. Choose a rate well below what the closed loop shows.

Latencies are those of operations that succeeded; one that travels in a batch takes as long as its batch. What
failed is counted by kind of error. Clients take processor time, too: on the machine of the cluster they compete
with it.

Exit status: 0 it was measured, also where some operations failed; 2 wrong usage; 3 no manager, or no operation
succeeded; 4 all of them ran into their deadline; 130 interrupted, 143 by SIGTERM (the keys are deleted then, too).
"""


@click.command(cls=Command, epilog=EPILOG, context_settings=CONTEXT)
@click.option("--clients", type=click.IntRange(1, 8), default=1, show_default=True, help="Client processes.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 86400), metavar="SECONDS", help=f"How long.  [default: {SECONDS:g}]"
)
@click.option("--operations", type=click.IntRange(min=1), metavar="N", help="How many operations, instead of how long.")
@click.option(
    "--mode", type=click.Choice(["one", "pipeline", "batch", "asyncio"]), default="one", show_default=True,
    help="`one`: one operation at a time. `pipeline`: reads and writes together in pipelines. `batch`: calls of mget "
    "and mput. `asyncio`: many coroutines with one operation each.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(1, 100_000), metavar="N",
    help="Operations of a pipeline or batch; with asyncio: under way at once.  [default: 128, 1024, 256]",
)  # fmt: skip
@click.option(
    "--reads", "reads_percent", type=click.FloatRange(0, 100), default=50.0, show_default=True, metavar="PERCENT",
    help="How many of the operations are gets; the others are puts.",
)  # fmt: skip
@click.option("--keys", type=click.IntRange(1, KEYS_LIMIT), default=10_000, show_default=True, help="Different keys.")
@click.option(
    "--value-bytes", type=click.IntRange(0, VALUE_LIMIT), default=100, show_default=True, metavar="BYTES",
    help="Size of each value.",
)  # fmt: skip
@click.option(
    "--rate", "per_s", type=click.FloatRange(min=0, min_open=True), metavar="PER_SECOND",
    help="Open loop: so many operations a second of all clients together.  [default: a closed loop]",
)  # fmt: skip
@read_option
@click.option(
    "--zipf", type=click.FloatRange(0, 5), default=0.0, metavar="EXPONENT",
    help="Ask for the n-th key in proportion to 1/n^EXPONENT.  [default: for all alike]",
)  # fmt: skip
@click.option("--prefix", default="zkv-bench:", show_default=True, help="What all keys begin with.")
@click.option("--keep", is_flag=True, help="Leave the keys where they are.")
@click.option("--seed", type=int, default=1, show_default=True, help="Decides which keys are asked for, and how.")
@click.version_option(__version__, prog_name="zkv-bench")
@click.pass_context
def main(
    ctx: click.Context, /, clients: int, seconds: float | None, operations: int | None, mode: str, batch: int | None,
    reads_percent: float, keys: int, value_bytes: int, per_s: float | None, read: str | None, zipf: float, prefix: str,
    keep: bool, seed: int, **options: Any,
) -> None:  # fmt: skip
    """Load a running cluster, and show how many operations a second it does, and how long they take."""
    if seconds is not None and operations is not None:
        raise click.UsageError("choose one of --seconds and --operations")
    if mode == "one" and batch not in (None, 1):
        raise click.UsageError("--mode one has one operation a call: --batch goes with pipeline, batch and asyncio")
    if mode == "pipeline" and read not in (None, "primary"):
        raise click.UsageError(f"pipelines read at primaries: --read {read} goes with the other modes")
    if not prefix:
        raise click.UsageError("--prefix is empty: the keys would not be told from those of others")
    if operations is not None and operations < clients:
        raise click.UsageError(f"--operations {operations} is less than one for each of {clients} clients")
    session = Session(ctx, options)
    # From here on zkv is needed, which --help and mistakes need not wait for.
    from zkv.bench.clients import MODES, Plan, fill, run
    from zkv.bench.workload import Workload

    workload = Workload(keys, value_bytes, reads_percent, zipf, prefix, seed)
    plan = Plan(
        manager=session.manager, mode=mode, batch=batch or MODES[mode], clients=clients,
        seconds=seconds if seconds or operations else SECONDS, operations=operations, per_s=per_s,
        read=read or "primary", timeout_s=session.timeout_s, workload=workload,
    )  # fmt: skip
    with ended_by_signals(), session.client() as kv:
        kv.mget([workload.key(0)])  # is anybody there?
        try:
            with _shown("filling", "keys", session.json) as show:
                fill(kv, workload, show)
            with _shown("measuring", "operations" if operations else "s", session.json) as show:
                tally = run(plan, _progress_of(plan, show))
        finally:
            if not keep:
                _clear(kv, workload, session.json)
    if session.json:
        click.echo(as_json(_settings(plan) | tally.figures()))
    else:
        click.echo(_text(plan, tally))
    if not tally.operations:
        names = {name for errors in tally.errors.values() for name in errors}
        timed_out = bool(names) and all(name.startswith("TimedOut") for name in names)
        raise Failure(
            "no operation succeeded: `zkv-admin status` shows what is missing",
            EXIT_TIMED_OUT if timed_out else EXIT_UNAVAILABLE,
        )


main.params += common_options()


# --- meanwhile -------------------------------------------------------------------------------------------------------


@contextmanager
def _shown(label: str, unit: str, quiet: bool) -> Iterator[Show]:
    """A progress bar, or nothing."""
    if quiet:
        yield lambda done, total: None
        return
    from zkv.cli.live import progress

    with progress(label, unit) as show:
        yield show


def _progress_of(plan: Plan, show: Show) -> Show:
    """Makes of how much is done how far it is: in operations where their number is given, else in seconds."""
    began_s = time.monotonic()
    if plan.operations is not None:
        total = plan.operations
        return lambda done, _: show(done, total)
    whole_s = math.ceil(plan.seconds or 0)
    return lambda done, _: show(min(whole_s, int(time.monotonic() - began_s)) if done else 0, whole_s)


def _clear(kv: Client, workload: Workload, quiet: bool) -> None:
    """Delete the keys. Where that fails it is said; what was measured is shown all the same."""
    from zkv.bench.clients import clear

    try:
        with _shown("deleting", "keys", quiet) as show:
            clear(kv, workload, show)
    except ZkvError as error:
        prefix = shlex.quote(workload.prefix)
        click.echo(f"keys are left, `zkv-client flush {prefix}` deletes them: {error}", err=True)


# --- what is shown in the end ----------------------------------------------------------------------------------------


def _settings(plan: Plan) -> dict[str, Any]:
    """The load, as JSON has it."""
    work = plan.workload
    return {
        "mode": plan.mode, "clients": plan.clients, "batch": plan.batch, "loop": "open" if plan.per_s else "closed",
        "rate_per_s": plan.per_s, "read": plan.read, "reads_percent": work.reads_percent, "keys": work.keys,
        "value_bytes": work.value_bytes, "zipf": work.zipf, "seed": work.seed,
    }  # fmt: skip


_SENT: Final = {
    "one": "one operation at a time", "pipeline": "pipelines of {:,} operations", "batch": "calls of {:,} operations",
    "asyncio": "{:,} operations under way at once each",
}  # fmt: skip


def _text(plan: Plan, tally: Tally) -> str:
    """The load, the table, and what has to be said of them."""
    from zkv.bench.tally import table_of

    figures, work = tally.figures(), plan.workload
    loop = f"open loop at {plan.per_s:,g} operations a second" if plan.per_s else "closed loop"
    lines = [
        f"{counted(plan.clients, 'client')}, {_SENT[plan.mode].format(plan.batch)}, {loop}, {tally.seconds:.1f} s",
        f"{work.reads_percent:g} % gets (--read {plan.read}), {work.keys:,} keys"
        f"{f' by Zipf ({work.zipf:g})' if work.zipf else ''}, values of {work.value_bytes:,} bytes",
        "",
        table_of(figures["kinds"]),
    ]
    notes = [
        f"{kind}: {number:,} x {name}" for kind, errors in tally.errors.items() for name, number in errors.items()
    ]
    if tally.missed:
        notes.append(f"{tally.missed:,} gets found no value, though all keys had been put: evicted, or deleted?")
    if tally.skipped:
        notes.append(f"{tally.skipped:,} operations were due and given up, which would have taken longest: the rate is")
        notes.append("more than goes through.")
    if plan.per_s:
        notes.append("Latency counts from when an operation was due.")
    else:
        notes.append("Latency counts from when an operation was sent: a closed loop sends none while it waits, so what")
        notes.append("others would have waited is not in it. --rate PER_SECOND counts from when operations are due.")
    return "\n".join([*lines, "", *notes])


if __name__ == "__main__":
    main()
