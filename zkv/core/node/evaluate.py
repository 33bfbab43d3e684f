"""What each operation makes of an entry: pure functions of the entry and the operation's arguments (SAFETY 9).

The primary evaluates, and replicates what came of it: backups never see a condition or an increment. Whatever depends
on the former state says so in its status, version or result, and is therefore an answer that waits for the commit of
what it saw.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, Final, NamedTuple

from zkv.core import wire

INT_LOW: Final = -(2**63)
INT_HIGH: Final = 2**64 - 1
MISSING_VERSION: Final = 0
"""The version of a key that was never written; as a condition, of any key that does not exist."""


class Outcome(NamedTuple):
    """What became of one operation."""

    status: int = wire.OK
    """OK, or one of `wire.FAILED`: then nothing changes."""
    changes: bool = False
    """Whether the entry gets a new version, with `value`."""
    value: Any = None
    """The new value; None: a tombstone."""
    result: Any = None
    """What the caller is told besides the version."""
    expires_ms: int = 0
    """When the new entry expires, in cluster time; 0: never."""


UNMET: Final = Outcome(wire.UNMET)
WRONG_TYPE: Final = Outcome(wire.WRONG_TYPE)
TOO_LARGE: Final = Outcome(wire.TOO_LARGE)
BURIED: Final = Outcome(changes=True)



class Asked(NamedTuple):
    """What an operation brings along."""

    value: Any
    operand: int
    expires_ms: int
    """When what it writes is to expire, in cluster time; 0: never."""
    limit_bytes: int
    """Of a value."""
    now_ms: int
    """Cluster time."""


Evaluation = Callable[[int, Any, int, Asked], Outcome]
"""Version, value (None: missing) and expiry of the entry, and what is asked of it."""
FOR_EVER: Final = -1
"""What `TTL` says of an entry without an expiry."""


def _written(asked: Asked, result: Any = None) -> Outcome:
    return Outcome(changes=True, value=asked.value, result=result, expires_ms=asked.expires_ms)


def _get(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    return Outcome(result=value)


def _exists(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    return Outcome(result=value is not None)


def _put(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    return _written(asked)


def _put_if_absent(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    return _written(asked) if value is None else UNMET


def _put_if_present(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    return UNMET if value is None else _written(asked)


def is_version(version: int, value: Any, operand: int) -> bool:
    """Whether an entry has the version that a condition names. A missing key has its tombstone's, while that is kept,
    and always `MISSING_VERSION` (SAFETY 10)."""
    return version == operand or (value is None and operand == MISSING_VERSION)


def _put_if_version(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    return _written(asked) if is_version(version, value, asked.operand) else UNMET


def _delete(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    return UNMET if value is None else BURIED


def _delete_if_version(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    return BURIED if value is not None and version == asked.operand else UNMET


def _incr(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    given = asked.value
    if value is None:
        value = 0
    if type(value) not in (int, float) or type(given) not in (int, float):
        return WRONG_TYPE
    try:
        total = value + given
    except OverflowError:  # an int beyond all floats plus a float
        return TOO_LARGE
    if not (INT_LOW <= total <= INT_HIGH if type(total) is int else isfinite(total)):
        return TOO_LARGE
    return Outcome(changes=True, value=total, result=total, expires_ms=expires_ms)


def _append(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    given, limit_bytes = asked.value, asked.limit_bytes
    if type(given) not in (str, bytes) or (value is not None and type(value) is not type(given)):
        return WRONG_TYPE
    whole = given if value is None else value + given
    length = len(whole)
    if length > limit_bytes or (type(whole) is str and 4 * length > limit_bytes < len(whole.encode())):
        return TOO_LARGE
    return Outcome(changes=True, value=whole, result=length, expires_ms=expires_ms)


def _getset(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    return _written(asked, value)


def _touch(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    return UNMET if value is None else Outcome(changes=True, value=value, expires_ms=asked.expires_ms)


def _ttl(version: int, value: Any, expires_ms: int, asked: Asked) -> Outcome:
    if value is None:
        return Outcome()
    return Outcome(result=max(0, expires_ms - asked.now_ms) if expires_ms else FOR_EVER)


EVALUATIONS: Final[dict[int, Evaluation]] = {
    wire.GET: _get,
    wire.EXISTS: _exists,
    wire.PUT: _put,
    wire.PUT_IF_ABSENT: _put_if_absent,
    wire.PUT_IF_PRESENT: _put_if_present,
    wire.PUT_IF_VERSION: _put_if_version,
    wire.DELETE: _delete,
    wire.DELETE_IF_VERSION: _delete_if_version,
    wire.INCR: _incr,
    wire.APPEND: _append,
    wire.GETSET: _getset,
    wire.TOUCH: _touch,
    wire.TTL: _ttl,
}
BLIND: Final = frozenset((wire.PUT,))
"""Operations whose answer says nothing of the former state."""
