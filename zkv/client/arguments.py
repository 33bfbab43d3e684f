"""Arguments of operations, checked: what is wrong with one raises UsageError before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from zkv.client.results import Key
from zkv.core import wire
from zkv.errors import UsageError
from zkv.values import KEY_LIMIT_BYTES, check_keys

TTL_LIMIT_S: Final = 100 * 366 * 86400
"""Longest time to live; nobody would notice the difference to none."""
READ_OPS: Final = {"primary": wire.GET, "any": wire.GET_ANY, "stale": wire.GET_STALE}


def read_op(read: str) -> int:
    """The operation for a way of reading. Raises UsageError."""
    if read not in READ_OPS:
        raise UsageError(f'read is {read!r}, it must be "primary", "any" or "stale"')
    return READ_OPS[read]


def ack_level(ack: str | None) -> int:
    """The wire's number for an acknowledgement level. Raises UsageError."""
    if ack is None:
        return wire.ACK_DEFAULT
    if ack not in wire.ACK_LEVELS:
        raise UsageError(f'ack is {ack!r}, it must be "all" or "primary"')
    return wire.ACK_LEVELS[ack]


def checked(key: Key) -> Key:
    """The key. Raises UsageError for what is none."""
    if type(key) is not str or not key.isascii() or len(key) > KEY_LIMIT_BYTES:
        check_keys((key,))
    return key


def checked_keys(keys: Sequence[Key]) -> Sequence[Key]:
    """A copy of the keys. Raises UsageError."""
    if isinstance(keys, str | bytes):
        raise UsageError(f"keys are a sequence of keys, not one: write [{keys!r}]")
    keys = list(keys)  # the caller's may change before the call is over
    check_keys(keys)
    return keys


def lifetime_ms(ttl_s: float | None, *, required: bool = False) -> int:
    """A time to live as it travels; 0: for ever. Raises UsageError."""
    if ttl_s is None and not required:
        return 0
    if not isinstance(ttl_s, int | float) or not 0.001 <= ttl_s <= TTL_LIMIT_S:
        raise UsageError(
            f"ttl_s is {ttl_s!r}: it must be a number of seconds from 0.001 to {TTL_LIMIT_S}; "
            + ("persist() has a key stay for ever" if required else "without it the key stays for ever")
        )
    return round(1000 * ttl_s)


def checked_version(version: Any) -> int:
    """The version. Raises UsageError for what is none."""
    if type(version) is not int or not 0 <= version < 2**64:
        raise UsageError(f"a version is a number that a read or a write returned, not {version!r}")
    return version


def condition_of(if_absent: bool, if_present: bool, if_version: int | None) -> tuple[int, int | None]:
    """The operation and the operand of a put under a condition. Raises UsageError for more than one."""
    given = bool(if_absent) + bool(if_present) + (if_version is not None)
    if given > 1:
        raise UsageError("choose one of if_absent, if_present and if_version")
    if if_absent:
        return wire.PUT_IF_ABSENT, None
    if if_present:
        return wire.PUT_IF_PRESENT, None
    return (wire.PUT, None) if if_version is None else (wire.PUT_IF_VERSION, checked_version(if_version))
