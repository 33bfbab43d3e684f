"""The file format of dumps: what is written comes back, and nothing that was damaged passes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from msgpack import ExtType

from zkv.core import wire
from zkv.dump.format import (
    BLOCK,
    BLOCK_BYTES,
    END,
    ENTRIES,
    FOOT,
    FORMAT,
    HEAD,
    START,
    BadDump,
    End,
    Entries,
    Foot,
    Head,
    Reader,
    Writer,
    _checksum,
)
from zkv.dump.loading import count, verify
from zkv.dump.whole import WholeFile
from zkv.errors import UsageError

SMALL_HEAD = Head(cluster=7, shards=2, cluster_ms=1_700_000_000_000, writer="zkv test")
OF_ALL_TYPES: list[Any] = [
    b"", b"\x00\xff", "", "żółw", 0, -(2**63), 2**64 - 1, 1.5, float("inf"), True, False, ExtType(1, b"\xc0"),
    ExtType(2, b"\x08x"), ExtType(120, b""),
]  # fmt: skip


def entries(shard: int, attempt: int, keys: list[Any], values: list[Any] | None = None, expires: int = 0) -> Entries:
    count = len(keys)
    return Entries(
        shard, attempt, keys, wire.pack_u64(range(1, count + 1)), values or [f"value of {key!r}" for key in keys],
        wire.pack_u64([expires] * count),
    )  # fmt: skip


def small() -> bytes:
    """A dump with some of everything, small enough to be damaged in every way."""
    sink = io.BytesIO()
    writer = Writer(sink)
    writer.head(SMALL_HEAD)
    writer.entries(entries(1, 1, ["gone", b"void"]))
    writer.entries(entries(0, 1, ["a", b"a"], [1, ExtType(1, b"\xc0")], expires=2_000_000_000_000))
    writer.end(0, 1, 55)
    writer.entries(entries(1, 2, ["b"]))
    writer.entries(entries(1, 2, ["c"]))
    writer.end(1, 2, 77)
    writer.foot()
    assert writer.bytes == len(sink.getvalue())
    return sink.getvalue()


def contents_of(dump: bytes) -> list[Any]:
    return [block.content for block in Reader(io.BytesIO(dump))]


def refused(dump: bytes) -> BadDump:
    with pytest.raises(BadDump) as caught:
        contents_of(dump)
    return caught.value


def assembled(*blocks: tuple[int, list[Any]]) -> bytes:
    """A dump whose checksums are right, whatever is in it."""
    dump = START.pack(b"\x89zkv\r\n\x1a\n", FORMAT)
    checksum = xxhash.xxh3_64_intdigest(dump)
    for kind, fields in blocks:
        body = wire.pack(fields)
        checksum = _checksum(checksum, kind, body)
        dump += BLOCK.pack(kind, len(body), checksum) + body
    return dump


# --- what is written comes back -----------------------------------------------------------------------------------


def test_blocks_come_back_as_they_were_written() -> None:
    assert contents_of(small()) == [
        SMALL_HEAD,
        entries(1, 1, ["gone", b"void"]),
        entries(0, 1, ["a", b"a"], [1, ExtType(1, b"\xc0")], expires=2_000_000_000_000),
        End(0, 1, 55, 2),
        entries(1, 2, ["b"]),
        entries(1, 2, ["c"]),
        End(1, 2, 77, 2),
        Foot(2, 4, 2),
    ]


def test_the_bytes_are_those_of_the_documentation() -> None:
    """The format is for good: a change of it needs another version."""
    sink = io.BytesIO()
    writer = Writer(sink)
    writer.head(Head(7, 1, 0, "zkv"))
    writer.entries(Entries(0, 1, ["a"], wire.pack_u64([5]), [1], wire.pack_u64([0])))
    writer.end(0, 1, 5)
    writer.foot()
    shown = (Path(__file__).parents[2] / "docs" / "DUMP.md").read_text().partition("<!-- the example -->")[2]
    lines = [line.partition("  ")[0] for line in shown.split("```")[1].splitlines()[1:]]
    assert bytes.fromhex("".join(lines)) == sink.getvalue()


@given(
    values=st.lists(
        st.one_of(
            st.binary(), st.text(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.booleans(),
            st.builds(ExtType, st.integers(0, 127), st.binary()),
        ),
        min_size=1,
    ),
    data=st.data(),
)  # fmt: skip
def test_all_values_and_keys_survive(values: list[Any], data: st.DataObject) -> None:
    number = len(values)
    keys = data.draw(st.lists(st.one_of(st.text(), st.binary()), min_size=number, max_size=number))
    u64s = st.lists(st.integers(0, 2**64 - 1), min_size=number, max_size=number)
    written = Entries(0, 3, keys, wire.pack_u64(data.draw(u64s)), values, wire.pack_u64(data.draw(u64s)))
    sink = io.BytesIO()
    writer = Writer(sink)
    writer.head(Head(1, 1, 0, ""))
    writer.entries(written)
    writer.end(0, 3, 9)
    writer.foot()
    read = contents_of(sink.getvalue())[1]
    assert read == written
    assert list(map(type, read.values)) == list(map(type, values))
    assert list(map(type, read.keys)) == list(map(type, keys))


def test_types_survive_that_compare_equal() -> None:
    sink = io.BytesIO()
    writer = Writer(sink)
    writer.head(Head(1, 1, 0, ""))
    writer.entries(entries(0, 1, [str(place) for place in range(len(OF_ALL_TYPES))], OF_ALL_TYPES))
    writer.end(0, 1, 1)
    writer.foot()
    read = contents_of(sink.getvalue())[1].values
    assert [(type(value), value) for value in read] == [(type(value), value) for value in OF_ALL_TYPES]


def test_an_empty_cluster_is_a_dump_too() -> None:
    sink = io.BytesIO()
    writer = Writer(sink)
    writer.head(SMALL_HEAD)
    for shard in (1, 0):
        writer.end(shard, 1, 0)
    writer.foot()
    contents = verify(io.BytesIO(sink.getvalue()))
    assert (contents.keys, contents.attempts, contents.bytes) == (0, {0: 1, 1: 1}, len(sink.getvalue()))


def test_large_pages_become_several_blocks() -> None:
    sink = io.BytesIO()
    writer = Writer(sink)
    writer.head(Head(1, 1, 0, ""))
    keys = [f"key {number}" for number in range(9)]
    values = [bytes(300_000)] * 8 + [bytes(16 * 2**20)]
    writer.entries(entries(0, 1, keys, values))
    writer.end(0, 1, 1)
    writer.foot()
    read = [content for content in contents_of(sink.getvalue()) if isinstance(content, Entries)]
    assert [key for one in read for key in one.keys] == keys
    assert [value for one in read for value in one.values] == values
    assert [version for one in read for version in wire.unpack_u64(one.versions)] == list(range(1, 10))
    sizes = [sum(map(len, one.values)) for one in read]
    assert all(len(one.keys) == 1 or size <= BLOCK_BYTES for one, size in zip(read, sizes, strict=True))


# --- damage -------------------------------------------------------------------------------------------------------


def test_it_is_seen_wherever_a_dump_was_cut_short() -> None:
    dump = small()
    for length in range(len(dump)):
        error = refused(dump[:length])
        assert error.offset <= length
        assert "cut short" in str(error) or length < START.size


def test_a_flipped_bit_is_seen_wherever_it_is() -> None:
    dump = small()
    for place in range(len(dump)):
        for bit in range(8):
            damaged = bytearray(dump)
            damaged[place] ^= 1 << bit
            assert refused(bytes(damaged)).offset <= place


def test_more_than_a_dump_is_none() -> None:
    assert refused(small() + b"\n").offset == len(small())
    assert refused(small() + small()).offset == len(small())


def test_blocks_that_are_missing_swapped_or_of_another_dump_are_seen() -> None:
    dump = small()
    offsets = [block.offset for block in Reader(io.BytesIO(dump))] + [len(dump)]
    blocks = [dump[start:end] for start, end in pairwise(offsets)]
    start = dump[: START.size]
    for place in range(len(blocks)):
        refused(start + b"".join(blocks[:place] + blocks[place + 1 :]))
        refused(start + b"".join(blocks[: place + 1] + blocks[place:]))
    for place in range(len(blocks) - 1):
        refused(start + b"".join([*blocks[:place], blocks[place + 1], blocks[place], *blocks[place + 2 :]]))
    sink = io.BytesIO()
    Writer(sink).head(SMALL_HEAD._replace(cluster=6))
    refused(sink.getvalue() + b"".join(blocks[1:]))


def test_the_damaged_block_is_named() -> None:
    dump = bytearray(small())
    third = list(Reader(io.BytesIO(bytes(dump))))[2].offset
    dump[third + BLOCK.size + 5] ^= 4
    error = refused(bytes(dump))
    assert error.offset == third
    assert str(error) == f"the dump is damaged: the block at byte {third} is not what was written"


def test_other_files_are_told_from_dumps() -> None:
    for other in (b"\x89PNG\r\n\x1a\n" + bytes(100), b"a text\n" * 10, bytes(100), b"zkv"):
        assert "no dump of zkv" in str(refused(other))
    as_text = small().replace(b"\r\n", b"\n")
    assert "no dump of zkv" in str(refused(as_text))
    assert "no dump of zkv" in str(refused(b""))


def test_a_newer_format_is_told_from_damage() -> None:
    newer = START.pack(small()[:8], FORMAT + 1) + bytes(1000)
    assert str(refused(newer)) == (
        f"the dump has format {FORMAT + 1}, and this zkv reads format {FORMAT}: load it with a newer zkv"
    )


def test_a_damaged_length_takes_no_memory() -> None:
    dump = bytearray(small())
    dump[START.size + 7] = 0xFF  # the first block is to have 4 GiB

    class Frugal(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert 0 <= size <= 2**26
            return super().read(size)

    with pytest.raises(BadDump, match="damaged"):
        list(Reader(Frugal(bytes(dump))))


GOOD_HEAD = (HEAD, [1, 1, 0, "zkv"])
NONE_PACKED = wire.pack_u64([])
ONE_PACKED = wire.pack_u64([0])


@pytest.mark.parametrize(
    "blocks",
    [
        [(99, [])],
        [(FOOT, [0, 0, 0])],
        [(HEAD, [1, 1, 0])],
        [(HEAD, [1, "1", 0, "zkv"])],
        [(HEAD, [1, True, 0, "zkv"])],
        [GOOD_HEAD, GOOD_HEAD],
        [GOOD_HEAD, (FOOT, [1, 0, 0])],
        [GOOD_HEAD, (END, [1, 1, 0, 0])],
        [GOOD_HEAD, (END, [0, 1, 0, 1])],
        [GOOD_HEAD, (END, [0, 1, 0, 0]), (END, [0, 1, 0, 0])],
        [GOOD_HEAD, (END, [0, 1, 0, 0]), (FOOT, [1, 1, 0])],
        [GOOD_HEAD, (END, [0, 1, 0, 0]), (ENTRIES, [0, 1, [], NONE_PACKED, [], NONE_PACKED])],
        [GOOD_HEAD, (ENTRIES, [5, 1, [], NONE_PACKED, [], NONE_PACKED])],
        [GOOD_HEAD, (ENTRIES, [0, 1, ["a"], NONE_PACKED, [1], ONE_PACKED])],
        [GOOD_HEAD, (ENTRIES, [0, 1, ["a"], ONE_PACKED, [], ONE_PACKED])],
        [GOOD_HEAD, (ENTRIES, [0, 1, "a", ONE_PACKED, [1], ONE_PACKED])],
        [GOOD_HEAD, (ENTRIES, [0, 1, [5], ONE_PACKED, [1], ONE_PACKED])],
        [GOOD_HEAD, (ENTRIES, [0, 1, ["a"], ONE_PACKED, [None], ONE_PACKED])],
        [GOOD_HEAD, (ENTRIES, [0, 1, ["a"], ONE_PACKED, [[]], ONE_PACKED])],
        [GOOD_HEAD, (ENTRIES, [0, 1, ["a"], 5, [1], ONE_PACKED])],
        [
            GOOD_HEAD, (ENTRIES, [0, 2, ["a"], ONE_PACKED, [1], ONE_PACKED]),
            (ENTRIES, [0, 1, ["a"], ONE_PACKED, [1], ONE_PACKED]),
        ],
    ],
)  # fmt: skip
def test_what_is_intact_but_no_dump_is_refused(blocks: list[tuple[int, list[Any]]]) -> None:
    assert "contradicts the format" in str(refused(assembled(*blocks)))


def test_fields_of_a_later_zkv_are_passed_over() -> None:
    dump = assembled((HEAD, [1, 1, 0, "zkv", "more"]), (END, [0, 1, 0, 0, 5]), (FOOT, [1, 0, 0]))
    assert contents_of(dump) == [Head(1, 1, 0, "zkv"), End(0, 1, 0, 0), Foot(1, 0, 0)]


# --- what counts --------------------------------------------------------------------------------------------------


def test_attempts_that_were_begun_anew_do_not_count() -> None:
    contents = verify(io.BytesIO(small()))
    assert contents.attempts == {0: 1, 1: 2}
    assert (contents.keys, contents.expiring) == (4, 2)
    assert count(io.BytesIO(small()), contents) == (4, 0, 0, 0)
    assert count(io.BytesIO(small()), contents, prefix="a") == (2, 0, 0, 2)
    assert count(io.BytesIO(small()), contents, prefix=b"a") == (1, 0, 0, 3)


def test_an_attempt_without_entries_voids_those_before_it() -> None:
    sink = io.BytesIO()
    writer = Writer(sink)
    writer.head(Head(1, 1, 0, ""))
    writer.entries(entries(0, 1, ["a"], expires=5))
    writer.end(0, 2, 8)
    assert writer.foot() == Foot(1, 0, 1)
    contents = verify(io.BytesIO(sink.getvalue()))
    assert (contents.keys, contents.expiring) == (0, 0)
    assert count(io.BytesIO(sink.getvalue()), contents) == (0, 0, 0, 0)


def test_what_has_expired_is_counted_apart() -> None:
    sink = io.BytesIO()
    writer = Writer(sink)
    writer.head(Head(1, 1, 0, ""))
    writer.entries(entries(0, 1, ["a", "b"], expires=5))
    writer.entries(entries(0, 1, ["c"]))
    writer.end(0, 1, 8)
    writer.foot()
    contents = verify(io.BytesIO(sink.getvalue()))
    assert (contents.keys, contents.expiring) == (3, 2)
    assert count(io.BytesIO(sink.getvalue()), contents) == (1, 2, 0, 0)


# --- files that are there whole, or not at all --------------------------------------------------------------------


def test_a_file_appears_when_all_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with WholeFile(path) as whole:
        whole.write(b"new")
        assert [one.name for one in tmp_path.iterdir()] == ["file.partial"]
        whole.keep()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_ends_early_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"former")
    with pytest.raises(KeyboardInterrupt), WholeFile(path) as whole:  # noqa: PT012
        whole.write(bytes(2**21))
        raise KeyboardInterrupt
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"former"
    with WholeFile(path) as whole:
        whole.write(b"new")
        whole.keep()
    assert path.read_bytes() == b"new"


def test_two_do_not_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with WholeFile(path) as whole:
        with pytest.raises(UsageError, match="somebody else is writing"), WholeFile(path):
            pass
        whole.write(b"first")
        whole.keep()
    assert path.read_bytes() == b"first"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    script = (
        "import os, signal, sys\nfrom zkv.dump.whole import WholeFile\n"
        "with WholeFile(sys.argv[1]) as whole:\n"
        "    whole.write(bytes(2**22))\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -9
    assert [one.name for one in tmp_path.iterdir()] == ["file.partial"]
    with WholeFile(path) as whole:
        whole.write(b"new")
        whole.keep()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"new"


def test_links_are_followed_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "file"
    link.symlink_to(tmp_path / "disk" / "real")
    with WholeFile(link) as whole:
        whole.write(b"new")
        whole.keep()
    assert link.is_symlink()
    assert (tmp_path / "disk" / "real").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "disk", tmp_path / "pipe"):
        with pytest.raises(UsageError, match="no plain file"), WholeFile(path):
            pass
    with pytest.raises(UsageError, match="cannot be written"), WholeFile(tmp_path / "no such directory" / "file"):
        pass
