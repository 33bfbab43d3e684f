"""Was what a get showed a value that could be current? (pure)

Each get is judged by itself, from the sets of its key that were acknowledged or under way, and from their times to
live. Times are of the load generator's clock: a set takes effect at some moment between when it was sent and when it
was acknowledged, or, if its outcome is unknown, at any later moment, or never. An entry expires its TTL after it took
effect, give or take a margin for the clocks of the nodes.

A set may be what a get shows if

- it was sent before the get returned, and did not end with the certainty that it was not done;
- no other set took effect after it and before the get was sent, with certainty: one that was sent after this one had
  taken effect, and had taken effect itself when the get was sent;
- it has not certainly expired when the get is sent.

"Nothing" may be shown if nothing had certainly been set yet, or if a set that may be the last one may have expired by
the time the get returns. A set whose outcome is unknown has taken effect at the latest when a get that showed its value
returned.

So a get has a set of possible answers. It is *determined* unless both a value and "nothing" are among them: whether an
entry had expired within the margin is not known. Where several values are possible, since sets run at the same time,
each of them is right. An answer that is impossible is wrong whatever else was possible: then the get counts as
determined.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

NEVER: Final = float("inf")
MARGIN_MS: Final = 20.0
"""By how much a node may be off when it says that an entry has expired: cluster time is bounded by round trips to the
manager, and these take up to so long on a busy machine."""
STORIES: Final = 5


class Put(NamedTuple):
    """A set that was sent, and may have been done."""

    key: str
    value: str
    """Nobody else sets this one."""
    sent_ms: float
    done_ms: float
    """When it was acknowledged; NEVER where the outcome is unknown. One that was certainly not done is left out."""
    ttl_ms: float
    """NEVER: it stays."""


class Get(NamedTuple):
    """A get that succeeded."""

    key: str
    found: str | None
    sent_ms: float
    done_ms: float


class Possible(NamedTuple):
    """The right answers of a get."""

    values: frozenset[str]
    nothing: bool

    @property
    def determined(self) -> bool:
        """Whether it is known if there was a value."""
        return not (self.values and self.nothing)

    def allows(self, found: str | None) -> bool:
        """Whether this is one of them."""
        return self.nothing if found is None else found in self.values


@dataclass
class Verdict:
    """Of all gets of a run."""

    gets: int = 0
    determined: int = 0
    correct: int = 0
    """Of those that are determined."""
    found: int = 0
    """Gets that showed a value."""
    stories: list[str] = field(default_factory=list)
    """What was wrong with the first that were."""

    @property
    def wrong(self) -> int:
        """How many gave an answer that was impossible."""
        return self.determined - self.correct


def judge(puts: Iterable[Put], gets: Iterable[Get], *, margin_ms: float = MARGIN_MS) -> Verdict:
    """Judge every get."""
    puts_of: dict[str, list[Put]] = defaultdict(list)
    gets_of: dict[str, list[Get]] = defaultdict(list)
    for put in puts:
        puts_of[put.key].append(put)
    for get in gets:
        gets_of[get.key].append(get)
    verdict = Verdict()
    for key, ones in gets_of.items():
        ones.sort(key=lambda get: get.sent_ms)
        history = KeyHistory(puts_of[key], ones, margin_ms)
        for get in ones:
            possible = history.possible(get)
            right = possible.allows(get.found)
            verdict.gets += 1
            verdict.found += get.found is not None
            verdict.determined += possible.determined or not right
            verdict.correct += possible.determined and right
            if not right and len(verdict.stories) < STORIES:
                verdict.stories.append(_story(get, possible))
    return verdict


class KeyHistory:
    """The sets of one key. Ask for gets in the order in which they were sent."""

    def __init__(self, puts: list[Put], gets: list[Get], margin_ms: float) -> None:
        self._margin_ms = margin_ms
        shown_ms: dict[str, list[float]] = defaultdict(list)
        for get in gets:
            if get.found is not None:
                shown_ms[get.found].append(get.done_ms)

        def done_ms(put: Put) -> float:
            # A get that showed it before it was sent is wrong, and says nothing of when it took effect.
            return min(put.done_ms, min((ms for ms in shown_ms[put.value] if ms >= put.sent_ms), default=NEVER))

        known = [put._replace(done_ms=done_ms(put)) for put in puts]
        self._coming = sorted(known, key=lambda put: put.sent_ms, reverse=True)
        """Sent later than all gets so far had returned, the earliest last."""
        self._effective = sorted(known, key=lambda put: put.done_ms, reverse=True)
        """Not known to have taken effect when the get at hand was sent, the earliest last."""
        self._current: list[Put] = []
        """Those that may be the last set, or were sent too late for the get at hand."""
        self._last_sent_ms = -NEVER
        """When the last of those that had taken effect was sent: who had taken effect before was overwritten."""

    def possible(self, get: Get) -> Possible:
        """Which answers are right."""
        while self._coming and self._coming[-1].sent_ms <= get.done_ms:
            self._current.append(self._coming.pop())
        while self._effective and self._effective[-1].done_ms < get.sent_ms:
            self._last_sent_ms = max(self._last_sent_ms, self._effective.pop().sent_ms)
        self._current = [put for put in self._current if put.done_ms >= self._last_sent_ms]
        nothing = self._last_sent_ms == -NEVER
        values = set()
        for put in self._current:
            if put.sent_ms > get.done_ms:
                continue
            nothing |= put.sent_ms + put.ttl_ms - self._margin_ms <= get.done_ms
            if get.sent_ms <= put.done_ms + put.ttl_ms + self._margin_ms:
                values.add(put.value)
        return Possible(frozenset(values), nothing)


def _story(get: Get, possible: Possible) -> str:
    answers = sorted(possible.values) + ["nothing"] * possible.nothing
    return (
        f"{get.key}: a get from {get.sent_ms:.1f} to {get.done_ms:.1f} ms showed "
        f"{'nothing' if get.found is None else get.found}, possible: {', '.join(answers)}"
    )
