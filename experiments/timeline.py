"""What clients see of a cluster through a kill, a pause, a partition, a join and a drain, one after the other.

The load is an open loop: each client process begins its puts and gets at a steady pace, whatever became of those
before, and an operation's latency counts from when it was due. So a stall shows with all who had to wait for it: in
bins of 100 ms, `ops_per_s` counts what succeeded in that bin, latencies are those of the operations that were due in
it, and errors stand where they were raised. Between two events the cluster becomes healthy again, and is left alone for
a while.

`python experiments/failover.py --part timeline` runs it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from load import percentile
from namespaces import CLIENTS, MANAGER, NamespacedCluster, Network
from paced import fill, key_of, value_of

from zkv import AsyncClient, LocalCluster, ZkvError
from zkv.cli.live import progress

NODES: Final = 5
REPLICAS: Final = 3
VALUE_BYTES: Final = 100
BIN_MS: Final = 100
TIMEOUT_S: Final = 5.0
"""Deadline of each operation; with the rate it bounds how many are under way."""
HEALTHY_S: Final = 60.0
"""How long the cluster may take until all is well again after an event."""
END_S: Final = 30.0
Cluster = LocalCluster | NamespacedCluster


class Settings(NamedTuple):
    """How much of what."""

    per_s: float
    """Operations a second of all client processes together, half of them puts."""
    processes: int
    keys: int
    quiet_s: float
    """Before the first event, and after each."""
    held_s: float
    """How long a pause and a partition last."""
    seed: int


class Done(NamedTuple):
    """One operation, in seconds of the monotonic clock."""

    due_s: float
    ended_s: float
    error: str
    """What kind of; empty: it succeeded."""


class Pacers:
    """A context manager: client processes that work within it, in the network namespace that this thread is in."""

    def __init__(self, manager: str, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self._members: list[tuple[Any, Connection]] = []
        self.done: list[Done] = []
        """All operations, once the block is left."""
        for number in range(settings.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, manager, settings, number), daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, ours))

    def __enter__(self) -> Self:
        try:
            for _, end in self._members:
                if not end.poll(END_S):
                    raise TimeoutError("a client process did not begin")
                end.recv()
            for _, end in self._members:
                end.send("go")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for _, end in self._members:
                    end.send("stop")
                for process, end in self._members:
                    if not end.poll(TIMEOUT_S + END_S):
                        raise TimeoutError("a client process did not end")
                    self.done += end.recv()
                    process.join(END_S)
        finally:
            self._kill()

    def _kill(self) -> None:
        for process, end in self._members:
            process.kill()
            process.join()
            end.close()


def _work(end: Connection, manager: str, settings: Settings, number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the experiment's, which ends this
    try:
        asyncio.run(_pace(end, manager, settings, number))
    except (EOFError, BrokenPipeError):
        pass  # the experiment is gone


async def _pace(end: Connection, manager: str, settings: Settings, number: int) -> None:
    """Begin operations when they are due, until told to stop; send what came of them."""
    rng = random.Random(f"{settings.seed} {number}")
    interval_s = settings.processes / settings.per_s
    done: list[Done] = []
    under_way: set[asyncio.Task[None]] = set()
    async with AsyncClient(manager, timeout_s=TIMEOUT_S) as kv:

        async def one(due_s: float) -> None:
            key = key_of(rng.randrange(settings.keys))
            error = ""
            try:
                await (kv.get(key) if rng.random() < 0.5 else kv.put(key, value_of(rng.getrandbits(32), VALUE_BYTES)))
            except ZkvError as failure:
                error = type(failure).__name__
            done.append(Done(due_s, time.monotonic(), error))

        await kv.mget([key_of(one) for one in range(min(settings.keys, 1000))])  # connected to all before it counts
        end.send("ready")
        end.recv()
        due_s = time.monotonic() + interval_s * number / settings.processes
        while not end.poll():
            while due_s <= time.monotonic():
                task = asyncio.create_task(one(due_s))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                due_s += interval_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        if under_way:
            await asyncio.wait(under_way)
    end.send(done)


class Event(NamedTuple):
    """Something that is done to the cluster."""

    what: str
    who: str
    began_s: float
    ended_s: float
    """When what was done had been taken back: SIGCONT, the port back on the bridge; otherwise as `began_s`."""
    well_s: float
    """When the manager reported that all was well, and everything where it should be."""


class Timeline:
    """The events, one after the other, in a cluster under load."""

    def __init__(self, cluster: Cluster, settings: Settings, *, partition: bool) -> None:
        self._cluster = cluster
        self._settings = settings
        self.events: list[Event] = []
        self._steps: list[tuple[str, Callable[[], tuple[str, float]]]] = [
            ("kill", self._kill), ("pause", self._pause), *([("partition", self._partition)] if partition else []),
            ("join", self._join), ("drain", self._drain),
        ]  # fmt: skip

    def run(self) -> None:
        """Do it all. The sleeps are the experiment's own time: what clients see meanwhile is what is measured."""
        time.sleep(self._settings.quiet_s)
        with progress("timeline", "events") as show:
            for number, (what, step) in enumerate(self._steps, 1):
                began_s = time.monotonic()
                who, ended_s = step()
                self._cluster.wait_healthy(HEALTHY_S)
                self.events.append(Event(what, who, began_s, ended_s or began_s, time.monotonic()))
                time.sleep(self._settings.quiet_s)
                show(number, len(self._steps))

    def _kill(self) -> tuple[str, float]:
        self._cluster.kill("server2")
        return "server2", 0.0

    def _pause(self) -> tuple[str, float]:
        self._cluster.pause("server3")
        time.sleep(self._settings.held_s)
        self._cluster.resume("server3")
        return "server3", time.monotonic()

    def _partition(self) -> tuple[str, float]:
        self._cluster.partition("server4")
        time.sleep(self._settings.held_s)
        self._cluster.reconnect()
        return "server4", time.monotonic()

    def _join(self) -> tuple[str, float]:
        return self._cluster.add(wait=False), 0.0

    def _drain(self) -> tuple[str, float]:
        self._cluster.drain("server1", timeout_s=HEALTHY_S)
        return "server1", 0.0


def timeline(settings: Settings, *, namespaces: bool) -> dict[str, Any]:
    """The whole of it. `namespaces`: each process in a network of its own, and a partition among the events."""
    with ExitStack() as stack:
        cluster: Cluster
        if namespaces:
            network = stack.enter_context(Network(CLIENTS, MANAGER))
            stack.enter_context(network.entered(CLIENTS))
            cluster = stack.enter_context(NamespacedCluster(network, NODES, REPLICAS))
        else:
            cluster = stack.enter_context(LocalCluster(NODES, REPLICAS))
        with cluster.client(timeout_s=30) as kv:
            fill(kv, range(settings.keys), VALUE_BYTES)
        line = Timeline(cluster, settings, partition=namespaces)
        with Pacers(cluster.manager, settings) as pacers:
            began_s = time.monotonic()
            line.run()
            ended_s = time.monotonic()
    return {
        "namespaces": namespaces,
        "bin_ms": BIN_MS,
        "bins": binned(pacers.done, began_s, ended_s),
        "quiet": seen(pacers.done, began_s, line.events[0].began_s),
        "events": [
            {
                "what": event.what, "who": event.who, "at_s": round(event.began_s - began_s, 3),
                "ended_at_s": round(event.ended_s - began_s, 3), "well_at_s": round(event.well_s - began_s, 3),
                **seen(pacers.done, event.began_s, event.well_s),
            }
            for event in line.events
        ],
    }  # fmt: skip


def binned(done: Sequence[Done], began_s: float, ended_s: float) -> dict[str, list[float | None]]:
    """A figure for each bin. A latency is None where nothing that was due in the bin has succeeded."""
    count = int((ended_s - began_s) * 1000 / BIN_MS)
    took_ms: list[list[float]] = [[] for _ in range(count)]
    succeeded, errors = [0] * count, [0] * count

    def bin_of(at_s: float) -> int | None:
        number = int((at_s - began_s) * 1000 // BIN_MS)
        return number if 0 <= number < count else None

    for one in done:
        ended, due = bin_of(one.ended_s), bin_of(one.due_s)
        if ended is not None:
            (errors if one.error else succeeded)[ended] += 1
        if due is not None and not one.error:
            took_ms[due].append(1000 * (one.ended_s - one.due_s))
    for column in took_ms:
        column.sort()
    return {
        "ops_per_s": [number * 1000 / BIN_MS for number in succeeded],
        "errors": [*errors],
        **{
            f"p{percent}_ms": [round(percentile(column, percent / 100), 2) if column else None for column in took_ms]
            for percent in (50, 99)
        },
    }


def seen(done: Sequence[Done], from_s: float, to_s: float) -> dict[str, Any]:
    """What clients saw of the time between two moments: of operations due then."""
    chosen = [one for one in done if from_s <= one.due_s <= to_s]
    took_ms = sorted(1000 * (one.ended_s - one.due_s) for one in chosen if not one.error)
    kinds = sorted({one.error for one in chosen if one.error})
    return {
        "operations": len(chosen),
        "p50_ms": round(percentile(took_ms, 0.5), 2),
        "p99_ms": round(percentile(took_ms, 0.99), 2),
        "longest_ms": round(took_ms[-1], 1) if took_ms else None,
        "errors": {kind: sum(one.error == kind for one in chosen) for kind in kinds},
    }
