"""What each operation makes of an entry (rule 9): a table, and its edges."""

from __future__ import annotations

from typing import Any

import pytest
from msgpack import ExtType

from zkv.core import wire
from zkv.core.node.evaluate import BLIND, EVALUATIONS, INT_HIGH, INT_LOW

LIMIT_BYTES = 8
NOTHING = (wire.OK, False, None)
PACKED = ExtType(1, b"\xc0")


def outcome(op: int, version: int, value: Any, given: Any = None, operand: int = 0) -> tuple[int, Any, Any]:
    """(status, what is written: a value, "buried" or "nothing", result)."""
    status, changes, new, result = EVALUATIONS[op](version, value, given, operand, LIMIT_BYTES)
    return status, ("buried" if new is None else new) if changes else "nothing", result


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


def test_every_operation_of_the_wire_is_in_the_table_or_has_a_place_of_its_own() -> None:
    assert set(EVALUATIONS) == wire.OPERATIONS - wire.REPLICA_READS - {wire.KEYS} == set(wire.MIXABLE)
    assert BLIND <= wire.WRITES
