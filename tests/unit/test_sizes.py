"""What entries are said to take, beside what CPython takes for them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgpack import ExtType

from zkv.core.node.entries import TUPLE_BYTES, size_of_stored, stored
from zkv.core.node.sizes import EXT_HEAD, NUMBER_BYTES, size_of, size_of_all

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40)
    | st.text(max_size=40) | st.builds(ExtType, st.integers(0, 127), st.binary(max_size=40))
)  # fmt: skip


@given(st.lists(SCALARS, max_size=20))
def test_a_column_takes_what_its_items_take(items: list[Any]) -> None:
    assert size_of_all(items) == sum(map(size_of, items))


@given(st.lists(st.text("ab", max_size=9) | st.text("aй", max_size=9), max_size=9), st.lists(st.binary(max_size=9)))
def test_columns_of_one_type_take_what_their_items_take(texts: list[str], pieces: list[bytes]) -> None:
    assert size_of_all(texts) == sum(map(size_of, texts))
    assert size_of_all(pieces) == sum(map(size_of, pieces))
    assert size_of_all(tuple(texts)) == sum(map(size_of, texts))


@given(st.binary(max_size=2000) | st.text("abc", max_size=2000))
def test_bytes_and_ascii_take_what_the_interpreter_says(item: bytes | str) -> None:
    assert size_of(item) == sys.getsizeof(item)


@given(st.text(min_size=1, max_size=2000))
def test_text_takes_at_least_what_the_interpreter_says(item: str) -> None:
    fresh = item.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")  # without a copy in UTF-8
    assert sys.getsizeof(fresh) <= size_of(item) <= 4 * len(item) + 80


@pytest.mark.parametrize("number", [0, 1, -1, 2**31, 2**60 - 1, 0.0, 1e300])
def test_numbers(number: float) -> None:
    assert sys.getsizeof(number) <= NUMBER_BYTES == size_of(number)


def test_what_takes_nothing() -> None:
    assert size_of(None) == size_of(True) == size_of(False) == size_of_all([]) == 0


def test_the_smallest_entry_is_not_free() -> None:
    assert sys.getsizeof((1, None, 0)) + sys.getsizeof(2**50) <= TUPLE_BYTES
    for value in (None, b"", "", 7):
        entry = stored(2**50, value, 0)
        assert size_of_stored(entry) == sys.getsizeof(entry)
    assert sys.getsizeof(ExtType(1, b"")) + sys.getsizeof(b"") <= size_of(ExtType(1, b"")) == EXT_HEAD
