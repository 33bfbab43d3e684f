"""Filling a cluster, and calls at a steady pace, whose time counts from when they were due: a call that has to wait
because the one before took long has waited, too (an open loop; it leaves nothing out that a user would notice)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from load import percentile

from zkv import Client
from zkv.cli.live import progress
from zkv.client.operations import call_error
from zkv.client.plans import Many
from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.core.shardmap import ShardMap

STEP: Final = 8192
FRACTIONS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
"""What is kept of a distribution."""
TICKS_PER_S: Final = 100
"""Of the kernel's accounts of processor time, /proc/PID/stat."""


def key_of(number: int) -> str:
    """All experiments with storage name their keys so."""
    return f"key:{number:012d}"


def value_of(number: int, size: int) -> bytes:
    """Distinct values, of which no store can make numbers."""
    return b"v%015d".ljust(size, b"x") % number if size > 16 else b"v%0*d" % (size - 1, number)


def fill(
    kv: Client, keys: range, value_bytes: int, ttl_of: Callable[[int], float | None] | None = None, *,
    label: str = "filling",
) -> float:  # fmt: skip
    """Put the keys of these numbers; how long that took, in seconds. `ttl_of(number)`: in seconds; None: leave that key
    out."""
    began_s = time.monotonic()
    with progress(label, "keys") as show:
        for first in range(keys.start, keys.stop, STEP):
            numbers = range(first, min(first + STEP, keys.stop))
            if ttl_of is None:
                kv.mput({key_of(number): value_of(number, value_bytes) for number in numbers})
            else:
                put_with_ttls(kv, ((number, ttl_of(number)) for number in numbers), value_bytes)
            show(numbers.stop - keys.start, len(keys))
    return time.monotonic() - began_s


def put_with_ttls(kv: Client, rows: Iterable[tuple[int, float | None]], value_bytes: int) -> None:
    """Put keys of which each has a TTL of its own, in one call; those whose TTL is None are left out.

    It is what a pipeline of puts sends, without an object for each of them: a million keys are put in seconds.
    """
    chosen = [(number, ttl_s) for number, ttl_s in rows if ttl_s is not None]

    def finish(call: Call, _: ShardMap) -> None:
        if call.failures:
            raise call_error(call, kv.manager)

    values = [value_of(number, value_bytes) for number, _ in chosen]
    ttls = [max(1, round(1000 * ttl_s)) for _, ttl_s in chosen]
    if chosen:
        kv._run(Many(wire.PUT, [key_of(number) for number, _ in chosen], finish, values=values, ttls=ttls))


def paced(call: Callable[[], Any], per_s: float, seconds: float) -> list[float]:
    """How long each call took, in milliseconds from the moment it was due, in order."""
    clock, took_ms = time.perf_counter, []
    began_s = clock()
    for number in range(round(per_s * seconds)):
        due_s = began_s + number / per_s
        if (left_s := due_s - clock()) > 0:
            time.sleep(left_s)
        call()
        took_ms.append(1000 * (clock() - due_s))
    return took_ms


def summary(took_ms: Sequence[float]) -> dict[str, float]:
    """The figures of one measurement."""
    ordered = sorted(took_ms)
    figures = {
        "p50_ms": percentile(ordered, 0.5),
        "p99_ms": percentile(ordered, 0.99),
        "longest_ms": ordered[-1] if ordered else float("nan"),
    }
    return {name: round(figure, 3) for name, figure in figures.items()}


def curve(took_ms: Sequence[float]) -> list[list[float]]:
    """[[fraction, milliseconds]]: a distribution, to be drawn."""
    ordered = sorted(took_ms)
    return [[fraction, round(percentile(ordered, fraction), 3)] for fraction in FRACTIONS]


def median_of(rows: Sequence[dict[str, float]], name: str) -> float:
    """The median of one figure over runs."""
    return round(statistics.median(row[name] for row in rows), 3)


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time that processes have used so far, all of them together, in seconds."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
