"""What is sent to those who are a few versions of the map behind."""

from __future__ import annotations

from zkv.core import wire
from zkv.core.deltas import RecentDeltas
from zkv.core.shardmap import Delta, Shard, ShardMap

FIRST = ShardMap(7, 1, {}, tuple(Shard(1, 1, (1, 2)) for _ in range(32)))


def grown(deltas: RecentDeltas, map: ShardMap, shards: int) -> ShardMap:
    """The next map: so many shards change."""
    entry = Shard(map.version + 1, map.version + 1, (2, 1))
    delta = Delta(7, map.version, map.version + 1, dict.fromkeys(range(shards), entry))
    after = map.with_changes(delta)
    deltas.keep(delta, wire.pack(delta.to_wire()), after)
    return after


def followed(deltas: RecentDeltas, map: ShardMap) -> ShardMap:
    """`map` after what it is sent."""
    for packed in deltas.since(map.version):
        map = map.with_changes(Delta.from_wire(wire.decode_body(packed, 0)))
    return map


def test_whoever_is_behind_catches_up() -> None:
    deltas, maps = RecentDeltas(), [FIRST]
    for _ in range(4):
        maps.append(grown(deltas, maps[-1], 2))
    for map in maps:
        assert followed(deltas, map) == maps[-1]
    assert deltas.since(maps[-1].version) == []


def test_what_is_longer_than_the_map_is_not_kept() -> None:
    deltas = RecentDeltas()
    newest = grown(deltas, FIRST, 1)
    assert len(deltas.since(1)) == 1
    for _ in range(40):
        newest = grown(deltas, newest, 4)
    assert deltas.since(1) == []
    left = next(bodies for version in range(1, newest.version) if (bodies := deltas.since(version)))
    assert 0 < sum(map(len, left)) <= 24 * 32


def test_who_knows_nothing_or_something_else_is_sent_the_map() -> None:
    deltas = RecentDeltas()
    map = grown(deltas, ShardMap.empty(7), 0)
    assert deltas.since(0) == []
    map = grown(deltas, grown(deltas, FIRST, 1), 1)
    deltas.forget()
    assert deltas.since(map.version - 1) == []
