"""Threads of one client, held or interrupted before any line of its host and core: a program of its own.

    python -m tests.process.clients.schedules SCHEDULE ENDPOINT

A line is where a signal may arrive, and where another thread may come in between; which lines there are is found by
tracing, so that nothing here knows them by name. The program ends with 1 and says what it found as soon as a call
hangs, raises what it should not, or leaves the client useless; a thread that hangs ends with it.

The last two are about event loops: one that ends between two turns, and one in a forked child.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from types import FrameType
from typing import Any, Final

import zkv.client.watching
import zkv.core.client.client
import zkv.net.client
from zkv import AsyncClient, Client, ClosedError, TimedOut, UsageError

HANG_S: Final = 6.0
"""Calls here have a deadline of a second: whatever takes so long will never end."""
LOOK_S: Final = 0.02
"""A thread that got no further by then waits for another one, most likely. (Nothing is wrong where it does not.)"""
LINES: Final = 5000
"""More than there are in a call."""
HOST_LINES: Final = 150
"""As many as there may be of the host, for one who drives."""
HOST: Final = frozenset({zkv.net.client.__file__})
EVERYTHING: Final = HOST | {str(path) for path in Path(zkv.core.client.client.__file__).parent.glob("*.py")}


class Found(Exception):
    """What must not be."""


class Line:
    """The line number `number`, counted from the begin of a thread's work: there it is held, or gets `error`."""

    def __init__(self, number: int, files: frozenset[str], error: BaseException | None = None) -> None:
        self.left = number
        self.files = files
        self.error = error
        self.where = ""
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __enter__(self) -> Line:
        sys.settrace(self._call)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)
        self.reached.set()

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in self.files and not self.where else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and not self.where:
            self.left -= 1
            if self.left < 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}, {frame.f_code.co_name}"
                sys.settrace(None)
                if self.error is not None:
                    raise self.error
                self.reached.set()
                self.go_on.wait()
        return self._line


def start(work: Callable[[], Any], line: Line | None = None) -> Future[Any]:
    """Run `work` in a thread that nobody has to wait for."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            if line is None:
                future.set_result(work())
            else:
                with line:
                    result = work()
                future.set_result(result)
        except BaseException as error:  # noqa: BLE001 - it is the other thread's to judge
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def ended(future: Future[Any], what: str, *allowed: type[BaseException]) -> Any:
    """What came of it: a result, or one of the allowed errors."""
    try:
        error = future.exception(HANG_S)
    except TimeoutError:
        raise Found(f"{what} hangs") from None
    if error is not None and not isinstance(error, allowed):
        raise Found(f"{what} raised {error!r}") from error
    return error or future.result()


def works(kv: Client, what: str) -> None:
    """The client is as good as new, and can be closed."""
    for turn in ("a call afterwards", "a call of another thread afterwards"):
        if ended(start(lambda: kv.mget(["key", "key"])), f"{what}: {turn}") != [1, 1]:
            raise Found(f"{what}: {turn} got something else")
    ended(start(kv.close), f"{what}: closing")


def interrupt(kv: Client, line: Line) -> None:
    """Use the client, and be interrupted at a line."""
    try:
        with line:
            kv.get("key")
    except KeyboardInterrupt:
        pass
    except Exception as error:
        raise Found(f"interrupted at {line.where}: the call raised {error!r}") from error


# --- schedules: each is tried with every line -----------------------------------------------------------------------


def interrupted_alone(endpoint: str, number: int) -> bool:
    """Ctrl-C in the only thread that uses the client."""
    kv = Client(endpoint, timeout_s=1.0)
    kv.put("key", 1)
    line = Line(number, EVERYTHING, KeyboardInterrupt())
    interrupt(kv, line)
    works(kv, f"interrupted at {line.where}")
    return bool(line.where)


def interrupted_among_others(endpoint: str, number: int) -> bool:
    """Ctrl-C in one of several threads; who drives is left to chance."""
    kv = Client(endpoint, timeout_s=1.0)
    kv.put("key", 1)
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            kv.get("key")

    def look() -> None:
        kv.wait("never", timeout_s=0.01)

    others = [start(use), start(use), start(look)]
    line = Line(number, HOST, KeyboardInterrupt())
    interrupt(kv, line)
    stop.set()
    for other in others:
        ended(other, f"interrupted at {line.where}: another thread", TimedOut)
    works(kv, f"interrupted at {line.where}")
    return number < HOST_LINES


def interrupted_watching(endpoint: str, number: int) -> bool:
    """Ctrl-C in a thread that waits for events: it may take the event along that was in its hands, and no other."""
    with Client(endpoint, timeout_s=1.0) as writer:
        kv = Client(endpoint, timeout_s=1.0)
        kv.put("key", 1)
        events = kv.watch("key")
        written = [writer.put("key", 1).version for _ in range(3)]
        line = Line(number, HOST | {zkv.client.watching.__file__}, KeyboardInterrupt())
        seen = []
        try:
            with line:
                seen += [events.poll(1.0), events.poll(1.0)]
        except KeyboardInterrupt:
            seen.clear()  # nobody knows how far it came: the rest must follow on each other
        line.error = None  # nor are the frames kept that it passed
        what = f"interrupted at {line.where}"
        written.append(writer.put("key", 1).version)
        for turn in range(len(written)):
            seen.append(ended(start(lambda: events.poll(1.0)), f"{what}: event {turn} afterwards"))
            if seen[-1] is not None and seen[-1].version == written[-1]:
                break
        versions = [event.version for event in seen if event is not None]
        if versions != written[-len(versions) :] or len(versions) < (len(written) if not line.where else 1):
            raise Found(f"{what}: {written} were written, {versions} were told")
        ended(start(events.close), f"{what}: closing the watch")
        works(kv, what)
    return bool(line.where)


def overtaken(endpoint: str, number: int) -> bool:
    """A thread is held at a line of its call while others come; one of them may have to wait for it."""
    kv = Client(endpoint, timeout_s=1.0)
    kv.put("key", 1)
    line = Line(number, HOST)
    held = start(lambda: kv.get("key"), line)
    line.reached.wait()
    first = start(lambda: kv.get("key"))
    wait([first], LOOK_S)
    second = start(lambda: kv.get("key"))
    line.go_on.set()
    for future, name in ((held, "the held call"), (first, "the first other"), (second, "the second other")):
        # Who is held for longer than his deadline may time out; nobody is here.
        ended(future, f"held at {line.where}: {name}")
    works(kv, f"held at {line.where}")
    return bool(line.where)


def closed_meanwhile(endpoint: str, number: int) -> bool:
    """A thread is held at a line of its call, and goes on while another is at some line of closing the client."""
    reached = False
    for step in range(20):
        kv = Client(endpoint, timeout_s=1.0)
        kv.put("key", 1)
        line, closing = Line(number, HOST), Line(step, HOST)
        held = start(lambda kv=kv: kv.get("key"), line)  # type: ignore[misc]
        line.reached.wait()
        closer = start(kv.close, closing)
        closing.reached.wait(LOOK_S)
        line.go_on.set()
        stuck = not closing.reached.is_set()
        if not stuck:
            wait([held], LOOK_S)
        closing.go_on.set()
        what = f"held at {line.where}, closed up to {closing.where or 'where it waits'}"
        ended(held, f"{what}: the call", ClosedError)
        ended(closer, f"{what}: closing")
        reached = reached or bool(line.where)
        if not closing.where or stuck:
            break  # it was through, or waited for the one who is held: and so it would with the next line
    return reached


def loop_ended(endpoint: str, number: int) -> bool:
    """A loop ends when a call has come in and its turn has not; the client goes on in another loop."""
    kv = AsyncClient(endpoint, timeout_s=1.0)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(kv.put("key", 1))
    left = loop.create_task(kv.put("key", 2))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    ended(start(lambda: asyncio.run(kv.put("key", 3))), "a call in the second loop")
    ended(start(lambda: asyncio.run(kv.close())), "closing in a third loop")
    return left.done()


def forked(endpoint: str, number: int) -> bool:
    """An asynchronous client in a forked child has an identity of its own (SAFETY 24), or is refused."""
    kv = AsyncClient(endpoint, timeout_s=1.0)
    asyncio.run(kv.put("key", 1))
    assert kv._connection is not None
    parent = kv._connection.core.client
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(HANG_S))
        try:
            asyncio.run(kv.put("key", 2))
        except UsageError:
            os._exit(0)
        os._exit(kv._connection.core.client == parent)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise Found("the child hangs" if status == -signal.SIGALRM else "the child has the identity of its parent")
    asyncio.run(kv.put("key", 3))
    asyncio.run(kv.close())
    return False


SCHEDULES: Final = (
    interrupted_alone, interrupted_among_others, interrupted_watching, overtaken, closed_meanwhile, loop_ended, forked,
)  # fmt: skip


def main() -> int:
    """Try a schedule with each line in turn, until there are no more."""
    name, endpoint = sys.argv[1:3]
    schedule = next(one for one in SCHEDULES if one.__name__ == name)
    for number in range(int(sys.argv[3]) if len(sys.argv) > 3 else 0, LINES):
        try:
            if not schedule(endpoint, number):
                break
        except Found as found:
            sys.stderr.write(f"{name}, line {number}: {found}\n")
            return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # threads that hang must not keep it
