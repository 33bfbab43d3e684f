"""The client processes of a load: each has a connection of its own, begins with the others, and hands in its tally.

    plan = Plan("tcp://127.0.0.1:5550", mode="batch", clients=4, seconds=10)
    fill(kv, plan.workload, show)
    tally = run(plan, show)

A process that fails ends the load with its error; one whose parent is gone ends by itself.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from zkv.bench.pacing import SECOND_NS, Due, Pace, share
from zkv.bench.tally import GET, PUT, Tally
from zkv.bench.workload import Choices, Workload
from zkv.client import AsyncClient, Client
from zkv.errors import ZkvError

Show = Callable[[int, int], object]
"""Called with how much is done, and of how much."""

MODES: Final = {"one": 1, "pipeline": 128, "batch": 1024, "asyncio": 256}
"""How operations are sent -> how many at a time, if nothing else is said."""
STEP_KEYS: Final = 8192
STEP_BYTES: Final = 8 * 2**20
"""What one call has at most while keys are put before the load, or taken away after it."""
FILL_S: Final = 30.0
"""Deadline of these calls."""
TELL_NS: Final = SECOND_NS // 10
"""How often a client tells how far it is."""
HEAD_START_NS: Final = SECOND_NS // 20
"""From when all clients are told to begin until they do."""
READY_S: Final = 60.0
"""How long the clients may take to start and to connect, on a busy machine."""
SLEEP_S: Final = 0.5
"""A client that has nothing to do for longer still looks whether its parent is there."""


@dataclass(frozen=True)
class Plan:
    """One load."""

    manager: str
    mode: str = "one"
    batch: int = 1
    """Operations of a call; with asyncio: operations under way at once."""
    clients: int = 1
    seconds: float | None = 10.0
    operations: int | None = None
    """Of all clients together; this or `seconds`."""
    per_s: float | None = None
    """Operations a second of all clients together: an open loop; None: a closed one."""
    read: str = "primary"
    timeout_s: float = 5.0
    workload: Workload = field(default_factory=Workload)


# --- before and after ------------------------------------------------------------------------------------------------


def fill(kv: Client, workload: Workload, show: Show) -> None:
    """Put every key of the workload once. Raises what `Client.mput` raises."""
    names = workload.names()
    value = Choices(workload, -1).values
    step = max(1, min(STEP_KEYS, STEP_BYTES // max(1, workload.value_bytes)))
    for first in range(0, len(names), step):
        kv.mput({name: next(value) for name in names[first : first + step]}, timeout_s=FILL_S)
        show(min(first + step, len(names)), len(names))


def clear(kv: Client, workload: Workload, show: Show) -> None:
    """Delete every key of the workload, and no other. Raises what `Client.mdelete` raises."""
    names = workload.names()
    for first in range(0, len(names), STEP_KEYS):
        kv.mdelete(names[first : first + STEP_KEYS], timeout_s=FILL_S)
        show(min(first + STEP_KEYS, len(names)), len(names))


# --- the parent ------------------------------------------------------------------------------------------------------


def run(plan: Plan, show: Show) -> Tally:
    """Run the load to its end. `show(operations done, 0)` is called now and then.

    Raises the error of a client that could not go on, and ChildProcessError where one has died or does not come up.
    Errors of operations are in the tally instead.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy threads and sockets in whatever state they are
    ends: list[Connection] = []
    processes = []
    try:
        for number in range(plan.clients):
            ours, theirs = context.Pipe()
            process = context.Process(target=_client, args=(theirs, plan, number), daemon=True)
            process.start()
            theirs.close()
            ends.append(ours)
            processes.append(process)
        for end in ends:
            if not end.poll(READY_S):
                raise ChildProcessError(f"a client process was not ready after {READY_S:g} s")
            _received(end)
        began_ns = time.monotonic_ns() + HEAD_START_NS
        for end in ends:
            end.send(began_ns)
        return _gathered(ends, show)
    finally:
        for process in processes:
            process.kill()  # those that have handed in their tally have nothing more to do
        for process in processes:
            process.join()
        for end in ends:
            end.close()


def _gathered(ends: list[Connection], show: Show) -> Tally:
    whole = Tally()
    done = dict.fromkeys(ends, 0)
    working = set(ends)
    while working:
        for end in wait(list(working), timeout=SLEEP_S):
            assert isinstance(end, Connection)
            message = _received(end)
            if isinstance(message, Tally):
                whole.add(message)
                working.remove(end)
                done[end] = message.operations + message.failures
            else:
                done[end] = message
        show(sum(done.values()), 0)
    return whole


def _received(end: Connection) -> Any:
    try:
        message = end.recv()
    except EOFError:
        raise ChildProcessError("a client process has died") from None
    if isinstance(message, Exception):
        raise message
    return message


# --- a client --------------------------------------------------------------------------------------------------------


def _client(end: Connection, plan: Plan, number: int) -> None:
    """A process from its beginning to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    try:
        if plan.mode == "asyncio":
            with asyncio.Runner(loop_factory=exact_loop) as runner:
                tally = runner.run(_Awaiting(end, plan, number).run())
        else:
            tally = _Blocking(end, plan, number).run()
        end.send(tally)
    except (EOFError, BrokenPipeError):
        return  # nobody is there any more who would want to know
    except Exception as error:  # noqa: BLE001 - the parent raises it
        end.send(error if isinstance(error, ZkvError) else RuntimeError(f"{type(error).__name__}: {error}"))


def exact_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are as exact as the kernel's: select takes microseconds where epoll takes
    milliseconds, by which an open loop would call everything too late. Sockets are few here."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


class _Load:
    """What clients of all kinds have."""

    def __init__(self, end: Connection, plan: Plan, number: int) -> None:
        self.plan = plan
        self.tally = Tally()
        self.choices = Choices(plan.workload, number)
        self._end = end
        self._number = number
        self._told_ns = 0

    def begin(self) -> Pace:
        """Wait for the others; the calls to make."""
        plan = self.plan
        self._end.send("ready")
        self.tally.began_ns = self._end.recv()
        part = None if plan.operations is None else share(plan.operations, plan.clients, self._number)
        return Pace(
            self.tally.began_ns, size=1 if plan.mode == "asyncio" else plan.batch, seconds=plan.seconds,
            operations=part, per_s=None if plan.per_s is None else plan.per_s / plan.clients,
            shift=self._number / plan.clients,
        )  # fmt: skip

    def tell(self) -> int:
        """Tell the parent now and then how much is done; the time, as calls need it anyway."""
        now_ns = time.monotonic_ns()
        if now_ns - self._told_ns > TELL_NS:
            self._told_ns = now_ns
            self._end.send(self.tally.operations + self.tally.failures)
        return now_ns

    def over(self, pace: Pace) -> Tally:
        """The tally, when all is done."""
        self.tally.skipped = pace.skipped
        self.tally.ended_ns = time.monotonic_ns()
        return self.tally

    def names(self) -> list[str]:
        """Keys enough to be connected to every node."""
        return [self.plan.workload.key(number) for number in range(min(self.plan.workload.keys, STEP_KEYS))]


class _Blocking(_Load):
    """A client that waits for each call."""

    def run(self) -> Tally:
        """All of it."""
        plan = self.plan
        with Client(plan.manager, timeout_s=plan.timeout_s, read=plan.read) as kv:
            kv.mget(self.names(), timeout_s=max(plan.timeout_s, READY_S / 2))
            call = {"one": self._one, "pipeline": self._pipeline, "batch": self._batch}[plan.mode]
            pace = self.begin()
            self._wait(Due(self.tally.began_ns, 0))
            for due in pace:
                self._wait(due)
                call(kv, due)
            return self.over(pace)

    def _wait(self, due: Due) -> None:
        while (left_ns := due.at_ns - self.tell()) > 0:
            time.sleep(min(left_ns / SECOND_NS, SLEEP_S))

    def _one(self, kv: Client, due: Due) -> None:
        choices, tally = self.choices, self.tally
        kind = GET if next(choices.reads) else PUT
        try:
            if kind is GET:
                tally.missed += kv.get(next(choices.keys)) is None
            else:
                kv.put(next(choices.keys), next(choices.values))
        except ZkvError as error:
            tally.failed(kind, error)
        else:
            tally.succeeded(kind, time.monotonic_ns() - due.at_ns)

    def _batch(self, kv: Client, due: Due) -> None:
        choices = self.choices
        keys = [next(choices.keys) for _ in range(due.size)]
        if next(choices.reads):
            found = kv.mget(keys, return_exceptions=True)
            self.tally.took(GET, found, time.monotonic_ns() - due.at_ns)
        else:
            items = {key: next(choices.values) for key in keys}  # keys that were drawn twice are put once
            stored = kv.mput(items, return_exceptions=True)
            self.tally.took(PUT, stored, time.monotonic_ns() - due.at_ns)

    def _pipeline(self, kv: Client, due: Due) -> None:
        choices = self.choices
        pipeline = kv.pipeline(return_exceptions=True)
        reads = [next(choices.reads) for _ in range(due.size)]
        for read in reads:
            if read:
                pipeline.get(next(choices.keys))
            else:
                pipeline.put(next(choices.keys), next(choices.values))
        results = pipeline.execute()
        took_ns = time.monotonic_ns() - due.at_ns
        for kind, wanted in ((GET, True), (PUT, False)):
            self.tally.took(kind, [one for one, read in zip(results, reads, strict=True) if read is wanted], took_ns)


class _Awaiting(_Load):
    """Many coroutines on one client, each with one operation under way."""

    async def run(self) -> Tally:
        """All of it."""
        plan = self.plan
        async with AsyncClient(plan.manager, timeout_s=plan.timeout_s, read=plan.read) as kv:
            await kv.mget(self.names(), timeout_s=max(plan.timeout_s, READY_S / 2))
            pace = self.begin()
            await self._wait(Due(self.tally.began_ns, 0))
            async with asyncio.TaskGroup() as group:
                for _ in range(plan.batch):
                    group.create_task(self._coroutine(kv, pace))
            return self.over(pace)

    async def _wait(self, due: Due) -> None:
        while (left_ns := due.at_ns - self.tell()) > 0:
            await asyncio.sleep(min(left_ns / SECOND_NS, SLEEP_S))

    async def _coroutine(self, kv: AsyncClient, pace: Pace) -> None:
        choices, tally = self.choices, self.tally
        for due in pace:
            await self._wait(due)
            kind = GET if next(choices.reads) else PUT
            try:
                if kind is GET:
                    tally.missed += await kv.get(next(choices.keys)) is None
                else:
                    await kv.put(next(choices.keys), next(choices.values))
            except ZkvError as error:
                tally.failed(kind, error)
            else:
                tally.succeeded(kind, time.monotonic_ns() - due.at_ns)
