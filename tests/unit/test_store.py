"""The entries of one node (rules 10, 16, 17)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zkv.core.node.store import Row, Store


def test_apply_sets_entries_and_positions() -> None:
    store = Store(2)
    store.apply([0, 1, 0], ["a", "b", b"a"], [1, 2, 3], ["x", None, 5])
    assert store.tables == [{"a": (1, "x"), b"a": (3, 5)}, {"b": (2, None)}]
    assert (store.positions[0], store.positions[1]) == (3, 2)
    assert store.committed[0] == 0
    assert store.count() == 3


def test_the_last_of_one_batch_wins() -> None:
    store = Store(1)
    store.apply([0, 0], ["a", "a"], [1, 2], ["old", "new"])
    assert store.tables[0] == {"a": (2, "new")}


def test_adopted_rows_at_or_below_the_position_are_skipped() -> None:
    store = Store(1)
    store.apply([0, 0], ["a", "b"], [3, 4], ["new", "b"])
    rows = [Row(2, "a", "old", 1, 1, 0), Row(4, "b", "other", 1, 1, 0), Row(5, "c", None, 1, 1, 1)]
    assert store.adopt(0, rows, 70.0) == rows[2:]
    assert store.tables[0] == {"a": (3, "new"), "b": (4, "b"), "c": (5, None)}
    assert store.positions[0] == 5
    assert list(store.graves) == [(70.0, 0, 5, "c")]


def test_a_tombstone_is_dropped_unless_the_key_was_written_since() -> None:
    store = Store(1)
    store.apply([0, 0], ["a", "b"], [1, 2], [None, None])
    store.apply([0], ["b"], [3], ["again"])
    store.drop_tombstone(0, "a", 1)
    store.drop_tombstone(0, "b", 2)
    store.drop_tombstone(0, "c", 1)
    assert store.tables[0] == {"b": (3, "again")}
    assert store.positions[0] == 3


def test_a_cleared_shard_leaves_nothing_and_the_others_alone() -> None:
    store = Store(2)
    store.apply([0, 1], ["a", "b"], [1, 2], ["x", "y"])
    store.committed[0] = 1
    store.clear(0)
    assert store.tables == [{}, {"b": (2, "y")}]
    assert (store.positions[0], store.committed[0]) == (0, 0)


entries = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 9)), max_size=20)


@given(entries, st.data())
def test_adopting_any_overlapping_tail_gives_the_history_of_who_had_it_all(
    history: list[tuple[str, int | None]], data: st.DataObject
) -> None:
    """One member applied everything; another a prefix, then tails that overlap in any way."""
    rows = [Row(version, key, value, 1, version, 0) for version, (key, value) in enumerate(history, start=1)]
    whole, late = Store(1), Store(1)
    whole.adopt(0, rows, 0.0)
    reach = 0
    while reach < len(rows):
        start = data.draw(st.integers(0, reach))
        reach = data.draw(st.integers(reach + 1, len(rows)))
        late.adopt(0, rows[start:reach], 0.0)
    assert late.tables == whole.tables
    assert late.positions == whole.positions
    assert list(late.graves) == list(whole.graves)
