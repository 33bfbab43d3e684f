"""The entries of one node (rules 10, 16, 17)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgpack import ExtType

from zkv.core.node.entries import expires_ms_of, size_of_stored, version_of
from zkv.core.node.sizes import ENTRY_BYTES, EXPIRY_BYTES, size_of
from zkv.core.node.store import Row, Store


def recount(store: Store) -> int:
    """What all entries take, one by one."""
    return sum(
        ENTRY_BYTES + size_of(key) + size_of_stored(entry) + (EXPIRY_BYTES if expires_ms_of(entry) else 0)
        for table in store.tables
        for key, entry in table.items()
    )


def check(store: Store) -> None:
    """The account is what is there, and the wheel holds what expires and nothing else."""
    assert store.bytes == recount(store)
    expiring = {
        (shard, key) for shard, table in enumerate(store.tables) for key, entry in table.items() if expires_ms_of(entry)
    }
    assert store.expiry.count == len(expiring)
    assert sorted(map(repr, store.expiry.soonest())) == sorted(map(repr, expiring))


def test_apply_sets_entries_and_positions() -> None:
    store = Store(2)
    store.apply([0, 1, 0], ["a", "b", b"a"], [1, 2, 3], ["x", None, 5])
    assert store.opened(0) == {"a": (1, "x", 0), b"a": (3, 5, 0)}
    assert store.opened(1) == {"b": (2, None, 0)}
    assert (store.positions[0], store.positions[1]) == (3, 2)
    assert store.committed[0] == 0
    assert store.count() == 3


def test_the_last_of_one_batch_wins() -> None:
    store = Store(1)
    store.apply([0, 0], ["a", "a"], [1, 2], ["old", "new"])
    assert store.opened(0) == {"a": (2, "new", 0)}


def test_adopted_rows_at_or_below_the_position_are_skipped() -> None:
    store = Store(1)
    store.apply([0, 0], ["a", "b"], [3, 4], ["new", "b"])
    rows = [Row(2, "a", "old", 1, 1, 0), Row(4, "b", "other", 1, 1, 0), Row(5, "c", None, 1, 1, 1)]
    assert store.adopt(0, rows, 70.0) == rows[2:]
    assert store.opened(0) == {"a": (3, "new", 0), "b": (4, "b", 0), "c": (5, None, 0)}
    assert store.positions[0] == 5
    assert list(store.graves) == [(70.0, 0, 5, "c")]


def test_a_tombstone_is_dropped_unless_the_key_was_written_since() -> None:
    store = Store(1)
    store.apply([0, 0], ["a", "b"], [1, 2], [None, None])
    store.apply([0], ["b"], [3], ["again"])
    store.drop_tombstone(0, "a", 1)
    store.drop_tombstone(0, "b", 2)
    store.drop_tombstone(0, "c", 1)
    assert store.opened(0) == {"b": (3, "again", 0)}
    assert store.positions[0] == 3


def test_a_cleared_shard_leaves_nothing_and_the_others_alone() -> None:
    store = Store(2)
    store.apply([0, 1], ["a", "b"], [1, 2], ["x", "y"])
    store.committed[0] = 1
    store.clear(0)
    assert not store.tables[0]
    assert store.opened(1) == {"b": (2, "y", 0)}
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


# --- the account ------------------------------------------------------------------------------------------------------

KEYS: list[Any] = ["a", "b", "c", "\u043a\u043b\u044e\u0447", b"a", b"b"]
"""A str and a bytes key of the same text are two keys."""
VALUES: list[Any] = [
    None, None, "", "text", "\u0442\u0435\u043a\u0441\u0442", b"", b"bytes" * 20, 0, 2**63, -1, 0.5, True,
    ExtType(5, b"ext"),
]  # fmt: skip


Columns = tuple[list[int], list[Any], list[Any], list[int] | None]


def some_columns(rng: random.Random, shards: int, versions: range) -> Columns:
    """Shards, keys, values and expiries of a batch, keys more than once among them."""
    places = [rng.randrange(len(KEYS)) for _ in versions]
    values = [rng.choice(VALUES) for _ in versions]
    expiries = [rng.choice((0, 0, 1000, 10**6, 2**40)) if value is not None else 0 for value in values]
    keys = [KEYS[place] for place in places]
    return [place % shards for place in places], keys, values, expiries if any(expiries) else None


@pytest.mark.parametrize("seed", range(20))
def test_the_account_is_exact_after_anything(seed: int) -> None:
    rng = random.Random(seed)
    shards = 3
    store = Store(shards)
    version = 0
    taken: list[tuple[int, Any]] = []
    for _ in range(300):
        versions = range(version + 1, version + rng.randrange(2, 9))
        version = versions[-1]
        columns = some_columns(rng, shards, versions)
        kind = rng.choice(("apply", "apply", "apply", "adopt", "fill", "drop", "clear", "due"))
        if kind == "apply":
            store.apply(columns[0], columns[1], list(versions), columns[2], columns[3])
        elif kind in ("adopt", "fill"):
            shard = rng.randrange(shards)
            rows = [
                (version, key, value, until)
                for at, version, key, value, until in zip(
                    columns[0], versions, columns[1], columns[2], columns[3] or [0] * 9, strict=False
                )
                if at == shard
            ]
            if kind == "adopt":
                old = version - rng.randrange(50)
                tail = [Row(min(old, at), key, value, 1, 1, 0, None, until) for at, key, value, until in rows]
                store.adopt(shard, tail, 0.0)
            elif rows:
                ats, keys, values, untils = zip(*rows, strict=True)
                store.fill(shard, keys, [max(0, at - rng.randrange(30)) for at in ats], values, untils, 0.0)
        elif kind == "drop":
            for shard, table in enumerate(store.tables):
                for key, entry in list(table.items()):
                    store.drop_tombstone(shard, key, version_of(entry) - rng.randrange(2))
        elif kind == "clear":
            store.clear(rng.randrange(shards))
        else:
            for shard, key in store.expiry.take(rng.choice((1000, 10**6)), 3):
                store.expiry.park(shard, key)
                taken.append((shard, key))
        for shard in {shard for shard, _ in taken}:
            store.expiry.unpark(shard)
        taken.clear()
        check(store)
    for shard in range(shards):
        store.clear(shard)
    check(store)
    assert store.bytes == 0


def test_entries_of_one_batch_on_one_key_are_counted_once() -> None:
    store = Store(1)
    store.apply([0] * 4, ["k"] * 4, [1, 2, 3, 4], ["long" * 50, None, "x", "y"], [0, 0, 5000, 9000])
    check(store)
    assert list(store.expiry.soonest()) == [(0, "k")]
    assert store.opened(0) == {"k": (4, "y", 9000)}
    store.apply([0], ["k"], [5], ["z"])
    check(store)
    assert store.expiry.count == 0


def test_a_key_in_two_shards_does_not_break_the_account() -> None:
    """A client that hashes differently can bring that about; it is the only one to suffer."""
    store = Store(2)
    store.apply([0, 1], ["k", "k"], [1, 2], ["v", "w"], [5000, 5001])
    store.apply([0], ["k"], [3], ["v"])
    assert store.bytes == recount(store)
    assert store.expiry.count == 1
    for now_ms in (4000, 5000, 10_000, 10**6):
        for shard, key in store.expiry.take(now_ms, 10):
            store.expiry.park(shard, key)
    for shard in (0, 1):
        store.expiry.unpark(shard)
        store.clear(shard)
    assert store.bytes == store.expiry.count == 0


def test_adopted_and_filled_entries_expire_too() -> None:
    store = Store(1)
    store.adopt(0, [Row(3, "a", "v", 1, 1, 0, None, 7000), Row(4, "b", "v", 1, 1, 1, None, 0)], 0.0)
    store.fill(0, ["c", "a"], [1, 2], ["v", "old"], [8000, 9000], 0.0)
    assert store.opened(0) == {"a": (3, "v", 7000), "b": (4, "v", 0), "c": (1, "v", 8000)}
    check(store)
    assert store.expiry.take(8015, 10) == [(0, "a"), (0, "c")]


@given(entries, st.data())
def test_a_fill_in_any_order_beside_the_subscription_is_the_copy_of_who_has_it_all(
    history: list[tuple[str, int | None]], data: st.DataObject
) -> None:
    """A chunk holds what was newest when it was made, and comes before or after what was written since."""
    primary, learner = Store(1), Store(1)
    for version, (key, value) in enumerate(history, start=1):
        until = [] if value is None else [version * 1000 * (value % 2)]
        primary.apply([0], [key], [version], [value], until or None)
        if data.draw(st.booleans()) and primary.tables[0]:
            chunk = data.draw(st.sets(st.sampled_from(sorted(primary.tables[0]))))
            rows = [(key, *primary.opened(0)[key]) for key in sorted(chunk)]
            if rows:
                keys, versions, values, untils = zip(*rows, strict=True)
                learner.fill(0, keys, versions, values, untils, 0.0)
        learner.apply([0], [key], [version], [value], until or None)
    rows = [(key, *entry) for key, entry in primary.opened(0).items()]
    if rows:
        keys, versions, values, untils = zip(*rows, strict=True)
        learner.fill(0, keys, versions, values, untils, 0.0)
    assert learner.tables == primary.tables
    check(learner)
    check(primary)
