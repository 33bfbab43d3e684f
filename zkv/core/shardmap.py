"""The shard map: who holds which shard, under which epoch. An immutable value with a version.

The manager is the only writer (SAFETY 1); everyone else replaces its map by a newer one and ignores the rest.
A shard's `changed` is the map version at which its entry last changed: what a lease grant has to know to count
for that shard (SAFETY 12). A map says who *should* hold a shard; whether it is served is for the members to settle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import xxhash

from zkv.core.wire import Malformed, pack_u64, unpack_u64

UP: Final = 0
DOWN: Final = 1
"""Silent for too long, or accused: suspicion only."""
DEAD: Final = 2
"""Proven dead (SAFETY 32): its leases cannot be alive anywhere."""

STATE_NAMES: Final = ("up", "down", "dead")


class Member(NamedTuple):
    """One incarnation of a storage node: a name and the boot id of one process lifetime (SAFETY 2)."""

    boot: int
    name: str
    endpoint: str
    zone: str
    weight: float
    state: int
    draining: bool = False
    """Asked to leave: it is given nothing new, and leaves once others hold what it held."""


class Shard(NamedTuple):
    """The entry of one shard. `replicas[0]` is the primary; all of `replicas` are in sync."""

    epoch: int
    changed: int
    replicas: tuple[int, ...]
    learners: tuple[int, ...] = ()
    wait: tuple[int, ...] = ()
    """Members of all sets since the last activation that a primary reported, less the present set (SAFETY 1)."""
    born: int = 1
    """Epoch at which the shard was last created empty: at formation, or by a reset (SAFETY 33). Whoever last knew an
    earlier epoch forgets what it holds."""
    withheld: bool = False
    """The operator's placement names no holder: `replicas` keep the data, fenced, and nobody serves it."""

    @property
    def primary(self) -> int:
        """Boot id of the primary."""
        return self.replicas[0]


def shard_of(key: str | bytes, shards: int) -> int:
    """The shard of a key: xxh3-64 of its bytes (a str key hashes as UTF-8), modulo the number of shards."""
    return xxhash.xxh3_64_intdigest(key.encode() if isinstance(key, str) else key) % shards


def shards_of(keys: Sequence[str | bytes], shards: int) -> list[int]:
    """`shard_of` for a column of keys."""
    digest = xxhash.xxh3_64_intdigest
    kinds = set(map(type, keys))
    if kinds == {str}:
        return [digest(key) % shards for key in map(str.encode, keys)]  # type: ignore[arg-type]
    if kinds == {bytes}:
        return [digest(key) % shards for key in keys]  # type: ignore[arg-type]
    return [shard_of(key, shards) for key in keys]


@dataclass(frozen=True, slots=True)
class ShardMap:
    """A version of the map. `version` 0 with no shards is the map before the cluster has formed."""

    cluster: int
    version: int
    members: Mapping[int, Member]
    shards: tuple[Shard, ...]

    @classmethod
    def empty(cls, cluster: int = 0) -> ShardMap:
        """The map that everything starts from."""
        return cls(cluster, 0, {}, ())

    def name_of(self, boot: int) -> str:
        """A member's name, or its boot id in hex where it is not in the map."""
        member = self.members.get(boot)
        return member.name if member else f"{boot:016x}"

    def endpoint_of(self, boot: int) -> str | None:
        """Where a node is to be found; None for one that has left the map."""
        member = self.members.get(boot)
        return None if member is None else member.endpoint

    def with_changes(self, delta: Delta) -> ShardMap:
        """This map with `delta` applied, which must start from this version."""
        if delta.base != self.version or delta.cluster != self.cluster:
            raise ValueError(f"a delta from version {delta.base} does not fit a map of version {self.version}")
        members = dict(self.members)
        for boot in delta.removed:
            members.pop(boot, None)
        members.update((member.boot, member) for member in delta.members)
        shards = list(self.shards)
        if not shards:
            shards = [delta.shards[number] for number in range(len(delta.shards))]
        else:
            for number, shard in delta.shards.items():
                shards[number] = shard
        return replace(self, version=delta.version, members=members, shards=tuple(shards))

    def to_wire(self) -> list[Any]:
        """As a MessagePack body. Sets repeat (placement uses few), so shards name them by position in a table."""
        return [self.cluster, self.version, _members_out(self.members.values()), *_shards_out(self.shards)]

    @classmethod
    def from_wire(cls, body: Any) -> ShardMap:
        """The inverse of `to_wire`; raises `Malformed`."""
        try:
            cluster, version, members, *columns = body
            return cls(
                int(cluster),
                int(version),
                {member.boot: member for member in _members_in(members)},
                tuple(_shards_in(*columns)),
            )
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise Malformed(f"a shard map does not parse: {error}") from error


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed from map version `base` to `version`: entries of shards, members added or altered, members gone."""

    cluster: int
    base: int
    version: int
    shards: Mapping[int, Shard]
    members: tuple[Member, ...] = ()
    removed: tuple[int, ...] = ()

    def to_wire(self) -> list[Any]:
        """As a MessagePack body."""
        numbers = sorted(self.shards)
        return [
            self.cluster,
            self.base,
            self.version,
            _members_out(self.members),
            list(self.removed),
            pack_u64(numbers),
            *_shards_out([self.shards[number] for number in numbers]),
        ]

    @classmethod
    def from_wire(cls, body: Any) -> Delta:
        """The inverse of `to_wire`; raises `Malformed`."""
        try:
            cluster, base, version, members, removed, numbers, *columns = body
            shards = dict(zip(unpack_u64(numbers), _shards_in(*columns), strict=True))
            return cls(
                int(cluster), int(base), int(version), shards, tuple(_members_in(members)), tuple(map(int, removed))
            )
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise Malformed(f"a map delta does not parse: {error}") from error


_PLAIN: Final = Shard(0, 0, ())[3:]
"""What most entries have for learners, wait list, birth and withholding: it does not travel."""


def _members_out(members: Iterable[Member]) -> list[list[Any]]:
    return [list(member) for member in members]


def _members_in(rows: Any) -> list[Member]:
    members = []
    for boot, name, endpoint, zone, weight, state, draining in rows:
        about = str(name), str(endpoint), str(zone), float(weight), int(state), bool(draining)
        members.append(Member(int(boot), *about))
    return members


def _shards_out(shards: Iterable[Shard]) -> list[Any]:
    """Columns: epochs, map versions of the last change, index into the table of sets, the table, rare extras."""
    shards = list(shards)
    table: dict[tuple[int, ...], int] = {}
    chosen = [table.setdefault(shard.replicas, len(table)) for shard in shards]
    extras = [
        [position, list(shard.learners), list(shard.wait), shard.born, shard.withheld]
        for position, shard in enumerate(shards)
        if shard[3:] != _PLAIN
    ]
    return [
        pack_u64([shard.epoch for shard in shards]),
        pack_u64([shard.changed for shard in shards]),
        pack_u64(chosen),
        [pack_u64(replicas) for replicas in table],
        extras,
    ]


def _shards_in(epochs: object, changed: object, chosen: object, table: Any, extras: Any) -> list[Shard]:
    sets = [tuple(unpack_u64(row)) for row in table]
    if not all(sets):
        raise Malformed("a shard without replicas")
    shards = [
        Shard(epoch, version, sets[position])
        for epoch, version, position in zip(unpack_u64(epochs), unpack_u64(changed), unpack_u64(chosen), strict=True)
    ]
    for position, learners, wait, born, withheld in extras:
        epoch, version, replicas = shards[position][:3]
        filling, waiting = tuple(map(int, learners)), tuple(map(int, wait))
        shards[position] = Shard(epoch, version, replicas, filling, waiting, int(born), bool(withheld))
    return shards
