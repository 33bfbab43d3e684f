"""What a client is opened with, checked once for both faces."""

from __future__ import annotations

from textwrap import dedent
from typing import Any, Final

from zkv.client.arguments import READ_OPS, ack_level, read_op
from zkv.core.settings import DEFAULT_MANAGER, ClusterSettings
from zkv.errors import UsageError
from zkv.values import RAW, TYPED, Codec

COUNTED: Final = ("requests", "operations", "retries", "hedges", "hedged operations")
"""What `stats` tells."""
TIMEOUT_LIMIT_S: Final = 120.0
"""Longest deadline of a call: replicas remember a write for longer than that (`session_ttl_ms`)."""


class Configured:
    """A face of one cluster.

    Args:
        manager: endpoint of the manager, `tcp://HOST:PORT`.
        timeout_s: default deadline of a call, in seconds, over all its tries; at most 120.
        read: "primary"; "any": reads go to any in-sync replica, which answers where it holds a read lease and knows
            that what it shows is committed, and sends the client to the primary otherwise (both are linearizable); or
            "stale": any in-sync replica answers with a committed value, which need not be the newest.
        hedge: for "any" and "stale": ask a second replica where a read is later than usual; at most 5 % more reads.
        sticky: for "any" and "stale": prefer the same replica of a key always, while it answers.
        ack: "all": a write is acknowledged once every in-sync replica has it; "primary": once its primary has it, whose
            crash may then lose it, and nobody reads it before all have it. None: as the cluster is set.
        raw: values are bytes-like objects, and come back as bytes, untouched: for programs with their own encoding.
        subscribe: listen to map changes. Without it the client asks the manager when a node does not answer.

    `read`, `ack` and `timeout_s` can also be given with each call. Nothing is sent before the first call, and the
    manager is needed only to learn the map.

    Raises (all calls):
        UsageError: a key, value or argument that zkv does not take; nothing was sent.
        ManagerUnreachable, NotFormed: no map within the deadline.
        ShardUnavailable: every copy of a key's shard is gone or silent.
        TimedOut: the deadline passed.
        ClosedError: after `close`.
    After a failed write `error.outcome_unknown` says whether it may have been done all the same.
    """

    def __init__(
        self, manager: str = DEFAULT_MANAGER, timeout_s: float = 5.0, *, read: str = "primary", hedge: bool = False,
        sticky: bool = False, ack: str | None = None, raw: bool = False, subscribe: bool = True,
    ) -> None:  # fmt: skip
        read_op(read)
        self.manager = manager
        self.timeout_s = checked_timeout(timeout_s)
        self._read = read
        self._ack = ack_level(ack)
        self._hedge, self._sticky, self._subscribe = bool(hedge), bool(sticky), bool(subscribe)
        self._codec: Codec = RAW if raw else TYPED
        self._numbers: Codec = TYPED
        self._closed = False

    def _connection_options(self) -> dict[str, Any]:
        return {"subscribe": self._subscribe, "hedging": self._hedge, "sticky": self._sticky}

    def _deadline_s(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else checked_timeout(timeout_s)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.manager!r}{', closed' if self._closed else ''})"


def documented(intro: str) -> str:
    """The documentation of a face: what is its own, then what it shares with the other."""
    shared = (Configured.__doc__ or "").partition("\n")[2]
    return "\n\n".join(dedent(text).strip() for text in (intro, shared))


def checked_timeout(timeout_s: float) -> float:
    """A deadline that a call may have. Raises UsageError."""
    limit_s = min(TIMEOUT_LIMIT_S, ClusterSettings().timeout_limit_ms / 1000)
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= limit_s:
        raise UsageError(f"timeout_s is {timeout_s!r}, it must be above 0 and at most {limit_s:g} seconds")
    return float(timeout_s)


__all__ = ["COUNTED", "READ_OPS", "TIMEOUT_LIMIT_S", "Configured", "checked_timeout", "documented"]
