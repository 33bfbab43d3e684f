"""Scans, counts and flushes, with every face: each key that lives throughout is seen exactly once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.process.clients.faces import Awaited, Face
from tests.process.support import WAIT_S
from zkv import Client, Entry, LocalCluster, Map, UsageError
from zkv.client.scanning import ShardPage
from zkv.core import wire

pytestmark = pytest.mark.process

MANY = 20_000
"""Keys that take several pages of each of the 16 shards."""


def test_scan_shows_what_entry_shows(kv: Client) -> None:
    stored: dict[str | bytes, Any] = {"user:1": {"a": (1, None)}, "user:2": None, "users": 3, b"user:1": b"x"}
    kv.mput(stored)
    kv.put("user:gone", 1)
    kv.delete("user:gone")
    found = {entry.key: entry for entry in kv.scan("user:")}
    assert found == {key: kv.entry(key) for key in ("user:1", "user:2")}
    assert sorted(str(entry.key) for entry in kv.scan()) == ["user:1", "user:2", "users"]
    assert [(entry.key, entry.value) for entry in kv.scan(b"")] == [(b"user:1", b"x")]
    assert list(kv.scan("none such", timeout_s=30.0)) == []


def test_counts_and_flushes(kv: Client) -> None:
    stored: dict[str | bytes, int] = {"user:1": 1, "user:2": 2, "other": 3, b"user:1": 4}
    kv.mput(stored)
    assert [kv.count(prefix) for prefix in ("user:", "", b"", "none such")] == [2, 3, 1, 0]
    assert kv.flush("none such") == 0
    assert kv.flush("user:") == 2
    assert (kv.keys(), kv.keys(b"")) == (["other"], [b"user:1"])
    assert (kv.flush(), kv.flush(b"")) == (1, 1)
    assert (kv.count(), kv.count(b"")) == (0, 0)


def test_more_than_fits_a_page(kv: Client) -> None:
    keys = {f"key{number}": number for number in range(MANY)}
    kv.mput(keys)
    assert kv.count("key") == MANY
    entries = list(kv.scan("key"))
    assert len(entries) == MANY
    assert {entry.key: entry.value for entry in entries} == keys
    assert kv.flush("key1") == sum(key.startswith("key1") for key in keys)
    assert kv.count("key") == sum(not key.startswith("key1") for key in keys)
    assert kv.flush() == sum(not key.startswith("key1") for key in keys)


def test_values_that_no_reply_has_room_for_all_of(kv: Client) -> None:
    stored = {f"key{number}": bytes(200_000) + bytes([number]) for number in range(60)}
    kv.mput(stored)
    seen = Counter(entry.key for entry in kv.scan())
    assert set(seen.values()) == {1}
    assert {entry.key: entry.value for entry in kv.scan()} == stored


def test_a_scan_that_is_left_and_one_that_goes_on_while_keys_change(kv: Client) -> None:
    kv.mput({f"key{number}": 0 for number in range(MANY)})
    kv.mput({f"gone{number}": 0 for number in range(1000)})
    for entry in kv.scan():
        assert entry.value == 0
        break
    seen: Counter[Any] = Counter()
    for number, entry in enumerate(kv.scan()):
        seen[entry.key] += 1
        if number % 4000 == 0:
            kv.mput({f"new{number}:{place}": 0 for place in range(2000)})
            kv.mdelete([f"gone{place}" for place in range(number // 20, number // 20 + 200)])
    assert all(seen[f"key{number}"] == 1 for number in range(MANY))
    assert max(seen.values()) == 1


@pytest.mark.slow
def test_every_key_that_lives_is_seen_once_while_nodes_die_and_shards_move(face: Face) -> None:
    with LocalCluster(nodes=5, replicas=3, shards=64) as cluster, face.open(cluster.manager, timeout_s=WAIT_S) as kv:
        keys = {f"key{number}" for number in range(MANY)}
        kv.mput(dict.fromkeys(keys, 1))
        seen: Counter[Any] = Counter()
        for number, entry in enumerate(kv.scan("key")):
            seen[entry.key] += 1
            if number == MANY // 4:
                cluster.kill(entry.server)
                cluster.wait_healthy()
            if number == MANY // 2:
                cluster.drain(next(name for name in cluster.names if name != entry.server))
        assert seen == Counter(keys)
        assert kv.count("key") == MANY
        assert kv.flush("key") == MANY


def test_pages_of_shards(kv: Client) -> None:
    """What others build on: pages as they travel."""
    kv.mput({f"key{number}": (number, None) for number in range(3000)}, ttl_s=3600)
    pages: dict[int, list[ShardPage]] = {shard: [] for shard in range(16)}
    position = dict.fromkeys(range(16), 0)
    while position:
        left = {}
        for shard, page in kv._scan_page(wire.SCAN_FROZEN, "key", position, 7).items():
            if page.keys:  # else there was no time or no room for this shard
                pages[shard].append(page)
            if page.next is not None:
                left[shard] = page.next
        position = left
    found = [page for of_shard in pages.values() for page in of_shard]
    assert sum(len(page.keys) for page in found) == 3000
    for page in found:
        assert len(page.keys) == len(page.versions) == len(page.values) == len(page.expiries)
        assert all(expiry > 0 for expiry in page.expiries)
        assert all(version <= page.version for version in page.versions)
        assert page.server in ("server1", "server2", "server3")
    for of_shard in pages.values():
        assert len({page.version for page in of_shard}) == 1
    inner = kv.inner if isinstance(kv, Awaited) else kv
    entries = [entry for page in found for entry in inner._entries(page)]
    assert {entry.key: entry.value for entry in entries} == {f"key{number}": (number, None) for number in range(3000)}
    assert all(type(entry) is Entry for entry in entries)


@pytest.mark.parametrize("prefix", [5, None, "x" * 5000])
def test_prefixes_that_cannot_be(kv: Client, prefix: Any) -> None:
    for method in (kv.scan, kv.count, kv.flush, kv.keys, kv.watch):
        with pytest.raises(UsageError):
            method(prefix)


def test_a_map_goes_through_keys_and_values(cluster: LocalCluster, housekeeper: Client) -> None:
    """A blocking client's; pages of both instead of a question for each key."""
    numbers = Map(housekeeper, "number:")
    numbers.update({str(number): number for number in range(2000)})
    with cluster.client() as kv:
        numbers = Map(kv, "number:")
        assert sorted(numbers.values()) == list(range(2000))
        assert dict(numbers.items()) == {str(number): number for number in range(2000)}
        assert kv.stats()["operations"] < 2000
        assert ("5", 5) in numbers.items()
        assert 7 in numbers.values()
        numbers.clear()
    assert housekeeper.count("number:") == 0
