"""Frames: what goes in comes out, and what does not parse raises `Malformed`, never anything else."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.frames import BODIES, U64
from zkv.core import wire
from zkv.core.wire import Malformed


@given(st.integers(0, 255), U64, U64, U64, U64, BODIES.filter(lambda body: "nan" not in repr(body)))
def test_a_frame_comes_back_as_it_went(
    kind: int, cluster: int, sender: int, target: int, map_version: int, body: Any
) -> None:
    frame = wire.encode(kind, cluster, sender, target, map_version, body)
    assert wire.decode_header(frame) == (kind, cluster, sender, target, map_version)
    assert wire.decode_body(frame) == body
    assert frame[3] == kind, "hosts look at the kind without decoding"
    assert frame.startswith(wire.encode_header(kind, cluster, sender, target, map_version))


def test_the_header_is_what_the_protocol_says() -> None:
    frame = wire.encode(wire.ACK, 1, 2, 3, 4, None)
    assert frame == b"zk\x03\x1f" + struct.pack("<QQQQ", 1, 2, 3, 4) + b"\xc0"


@pytest.mark.parametrize(
    "frame",
    [b"", b"zk", b"zk\x03\x1f" + bytes(31), b"xx\x03\x1f" + bytes(32), b"zk\x02\x1f" + bytes(32)],
    ids=["empty", "magic alone", "one byte short", "not ours", "another version"],
)
def test_what_is_no_header_is_malformed(frame: bytes) -> None:
    with pytest.raises(Malformed):
        wire.decode_header(frame)


@given(st.binary(max_size=60))
@example(b"\x81\x90\x01")  # a map whose key is a list
@example(b"\x81\x81\x01\x02\x03")  # a map whose key is a map
@example(b"\xdd\xff\xff\xff\xff")  # an array that claims four thousand million elements
@example(b"\xc6\xff\xff\xff\xff")  # as many bytes
@example(b"\x91" * 5000)  # nested beyond the parser's stack
@example(b"\xa1\xff")  # no UTF-8
@example(b"\xd6\xff\xff\xff\xff\xff")  # a timestamp
@example(b"\xc7\x0c\xff" + b"\xff" * 12)  # a timestamp out of all bounds
@example(b"\xc7\x03\xff123")  # a timestamp of no known length
def test_a_body_parses_or_is_malformed(body: bytes) -> None:
    with contextlib.suppress(Malformed):
        wire.decode_body(bytes(wire.HEADER.size) + body)


@given(BODIES, st.data())
def test_a_body_cut_short_is_malformed(body: Any, data: st.DataObject) -> None:
    packed = wire.pack(body)
    with pytest.raises(Malformed):
        wire.decode_body(packed[: data.draw(st.integers(0, len(packed) - 1))], 0)


@given(st.lists(st.integers(0, 2**16 - 1)), st.lists(U64))
def test_columns_come_back_as_they_went(small: list[int], large: list[int]) -> None:
    assert wire.unpack_u16(wire.pack_u16(small)) == small
    assert wire.unpack_u64(wire.pack_u64(large)) == large
    assert len(wire.pack_u16(small)) == 2 * len(small)
    assert wire.pack_u64([1]) == b"\x01" + bytes(7), "little-endian on every machine"


@pytest.mark.parametrize("packed", [None, 7, "12", [1, 2], b"1", b"123"])
def test_what_is_no_column_is_malformed(packed: object) -> None:
    for unpack in (wire.unpack_u16, wire.unpack_u64):
        with pytest.raises(Malformed):
            unpack(packed)


@given(st.integers(0, 2**24 - 1), st.integers(0, wire.COUNTER_MASK))
def test_a_version_grows_with_its_epoch_first(epoch: int, counter: int) -> None:
    version = epoch << wire.COUNTER_BITS | counter
    assert version < 2**64
    assert wire.epoch_of(version) == epoch
    assert version < (epoch + 1) << wire.COUNTER_BITS


def test_every_kind_has_a_number_of_its_own() -> None:
    assert len(set(wire.KIND_NAMES.values())) == len(wire.KIND_NAMES)
    assert wire.KIND_NAMES[wire.BATCH] == "BATCH"
    assert frozenset((wire.OK, wire.UNMET, wire.EXPIRED, wire.MAYBE)).isdisjoint(wire.DEFINITE)
