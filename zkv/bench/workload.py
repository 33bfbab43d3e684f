"""What a load asks for: keys, values, and whether to read or to write, all of it from a seed (pure)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

AHEAD: Final = 1024
"""Choices that are made at a time."""
POOL_BYTES: Final = 4 * 2**20
POOL_VALUES: Final = 64
"""Values are taken in turn from a pool of this size at most: to make each anew would cost the client more than to
send it."""


@dataclass(frozen=True)
class Workload:
    """How much of what."""

    keys: int = 10_000
    value_bytes: int = 100
    reads_percent: float = 50.0
    zipf: float = 0.0
    """Exponent of a Zipfian choice: the n-th key is asked for in proportion to n ** -zipf; 0: all keys alike."""
    prefix: str = "zkv-bench:"
    """What all keys begin with."""
    seed: int = 1

    def key(self, number: int) -> str:
        """The name of a key."""
        return f"{self.prefix}{number:08d}"

    def names(self) -> list[str]:
        """All keys."""
        return [self.key(number) for number in range(self.keys)]

    def values(self, rng: random.Random) -> list[bytes]:
        """The pool: random bytes, which nothing on the way could make shorter."""
        count = max(1, min(POOL_VALUES, POOL_BYTES // max(1, self.value_bytes)))
        return [rng.randbytes(self.value_bytes) for _ in range(count)]


class Choices:
    """What one client asks for, choice after choice, without end."""

    def __init__(self, workload: Workload, client: int) -> None:
        self._workload = workload
        self._rng = random.Random(f"{workload.seed} {client}")
        self.keys: Iterator[str] = self._keys()
        self.values: Iterator[bytes] = self._values()
        self.reads: Iterator[bool] = self._reads()
        """Whether the next operation, or the next batch, is a read."""

    def _keys(self) -> Iterator[str]:
        names, zipf, choices = self._workload.names(), self._workload.zipf, self._rng.choices
        sums = list(accumulate((number + 1) ** -zipf for number in range(len(names)))) if zipf else None
        while True:
            yield from choices(names, cum_weights=sums, k=AHEAD)

    def _values(self) -> Iterator[bytes]:
        pool = self._workload.values(self._rng)
        while True:
            yield from pool

    def _reads(self) -> Iterator[bool]:
        part, chance = self._workload.reads_percent / 100, self._rng.random
        while True:
            yield from [chance() < part for _ in range(AHEAD)]
