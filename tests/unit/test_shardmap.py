"""The shard map and its deltas: round trips, gaps, and keys that land where every client thinks they do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.frames import BODIES, BOOTS, MAPS, MEMBERS, SHARDS
from zkv.core import wire
from zkv.core.shardmap import Delta, Member, Shard, ShardMap, shard_of, shards_of
from zkv.core.wire import Malformed

A = Member(2**32 + 1, "a", "tcp://a:1", "", 1.0, 0)
B = Member(2**32 + 2, "b", "tcp://b:1", "", 1.0, 0)


def packed(body: Any) -> Any:
    """As it arrives at the other side."""
    return wire.decode_body(wire.pack(body), 0)


@given(MAPS)
def test_a_map_comes_back_as_it_went(shard_map: ShardMap) -> None:
    assert ShardMap.from_wire(packed(shard_map.to_wire())) == shard_map


@given(
    st.integers(0, 2**64 - 1),
    st.dictionaries(st.integers(0, 70_000), SHARDS, max_size=5),
    st.lists(MEMBERS, max_size=3).map(tuple),
    st.lists(BOOTS, max_size=3).map(tuple),
)
def test_a_delta_comes_back_as_it_went(
    version: int, shards: dict[int, Shard], members: tuple[Member, ...], removed: tuple[int, ...]
) -> None:
    delta = Delta(1, 5, version, shards, members, removed)
    assert Delta.from_wire(packed(delta.to_wire())) == delta


@given(MAPS, st.data())
def test_a_mutilated_map_or_delta_is_malformed_or_a_map(shard_map: ShardMap, data: st.DataObject) -> None:
    delta = Delta(1, 1, 2, dict(enumerate(shard_map.shards)), tuple(shard_map.members.values()))
    parsers: list[tuple[list[Any], Callable[[Any], object]]] = [
        (shard_map.to_wire(), ShardMap.from_wire),
        (delta.to_wire(), Delta.from_wire),
    ]
    for body, parse in parsers:
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(BODIES)
        with contextlib.suppress(Malformed):
            parse(packed(body))


@pytest.mark.parametrize("version", [float("inf"), float("nan"), None, "x", [], {}])
def test_a_version_that_is_no_number_is_malformed(version: Any) -> None:
    for body, parse in (
        (ShardMap(1, version, {}, (Shard(1, 1, (A.boot,)),)).to_wire(), ShardMap.from_wire),
        (Delta(1, version, 2, {}).to_wire(), Delta.from_wire),
    ):
        with pytest.raises(Malformed):
            parse(packed(body))


@given(BODIES)
def test_what_is_no_map_is_malformed(body: Any) -> None:
    with pytest.raises(Malformed):
        ShardMap.from_wire(packed(body))
    with pytest.raises(Malformed):
        Delta.from_wire(packed(body))


def test_a_shard_without_replicas_is_malformed() -> None:
    with pytest.raises(Malformed):
        ShardMap.from_wire(packed(ShardMap(1, 1, {}, (Shard(1, 1, ()),)).to_wire()))


def test_a_delta_changes_what_it_names_and_nothing_else() -> None:
    old = ShardMap(1, 4, {A.boot: A, B.boot: B}, (Shard(1, 1, (A.boot, B.boot)), Shard(2, 3, (B.boot,))))
    dead = B._replace(state=2)
    new = old.with_changes(Delta(1, 4, 5, {0: Shard(2, 5, (A.boot,), (), (B.boot,))}, (dead,)))
    assert new.version == 5
    assert new.members == {A.boot: A, B.boot: dead}
    assert new.shards == (Shard(2, 5, (A.boot,), (), (B.boot,)), Shard(2, 3, (B.boot,)))
    assert old.shards[0].epoch == 1, "a map is a value"
    assert A.boot not in new.with_changes(Delta(1, 5, 6, {}, (), (A.boot, 99))).members


def test_the_first_delta_brings_all_shards() -> None:
    shards = {1: Shard(1, 1, (B.boot,)), 0: Shard(1, 1, (A.boot,))}
    formed = ShardMap.empty(1).with_changes(Delta(1, 0, 1, shards, (A, B)))
    assert [shard.primary for shard in formed.shards] == [A.boot, B.boot]
    assert (formed.name_of(A.boot), formed.name_of(0xAB)) == ("a", "00000000000000ab")


@pytest.mark.parametrize(("cluster", "base"), [(1, 3), (1, 5), (2, 4)])
def test_a_delta_for_another_map_does_not_fit(cluster: int, base: int) -> None:
    with pytest.raises(ValueError):
        ShardMap(1, 4, {}, (Shard(1, 1, (1,)),)).with_changes(Delta(cluster, base, 9, {}))


def test_keys_land_where_they_always_did() -> None:
    # The placement of every key ever written hangs on these numbers.
    keys: list[str | bytes] = ["key1", "", "ü", b"\x00\xff", b"key1"]
    assert shards_of(keys, 1024) == [482, 194, 878, 1011, 482]


@given(st.lists(st.text(max_size=9) | st.binary(max_size=9), max_size=9), st.integers(1, 70_000))
def test_a_column_of_keys_lands_where_each_does(keys: list[str | bytes], shards: int) -> None:
    assert shards_of(keys, shards) == [shard_of(key, shards) for key in keys]
    assert all(0 <= shard < shards for shard in shards_of(keys, shards))
    texts = [key for key in keys if isinstance(key, str)]
    assert shards_of(texts, shards) == shards_of([text.encode() for text in texts], shards)
