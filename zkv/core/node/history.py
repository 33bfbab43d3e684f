"""What was applied lately, kept by batch, so that watches can be told of it, here and after a failover.

Every replica keeps it, primary or backup: a watch that goes on at another node finds there what it has not seen. It
costs nothing per operation: a part is appended as the columns it already is. Parts lie in *segments*; when there are
too many the oldest goes as a whole. Each segment knows the positions of all shards at its beginning, so it is known,
shard by shard, from which version on nothing is missing: the *floor*. Below it a watch is lost (`WatchLost`). A copy
that is filled inherits the history of whoever fills it, so watches survive that shards move.

For shards that are being watched the events are also kept by shard (*tracks*), within the same bounds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from operator import attrgetter
from typing import Any, Final, NamedTuple

from zkv.core import wire
from zkv.core.node.sizes import size_of
from zkv.core.node.tails import Part

SEGMENTS: Final = 8
FORGOTTEN_AT_ONCE: Final = 2048
"""Rows of a segment that has gone that are let go with each part that comes: to free all at once takes milliseconds."""
ROW_BYTES: Final = 200
"""About what a row keeps alive besides its value: key, version, places in columns."""
SYSTEM: Final = 0
"""The client of outcomes that no client asked for: expiries and evictions. Their batch says which, as an event kind."""


class Event(NamedTuple):
    """Something that happened to a key."""

    version: int
    kind: int
    """`wire.PUT_EVENT` …"""
    key: str | bytes
    value: Any
    expires_ms: int


class _Segment:
    """Parts that followed on each other."""

    __slots__ = ("bytes", "first", "floors", "parts")

    def __init__(self, first: int, floors: dict[int, int]) -> None:
        self.first = first
        """Number of its first part."""
        self.floors = floors
        """Position of each shard before it."""
        self.parts: list[Part] = []
        self.bytes = 0


class _Inheritance:
    """What is known of a shard from before its present copy."""

    __slots__ = ("bytes", "events", "floor")

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.events: list[Event] = []
        self.bytes = 0


_version_of: Final = attrgetter("version")


class Track:
    """The events of one shard, oldest first, from a floor on."""

    __slots__ = ("events", "floor", "used_ms")

    def __init__(self, floor: int, now_ms: float) -> None:
        self.floor = floor
        self.events: list[Event] = []
        self.used_ms = now_ms

    def after(self, version: int) -> Iterator[Event]:
        """The events after a version, at a cost that does not depend on how many there are before it."""
        first = bisect_right(self.events, version, key=_version_of)
        return (self.events[place] for place in range(first, len(self.events)))


class History:
    """The last parts that this node applied, in their order, at most about `limit_bytes` of them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._segment_bytes = max(1, limit_bytes // SEGMENTS)
        self._segments: deque[_Segment] = deque()
        self._gone: list[Part] = []
        """Parts that are no longer known, until they are freed."""
        self._count = 0
        """Parts so far."""
        self._begun: dict[int, tuple[int, int]] = {}
        """shard -> (number of the part, version) from which on its present copy has a history."""
        self._inherited: dict[int, _Inheritance] = {}
        """By shard, what was told of the time before its present copy."""
        self._inherited_bytes = 0
        self.tracks: dict[int, Track] = {}
        self.touched: set[int] = set()
        """Tracked shards that got events since somebody looked."""

    def before(self, positions: dict[int, int]) -> None:
        """A part is about to be applied: begin a segment if it is time, with the positions as they are."""
        if not self._segments or self._segments[-1].bytes >= self._segment_bytes:
            self._segments.append(_Segment(self._count, dict(positions)))
            if len(self._segments) > SEGMENTS:
                self._gone += self._segments.popleft().parts
                self._trim()
        left = FORGOTTEN_AT_ONCE
        while self._gone and left > 0:
            left -= len(self._gone.pop().shards)

    def add(self, part: Part, value_bytes: int) -> None:
        """A part was applied."""
        segment = self._segments[-1]
        segment.parts.append(part)
        segment.bytes += value_bytes + ROW_BYTES * len(part.shards)
        self._count += 1
        if self.tracks and not self.tracks.keys().isdisjoint(part.shards):
            self._track(part, self.tracks)

    @property
    def count(self) -> int:
        """How many parts were applied so far."""
        return self._count

    def since(self, number: int) -> Iterator[Part]:
        """The parts from that number on, as far as they are remembered."""
        for segment in self._segments:
            yield from segment.parts[max(0, number - segment.first) :]

    def begin(self, shard: int, version: int) -> None:
        """The copy of `shard` was cleared, or begins anew: nothing before `version` is known of it."""
        self._begun[shard] = self._count, version
        self._disinherit(shard)
        track = self.tracks.pop(shard, None)
        if track is not None:
            self.touched.add(shard)  # whoever waits for it is to look again

    def floor(self, shard: int) -> int:
        """The version after which every event of `shard` is known."""
        number, version = self._begun.get(shard, (0, 0))
        if not self._reaches_back_to(number):
            return max(version, self._segments[0].floors[shard])
        inherited = self._inherited.get(shard)
        return version if inherited is None else inherited.floor

    def _reaches_back_to(self, number: int) -> bool:
        """Whether every part from that number on is remembered."""
        return not self._segments or self._segments[0].first <= number

    def inherit(self, shard: int, floor: int, events: Iterable[Event]) -> None:
        """The history of a shard before its present copy began, or a piece of it, from whoever fills us: all that lies
        above `floor`. All of it takes no more than our own: of what is too much the older half goes."""
        number, version = self._begun.get(shard, (0, 0))
        if floor >= version or not self._reaches_back_to(number):
            return  # there is nothing before this copy's beginning, or it is forgotten itself
        inherited = self._inherited.setdefault(shard, _Inheritance(floor))
        for event in events:
            if inherited.floor < event.version <= version:
                inherited.events.append(event)
                size = ROW_BYTES + size_of(event.value)
                inherited.bytes += size
                self._inherited_bytes += size
        while self._inherited_bytes > self._limit_bytes:
            self._shorten(max(self._inherited, key=lambda one: self._inherited[one].bytes))

    def _shorten(self, shard: int) -> None:
        """Forget the older half of what was inherited of a shard."""
        inherited = self._inherited[shard]
        forgotten = inherited.events[: (len(inherited.events) + 1) // 2]
        size = sum(ROW_BYTES + size_of(event.value) for event in forgotten)
        inherited.floor = forgotten[-1].version
        del inherited.events[: len(forgotten)]
        inherited.bytes -= size
        self._inherited_bytes -= size

    def _disinherit(self, shard: int) -> None:
        inherited = self._inherited.pop(shard, None)
        if inherited is not None:
            self._inherited_bytes -= inherited.bytes

    def past(self, shards: Collection[int]) -> Iterator[tuple[list[tuple[int, Event]], int]]:
        """For whoever is filled with these: what is known of them now, oldest first, and how many rows were looked at
        for it. What is trimmed meanwhile is kept until the end."""
        inherited = [(shard, self._inherited[shard].events) for shard in shards if shard in self._inherited]
        numbered = (enumerate(segment.parts, segment.first) for segment in self._segments)
        parts = [row for rows in numbered for row in rows]
        begun = {shard: self._begun.get(shard, (0, 0))[0] for shard in shards}
        for shard, events in inherited:
            yield [(shard, event) for event in events], len(events)
        for number, part in parts:
            if begun.keys().isdisjoint(part.shards):
                yield [], 1
            else:
                rows = [row for row in _events(part) if number >= begun.get(row[0], self._count)]
                yield rows, len(part.shards)

    def track(self, tokens: Mapping[int, int], now_ms: float) -> None:
        """Keep the events of these shards, each at least from a version on, as far as they are known."""
        lacking = {}
        for shard, token in tokens.items():
            known, floor = self.tracks.get(shard), self.floor(shard)
            if known is None or (token < known.floor and floor < known.floor):
                lacking[shard] = Track(max(floor, token), now_ms)
            else:
                known.used_ms = now_ms
        if not lacking:
            return
        for shard, track in lacking.items():
            inherited = self._inherited.get(shard)
            if inherited is not None:
                track.events += [event for event in inherited.events if event.version > track.floor]
                self.touched.add(shard)
        for place, segment in enumerate(self._segments):
            after = next(iter(islice(self._segments, place + 1, None)), None)
            if after is not None and all(after.floors[shard] <= track.floor for shard, track in lacking.items()):
                continue  # nothing that is asked for lies in this segment
            for number, part in enumerate(segment.parts, segment.first):
                if not lacking.keys().isdisjoint(part.shards):
                    self._track(part, lacking, number)
        self.tracks.update(lacking)

    def untrack(self, before_ms: float) -> None:
        """Stop for those that nobody has asked for since then."""
        for shard in [shard for shard, track in self.tracks.items() if track.used_ms < before_ms]:
            del self.tracks[shard]

    def _track(self, part: Part, tracks: dict[int, Track], number: int | None = None) -> None:
        """Put the events of a part where they belong. `number`: of an old part, which may be of a former copy."""
        for row in _events(part):
            shard, event = row
            track = tracks.get(shard)
            if track is None or (number is not None and number < self._begun.get(shard, (0, 0))[0]):
                continue
            if event.version > track.floor:
                track.events.append(event)
                self.touched.add(shard)

    def _trim(self) -> None:
        """The oldest segment has gone: so do the events that came by it, and what lay before them."""
        for shard in [shard for shard in self._inherited if not self._reaches_back_to(self._begun[shard][0])]:
            self._disinherit(shard)
        for shard, track in self.tracks.items():
            track.floor = max(track.floor, self.floor(shard))
            del track.events[: bisect_right(track.events, track.floor, key=_version_of)]


def _events(part: Part) -> Iterator[tuple[int, Event]]:
    removal = part.batch if part.client == SYSTEM else wire.DELETE_EVENT
    expiries = part.expiries or (0,) * len(part.shards)
    for shard, version, key, value, expires_ms in zip(
        part.shards, part.versions, part.keys, part.values, expiries, strict=True
    ):
        kind = removal if value is None else wire.PUT_EVENT
        yield shard, Event(version, kind, key, value, expires_ms)
