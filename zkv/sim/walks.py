"""Walks and watches of the simulation: clients that go through all keys, and clients that are told what happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.sim.history import OK, Operation, Scan, Told, Violation, Watched
from zkv.sim.processes import ClientProcess
from zkv.sim.world import World

PAGE_MS: Final = 2000.0
POLL_MS: Final = 1200.0
PAUSE_MS: Final = 20.0
AGAIN_MS: Final = 5.0


class Walker:
    """One client's walk through all shards, page by page; a page that cannot be had ends it."""

    def __init__(
        self, world: World, client: ClientProcess, mode: int, number: int, goes_on: Callable[[], bool],
        then: Callable[[], None],
    ) -> None:  # fmt: skip
        """`goes_on`: whether there is time for another page; `then`: what the client does when the walk is over."""
        self.world = world
        self.client = client
        self.mode = mode
        self.number = number << wire.SCAN_MODE_BITS | mode
        self.goes_on = goes_on
        self.then = then
        self.scan = Scan(world.clockwork.now_ms)
        self.cursors: dict[int, int] = dict.fromkeys(range(world.settings.shards), 0)
        self.positions: dict[int, int] = {}
        """shard -> where a frozen walk stands."""

    def go_on(self) -> None:
        """Ask for the next pages of the shards that are left."""
        shards = list(self.cursors)
        began_ms = self.world.clockwork.now_ms

        def page_came() -> None:
            if call.failures or not self.client.alive or not self.goes_on():
                self.then()
                return
            versions, values, _, _ = call.columns()
            for shard, version, page in zip(shards, versions, values, strict=True):
                if not self._take(shard, version, page, began_ms):
                    self.then()
                    return
            if self.cursors:
                self.go_on()
                return
            self.scan.end_ms = self.world.clockwork.now_ms
            if self.mode != wire.SCAN_COUNT:
                self.world.history.scans.append(self.scan)
            self.world.fired["scans"] += 1
            self.then()

        call: Call = self.client.submit(
            wire.SCAN, [""] * len(shards), [self.number] * len(shards), PAGE_MS, ([], page_came),
            operands=list(self.cursors.values()), shards=shards,
        )  # fmt: skip

    def _take(self, shard: int, version: int, page: list[Any], began_ms: float) -> bool:
        """One page; False: the walk is over, as it cannot show one moment."""
        keys, versions, values, _, cursor, _ = page
        if keys and self.mode == wire.SCAN_FROZEN and self.positions.setdefault(shard, version) != version:
            self.world.fired["frozen walks begun anew"] += 1
            return False
        self.scan.seen.extend(keys or ())
        if values is not None:
            frozen = self.mode == wire.SCAN_FROZEN
            start_ms = self.scan.start_ms if frozen else began_ms
            for key, shown, value in zip(keys, wire.unpack_u64(versions), values, strict=True):
                self._read(key, shown, value, start_ms)
        if cursor is None:
            del self.cursors[shard]
        else:
            self.cursors[shard] = cursor
        return True

    def _read(self, key: str, version: int, value: Any, start_ms: float) -> None:
        """What a page shows is a read like any other."""
        now_ms = self.world.clockwork.now_ms
        read = Operation(self.client.pid, "get", key, start_ms, value, now_ms, OK, version)
        self.world.history.operations[key].append(read)


class Watcher:
    """A client that watches everything until the end of the run."""

    def __init__(self, world: World, client: ClientProcess) -> None:
        self.world = world
        self.client = client
        self.tokens: dict[int, int] = {}
        self.open: dict[int, Watched] = {}
        self.stopped = False
        shards = list(range(world.settings.shards))
        some = world.rng.choice((1, 1, 2, len(shards)))
        for first in range(0, len(shards), some):
            self._ask(shards[first : first + some])

    def _ask(self, shards: list[int]) -> None:
        """Ask for news of all these, or for where to begin."""
        if self.stopped or not self.client.alive:
            return
        tokens = [self.tokens.get(shard, wire.NOW) for shard in shards]
        began_ms = self.world.clockwork.now_ms

        def news_came() -> None:
            versions, values, statuses, _ = call.columns()
            for place, shard in enumerate(shards):
                if place not in call.failures:
                    self._take(shard, tokens[place], statuses[place], versions[place], values[place], began_ms)
            self.world.clockwork.after(PAUSE_MS if call.failures else AGAIN_MS, lambda: self._ask(shards))

        call: Call = self.client.submit(
            wire.WATCH, [""] * len(shards), None, POLL_MS, ([], news_came), operands=tokens, shards=shards
        )

    def _take(self, shard: int, token: int, status: int, version: int, news: Any, began_ms: float) -> None:
        world = self.world
        if status == wire.GONE:
            world.fired["watches lost"] += 1
            del self.tokens[shard]
            return
        if token == wire.NOW:
            self.open[shard] = Watched(shard, version, version)
            world.history.watches.append(self.open[shard])
        elif version < token:
            raise Violation(f"a watch of shard {shard} went back from {token} to {version}")
        self.tokens[shard] = self.open[shard].ended = version
        if news is None:
            return
        versions, kinds, keys, values, _ = news
        for number, kind, key, value in zip(wire.unpack_u64(versions), kinds, keys, values, strict=True):
            world.fired["events told"] += 1
            self.open[shard].events.append(Told(number, kind, key, value))
            if number > version or (kind == wire.PUT_EVENT) == (value is None):
                raise Violation(f"an event beyond its token, or without its value: {number} {kind} {key}")
            now_ms = world.clockwork.now_ms
            told = Operation(self.client.pid, "get", key, began_ms, value, now_ms, OK, number, told=True)
            world.history.operations[key].append(told)
