"""Walks through a shard: whatever happens between two pages, what is there throughout is seen once."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkv.core import wire
from zkv.core.node import walks
from zkv.core.node.local import Local
from zkv.core.node.walks import Budget, Walks
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import Shard, ShardMap

NOW_MS = 1_700_000_000_000
MODES = (wire.SCAN_KEYS, wire.SCAN_ENTRIES, wire.SCAN_FROZEN)


class Node:
    """The store of a node and its walks; the test is the client, and whoever writes meanwhile."""

    def __init__(self, shards: int = 1) -> None:
        settings = ClusterSettings(nodes=1, replicas=1, shards=shards)
        self.local = Local("a", 1, settings, ShardMap(7, 1, {}, (Shard(1, 1, (1,)),) * shards))
        self.walks = Walks(self.local)
        self.version = 0
        self.pass_time(1000.0)
        self.local.clock.asked(self.local.now_ms)
        self.local.clock.learn(NOW_MS, self.local.now_ms)

    @property
    def cluster_ms(self) -> int:
        return self.local.cluster_ms

    def pass_time(self, ms: float = 1.0) -> None:
        self.local.now_ms += ms

    def put(self, key: Any, value: Any = "v", expires_ms: int = 0, shard: int = 0) -> None:
        self.version += 1
        self.local.store.apply([shard], [key], [self.version], [value], [expires_ms] if expires_ms else None)

    def delete(self, key: Any) -> None:
        self.put(key, None)

    def drop_tombstones(self) -> None:
        for key, entry in self.local.store.opened(0).items():
            self.local.store.drop_tombstone(0, key, entry[0])

    def scan(
        self, prefix: Any, cursor: int = 0, mode: int = wire.SCAN_KEYS, walk: int = 1, client: int = 5, shard: int = 0,
        budget: Budget | None = None,
    ) -> tuple[int, list[Any]]:  # fmt: skip
        """One SCAN, in a turn of its own."""
        if budget is None:
            self.pass_time()
        what = walk << wire.SCAN_MODE_BITS | mode
        return self.walks.scan(client, shard, prefix, cursor, what, budget or Budget())

    def all(self, prefix: Any = "", mode: int = wire.SCAN_KEYS, between: Any = None) -> list[Any]:
        """All pages; `between` is called after each."""
        seen: list[Any] = []
        cursor: int | None = 0
        for _ in range(100_000):
            assert cursor is not None
            _, (keys, *_, cursor, _) = self.scan(prefix, cursor, mode)
            seen += keys
            if cursor is None:
                return seen
            if between is not None:
                between()
        raise AssertionError("the walk never ends")


@pytest.fixture(params=[(1, 1), (1, 3), (2, 7), (512, 5), (3, 2048)], ids=str)
def tiny(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "PAGE_KEYS", request.param[0])
    monkeypatch.setattr(walks, "SORTED_AT_ONCE", request.param[1])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(5))
def test_what_lives_throughout_is_seen_once(seed: int, mode: int) -> None:
    rng = random.Random(seed)
    node = Node()
    lasting = {f"k{number}" for number in range(40)}
    for key in lasting | {f"x{number}" for number in range(40)}:
        node.put(key)
    touched: set[str] = set()
    failovers = iter(range(5))

    def between() -> None:
        for _ in range(rng.randrange(3)):
            key = f"x{rng.randrange(60)}"
            touched.add(key)
            rng.choice((node.put, node.delete))(key)
        if rng.random() < 0.3:
            node.put(rng.choice(sorted(lasting)), "written again")
        if rng.random() < 0.2:
            node.drop_tombstones()
        if rng.random() < 0.1 and next(failovers, None) is not None:  # it begins anew from its cursor
            node.walks = Walks(node.local)

    seen = node.all("", mode, between)
    assert len(seen) == len(set(seen)), "more than once"
    assert lasting <= set(seen)
    assert {f"x{number}" for number in range(40)} - touched <= set(seen)
    assert sorted(node.all("k")) == sorted(lasting)


@given(
    st.sets(st.text("ab", max_size=4) | st.binary(max_size=2), max_size=30), st.text("ab", max_size=1),
    st.integers(1, 5),
)  # fmt: skip
def test_of_a_prefix_and_type(keys: set[Any], prefix: str, page_keys: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walks, "PAGE_KEYS", page_keys)
        node = Node()
        for key in keys:
            node.put(key)
        start: Any
        for start in (prefix, prefix.encode()):
            expected: set[Any] = {key for key in keys if type(key) is type(start) and key.startswith(start)}
            found = node.all(start)
            assert (len(found), set(found)) == (len(expected), expected)
            assert node.scan(start, mode=wire.SCAN_COUNT)[1] == [None, None, None, None, None, len(expected)]
        everything = node.all("", wire.SCAN_FROZEN)
        assert sorted(everything, key=repr) == sorted(keys, key=repr), "one picture has both kinds of keys"


def test_what_is_gone_is_not_shown() -> None:
    node = Node()
    node.put("there")
    node.put("lasting", expires_ms=NOW_MS + 10**6)
    node.put("expired", expires_ms=node.cluster_ms)
    node.delete("deleted")
    for mode in MODES:
        assert sorted(node.all("", mode)) == ["lasting", "there"]
    assert node.scan("", mode=wire.SCAN_COUNT)[1][5] == 2


def test_columns_are_those_of_the_entries() -> None:
    node = Node()
    node.put("a", 5)
    node.put("b", b"v", NOW_MS + 5000)
    keys, versions, values, expiries, cursor, count = node.scan("", mode=wire.SCAN_ENTRIES)[1]
    rows = sorted(zip(keys, wire.unpack_u64(versions), values, wire.unpack_u64(expiries), strict=True))
    assert rows == [("a", 1, 5, 0), ("b", 2, b"v", NOW_MS + 5000)]
    assert cursor is count is None
    assert node.scan("", mode=wire.SCAN_KEYS)[1][1:] == [None, None, None, None, None]


# --- frozen -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("seed", range(4))
def test_a_frozen_walk_shows_one_moment(seed: int) -> None:
    rng = random.Random(seed)
    node = Node()
    for number in range(30):
        node.put(f"k{number}", number, NOW_MS + 10**6 if number % 2 else 0)
    node.scan("", mode=wire.SCAN_FROZEN)  # here it freezes
    table = node.local.store.opened(0)
    position = node.version
    rows: list[Any] = []
    cursor: Any = 0
    while cursor is not None:
        for _ in range(3):
            rng.choice((node.put, node.delete))(f"k{rng.randrange(40)}")
        seen_at, (keys, versions, values, expiries, cursor, _) = node.scan("", cursor, wire.SCAN_FROZEN)
        assert seen_at == position
        if keys:
            rows += zip(keys, wire.unpack_u64(versions), values, wire.unpack_u64(expiries), strict=True)
    assert sorted(rows) == sorted((key, *entry) for key, entry in table.items())


def test_a_frozen_walk_that_began_anew_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "PAGE_KEYS", 2)
    node = Node()
    for number in range(10):
        node.put(f"k{number}")
    position, page = node.scan("", mode=wire.SCAN_FROZEN)
    assert position == 10
    node.put("k0", "later")
    again, page = node.scan("", page[4], wire.SCAN_FROZEN)
    assert again == 10
    node.local.map = ShardMap(7, 2, {}, (Shard(2, 2, (1,)),))  # another epoch
    again, _ = node.scan("", page[4], wire.SCAN_FROZEN)
    assert again == 11


def test_a_frozen_walk_is_one_of_a_client_a_number_and_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "PAGE_KEYS", 2)
    node = Node()
    for number in range(20):
        node.put(f"k{number}")
        node.put(f"j{number}")
    position = node.scan("k", mode=wire.SCAN_FROZEN)[0]
    node.put("k0", "later")
    for how in ({"walk": 2}, {"client": 6}, {"prefix": "j"}):
        assert node.scan(**{"prefix": "k", "mode": wire.SCAN_FROZEN} | how)[0] == position + 1  # type: ignore[arg-type]
    assert {key[0] for key in node.all("j")} == {"j"}


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_page_is_no_longer_than_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "PAGE_KEYS", 4)
    node = Node()
    for number in range(10):
        node.put(f"k{number}", "v" * 1000)
    keys, *_, cursor, _ = node.scan("")[1]
    assert len(keys) == 4
    assert cursor
    monkeypatch.setattr(walks, "PAGE_BYTES", 2500)
    assert len(node.scan("", mode=wire.SCAN_ENTRIES)[1][0]) == 3


def test_an_entry_longer_than_a_page_travels_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "PAGE_BYTES", 100)
    node = Node()
    for number in range(5):
        node.put(f"k{number}", "v" * 5000)
    assert len(node.scan("", mode=wire.SCAN_ENTRIES)[1][0]) == 1
    assert len(node.all("", wire.SCAN_ENTRIES)) == 5


def test_a_request_with_no_room_left_is_answered_with_its_own_cursor() -> None:
    node = Node(shards=4)
    for shard in range(4):
        for number in range(3):
            node.put(f"{shard} {number}", "v" * 200_000, shard=shard)
    node.pass_time()
    budget = Budget()
    pages = [node.scan("", mode=wire.SCAN_ENTRIES, shard=shard, budget=budget)[1] for shard in range(4)]
    assert [len(page[0]) for page in pages] == [2, 2, 2, 0]
    assert pages[3] == [[], None, None, None, 0, None]


def test_a_turn_looks_at_a_bounded_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "SORTED_AT_ONCE", 100)
    node = Node(shards=4)
    for number in range(400):
        node.put(f"k{number}", shard=number % 4)
    cursors: dict[int, int | None] = dict.fromkeys(range(4), 0)
    seen: list[Any] = []
    for _ in range(100):
        node.pass_time()
        shown = 0
        for shard, cursor in cursors.items():
            if cursor is not None:
                keys, *_, cursors[shard], _ = node.scan("", cursor, shard=shard, budget=Budget())[1]
                seen += keys
                shown += len(keys)
        assert shown <= 200
        if set(cursors.values()) == {None}:
            break
    assert len(seen) == len(set(seen)) == 400


def test_what_was_deleted_since_is_passed_over_a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "SORTED_AT_ONCE", 100)
    node = Node()
    for number in range(1000):
        node.put(f"k{number}")
    while not node.scan("")[1][0]:
        pass
    for number in range(1000):
        node.delete(f"k{number}")
    node.drop_tombstones()
    cursor: Any = 1
    pages = 0
    while cursor is not None:
        keys, *_, cursor, _ = node.scan("", cursor)[1]
        assert keys == []
        pages += 1
    assert pages >= 9


def test_few_walks_are_kept_and_none_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "PAGE_KEYS", 1)
    monkeypatch.setattr(walks, "WALKS_LIMIT", 3)
    node = Node()
    for number in range(50):
        node.put(f"k{number}")
    later: list[Any] = [[], None, None, None, 0, None]
    assert [node.scan("", walk=walk)[1] == later for walk in range(5)] == [False, False, False, True, True]
    node.pass_time(walks.PATIENCE_MS)
    assert node.scan("", walk=9)[1] != later
    assert [what >> wire.SCAN_MODE_BITS for _, what, _ in node.walks._walks] == [1, 2, 9]
    node.pass_time(walks.IDLE_MS / 2)
    node.scan("", walk=9)
    node.pass_time(walks.IDLE_MS / 2 + 1)
    node.scan("", walk=20)
    assert [what >> wire.SCAN_MODE_BITS for _, what, _ in node.walks._walks] == [9, 20]
    assert len(node.all("")) == 50
    assert all(what >> wire.SCAN_MODE_BITS != 1 for _, what, _ in node.walks._walks), "over, and forgotten"


def test_more_clients_than_walks_come_to_an_end_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "PAGE_KEYS", 3)
    monkeypatch.setattr(walks, "SORTED_AT_ONCE", 20)
    monkeypatch.setattr(walks, "WALKS_LIMIT", 2)
    node = Node()
    for number in range(60):
        node.put(f"k{number}")
    cursors: dict[int, int | None] = dict.fromkeys(range(3), 0)
    seen: dict[int, list[Any]] = {client: [] for client in cursors}
    for _ in range(2000):
        for client, cursor in cursors.items():
            if cursor is not None:
                keys, *_, cursors[client], _ = node.scan("", cursor, client=client)[1]
                seen[client] += keys
        if set(cursors.values()) == {None}:
            break
    assert {len(found) for found in seen.values()} == {len(set(found)) for found in seen.values()} == {60}


@pytest.mark.parametrize("most", [1, 2, 7])
def test_a_walk_that_gives_way_comes_to_its_end(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """However little is looked at for each page: none at all would be for ever."""
    monkeypatch.setattr(walks, "SORTED_AT_ONCE", most)
    node = Node()
    for number in range(20):
        node.put(f"k{number}")
    seen: list[Any] = []
    cursor: int | None = 0
    for _ in range(200):
        node.pass_time()
        what = 1 << wire.SCAN_MODE_BITS | wire.SCAN_KEYS
        _, (keys, *_, cursor, _) = node.walks.scan(5, 0, "", cursor or 0, what, Budget(), alone=False)
        seen += keys
        if cursor is None:
            break
    assert sorted(seen) == sorted(f"k{number}" for number in range(20))
