"""The exceptions that zkv raises, in one tree.

    ZkvError
    ├── UsageError (also ValueError)   the caller's mistake: a bad key, value, argument; nothing was sent
    │   └── SettingError               a setting out of its bounds, or at odds with another
    ├── WrongType (also TypeError)     `incr` of what is no number, `append` to another type, a raw read of no bytes
    ├── TooLarge (also ValueError)     the result of `incr` or `append` would not fit; nothing was changed
    ├── Unavailable                    nobody can serve this now; trying later may succeed
    │   ├── ManagerUnreachable         no answer from the manager
    │   ├── NotFormed                  the manager still waits for nodes to join
    │   └── ShardUnavailable           the key's shard has no active primary
    ├── TimedOut                       the deadline passed; look at `outcome_unknown`
    ├── OutOfMemory                    the node has no room for this write; nothing was changed
    ├── WatchLost                      what a watch has missed is not remembered any more
    ├── LockLost                       somebody else may hold the lock by now
    ├── ProtocolError                  a peer sent what the protocol does not allow
    └── ClosedError                    the client was closed

A missing key is none of them: `get` returns None or the default. Catch `ZkvError` for everything. What a writer has to
know after an error is whether the write may have been done: that is `error.outcome_unknown`, which every class has
(SAFETY 25). It is False only when it is certain that the write was not done and never will be. `endpoint`, `shard` and
`tries` say where the operation went, as far as it got.
"""

from __future__ import annotations

__all__ = [
    "ClosedError",
    "LockLost",
    "ManagerUnreachable",
    "NotFormed",
    "OutOfMemory",
    "ProtocolError",
    "SettingError",
    "ShardUnavailable",
    "TimedOut",
    "TooLarge",
    "Unavailable",
    "UsageError",
    "WatchLost",
    "WrongType",
    "ZkvError",
]


class ZkvError(Exception):
    """The root of all that zkv raises.

    `outcome_unknown`: True where a write that met this error may still have taken effect, or may yet do so.
    `endpoint`: of the node that was asked, or would have been (`tcp://HOST:PORT`); None where it did not come to that.
    `shard`: number of the key's shard, or None. `tries`: how many requests were sent for it.
    """

    def __init__(
        self, message: str, *, outcome_unknown: bool = False, endpoint: str | None = None, shard: int | None = None,
        tries: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
        self.endpoint = endpoint
        self.shard = shard
        self.tries = tries

    def __str__(self) -> str:
        where = [] if self.shard is None else [f"shard {self.shard}"]
        where += [] if self.endpoint is None or self.shard is None else [self.endpoint]
        where += [] if not self.tries else [f"{self.tries} tries" if self.tries > 1 else "1 try"]
        return super().__str__() + (f" ({', '.join(where)})" if where else "")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled by their positional arguments alone; without this the rest would be
        # lost on its way out of a worker process, and "unknown" would be read as "not done".
        return (type(self), self.args, dict(vars(self)))


class UsageError(ZkvError, ValueError):
    """A key, value or argument that zkv does not take. Raised before anything is sent."""


class SettingError(UsageError):
    """A setting outside its bounds, or settings that contradict each other. The message names them."""


class WrongType(ZkvError, TypeError):
    """The stored value is of another type than the operation works on, or than a raw client reads. Nothing was changed.
    """


class TooLarge(ZkvError, ValueError):
    """The result would not fit into 64 bits, or the limit of a value. Nothing was changed."""


class OutOfMemory(ZkvError):
    """The key's primary has no room for this write within its memory limit. Nothing was changed; reads and deletes go
    on.

    `used_bytes`: what the node's entries take, as it accounts for them. `limit_bytes`: what they may take.
    """

    def __init__(
        self, message: str, *, used_bytes: int = 0, limit_bytes: int = 0, outcome_unknown: bool = False,
        endpoint: str | None = None, shard: int | None = None, tries: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(message, outcome_unknown=outcome_unknown, endpoint=endpoint, shard=shard, tries=tries)
        self.used_bytes = used_bytes
        self.limit_bytes = limit_bytes


class WatchLost(ZkvError):
    """What happened after a watch's position is not remembered any more: it was away for too long, or too slow.

    Nothing that the watch delivered before was wrong; what comes after it has to be read anew.
    """


class LockLost(ZkvError):
    """A lock is no longer held: its time ran out, and somebody else may hold it by now."""


class Unavailable(ZkvError):
    """Nobody can serve the request now."""


class ManagerUnreachable(Unavailable):
    """The manager did not answer in time."""


class NotFormed(Unavailable):
    """The cluster has not formed: the manager still waits for nodes to join."""


class ShardUnavailable(Unavailable):
    """The shard of this key has no primary that serves."""


class TimedOut(ZkvError):
    """The request's deadline passed.

    Unlike the others this one assumes the worst unless told otherwise: a request that left the client
    and was not answered may have been done.
    """

    def __init__(
        self, message: str, *, outcome_unknown: bool = True, endpoint: str | None = None, shard: int | None = None,
        tries: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(message, outcome_unknown=outcome_unknown, endpoint=endpoint, shard=shard, tries=tries)


class ProtocolError(ZkvError):
    """A peer sent something that the protocol does not allow."""


class ClosedError(ZkvError):
    """The client is closed."""
