"""What type checkers see of the faces: this module is right if `mypy` says so, and needs no cluster.

The functions are never run; `assert_type` is checked by the repository's own mypy run, which `make lint` is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, assert_type

from zkv import AsyncClient, Client, DeleteResult, Entry, Event, Map, PutResult
from zkv.client.batches import AsyncPipeline, Handle, Pipeline
from zkv.client.coordination import AsyncLock, Lock
from zkv.client.watching import AsyncWatch, Watch


def blocking(kv: Client) -> None:
    assert_type(kv.get("key"), Any)
    assert_type(kv.entry("key"), Entry | None)
    assert_type(kv.exists(b"key"), bool)
    assert_type(kv.put("key", 1), PutResult)
    assert_type(kv.put("key", 1, timeout_s=1.0, ack="all"), PutResult)
    assert_type(kv.put("key", 1, if_absent=True), PutResult | None)
    assert_type(kv.put("key", 1, if_present=True, timeout_s=1.0), PutResult | None)
    assert_type(kv.put("key", 1, if_version=5), PutResult | None)
    assert_type(kv.cas("key", 1, version=5), PutResult | None)
    assert_type(kv.getset("key", 1), Any)
    assert_type(kv.delete("key"), DeleteResult)
    assert_type(kv.delete("key", if_version=5), DeleteResult | None)
    assert_type(kv.append("key", "a"), int)
    assert_type(kv.put("key", 1, ttl_s=1), PutResult)
    assert_type(kv.put("key", 1, if_absent=True, ttl_s=1.5), PutResult | None)
    assert_type(kv.touch("key", 1.5), PutResult | None)
    assert_type(kv.persist("key"), PutResult | None)
    assert_type(kv.ttl("key"), float | None)
    assert_type(kv.scan("prefix"), Iterator[Entry])
    assert_type(kv.count("prefix"), int)
    assert_type(kv.flush(b"prefix"), int)
    assert_type(kv.watch("prefix"), Watch)
    assert_type(kv.watch("prefix").poll(1.0), Event | None)
    assert_type(kv.watch("prefix").position, dict[str, Any])
    assert_type(next(kv.watch("prefix")), Event)
    assert_type(kv.mget(["a", "b"]), list[Any])
    assert_type(kv.mput({"a": 1}), list[PutResult])
    assert_type(kv.mput({b"a": 1}), list[PutResult])
    assert_type(kv.mdelete(["a", b"b"]), list[DeleteResult])
    assert_type(kv.locate("key"), str)
    assert_type(kv.keys("prefix"), list[str | bytes])
    assert_type(kv.stats(), dict[str, int])
    assert_type(kv.pipeline(), Pipeline)
    assert_type(kv.lock("name"), Lock)
    assert_type(kv.lock("name").acquire(), int)
    assert_type(kv.lock("name").token, int | None)
    with kv as same, kv.pipeline() as pipeline, kv.lock("name") as lock:
        assert_type(same, Client)
        assert_type(pipeline, Pipeline)
        assert_type(lock, Lock)
        assert_type(pipeline.execute(), list[Any])
    users: dict[str, Any] | Map = Map(kv, "user:")
    assert_type(users["ada"], Any)


async def awaiting(kv: AsyncClient) -> None:
    _ = assert_type(kv.get("key"), Coroutine[Any, Any, Any])
    __ = assert_type(kv.put("key", 1), Coroutine[Any, Any, PutResult])
    assert_type(await kv.entry("key"), Entry | None)
    assert_type(await kv.exists(b"key"), bool)
    assert_type(await kv.put("key", 1, timeout_s=1.0, ack="all"), PutResult)
    assert_type(await kv.put("key", 1, if_absent=True), PutResult | None)
    assert_type(await kv.put("key", 1, if_version=5), PutResult | None)
    assert_type(await kv.cas("key", 1, version=5), PutResult | None)
    assert_type(await kv.delete("key"), DeleteResult)
    assert_type(await kv.delete("key", if_version=5), DeleteResult | None)
    assert_type(await kv.append("key", "a"), int)
    assert_type(await kv.put("key", 1, ttl_s=1), PutResult)
    assert_type(await kv.touch("key", 1.5), PutResult | None)
    assert_type(await kv.ttl("key"), float | None)
    assert_type(kv.scan("prefix"), AsyncIterator[Entry])
    assert_type(await kv.count("prefix"), int)
    assert_type(await kv.flush(b"prefix"), int)
    assert_type(await kv.watch("prefix").poll(1.0), Event | None)
    assert_type(await kv.mget(["a", "b"]), list[Any])
    assert_type(await kv.mput({"a": 1}), list[PutResult])
    assert_type(await kv.mdelete(["a", b"b"]), list[DeleteResult])
    assert_type(await kv.locate("key"), str)
    assert_type(await kv.keys("prefix"), list[str | bytes])
    assert_type(kv.stats(), dict[str, int])
    assert_type(await kv.lock("name").acquire(), int)
    async with kv as same, kv.pipeline() as pipeline, kv.lock("name") as lock:
        assert_type(same, AsyncClient)
        assert_type(pipeline, AsyncPipeline)
        assert_type(lock, AsyncLock)
        assert_type(await pipeline.execute(), list[Any])
    async with kv.watch("prefix") as events:
        assert_type(events, AsyncWatch)
        async for event in events:
            assert_type(event, Event)


def queueing(p: Pipeline | AsyncPipeline) -> None:
    assert_type(p.get("key"), Handle[Any])
    assert_type(p.entry("key"), Handle[Entry | None])
    assert_type(p.exists("key").result(), bool)
    assert_type(p.put("key", 1).result(), PutResult | None)
    assert_type(p.cas("key", 1, version=5).result(), PutResult | None)
    assert_type(p.delete("key").result(), DeleteResult | None)
    assert_type(p.append("key", "a").result(), int)
    assert_type(p.touch("key", 1).result(), PutResult | None)
    assert_type(p.ttl("key").result(), float | None)


if TYPE_CHECKING:
    # What must not pass: an ignore that is not needed is an error of `mypy --strict`.

    def mistakes(kv: Client) -> None:
        kv.get(5)  # type: ignore[arg-type]
        kv.get("key", timeout_s="5")  # type: ignore[arg-type]
        kv.get("key", ack="all")  # type: ignore[call-arg]
        kv.put("key", 1, if_version="5")  # type: ignore[call-overload]
        kv.cas("key", 1)  # type: ignore[call-arg]
        kv.append("key", 5)  # type: ignore[arg-type]
        kv.mget(5)  # type: ignore[arg-type]
        kv.put("key", 1, ttl_s="5")  # type: ignore[call-overload]
        kv.touch("key")  # type: ignore[call-arg]


def test_types_are_checked_by_mypy() -> None:
    """That this module can be imported; the rest of it is for mypy."""
    assert all(callable(function) for function in (blocking, awaiting, queueing))
