"""Latencies, counted in buckets of three significant digits: HdrHistogram (Gil Tene, hdrhistogram.org).

A bucket is as wide as a 1024th of the values in it at most, whether they are microseconds or minutes: so any percentile
is right to 0.1 %, however long the tail. Recording is a few operations on integers, memory grows with the number of
different buckets that were met and not with the number of values, and histograms of several processes add up, which
percentiles do not.

It is written here because the library of that name needs a compiler where it has no wheel, and setuptools and pbr
wherever it runs; this is what zkv uses of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

DIGITS: Final = 3
"""Significant decimal digits."""
_BITS: Final = 11
"""2^11 is the first power of two that is no less than 2 * 10^DIGITS: values below it have buckets of their own."""
FRACTIONS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0)
"""What `curve_ms` tells of a distribution."""
_MS: Final = 1e6
"""Nanoseconds."""


class Histogram:
    """Counts of whole numbers from 0 on; for latencies nanoseconds."""

    __slots__ = ("_counts", "count", "greatest", "least", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        """Number of a bucket -> how many values are in it."""
        self.count = 0
        self.total = 0
        """The sum of all values."""
        self.least = 0
        self.greatest = 0
        """Both exact, and 0 while there is no value."""

    def record(self, value: int, times: int = 1) -> None:
        """Count `value`, `times` times. One below 0 counts as 0: a clock that was read twice may not go back."""
        if value < 0:
            value = 0
        # The leading bits of the value, and how many were cut off: numbers of buckets follow on each other without gap.
        cut = max(0, value.bit_length() - _BITS)
        bucket = (cut << (_BITS - 1)) + (value >> cut)
        self._counts[bucket] = self._counts.get(bucket, 0) + times
        if value > self.greatest:
            self.greatest = value
        if value < self.least or not self.count:
            self.least = value
        self.count += times
        self.total += value * times

    def merge(self, other: Histogram) -> None:
        """Add all that `other` has counted."""
        if not other.count:
            return
        for bucket, times in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + times
        self.least = min(self.least, other.least) if self.count else other.least
        self.greatest = max(self.greatest, other.greatest)
        self.count += other.count
        self.total += other.total

    def percentile(self, fraction: float) -> int:
        """The least value that so much of all is not above (0.99: the p99), rounded up to the end of its bucket; 0
        where nothing was recorded."""
        return self.percentiles((fraction,))[0]

    def percentiles(self, fractions: Sequence[float]) -> list[int]:
        """`percentile` of each; in ascending order."""
        found: list[int] = []
        below = 0
        buckets = iter(sorted(self._counts.items()))
        bucket = 0
        for fraction in fractions:
            # Rounded first: 0.07 * 100 is a little more than 7.
            rank = max(1, math.ceil(round(fraction * self.count, 6)))
            while below < min(rank, self.count):
                bucket, times = next(buckets)
                below += times
            found.append(min(_last_of(bucket), self.greatest))
        return found

    def mean(self) -> float:
        """The exact mean; nan where nothing was recorded."""
        return self.total / self.count if self.count else math.nan

    # --- as figures, of latencies -----------------------------------------------------------------------------------

    def figures(self) -> dict[str, float | None]:
        """The count and the percentiles that everybody asks for, in milliseconds; None where nothing was recorded."""
        p50, p90, p99, p99_9 = self.percentiles((0.5, 0.9, 0.99, 0.999))
        values = {
            "mean_ms": self.mean(), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "p99_9_ms": p99_9,
            "max_ms": self.greatest,
        }  # fmt: skip
        rounded = {name: round(value / _MS, 4) if self.count else None for name, value in values.items()}
        return {"count": self.count, **rounded}

    def curve_ms(self, fractions: Sequence[float] = FRACTIONS) -> list[list[float]]:
        """[[fraction, milliseconds]]: the distribution, to be drawn. Empty where nothing was recorded."""
        if not self.count:
            return []
        pairs = zip(fractions, self.percentiles(fractions), strict=True)
        return [[fraction, round(value / _MS, 4)] for fraction, value in pairs]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return (self._counts, self.total, self.least, self.greatest) == (
            other._counts, other.total, other.least, other.greatest
        )  # fmt: skip

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"<Histogram of {self.count} values, {self.least} to {self.greatest}>"


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All of them in a new one."""
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole


def _last_of(bucket: int) -> int:
    """The greatest value in a bucket."""
    cut = max(0, (bucket >> (_BITS - 1)) - 1)
    return ((bucket - (cut << (_BITS - 1)) + 1) << cut) - 1
