"""Mistakes, with every face, which are refused before anything is sent; and calls that nobody answers."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from tests.process.clients.faces import Face
from zkv import Client, ClosedError, LocalCluster, ManagerUnreachable, UsageError

pytestmark = pytest.mark.process

VALUE_LIMIT_BYTES = 16 * 2**20


@pytest.fixture
def silent() -> Iterator[str]:
    """Endpoint of a manager that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


# --- mistakes ------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, Callable[[Any], Any]] = {
    "key of another type": lambda kv: kv.get(5),
    "key None": lambda kv: kv.put(None, 1),
    "key bytearray": lambda kv: kv.delete(bytearray(b"key")),
    "key of a subclass": lambda kv: kv.get(type("Name", (str,), {})("key")),
    "key too long": lambda kv: kv.incr("k" * 4097),
    "key too long as UTF-8": lambda kv: kv.exists("ü" * 2049),
    "key that is no Unicode": lambda kv: kv.entry("\ud800"),
    "value of another type": lambda kv: kv.put("key", {1, 2}),
    "value too large": lambda kv: kv.put("key", bytes(VALUE_LIMIT_BYTES + 1)),
    "value beyond 64 bits": lambda kv: kv.getset("key", 2**64),
    "value in mput": lambda kv: kv.mput({"key": 1, "other": object()}),
    "two conditions": lambda kv: kv.put("key", 1, if_absent=True, if_present=True),
    "a condition and a version": lambda kv: kv.put("key", 1, if_absent=True, if_version=0),
    "version negative": lambda kv: kv.put("key", 1, if_version=-1),
    "version too large": lambda kv: kv.cas("key", 1, version=2**64),
    "version bool": lambda kv: kv.put("key", 1, if_version=True),
    "version str": lambda kv: kv.delete("key", if_version="1"),
    "version None": lambda kv: kv.delete("key", if_version=1.0),
    "by bool": lambda kv: kv.incr("key", True),
    "by str": lambda kv: kv.incr("key", "1"),
    "by not finite": lambda kv: kv.incr("key", float("inf")),
    "by beyond 64 bits": lambda kv: kv.incr("key", 2**64),
    "piece int": lambda kv: kv.append("key", 1),
    "piece bytearray": lambda kv: kv.append("key", bytearray(b"piece")),
    "one str given as keys": lambda kv: kv.mget("key"),
    "one bytes given as keys": lambda kv: kv.mdelete(b"key"),
    "keys of another type": lambda kv: kv.mget(["key", 5]),
    "keys of mput": lambda kv: kv.mput({1: 2}),
    "prefix of another type": lambda kv: kv.keys(5),
    "wait for another type": lambda kv: kv.wait([5]),
    "locate another type": lambda kv: kv.locate(5),
    "way of reading": lambda kv: kv.get("key", read="nearest"),
    "way of reading many": lambda kv: kv.mget(["key"], read=""),
    "acknowledgement": lambda kv: kv.put("key", 1, ack="none"),
    "timeout zero": lambda kv: kv.get("key", timeout_s=0),
    "timeout negative": lambda kv: kv.put("key", 1, timeout_s=-1.0),
    "timeout too long": lambda kv: kv.mget(["key"], timeout_s=121),
    "timeout no number": lambda kv: kv.keys(timeout_s="5"),
    "timeout not a number": lambda kv: kv.delete("key", timeout_s=float("nan")),
    "timeout of wait": lambda kv: kv.wait("key", timeout_s="5"),
    "timeout of a pipeline": lambda kv: _execute(kv.pipeline(timeout_s=0)),
    "acknowledgement of a pipeline": lambda kv: kv.pipeline(ack="none"),
    "timeout in a pipeline": lambda kv: kv.pipeline().get("key", timeout_s=1.0),
    "acknowledgement in a pipeline": lambda kv: kv.pipeline().put("key", 1, ack="all"),
    "way of reading in a pipeline": lambda kv: kv.pipeline().get("key", read="any"),
    "key in a pipeline": lambda kv: kv.pipeline().get(5),
    "name of a lock": lambda kv: kv.lock(b"name"),
    "lifetime of a lock": lambda kv: kv.lock("name", ttl_s=0),
    "lifetime that is no number": lambda kv: kv.lock("name", ttl_s="10"),
    "timeout of a lock": lambda kv: kv.lock("name").acquire(timeout_s="5"),
}


def _execute(pipeline: Any) -> Any:
    pipeline.get("key")
    return pipeline.execute()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_and_nothing_is_sent(kv: Client, mistake: str) -> None:
    kv.locate("key")  # it has the map
    before = kv.stats()
    with pytest.raises(UsageError) as raised:
        MISTAKES[mistake](kv)
    assert isinstance(raised.value, ValueError)
    assert not raised.value.outcome_unknown
    assert kv.stats() == before


@pytest.mark.parametrize(
    "options", [{"timeout_s": 0}, {"timeout_s": 121}, {"timeout_s": "5"}, {"read": "nearest"}, {"ack": "none"}],
)  # fmt: skip
def test_options_that_cannot_be(face: Face, cluster: LocalCluster, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))), face.open(cluster.manager, **options):
        pass


def test_an_endpoint_that_is_none(face: Face) -> None:
    with pytest.raises(UsageError, match="is not an endpoint"), face.open("nonsense") as kv:
        kv.get("key")


# --- no answer, and the end ----------------------------------------------------------------------------------------

EVERYTHING: dict[str, Callable[[Client], Any]] = {
    "get": lambda kv: kv.get("key"),
    "entry": lambda kv: kv.entry("key"),
    "exists": lambda kv: kv.exists("key"),
    "put": lambda kv: kv.put("key", 1),
    "cas": lambda kv: kv.cas("key", 1, version=0),
    "getset": lambda kv: kv.getset("key", 1),
    "delete": lambda kv: kv.delete("key"),
    "incr": lambda kv: kv.incr("key"),
    "append": lambda kv: kv.append("key", "a"),
    "mget": lambda kv: kv.mget(["key"]),
    "mput": lambda kv: kv.mput({"key": 1}),
    "mdelete": lambda kv: kv.mdelete(["key"]),
    "locate": lambda kv: kv.locate("key"),
    "keys": lambda kv: kv.keys(),
    "wait": lambda kv: kv.wait("key"),
    "pipeline": lambda kv: _execute(kv.pipeline()),
    "lock": lambda kv: kv.lock("name").acquire(),
}


def _stats(kv: Client) -> Any:
    return kv.stats()


def test_nobody_answers(face: Face, silent: str) -> None:
    with face.open(silent, timeout_s=0.02) as kv:
        for name, ask in EVERYTHING.items():
            with pytest.raises(ManagerUnreachable) as raised:
                ask(kv)
            assert raised.value.endpoint == silent, name
            assert not raised.value.outcome_unknown, name
            back = pickle.loads(pickle.dumps(raised.value))
            assert (str(back), vars(back)) == (str(raised.value), vars(raised.value)), name


def test_a_client_that_is_closed(kv: Client) -> None:
    kv.put("key", 1)
    with nullcontext(kv):
        assert "closed" not in repr(kv)
        kv.close()
        kv.close()
    assert repr(kv).endswith(", closed)")
    for name, ask in {**EVERYTHING, "stats": _stats}.items():
        with pytest.raises(ClosedError) as raised:
            ask(kv)
        assert not raised.value.outcome_unknown, name
