"""The processes of the soak: each does its job until it is told to stop, and reports what came of it.

A process that fails reports why; one whose parent is gone ends by itself.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from soak_records import Recorder

from zkv import OutOfMemory, ZkvError
from zkv.errors import ProtocolError, UsageError

PATIENCE_S: Final = 6.0
"""Deadline of calls that are to succeed; a generation of keys is cleared away later than that after its last use."""
END_S: Final = 90.0
"""How long a process may take to end once it is told to."""
STORY_LINES: Final = 5
READY: Final = "ready"


@dataclass(frozen=True)
class Job:
    """What a process needs to know."""

    name: str
    manager: str
    directory: Path
    """Of the records of its cluster."""
    began_ns: int
    seed: int
    generation_s: float
    """How long keys are in use before others take their place: half of the time that each is."""
    kinds: dict[str, int]
    """Kinds of keys, and how many of each a generation has."""
    per_s: float = 0.0
    """Calls, about."""
    other_manager: str = ""
    """Of the cluster that dumps are loaded into."""
    shards: int = 0
    large: bool = False
    """Whether values are large."""


@dataclass
class Report:
    """What came of it."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """By kind, whether the outcome is known included."""
    acks: set[int] = field(default_factory=set)
    longest_ms: float = 0.0
    """Longest call that succeeded."""
    longest_what: str = ""
    failure: str = ""
    """A traceback, where it could not go on."""


class Worker:
    """One process: what it has, and how it notes what happens. Its threads share it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rng = random.Random(f"{job.seed} {job.name}")
        self.recorder = Recorder(job.directory, job.name, job.began_ns)
        self.report = Report(job.name)
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._values = 0

    def run(self) -> None:
        """Work until `stopped`."""
        raise NotImplementedError

    def last_word(self, message: Any) -> None:
        """What it is told when it is to stop."""

    def generation(self) -> int:
        """Number of the present generation of keys."""
        return int(self.recorder.now_ms() / 1000 / self.job.generation_s)

    def pick(self, kind: str, rng: random.Random) -> Any:
        """A key of that kind: of this generation, or of the one before."""
        generation = max(0, self.generation() - (rng.random() < 0.2))
        key = f"{kind}-{generation:04d}-{rng.randrange(self.job.kinds[kind])}"
        return key.encode() if kind == "raw" else key

    def fresh(self) -> str:
        """A name for a value that nobody has put before."""
        with self._lock:
            self._values += 1
            return f"{'big' if self.job.large else ''}{self.job.name}.{self._values}"

    def done(self, what: str, began_ms: float) -> None:
        """Something was done."""
        took_ms = self.recorder.now_ms() - began_ms
        with self._lock:
            self.report.counts[what] += 1
            if took_ms > self.report.longest_ms:
                self.report.longest_ms, self.report.longest_what = took_ms, f"{what} at {began_ms / 1000:.1f} s"

    def failed(self, what: str, error: ZkvError) -> None:
        """Something ended with an error. Some must not be, whatever happens to the cluster."""
        doubt = ", outcome unknown" if error.outcome_unknown else ""
        with self._lock:
            self.report.errors[f"{type(error).__name__}{doubt}"] += 1
        if isinstance(error, ProtocolError | UsageError) or type(error) is ZkvError:
            self.recorder.violation(f"{what}: {type(error).__name__}: {error}")
        if isinstance(error, OutOfMemory):
            self.recorder.note("noted", text=f"{what}: {error}", at_ms=self.recorder.now_ms())

    def spawn(self, *targets: Callable[[], None]) -> None:
        """Run these in threads, until all end; an exception in one stops all."""
        threads = [threading.Thread(target=self._guarded, args=(target,), daemon=True) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except Exception:  # noqa: BLE001 - whatever it is, the report tells
            self.report.failure = self.report.failure or traceback.format_exc()
            self.stopped.set()


class Processes:
    """A context manager: the processes live within it, and are ended with it."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._members: dict[str, tuple[Any, Connection]] = {}

    def start(self, kind: type[Worker], job: Job) -> None:
        """Start one."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_main, args=(kind, job, theirs), daemon=True)
        process.start()
        theirs.close()
        self._members[job.name] = process, ours

    def wait_ready(self) -> None:
        """Until all work."""
        for name, (_, end) in self._members.items():
            if not end.poll(END_S) or end.recv() != READY:
                raise RuntimeError(f"{name} did not begin")

    def ended(self) -> list[str]:
        """Those that have ended by themselves, which none should."""
        return [name for name, (process, end) in self._members.items() if end.poll(0) or not process.is_alive()]

    def stop(self, names: list[str], message: Any = None) -> list[Report]:
        """Have these stop, and take their reports."""
        for name in names:
            try:
                self._members[name][1].send(message)
            except OSError:
                pass  # it has ended
        return [self._report_of(name) for name in names]

    def _report_of(self, name: str) -> Report:
        process, end = self._members.pop(name)
        try:
            if end.poll(END_S):
                report: Report = end.recv()
                process.join(END_S)
                return report
            failure = f"it did not end within {END_S:g} s"
        except EOFError:
            failure = "it died"
        process.kill()
        return Report(name, failure=failure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _ in self._members.values():
            process.kill()
        for process, end in self._members.values():
            process.join()
            end.close()


def _main(kind: type[Worker], job: Job, end: Connection) -> None:
    """A process from its beginning to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    worker = kind(job)

    def listen() -> None:
        try:
            worker.last_word(end.recv())
        except EOFError:
            os._exit(1)  # the parent is gone, and its clusters with it
        worker.stopped.set()

    end.send(READY)
    threading.Thread(target=listen, daemon=True).start()
    try:
        worker.run()
    except Exception:  # noqa: BLE001 - whatever it is, the report tells
        worker.report.failure = traceback.format_exc()
    worker.recorder.close()
    worker.report.counts.update(worker.recorder.counts)
    worker.report.acks = worker.recorder.acks
    try:
        end.send(worker.report)
    except OSError:
        pass
