"""What a comparison of two stores is made of: each case is a kind of work, done for a while on one side, and measured.

A case returns figures by name, units last. Half of the operations are puts, half gets, where both make sense, on keys
in an order that comes from the seed. What is read is compared with what was put.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from typing import Any, Final

import numpy as np
from load import percentile
from sides import Awaited, Get, Put, Side

WARM_PART: Final = 0.1
"""Of the time of a measurement: the same work before it counts, in which connections are made."""
LARGE_BYTES: Final = 1_000_000
LARGE_KEYS: Final = 8
ARRAY_KEYS: Final = 4
ARRAY_ROW: Final = 128
"""float64 in a row: 1 KiB."""
ARRAY_ROWS: Final = {"64_kib": 64, "1_mib": 1024, "4_mib": 4096, "15_9_mib": int(15.9 * 1024)}
"""The largest stays just below the 16 MiB that a zkv value may have."""
MB: Final = 1e6


@dataclass(frozen=True)
class Workload:
    """How much of what."""

    seconds: float
    seed: int
    keys: int
    value_bytes: int
    step: int
    coroutines: int
    threads: int

    @cached_property
    def values(self) -> dict[str, bytes]:
        """Every key with its value."""
        numbers = range(self.keys)
        return {f"key{number:08d}": f"{number:08d}".ljust(self.value_bytes, "x").encode() for number in numbers}

    @cached_property
    def order(self) -> list[str]:
        """The keys in the order in which they are used."""
        keys = list(self.values)
        random.Random(self.seed).shuffle(keys)
        return keys

    def keys_of(self, worker: int, workers: int) -> Iterator[str]:
        """The keys for ever, for each worker from another place on."""
        return islice(cycle(self.order), self.keys * worker // workers, None)

    def load(self, side: Side) -> None:
        """Put every key once."""
        keys = self.order
        for start in range(0, len(keys), self.step):
            side.put_batch({key: self.values[key] for key in keys[start : start + self.step]})


def one_at_a_time(side: Side, work: Workload) -> dict[str, float]:
    """A put, a get, a put, each when the one before has returned; then puts that wait for all copies."""
    put, get, values = side.put, side.get, work.values
    clock = time.perf_counter
    for seconds in (WARM_PART * work.seconds, work.seconds):
        puts_ms: list[float] = []
        gets_ms: list[float] = []
        keys = work.keys_of(0, 1)
        began_s = now_s = clock()
        while now_s - began_s < seconds:
            key = next(keys)
            value = values[key]
            then_s = clock()
            put(key, value)
            halfway_s = clock()
            found = get(key)
            now_s = clock()
            puts_ms.append(1000 * (halfway_s - then_s))
            gets_ms.append(1000 * (now_s - halfway_s))
            assert found == value, "a value was not what had been put"
    on_all_ms = []
    keys = work.keys_of(0, 1)
    began_s = now_s
    while now_s - began_s < work.seconds / 2:
        key = next(keys)
        then_s = clock()
        side.put_on_all(key, values[key])
        now_s = clock()
        on_all_ms.append(1000 * (now_s - then_s))
    for column in (puts_ms, gets_ms, on_all_ms):
        column.sort()
    return {
        "one_get_p50_ms": percentile(gets_ms, 0.5),
        "one_get_p99_ms": percentile(gets_ms, 0.99),
        "one_put_p50_ms": percentile(puts_ms, 0.5),
        "one_put_p99_ms": percentile(puts_ms, 0.99),
        "one_put_on_all_p50_ms": percentile(on_all_ms, 0.5),
        "one_put_on_all_p99_ms": percentile(on_all_ms, 0.99),
        "one_get_ops_per_s": 1000 / (sum(gets_ms) / len(gets_ms)),
        "one_put_ops_per_s": 1000 / (sum(puts_ms) / len(puts_ms)),
    }


def batches(side: Side, work: Workload) -> dict[str, float]:
    """Batches of puts, batches of gets, and batches of both in one pipeline."""
    values = work.values

    def puts(keys: list[str]) -> None:
        side.put_batch({key: values[key] for key in keys})

    def gets(keys: list[str]) -> None:
        assert side.get_batch(keys) == [values[key] for key in keys], "a value was not what had been put"

    def both(keys: list[str]) -> None:
        half = len(keys) // 2
        found = side.mixed_batch({key: values[key] for key in keys[:half]}, keys[half:])
        assert found == [values[key] for key in keys[half:]], "a value was not what had been put"

    step = min(work.step, work.keys) // 2 * 2
    return {
        "batch_put_ops_per_s": _rate(puts, step, work),
        "batch_get_ops_per_s": _rate(gets, step, work),
        "batch_mixed_ops_per_s": _rate(both, step, work),
    }


def _rate(call: Callable[[list[str]], None], step: int, work: Workload) -> float:
    """Operations a second of calls with `step` keys each."""
    keys = work.keys_of(0, 1)
    rate = 0.0
    for seconds in (WARM_PART * work.seconds, work.seconds):
        done, began_s = 0, time.perf_counter()
        while not done or time.perf_counter() - began_s < seconds:
            call(list(islice(keys, step)))
            done += step
        rate = done / (time.perf_counter() - began_s)
    return rate


def coroutines(side: Side, work: Workload) -> dict[str, float]:
    """Many coroutines on one client, each with one operation under way; on asyncio's own loop and on uvloop."""
    loops: dict[str, Any] = {"asyncio": asyncio.new_event_loop}
    try:
        import uvloop

        loops["uvloop"] = uvloop.new_event_loop
    except ImportError:
        pass  # said at the beginning
    found = {}
    for name, factory in loops.items():
        with asyncio.Runner(loop_factory=factory) as runner:
            found[f"coroutines_{name}_ops_per_s"] = runner.run(_coroutines(side, work))
    return found


async def _coroutines(side: Side, work: Workload) -> float:
    async with side.asynchronous(work.coroutines) as client:
        rate = 0.0
        for seconds in (WARM_PART * work.seconds, work.seconds):
            began_s = time.perf_counter()
            workers = [_coroutine(client, work, worker, began_s + seconds) for worker in range(work.coroutines)]
            done = sum(await asyncio.gather(*workers))
            rate = done / (time.perf_counter() - began_s)
        return rate


async def _coroutine(client: Awaited, work: Workload, worker: int, end_s: float) -> int:
    """Puts and gets until then; how many."""
    (put, get), values, done = client, work.values, 0
    for key in work.keys_of(worker, work.coroutines):
        value = values[key]
        await put(key, value)
        assert await get(key) == value, "a value was not what had been put"
        done += 2
        if time.perf_counter() >= end_s:
            break
    return done


def threads(side: Side, work: Workload) -> dict[str, float]:
    """One thread, then many, on one client, each with one operation under way."""
    one, many = (_threads(side, work, count) for count in (1, work.threads))
    return {"threads_one_ops_per_s": one, "threads_many_ops_per_s": many, "threads_many_to_one": many / one}


def _threads(side: Side, work: Workload, count: int) -> float:
    rate = 0.0
    for seconds in (WARM_PART * work.seconds, work.seconds):
        done, errors = [0] * count, list[BaseException]()
        began_s = time.perf_counter()
        workers = [
            threading.Thread(target=_thread, args=(side, work, worker, began_s + seconds, done, errors))
            for worker in range(count)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if errors:
            raise errors[0]
        rate = sum(done) / (time.perf_counter() - began_s)
    return rate


def _thread(
    side: Side, work: Workload, worker: int, end_s: float, done: list[int], errors: list[BaseException]
) -> None:
    put, get, values, mine = side.put, side.get, work.values, 0
    try:
        for key in work.keys_of(worker, len(done)):
            value = values[key]
            put(key, value)
            assert get(key) == value, "a value was not what had been put"
            mine += 2
            if time.perf_counter() >= end_s:
                break
    except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that measures
        errors.append(error)
    done[worker] = mine


def large(side: Side, work: Workload) -> dict[str, float]:
    """Values of 1 MB, one at a time."""
    values = {f"large{number}": random.Random(number).randbytes(LARGE_BYTES) for number in range(LARGE_KEYS)}
    put, get = _flow(side, (side.put, side.get), values, LARGE_BYTES, work.seconds, bytes.__eq__)
    return {"large_put_mb_per_s": put, "large_get_mb_per_s": get}


def arrays(side: Side, work: Workload) -> dict[str, float]:
    """Arrays of float64 of several sizes, one at a time."""
    found = {}
    for name, rows in ARRAY_ROWS.items():
        rng = np.random.default_rng(work.seed)
        values = {f"array_{name}{number}": rng.random((rows, ARRAY_ROW)) for number in range(ARRAY_KEYS)}
        size = rows * ARRAY_ROW * 8
        put, get = _flow(side, (side.put_array, side.get_array), values, size, work.seconds, np.array_equal)
        found |= {f"array_{name}_put_mb_per_s": put, f"array_{name}_get_mb_per_s": get}
    return found


def _flow(
    side: Side, calls: tuple[Put, Get], values: dict[str, Any], size: int, seconds: float,
    same: Callable[[Any, Any], bool],
) -> tuple[float, float]:  # fmt: skip
    """MB a second of puts and of gets; the comparison of what was read is not counted."""
    (put, get), clock = calls, time.perf_counter
    for key, value in values.items():
        put(key, value)
        assert same(get(key), value), "a value was not what had been put"
    keys = cycle(values.items())
    put_s, puts = 0.0, 0
    while put_s < seconds or puts < len(values):
        key, value = next(keys)
        then_s = clock()
        put(key, value)
        put_s += clock() - then_s
        puts += 1
    side.settle()
    get_s, gets = 0.0, 0
    while get_s < seconds or gets < len(values):
        key, value = next(keys)
        then_s = clock()
        found = get(key)
        get_s += clock() - then_s
        gets += 1
        assert same(found, value), "a value was not what had been put"
    return puts * size / MB / put_s, gets * size / MB / get_s


CASES: Final[dict[str, Callable[[Side, Workload], dict[str, float]]]] = {
    "one": one_at_a_time,
    "batches": batches,
    "coroutines": coroutines,
    "threads": threads,
    "large": large,
    "arrays": arrays,
}
"""By name, in the order in which they are done."""
