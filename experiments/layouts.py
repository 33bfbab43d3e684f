"""Ways of keeping a table's entries in memory: what a key takes in each, and what a get and a put cost.

A value is what the wire brought: bytes, str, a number or an ExtType. A node keeps small ones *encoded*, and large ones
in a tuple (`zkv/core/node/entries.py`).

\b
tuple    (version, value, expiry).
pair     (version, value), with the expiries of the few keys that have one elsewhere.
packed   One bytes object: version, expiry, and the value, which must be bytes: the least that packing can cost.
encoded  One bytes object: version, expiry, and the value as MessagePack, which takes values of all types. Replies are
         put together from what is there.
slots    The number of a row; versions in an array of 64-bit numbers, values in a list; expiries elsewhere.

Each does the whole of what a node does between a request's columns and the reply's bytes: find the tables of the
shards; get: pack the versions, and MessagePack for both columns; put: replace the entries and account for their bytes;
look: versions and values as objects, one by one, as conditions, increments and walks have them. Each is written as fast
as we could, with loops in C where there are any.

Each layout has a process of its own, and they take turns. Timed are batches of 250 on keys chosen at random, with key
and value objects that have just been made, as they come off the wire. Cold: of all keys; hot: of 5,000, which stay in
the processor's caches.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import random
import statistics
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import repeat
from multiprocessing.connection import Connection
from operator import add, itemgetter
from struct import Struct
from typing import Any, Final

import click
import msgpack
from paced import key_of, median_of, rss_bytes, value_of

from zkv.core.node.sizes import ENTRY_BYTES, size_of_all
from zkv.core.wire import pack_u64

SIZES: Final = (16, 100, 1000)
SHARDS: Final = 1024
BATCH: Final = 250
BATCHES: Final = 60
"""In a turn, of each kind."""
TURNS: Final = 3
"""For each process."""
HOT_KEYS: Final = 5000
KINDS: Final = ("get", "put", "look")
FIRST_VERSION: Final = 1 << 56
PACK: Final = msgpack.Packer(autoreset=True).pack
NUMBERS: Final = Struct("<QQ")
HEAD: Final = itemgetter(slice(8))
"""The version of a packed entry, and"""
REST: Final = itemgetter(slice(NUMBERS.size, None))
"""its value."""
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
PER_ITEM: Final = 10
"""Values of a user that share a key, in the last row of `CONTENTS`."""

Shards = Sequence[int]
Keys = Sequence[str | bytes]


# --- the layouts ----------------------------------------------------------------------------------------------------


class Layout(ABC):
    """All tables of a node."""

    missing: Any
    """What a table is taken to have for a key that is not there."""

    def __init__(self) -> None:
        self.tables: list[dict[Any, Any]] = [{} for _ in range(SHARDS)]
        self.bytes = 0

    def found(self, shards: Shards, keys: Keys) -> list[Any]:
        """What the tables have for the keys."""
        missing, tables = self.missing, map(self.tables.__getitem__, shards)
        return [table.get(key, missing) for table, key in zip(tables, keys, strict=True)]

    def account(self, fresh: list[Any], more: int) -> None:
        """So many bytes of values more, and these keys."""
        self.bytes += more + size_of_all(fresh) + ENTRY_BYTES * len(fresh)

    @abstractmethod
    def get(self, shards: Shards, keys: Keys) -> bytes:
        """The reply's columns: packed versions, values."""

    @abstractmethod
    def put(self, shards: Shards, keys: Keys, versions: Sequence[int], values: Sequence[Any]) -> None:
        """Replace entries, and account for them."""

    @abstractmethod
    def look(self, shards: Shards, keys: Keys) -> list[tuple[int, Any]]:
        """Version and value of each."""


class Tuples(Layout):
    """(version, value, expiry)"""

    missing: Any = (0, None, 0)

    def get(self, shards: Shards, keys: Keys) -> bytes:
        versions, values, *_ = zip(*self.found(shards, keys), strict=True)
        packed: bytes = PACK([pack_u64(versions), values])
        return packed

    def made(self, versions: Sequence[int], values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """The entries."""
        return zip(versions, values, repeat(0), strict=False)

    def put(self, shards: Shards, keys: Keys, versions: Sequence[int], values: Sequence[Any]) -> None:
        fresh: list[Any] = []
        former: list[Any] = []
        tables = map(self.tables.__getitem__, shards)
        for table, key, entry in zip(tables, keys, self.made(versions, values), strict=True):
            known = table.get(key)
            table[key] = entry
            if known is None:
                fresh.append(key)
            else:
                former.append(known[1])
        self.account(fresh, size_of_all(values) - size_of_all(former))

    def look(self, shards: Shards, keys: Keys) -> list[tuple[int, Any]]:
        return [(version, value) for version, value, _ in self.found(shards, keys)]


class Pairs(Tuples):
    """(version, value)"""

    missing = (0, None)

    def made(self, versions: Sequence[int], values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        return zip(versions, values, strict=True)

    def look(self, shards: Shards, keys: Keys) -> list[tuple[int, Any]]:
        return [(version, value) for version, value in self.found(shards, keys)]


class Packed(Layout):
    """Version, expiry and value in one bytes object."""

    missing = bytes(NUMBERS.size)

    def get(self, shards: Shards, keys: Keys) -> bytes:
        entries = self.found(shards, keys)
        packed: bytes = PACK([b"".join(map(HEAD, entries)), list(map(REST, entries))])
        return packed

    def made(self, versions: Sequence[int], values: Iterable[Any]) -> Iterator[bytes]:
        """The entries."""
        return map(add, map(NUMBERS.pack, versions, repeat(0)), values)

    def put(self, shards: Shards, keys: Keys, versions: Sequence[int], values: Sequence[Any]) -> None:
        fresh: list[Any] = []
        former: list[Any] = []
        entries = list(self.made(versions, values))
        for table, key, entry in zip(map(self.tables.__getitem__, shards), keys, entries, strict=True):
            known = table.get(key)
            table[key] = entry
            if known is None:
                fresh.append(key)
            else:
                former.append(known)
        self.account(fresh, sum(map(len, entries)) - sum(map(len, former)))

    def look(self, shards: Shards, keys: Keys) -> list[tuple[int, Any]]:
        unpack = NUMBERS.unpack_from
        return [(unpack(entry)[0], REST(entry)) for entry in self.found(shards, keys)]


class Encoded(Packed):
    """Version, expiry and MessagePack of the value in one bytes object."""

    def get(self, shards: Shards, keys: Keys) -> bytes:
        entries = self.found(shards, keys)
        versions = PACK(b"".join(map(HEAD, entries)))
        return b"".join((b"\x92", versions, b"\xdc", len(entries).to_bytes(2, "big"), *map(REST, entries)))

    def made(self, versions: Sequence[int], values: Iterable[Any]) -> Iterator[bytes]:
        return super().made(versions, map(PACK, values))

    def look(self, shards: Shards, keys: Keys) -> list[tuple[int, Any]]:
        unpack, decode = NUMBERS.unpack_from, msgpack.unpackb
        return [(unpack(entry)[0], decode(REST(entry))) for entry in self.found(shards, keys)]


class Slots(Layout):
    """Columns of versions and values, and tables that say where."""

    missing = 0

    def __init__(self) -> None:
        super().__init__()
        self.versions = array("Q", [0])
        self.values: list[Any] = [None]

    def get(self, shards: Shards, keys: Keys) -> bytes:
        chosen = itemgetter(*self.found(shards, keys))
        packed: bytes = PACK([pack_u64(chosen(self.versions)), chosen(self.values)])
        return packed

    def put(self, shards: Shards, keys: Keys, versions: Sequence[int], values: Sequence[Any]) -> None:
        fresh: list[Any] = []
        former: list[Any] = []
        all_versions, all_values = self.versions, self.values
        tables = map(self.tables.__getitem__, shards)
        for table, key, version, value in zip(tables, keys, versions, values, strict=True):
            row = table.get(key)
            if row is None:
                table[key] = len(all_values)
                all_values.append(value)
                all_versions.append(version)
                fresh.append(key)
            else:
                former.append(all_values[row])
                all_values[row] = value
                all_versions[row] = version
        self.account(fresh, size_of_all(values) - size_of_all(former))

    def look(self, shards: Shards, keys: Keys) -> list[tuple[int, Any]]:
        versions, values = self.versions, self.values
        return [(versions[row], values[row]) for row in self.found(shards, keys)]


LAYOUTS: Final[dict[str, Callable[[], Layout]]] = {
    "tuple": Tuples, "pair": Pairs, "packed": Packed, "encoded": Encoded, "slots": Slots,
}  # fmt: skip


# --- in a process of its own ----------------------------------------------------------------------------------------


def _fill(layout: Layout, keys: int, make: Callable[[int], tuple[str | bytes, Any]]) -> None:
    """By batches, as a node is filled."""
    for first in range(0, keys, BATCH):
        numbers = range(first, min(first + BATCH, keys))
        columns = [make(number) for number in numbers]
        shards = [number % SHARDS for number in numbers]
        versions = range(FIRST_VERSION + first, FIRST_VERSION + numbers.stop)
        layout.put(shards, [key for key, _ in columns], versions, [value for _, value in columns])


def _filled(layout: Layout, keys: int, make: Callable[[int], tuple[str | bytes, Any]]) -> float:
    """Fill it; by how many bytes the process has grown for each key."""
    gc.disable()
    before = rss_bytes(os.getpid())
    _fill(layout, keys, make)
    return (rss_bytes(os.getpid()) - before) / keys


def _collector(before: int) -> dict[str, float]:
    """What the garbage collector has to do with the entries: as they were made, and once it has looked at them."""
    fresh = len(gc.get_objects()) - before
    began_s = time.perf_counter()
    gc.collect()
    took_ms = 1000 * (time.perf_counter() - began_s)
    return {"tracked_new": fresh, "tracked": len(gc.get_objects()) - before, "collect_ms": round(took_ms, 2)}


def _check(layout: Layout, size: int) -> None:
    """That it holds what was put, and replies as a node does."""
    numbers = range(BATCH)
    shards, keys = [number % SHARDS for number in numbers], [key_of(number) for number in numbers]
    values = [value_of(number, size) for number in numbers]
    versions = range(FIRST_VERSION, FIRST_VERSION + BATCH)
    assert layout.get(shards, keys) == PACK([pack_u64(versions), values])
    assert layout.look(shards, keys) == list(zip(versions, values, strict=True))


def _turn(layout: Layout, keys: int, size: int, version: int, rng: random.Random) -> dict[str, float]:
    """Nanoseconds an operation: of each kind the median of its batches, which leaves out those that were disturbed."""
    clock = time.perf_counter_ns
    took: dict[str, list[int]] = {}
    for _ in range(BATCHES):
        for heat, among in (("cold", keys), ("hot", min(HOT_KEYS, keys))):
            for kind in rng.sample(KINDS, len(KINDS)):
                numbers = [rng.randrange(among) for _ in range(BATCH)]
                columns: list[Any] = [[number % SHARDS for number in numbers], list(map(key_of, numbers))]
                if kind == "put":
                    version += BATCH
                    columns += [range(version, version + BATCH), [value_of(number, size) for number in numbers]]
                call = getattr(layout, kind)
                began = clock()
                call(*columns)
                took.setdefault(f"{heat}_{kind}_ns", []).append(clock() - began)
    return {name: statistics.median(of) / BATCH for name, of in took.items()}


def _make_room() -> None:
    """Have the allocator keep memory ahead (glibc's; others do as they do). A reply of 250 kB would else be fresh pages
    from the kernel, now and then, for some layouts more than for others: as long as all the rest."""
    keep = getattr(ctypes.CDLL(None), "mallopt", None)
    if keep is not None:
        keep(M_TRIM_THRESHOLD, 2**30)
        keep(M_MMAP_THRESHOLD, 2**25)
        room = [bytearray(b"x") * 2**24 for _ in range(4)]
        del room


def _serve(end: Connection, name: str, keys: int, size: int, seed: int) -> None:
    """One layout: what it takes, then a turn each time it is asked for."""
    gc.collect()
    before = len(gc.get_objects())
    layout = LAYOUTS[name]()
    found = {"rss_per_key": _filled(layout, keys, lambda number: (key_of(number), value_of(number, size)))}
    end.send(found | _collector(before))
    _check(layout, size)
    gc.freeze()
    _make_room()
    rng, version = random.Random(seed), FIRST_VERSION + keys
    while end.recv():
        end.send(_turn(layout, keys, size, version, rng))
        version += 2 * BATCHES * BATCH


def _hold(end: Connection, name: str, keys: int) -> None:
    """Keys and values of one kind as a node keeps them: what a value takes."""
    share = PER_ITEM if name == SHARED else 1
    end.send(_filled(Encoded(), keys // share, CONTENTS[name]) / share)


SHARED: Final = f"{PER_ITEM} values of 16 bytes in one of {16 * PER_ITEM}"
CONTENTS: Final[dict[str, Callable[[int], tuple[str | bytes, Any]]]] = {
    "key str, value bytes": lambda number: (key_of(number), value_of(number, 16)),
    "key bytes, value bytes": lambda number: (key_of(number).encode(), value_of(number, 16)),
    "key str, value str": lambda number: (key_of(number), value_of(number, 16).decode()),
    "key str, value int": lambda number: (key_of(number), 2**40 + number),
    "key str, value int below 257": lambda number: (key_of(number), number % 257),
    SHARED: lambda number: (key_of(number), value_of(number, 16 * PER_ITEM)),
}
"""Of 16 characters or bytes each."""


# --- the part of memory.py ------------------------------------------------------------------------------------------


@contextmanager
def _process(target: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """A process of that, at the other end of a pipe. It ends by itself when the pipe does, or is made to."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()
        ours.close()


def _side_by_side(keys: int, size: int, seed: int, order: Sequence[str]) -> dict[str, dict[str, float]]:
    """One run of all layouts with values of one size. `…_times`: to the tuples' in the same turn."""
    found: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        ends = {}
        for name in order:
            ends[name] = stack.enter_context(_process(_serve, name, keys, size, seed))
            found[name] = ends[name].recv()
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in order}
        for _ in range(TURNS):
            for name, end in ends.items():
                end.send(True)
                turns[name].append(end.recv())
    for name, of in turns.items():
        found[name] |= {kind: median_of(of, kind) for kind in of[0]}
        for kind in of[0]:
            ratios = [one[kind] / tuples[kind] for one, tuples in zip(of, turns["tuple"], strict=True)]
            found[name][kind.replace("_ns", "_times")] = statistics.median(ratios)
    return {name: {figure: round(value, 3) for figure, value in of.items()} for name, of in found.items()}


def _contents(keys: int) -> dict[str, float]:
    """What a value takes in a node, by what it is."""
    found = {}
    for name in CONTENTS:
        with _process(_hold, name, keys) as end:
            found[name] = round(end.recv(), 1)
    return found


def measure(keys: int, runs: int, seed: int) -> dict[str, Any]:
    """The whole part; a fifth of the keys with the largest values."""
    rows: dict[str, dict[str, list[dict[str, float]]]] = {str(size): {name: [] for name in LAYOUTS} for size in SIZES}
    names = list(LAYOUTS)
    for run in range(runs):
        for size in SIZES:
            first = run * 2 % len(names)
            order = names[first:] + names[:first]
            found = _side_by_side(keys if size < SIZES[-1] else keys // 5, size, seed + run, order)
            for name, of in found.items():
                rows[str(size)][name].append(of)
            click.echo(f"run {run + 1}, layouts, {size} bytes: done")
    medians = {
        size: {name: {figure: median_of(found, figure) for figure in found[0]} for name, found in of.items()}
        for size, of in rows.items()
    }
    return {"medians": medians, "rows": rows, "contents": _contents(keys)}


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    kinds = [f"{heat}_{kind}" for heat in ("cold", "hot") for kind in KINDS]
    heads = "".join(f"{kind.replace('_', ' '):>17}" for kind in kinds)
    for size, of in found["medians"].items():
        click.echo(
            f"\nvalues of {size} bytes: bytes a key; ns an operation (times a tuple's); objects for the collector"
        )
        click.echo(f"  {'':10}{'bytes':>8}{heads}{'objects':>12}")
        for name, figures in of.items():
            times = "".join(f"{figures[f'{kind}_ns']:>10,.0f} ({figures[f'{kind}_times']:.2f})" for kind in kinds)
            click.echo(f"  {name:10}{figures['rss_per_key']:>8,.1f}{times}{figures['tracked_new']:>12,.0f}")
    click.echo("\nencoded, bytes a value:")
    for name, per_value in found["contents"].items():
        click.echo(f"  {name:36}{per_value:>8,.1f}")
