"""What each operation makes of an entry (rule 9): a table, and its edges."""

from __future__ import annotations

from typing import Any

import pytest
from msgpack import ExtType

from zkv.core import wire
from zkv.core.node.evaluate import BLIND, EVALUATIONS, FOR_EVER, INT_HIGH, INT_LOW, Asked

LIMIT_BYTES = 8
NOW_MS = 1000
PACKED = ExtType(1, b"\xc0")


def outcome(op: int, version: int, value: Any, given: Any = None, operand: int = 0) -> tuple[int, Any, Any]:
    """(status, what is written: a value, "buried" or "nothing", result)."""
    status, changes, new, result, _ = EVALUATIONS[op](version, value, 0, Asked(given, operand, 0, LIMIT_BYTES, NOW_MS))
    return status, ("buried" if new is None else new) if changes else "nothing", result


def expiry(op: int, value: Any, expires_ms: int, until_ms: int, given: Any = "v", operand: int = 7) -> int | None:
    """The expiry of what is written; None: nothing is."""
    outcome = EVALUATIONS[op](7, value, expires_ms, Asked(given, operand, until_ms, LIMIT_BYTES, NOW_MS))
    return outcome.expires_ms if outcome.changes else None


@pytest.mark.parametrize(
    ("op", "version", "value", "given", "operand", "expected"),
    [
        (wire.GET, 7, "v", None, 0, (wire.OK, "nothing", "v")),
        (wire.GET, 7, None, None, 0, (wire.OK, "nothing", None)),
        (wire.EXISTS, 7, "v", None, 0, (wire.OK, "nothing", True)),
        (wire.EXISTS, 7, None, None, 0, (wire.OK, "nothing", False)),
        (wire.PUT, 0, None, "v", 0, (wire.OK, "v", None)),
        (wire.PUT_IF_ABSENT, 0, None, "v", 0, (wire.OK, "v", None)),
        (wire.PUT_IF_ABSENT, 7, None, "v", 0, (wire.OK, "v", None)),
        (wire.PUT_IF_ABSENT, 7, "old", "v", 0, (wire.UNMET, "nothing", None)),
        (wire.PUT_IF_PRESENT, 7, "old", "v", 0, (wire.OK, "v", None)),
        (wire.PUT_IF_PRESENT, 7, None, "v", 0, (wire.UNMET, "nothing", None)),
        (wire.PUT_IF_VERSION, 7, "old", "v", 7, (wire.OK, "v", None)),
        (wire.PUT_IF_VERSION, 8, "old", "v", 7, (wire.UNMET, "nothing", None)),
        (wire.PUT_IF_VERSION, 8, "old", "v", 0, (wire.UNMET, "nothing", None)),
        (wire.PUT_IF_VERSION, 0, None, "v", 0, (wire.OK, "v", None)),
        (wire.PUT_IF_VERSION, 7, None, "v", 0, (wire.OK, "v", None)),  # 0 stands for any missing key
        (wire.PUT_IF_VERSION, 7, None, "v", 7, (wire.OK, "v", None)),  # the tombstone's
        (wire.PUT_IF_VERSION, 7, None, "v", 6, (wire.UNMET, "nothing", None)),
        (wire.DELETE, 7, "old", None, 0, (wire.OK, "buried", None)),
        (wire.DELETE, 7, None, None, 0, (wire.UNMET, "nothing", None)),
        (wire.DELETE_IF_VERSION, 7, "old", None, 7, (wire.OK, "buried", None)),
        (wire.DELETE_IF_VERSION, 8, "old", None, 7, (wire.UNMET, "nothing", None)),
        (wire.DELETE_IF_VERSION, 7, None, None, 7, (wire.UNMET, "nothing", None)),
        (wire.INCR, 0, None, 5, 0, (wire.OK, 5, 5)),
        (wire.INCR, 7, 2, -5, 0, (wire.OK, -3, -3)),
        (wire.INCR, 7, 2, 0.5, 0, (wire.OK, 2.5, 2.5)),
        (wire.INCR, 7, 2.5, 1, 0, (wire.OK, 3.5, 3.5)),
        (wire.INCR, 7, INT_HIGH - 1, 1, 0, (wire.OK, INT_HIGH, INT_HIGH)),
        (wire.INCR, 7, INT_HIGH, 1, 0, (wire.TOO_LARGE, "nothing", None)),
        (wire.INCR, 7, INT_LOW, -1, 0, (wire.TOO_LARGE, "nothing", None)),
        (wire.INCR, 7, True, 1, 0, (wire.WRONG_TYPE, "nothing", None)),
        (wire.INCR, 7, 1, "1", 0, (wire.WRONG_TYPE, "nothing", None)),
        (wire.INCR, 7, "1", 1, 0, (wire.WRONG_TYPE, "nothing", None)),
        (wire.INCR, 7, PACKED, 1, 0, (wire.WRONG_TYPE, "nothing", None)),
        (wire.APPEND, 0, None, "ab", 0, (wire.OK, "ab", 2)),
        (wire.APPEND, 7, "ab", "cd", 0, (wire.OK, "abcd", 4)),
        (wire.APPEND, 7, b"ab", b"cd", 0, (wire.OK, b"abcd", 4)),
        (wire.APPEND, 7, "ab", b"cd", 0, (wire.WRONG_TYPE, "nothing", None)),
        (wire.APPEND, 7, 5, "cd", 0, (wire.WRONG_TYPE, "nothing", None)),
        (wire.APPEND, 7, "ab", 5, 0, (wire.WRONG_TYPE, "nothing", None)),
        (wire.APPEND, 7, PACKED, "cd", 0, (wire.WRONG_TYPE, "nothing", None)),
        (wire.APPEND, 7, "abcd", "efgh", 0, (wire.OK, "abcdefgh", 8)),
        (wire.APPEND, 7, "abcd", "efghi", 0, (wire.TOO_LARGE, "nothing", None)),
        (wire.APPEND, 7, "éé", "éé", 0, (wire.OK, "éééé", 4)),  # eight bytes of UTF-8
        (wire.APPEND, 7, "éé", "ééé", 0, (wire.TOO_LARGE, "nothing", None)),
        (wire.GETSET, 7, "old", "v", 0, (wire.OK, "v", "old")),
        (wire.GETSET, 7, None, "v", 0, (wire.OK, "v", None)),
    ],
)
def test_operations(
    op: int, version: int, value: Any, given: Any, operand: int, expected: tuple[int, Any, Any]
) -> None:
    assert outcome(op, version, value, given, operand) == expected


def test_a_sum_is_a_number() -> None:
    assert outcome(wire.INCR, 1, 1.5e308, 1.5e308)[0] == wire.TOO_LARGE
    assert outcome(wire.INCR, 1, float("nan"), 1)[0] == wire.TOO_LARGE
    assert outcome(wire.INCR, 1, 2**63, 1e300)[0] == wire.OK


# --- expiries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op", [wire.PUT, wire.PUT_IF_PRESENT, wire.PUT_IF_VERSION, wire.GETSET, wire.TOUCH]
)  # fmt: skip
def test_what_is_written_expires_when_the_writer_says(op: int) -> None:
    assert expiry(op, "old", 2000, 3000) == 3000
    assert expiry(op, "old", 2000, 0) == 0, "no time to live: for ever, whatever was there before"
    assert expiry(op, "old", 0, 3000) == 3000


def test_a_new_key_expires_when_the_writer_says() -> None:
    assert expiry(wire.PUT_IF_ABSENT, None, 0, 3000) == 3000
    assert expiry(wire.PUT_IF_ABSENT, None, 0, 0) == 0
    assert expiry(wire.PUT_IF_ABSENT, "old", 0, 3000) is None


@pytest.mark.parametrize(("op", "value", "given"), [(wire.INCR, 5, 1), (wire.APPEND, "old", "new")])
def test_what_is_changed_in_place_keeps_its_expiry(op: int, value: Any, given: Any) -> None:
    assert expiry(op, value, 2000, 0, given) == 2000
    assert expiry(op, value, 2000, 3000, given) == 2000, "such an operation takes no time to live"
    assert expiry(op, value, 0, 0, given) == 0
    assert expiry(op, None, 0, 0, given) == 0


@pytest.mark.parametrize("op", [wire.DELETE, wire.DELETE_IF_VERSION])
def test_a_tombstone_does_not_expire(op: int) -> None:
    assert expiry(op, "old", 2000, 3000) == 0


@pytest.mark.parametrize("value", ["old", 0, "", b"", False, PACKED])
def test_a_touch_leaves_the_value(value: Any) -> None:
    status, changes, new, result, expires_ms = EVALUATIONS[wire.TOUCH](7, value, 2000, Asked(None, 0, 3000, 8, NOW_MS))
    assert (status, changes, result, expires_ms) == (wire.OK, True, None, 3000)
    assert new is value


def test_a_touch_of_nothing_is_unmet() -> None:
    assert outcome(wire.TOUCH, 7, None) == (wire.UNMET, "nothing", None)


@pytest.mark.parametrize(
    ("value", "expires_ms", "left"),
    [
        ("v", NOW_MS + 1, 1),
        ("v", NOW_MS, 0),
        ("v", NOW_MS - 500, 0),  # it was due in the middle of a turn
        ("v", 2**63, 2**63 - NOW_MS),
        ("v", 0, FOR_EVER),
        (0, 0, FOR_EVER),
        (None, 0, None),
    ],
)
def test_ttl(value: Any, expires_ms: int, left: int | None) -> None:
    assert EVALUATIONS[wire.TTL](7, value, expires_ms, Asked(None, 0, 0, 8, NOW_MS)) == (wire.OK, False, None, left, 0)


def test_every_operation_of_the_wire_is_in_the_table_or_has_a_place_of_its_own() -> None:
    assert set(EVALUATIONS) == wire.OPERATIONS - wire.REPLICA_READS - wire.OF_SHARDS == set(wire.MIXABLE)
    assert BLIND <= wire.WRITES


def test_what_takes_a_time_to_live_changes_something() -> None:
    assert wire.TAKES_TTL <= wire.WRITES
    for op in wire.WRITES & set(EVALUATIONS) - wire.TAKES_TTL:
        for value in ("v", 5, None):
            assert expiry(op, value, 0, 3000, value or "v") in (None, 0)
