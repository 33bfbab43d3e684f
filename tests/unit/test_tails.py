"""What is kept until its commit is known, and the tails that are read from it (rules 16, 17)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zkv.core.node.store import Row
from zkv.core.node.tails import ADOPTED, Part, Tails


def part(*entries: tuple[int, int], indices: list[int] | None = None, batch: int = 1) -> Part:
    """A part of (shard, version) entries."""
    shards, versions = zip(*entries, strict=True)
    return Part(9, batch, 0, indices, shards, versions, [f"k{v}" for v in versions], [f"v{v}" for v in versions])


def versions_of(tails: Tails, shard: int, committed: int = 0) -> list[int]:
    return [row.version for row in tails.collect({shard}, lambda _: committed)[shard]]


def test_a_tail_is_collected_over_all_sources_each_version_once() -> None:
    tails = Tails()
    tails.keep(11, 1, [part((0, 1), (1, 2))])
    tails.keep(12, 1, [part((0, 5))])
    tails.keep(ADOPTED, 0, [part((0, 1), (0, 3))])
    assert versions_of(tails, 0) == [1, 3, 5]
    assert versions_of(tails, 1) == [2]
    assert versions_of(tails, 2) == []


def test_a_tail_lies_above_the_commit_position() -> None:
    tails = Tails()
    tails.keep(11, 1, [part((0, 1), (0, 2), (0, 3))])
    assert versions_of(tails, 0, committed=2) == [3]


def test_rows_carry_the_identity_of_their_write() -> None:
    tails = Tails()
    tails.keep(11, 1, [part((0, 1), (0, 2), indices=[4, 7], batch=5), part((0, 3), batch=6)])
    rows = tails.collect({0}, lambda _: 0)[0]
    assert rows[0] == Row(1, "k1", "v1", 9, 5, 4)
    assert [(row.batch, row.place) for row in rows] == [(5, 4), (5, 7), (6, 0)]


def test_release_lets_go_of_one_source_up_to_a_mark() -> None:
    tails = Tails()
    for mark in (1, 2, 3):
        tails.keep(11, mark, [part((0, mark))])
    tails.keep(12, 1, [part((0, 9))])
    tails.release(11, 2)
    tails.release(13, 5)
    assert versions_of(tails, 0) == [3, 9]


def test_prune_keeps_a_batch_until_all_of_it_is_settled() -> None:
    tails = Tails()
    tails.keep(11, 1, [part((0, 1), (1, 2))])
    tails.keep(11, 2, [part((0, 3))])
    tails.prune(tails.sources(), lambda shard, version: shard == 0)
    assert versions_of(tails, 1) == [2]
    assert versions_of(tails, 0) == [1], "its batch is still kept; a commit position says what counts"
    tails.prune([11, 12], lambda shard, version: True)
    assert tails.sources() == []


def test_the_lowest_counter_of_a_source_is_not_its_oldest_batch() -> None:
    tails = Tails()
    epoch = 3 << 40
    tails.keep(11, 1, [part((0, epoch + 8))])
    tails.keep(11, 2, [part((1, epoch + 5), (1, epoch + 9))])
    assert tails.lowest_counter(11) == 5
    tails.release(11, 2)
    assert tails.lowest_counter(11) == tails.lowest_counter(12) == 1 << 40


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=12),
    st.lists(st.integers(0, 12), max_size=4),
    st.integers(0, 40),
)
def test_nothing_above_both_the_commit_position_and_the_mark_is_ever_lost(
    batches: list[list[int]], releases: list[int], committed: int
) -> None:
    tails = Tails()
    kept: list[tuple[int, int, int]] = []
    version = 0
    for mark, shards in enumerate(batches, start=1):
        entries = [(shard, version + place) for place, shard in enumerate(shards, start=1)]
        version += len(entries)
        tails.keep(11, mark, [part(*entries)])
        kept += [(mark, *entry) for entry in entries]
    for upto in releases:
        tails.release(11, upto)
    tails.prune(tails.sources(), lambda shard, version: version <= committed)
    released = max(releases, default=0)
    for shard in range(3):
        expected = [v for mark, s, v in kept if s == shard and mark > released and v > committed]
        assert versions_of(tails, shard, committed) == expected
