"""A campaign in which the cluster is dumped and dumps are loaded, all the while: beside the clients, under every fault.

It differs from the others in nothing else, but has a source of chance of its own, so that it shifts nothing in theirs.
Dumps and loads are killed and paused as well; what was broken off is repeated. At the end

- each picture of a shard in any dump shows one moment of it (`ledger`), one not before it was begun; its entries are
  reads of the history;
- a dump that was broken off passes for none;
- a load that came to its end put all of its dump and nothing else, as ordinary writes, which are in the history; and
  what it put expires when it would have expired where it was dumped, later by as long as the put took;
- in the quiet that follows a dump and a load succeed, and what is loaded is what was dumped.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from zkv.core import wire
from zkv.core.node import walks
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import shard_of
from zkv.sim.campaign import Campaign
from zkv.sim.dumps import Command, Dump, Load, Loading, entries_of, renamed
from zkv.sim.history import EXPIRING, LOADED, NOT_DONE, OFF_MS, OK, Operation, Violation
from zkv.sim.ledger import Ledger, Row
from zkv.sim.processes import ClientProcess
from zkv.sim.world import World

STORM_MS: Final = 4000.0
LONG_MS: Final = (1500, 4000, 8000, 30_000)
"""Times to live, longer than those of other campaigns: what is loaded is to expire some time after it was dumped."""
TRIES: Final = 5
"""Dumps, and loads, in a cluster that works again, one of which succeeds."""
QUIET_MS: Final = 8000.0
"""That one takes at most."""


@contextmanager
def forgetful(rng: random.Random) -> Iterator[None]:
    """Run with nodes that may forget a walk soon."""
    former = walks.IDLE_MS
    walks.IDLE_MS = rng.choice((100.0, 400.0, 10_000.0))  # type: ignore[misc]
    try:
        yield
    finally:
        walks.IDLE_MS = former  # type: ignore[misc]


class DumpCampaign(Campaign):
    """A run from one seed with dumps and loads."""

    def __init__(self, seed: int, world_class: type[World] = World) -> None:
        super().__init__(seed, world_class)
        self.own = random.Random(seed ^ 0xD0A9)
        self.world.ledger = Ledger()
        self.long = [f"{EXPIRING}-long{number}" for number in range(4)]
        self.dumps: list[Dump] = []
        self.loads: list[Load] = []
        self._whole: bytes | None = None
        """The last dump that came to its end."""
        self._mended = False
        """It has pictures that were begun anew, and was not loaded yet: what does not count in it is to be left out."""
        self._broken: bytes | None = None
        """What a load did not come to the end of."""
        self._started = 0

    def _adjusted(self, settings: ClusterSettings) -> ClusterSettings:
        return replace(settings, history_bytes=16 * 2**20)  # the ledger reads what nodes remember

    def run(self, storm_ms: float = STORM_MS) -> World:
        with forgetful(self.own):
            return super().run(storm_ms)

    def _form(self) -> None:
        super()._form()
        setter = ClientProcess(self.world, "client-setter", subscribed=True)
        self.world.processes[setter.pid] = setter
        self._set(setter)
        self._next()

    # --- load and faults -------------------------------------------------------------------------------------------

    def _set(self, setter: ClientProcess) -> None:
        """Put what lives for seconds, now and then."""
        world, own = self.world, self.own

        def put() -> None:
            if not self.storm:
                return
            key, ttl_ms = own.choice(self.long), own.choice(LONG_MS)
            self.values += 1
            operation = world.history.begin(setter.pid, "put", key, f"v{self.values}", world.clockwork.now_ms)
            operation.ttl_ms = ttl_ms
            note = [operation], lambda: self._set(setter)
            setter.submit(wire.PUT, [key], [operation.value], 1500.0, note, ttls=[ttl_ms])

        world.clockwork.after(own.uniform(10.0, 300.0), put)

    def _next(self) -> None:
        """One dump or load after the other, while the storm lasts."""

        def start() -> None:
            if not self.storm:
                return
            if self._whole is None or (not self._mended and self.own.random() < 0.5):
                self._trouble(self._dump())
            else:
                broken = None if self._mended or self.own.random() < 0.2 else self._broken
                self._mended = False
                self.world.fired["loads repeated"] += broken is not None
                dump = broken or renamed(self._whole, f"{LOADED}{self.own.choice((1, 2))}:")
                self._trouble(self._load(dump, if_absent=self.own.random() < 0.3))

        self.world.clockwork.after(self.own.uniform(5.0, 120.0), start)

    def _dump(self) -> Dump:
        self._started += 1

        def ended(done: bool) -> None:
            self.world.fired["dumps" if done else "dumps that failed"] += 1
            if done:
                self._whole, self._mended = dump.data, bool(dump.begun_anew)
            self._next()

        dump = Dump(self.world, f"client-dump{self._started}", self.own, self.own.choice((1, 2, 16)), ended)
        self.dumps.append(dump)
        return dump

    def _load(self, dump: bytes, *, if_absent: bool = False) -> Load:
        self._started += 1
        self._broken = dump

        def ended(done: bool) -> None:
            self.world.fired["loads" if done else "loads that failed"] += 1
            if done:
                self._broken = None
                self.world.fired["entries kept"] += load.kept
            self._next()

        pid, most = f"client-load{self._started}", self.own.choice((1, 3, 4096))
        load = Load(self.world, pid, dump, most, ended, if_absent=if_absent)
        self.loads.append(load)
        return load

    def _trouble(self, command: Command) -> None:
        """A dump or a load is killed, or stopped for a while, or a node dies in the middle of it, as it comes."""
        clockwork, own = self.world.clockwork, self.own
        lasting_ms = 60.0 if isinstance(command, Dump) else 20.0
        choice, when_ms = own.random(), own.expovariate(1 / lasting_ms)

        def kill() -> None:
            if command.alive:
                command.kill()
                self.world.fired["dumps killed" if isinstance(command, Dump) else "loads killed"] += 1
                self._next()

        def pause() -> None:
            command.pause()
            clockwork.after(own.choice((150.0, 500.0, 1500.0)), command.resume)

        def strike() -> None:
            name = own.choice(sorted(self.world.nodes))
            if command.alive and self.storm and self.world.may_crash(name):
                self.world.crash_node(name)
                self.world.fired["dumps and loads struck"] += 1
                clockwork.after(own.uniform(100.0, 1000.0), lambda: self._start_again(name))

        if choice < 0.7:
            clockwork.after(when_ms, kill if choice < 0.25 else pause if choice < 0.45 else strike)

    def _start_again(self, name: str) -> None:
        if not self.world.nodes[name].alive:
            self.world.start_node(name)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _all_keys(self) -> list[str]:
        return [*super()._all_keys(), *self.long, *(key for key in self.world.history.operations if _is_loaded(key))]

    def _finish(self) -> None:
        super()._finish()
        world = self.world
        assert world.disk is not None
        alive = [sum(world.by_boot[boot].alive for boot in shard.replicas) for shard in world.disk.map.shards]
        if min(alive) >= world.settings.min_in_sync and not world.settings.memory_limit_bytes:
            self._restore()

    def _restore(self) -> None:
        """In the quiet: dump, load, and look whether all of it is there."""
        world = self.world
        if not any(self._ended(self._dump()) for _ in range(TRIES)):
            raise Violation(f"a cluster that works cannot be dumped, in {TRIES} tries: {self._story()}")
        assert self._whole is not None
        dump = renamed(self._whole, f"{LOADED}0:")
        if not any(self._ended(self._load(dump)) for _ in range(TRIES)):
            raise Violation(f"into a cluster that works nothing can be loaded, in {TRIES} tries: {self._story()}")
        held = entries_of(dump)
        client = ClientProcess(world, "client-restored", subscribed=True)
        world.processes[client.pid] = client
        began_ms = world.clockwork.now_ms
        reads = [world.history.begin(client.pid, "get", key, None, began_ms) for key in held]
        client.submit(wire.GET, list(held), None, 3900.0, (reads, None))
        world.run(began_ms + 4500.0)
        for read in reads:
            value, expires_ms = held[read.key]
            if read.outcome != OK or (read.value != value and not (expires_ms and read.value is None)):
                raise Violation(f"{read.key} is to be {value!r} after a load, and is {read.value!r} ({read.outcome})")

    def _ended(self, command: Command) -> bool:
        """Whether it comes to a good end, within a bound."""
        world = self.world
        name = "dumps" if isinstance(command, Dump) else "loads"
        before, until_ms = world.fired[name], world.clockwork.now_ms + QUIET_MS
        while command.alive and world.clockwork.now_ms < until_ms:
            world.run(world.clockwork.now_ms + 100.0)
        command.kill()
        return world.fired[name] > before

    def _check(self) -> None:
        world, ledger = self.world, self.world.ledger
        assert ledger is not None
        pictures = []
        for dump in self.dumps:
            for picture in dump.pictures():
                pictures.append(picture)
                for key, (version, value, _) in picture.rows.items():
                    times = picture.began_ms, value, picture.ended_ms
                    read = Operation(dump.client.pid, "get", key, *times, OK, version)
                    world.history.operations[key].append(read)
        world.fired["pictures"] += len(pictures)
        super()._check()
        ledger.check(pictures, world.history, lambda key: shard_of(key, world.settings.shards))
        self._check_loaded(ledger)

    def _check_loaded(self, ledger: Ledger) -> None:
        """Each entry that a load made is one of its dump, and expires as it would have."""
        puts: defaultdict[str, list[Loading]] = defaultdict(list)
        for load in self.loads:
            for put in load.puts:
                puts[put.operation.key].append(put)
        for rows in ledger.rows.values():
            for version, row in rows.items():
                if not _is_loaded(row.key) or row.value is None:
                    continue
                made = [put for put in puts[row.key] if _is_of(put, row)]
                made = [put for put in made if put.operation.version == version] or made
                if not any(self._expires_in_time(put, row) for put in made):
                    raise Violation(f"{row} was loaded, by {made}")

    def _expires_in_time(self, put: Loading, row: Row) -> bool:
        if not put.expires_ms or not row.expires_ms:
            return put.expires_ms == row.expires_ms
        took_ms = self.world.clock_rates[1] * (row.seen_ms - put.operation.start_ms)
        off_ms = OFF_MS + put.late_ms
        return put.expires_ms - off_ms <= row.expires_ms <= put.expires_ms + off_ms + took_ms


def _is_loaded(key: str) -> bool:
    return key.startswith(LOADED)


def _is_of(put: Loading, row: Row) -> bool:
    """Whether a put may have made an entry."""
    one = put.operation
    return one.outcome != NOT_DONE and one.value == row.value and one.start_ms <= row.seen_ms


__all__ = ["DumpCampaign"]
