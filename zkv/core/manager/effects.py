"""What the manager asks its host to do, in order; and what it gets back of its former incarnation.

The order of a list of effects is a promise: a `Persist` or an `Event` is durable before anything behind it leaves the
process (SAFETY 1). A host that dies between two effects has therefore never told anyone what its successor will not
know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import Delta, ShardMap


class Event(NamedTuple):
    """Something an operator wants to know, now and later: a line for the log and a row of the durable event log."""

    kind: str
    """One of `events.KINDS`."""
    text: str
    """One line, without a time."""
    data: Mapping[str, Any] = {}
    """The same for programs: plain values by name."""
    number: int = 0
    """From 1 on, without gaps; never given out twice."""
    time_ms: int = 0
    """Wall clock, Unix time; 0 where the host did not tell it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The manager's durable state."""

    cluster: int
    settings: ClusterSettings
    map: ShardMap
    layout: str = ""
    """The operator's placement that was accepted last; empty where placement is the manager's own."""
    resets: int = 0
    """Shards that were re-created empty since the formation."""
    events: tuple[Event, ...] = ()
    """The newest ones, oldest first, as far as the host keeps them."""
    filled: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """By shard, the learners reported filled under its present epoch (SAFETY 22)."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """By name, what a node's weight is multiplied with for want of memory (`pressure`)."""


class Persist(NamedTuple):
    """Make this durable before anything behind it: a new cluster, a change of the map, the operator's placement, who
    was reported filled, and the factors of the weights."""

    delta: Delta | None
    created: Stored | None = None
    layout: str | None = None
    """None: it stays what it was."""
    filled: Mapping[int, frozenset[int]] = {}
    """By shard, learners reported filled under the epoch that it has after `delta`: they are added."""
    factors: Mapping[str, float] | None = None
    """None: they stay what they were."""


def applied(stored: Stored | None, persist: Persist) -> Stored:
    """What the durable state holds after `persist`. Raises ValueError if it does not follow on `stored`."""
    if persist.created is not None:
        if stored is not None:
            raise ValueError("the state holds a cluster already")
        stored = persist.created
    if stored is None:
        raise ValueError("the state holds no cluster yet")
    if persist.layout is not None:
        stored = replace(stored, layout=persist.layout)
    if persist.factors is not None:
        stored = replace(stored, factors=dict(persist.factors))
    if persist.delta is not None:
        before = stored.map
        resets = resets_in(before, persist.delta)
        kept = {number: boots for number, boots in stored.filled.items() if number not in persist.delta.shards}
        after = before.with_changes(persist.delta)
        stored = replace(stored, map=after, resets=stored.resets + resets, filled=kept)
    if persist.filled:
        more = {number: boots | stored.filled.get(number, frozenset()) for number, boots in persist.filled.items()}
        stored = replace(stored, filled={**stored.filled, **more})
    return stored


def resets_in(before: ShardMap, delta: Delta) -> int:
    """How many shards `delta` re-creates empty."""
    if not before.shards:
        return 0
    return sum(shard.born != before.shards[number].born for number, shard in delta.shards.items())


class Send(NamedTuple):
    """Send `frame` to the peer that `route` names. Best effort: peers ask again."""

    route: bytes
    frame: bytes


class Publish(NamedTuple):
    """Publish `frame` to all who listen. Best effort: whoever misses it sees a gap and pulls the map."""

    frame: bytes


class Probe(NamedTuple):
    """Try a TCP connection to `endpoint`, the own port of `boot`, and report whether it was refused (SAFETY 32).

    A host that may not take a refusal for proof, because the endpoint is on another machine, drops the request.
    """

    boot: int
    endpoint: str


Effect = Send | Publish | Persist | Probe | Event
