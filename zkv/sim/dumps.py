"""Dumps and loads of the simulation: processes that run what `zkv-admin dump` and `load` run, over the client's core.

Which pages are asked for, what of them gets into the dump, what a load puts and with which time to live is decided by
`zkv.dump.pictures` and `zkv.dump.puts`, as in the commands. What is a call of a blocking client there is one of a
simulated process here, so that a node may die, and a map change, between any two of them.

A load puts under other names than were dumped: nothing in the history may be written twice but what a load repeats.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.dump.format import BadDump, End, Entries, Foot, Head, Reader, Writer
from zkv.dump.pictures import Pictures
from zkv.dump.puts import Batch, Batches, CountedTime, put_of, verify
from zkv.errors import Unavailable
from zkv.sim.history import LOADED, OK, Operation, Violation
from zkv.sim.ledger import Picture
from zkv.sim.processes import MANAGER_PID, ClientProcess, Process

if TYPE_CHECKING:
    from zkv.sim.world import World

ASK_MS: Final = 500.0
TIMEOUT_MS: Final = 3000.0
"""Of each call, and of the question for the time."""
CALLS_AT_ONCE: Final = 3


class Timekeeper(Process):
    """Asks the manager for the cluster's time, as a command does before it begins, until it gives up."""

    def __init__(self, world: World, pid: str, then: Callable[[int | None], None]) -> None:
        """`then` is given the time (0: the manager does not know it), or None where no manager answered."""
        super().__init__(world, pid)
        self._then = then
        self._until_ms = self.now_ms() + TIMEOUT_MS
        self._asked_ms = float("-inf")
        world.processes[pid] = self
        self.wake_in(0.0)

    def turn(self) -> None:
        now_ms = self.now_ms()
        for _, frame in self.drain():
            if wire.decode_header(frame).kind == wire.WELCOME:
                self._end(wire.decode_body(frame)[4])
                return
        if now_ms >= self._until_ms:
            self._end(None)
        elif now_ms >= self._asked_ms + ASK_MS:
            self._asked_ms = now_ms
            frame = wire.encode(wire.HELLO, 0, 1, 0, 0, None)
            self.world.network.send(self.pid, MANAGER_PID, (self.pid.encode(), frame))
        self.wake_at(min(self._asked_ms + ASK_MS, self._until_ms))

    def _end(self, cluster_ms: int | None) -> None:
        self.kill()
        self._then(cluster_ms)


class Command:
    """A process that dumps or loads, from its start to its end. Killed, it leaves what it did, and tells nobody."""

    def __init__(self, world: World, pid: str, then: Callable[[bool], None]) -> None:
        """`then`: told whether all was done, unless it is killed."""
        self.world = world
        self.began_ms = world.clockwork.now_ms
        self._then = then
        self._timekeeper = Timekeeper(world, f"{pid}-time", self._told)
        self.client = ClientProcess(world, pid, subscribed=True)
        world.processes[pid] = self.client

    def kill(self) -> None:
        """SIGKILL."""
        self._timekeeper.kill()
        self.client.kill()

    def pause(self) -> None:
        """SIGSTOP."""
        self._timekeeper.pause()
        self.client.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self._timekeeper.resume()
        self.client.resume()

    @property
    def alive(self) -> bool:
        """Whether it is under way."""
        return self.client.alive

    def _told(self, cluster_ms: int | None) -> None:
        if cluster_ms is None:
            self._end(False)
        else:
            self._begin(cluster_ms)

    def _begin(self, cluster_ms: int) -> None:
        raise NotImplementedError

    def _end(self, done: bool) -> None:
        if self.alive:
            self.kill()
            self._then(done)


class Dump(Command):
    """`zkv-admin dump`."""

    def __init__(
        self, world: World, pid: str, rng: random.Random, at_once: int, then: Callable[[bool], None]
    ) -> None:  # fmt: skip
        self._rng = rng
        self._at_once = at_once
        self._sink = io.BytesIO()
        self._pages: Pictures | None = None
        self._first_ms: dict[tuple[int, int], float] = {}
        """(shard, attempt) -> when its first page was asked for."""
        self._last: dict[tuple[int, int], tuple[float, int]] = {}
        """(shard, attempt) -> when its last page came, by our time and by the latest of the nodes' cluster times."""
        super().__init__(world, pid, then)

    @property
    def data(self) -> bytes:
        """What it has written."""
        return self._sink.getvalue()

    @property
    def begun_anew(self) -> int:
        """Pictures that it began anew."""
        return 0 if self._pages is None else self._pages.state.begun_anew

    def _begin(self, cluster_ms: int) -> None:
        """The map, then the head."""

        def mapped() -> None:
            if call.failures:
                self._end(False)
                return
            shard_map = self.client.core.map
            head = Head(shard_map.cluster, len(shard_map.shards), cluster_ms, "the simulation")
            self._pages = Pictures(self._sink, head, self._rng.getrandbits, at_once=self._at_once)
            self._go_on()

        call: Call = self.client.submit(wire.GET, [], None, TIMEOUT_MS, ([], mapped))

    def _go_on(self) -> None:
        """The next pages, or the end."""
        pages = self._pages
        assert pages is not None
        if pages.over:
            self.world.fired["pictures begun anew"] += self.begun_anew
            self._end(True)
            return
        asked = pages.ask()
        for name in zip(asked.shards, asked.attempts, strict=True):
            self._first_ms.setdefault(name, self.world.clockwork.now_ms)

        def came() -> None:
            if call.failures:
                self._end(False)
                return
            for name in zip(asked.shards, asked.attempts, strict=True):
                self._last[name] = self.world.clockwork.now_ms, self._latest_ms()
            versions, values, _, _ = call.columns()
            try:
                pages.take(versions, values)
            except Unavailable:
                self.world.fired["dumps given up"] += 1
                self._end(False)
                return
            self._go_on()

        call: Call = self.client.submit(
            wire.SCAN, asked.prefixes, asked.values, TIMEOUT_MS, ([], came), operands=asked.operands,
            shards=asked.shards,
        )  # fmt: skip

    def _latest_ms(self) -> int:
        nodes = [process for process in self.world.nodes.values() if process.alive]
        return max((process.core.local.clock.at(process.now_ms()) for process in nodes), default=0)

    def pictures(self) -> list[Picture]:
        """What it has written of shards that it came to the end of, read as anybody reads a dump. Raises `Violation`
        where a dump without its end passes for a whole one, or the other way round."""
        done = []
        rows: dict[tuple[int, int], dict[str, tuple[int, Any, int]]] = {}
        whole = False
        try:
            for _, content in Reader(io.BytesIO(self.data)):
                if isinstance(content, Entries):
                    held = rows.setdefault((content.shard, content.attempt), {})
                    for key, row in _rows_of(content):
                        if held.setdefault(key, row) is not row:
                            raise Violation(f"a dump shows {key} twice in one picture: {content}")
                elif isinstance(content, End):
                    name = content.shard, content.attempt
                    ended_ms, cluster_ms = self._last[name]
                    picture = Picture(content.shard, content.position, self._first_ms[name], ended_ms, cluster_ms)
                    picture.rows = rows.get(name, {})
                    done.append(picture)
                whole |= isinstance(content, Foot)
        except BadDump as error:
            if "cut short" not in str(error) and self.data:
                raise Violation(f"a dump that was broken off is damaged: {error}") from error
        if whole != (self._pages is not None and self._pages.over):
            raise Violation(f"a dump that was broken off passes for a whole one, or a whole one does not: {done}")
        return done


def _rows_of(entries: Entries) -> Iterator[tuple[Any, tuple[int, Any, int]]]:
    columns = wire.unpack_u64(entries.versions), entries.values, wire.unpack_u64(entries.expiries)
    return zip(entries.keys, zip(*columns, strict=True), strict=True)


def renamed(dump: bytes, prefix: str) -> bytes:
    """The dump of a cluster whose keys have other names. What was loaded from dumps before is left out, or a run would
    have more and more keys."""
    sink = io.BytesIO()
    writer = Writer(sink)
    for _, content in Reader(io.BytesIO(dump)):
        if isinstance(content, Head):
            writer.head(content)
        elif isinstance(content, Entries):
            kept = [(key, *row) for key, row in _rows_of(content) if not str(key).startswith(LOADED)]
            if kept:
                keys, versions, values, expiries = zip(*kept, strict=True)
                packed = wire.pack_u64(versions), list(values), wire.pack_u64(expiries)
                names = [f"{prefix}{key}" for key in keys]
                writer.entries(Entries(content.shard, content.attempt, names, *packed))  # type: ignore[arg-type]
        elif isinstance(content, End):
            writer.end(content.shard, content.attempt, content.position)
        else:
            writer.foot()
    return sink.getvalue()


class Loading(NamedTuple):
    """A put of a load."""

    operation: Operation
    expires_ms: int
    """By the dump."""
    late_ms: float
    """By how much the time that it went by may have been behind the cluster's."""


class Load(Command):
    """`zkv-admin load`."""

    def __init__(
        self, world: World, pid: str, dump: bytes, most_keys: int, then: Callable[[bool], None], *,
        if_absent: bool = False,
    ) -> None:  # fmt: skip
        self.dump = dump
        self._most_keys = most_keys
        self._op = wire.PUT_IF_ABSENT if if_absent else wire.PUT
        self._contents = verify(io.BytesIO(dump))
        self._batches: Iterator[Batch] = iter(())
        self._under_way = 0
        self._ended = False
        self._asked_ms = world.clockwork.now_ms
        self._told_ms = 0.0
        self._time: CountedTime | None = None
        self.puts: list[Loading] = []
        self.expired = self.kept = 0
        super().__init__(world, pid, then)

    def _begin(self, cluster_ms: int) -> None:
        if self._contents.expiring and not cluster_ms:
            self._end(False)
            return
        self._told_ms = self.world.clockwork.now_ms
        self._time = CountedTime(cluster_ms, lambda: int(self.client.now_ms()))
        batches = Batches(io.BytesIO(self.dump), self._contents, most_keys=self._most_keys)
        self._batches = iter(batches)
        self._go_on()

    def _go_on(self) -> None:
        """As many calls as may be under way at once."""
        while not self._ended and self._under_way < CALLS_AT_ONCE:
            batch = next(self._batches, None)
            if batch is None:
                self._ended = True
            else:
                self._put(batch)
        if self._ended and not self._under_way:
            self._check_whole()
            self._end(True)

    def _put(self, batch: Batch) -> None:
        world, now_ms = self.world, self.world.clockwork.now_ms
        assert self._time is not None
        put = put_of(batch, self._time.now_ms())
        self.expired += put.expired
        world.fired["entries that expired before they were loaded"] += put.expired
        if not put.keys:
            return
        expiries = dict(zip(batch.keys, batch.expiries, strict=True))
        slowest, fastest = world.clock_rates
        late_ms = fastest * (self._told_ms - self._asked_ms) + (fastest - slowest) * (now_ms - self._told_ms)
        operations = []
        for key, value, ttl_ms in zip(put.keys, put.values, put.ttls or [0] * len(put.keys), strict=True):
            operation = world.history.begin(self.client.pid, "put", str(key), value, now_ms)
            operation.ttl_ms = ttl_ms
            operations.append(operation)
            self.puts.append(Loading(operation, expiries[key], late_ms))

        def came() -> None:
            self._under_way -= 1
            if any(operation.outcome != OK for operation in operations):
                self._end(False)  # for want of an answer, or of room
                return
            self.kept += sum(not operation.existed for operation in operations)
            world.fired["entries loaded"] += len(operations)
            world.fired["entries loaded that expire"] += sum(bool(operation.ttl_ms) for operation in operations)
            self._go_on()

        self._under_way += 1
        keys = [operation.key for operation in operations]
        self.client.submit(self._op, keys, put.values, TIMEOUT_MS, (operations, came), ttls=put.ttls)

    def _check_whole(self) -> None:
        """Raise `Violation` unless what the dump holds was put, all of it, once, and nothing else."""
        assert self._time is not None
        put = {put.operation.key: (put.operation.value, put.expires_ms) for put in self.puts}
        held = entries_of(self.dump)
        now_ms = self._time.now_ms()
        wanted = {key: row for key, row in held.items() if not 0 < row[1] <= now_ms}
        if not wanted.items() <= put.items() <= held.items() or len(self.puts) + self.expired != self._contents.keys:
            raise Violation(f"a load put {put}, and {self.expired} had expired, of {held}")


def entries_of(dump: bytes) -> dict[str, tuple[Any, int]]:
    """Key -> (value, expiry) of all that counts in a dump: what comes last, for a reader that takes each shard by its
    end."""
    found: dict[str, tuple[Any, int]] = {}
    latest: dict[int, tuple[int, dict[str, tuple[Any, int]]]] = {}
    for _, content in Reader(io.BytesIO(dump)):
        if isinstance(content, Entries):
            attempt, held = latest.get(content.shard, (0, {}))
            held = held if attempt == content.attempt else {}
            held.update((key, row[1:]) for key, row in _rows_of(content))
            latest[content.shard] = content.attempt, held
        elif isinstance(content, End):
            attempt, held = latest.get(content.shard, (0, {}))
            found.update(held if attempt == content.attempt else {})
    return found


__all__ = ["Dump", "Load", "Loading", "entries_of", "renamed"]
