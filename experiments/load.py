"""Client processes that read and write without pause, remember how long each call took, and check what they read.

Each process owns its keys, so it knows what every read must show: the newest value whose put was acknowledged, or one
whose outcome is unknown. Pairs of a put and a get, one operation a call. Times are of the monotonic clock, which the
processes of one machine share.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from zkv import Client, ZkvError


@dataclass
class Report:
    """What one process saw."""

    calls: list[tuple[float, float]] = field(default_factory=list)
    """(when it began, how long it took) of each call that succeeded, in seconds."""
    errors: list[str] = field(default_factory=list)
    wrong: int = 0
    """Reads that showed something else than they must: lost writes."""
    acknowledged: int = 0


class Load:
    """A context manager: the load runs within it."""

    def __init__(self, manager: str, processes: int = 4, *, keys: int = 500, pace_s: float = 0.0) -> None:
        """`pace_s`: pause between two pairs of calls of a process; 0: none."""
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes = []
        for number in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, manager, f"load{number}-", keys, pace_s), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)
        self.reports: list[Report] = []

    def __enter__(self) -> Self:
        for end in self._ends:
            end.recv()  # ready
        for end in self._ends:
            end.send("go")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in self._ends:
            end.send("stop")
        self.reports = [end.recv() for end in self._ends]
        for process in self._processes:
            process.join()

    def latencies_ms(self, began_s: float, ended_s: float) -> list[float]:
        """Of the calls that were under way between two moments, sorted."""
        calls = (call for report in self.reports for call in report.calls)
        return sorted(1000 * took for start, took in calls if start + took >= began_s and start <= ended_s)

    @property
    def errors(self) -> list[str]:
        return [error for report in self.reports for error in report.errors]

    @property
    def wrong(self) -> int:
        return sum(report.wrong for report in self.reports)

    @property
    def acknowledged(self) -> int:
        return sum(report.acknowledged for report in self.reports)


def percentile(ordered: list[float], fraction: float) -> float:
    """Of sorted figures; 0.99 is the p99."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] if ordered else float("nan")


def _work(end: Connection, manager: str, prefix: str, keys: int, pace_s: float) -> None:
    report = Report()
    may_show: dict[str, set[str]] = {}
    number = 0
    with Client(manager, timeout_s=20) as kv:
        kv.mget([f"{prefix}{number}" for number in range(keys)])  # connected to all before it counts
        end.send("ready")
        end.recv()
        while not end.poll(pace_s):
            key, value = f"{prefix}{number % keys}", f"{number}"
            number += 1
            began_s = time.monotonic()
            try:
                kv.put(key, value)
                report.acknowledged += 1
                may_show[key] = {value}
            except ZkvError as error:
                report.errors.append(f"put: {error}")
                if error.outcome_unknown:
                    may_show.setdefault(key, set()).add(value)
            halfway_s = time.monotonic()
            _check(kv, [key], may_show, report)
            report.calls.append((began_s, halfway_s - began_s))
            report.calls.append((halfway_s, time.monotonic() - halfway_s))
        end.recv()
        _check(kv, list(may_show), may_show, report)
    end.send(report)


def _check(kv: Client, keys: list[str], may_show: dict[str, set[str]], report: Report) -> None:
    try:
        found: Iterable[object] = kv.mget(keys)
    except ZkvError as error:
        report.errors.append(f"get: {error}")
        return
    for key, value in zip(keys, found, strict=True):
        if key in may_show and value not in may_show[key]:
            report.wrong += 1
