"""Watches: telling clients what was committed under a prefix, as soon as it is, without a buffer for each of them.

A client asks with a *token* for each shard, the version up to which it has seen everything, and the question waits here
until there is something newer (a long poll). Nothing else is kept of a watch: what it is told comes from the history
that every replica keeps anyway, so a slow watcher costs nothing, and one whose node has died asks the next with the
same tokens. If the history does not reach back to a token the answer says that it is gone, instead of leaving a gap.

Events are told once they are committed, in the order of versions within a shard, so in order for each key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from zkv.core import wire
from zkv.core.node.history import Event
from zkv.core.node.local import Local
from zkv.core.node.replies import Held
from zkv.core.node.serving import Serving
from zkv.core.node.sizes import size_of

WAIT_MS: Final = 300.0
"""How long a question waits for something to tell: less than a client's patience with a silent node."""
MARGIN_MS: Final = 50.0
"""It is answered so long before its deadline."""
POLLS_LIMIT: Final = 4096
"""Questions that wait; further ones are turned away."""
REPLY_BYTES: Final = 1024 * 1024
REPLY_EVENTS: Final = 4096
IDLE_MS: Final = 5000.0
"""Shards that nobody has asked for in so long are tracked no more."""

Key = str | bytes


class Poll:
    """One question that waits."""

    __slots__ = ("held", "places", "prefixes", "tokens", "until_ms")

    def __init__(self, held: Held, prefixes: Sequence[Key], tokens: Sequence[int], until_ms: float) -> None:
        self.held = held
        self.prefixes = prefixes
        self.tokens = list(tokens)
        self.until_ms = until_ms
        self.places: dict[int, list[int]] = {}
        """shard -> positions in the request."""
        for place, shard in enumerate(held.shards):
            self.places.setdefault(shard, []).append(place)


class Watching:
    """All watches of one node."""

    def __init__(self, local: Local, serving: Serving) -> None:
        self.local = local
        self.serving = serving
        self._polls: dict[Poll, None] = {}

    def ask(self, held: Held, prefixes: Sequence[Key], tokens: Sequence[int]) -> None:
        """A WATCH on shards that are all served here: answer it, or let it wait."""
        local, history = self.local, self.local.history
        held.versions, held.values = list(tokens), [None] * len(tokens)
        if wire.NOW in tokens:
            waits: dict[Any, int] = {}
            for place, (shard, token) in enumerate(zip(held.shards, tokens, strict=True)):
                held.versions[place] = self.begin(waits, shard, token)
            self.serving.hold(held, waits)
            return
        until_ms = min(local.now_ms + WAIT_MS, held.deadline_ms - MARGIN_MS)
        poll = Poll(held, prefixes, tokens, until_ms)
        history.track({shard: min(tokens[at] for at in places) for shard, places in poll.places.items()}, local.now_ms)
        if self._tell(poll, poll.places) or len(self._polls) >= POLLS_LIMIT or until_ms <= local.now_ms:
            self._answer(poll)
        else:
            self._polls[poll] = None

    def begin(self, waits: dict[Any, int], shard: int, token: int) -> int:
        """The token for a watch that begins here and now, or the one that it has; `waits`: for the commit of what lies
        before it."""
        if token != wire.NOW:
            return token
        self.serving.depend_on_all(waits, shard)
        return max(self.local.store.positions[shard], self.local.history.floor(shard))

    @property
    def busy(self) -> bool:
        """Whether somebody waits for events, or did a moment ago."""
        return bool(self._polls or self.local.history.tracks)

    def advance(self, wake: Callable[[float], None]) -> None:
        """End of a turn: answer who has something to be told, or has waited for long enough."""
        local, history = self.local, self.local.history
        touched, history.touched = history.touched, set()
        left, self.serving.left = self.serving.left, set()
        for poll in list(self._polls):
            told = self._tell(poll, touched & poll.places.keys()) if touched else False
            if told or local.now_ms >= poll.until_ms or not left.isdisjoint(poll.places):
                del self._polls[poll]
                self._answer(poll)
            else:
                wake(poll.until_ms)
        for shard in touched:
            track = history.tracks.get(shard)
            if track is not None and track.events and track.events[-1].version > self.committed(shard):
                history.touched.add(shard)
        if history.tracks:
            history.untrack(local.now_ms - IDLE_MS)

    def committed(self, shard: int) -> int:
        """The version up to which we know the shard to be committed."""
        group = self.serving.group_of[shard]
        known = self.local.store.committed[shard]
        if group is None or shard not in self.serving.active:
            return known
        return max(known, self.serving.bases[shard] + group.committed)

    def _tell(self, poll: Poll, shards: Any) -> bool:
        """Put what is new of these shards into the answer; whether there is anything."""
        told = False
        room = REPLY_BYTES
        for shard in shards:
            for place in poll.places[shard]:
                if room > 0 and (size := self._tell_one(poll, shard, place)):
                    told = True
                    room -= size
        return told

    def _tell_one(self, poll: Poll, shard: int, place: int) -> int:
        """The news for one operation; returns their size, 0: there are none."""
        held, track = poll.held, self.local.history.tracks.get(shard)
        token = poll.tokens[place]
        if track is None or token < track.floor:
            held.set_status(place, wire.GONE)
            return 1
        committed, prefix = self.committed(shard), poll.prefixes[place]
        kind = type(prefix)
        found: list[Event] = []
        size = 0
        told_all = True
        for event in track.after(token):
            if event.version > committed:
                break
            token = event.version
            if type(event.key) is kind and event.key.startswith(prefix):  # type: ignore[arg-type]
                found.append(event)
                size += 1 + size_of(event.key) + size_of(event.value)
                if size >= REPLY_BYTES or len(found) >= REPLY_EVENTS:
                    told_all = False
                    break
        # Nothing else lies up to the commit point, so quiet shards move along as well: a copy that is made later knows
        # nothing of what is further back.
        poll.tokens[place] = held.versions[place] = max(token, committed) if told_all else token
        if found:
            assert held.values is not None
            versions, kinds, keys, values, expiries = zip(*found, strict=True)
            held.values[place] = [
                wire.pack_u64(versions), bytes(kinds), keys, values, wire.pack_u64(expiries)
            ]  # fmt: skip
        return size

    def _answer(self, poll: Poll) -> None:
        """Send what there is. Of shards that are served no more nothing is claimed but what was committed here."""
        local, held = self.local, poll.held
        for shard, places in poll.places.items():
            if shard in self.serving.active:
                for place in places:
                    if held.values is not None and held.values[place] is None:
                        self._tell_one(poll, shard, place)
            else:
                for place in places:
                    if held.values is not None and held.values[place] is None:
                        held.set_status(place, wire.NOT_READY)
        local.send_packed(held.route, wire.REPLY, held.body(local.now_ms))
