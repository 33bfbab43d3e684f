"""What came of a load: how long its operations took, and what failed, by kind. Tallies of several clients add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from zkv.bench.histogram import Histogram, merged
from zkv.errors import ZkvError

GET: Final = "get"
PUT: Final = "put"
KINDS: Final = (GET, PUT)


def _histograms() -> dict[str, Histogram]:
    return {kind: Histogram() for kind in KINDS}


def _counters() -> dict[str, Counter[str]]:
    return {kind: Counter() for kind in KINDS}


@dataclass
class Tally:
    """Of one client, or of several."""

    latencies: dict[str, Histogram] = field(default_factory=_histograms)
    """Kind -> of the operations that succeeded, in nanoseconds."""
    errors: dict[str, Counter[str]] = field(default_factory=_counters)
    """Kind -> name of the error -> operations that ended with it."""
    missed: int = 0
    """Gets that found nothing under their key."""
    skipped: int = 0
    """Operations of an open loop that were due, and that there was no time left for."""
    began_ns: int = 0
    ended_ns: int = 0
    """Of the monotonic clock: from when the load was to begin to when the last call had returned."""

    def succeeded(self, kind: str, took_ns: int, operations: int = 1) -> None:
        """Operations were done, all in that time."""
        if operations:
            self.latencies[kind].record(took_ns, operations)

    def failed(self, kind: str, error: ZkvError, operations: int = 1) -> None:
        """Operations ended with an error."""
        doubt = ", outcome unknown" if error.outcome_unknown and kind == PUT else ""
        self.errors[kind][type(error).__name__ + doubt] += operations

    def took(self, kind: str, results: list[Any], took_ns: int) -> None:
        """A call of several operations has returned, errors in the places of results."""
        failed = 0
        if any(issubclass(one, ZkvError) for one in set(map(type, results))):
            for result in results:
                if isinstance(result, ZkvError):
                    self.failed(kind, result)
                    failed += 1
        if kind == GET:
            self.missed += results.count(None)
        self.succeeded(kind, took_ns, len(results) - failed)

    @property
    def operations(self) -> int:
        """How many succeeded."""
        return sum(one.count for one in self.latencies.values())

    @property
    def failures(self) -> int:
        """How many did not."""
        return sum(one.total() for one in self.errors.values())

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return (self.ended_ns - self.began_ns) / 1e9

    def add(self, other: Tally) -> None:
        """Count what another client did at the same time, too."""
        for kind in KINDS:
            self.latencies[kind].merge(other.latencies[kind])
            self.errors[kind].update(other.errors[kind])
        self.missed += other.missed
        self.skipped += other.skipped
        self.began_ns = min(self.began_ns, other.began_ns) if self.began_ns else other.began_ns
        self.ended_ns = max(self.ended_ns, other.ended_ns)

    def figures(self) -> dict[str, Any]:
        """As JSON has it."""
        seconds = self.seconds
        kinds: dict[str, Any] = {}
        for kind, latencies in (*self.latencies.items(), ("all", merged(self.latencies.values()))):
            errors = sum(self.errors.values(), Counter()) if kind == "all" else self.errors[kind]
            if latencies.count or errors:
                per_s = round(latencies.count / seconds, 1) if seconds else 0.0
                kinds[kind] = {
                    **latencies.figures(), "ops_per_s": per_s, "errors": dict(errors), "curve_ms": latencies.curve_ms()
                }
        return {"seconds": round(seconds, 3), "kinds": kinds, "missed": self.missed, "skipped": self.skipped}


def table_of(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each of the kinds that `Tally.figures` has; all but their names stands to the right."""
    head = ("", "operations", "ops/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "errors")
    rows: list[tuple[str, ...]] = [head]
    for kind, one in kinds.items():
        times = (one[name] for name in ("p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"))
        rows.append((
            kind, f"{one['count']:,}", f"{one['ops_per_s']:,.0f}",
            *("-" if ms is None else f"{ms:.3f}" for ms in times), f"{sum(one['errors'].values()):,}",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join((name.ljust(widths[0]), *map(str.rjust, cells, widths[1:]))) for name, *cells in rows
    )
