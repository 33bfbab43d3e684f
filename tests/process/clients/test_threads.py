"""One client for many: threads, forks and interrupts for the blocking face, tasks and loops for the other."""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.process.clients.faces import Face, Script, ask
from tests.process.support import WAIT_S, eventually
from zkv import AsyncClient, Client, ClosedError, LocalCluster, ManagerUnreachable, TimedOut, UsageError, WrongType

pytestmark = [
    pytest.mark.process,
    # The fork of a process with threads is what is tested; Python 3.12 and later warn of it.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]

THREADS = 16


@pytest.fixture
def shared(cluster: LocalCluster, housekeeper: Client) -> Iterator[Client]:
    """A blocking client of a cluster without keys."""
    housekeeper.mdelete(housekeeper.keys())
    with cluster.client(timeout_s=WAIT_S) as client:
        yield client


@pytest.fixture
def silent() -> Iterator[str]:
    """Endpoint of a manager that takes connections and says nothing: whoever asks waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def all_done(futures: list[Future[Any]]) -> None:
    """Wait for all; those that hang fail the test instead of holding it up for ever."""
    hanging = wait(futures, WAIT_S).not_done
    assert not hanging, f"{len(hanging)} threads hang"


@contextmanager
def threads(count: int = THREADS) -> Iterator[ThreadPoolExecutor]:
    """A pool that does not wait at its end for threads that hang."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


# --- many at the same time, with every face ------------------------------------------------------------------------


@pytest.mark.parametrize("users", [THREADS, 256])
def test_everybody_gets_his_own_results(kv: Client, face: Face, users: int) -> None:
    rounds = 768 // users

    def user(number: int) -> Script[list[int]]:
        totals = []
        for turn in range(rounds):
            mine = f"{number}:{turn}"
            yield ask("put", mine, mine)
            assert (yield ask("get", mine)) == mine
            assert (yield ask("mget", [mine, "missing"])) == [mine, None]
            totals.append((yield ask("incr", "total")))
            assert (yield ask("append", mine, "!")) == len(mine) + 1
            assert (yield ask("delete", mine)).existed
        return totals

    totals = face.run(kv, [user(number) for number in range(users)])
    assert sorted(total for some in totals for total in some) == list(range(1, users * rounds + 1))
    assert all(some == sorted(some) for some in totals)
    assert kv.keys() == ["total"]


def test_what_many_ask_for_travels_together(kv: Client, face: Face) -> None:
    def user(number: int) -> Script[None]:
        for turn in range(20):
            yield ask("put", f"{number}:{turn}", turn)

    kv.locate("key")
    before = kv.stats()
    face.run(kv, [user(number) for number in range(64)])
    after = kv.stats()
    assert after["operations"] - before.get("operations", 0) == 64 * 20
    assert after["requests"] - before.get("requests", 0) < 64 * 20


def test_errors_are_those_of_who_made_the_mistake(kv: Client, face: Face) -> None:
    kv.put("text", "a")

    def clumsy() -> Script[int]:
        errors = 0
        for _ in range(30):
            for mistake in (ask("incr", "text"), ask("put", "text", {1}), ask("get", 5)):
                try:
                    yield mistake
                except (WrongType, UsageError):
                    errors += 1
        return errors

    def careful(number: int) -> Script[int]:
        for _ in range(30):
            total: int = yield ask("incr", f"n{number}")
        return total

    assert face.run(kv, [clumsy(), *(careful(number) for number in range(6)), clumsy()]) == [90, *[30] * 6, 90]


def test_deadlines_are_those_of_who_set_them(face: Face, silent: str) -> None:
    """Whoever gives up first leaves the others waiting, also where he was the one who worked for all."""
    order: list[float] = []

    def user(timeout_s: float) -> Script[None]:
        with pytest.raises(ManagerUnreachable, match=f"{timeout_s:g} s|no manager answers"):
            yield ask("get", "key", timeout_s=timeout_s)
        order.append(timeout_s)

    timeouts_s = [0.1, 0.7, 0.3, 0.5]
    with face.open(silent) as kv:
        face.run(kv, [user(timeout_s) for timeout_s in timeouts_s])
    assert order == sorted(timeouts_s)


# --- closing -------------------------------------------------------------------------------------------------------


def test_closing_ends_the_calls_of_all_threads(silent: str) -> None:
    kv = Client(silent, timeout_s=60.0)
    with threads() as pool:
        asks: list[Callable[[], Any]] = [lambda: kv.get("key"), lambda: kv.mput({"a": 1, "b": 2}), lambda: kv.wait("a")]
        futures = [pool.submit(asks[number % 3]) for number in range(THREADS)]
        eventually(partial(_waits, kv, THREADS), "all wait for the manager")
        kv.close()
        all_done(futures)
    assert {type(future.exception()) for future in futures} == {ClosedError}
    with pytest.raises(ClosedError):
        kv.get("key")


def _waits(kv: Client, count: int) -> bool:
    """Whether so many threads are inside calls."""
    connection = kv._connection
    return connection is not None and len(connection._waiters) == count


def has_worked(kv: Client) -> bool:
    return kv.stats().get("operations", 0) > 100


def test_closing_under_load_and_what_is_known_of_the_last_writes(cluster: LocalCluster, shared: Client) -> None:
    def use(kv: Client, key: str) -> tuple[int, bool]:
        count = 0
        try:
            while True:
                kv.incr(key)
                count += 1
        except ClosedError as error:
            return count, error.outcome_unknown

    with threads() as pool:
        for turn in range(10):
            keys = [f"{turn}:{number}" for number in range(THREADS)]
            with cluster.client(timeout_s=WAIT_S) as kv:
                futures = [pool.submit(use, kv, key) for key in keys]
                eventually(partial(has_worked, kv), "they work")
            all_done(futures)
            for key, (count, unknown) in zip(keys, (future.result() for future in futures), strict=True):
                assert shared.get(key, 0) in ((count, count + 1) if unknown else (count,))


def test_closing_ends_the_calls_of_all_tasks(silent: str) -> None:
    async def main() -> list[Any]:
        kv = AsyncClient(silent, timeout_s=60.0)
        tasks = [asyncio.ensure_future(kv.get("key")) for _ in range(THREADS)]
        await asyncio.sleep(0)
        await kv.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert {type(result) for result in asyncio.run(main())} == {ClosedError}


# --- interrupts ----------------------------------------------------------------------------------------------------


def test_an_interrupt_does_not_disturb_the_others(cluster: LocalCluster, silent: str) -> None:
    """Ctrl-C goes to the main thread, whatever it does: drive for all, or wait for who drives."""
    with Client(silent, timeout_s=1.0) as kv, threads() as pool:
        for others_first in (False, True):
            before = [pool.submit(kv.get, "key") for _ in range(4)] if others_first else []
            eventually(partial(_waits, kv, len(before)), "they wait")
            after: list[Future[Any]] = []

            def interrupt(before: Any = before, after: Any = after) -> None:
                eventually(partial(_waits, kv, len(before) + 1), "the main thread waits, too")
                after.extend(pool.submit(kv.get, "key") for _ in range(4))
                eventually(partial(_waits, kv, len(before) + 5), "and some more")
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

            interrupter = pool.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                kv.get("key", timeout_s=60.0)
            interrupter.result(WAIT_S)
            all_done([*before, *after])
            assert {type(future.exception()) for future in [*before, *after]} == {ManagerUnreachable}
    with cluster.client() as kv:
        assert kv.put("key", 1).version > 0


# --- forks ---------------------------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], object]) -> None:
    """Run `work` in a forked child, which must succeed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(int(WAIT_S))  # a child that hangs ends
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - nothing may get back into the test runner of the child
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_fork_while_others_are_inside_calls(shared: Client, cluster: LocalCluster) -> None:
    stop = threading.Event()

    def use(number: int) -> int:
        count = 0
        while not stop.is_set():
            count += 1
            assert shared.incr(f"parent{number}") == count
        return count

    def child() -> None:
        for number in range(1, 21):
            assert shared.incr("child") == number
        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(lambda _: shared.incr("child"), range(40))) == list(range(21, 61))
        in_a_child(lambda: shared.mput({"grandchild": 1, "other": 2}))
        shared.close()

    with threads() as pool:
        futures = [pool.submit(use, number) for number in range(6)]
        try:
            for _ in range(5):
                shared.delete("child")
                in_a_child(child)
        finally:
            stop.set()
            all_done(futures)
    counts = [future.result() for future in futures]
    assert shared.mget([f"parent{number}" for number in range(6)]) == counts
    assert shared.mget(["child", "grandchild"]) == [60, 1]


def _work_of_a_process(kv: Client, number: int) -> None:
    for _ in range(10):
        kv.incr("total")
    with kv.pipeline() as p:
        p.put(f"process{number}", os.getpid())


def test_processes_of_multiprocessing(shared: Client) -> None:
    shared.put("total", 0)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_work_of_a_process, args=(shared, number)) for number in range(3)]
    for process in processes:
        process.start()
    assert shared.put("parent", 1).version > 0
    for process in processes:
        process.join(WAIT_S)
        assert process.exitcode == 0
        process.close()
    assert shared.get("total") == 30
    assert len(set(shared.mget([f"process{number}" for number in range(3)]))) == 3


# --- tasks and loops -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """An event loop of each kind."""
    pytest.importorskip(request.param)
    with asyncio.Runner(loop_factory=importlib.import_module(request.param).new_event_loop) as runner:
        yield runner


def test_cancelling_a_task_does_not_disturb_the_others(runner: asyncio.Runner, cluster: LocalCluster) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.manager, timeout_s=WAIT_S) as kv:
            for turn in range(30):
                tasks = [asyncio.ensure_future(kv.put(f"{turn}:{number}", number)) for number in range(50)]
                for _ in range(turn % 3):
                    await asyncio.sleep(0)  # not begun, begun, or perhaps answered
                for task in tasks[::5]:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                for number, result in enumerate(results):
                    if number % 5:
                        assert not isinstance(result, BaseException)
                    else:
                        assert isinstance(result, asyncio.CancelledError | tuple)
                left = [number for number in range(50) if number % 5]
                assert await kv.mget([f"{turn}:{number}" for number in left]) == left
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(kv.wait("no such key", timeout_s=60.0), 0.01)
            assert await kv.get("0:1") == 1

    runner.run(main())


def test_a_client_belongs_to_one_loop(runner: asyncio.Runner, cluster: LocalCluster) -> None:
    kv = AsyncClient(cluster.manager, timeout_s=WAIT_S)
    runner.run(kv.put("key", 1))
    with pytest.raises(UsageError, match="another event loop"):
        asyncio.run(kv.get("key"))
    assert runner.run(kv.get("key")) == 1
    runner.run(kv.close())


def test_a_client_whose_loop_is_closed_goes_on_in_another(cluster: LocalCluster) -> None:
    kv = AsyncClient(cluster.manager, timeout_s=WAIT_S)

    async def use(number: int) -> None:
        await asyncio.gather(*(kv.incr(f"loop{number}:{other}") for other in range(20)))
        assert await kv.get(f"loop{number}:0") == 1

    for number in range(3):
        asyncio.run(use(number))
    asyncio.run(kv.close())


def test_a_list_of_keys_that_is_changed_meanwhile(runner: asyncio.Runner, cluster: LocalCluster) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.manager, timeout_s=WAIT_S) as kv:
            await kv.mput({"a": 1, "b": 2, "c": 3})
            keys: list[str | bytes] = ["a", "b"]
            call = kv.mdelete(keys)
            keys[:] = ["c", "c"]
            await call
            assert await kv.mget(["a", "b", "c"]) == [None, None, 3]

    runner.run(main())


def test_a_busy_client_leaves_the_loop_to_others(runner: asyncio.Runner, cluster: LocalCluster) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        async with AsyncClient(cluster.manager, timeout_s=WAIT_S) as kv:
            task = asyncio.ensure_future(other())
            await asyncio.gather(*(kv.incr("count") for _ in range(2000)))
            task.cancel()
            assert turns > 2
            with pytest.raises(TimedOut):
                await kv.wait("no such key", timeout_s=0.05)

    runner.run(main())
