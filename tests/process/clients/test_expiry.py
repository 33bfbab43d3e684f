"""Keys that expire, with every face. No test waits for a certain time: it waits until what must happen has happened."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from tests.process.support import eventually
from zkv import Client, UsageError

pytestmark = pytest.mark.process

LONG_S = 3600.0


def lives(kv: Client, key: str) -> bool:
    """Whether a key has a time to live, and one that was given to it here."""
    left_s = kv.ttl(key)
    return left_s is not None and 0 < left_s <= LONG_S


def test_a_key_expires(kv: Client) -> None:
    put = kv.put("key", 1, ttl_s=0.05)
    eventually(lambda: not kv.exists("key"), "the key expires")
    assert kv.get("key") is None
    assert kv.entry("key") is None
    assert kv.ttl("key") is None
    assert kv.keys() == []
    assert (kv.count(), list(kv.scan())) == (0, [])
    assert not kv.delete("key").existed
    again = kv.put("key", 2, if_absent=True)
    assert again is not None
    assert again.version > put.version
    assert kv.ttl("key") == inf


def test_every_write_that_takes_a_time_to_live(kv: Client) -> None:
    put = kv.put("put", 1, ttl_s=LONG_S)
    assert kv.cas("put", 2, version=put.version, ttl_s=LONG_S) is not None
    assert kv.put("absent", 1, if_absent=True, ttl_s=LONG_S) is not None
    assert kv.put("absent", 1, if_present=True, ttl_s=LONG_S) is not None
    kv.getset("getset", 1, ttl_s=LONG_S)
    kv.mput({"a": 1, "b": 2}, ttl_s=LONG_S)
    assert all(lives(kv, key) for key in ("put", "absent", "getset", "a", "b"))
    assert kv.ttl("none such") is None


def test_what_clears_a_time_to_live_and_what_keeps_it(kv: Client) -> None:
    for key in ("put", "cas", "getset", "incr", "append"):
        kv.put(key, "" if key == "append" else 0, ttl_s=LONG_S)
    entry = kv.entry("cas")
    assert entry is not None
    kv.put("put", 1)
    kv.cas("cas", 1, version=entry.version)
    kv.getset("getset", 1)
    kv.incr("incr")
    kv.append("append", "text")
    assert [kv.ttl(key) for key in ("put", "cas", "getset")] == [inf, inf, inf]
    assert lives(kv, "incr")
    assert lives(kv, "append")
    assert kv.mget(["incr", "append"]) == [1, "text"]


def test_touch_and_persist(kv: Client) -> None:
    put = kv.put("key", {"a": 1})
    touched = kv.touch("key", LONG_S)
    assert touched is not None
    assert touched.version > put.version
    assert touched.server == put.server
    assert lives(kv, "key")
    persisted = kv.persist("key")
    assert persisted is not None
    assert persisted.version > touched.version
    assert kv.ttl("key") == inf
    assert kv.get("key") == {"a": 1}
    assert kv.touch("none such", 1) is None
    assert kv.persist("none such") is None
    assert not kv.exists("none such")
    kv.touch("key", 0.001)
    eventually(lambda: kv.get("key") is None, "the key expires")
    assert kv.persist("key") is None


def test_in_a_pipeline(kv: Client) -> None:
    p: Any = kv.pipeline()
    p.put("a", 1, ttl_s=LONG_S)
    p.put("b", 1)
    kept, expiring = p.ttl("b"), p.ttl("a")
    p.touch("b", LONG_S)
    p.persist("a")
    swapped = p.ttl("b"), p.ttl("a")
    p.touch("none such", 1)
    results = p.execute()
    assert kept.result() == inf
    assert 0 < expiring.result() <= LONG_S
    assert 0 < swapped[0].result() <= LONG_S
    assert swapped[1].result() == inf
    assert results[-1] is None


@pytest.mark.parametrize("ttl_s", [0, -1, 0.0009, nan, inf, 1e12, "5"])
def test_times_to_live_that_cannot_be(kv: Client, ttl_s: Any) -> None:
    for wrong in (
        lambda: kv.put("key", 1, ttl_s=ttl_s),
        lambda: kv.mput({"key": 1}, ttl_s=ttl_s),
        lambda: kv.getset("key", 1, ttl_s=ttl_s),
        lambda: kv.cas("key", 1, version=0, ttl_s=ttl_s),
        lambda: kv.touch("key", ttl_s),
        lambda: kv.pipeline().put("key", 1, ttl_s=ttl_s),
    ):
        with pytest.raises(UsageError, match="ttl_s"):
            wrong()
    with pytest.raises(UsageError, match="persist"):
        kv.touch("key", None)  # type: ignore[arg-type]
    assert not kv.exists("key")
