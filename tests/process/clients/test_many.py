"""Operations on many keys, pipelines and lists of keys, with every face; and `Map`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.process.clients.faces import Face
from zkv import Client, DeleteResult, LocalCluster, Map, PutResult, TooLarge, UsageError, WrongType

pytestmark = pytest.mark.process


# --- columns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 64, 65, 5000])  # few travel with others, many alone, very many in several batches
def test_results_come_in_the_order_of_the_keys(kv: Client, cluster: LocalCluster, count: int) -> None:
    keys = [f"key{number}" for number in range(count)]
    stored = kv.mput({key: number for number, key in enumerate(keys)})
    assert all(type(result) is PutResult and result.server in cluster.names for result in stored)
    assert kv.mget(keys) == list(range(count))
    assert kv.mget([*reversed(keys), "missing"], -1) == [*reversed(range(count)), -1]
    for index in (0, count // 2, count - 1):
        entry = kv.entry(keys[index])
        assert entry is not None
        assert stored[index] == (entry.version, entry.server)
    half = keys[::2]
    assert [result.existed for result in kv.mdelete([*half, "missing"])] == [*[True] * len(half), False]
    assert kv.mget(keys) == [None if number % 2 == 0 else number for number in range(count)]


def test_columns_of_any_types(kv: Client) -> None:
    items: dict[str | bytes, Any] = {"a": None, b"a": b"x", "ü": [1, (2,)], "n": 1.5, "t": True, "": "empty"}
    kv.mput(items)
    assert kv.mget(list(items)) == list(items.values())
    assert [type(value) for value in kv.mget(("t", b"a"))] == [bool, bytes]
    assert kv.mget(iter(["n", "t"])) == [1.5, True]  # type: ignore[arg-type]  # works all the same


def test_empty_columns(kv: Client) -> None:
    assert kv.mget([]) == []
    assert kv.mput({}) == []
    assert kv.mdelete([]) == []
    assert kv.mget([], return_exceptions=True) == []
    with kv.pipeline() as pipeline:
        pass
    assert pipeline.results == []
    assert kv.pipeline().execute() == []


def test_a_key_that_is_named_twice(kv: Client) -> None:
    put = kv.put("key", 1)
    assert kv.mget(["key", "missing", "key"]) == [1, None, 1]
    twice = kv.mdelete(["key", "other", "key"])
    assert [result.existed for result in twice] == [True, False, False]
    assert twice[0].version == twice[2].version > put.version
    assert isinstance(twice[0], DeleteResult)


def test_return_exceptions_changes_nothing_where_there_are_none(kv: Client) -> None:
    assert len(kv.mput({"a": 1, "b": 2}, return_exceptions=True)) == 2
    assert kv.mget(["a", "b", "c"], 0, return_exceptions=True) == [1, 2, 0]
    assert [result.existed for result in kv.mdelete(["a", "c"], return_exceptions=True)] == [True, False]


def test_a_large_column_by_bytes(kv: Client) -> None:
    value = bytes(400_000)  # two fill a batch
    kv.mput({f"key{number}": value for number in range(20)})
    assert kv.mget([f"key{number}" for number in range(20)]) == [value] * 20


# --- pipelines -----------------------------------------------------------------------------------------------------


def test_every_operation_in_a_pipeline(kv: Client, cluster: LocalCluster) -> None:
    seen = kv.put("seen", 1)
    with kv.pipeline(timeout_s=30.0, ack="all") as p:
        put = p.put("key", "a")
        absent = p.put("key", "b", if_absent=True)
        got, missing = p.get("key"), p.get("missing", "default")
        entry, exists = p.entry("key"), p.exists("missing")
        cas, late = p.cas("seen", 2, version=seen.version), p.cas("seen", 3, version=seen.version)
        before, none = p.getset("key", "c"), p.getset("new", 1, default="nobody")
        length = p.append("key", "d")
        total = p.incr("count", 2.5)
        gone, unmet = p.delete("new"), p.delete("seen", if_version=seen.version)
        assert len(p) == 14
        assert kv.get("key") is None  # nothing has been sent
    assert len(p) == 0
    stored = put.result()
    assert stored is not None
    assert stored.server in cluster.names
    assert absent.result() is None
    assert (got.result(), missing.result()) == ("a", "default")
    assert entry.result() == ("key", "a", stored.version, stored.server)
    assert exists.result() is False
    assert cas.result() is not None
    assert late.result() is None
    assert (before.result(), none.result(), length.result(), total.result()) == ("a", "nobody", 2, 2.5)
    removed = gone.result()
    assert removed is not None
    assert removed.existed
    assert unmet.result() is None
    assert p.results == [
        handle.result()
        for handle in (
            put, absent, got, missing, entry, exists, cas, late, before, none, length, total, gone, unmet,
        )
    ]  # fmt: skip
    assert kv.mget(["key", "seen", "count", "new"]) == ["cd", 2, 2.5, None]


def test_operations_on_one_key_take_effect_in_their_order(kv: Client) -> None:
    with kv.pipeline() as p:
        for number in range(3000):  # several batches to one node
            p.append("log", f"{number},")
            p.incr(f"n{number % 7}")
            p.get(f"n{number % 7}")
    assert kv.get("log") == "".join(f"{number}," for number in range(3000))
    counted = p.results[1::3]
    assert counted == p.results[2::3] == [number // 7 + 1 for number in range(3000)]
    lengths = p.results[0::3]
    assert lengths == sorted(lengths)


def test_errors_of_single_operations(kv: Client) -> None:
    kv.mput({"text": "a", "big": 2**64 - 1})
    p = kv.pipeline()
    with pytest.raises(WrongType, match="'text'"), p:  # the first of them
        before, wrong, large, after = p.incr("n"), p.incr("text"), p.incr("big"), p.incr("n")
    assert (before.result(), after.result(), kv.get("n")) == (1, 2, 2)
    with pytest.raises(WrongType, match="'text'") as first:
        wrong.result()
    with pytest.raises(TooLarge, match="'big'") as second:
        large.result()
    assert p.results == [1, first.value, second.value, 2]
    with kv.pipeline(return_exceptions=True) as p:
        p.append("text", b"bytes")
        p.append("text", "b")
    assert [type(result) for result in p.results] == [WrongType, int]
    assert kv.get("text") == "ab"


def test_results_before_sending(kv: Client) -> None:
    p = kv.pipeline()
    handle = p.put("key", 1)
    with pytest.raises(UsageError, match="has not been sent"):
        handle.result()
    assert repr(handle) == "<Handle: not sent>"
    assert p.results == []
    assert p.execute() == [handle.result()]
    assert repr(handle) == f"<Handle: {handle.result()!r}>"
    later = p.incr("text")
    assert p.execute() == [1] == [later.result()]  # each time what was queued since
    assert p.execute() == []


def test_a_block_that_fails_sends_nothing(kv: Client) -> None:
    p = kv.pipeline()
    with pytest.raises(ZeroDivisionError), p:  # noqa: PT012
        handle = p.put("key", 1)
        raise ZeroDivisionError
    assert kv.get("key") is None
    with pytest.raises(UsageError, match="has not been sent"):
        handle.result()


def test_a_mistake_leaves_the_rest_of_a_pipeline_as_it_is(kv: Client) -> None:
    with kv.pipeline() as p:
        p.put("key", 1)
        with pytest.raises(UsageError):
            p.put("key", {1, 2})
        p.incr("key")
    assert p.results[1:] == [2]


def test_a_pipeline_of_a_client_that_reads_anywhere_reads_what_it_wrote(
    kv: Client, face: Face, cluster: LocalCluster
) -> None:
    with face.open(cluster.manager, timeout_s=30.0, read="stale") as reader:
        for number in range(50):
            with reader.pipeline() as p:
                p.put("key", number)
                p.get("key")
            assert p.results[1] == number


# --- lists of keys -------------------------------------------------------------------------------------------------


def test_keys_by_prefix(kv: Client) -> None:
    kv.mput({"user:1": 1, "user:2": None, "users": 3, "übung": 6, "gone": 7})
    kv.mput({b"user:1": 4, b"\xff": 5})
    kv.delete("gone")
    assert sorted(kv.keys("user:")) == ["user:1", "user:2"]
    assert sorted(kv.keys("user")) == ["user:1", "user:2", "users"]
    assert kv.keys("ü") == ["übung"]
    assert sorted(kv.keys()) == ["user:1", "user:2", "users", "übung"]
    assert kv.keys(b"user") == [b"user:1"]
    assert sorted(kv.keys(b"")) == [b"user:1", b"\xff"]
    assert kv.keys("none such", timeout_s=30.0) == []


def test_more_keys_than_fit_a_page(kv: Client) -> None:
    keys = [f"key{number}" for number in range(20_000)]  # 1250 in each of the 16 shards, 512 to a page
    kv.mput(dict.fromkeys(keys, 0))
    kv.mput(dict.fromkeys(map(str.encode, keys[:5000]), 0))
    assert sorted(kv.keys("key")) == sorted(keys)
    assert sorted(kv.keys("key1")) == sorted(key for key in keys if key.startswith("key1"))
    assert len(kv.keys(b"key")) == 5000


# --- Map -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def map_client(cluster: LocalCluster, housekeeper: Client) -> Client:
    """A blocking client, the only face with a `Map`; of a cluster without keys."""
    housekeeper.mdelete(housekeeper.keys())
    return housekeeper


def test_a_map_is_a_mutable_mapping(map_client: Client) -> None:
    users = Map(map_client, "user:")
    map_client.put("other", 1)
    assert (len(users), list(users), dict(users), bool(users)) == (0, [], {}, False)
    users["ada"] = {"born": 1815}
    users[""] = None
    assert users["ada"] == {"born": 1815}
    assert map_client.get("user:ada") == {"born": 1815}
    assert users.get("nobody", "default") == "default"
    assert users.get("", "default") is None
    assert "ada" in users
    assert "" in users
    assert "nobody" not in users
    assert 5 not in users  # type: ignore[comparison-overlap]
    assert sorted(users) == ["", "ada"]
    assert sorted(users.keys()) == ["", "ada"]
    assert users == {"": None, "ada": {"born": 1815}}
    assert users.setdefault("ada", 1) == {"born": 1815}
    assert users.setdefault("bob", 1) == 1
    assert users.setdefault("", 1) is None
    assert users["bob"] == 1
    del users["bob"]
    assert users.pop("bob", "default") == "default"
    assert users.pop("", "default") is None
    assert users.popitem() == ("ada", {"born": 1815})
    users.update({"a": 1, "b": 2}, c=3)
    users.update([("d", 4)])
    assert sorted(users.values()) == [1, 2, 3, 4]
    assert sorted(users.items()) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    users.clear()
    assert len(users) == 0
    assert map_client.keys() == ["other"]
    assert "user:" in repr(users)


def test_what_is_missing_in_a_map(map_client: Client) -> None:
    users = Map(map_client, "user:")
    with pytest.raises(KeyError, match="nobody"):
        users["nobody"]
    with pytest.raises(KeyError, match="nobody"):
        del users["nobody"]
    with pytest.raises(KeyError, match="nobody"):
        users.pop("nobody")
    with pytest.raises(KeyError):
        users.popitem()


def test_a_map_of_many_keys(map_client: Client) -> None:
    numbers = Map(map_client, "number:")
    numbers.update({str(number): number for number in range(9000)})
    assert len(numbers) == 9000
    assert sorted(map(int, numbers)) == list(range(9000))
    numbers.clear()
    assert not list(numbers)


@pytest.mark.parametrize("prefix", ["", b"user:", None])
def test_a_map_needs_a_prefix(map_client: Client, prefix: Any) -> None:
    with pytest.raises(UsageError, match="prefix"):
        Map(map_client, prefix)


def test_keys_of_a_map_are_str(map_client: Client) -> None:
    users = Map(map_client, "user:")
    for key in (5, b"ada", None):
        with pytest.raises(UsageError, match="str"):
            users[key] = 1  # type: ignore[index]
        with pytest.raises(UsageError, match="str"):
            users.get(key)  # type: ignore[call-overload]
