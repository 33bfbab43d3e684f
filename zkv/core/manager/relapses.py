"""How long to keep away from what has failed before: twice as long at each relapse (pure).

A link that flaps looks well most of the time. Whoever trusts it again at once moves shards to and fro for ever; whoever
never does loses a node to one bad minute. So the term doubles, and is forgotten after some minutes of health.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

LONGEST_MS: Final = 60_000.0
FORGOTTEN_MS: Final = 300_000.0
"""A relapse so long after the last one counts as the first."""

Key = TypeVar("Key", bound=Hashable)


class Relapses(Generic[Key]):
    """Terms by whom they are for, on the detector's awake clock."""

    def __init__(self, first_ms: float) -> None:
        self._first_ms = first_ms
        self._terms: dict[Key, tuple[float, float]] = {}
        """key -> its last relapse, and the term that it got."""

    def strike(self, key: Key, awake_ms: float) -> None:
        """`key` has failed, again or for the first time."""
        self._terms[key] = (awake_ms, self.next_ms(key, awake_ms))

    def next_ms(self, key: Key, awake_ms: float) -> float:
        """The term that `key` would get if it failed now."""
        last_ms, term_ms = self._terms.get(key, (0.0, 0.0))
        fresh = not term_ms or awake_ms - last_ms >= FORGOTTEN_MS
        return self._first_ms if fresh else min(2 * term_ms, LONGEST_MS)

    def term_ms(self, key: Key) -> float:
        """The present term of `key`."""
        return self._terms[key][1] if key in self._terms else self._first_ms

    def forget(self, key: Key) -> None:
        """It is gone for good."""
        self._terms.pop(key, None)

    def tidy(self, awake_ms: float) -> None:
        """Forget what is long ago."""
        for key in [key for key, (last_ms, _) in self._terms.items() if awake_ms - last_ms >= FORGOTTEN_MS]:
            del self._terms[key]
