"""The codec of keys and values: what goes in comes out, of the same type, and nothing else goes in."""

from __future__ import annotations

import array
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

from zkv.errors import ProtocolError, UsageError, WrongType
from zkv.values import (
    DEPTH_LIMIT,
    RAW,
    TYPED,
    Codec,
    check_keys,
    decode,
    decode_column,
    decode_raw,
    decode_raw_column,
    encode,
    encode_column,
    encode_raw,
    encode_raw_column,
)

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


def array_wire(head: Any, data: bytes) -> ExtType:
    """An array on the wire, right or wrong: the length of its head, the head, the elements."""
    packed = msgpack.packb(head)
    return ExtType(2, bytes([len(packed)]) + packed + data)


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
        ExtType(2, b""),
        ExtType(2, b"\x00"),
        ExtType(2, b"\x01\xc0"),
        ExtType(2, b"\xff\x92"),  # a head that is cut off
        ExtType(2, array_wire(["<i8", [1]], b"12345678").data[1:]),
        array_wire(["|O", [1]], b"12345678"),
        array_wire(["|V8", [1]], b"12345678"),
        array_wire(["|S0", [1]], b""),
        array_wire(["<i8", [2]], b"12345678"),
        array_wire(["<i8", [1]], b"12345678+"),
        array_wire(["<i8", [1]], b"1234567"),
        array_wire(["<i8", [-1]], b"12345678"),
        array_wire(["<i8", [0, -1]], b""),
        array_wire(["<i8", None], b""),
        array_wire(["<U1", None], b"\xff\xff\xff\xff"),  # scalars are never strings
        array_wire(["<i8", None], b"12345678+"),
        array_wire(["<i8", [2**62, 2**62]], b""),
        array_wire(["<i8", [1.0]], b"12345678"),
        array_wire(["<i8", "1"], b"12345678"),
        array_wire(["<i8", 1], b"12345678"),
        array_wire(["<i8"], b"12345678"),
        array_wire(["<i8", [1], b"12345678"], b""),
        array_wire(["no such type", [1]], b"1"),
        array_wire([7, [1]], b"1"),
        array_wire([["<i8"], [1]], b"12345678"),
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
    if type(wire) is ExtType:  # inside a value, too
        with pytest.raises(ProtocolError):
            decode(ExtType(1, msgpack.packb([wire] if wire.code != 3 else [1, ExtType(99, b"")])))


rubbish = st.builds(ExtType, st.sampled_from([1, 2, 3]), st.binary(max_size=60))
types = st.sampled_from(["<i8", ">u2", "|b1", "<U2", "|S3", "<M8[s]", "<c8", "|O", "<f3", "i4,f8", "", "\0"])
heads = st.tuples(
    types | st.text(max_size=5),
    st.none() | st.lists(st.integers(-2, 4), max_size=4) | st.lists(st.integers(-(2**63), 2**64 - 1), max_size=3),
)


@given(rubbish | st.builds(array_wire, heads, st.binary(max_size=40)))
def test_rubbish_is_a_protocol_error_or_a_value(wire: Any) -> None:
    try:
        decode(wire)
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
    assert_its_own(back)
    (inside,) = decode(encode([array]))
    assert (inside.dtype, inside.shape, inside.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert_its_own(inside)


def assert_its_own(array: Any) -> None:
    """What is put is writable, so what comes back is: in memory that nobody else sees, aligned and in C order."""
    assert array.flags.writeable
    assert array.flags.owndata
    assert array.flags.aligned
    assert array.flags.c_contiguous


def test_any_memory_order_comes_back() -> None:
    cube = np.arange(24).reshape(2, 3, 4)
    dates = np.array(["2020-01-01", "NaT", "1969-12-31"], dtype="M8[D]")
    unaligned = np.frombuffer(b"+" + cube.tobytes(), np.uint8)[1:].view(cube.dtype).reshape(cube.shape)
    for view in (
        np.asfortranarray(cube),
        cube[:, ::-1, ::2],
        cube[1, 2],
        cube[0, 0, ::-1],
        cube.T,
        cube[:, :0],
        np.broadcast_to(np.int8(1), (2, 2)),
        np.arange(5, dtype=np.uint8)[::-1],
        dates,
        dates[::-1],
        dates.reshape(1, 3, order="F"),
        dates[0:0],
        unaligned,
        np.array(7),
        np.zeros((0, 2**40)),
        np.zeros((1,) * 32),
    ):
        before = view.tobytes()
        back = decode(encode(view))
        assert (back.dtype, back.shape) == (view.dtype, view.shape)
        np.testing.assert_array_equal(back, view)
        assert_its_own(back)
        assert view.tobytes() == before


def test_what_came_back_shares_nothing() -> None:
    array = np.arange(3)
    wire = encode(array)
    first, second = decode(wire), decode(wire)
    first[0] = array[1] = 9
    assert second.tolist() == decode(wire).tolist() == [0, 1, 2]


def test_the_size_limit_of_an_array_counts_its_head() -> None:
    array = np.zeros(100, np.uint8)
    assert decode(encode(array, 108)).shape == (100,)
    with pytest.raises(UsageError, match="108 bytes, the limit is 107"):
        encode(array, 107)


def test_numpy_scalars_and_nested_arrays() -> None:
    for scalar in (np.float64(1.5), np.int8(-1), np.bool_(True), np.complex64(1j), np.datetime64("2020-01-01")):
        back = decode(encode(scalar))
        assert type(back) is type(scalar)
        assert back == scalar
    back = decode(encode({"a": [np.arange(3), np.float64(2)], (np.int64(1),): None}))
    np.testing.assert_array_equal(back["a"][0], np.arange(3))
    assert type(back["a"][1]) is np.float64
    assert (1,) in back


# --- raw


@pytest.mark.parametrize(
    "value",
    [
        b"abcd",
        bytearray(b"abcd"),
        memoryview(b"abcd"),
        memoryview(b"-abcd-")[1:5],
        memoryview(b"abcd").cast("B", (2, 2)),
        array.array("B", b"abcd"),
        array.array("H", b"abcd"),
        np.frombuffer(b"abcd", ">u2"),
        np.frombuffer(b"abcd", "u1").reshape(2, 2),
        np.frombuffer(b"abcd", "<f4")[0],
        np.frombuffer(b"abcd", [("a", "<u2"), ("b", "<u2")]),
    ],
)
def test_raw_takes_whatever_has_bytes(value: Any) -> None:
    wire = encode_raw(value)
    assert type(wire) is bytes
    assert wire == b"abcd"
    assert decode_raw(wire) is wire
    assert same(encode_raw_column([value, b"", value]), [b"abcd", b"", b"abcd"])
    assert encode_raw(value, 4) == b"abcd"
    for refused in (lambda: encode_raw(value, 3), lambda: encode_raw_column([b"", value], 3)):
        with pytest.raises(UsageError, match="4 bytes, the limit is 3"):
            refused()


def test_raw_keeps_what_a_buffer_held() -> None:
    buffer = bytearray(b"abc")
    wire = encode_raw(buffer)
    buffer[0:1] = b"xyz"  # it may even change its length: no export is left
    assert wire == b"abc"
    with pytest.raises(UsageError, match="limit") as caught:
        encode_raw(buffer, 2)
    buffer.append(0)  # nor does the error hold one
    assert caught.value


def released() -> memoryview:
    view = memoryview(b"x")
    view.release()
    return view


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("text", "take a str.*encode it first"),
        (1, "take a int"),
        (None, "take a NoneType"),
        ([b"x"], "take a list"),
        (memoryview(b"abcd")[::2], "memoryview: .*not C-contiguous"),
        (np.arange(4)[::2], "not C-contiguous"),
        (np.asfortranarray(np.ones((2, 2))), "not C-contiguous"),
        (np.array([object()]), "references"),
        (np.array(["2020"], dtype="M8[Y]"), "numpy.ndarray"),
        (released(), "released"),
    ],
)
def test_what_raw_refuses(value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        encode_raw(value)
    with pytest.raises(UsageError, match=words):
        encode_raw_column([b"x", value])


@given(st.lists(st.binary(max_size=9) | st.none(), max_size=6), st.none() | st.just("missing"))
def test_raw_columns(values: list[bytes | None], default: Any) -> None:
    wires = [None if value is None else encode_raw(value) for value in values]
    back = decode_raw_column(over_the_wire(wires), default)
    assert back == [default if value is None else value for value in values]
    present = [value for value in values if value is not None]
    assert encode_raw_column(tuple(present)) == present


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("text", "stored as str"),
        (1, "stored as int"),
        (1.5, "stored as float"),
        (True, "stored as bool"),
        (None, "stored as None"),
        ([1], "list"),
        (np.arange(3), "numpy array"),
    ],
)
def test_raw_says_what_a_typed_client_stored(value: Any, words: str) -> None:
    (wire,) = over_the_wire([encode(value)])
    for read in (lambda: decode_raw(wire, "?"), lambda: decode_raw_column([b"x", wire])):
        with pytest.raises(WrongType, match=f"{words}.* a client that is not raw"):
            read()
    with pytest.raises(WrongType, match="stored as type 99"):
        decode_raw(ExtType(99, b""))


@given(st.binary(max_size=20))
def test_bytes_are_the_same_for_both_codecs(value: bytes) -> None:
    for writer in (RAW, TYPED):
        for reader in (RAW, TYPED):
            assert reader.decode(writer.encode(value)) == value
            assert reader.decode_column(writer.encode_column([value])) == [value]


@pytest.mark.parametrize("codec", [RAW, TYPED])
def test_codecs_are_of_one_shape(codec: Codec) -> None:
    assert codec.decode(codec.encode(b"xy", 2), "?") == b"xy"
    assert codec.decode(codec.encode(b"xy", limit_bytes=2), default="?") == b"xy"
    assert codec.decode(None) is None
    assert codec.decode(None, "?") == "?"
    assert codec.decode_column(codec.encode_column([b"xy", b""], limit_bytes=2)) == [b"xy", b""]
    assert codec.decode_column([b"xy", None]) == [b"xy", None]
    assert codec.decode_column((b"xy", None), default="?") == [b"xy", "?"]
    assert codec.encode_column([]) == codec.decode_column([]) == []
    for refused in (lambda: codec.encode(b"xy", 1), lambda: codec.encode_column([b"", b"xy"], 1)):
        with pytest.raises(UsageError, match="2 bytes, the limit is 1"):
            refused()


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
