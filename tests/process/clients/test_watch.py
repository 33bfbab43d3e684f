"""Watches, with every face: events in order for each key, none missing and none twice, whatever happens meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from tests.process.clients.faces import Face
from tests.process.support import WAIT_S, eventually
from zkv import Client, ClosedError, Event, LocalCluster, UsageError, WatchLost, WrongType, ZkvError
from zkv.client.watching import Watch

pytestmark = pytest.mark.process

END = "zz:end"


def next_of(watch: Watch, number: int) -> list[Event]:
    """That many events."""
    events: list[Event] = []
    for _ in range(number):
        event = watch.poll(WAIT_S)
        assert event is not None, f"only {len(events)} of {number} came"
        events.append(event)
    return events


def told(events: list[Event]) -> list[tuple[str, Any, Any]]:
    return [(event.kind, event.key, event.value) for event in events]


@pytest.fixture
def other(cluster: LocalCluster) -> Iterator[Client]:
    """A client that writes while another one watches."""
    with cluster.client(timeout_s=WAIT_S) as client:
        yield client


# --- what is told --------------------------------------------------------------------------------------------------


def test_what_happens_to_a_key_is_told_in_order_with_versions(kv: Client) -> None:
    kv.put("before", 1)
    with kv.watch() as events:
        assert events.poll(0.01) is None
        first = kv.put("key", {"a": (1, None)})
        entry = kv.cas("key", 2, version=first.version)
        kv.incr("key")
        deleted = kv.delete("key")
        kv.delete("key")  # nothing to delete: nothing has happened
        kv.put("key", 4, if_present=True)
        last = kv.put("key", b"5", ttl_s=3600)
        seen = next_of(events, 5)
        assert events.poll(0.01) is None
    assert told(seen) == [
        ("put", "key", {"a": (1, None)}), ("put", "key", 2), ("put", "key", 3), ("delete", "key", None),
        ("put", "key", b"5"),
    ]  # fmt: skip
    assert entry is not None
    versions = [event.version for event in seen]
    assert versions == sorted(set(versions))
    assert [versions[0], versions[1], versions[3], versions[4]] == [
        first.version, entry.version, deleted.version, last.version,
    ]  # fmt: skip


def test_expiries_are_told(kv: Client) -> None:
    with kv.watch() as events:
        kv.put("key", 1, ttl_s=0.05)
        kv.put("stays", 1)
        seen = next_of(events, 3)
    assert sorted((event.kind, event.key) for event in seen) == [
        ("expire", "key"), ("put", "key"), ("put", "stays")
    ]  # fmt: skip


def test_only_keys_with_the_prefix_are_told(kv: Client) -> None:
    with kv.watch("user:") as events, kv.watch(b"user:") as of_bytes, kv.watch("user:1") as of_one:
        stored: dict[str | bytes, int] = {"user:1": 1, "other": 2, "user": 3, b"user:1": 4, "user:2": 5}
        kv.mput(stored)
        assert sorted(told(next_of(events, 2))) == [("put", "user:1", 1), ("put", "user:2", 5)]
        assert told(next_of(of_bytes, 1)) == [("put", b"user:1", 4)]
        assert told(next_of(of_one, 1)) == [("put", "user:1", 1)]
        assert [watch.poll(0.01) for watch in (events, of_bytes, of_one)] == [None, None, None]


def test_many_events_of_all_nodes(kv: Client, cluster: LocalCluster) -> None:
    with kv.watch("key") as events:
        for round_ in range(5):
            kv.mput({f"key{number}": round_ for number in range(1000)})
        seen = next_of(events, 5000)
        assert events.poll(0.01) is None
    by_key: dict[Any, list[Event]] = {}
    for event in seen:
        by_key.setdefault(event.key, []).append(event)
    assert {kv.locate(key) for key in by_key} == set(cluster.names)
    assert len(by_key) == 1000
    for of_key in by_key.values():
        assert [event.value for event in of_key] == list(range(5))
        assert [event.version for event in of_key] == sorted({event.version for event in of_key})


def test_an_iterator_that_waits(kv: Client, other: Client) -> None:
    with kv.watch() as events, ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: [other.put("key", number) for number in range(100)])
        values = []
        for event in events:
            values.append(event.value)
            if event.value == 99:
                break
    assert values == list(range(100))


# --- going on ------------------------------------------------------------------------------------------------------


def test_a_position_is_where_another_watch_goes_on(kv: Client, other: Client) -> None:
    with kv.watch("key") as events:
        kv.mput({f"key{number}": number for number in range(100)})
        seen = next_of(events, 40)
        position = json.loads(json.dumps(events.position))
    other.mput({f"key{number}": number for number in range(100, 200)})
    other.put("position", position)  # it can be stored in the cluster itself
    with kv.watch("key", since=other.get("position")) as events:
        seen += next_of(events, 160)
        assert events.poll(0.01) is None
    assert sorted(event.value for event in seen) == list(range(200))


def test_a_watch_without_events_has_a_position(kv: Client) -> None:
    with kv.watch() as events:
        position = events.position
    kv.put("key", 1)
    with kv.watch(since=position) as events:
        assert told(next_of(events, 1)) == [("put", "key", 1)]


@pytest.mark.parametrize(
    "since",
    [5, {}, {"cluster": "c1"}, {"cluster": "c1", "versions": "abc"}, {"cluster": 5, "versions": []},
     {"cluster": "c1", "versions": [1] * 15 + ["1"]}, {"cluster": "c1", "versions": [1] * 15 + [-1]}],
)  # fmt: skip
def test_what_is_no_position(kv: Client, since: Any) -> None:
    with pytest.raises(UsageError, match="position"):
        kv.watch(since=since)


def test_the_position_of_another_cluster(kv: Client) -> None:
    with kv.watch() as events:
        position = events.position
    for wrong in ({**position, "cluster": "0" * 16}, {**position, "versions": position["versions"][1:]}):
        with pytest.raises(UsageError, match="another cluster"), kv.watch(since=wrong):
            pass


def test_a_history_that_is_gone(face: Face) -> None:
    """Of a watch that has not listened for long, or goes on from an old position; a new one is as good as ever."""
    with (
        LocalCluster(nodes=2, replicas=2, shards=16, history_bytes=10_000) as cluster,
        face.open(cluster.manager, timeout_s=WAIT_S) as kv,
    ):
        with kv.watch() as events:
            kv.put("key", 1)
            seen = next_of(events, 1)
            position = events.position
            for number in range(200):
                kv.mput({f"key{place}": number for place in range(10)})
            with pytest.raises(WatchLost, match="watch anew") as raised:
                seen.extend(events)
            assert raised.value.shard is not None
            with pytest.raises(WatchLost):
                next(events)
        versions = [event.version for event in seen if event.key == "key1"]
        assert versions == sorted(set(versions))
        with kv.watch(since=position) as events, pytest.raises(WatchLost):
            list(events)
        with kv.watch() as events:
            kv.put("key", 2)
            assert told(next_of(events, 1)) == [("put", "key", 2)]


def test_a_slow_consumer_gets_everything(kv: Client, other: Client) -> None:
    """Longer than a question lives: it is asked again."""
    with kv.watch("key") as events:
        other.put("key", 0)
        seen = next_of(events, 1)
        for number in range(1, 5000):
            if number % 1000 == 1:
                other.mput({f"key{number + place}": number + place for place in range(1000)})
        time.sleep(2.5)  # its questions have a deadline of 2 s
        seen += next_of(events, 5000)
    assert sorted(event.value for event in seen) == list(range(5001))


def test_a_value_that_cannot_be_read_is_skipped(face: Face, cluster: LocalCluster, other: Client) -> None:
    with face.open(cluster.manager, timeout_s=WAIT_S, raw=True) as raw, raw.watch("raw:") as events:
        other.put("raw:1", b"bytes")
        assert told(next_of(events, 1)) == [("put", "raw:1", b"bytes")]
        other.put("raw:2", [1, 2])
        with pytest.raises(WrongType):
            events.poll(WAIT_S)
        other.put("raw:3", b"more")
        assert told(next_of(events, 1)) == [("put", "raw:3", b"more")]
    other.flush("raw:")


# --- the end -------------------------------------------------------------------------------------------------------


def test_closing_a_watch(kv: Client) -> None:
    with kv.watch() as events:
        kv.put("key", 1)
        kv.put("key", 2)
        next_of(events, 1)
        position = events.position
        events.close()
        events.close()
        assert list(events) == []
        with pytest.raises(ClosedError, match="watch is closed"):
            events.poll(1)
        assert events.position == position
    kv.put("key", 3)  # the client goes on
    with kv.watch(since=position) as events:
        assert [event.value for event in next_of(events, 2)] == [2, 3]


def test_closing_the_client(face: Face, cluster: LocalCluster) -> None:
    with face.open(cluster.manager, timeout_s=WAIT_S) as kv:
        events = kv.watch()
        events.poll(0.01)
        kv.close()
        with pytest.raises(ClosedError):
            events.poll(1)
        events.close()


def test_poll_takes_seconds(kv: Client) -> None:
    with kv.watch() as events:
        for wrong in (-1, "1", float("nan")):
            with pytest.raises(UsageError, match="timeout_s"):
                events.poll(wrong)  # type: ignore[arg-type]
        kv.put("key", 1)
        assert eventually(lambda: events.poll(0), "it is there without waiting").value == 1
        assert events.poll(0) is None


# --- failures ------------------------------------------------------------------------------------------------------


AHEAD: Final = 100
"""Rounds that a writer is ahead of its watch, at most: one that is left behind by 16 MiB of events is lost, rightly."""


class Counting:
    """A writer that counts up in some keys, and a watch that must see every step of each."""

    def __init__(self, cluster: LocalCluster, kv: Client, pool: ThreadPoolExecutor) -> None:
        self.kv = kv
        self.pool = pool
        self.keys = [f"key{number}" for number in range(40)]
        self.over = threading.Event()
        self.last = 0
        """Where the writer has stopped."""
        self.reached = 0
        """The last round of which the watch has seen something."""
        self.seen: dict[Any, list[Event]] = {key: [] for key in self.keys}
        """By key, of the present watch."""
        self.lost = 0
        self.watch: Any = kv.watch("key").__enter__()
        self.writing = pool.submit(self._write, cluster)

    def _write(self, cluster: LocalCluster) -> None:
        with cluster.client(timeout_s=WAIT_S) as writer:
            while not self.over.is_set():
                if self.last >= self.reached + AHEAD:
                    time.sleep(0.001)
                    continue
                writer.mput(dict.fromkeys(self.keys, self.last + 1))
                self.last += 1

    def step(self) -> None:
        """One event. A watch that is told to begin anew does."""
        try:
            (event,) = next_of(self.watch, 1)
        except WatchLost:
            self.check()
            self.lost += 1
            self.watch.close()
            self.watch = self.kv.watch("key").__enter__()
            self.seen = {key: [] for key in self.keys}
            self.reached = self.last
        else:
            self.seen[event.key].append(event)
            self.reached = max(self.reached, event.value)

    def go_on(self, rounds: int = 20) -> None:
        """Until every key has changed so often."""
        marks = {key: 0 if not of_key else of_key[-1].value for key, of_key in self.seen.items()}
        while any(not of_key or of_key[-1].value < marks[key] + rounds for key, of_key in self.seen.items()):
            self.step()

    def meanwhile(self, what: Any, *arguments: Any) -> None:
        """Go on while something else is done."""
        done = self.pool.submit(what, *arguments)
        while not done.done():
            self.step()
        done.result()

    def stop(self) -> None:
        """The writer stops; every event is there."""
        self.over.set()
        self.writing.result()
        if all(self.seen.values()):
            while any(of_key[-1].value != self.last for of_key in self.seen.values()):
                self.step()
        self.watch.close()
        self.check()

    def check(self) -> None:
        for key, of_key in self.seen.items():
            values = [event.value for event in of_key]
            assert values == list(range(values[0], values[0] + len(values))) if values else True, key
            versions = [event.version for event in of_key]
            assert versions == sorted(set(versions))


def test_no_gap_and_no_duplicate_while_nodes_die(face: Face) -> None:
    """All copies are there from the beginning, so nothing is forgotten: a watch is never lost."""
    with (
        LocalCluster(nodes=3, replicas=3, shards=64) as cluster, face.open(cluster.manager, timeout_s=WAIT_S) as kv,
        ThreadPoolExecutor(1) as pool,
    ):  # fmt: skip
        counting = Counting(cluster, kv, pool)
        try:
            counting.go_on()
            for key in counting.keys[:2]:
                cluster.kill(kv.locate(key))
                counting.go_on()
        finally:
            counting.stop()
        assert not counting.lost


@pytest.mark.slow
def test_no_gap_and_no_duplicate_while_shards_move(face: Face) -> None:
    """A copy that is made anew knows what happened since: who is so late says so, and nothing is left out silently."""
    with (
        LocalCluster(nodes=5, replicas=3, shards=64) as cluster, face.open(cluster.manager, timeout_s=WAIT_S) as kv,
        ThreadPoolExecutor(2) as pool,
    ):  # fmt: skip
        counting = Counting(cluster, kv, pool)
        try:
            counting.go_on()
            cluster.kill(kv.locate(counting.keys[0]))
            counting.meanwhile(cluster.wait_healthy)
            paused = kv.locate(counting.keys[1])
            cluster.pause(paused)
            counting.go_on()
            cluster.resume(paused)
            counting.meanwhile(cluster.wait_healthy)
            counting.meanwhile(cluster.drain, kv.locate(counting.keys[2]))
            counting.go_on()
        finally:
            counting.stop()


def test_a_watch_of_a_cluster_that_is_gone(face: Face) -> None:
    """It waits for as long as it is asked to, and says nothing that it does not know."""
    with LocalCluster(nodes=1, replicas=1, shards=16) as cluster, face.open(cluster.manager) as kv:
        with kv.watch() as events:
            kv.put("key", 1)
            assert told(next_of(events, 1)) == [("put", "key", 1)]
            cluster.kill("server1")
            assert events.poll(0.5) is None
        with pytest.raises(ZkvError), kv.watch():
            pass


# --- blocking clients: threads -------------------------------------------------------------------------------------


def test_a_watch_ends_when_another_thread_closes_it(cluster: LocalCluster) -> None:
    with cluster.client() as kv, ThreadPoolExecutor(2) as pool:
        for what in ("watch", "client"):
            events = kv.watch()
            waiting = pool.submit(lambda events=events: list(events))  # type: ignore[misc]
            eventually(lambda events=events: events._busy, "it waits")  # type: ignore[misc]
            if what == "watch":
                with pytest.raises(UsageError, match="make one for each"):
                    events.poll(1)
                events.close()
                assert waiting.result(WAIT_S) == []
            else:
                kv.close()
                with pytest.raises(ClosedError):
                    waiting.result(WAIT_S)


def test_watches_and_calls_of_many_threads_on_one_client(cluster: LocalCluster) -> None:
    def watch(events: Watch) -> list[Any]:
        return [event.value for event in next_of(events, 200)]

    with cluster.client(timeout_s=WAIT_S) as kv, ThreadPoolExecutor(10) as pool:
        watches = [kv.watch("thread:") for _ in range(5)]
        watching = [pool.submit(watch, events) for events in watches]
        writing = [
            pool.submit(lambda name=name: [kv.incr(f"thread:{name}") for _ in range(50)])  # type: ignore[misc]
            for name in range(4)
        ]
        for future in writing:
            assert future.result(WAIT_S) == list(range(1, 51))
        for future in watching:
            assert sorted(future.result(WAIT_S)) == sorted(list(range(1, 51)) * 4)
        for events in watches:
            events.close()
        kv.flush("thread:")
