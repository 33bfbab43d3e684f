"""Operations on one key, with every face: what they return, what they refuse, and what they say when they fail."""

from __future__ import annotations

from typing import Any

import pytest

from tests.process.clients.faces import Face
from zkv import (
    Client,
    DeleteResult,
    Entry,
    LocalCluster,
    PutResult,
    TooLarge,
    UsageError,
    WrongType,
)

pytestmark = pytest.mark.process

INT_HIGH = 2**64 - 1
INT_LOW = -(2**63)
VALUE_LIMIT_BYTES = 16 * 2**20


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> str:
    """A key that nobody ever wrote: the others may have tombstones."""
    return f"fresh:{request.node.name}"


# --- reading -------------------------------------------------------------------------------------------------------


def test_get_entry_and_exists(kv: Client, cluster: LocalCluster) -> None:
    put = kv.put("key", {"a": [1, (2, None)]})
    assert isinstance(put, PutResult)
    assert put.server in cluster.names
    assert kv.get("key") == {"a": [1, (2, None)]}
    entry = kv.entry("key")
    assert entry == Entry("key", {"a": [1, (2, None)]}, put.version, put.server)
    assert kv.exists("key") is True
    assert kv.locate("key") == put.server


def test_what_is_missing_has_defaults(kv: Client) -> None:
    assert kv.get("key") is None
    assert kv.get("key", "default") == "default"
    assert kv.get("key", default=7) == 7
    assert kv.entry("key") is None
    assert kv.exists("key") is False
    assert kv.getset("key", 1) is None
    assert kv.delete("key").existed
    assert kv.getset("key", 2, "nobody") == "nobody"
    assert kv.getset("key", 3, "nobody") == 2
    assert kv.get("key") == 3


def test_none_is_a_value_and_not_the_lack_of_one(kv: Client) -> None:
    kv.put("key", None)
    assert kv.get("key", "default") is None
    assert kv.mget(["key", "missing"], "default") == [None, "default"]
    assert kv.exists("key")
    entry = kv.entry("key")
    assert entry is not None
    assert entry.value is None
    assert kv.put("key", 1, if_absent=True) is None
    assert kv.getset("key", 2, "default") is None
    assert kv.get("key") == 2


@pytest.mark.parametrize("key", ["", "key", "schlüssel", "k" * 4096, b"", b"\x00\xff", b"k" * 4096])
def test_keys_that_can_be(kv: Client, key: str | bytes) -> None:
    kv.put(key, "value")
    assert kv.get(key) == "value"
    other = key.encode() if isinstance(key, str) else key.decode("latin-1")
    assert kv.get(other) is None  # distinct, as in a dict
    assert kv.keys(key) == [key]
    assert kv.delete(key).existed


@pytest.mark.parametrize("options", [{"read": "any"}, {"read": "any", "hedge": True}, {"read": "any", "sticky": True}])
def test_any_replica_shows_what_was_written(
    kv: Client, face: Face, cluster: LocalCluster, options: dict[str, Any]
) -> None:
    with face.open(cluster.manager, timeout_s=30.0, **options) as reader:
        for number in range(50):
            put = kv.put("key", number)
            assert reader.get("key") == number
            entry = reader.entry("key")
            assert entry is not None
            assert entry[1:3] == (number, put.version)
            assert entry.server in cluster.names
            assert reader.mget(["key", "missing"]) == [number, None]
        assert reader.get("key", read="primary") == 49
        assert reader.get("missing", 0) == 0


def test_stale_reads_show_what_was_committed(kv: Client, face: Face, cluster: LocalCluster) -> None:
    versions = [kv.put("key", number).version for number in range(20)]
    with face.open(cluster.manager, timeout_s=30.0, read="stale", hedge=True, sticky=True) as reader:
        for _ in range(50):
            entry = reader.entry("key")
            assert entry is None or entry.version == versions[entry.value]
        assert reader.get("key", read="any") == 19
    assert kv.get("key", read="stale") in (None, *range(20))
    assert kv.mget(["key"], read="any") == [19]


# --- writing -------------------------------------------------------------------------------------------------------


def test_versions_grow_with_every_change(kv: Client) -> None:
    versions = [kv.put("key", 1).version, kv.put("key", 1).version]
    kv.incr("key")
    versions.append(_version(kv))
    kv.getset("key", "a")
    versions.append(_version(kv))
    kv.append("key", "b")
    versions.append(_version(kv))
    versions.append(kv.delete("key").version)
    versions.append(kv.put("key", 1).version)
    assert versions == sorted(set(versions))


def _version(kv: Client) -> int:
    entry = kv.entry("key")
    assert entry is not None
    return entry.version


def test_put_under_conditions(kv: Client) -> None:
    assert kv.put("key", 1, if_present=True) is None
    assert kv.get("key") is None
    first = kv.put("key", 2, if_absent=True)
    assert first is not None
    assert kv.put("key", 3, if_absent=True) is None
    assert kv.get("key") == 2
    second = kv.put("key", 4, if_present=True)
    assert second is not None
    assert kv.put("key", 5, if_version=first.version) is None
    assert kv.put("key", 5, if_version=0) is None
    assert _version(kv) == second.version  # nothing was written
    third = kv.put("key", 6, if_version=second.version)
    assert third is not None
    assert third.version > second.version
    assert kv.get("key") == 6
    # Conditions that are switched off are none.
    assert kv.put("key", 7, if_absent=False, if_present=False, if_version=None) is not None


def test_version_of_what_is_missing(kv: Client, fresh: str) -> None:
    assert kv.put(fresh, 1, if_version=1) is None
    assert kv.delete(fresh, if_version=0) is None
    assert kv.delete(fresh)[:2] == (False, 0)
    assert kv.put(fresh, 1, if_version=0) is not None
    tomb = kv.delete(fresh)
    assert kv.delete(fresh)[:2] == (False, tomb.version)
    assert kv.delete(fresh, if_version=tomb.version) is None
    written = kv.put(fresh, 2, if_version=tomb.version)  # "as it was when I saw it deleted"
    assert written is not None
    assert written.version > tomb.version
    kv.delete(fresh)
    assert kv.put(fresh, 3, if_version=tomb.version) is None
    assert kv.put(fresh, 3, if_version=0) is not None


def test_cas(kv: Client, fresh: str) -> None:
    first = kv.cas(fresh, "a", version=0)
    assert first is not None
    assert kv.cas(fresh, "b", version=0) is None
    assert kv.cas(fresh, "b", version=first.version) is not None
    assert kv.cas(fresh, "c", version=first.version) is None
    assert kv.get(fresh) == "b"


def test_delete(kv: Client, cluster: LocalCluster) -> None:
    put = kv.put("key", 1)
    assert kv.delete("key", if_version=put.version + 1) is None
    assert kv.get("key") == 1
    gone = kv.delete("key", if_version=put.version)
    assert isinstance(gone, DeleteResult)
    assert gone.existed
    assert gone.version > put.version
    assert gone.server in cluster.names
    assert not kv.exists("key")
    assert kv.keys() == []


def test_incr(kv: Client) -> None:
    assert kv.incr("key") == 1
    assert kv.incr("key", 10) == 11
    assert kv.incr("key", -1) == 10
    half = kv.incr("key", 0.5)
    assert (half, type(half)) == (10.5, float)
    whole = kv.incr("key", 1)
    assert (whole, type(whole)) == (11.5, float)
    assert kv.get("key") == 11.5
    assert kv.incr("other", 2.5) == 2.5
    assert kv.incr("big", INT_HIGH - 1) == INT_HIGH - 1
    assert kv.incr("big") == INT_HIGH
    assert kv.incr("small", INT_LOW) == INT_LOW


@pytest.mark.parametrize(
    ("value", "by", "error"),
    [(INT_HIGH, 1, TooLarge), (INT_LOW, -1, TooLarge), (1.7e308, 1.7e308, TooLarge), ("1", 1, WrongType),
     (b"1", 1, WrongType), (True, 1, WrongType), (None, 1, WrongType), ([1], 1, WrongType)],
)  # fmt: skip
def test_incr_that_cannot_be(kv: Client, value: Any, by: float, error: type[Exception]) -> None:
    put = kv.put("key", value)
    with pytest.raises(error, match="'key'") as raised:
        kv.incr("key", by)
    assert raised.value.outcome_unknown is False  # type: ignore[attr-defined]
    assert kv.entry("key") == Entry("key", value, put.version, put.server)


def test_append(kv: Client) -> None:
    assert kv.append("text", "grün") == 4  # characters
    assert kv.append("text", "") == 4
    assert kv.append("text", "𝄞") == 5
    assert kv.get("text") == "grün𝄞"
    assert kv.append("data", b"\xff") == 1
    assert kv.append("data", "grün".encode()) == 6  # bytes
    assert kv.get("data") == b"\xff" + "grün".encode()


@pytest.mark.parametrize(("value", "piece"), [("a", b"b"), (b"a", "b"), (1, "b"), (None, "b"), (["a"], "b")])
def test_append_to_another_type(kv: Client, value: Any, piece: str | bytes) -> None:
    kv.put("key", value)
    with pytest.raises(WrongType, match="'key'"):
        kv.append("key", piece)
    assert kv.get("key") == value


def test_append_of_too_much(kv: Client) -> None:
    kv.put("data", bytes(VALUE_LIMIT_BYTES - 1))
    kv.put("text", "ü" * (VALUE_LIMIT_BYTES // 2))
    with pytest.raises(TooLarge, match="'data'"):
        kv.append("data", b"ab")
    with pytest.raises(TooLarge, match="'text'"):  # the limit counts bytes
        kv.append("text", "a")
    assert kv.append("data", b"a") == VALUE_LIMIT_BYTES
    assert kv.append("text", "") == VALUE_LIMIT_BYTES // 2
    assert kv.mdelete(["data", "text"])[0].existed


def test_acknowledgement_levels(kv: Client, face: Face, cluster: LocalCluster) -> None:
    assert kv.put("key", 1, ack="primary").version > 0
    assert kv.incr("key", ack="all") == 2
    assert kv.append("text", "a", ack="primary") == 1
    assert [type(result) for result in kv.mput({"a": 1, "b": 2}, ack="primary")] == [PutResult, PutResult]
    with face.open(cluster.manager, timeout_s=30.0, ack="primary") as hasty:
        assert hasty.put("key", 5).version > 0
        assert hasty.delete("key", ack="all").existed
    assert kv.get("key") is None


# --- raw -----------------------------------------------------------------------------------------------------------


def test_raw_clients(kv: Client, face: Face, cluster: LocalCluster) -> None:
    with face.open(cluster.manager, timeout_s=30.0, raw=True) as raw:
        for value in (b"bytes", bytearray(b"bytes"), memoryview(b"bytes")):
            raw.put("key", value)
            assert raw.get("key") == b"bytes"
            assert kv.get("key") == b"bytes"
        assert raw.append("key", b"!") == 6
        assert raw.getset("key", b"new") == b"bytes!"
        assert raw.getset("missing", b"new", b"none") == b"none"
        raw.mput({"a": bytearray(b"1"), "b": b"2"})
        assert raw.mget(["a", "b", "c"], b"") == [b"1", b"2", b""]
        assert raw.incr("number", 5) == 5
        for bad in ("str", 5, None, ["list"]):
            with pytest.raises(UsageError, match="bytes"):
                raw.put("key", bad)
            with pytest.raises(UsageError, match="bytes"):
                raw.mput({"key": bad})
        assert raw.get("key") == b"new"
        kv.put("typed", "text")
        with pytest.raises(WrongType, match="str"):
            raw.get("typed")
        with raw.pipeline() as pipeline:
            stored, read = pipeline.put("key", b"piped"), pipeline.get("key")
        assert stored.result() is not None
        assert read.result() == b"piped"


def test_locks_of_raw_clients(kv: Client, face: Face, cluster: LocalCluster) -> None:
    with face.open(cluster.manager, timeout_s=30.0, raw=True) as raw:
        with raw.lock("job", ttl_s=60) as lock:
            assert lock.held
        with kv.lock("job", ttl_s=60) as lock:
            assert lock.held
