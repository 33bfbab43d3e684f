"""When operations are tried again: after a jittered, growing pause, and within a budget.

The budget keeps retries from crowding out first tries when a cluster is in trouble: each first try earns a part of a
retry, a few are granted each second, and some may be saved up (the retry budget of Finagle; Google's SRE book, chapter
21). What it does not allow at once waits; its deadline decides the rest.
"""

from __future__ import annotations

import random
from typing import Final

BACKOFF_MS: Final = 4.0
"""Pause before a definitely refused operation is tried again; doubled with each, with jitter, up to the maximum."""
BACKOFF_MAX_MS: Final = 100.0
RETRY_SHARE: Final = 0.2
"""Retries that a first try earns."""
RETRIES_PER_S: Final = 50.0
RETRY_BURST: Final = 100.0


def pause_ms(attempt: int, rng: random.Random) -> float:
    """How long to wait after a try that was refused."""
    return min(BACKOFF_MS * 2.0 ** min(attempt - 1, 10), BACKOFF_MAX_MS) * rng.uniform(0.5, 1.0)


class RetryBudget:
    """Tokens: one for each request that is sent again."""

    def __init__(self) -> None:
        self._tokens = RETRY_BURST
        self._earned_ms: float | None = None

    def first_try(self) -> None:
        """A request is sent for the first time."""
        if self._tokens < RETRY_BURST:
            self._tokens = min(RETRY_BURST, self._tokens + RETRY_SHARE)

    def take(self, now_ms: float) -> bool:
        """Whether a request may be sent again now; then that is paid for."""
        if self._earned_ms is not None:
            earned = RETRIES_PER_S * max(0.0, now_ms - self._earned_ms) / 1000
            self._tokens = min(RETRY_BURST, self._tokens + earned)
        self._earned_ms = now_ms
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def wait_ms(self) -> float:
        """How long until the next is allowed, if nothing is sent meanwhile."""
        return max(1.0, (1.0 - self._tokens) * 1000 / RETRIES_PER_S)
