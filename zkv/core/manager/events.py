"""The manager's event log: what happened, numbered, with a wall-clock time; the newest in memory, all with the host.

An event is for people and their programs. Nothing is decided by one, so that a clock which steps, or a log that was
cut, does no harm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from zkv.core.manager.effects import Event

KINDS: Final = frozenset((
    "formed", "join", "suspect", "down", "back", "death", "takeover", "fill", "healed", "drain", "drained", "move",
    "handover", "memory", "reset", "lost", "layout", "layout_refused", "manager", "doubt", "isolated", "pardoned",
    "shunned",
))  # fmt: skip
KEPT: Final = 10_000
"""Events that are kept, in memory and by the host."""
LIST_LIMIT: Final = 1000
"""Events of one answer."""


class EventLog:
    """Events in order. `wall_ms` is set by the manager at the begin of each step."""

    def __init__(self, stored: Iterable[Event]) -> None:
        self.wall_ms = 0
        self._kept: deque[Event] = deque(stored, maxlen=KEPT)
        self.last = self._kept[-1].number if self._kept else 0
        """Number of the newest event."""
        self._fresh: list[Event] = []

    def add(self, kind: str, text: str, **data: Any) -> None:
        """Something happened."""
        assert kind in KINDS, kind
        self.last += 1
        event = Event(kind, text, data, self.last, self.wall_ms)
        self._kept.append(event)
        self._fresh.append(event)

    def take(self) -> list[Event]:
        """Those that the host has not been given yet."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def after(self, number: int, limit: int) -> list[dict[str, Any]]:
        """The first `limit` events after `number`, as the "events" verb shows them."""
        limit = min(limit, LIST_LIMIT)
        first = self._kept[0].number if self._kept else 0
        start = max(0, number + 1 - first)
        return [
            {**event.data, "number": event.number, "time_ms": event.time_ms, "kind": event.kind, "text": event.text}
            for event in (self._kept[place] for place in range(start, min(start + limit, len(self._kept))))
        ]
