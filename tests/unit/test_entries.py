"""Entries in the form in which they are kept."""

from __future__ import annotations

import sys
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgpack import ExtType

from zkv.core import wire
from zkv.core.node.entries import (
    ABSENT,
    PACKED_MOST,
    Entry,
    columns_of,
    expires_ms_of,
    is_there,
    is_tombstone,
    opened,
    packed_values,
    size_of_all_stored,
    size_of_stored,
    stored,
    stored_all,
    version_of,
    versions_of,
)

LONG = PACKED_MOST + 40
NUMBERS = st.integers(0, 2**64 - 1)
TEXTS = st.text("abc", max_size=LONG) | st.text(max_size=LONG)
SIZED = st.binary(max_size=LONG) | TEXTS | st.builds(ExtType, st.integers(0, 127), st.binary(max_size=LONG))
VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | SIZED
ROWS = (
    st.lists(st.tuples(NUMBERS, VALUES, NUMBERS), max_size=12)
    | st.lists(st.tuples(NUMBERS, st.binary(max_size=LONG), NUMBERS), max_size=12)
    | st.lists(st.tuples(NUMBERS, st.text("abй", max_size=LONG), NUMBERS), max_size=12)
)


@given(NUMBERS, VALUES, NUMBERS)
def test_what_is_stored_is_what_is_opened(version: int, value: Any, expires_ms: int) -> None:
    entry = stored(version, value, expires_ms)
    found = opened(entry)
    assert found == (version, value, expires_ms)
    assert type(found[1]) is type(value)
    assert (version_of(entry), expires_ms_of(entry)) == (version, expires_ms)
    assert is_tombstone(entry) == (value is None)


@given(ROWS)
def test_a_column_is_kept_as_its_rows_are(rows: list[Entry]) -> None:
    versions, values, expiries = ([row[place] for row in rows] for place in range(3))
    entries = stored_all(versions, values, expiries)
    assert entries == [stored(*row) for row in rows], "the form follows from the contents"
    assert stored_all(versions, values, None) == [stored(version, value, 0) for version, value, _ in rows]
    assert list(map(list, columns_of(entries))) == [versions, values, expiries]
    assert versions_of(entries) == versions
    assert wire.unpack(packed_values(entries)) == values
    assert size_of_all_stored(entries) == sum(map(size_of_stored, entries))


@pytest.mark.parametrize(
    "value", [b"", b"x" * (PACKED_MOST - 2), "", "x" * (PACKED_MOST - 2), None, True, 7, 2**64 - 1, 0.5]
)
def test_small_values_are_one_object(value: Any) -> None:
    entry = stored(2**50, value, 0)
    assert type(entry) is bytes
    assert size_of_stored(entry) == sys.getsizeof(entry)


@pytest.mark.parametrize(
    "value", [b"x" * (PACKED_MOST - 1), "x" * (PACKED_MOST - 1), "й" * (PACKED_MOST // 2), ExtType(1, b"x" * 300)]
)
def test_large_values_are_not_copied(value: Any) -> None:
    entry = stored(2**50, value, 0)
    assert opened(entry)[1] is value
    assert opened(stored_all([1], [value], None)[0])[1] is value


def test_a_reply_brings_what_any_client_reads() -> None:
    values = [b"bytes", "text", None, 5, "long" * 100, ExtType(3, b"tag")]
    entries = stored_all(range(1, 7), values, None)
    assert msgpack.unpackb(packed_values(entries)) == values
    assert packed_values([]) == msgpack.packb([])


def test_what_is_there() -> None:
    assert opened(ABSENT) == (0, None, 0)
    assert not is_there(None, 0)
    assert not is_there(ABSENT, 0)
    for value in ("v", "v" * 300):
        assert is_there(stored(1, value, 0), 10**6)
        assert is_there(stored(1, value, 500), 499)
        assert not is_there(stored(1, value, 500), 500)
