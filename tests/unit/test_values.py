"""The codec of keys and values: what goes in comes out, of the same type, and nothing else goes in."""

from __future__ import annotations

import collections
import datetime
import math
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgpack import ExtType

from zkv.errors import ProtocolError, UsageError
from zkv.values import DEPTH_LIMIT, check_keys, decode, decode_column, encode, encode_column

integers = st.integers(-(2**63), 2**64 - 1)
# No NaN: it is not equal to itself.
plain = st.one_of(st.binary(max_size=20), st.text(max_size=20), integers, st.floats(allow_nan=False), st.booleans())
hashable = st.recursive(plain | st.none(), lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
nested = st.recursive(
    plain | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
    ),
    max_leaves=12,
)


def over_the_wire(wire: Any) -> Any:
    """What a column looks like after a message has carried it."""
    return msgpack.unpackb(msgpack.packb(wire), strict_map_key=False)


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down: 1 == True and 1 == 1.0 are not the same."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        pairs = zip(left.items(), right.items(), strict=False)
        return len(left) == len(right) and all(same(a, b) for a, b in pairs)
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return bool(left == right)


@given(nested)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    (wire,) = over_the_wire([encode(value)])
    assert wire is not None, "nil means missing"
    assert same(decode(wire), value)


@given(st.lists(nested, max_size=8))
def test_a_column_is_the_same_as_its_values(values: list[Any]) -> None:
    assert same(encode_column(values), [encode(value) for value in values])
    assert same(decode_column(over_the_wire(encode_column(values)), default=...), values)


@given(st.lists(plain, max_size=8))
def test_plain_values_travel_as_they_are(values: list[Any]) -> None:
    assert same(encode_column(values), values)
    assert same(decode_column(values), values)


def test_none_is_a_value_and_nil_is_missing() -> None:
    assert encode(None) == ExtType(1, b"\xc0")
    assert decode(ExtType(1, b"\xc0"), default="?") is None
    assert decode(None, default="?") == "?"
    column = over_the_wire([*encode_column([None, 1]), None])
    assert decode_column(column) == [None, 1, None]
    assert decode_column(column, default="?") == [None, 1, "?"]
    assert decode_column([1, None]) == [1, None]
    assert decode_column([1, None], default="?") == [1, "?"]


def test_nan_comes_back() -> None:
    assert math.isnan(decode(encode(math.nan)))
    assert math.isnan(decode(encode([math.nan]))[0])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "object"),
        ({1, 2}, "set"),
        (bytearray(b"x"), r"bytearray.*bytes\("),
        (memoryview(b"x"), "memoryview"),
        (datetime.date(2020, 1, 1), "datetime.date"),
        (collections.OrderedDict(a=1), "OrderedDict"),
        (ExtType(1, b"\xc0"), "ExtType"),
        (msgpack.Timestamp(1), "Timestamp"),
        (1j, "complex"),
        (2**64, "64 bit"),
        (-(2**63) - 1, "64 bit"),
        pytest.param(10**5000, "64 bit", id="beyond str"),
        ("\ud800", "surrogate"),
        (np.array([object()]), "object"),
        (np.zeros(2, dtype=[("a", "i4")]), "cannot be stored"),
        (np.ma.array([1]), "MaskedArray"),
        (np.bytes_(b"a\0"), "cannot be stored"),
        (np.longdouble(1), "cannot be stored"),
    ],
)
def test_what_is_refused_on_its_own_is_refused_inside(value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        encode(value)
    with pytest.raises(UsageError, match=words):
        encode_column([1, value])
    with pytest.raises(UsageError):
        encode([value])
    with pytest.raises(UsageError):
        encode({"a": (1, [value])})


def test_subclasses_are_refused() -> None:
    # Each would come back as its parent.
    class Name(str):
        pass

    class Count(int):
        pass

    class Point(NamedTuple):
        x: int

    values: list[Any] = [Name("x"), Count(1), Point(1), collections.defaultdict(int)]
    for value in values:
        for nesting in (value, [value], {"a": value}):
            with pytest.raises(UsageError):
                encode(nesting)
    for key in (Name("x"), Point(1)):
        with pytest.raises(UsageError):
            encode({key: 1})


def test_cycles_and_depth_end() -> None:
    cycle: list[Any] = []
    cycle += [cycle, {"a": cycle}]
    with pytest.raises(UsageError, match="contains itself"):
        encode(cycle)
    deep: Any = []
    for _ in range(DEPTH_LIMIT - 1):
        deep = (deep,)
    assert decode(encode(deep)) == deep
    with pytest.raises(UsageError, match="deeper"):
        encode([deep])


@pytest.mark.parametrize("value", [b"x" * 100, "x" * 100, "é" * 50, ["x" * 97], ("x" * 94,)])
def test_the_size_limit_is_exact(value: Any) -> None:
    assert decode(encode(value, 100)) == value
    assert encode_column([value, value], 100)
    for column in ([value], [value, b""], [value, ""]):
        with pytest.raises(UsageError, match=r"99"):
            encode_column(column, 99)


@pytest.mark.parametrize(
    "wire",
    [
        ExtType(1, b""),
        ExtType(1, b"\xc0\xc0"),
        ExtType(1, b"\xc1"),
        ExtType(1, b"\xdd\xff\xff\xff\xff"),
        ExtType(1, b"\x91" * 5000),
        ExtType(1, b"\x81\x90\xc0"),  # a list as a key
        ExtType(1, b"\xc7\x00\x09"),
        ExtType(2, b"\xc0"),
        ExtType(2, msgpack.packb(["|O", [1], b"12345678"])),
        ExtType(2, msgpack.packb(["<i8", [2], b"12345678"])),
        ExtType(2, msgpack.packb(["<i8", [1], b"12345678+"])),
        ExtType(2, msgpack.packb(["<i8", [-1], b"12345678"])),
        ExtType(2, msgpack.packb(["<i8", [2**62, 2**62], b""])),
        ExtType(2, msgpack.packb(["no such type", [1], b"1"])),
        ExtType(2, msgpack.packb([7, [1], b"1"])),
        ExtType(3, b""),
        ExtType(99, b""),
        [1],
        {"a": 1},
        msgpack.Timestamp(1),
    ],
)
def test_what_no_client_sends_is_a_protocol_error(wire: Any) -> None:
    with pytest.raises(ProtocolError):
        decode(wire)
    with pytest.raises(ProtocolError):
        decode_column([1, wire])


@given(st.binary(max_size=60), st.sampled_from([1, 2, 3]))
def test_rubbish_is_a_protocol_error_or_a_value(data: bytes, code: int) -> None:
    try:
        decode(ExtType(code, data))
    except ProtocolError:
        pass


# --- numpy


dtypes = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64))
    | hnp.complex_number_dtypes(endianness="?", sizes=(64, 128))
    | hnp.datetime64_dtypes(endianness="?")
    | hnp.timedelta64_dtypes(endianness="?")
    | hnp.byte_string_dtypes(min_len=1)
    | hnp.unicode_string_dtypes(min_len=1)
)


@given(hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_an_array_comes_back(array: Any) -> None:
    (wire,) = over_the_wire([encode(array)])
    back = decode(wire)
    assert type(back) is np.ndarray
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_any_memory_order_comes_back() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    for view in (np.asfortranarray(array), array[:, ::-1, ::2], array.T, np.broadcast_to(np.int8(1), (2, 2))):
        np.testing.assert_array_equal(decode(encode(view)), view)


def test_numpy_scalars_and_nested_arrays() -> None:
    for scalar in (np.float64(1.5), np.int8(-1), np.bool_(True), np.complex64(1j), np.datetime64("2020-01-01")):
        back = decode(encode(scalar))
        assert type(back) is type(scalar)
        assert back == scalar
    back = decode(encode({"a": [np.arange(3), np.float64(2)], (np.int64(1),): None}))
    np.testing.assert_array_equal(back["a"][0], np.arange(3))
    assert type(back["a"][1]) is np.float64
    assert (1,) in back


# --- keys


@given(st.lists(st.text(max_size=9) | st.binary(max_size=9)))
def test_strings_and_bytes_are_keys(keys: list[Any]) -> None:
    check_keys(keys)


@pytest.mark.parametrize("other", ["a", "é", b"a", ""])
@pytest.mark.parametrize(
    ("key", "words"),
    [
        (1, "int"),
        (None, "NoneType"),
        (bytearray(b"a"), "bytearray"),
        (("a",), "tuple"),
        ("\udc80", "surrogate"),
        ("x" * 17, "17 bytes"),
        ("é" * 9, "18 bytes"),
        (b"x" * 17, "17 bytes"),
    ],
)
def test_what_is_no_key(key: Any, other: Any, words: str) -> None:
    for keys in ([key], [other, key], [key, other]):
        with pytest.raises(UsageError, match=words):
            check_keys(keys, limit_bytes=16)


def test_the_key_limit_is_exact() -> None:
    check_keys(["x" * 16, "é" * 8, b"x" * 16, "", b""], limit_bytes=16)
    check_keys(["x" * 16], limit_bytes=16)
    check_keys([b"x" * 16], limit_bytes=16)
