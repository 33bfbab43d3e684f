"""`zkv-admin dump` and `load`: what is in a cluster comes into another one, whatever happens meanwhile."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import xxhash

from tests.process.support import (
    WAIT_S,
    cluster_of_module,
    command,
    environment,
    eventually,
    gone,
    marked_processes,
    run,
    succeed,
)
from zkv import Client, LocalCluster, Unavailable
from zkv.core import wire
from zkv.core.shardmap import shard_of
from zkv.dump import dumping, loading
from zkv.dump.dumping import Dumped, dump
from zkv.dump.format import Entries, Head, Reader, Writer
from zkv.dump.loading import ClusterTime, load, verify
from zkv.net.admin import AdminLink
from zkv.values import decode

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="looks for processes as Linux shows them"),
]

SHARDS = 4
OF_ALL_TYPES: list[Any] = [
    None, True, False, 0, -(2**63), 2**64 - 1, 1.0, float("inf"), "", "żółw", b"", b"\x00\xff", [1, [None]], (1, (2,)),
    {"a": {1: b"x"}, (1, 2): []},
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One for the tests here that break nothing: each begins with an empty cluster."""
    with cluster_of_module(tmp_path_factory, nodes=3, replicas=2, shards=SHARDS) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: LocalCluster, tmp_path: Path) -> Iterator[None]:
    """Instead of the check that conftest.py makes after each test: the cluster's processes stay."""
    before = set(marked_processes())
    yield
    left = {pid: line for pid, line in marked_processes().items() if pid not in before and not gone(pid, 5.0)}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"processes are left: {left}"
    assert not [*tmp_path.rglob("*.partial")]


@pytest.fixture
def kv(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client(timeout_s=WAIT_S) as kv:
        yield kv
        empty(kv)


def empty(kv: Client) -> None:
    for start in ("", b""):
        kv.flush(start)


def dumped(cluster: LocalCluster, file: Path | str, *options: str) -> Any:
    return json.loads(succeed("admin", "dump", str(file), "--json", "--manager", cluster.manager, *options))


def loaded(cluster: LocalCluster, file: Path | str, *options: str) -> Any:
    return json.loads(succeed("admin", "load", str(file), "--json", "--manager", cluster.manager, *options))


def refused(status: int, *arguments: str) -> str:
    done = run("admin", *arguments)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


def entries_of(dump: bytes) -> dict[str | bytes, Any]:
    """What counts in a dump; no key may be there twice."""
    attempts = verify(io.BytesIO(dump)).attempts
    found: dict[str | bytes, Any] = {}
    for _, content in Reader(io.BytesIO(dump)):
        if isinstance(content, Entries) and content.attempt == attempts[content.shard]:
            assert not found.keys() & content.keys
            found.update(zip(content.keys, map(decode, content.values), strict=True))
    return found


def made(path: Path, *, keys: list[Any], values: list[Any] | None = None, expires: int = 0) -> Path:
    """A dump of a cluster that never was."""
    with path.open("wb") as file:
        writer = Writer(file)
        writer.head(Head(1, 1, 0, "a test"))
        ones = wire.pack_u64([1] * len(keys))
        writer.entries(Entries(0, 1, keys, ones, values or keys, wire.pack_u64([expires] * len(keys))))
        writer.end(0, 1, 1)
        writer.foot()
    return path


def keys_of_shard(shard: int, count: int, shards: int = SHARDS) -> list[str]:
    """Keys of one shard, in the order of their hashes: that of the pages."""
    keys = [key for number in range(2 * shards * count) if shard_of(key := f"s{shard}:{number}", shards) == shard]
    assert len(keys) >= count
    return sorted(keys[:count], key=lambda key: xxhash.xxh3_64_intdigest(key.encode()))


# --- there and back -----------------------------------------------------------------------------------------------


def test_everything_comes_back_in_a_cluster_of_another_size(cluster: LocalCluster, kv: Client, tmp_path: Path) -> None:
    file = tmp_path / "all.zkv"
    typed: dict[str, Any] = {f"typed {place}": value for place, value in enumerate(OF_ALL_TYPES)}
    kv.mput(typed)
    kv.mput({b"typed 1": "of a bytes key", b"\xff\x00": 1, b"": b"empty"})
    kv.put("", "empty")
    kv.mput({f"large {number}": bytes([number]) * 2**20 for number in range(5)})
    kv.put("array", numpy.arange(12, dtype="<f4").reshape(3, 4))
    kv.put("session", "ada", ttl_s=1000)
    kv.mput({f"key {number}": number for number in range(5000)})
    kv.delete("key 17")
    count = kv.count() + kv.count(b"")
    assert dumped(cluster, file)["keys"] == count
    with LocalCluster(nodes=5, replicas=3, shards=64) as other, other.client(timeout_s=WAIT_S) as there:
        done = loaded(other, file)
        assert (done["keys"], done["expired"], done["kept"], done["left_out"]) == (count, 0, 0, 0)
        assert there.count() + there.count(b"") == count
        for key, value in typed.items():
            assert (type(there.get(key)), there.get(key)) == (type(value), value)
        assert there.mget([b"typed 1", b"\xff\x00", "", b""]) == ["of a bytes key", 1, "empty", b"empty"]
        assert there.get("large 3") == b"\x03" * 2**20
        assert there.get("array").dtype == numpy.dtype("<f4")
        assert (there.get("array") == kv.get("array")).all()
        left_s = there.ttl("session")
        assert left_s is not None
        assert 0 < left_s <= 1000
        assert there.ttl("array") == math.inf
        assert there.get("key 17") is None
        assert there.mget([f"key {number}" for number in range(18, 5000)]) == list(range(18, 5000))
        # From there into a third: versions and shards are others, all else is the same.
        back = tmp_path / "back.zkv"
        dumped(other, back)
        assert entries_of(back.read_bytes()).keys() == entries_of(file.read_bytes()).keys()
    empty(kv)
    loaded(cluster, back)
    assert kv.get("large 4") == b"\x04" * 2**20
    assert kv.count() + kv.count(b"") == count


def test_an_empty_cluster_can_be_dumped_and_loaded(cluster: LocalCluster, kv: Client, tmp_path: Path) -> None:
    file = tmp_path / "none.zkv"
    assert dumped(cluster, file)["keys"] == 0
    kv.put("stays", 1)
    assert loaded(cluster, file)["keys"] == 0
    assert kv.keys() == ["stays"]


def test_people_read_a_line(cluster: LocalCluster, kv: Client, tmp_path: Path) -> None:
    file = tmp_path / "some.zkv"
    kv.mput({"a": 1, "b": 2})
    said = succeed("admin", "dump", str(file), "--manager", cluster.manager)
    assert said.startswith(f"2 keys of {SHARDS} shards dumped to {file}: ")
    said = succeed("admin", "load", str(file), "--if-absent", "--prefix", "a", "--manager", cluster.manager)
    assert said.startswith(f"0 keys loaded from {file} (")
    assert said.endswith("; of the others 1 were there already, 1 have other prefixes\n")
    said = succeed("admin", "load", str(file), "--dry-run")
    assert said.startswith(f"{file} is whole: 2 keys of {SHARDS} shards, 0 with a time to live, ")
    assert said.endswith("\n2 keys would be loaded\n")


def test_dumps_go_through_pipes(cluster: LocalCluster, kv: Client, tmp_path: Path) -> None:
    kv.mput({f"key {number}": number for number in range(100)})

    def piped(given: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command("admin", *arguments), env=environment(ZKV_MANAGER=cluster.manager), input=given,
            capture_output=True, timeout=WAIT_S, check=False,
        )  # fmt: skip

    out = piped(b"", "dump", "-", "--json")
    assert json.loads(out.stderr)["bytes"] == len(out.stdout)
    assert len(entries_of(out.stdout)) == 100
    empty(kv)
    assert json.loads(piped(out.stdout, "load", "-", "--json").stdout)["keys"] == 100
    assert kv.get("key 77") == 77
    # Nothing of a pipe that ends early is loaded.
    empty(kv)
    failed = piped(out.stdout[:-1], "load", "-")
    assert failed.returncode == 2
    assert b"cut short" in failed.stderr
    assert kv.keys() == []


# --- loading ------------------------------------------------------------------------------------------------------


def test_a_load_can_be_repeated_and_limited(cluster: LocalCluster, kv: Client, tmp_path: Path) -> None:
    file = made(tmp_path / "file", keys=["a1", "a2", b"a3", "b1"], values=[1, 2, 3, 4])
    assert loaded(cluster, file, "--dry-run")["keys"] == 4
    assert kv.keys() == []
    assert loaded(cluster, file, "--prefix", "a")["left_out"] == 1
    assert kv.mget(["a1", "a2", b"a3", "b1"]) == [1, 2, 3, None]
    kv.put("a1", "mine")
    kv.delete("a2")
    done = loaded(cluster, file, "--if-absent")
    assert (done["keys"], done["kept"]) == (2, 2)
    assert kv.mget(["a1", "a2", b"a3", "b1"]) == ["mine", 2, 3, 4]
    for _ in range(2):
        assert loaded(cluster, file)["keys"] == 4
        assert kv.mget(["a1", "a2", b"a3", "b1"]) == [1, 2, 3, 4]
    assert loaded(cluster, file, "--prefix", os.fsdecode(b"\xff"))["left_out"] == 4


def test_what_has_expired_is_not_loaded(cluster: LocalCluster, kv: Client, tmp_path: Path) -> None:
    kv.put("a", "stays as it is")
    done = loaded(cluster, made(tmp_path / "file", keys=["a", "b"], expires=5))
    assert (done["keys"], done["expired"]) == (0, 2)
    assert kv.mget(["a", "b"]) == ["stays as it is", None]
    with AdminLink(cluster.manager, timeout_s=WAIT_S) as link:
        later = link.cluster_ms() + 500_000
    assert loaded(cluster, made(tmp_path / "file", keys=["a", "b"], expires=later))["keys"] == 2
    for left_s in (kv.ttl("a"), kv.ttl("b")):
        assert left_s is not None
        assert 0 < left_s <= 500
    loaded(cluster, made(tmp_path / "file", keys=["a"]))
    assert kv.ttl("a") == math.inf


def test_nothing_is_loaded_of_a_damaged_file(cluster: LocalCluster, kv: Client, tmp_path: Path) -> None:
    to = "--manager", cluster.manager
    file = made(tmp_path / "file", keys=[f"key {number}" for number in range(1000)])
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "cut short" in refused(2, "load", str(file), *to)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "damaged: the block at byte " in refused(2, "load", str(file), *to)
    file.write_bytes(b"something else")
    assert "no dump of zkv" in refused(2, "load", str(file), *to)
    assert "cannot be read" in refused(2, "load", str(tmp_path / "none"), *to)
    assert kv.keys() == []


def test_a_load_goes_on_when_a_node_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "BATCH_KEYS", 100)
    keys = [f"key {number}" for number in range(3000)]
    file = tmp_path / "file"
    with file.open("wb") as out:
        writer = Writer(out)
        writer.head(Head(1, 1, 0, "a test"))
        for start in range(0, 3000, 100):
            some = keys[start : start + 100]
            writer.entries(Entries(0, 1, list(some), wire.pack_u64([1] * 100), list(some), wire.pack_u64([0] * 100)))
        writer.end(0, 1, 1)
        writer.foot()
    with LocalCluster(nodes=3, replicas=2, shards=16) as other, other.client(timeout_s=WAIT_S) as there:
        killed: list[str] = []

        def show(done: int, total: int) -> None:
            if not killed:
                killed.append(there.locate(keys[0]))
                other.kill(*killed)

        with file.open("rb") as stream:
            contents = verify(stream)
            stream.seek(0)
            done = load(there, stream, contents, ClusterTime(0).now_ms, show=show)
        assert killed
        assert done.keys == 3000
        assert there.mget(keys) == keys


# --- one moment ---------------------------------------------------------------------------------------------------


class Writers:
    """Somebody who writes all the while: in each shard first one key, then another, numbers that grow."""

    def __init__(self, kv: Client) -> None:
        self._kv = kv
        # The first and the last key in the order of the pages; of the latter a bytes key, which is no other matter.
        self.pairs = []
        for shard in range(SHARDS):
            keys = keys_of_shard(shard, 1500)
            self.pairs.append((keys[0], keys[-1].encode()))
            kv.mput(dict.fromkeys(keys, "filling"))
            kv.put(keys[0], 0)
            kv.put(keys[-1].encode(), 0)
        self.rounds = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        while not self._ended.is_set():
            for first, second in self.pairs:
                self._kv.put(first, self.rounds + 1)
                self._kv.put(second, self.rounds + 1)
            self.rounds += 1

    def await_more(self) -> None:
        before = self.rounds
        eventually(lambda: self.rounds > before + 1, "writes during the dump")

    def __enter__(self) -> Writers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


class Patient(io.BytesIO):
    """Where a dump goes that is in no hurry: a lot is written between any two pages."""

    def __init__(self, writers: Writers) -> None:
        super().__init__()
        self._writers = writers

    def write(self, data: Any, /) -> int:
        if len(data) > 1000:
            self._writers.await_more()
        return super().write(data)


def test_each_shard_is_as_it_was_at_one_moment(cluster: LocalCluster, kv: Client) -> None:
    with Writers(kv) as writers:
        writers.await_more()
        out = Patient(writers)
        done = dump(kv, out)
        assert done.begun_anew == 0
    found = entries_of(out.getvalue())
    assert len(found) == done.keys == SHARDS * 1501
    for first, second in writers.pairs:
        assert found[second] > 0
        assert found[first] - found[second] in (0, 1)


@pytest.mark.parametrize("attempts", [10, 1])
def test_a_shard_that_changes_hands_is_begun_anew(monkeypatch: pytest.MonkeyPatch, attempts: int) -> None:
    monkeypatch.setattr(dumping, "ATTEMPTS", attempts)
    with LocalCluster(nodes=3, replicas=3, shards=SHARDS) as cluster, cluster.client(timeout_s=WAIT_S) as kv:
        keys = [key for shard in range(SHARDS) for key in keys_of_shard(shard, 1500)]
        kv.mput(dict.fromkeys(keys, "before"))
        kv.put(b"\xff", "before")
        killed = False

        def show(state: Dumped) -> None:
            nonlocal killed
            if not killed and state.bytes > 10_000:  # a page of some shard is there, and no shard is done
                assert not state.shards
                killed = True
                cluster.kill("server1")
                kv.mput(dict.fromkeys(keys, "after"))  # done: all shards have changed hands, or lost a copy

        out = io.BytesIO()
        if attempts == 1:
            with pytest.raises(Unavailable, match="no picture of one moment in 1 tries"):
                dump(kv, out, show=show)
            return
        done = dump(kv, out, show=show)
    assert killed
    assert done.begun_anew >= 1
    found = entries_of(out.getvalue())
    assert found.keys() == {*keys, b"\xff"}
    for shard in range(SHARDS):  # of a shard all is from before, or all from after
        assert len({found[key] for key in keys_of_shard(shard, 1500)}) == 1


# --- ends ---------------------------------------------------------------------------------------------------------


def interrupted(number: signal.Signals, begun: Callable[[], Any], *arguments: str) -> str:
    """What `zkv-admin` says when it is sent a signal once it has begun."""
    with subprocess.Popen(
        command("admin", *arguments), env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        eventually(begun, "it begins")
        process.send_signal(number)
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (128 + number, "")
    return err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_dump_that_is_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "file.zkv"
    with LocalCluster(nodes=1, replicas=1, shards=SHARDS) as one, one.client(timeout_s=WAIT_S) as kv:
        kv.put("a", 1)
        one.pause("server1")  # so the dump does not end by itself
        begun = (tmp_path / "file.zkv.partial").exists
        err = interrupted(number, begun, "dump", str(file), "--manager", one.manager)
        assert err == f"interrupted: nothing is left of {file}\n"
        assert not [*tmp_path.glob("file*")]
        one.resume("server1")
        assert dumped(one, file)["keys"] == 1
        assert [path.name for path in tmp_path.glob("file*")] == ["file.zkv"]


def test_a_load_that_is_interrupted_can_be_repeated(tmp_path: Path) -> None:
    keys = [f"key {number}" for number in range(1000)]
    os.mkfifo(tmp_path / "pipe")
    made(tmp_path / "file", keys=keys)
    with LocalCluster(nodes=1, replicas=1, shards=SHARDS) as one:
        # Everything is there, and the pipe does not end: it waits for whether there is more.
        fed: list[Any] = []

        def feed() -> bool:
            if not fed:
                fed.append((tmp_path / "pipe").open("wb", buffering=0))
                fed[0].write((tmp_path / "file").read_bytes())
            return True

        err = interrupted(signal.SIGINT, feed, "load", str(tmp_path / "pipe"), "--manager", one.manager)
        fed[0].close()
        assert err == "interrupted: keys may have been loaded; to load again does the rest\n"
        assert loaded(one, tmp_path / "file")["keys"] == 1000
        with one.client(timeout_s=WAIT_S) as kv:
            assert kv.count() == 1000


def test_a_cluster_without_room_says_so(tmp_path: Path) -> None:
    keys = [f"key {number}" for number in range(4000)]
    file = made(tmp_path / "file", keys=keys, values=[bytes(1000)] * 4000)
    with LocalCluster(nodes=1, replicas=1, shards=SHARDS, memory_limit="2MiB") as one:
        assert "has no room" in refused(3, "load", str(file), "--manager", one.manager)


def test_a_dump_that_fails_leaves_the_former_one(tmp_path: Path) -> None:
    file = tmp_path / "file.zkv"
    file.write_bytes(b"the former")
    said = refused(3, "dump", str(file), "--manager", "tcp://127.0.0.1:1", "--timeout", "0.2")
    assert "no manager answers" in said
    assert file.read_bytes() == b"the former"
    assert [one.name for one in tmp_path.glob("file*")] == ["file.zkv"]


def test_a_dump_needs_a_place(cluster: LocalCluster, kv: Client, tmp_path: Path) -> None:
    assert "no plain file" in refused(2, "dump", str(tmp_path), "--manager", cluster.manager)
    assert "cannot be written" in refused(2, "dump", str(tmp_path / "no" / "file"), "--manager", cluster.manager)
