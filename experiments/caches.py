"""Caches to compare an eviction with: what an exact least-recently-used one would hit, and one that evicts anything.

They are asked as the cluster is: many keys at a time, of which those that were not there are put afterwards.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence


class Cache(ABC):
    """A cache that holds so many keys."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    def hits(self, batch: Sequence[int]) -> int:
        """How many of these are there; afterwards all are."""
        found = [self.get(key) for key in batch]
        self.put(dict.fromkeys(key for key, hit in zip(batch, found, strict=True) if not hit))
        return sum(found)

    @abstractmethod
    def get(self, key: int) -> bool: ...

    @abstractmethod
    def put(self, keys: Iterable[int]) -> None: ...


class ExactLru(Cache):
    """Evicts what was not used for longest."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._held: OrderedDict[int, None] = OrderedDict()

    def get(self, key: int) -> bool:
        if key not in self._held:
            return False
        self._held.move_to_end(key)
        return True

    def put(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._held[key] = None
            if len(self._held) > self.capacity:
                self._held.popitem(last=False)


class RandomEviction(Cache):
    """Evicts any."""

    def __init__(self, capacity: int, rng: random.Random) -> None:
        super().__init__(capacity)
        self._rng = rng
        self._places: dict[int, int] = {}
        self._keys: list[int] = []

    def get(self, key: int) -> bool:
        return key in self._places

    def put(self, keys: Iterable[int]) -> None:
        for key in keys:
            if len(self._keys) < self.capacity:
                place = len(self._keys)
                self._keys.append(key)
            else:
                place = self._rng.randrange(self.capacity)
                del self._places[self._keys[place]]
                self._keys[place] = key
            self._places[key] = place


def zipfian(keys: int, exponent: float, count: int, rng: random.Random) -> list[int]:
    """`count` accesses to keys 0 … `keys` - 1, the k-th most wanted of them in proportion to 1 / k ** `exponent`.

    Which key is wanted how much is shuffled: neighbours have nothing in common.
    """
    weights, total = [], 0.0
    for rank in range(1, keys + 1):
        total += rank**-exponent
        weights.append(total)
    order = list(range(keys))
    rng.shuffle(order)
    return rng.choices(order, cum_weights=weights, k=count)
