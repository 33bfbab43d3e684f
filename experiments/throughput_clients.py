"""Client processes of one peer, that share a number of operations: what each does, and how many a second that makes.

A crew of processes is started once for a cluster. For each task some of them connect as the task wants it, warm up, and
wait for each other; then they begin at once. What counts is the time from the first that began to the last that ended.
Every process has its own keys, so it knows what each get must find, and compares it.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from paced import key_of, value_of
from peers import ASYNCIO, BATCHED, ONE, PIPELINED, Peer
from sides import Awaited, Face

GETS: Final = "gets"
PUTS: Final = "puts"
MANY: Final = "many clients"
LARGE_GETS: Final = "large gets"
LARGE_PUTS: Final = "large puts"
LARGE_BYTES: Final = 1_000_000
LARGE_KEYS: Final = 8
LARGE_WARM: Final = 20
"""So often each value is put before it counts. The first megabytes that a process asks for have to be found by the
kernel and, on a virtual machine, by its host: 4 to 5 ms each were measured, five times what the put takes. A node of
zkv is full after 16 MiB, which it remembers for watches."""
WARM_OPERATIONS: Final = 100
SHARE: Final = 10**9
"""Keys are numbered apart by so much from process to process."""
JOB_S: Final = 600.0
"""How long a task may take: then a client hangs."""
START_S: Final = 60.0
END_S: Final = 5.0
Ready = Callable[[], None]
"""Tell that all is prepared, and wait for the others."""
Ran = tuple[float, float]
"""When the work began and ended, by the monotonic clock, which the processes of a machine share; in seconds."""


class Task(NamedTuple):
    """What all processes together are to do."""

    client: str
    operations: int
    step: int
    """Operations of a call, of clients that take many."""
    value_bytes: int
    coroutines: int
    """Of a process, each with one operation under way."""

    def shared(self, processes: int) -> Task:
        """The part of one process: puts and gets in pairs."""
        return self._replace(operations=max(2, self.operations // processes // 2 * 2))


def _check(same: bool) -> None:
    if not same:
        raise AssertionError("a value was not what had been put")


def _items(task: Task, first: int, count: int) -> list[tuple[str, bytes]]:
    return [(key_of(number), value_of(number, task.value_bytes)) for number in range(first, first + count)]


def one(face: Face, task: Task, first: int, ready: Ready) -> Ran:
    """A put, a get of the same key, a put, each when the one before has returned."""
    put, get = face.put, face.get
    items = _items(task, first, task.operations // 2)
    for key, value in items[:WARM_OPERATIONS]:
        put(key, value)
        _check(get(key) == value)
    ready()
    began_s = time.monotonic()
    for key, value in items:
        put(key, value)
        _check(get(key) == value)
    return began_s, time.monotonic()


def gets(face: Face, task: Task, first: int, ready: Ready) -> Ran:
    """Gets, one at a time. All keys have the same value, as the bare round trip knows but one."""
    keys, value = [key_of(number) for number in range(first, first + WARM_OPERATIONS)], value_of(0, task.value_bytes)
    get = face.get
    face.put_batch(dict.fromkeys(keys, value))
    for key in keys:
        _check(get(key) == value)
    ready()
    began_s = time.monotonic()
    for number in range(task.operations):
        _check(get(keys[number % WARM_OPERATIONS]) == value)
    return began_s, time.monotonic()


def puts(face: Face, task: Task, first: int, ready: Ready) -> Ran:
    """Puts, one at a time; looked at afterwards."""
    put = face.put
    items = _items(task, first, task.operations)
    for key, value in items[:WARM_OPERATIONS]:
        put(key, value)
    ready()
    began_s = time.monotonic()
    for key, value in items:
        put(key, value)
    ended_s = time.monotonic()
    _check(face.get_batch([key for key, _ in items]) == [value for _, value in items])
    return began_s, ended_s


def _batches(task: Task, first: int, size: int) -> list[dict[str, bytes]]:
    end = first + task.operations // 2
    return [
        {key_of(number): value_of(number, task.value_bytes) for number in range(start, min(start + size, end))}
        for start in range(first, end, size)
    ]


def batched(face: Face, task: Task, first: int, ready: Ready) -> Ran:
    """A call that puts `step` keys, one that gets them, and so on."""
    batches = _batches(task, first, task.step)
    face.put_batch(batches[0])
    _check(face.get_batch(list(batches[0])) == list(batches[0].values()))
    ready()
    began_s = time.monotonic()
    answers = []
    for batch in batches:
        face.put_batch(batch)
        answers.append(face.get_batch(list(batch)))
    ended_s = time.monotonic()
    for batch, answer in zip(batches, answers, strict=True):
        _check(answer == list(batch.values()))
    return began_s, ended_s


def pipelined(face: Face, task: Task, first: int, ready: Ready) -> Ran:
    """Pipelines of `step` operations, puts and gets in turn: each gets what the one before has put."""
    batches = _batches(task, first, max(1, task.step // 2))
    asked = [list(batch)[: len(next_)] for batch, next_ in zip([batches[0], *batches], batches, strict=False)]
    face.put_batch(batches[0])
    face.mixed_batch(batches[0], asked[0])
    ready()
    began_s = time.monotonic()
    answers = [face.mixed_batch(batch, keys) for batch, keys in zip(batches, asked, strict=True)]
    ended_s = time.monotonic()
    for keys, answer, batch in zip(asked, answers, [batches[0], *batches], strict=False):
        _check(answer == [batch[key] for key in keys])
    return began_s, ended_s


def coroutines(face: Face, task: Task, first: int, ready: Ready) -> Ran:
    """Coroutines that share a client, each with one operation under way: a put, a get of the same key."""
    return asyncio.run(_coroutines(face, task, first, ready, clients=1))


def many(face: Face, task: Task, first: int, ready: Ready) -> Ran:
    """The same, but each coroutine has a client of its own: every operation is a message."""
    return asyncio.run(_coroutines(face, task, first, ready, clients=task.coroutines))


async def _coroutines(face: Face, task: Task, first: int, ready: Ready, *, clients: int) -> Ran:
    async with AsyncExitStack() as stack:
        connections = task.coroutines // clients
        opened = [await stack.enter_async_context(face.asynchronous(connections)) for _ in range(clients)]
        each = max(1, task.operations // 2 // task.coroutines)
        items = [_items(task, first + each * worker, each) for worker in range(task.coroutines)]

        async def all_of(count: int) -> None:
            await asyncio.gather(*(_pairs(opened[at % clients], mine[:count]) for at, mine in enumerate(items)))

        await all_of(max(1, min(each, WARM_OPERATIONS // 10)))
        ready()
        began_s = time.monotonic()
        await all_of(each)
        return began_s, time.monotonic()


async def _pairs(client: Awaited, items: list[tuple[str, bytes]]) -> None:
    put, get = client
    for key, value in items:
        await put(key, value)
        _check(await get(key) == value)


def _large(first: int) -> list[tuple[str, bytes]]:
    return [(key_of(number), value_of(number, LARGE_BYTES)) for number in range(first, first + LARGE_KEYS)]


def large_puts(face: Face, task: Task, first: int, ready: Ready) -> Ran:
    """Values of 1 MB, one at a time; looked at afterwards."""
    items, put = _large(first), face.put
    for key, value in LARGE_WARM * items:
        put(key, value)
    ready()
    began_s = time.monotonic()
    for number in range(task.operations):
        put(*items[number % LARGE_KEYS])
    ended_s = time.monotonic()
    for key, value in items:
        _check(face.get(key) == value)
    return began_s, ended_s


def large_gets(face: Face, task: Task, first: int, ready: Ready) -> Ran:
    """Values of 1 MB, one at a time; the time in which they are compared does not count."""
    items, get = _large(first), face.get
    for key, value in LARGE_WARM * items:
        face.put(key, value)
        _check(get(key) == value)
    ready()
    began_s = time.monotonic()
    comparing_s = 0.0
    for number in range(task.operations):
        key, value = items[number % LARGE_KEYS]
        found = get(key)
        then_s = time.monotonic()
        _check(found == value)
        comparing_s += time.monotonic() - then_s
    return began_s, time.monotonic() - comparing_s


WORK: Final[dict[str, Callable[[Face, Task, int, Ready], Ran]]] = {
    ONE: one, PIPELINED: pipelined, BATCHED: batched, ASYNCIO: coroutines, GETS: gets, PUTS: puts, MANY: many,
    LARGE_PUTS: large_puts, LARGE_GETS: large_gets,
}  # fmt: skip


def done(task: Task, processes: int) -> int:
    """How many operations so many processes really do of a task: as many each."""
    each = task.shared(processes)
    if task.client in (ASYNCIO, MANY):
        return processes * 2 * task.coroutines * max(1, each.operations // 2 // task.coroutines)
    return processes * each.operations


class Crew:
    """A context manager: client processes of one peer, which do what they are told."""

    def __init__(self, peer: Peer, address: Any, processes: int) -> None:
        context = get_context("spawn")
        self._ends: list[Connection] = []
        self._processes = []
        self._tasks = 0
        try:
            for number in range(processes):
                ours, theirs = context.Pipe()
                arguments = theirs, peer.face, address, number
                process = context.Process(target=_work, args=arguments, daemon=True)
                process.start()
                theirs.close()
                self._ends.append(ours)
                self._processes.append(process)
            for end in self._ends:
                _answer(end, START_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ops_per_s(self, task: Task, processes: int) -> float:
        """Do a task with so many of the processes. Raises RuntimeError with what a client said that failed."""
        ends = self._ends[:processes]
        self._tasks += 1
        for end in ends:
            end.send((task.shared(processes), self._tasks))
        for end in ends:
            _answer(end, JOB_S)  # ready
        for end in ends:
            end.send("go")
        ran: list[Ran] = [_answer(end, JOB_S) for end in ends]
        return done(task, processes) / (max(ended for _, ended in ran) - min(began for began, _ in ran))

    def close(self) -> None:
        """End the processes."""
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(END_S)  # by itself, unless it is in the middle of something
            if process.is_alive():
                process.kill()
                process.join()


def _answer(end: Connection, wait_s: float) -> Any:
    if not end.poll(wait_s):
        raise RuntimeError(f"a client process has not answered for {wait_s:g} s")
    try:
        answer = end.recv()
    except EOFError:
        raise RuntimeError("a client process ended early") from None
    if isinstance(answer, str):
        raise RuntimeError(f"a client process failed: {answer}")
    return answer


def _work(end: Connection, open_face: Callable[[Any], Face], address: Any, number: int) -> None:
    """A client process: tasks come in, times go out, or a word on what failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the experiment's, which ends its processes

    def ready() -> None:
        gc.collect()
        gc.freeze()  # what was prepared is the measurement's own, and no client's
        end.send(None)
        end.recv()

    try:
        with open_face(address) as face:
            end.send(None)
            while True:
                task, turn = end.recv()
                first = SHARE * (number + 1) + SHARE // 1000 * turn
                end.send(WORK[task.client](face, task, first, ready))
                gc.unfreeze()
    except (EOFError, BrokenPipeError):
        pass  # the experiment is over
    except Exception as error:  # noqa: BLE001 - whatever it is, the experiment tells it
        end.send(f"{type(error).__name__}: {error}")


