"""Waiting for keys, and locks, with every face: also by several at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.process.clients.faces import Ask, Face, Script, ask
from tests.process.support import eventually
from zkv import Client, LocalCluster, LockLost, TimedOut, UsageError
from zkv.client.coordination import Lock

pytestmark = pytest.mark.process

FOR_EVER_S = 60.0


def held(lock: Lock) -> bool:
    """Whether a lock is held now (to mypy a property that is looked at twice is the same)."""
    return lock.held


@pytest.fixture
def other(face: Face, cluster: LocalCluster) -> Iterator[Client]:
    """A second client, as in another process."""
    with face.open(cluster.manager, timeout_s=30.0) as client:
        yield client


# --- wait ----------------------------------------------------------------------------------------------------------


def test_waiting_for_what_is_there(kv: Client) -> None:
    kv.put("a", 1)
    kv.put(b"b", None)
    kv.wait("a")
    kv.wait(b"b")
    kv.wait(["a", b"b", "a"], timeout_s=30.0)
    kv.wait([])


def test_waiting_for_what_comes(kv: Client, face: Face) -> None:
    done: list[str] = []

    def waiting() -> Script[None]:
        yield ask("wait", [f"key{number}" for number in range(5)], timeout_s=FOR_EVER_S)
        done.append("waited")

    def putting() -> Script[None]:
        for number in range(5):
            with pytest.raises(TimedOut):  # a pause
                yield ask("wait", "no such key", timeout_s=0.02)
            done.append("put")
            yield ask("put", f"key{number}", number)

    face.run(kv, [waiting(), putting()])
    assert done == [*["put"] * 5, "waited"]


def test_waiting_in_vain(kv: Client) -> None:
    kv.put("there", 1)
    with pytest.raises(TimedOut) as raised:
        kv.wait(["a", "b", "there", "c", "d", "e"], timeout_s=0.05)
    assert not raised.value.outcome_unknown
    assert str(raised.value) == "5 keys do not exist after 0.05 s: 'a', 'b', 'c', …"


# --- locks ---------------------------------------------------------------------------------------------------------


def test_one_holds_the_lock(kv: Client, other: Client) -> None:
    mine, theirs = kv.lock("job", ttl_s=FOR_EVER_S), other.lock("job", ttl_s=FOR_EVER_S)
    assert not held(mine)
    assert [mine.token, theirs.token] == [None, None]
    token = mine.acquire()
    assert mine.token == token
    assert held(mine)
    with pytest.raises(TimedOut, match=r"'job' was not free within 0\.05 s") as raised:
        theirs.acquire(timeout_s=0.05)
    assert not raised.value.outcome_unknown
    assert theirs.token is None
    mine.release()
    assert not held(mine)
    assert theirs.acquire() > token
    assert other.lock("another job").acquire() > 0  # names are locks of their own
    theirs.release()


def test_tokens_grow(kv: Client, other: Client) -> None:
    tokens = []
    for client in (kv, other, kv, kv, other):
        with client.lock("job", ttl_s=FOR_EVER_S) as lock:
            assert lock.token is not None
            tokens.append(lock.token)
    assert tokens == sorted(set(tokens))


def test_a_lock_whose_time_has_run_out_is_taken_over(kv: Client, other: Client) -> None:
    mine = kv.lock("job", ttl_s=0.05)
    token = mine.acquire()
    assert other.lock("job", ttl_s=FOR_EVER_S).acquire(timeout_s=30.0) > token
    eventually(lambda: not held(mine), "the time runs out by one's own clock, too")
    with pytest.raises(LockLost, match="'job'"):
        mine.renew()
    assert mine.token is None
    assert not held(mine)


def test_a_lock_that_was_taken_over_cannot_be_given_back(kv: Client, other: Client) -> None:
    mine, theirs = kv.lock("job", ttl_s=0.05), other.lock("job", ttl_s=FOR_EVER_S)
    mine.acquire()
    theirs.acquire(timeout_s=30.0)
    with pytest.raises(LockLost, match="'job'"):
        mine.release()
    assert held(theirs)
    theirs.renew()
    with pytest.raises(TimedOut):
        mine.acquire(timeout_s=0.05)


def test_renewing_keeps_a_lock(kv: Client, other: Client) -> None:
    mine = kv.lock("job", ttl_s=FOR_EVER_S)
    token = mine.acquire()
    for _ in range(3):
        mine.renew()
    assert held(mine)
    assert mine.token == token  # the same holder
    with pytest.raises(TimedOut):
        other.lock("job").acquire(timeout_s=0.05)
    mine.release()


def test_a_lock_whose_time_has_run_out_and_that_nobody_wanted(kv: Client) -> None:
    lock = kv.lock("job", ttl_s=0.01)
    token = lock.acquire()
    eventually(lambda: not held(lock), "the time runs out")
    lock.renew()  # nobody has taken it: there was no other holder
    assert lock.token == token
    eventually(lambda: not held(lock), "the time runs out")
    assert lock.acquire(timeout_s=30.0) > token
    lock.release()


def test_a_block_that_fails_gives_the_lock_back(kv: Client, other: Client) -> None:
    with pytest.raises(ZeroDivisionError), kv.lock("job", ttl_s=FOR_EVER_S):
        raise ZeroDivisionError
    with other.lock("job") as lock:
        assert held(lock)


def test_a_block_that_loses_its_lock(kv: Client, other: Client) -> None:
    with pytest.raises(LockLost), kv.lock("job", ttl_s=0.05):
        other.lock("job", ttl_s=0.05).acquire(timeout_s=30.0)
    with pytest.raises(ZeroDivisionError), kv.lock("job", ttl_s=0.05):  # noqa: PT012
        other.lock("job", ttl_s=0.05).acquire(timeout_s=30.0)
        raise ZeroDivisionError  # the better error to see


def test_a_block_may_give_its_lock_back_itself(kv: Client) -> None:
    with kv.lock("job", ttl_s=FOR_EVER_S) as lock:
        lock.release()
        assert lock.token is None
    with kv.lock("job", ttl_s=FOR_EVER_S) as lock:
        assert held(lock)


def test_misuse_of_locks(kv: Client) -> None:
    lock = kv.lock("job", ttl_s=FOR_EVER_S)
    for method in (lock.renew, lock.release):
        with pytest.raises(UsageError, match="'job' is not held"):
            method()
    lock.acquire()
    with pytest.raises(UsageError, match="held by this very object"):
        lock.acquire()
    assert held(lock)
    lock.release()


def test_a_lock_excludes(kv: Client, face: Face) -> None:
    """Reading and writing back, which without a lock would lose counts."""

    def of(method: Any, *arguments: Any) -> Ask:
        return lambda _: method(*arguments)

    def counting() -> Script[list[int]]:
        tokens = []
        for _ in range(5):
            lock: Any = yield ask("lock", "count", ttl_s=FOR_EVER_S)
            tokens.append((yield of(lock.acquire, FOR_EVER_S)))
            count = yield ask("get", "count", 0)
            yield ask("put", "count", count + 1)
            yield of(lock.release)
        return tokens

    tokens = face.run(kv, [counting() for _ in range(4)])
    assert kv.get("count") == 20
    assert len({token for some in tokens for token in some}) == 20
    assert all(some == sorted(some) for some in tokens)
