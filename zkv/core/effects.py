"""What the manager asks its host to do, in order; and what it gets back of its former incarnation.

The order of a list of effects is a promise: a `Persist` is durable before anything behind it leaves the
process (SAFETY 1). A host that dies between two effects has therefore never told anyone what its successor
will not know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import Delta, ShardMap


@dataclass(frozen=True, slots=True)
class Stored:
    """The manager's durable state."""

    cluster: int
    settings: ClusterSettings
    map: ShardMap


def applied(stored: Stored | None, persist: Persist) -> Stored:
    """What the durable state holds after `persist`. Raises ValueError if it does not follow on `stored`."""
    if persist.created is not None:
        if stored is not None:
            raise ValueError("the state holds a cluster already")
        stored = persist.created
    if stored is None:
        raise ValueError("the state holds no cluster yet")
    if persist.delta is not None:
        stored = replace(stored, map=stored.map.with_changes(persist.delta))
    return stored


class Send(NamedTuple):
    """Send `frame` to the peer that `route` names. Best effort: peers ask again."""

    route: bytes
    frame: bytes


class Publish(NamedTuple):
    """Publish `frame` to all who listen. Best effort: whoever misses it sees a gap and pulls the map."""

    frame: bytes


class Persist(NamedTuple):
    """Make this durable before anything behind it: a new cluster (`created`), or a change of the map
    (`delta`)."""

    delta: Delta | None
    created: Stored | None = None


class Probe(NamedTuple):
    """Try a TCP connection to `endpoint`, the own port of `boot`, and report whether it was refused (SAFETY
    32).

    A host that may not take a refusal for proof, because the endpoint is on another machine, drops the
    request.
    """

    boot: int
    endpoint: str


class Note(NamedTuple):
    """Something an operator wants to read: one line, without a time."""

    text: str


Effect = Send | Publish | Persist | Probe | Note
