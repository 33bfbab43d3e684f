"""Random schedules of expiries, evictions, changes of primaries and lost batches, small enough to be read when one
fails: who watched from the beginning can tell what is there at the end, and all members hold the same."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.scenario.bench import Bench
from zkv.core import wire
from zkv.core.node import expiring, watching
from zkv.core.node.entries import expires_ms_of
from zkv.core.shardmap import shard_of

KEYS = [f"k{number}" for number in range(200) if shard_of(f"k{number}", 2) == 0][:12]
Table = dict[str, tuple[int, Any, int]]


class Schedule:
    """One shard at three members of four, whoever writes to it, and who watches it."""

    def __init__(self, seed: int, **settings: Any) -> None:
        self.rng = random.Random(seed)
        self.bench = Bench(s="PBC", t="PBC", others="D", **settings)
        self.members = "PBC"
        self.token = self.bench.watch("P", {"s": wire.NOW}).version
        self.table: Table = {}
        """What the events make of it."""
        self.told = 0

    @property
    def primary(self) -> str:
        return self.bench.active("s")

    def write(self) -> None:
        rng = self.rng
        op = rng.choice((wire.PUT, wire.PUT, wire.DELETE, wire.TOUCH, wire.INCR, wire.GETSET, wire.PUT_IF_ABSENT))
        keys = rng.sample(KEYS, rng.randrange(1, 4))
        values = None if op in (wire.DELETE, wire.TOUCH) else [rng.randrange(100) for _ in keys]
        ttls = [rng.choice((0, 0, 3, 40, 300, 5000)) for _ in keys]
        ack = rng.choice(("all", "primary"))
        if self.primary:
            self.bench.op(op, self.primary, keys, values, ttls=ttls, ack=ack, client=rng.choice("xyz"))

    def watch(self) -> None:
        """Take what there is, wherever it is to be had."""
        for _ in range(50):
            if not self.primary:
                return
            ask = self.bench.watch(self.primary, {"s": self.token})
            if ask.status == "UNANSWERED":
                self.bench.advance(watching.WAIT_MS + 50)
            if ask.status != "OK":
                assert ask.status in ("NOT_READY", "UNANSWERED", "MAYBE", "MOVED"), ask.status
                return
            assert ask.version >= self.token
            if ask.value is None:
                self.token = ask.version
                return
            versions, kinds, keys, values, expiries = ask.value
            for version, kind, key, value, until in zip(
                wire.unpack_u64(versions), kinds, keys, values, wire.unpack_u64(expiries), strict=True
            ):
                assert version > self.token, "told twice"
                assert version > self.table.get(key, (0, None, 0))[0]
                assert (value is None) == (kind != wire.PUT_EVENT)
                self.token = version
                self.told += 1
                self.table.pop(key, None)
                if value is not None:
                    self.table[key] = version, value, until
            self.token = ask.version

    def change(self) -> None:
        """Another primary among the members; or one member is replaced by the fourth, as a manager would do it."""
        rng, bench = self.rng, self.bench
        bench.heal()
        bench.advance(rng.choice((0, 30)))
        if rng.random() < 0.6:
            order = list(self.members)
            rng.shuffle(order)
            self.members = "".join(order)
            bench.change(s=self.members)
        else:
            (outside,) = set("PBCD") - set(self.members)
            bench.change(s=f"{self.members}+{outside}")
            for _ in range(40):
                bench.advance(20)
                if rng.random() < 0.5:
                    self.write()
                if bench.filled.get("s"):
                    break
            else:
                return
            self.watch()  # the new member knows nothing of what was before it subscribed
            gone = rng.choice(self.members)
            self.members = outside + self.members.replace(gone, "")
            bench.change(s=self.members)
        bench.advance(rng.choice((5, 60)))

    def disturb(self) -> None:
        rng = self.rng
        if self.primary:
            others = [pid for pid in self.members if pid != self.primary]
            kind = rng.choice(("BATCH", "ACK"))
            link = (self.primary, rng.choice(others)) if kind == "BATCH" else (rng.choice(others), self.primary)
            rng.choice((self.bench.drop, self.bench.hold))(*link, kind)

    def run(self, steps: int) -> None:
        rng = self.rng
        for _ in range(steps):
            step = rng.choices(
                (self.write, self.watch, self.change, self.disturb, self.bench.heal, self.rest), (12, 3, 1, 1, 2, 6)
            )[0]
            step()
        self.bench.heal()
        self.bench.advance(6000)  # whatever expires soon has
        self.watch()

    def rest(self) -> None:
        self.bench.advance(self.rng.choice((1, 2, 10, 100)))

    def check(self) -> None:
        bench = self.bench
        primary = self.primary
        assert primary
        # Around a change of the map a backup may keep a tombstone that the others have dropped.
        tables = {
            pid: {key: row for key, row in bench.node(pid).local.store.opened(0).items() if row[1] is not None}
            for pid in self.members
        }
        for pid in self.members:
            store = bench.node(pid).local.store
            assert tables[pid] == tables[primary], f"{pid} holds something else than {primary}"
            assert store.bytes == sum(
                store.size_of_entry(key, entry) for table in store.tables for key, entry in table.items()
            )
            assert store.expiry.count == sum(
                expires_ms_of(entry) > 0 for table in store.tables for entry in table.values()
            )
            assert bench.node(pid).local.fired["malformed frames"] == 0
        assert tables[primary] == self.table, "the events tell another story"
        assert all(not until or until > bench.cluster_ms for _, _, until in self.table.values())
        assert self.told > 10


@pytest.mark.parametrize("seed", range(25))
def test_who_watched_from_the_beginning_knows_what_is_there(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiring, "RECLAIMED_AT_ONCE", 1 + seed % 3 * 100)
    schedule = Schedule(seed)
    schedule.run(120)
    schedule.check()


@pytest.mark.parametrize("eviction", ["lru", "ttl"])
@pytest.mark.parametrize("seed", range(8))
def test_and_so_it_is_where_entries_have_to_make_room(seed: int, eviction: str) -> None:
    schedule = Schedule(seed, eviction=eviction, memory_limit_bytes=1700)
    schedule.run(120)
    schedule.check()
    assert sum(schedule.bench.node(pid).local.evicted for pid in "PBCD") > 0
