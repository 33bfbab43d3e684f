"""The exceptions that zkv raises, in one tree.

    ZkvError
    ├── UsageError (also ValueError)   the caller's mistake: a bad key, value, argument; nothing was sent
    │   └── SettingError               a setting out of its bounds, or at odds with another
    ├── Unavailable                    nobody can serve this now; trying later may succeed
    │   ├── ManagerUnreachable         no answer from the manager
    │   ├── NotFormed                  the manager still waits for nodes to join
    │   └── ShardUnavailable           the key's shard has no active primary
    ├── TimedOut                       the deadline passed; look at `outcome_unknown`
    ├── ProtocolError                  a peer sent what the protocol does not allow
    └── ClosedError                    the client was closed

Catch `ZkvError` for everything. What a writer has to know after an error is whether the write may
have been done: that is `error.outcome_unknown`, which every class has (SAFETY 25). It is False only
when it is certain that the write was not done and never will be.
"""

from __future__ import annotations

__all__ = [
    "ClosedError",
    "ManagerUnreachable",
    "NotFormed",
    "ProtocolError",
    "SettingError",
    "ShardUnavailable",
    "TimedOut",
    "Unavailable",
    "UsageError",
    "ZkvError",
]


class ZkvError(Exception):
    """The root of all that zkv raises.

    `outcome_unknown`: True where a write that met this error may still have taken effect, or may yet do so.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled by their positional arguments alone; without this the flag would be
        # lost on its way out of a worker process, and "unknown" would be read as "not done".
        return (type(self), self.args, {"outcome_unknown": self.outcome_unknown})


class UsageError(ZkvError, ValueError):
    """A key, value or argument that zkv does not take. Raised before anything is sent."""


class SettingError(UsageError):
    """A setting outside its bounds, or settings that contradict each other. The message names them."""


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

    def __init__(self, message: str, *, outcome_unknown: bool = True) -> None:
        super().__init__(message, outcome_unknown=outcome_unknown)


class ProtocolError(ZkvError):
    """A peer sent something that the protocol does not allow."""


class ClosedError(ZkvError):
    """The client is closed."""
