"""The clients that load the cluster in the soak: operations of every kind on keys that others use, too.

What is asked for is chosen once, for all faces: a blocking client, one that threads share, an asynchronous one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple

from soak_processes import PATIENCE_S, Worker
from soak_records import RecordingAsyncClient, RecordingClient, last_answers, value_of
from soak_watch import follow_async

from zkv import AsyncClient, Client, DeleteResult, Entry, PutResult, ZkvError
from zkv.values import TYPED

TTLS_S: Final = (None, 0.15, 0.4, 0.4, 1.0, 2.5, 6.0)
SHORT_S: Final = (0.1, 0.3, 0.6)
"""Deadlines that some calls have, so that they end with an unknown outcome."""
THREADS: Final = 3
COROUTINES: Final = 6
EARLY: Final = 0.02
"""Part of the writes that are acknowledged by their primary alone."""
CLUSTER_KINDS: Final = (*("plain",) * 9, *("ttl",) * 6, "raw", "raw", "count", "count", "log", "log")
CACHE_KINDS: Final = ("plain", "plain", "ttl")


class Ask(NamedTuple):
    """One call: a method of a client with its arguments; or several operations for a pipeline."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    queued: tuple[Ask, ...] = ()


class Chooser:
    """Says what to ask for next. One for each thread or coroutine."""

    def __init__(self, worker: Worker, number: int) -> None:
        self.worker = worker
        self.rng = random.Random(f"{worker.job.seed} {worker.job.name} {number}")
        self.kinds = CLUSTER_KINDS if "count" in worker.job.kinds else CACHE_KINDS

    def next(self) -> Ask:
        """The next call."""
        rng = self.rng
        if rng.random() < 0.12:
            queued = tuple(self._single(piped=True) for _ in range(rng.choice((2, 3, 8))))
            options: dict[str, Any] = {"return_exceptions": rng.random() < 0.5, **self._deadline()}
            return Ask("pipeline", (), options, queued)
        if rng.random() < 0.2:
            return self._several()
        one = self._single(piped=False)
        one.options.update(self._deadline())
        return one

    def _deadline(self) -> dict[str, float]:
        return {"timeout_s": self.rng.choice(SHORT_S) if self.rng.random() < 0.1 else PATIENCE_S}

    def _several(self) -> Ask:
        """Many keys of a kind in one call."""
        rng, kind = self.rng, self.rng.choice(self.kinds)
        keys = list({self.worker.pick(kind, rng): None for _ in range(rng.choice((2, 4, 12)))})
        options: dict[str, Any] = {"return_exceptions": rng.random() < 0.5, **self._deadline()}
        choice = rng.random()
        if choice < 0.5 or kind in ("count", "log"):
            return Ask("mget", (keys,), options | self._way_of_reading())
        if choice < 0.85:
            if kind == "ttl":
                options["ttl_s"] = rng.choice(TTLS_S)
            return Ask("mput", ({key: value_of(self.worker.fresh()) for key in keys},), options)
        return Ask("mdelete", (keys,), options)

    def _way_of_reading(self) -> dict[str, Any]:
        choice = self.rng.random()
        return {"read": "any"} if choice < 0.2 else {"read": "stale"} if choice < 0.3 else {}

    def _single(self, *, piped: bool) -> Ask:
        rng, kind = self.rng, self.rng.choice(self.kinds)
        key = self.worker.pick(kind, rng)
        reading = {} if piped else self._way_of_reading()
        if kind == "count" and rng.random() < 0.6:
            return Ask("incr", (key,), {})
        if kind == "log" and rng.random() < 0.7:
            return Ask("append", (key, f" {self.worker.fresh()}"), {})
        if kind in ("count", "log"):
            return Ask("get", (key,), reading)
        if kind == "ttl" and rng.random() < 0.3:
            choice = rng.random()
            if choice < 0.35:
                return Ask("touch", (key, rng.choice(TTLS_S[1:])), {})
            return Ask("persist", (key,), {}) if choice < 0.5 else Ask("ttl", (key,), {})
        if rng.random() < 0.45:
            method = rng.choice(("get", "get", "entry", "exists"))
            return Ask(method, (key,), {} if method == "exists" else reading)
        return self._write(key, expiring=kind == "ttl", piped=piped)

    def _write(self, key: Any, *, expiring: bool, piped: bool) -> Ask:
        rng = self.rng
        options: dict[str, Any] = {}
        if not piped and rng.random() < EARLY:
            options["ack"] = "primary"
        known = self.worker.recorder.known.get(key if isinstance(key, str) else key.decode(), 0)
        choice = rng.random()
        if choice < 0.16:
            return Ask("delete", (key,), options)
        if choice < 0.22:
            return Ask("delete", (key,), options | {"if_version": known})
        if expiring:
            options["ttl_s"] = rng.choice(TTLS_S)
        value = value_of(self.worker.fresh())
        if choice < 0.3:
            return Ask("getset", (key, value), options)
        if choice < 0.42:
            return Ask("cas", (key, value), options | {"version": known})
        if choice < 0.47:
            return Ask("put", (key, value), options | {"if_version": known})
        if choice < 0.55:
            return Ask("put", (key, value), options | {rng.choice(("if_absent", "if_present")): True})
        return Ask("put", (key, value), options)


def disagreement(ask: Ask, result: Any) -> str:
    """Where what a client returned is not what its connection was told; "" if nowhere."""
    versions, values, statuses, failures = last_answers.get()
    results = result if ask.method in ("mput", "mget", "mdelete", "pipeline") else [result]
    for place, one in enumerate(results):
        method = ask.queued[place].method if ask.queued else ask.method
        if place in failures or isinstance(one, ZkvError):
            wrong = isinstance(one, ZkvError) is not (place in failures) and not statuses[place]
        elif isinstance(one, PutResult | DeleteResult | Entry):
            wrong = one.version != versions[place]
        elif method in ("get", "mget", "getset"):
            wrong = one != TYPED.decode(values[place])
        elif method == "incr":
            wrong = one != values[place]
        elif method in ("put", "cas", "touch", "persist"):
            wrong = one is not None or not statuses[place]
        else:
            wrong = False
        if wrong:
            answer = f"{versions[place]:#x} {statuses[place]} {str(values[place])[:200]}"
            return f"{ask.method} returned {str(one)[:200]}, where the answer was {answer}"
    return ""


class Loader(Worker):
    """One blocking client: a call at a time."""

    options: ClassVar[dict[str, Any]] = {}
    at_once = 1

    def run(self) -> None:
        """Work until `stopped`."""
        with RecordingClient(self.job.manager, self.recorder, timeout_s=PATIENCE_S, **self.options) as kv:
            self.spawn(*(self._loader(kv, number) for number in range(self.at_once)))

    def _loader(self, kv: Client, number: int) -> Callable[[], None]:
        chooser = Chooser(self, number)

        def load() -> None:
            pace = Pace(self.job.per_s / self.at_once)
            while not self.stopped.wait(pace.rest_s()):
                self._call(kv, chooser.next())

        return load

    def _call(self, kv: Client, ask: Ask) -> None:
        began_ms = self.recorder.now_ms()
        try:
            if ask.queued:
                pipeline = kv.pipeline(**ask.options)
                for one in ask.queued:
                    getattr(pipeline, one.method)(*one.arguments, **one.options)
                result = pipeline.execute()
            else:
                result = getattr(kv, ask.method)(*ask.arguments, **ask.options)
        except ZkvError as error:
            self.failed(ask.method, error)
        else:
            self.came(ask, result, began_ms)

    def came(self, ask: Ask, result: Any, began_ms: float) -> None:
        """A call was answered."""
        self.done(f"call: {ask.method}", began_ms)
        for one in result if isinstance(result, list) else ():
            if isinstance(one, ZkvError):
                self.failed(ask.method, one)
        if wrong := disagreement(ask, result):
            self.recorder.violation(wrong)


class ThreadsLoader(Loader):
    """A client that threads share, and that reads at any replica, hedged."""

    options: ClassVar[dict[str, Any]] = {"read": "any", "hedge": True}
    at_once = THREADS


class AsyncLoader(Loader):
    """An asynchronous client that coroutines share; one of them scans, and one watches."""

    def run(self) -> None:
        """Work until `stopped`."""
        asyncio.run(self._run())

    def last_word(self, message: Any) -> None:
        """Up to where the watch is to follow, when all writing has ended."""
        self.until = message

    until: Any = None

    async def _run(self) -> None:
        options = {"timeout_s": PATIENCE_S, "read": "any"}
        async with RecordingAsyncClient(self.job.manager, self.recorder, **options) as kv, asyncio.TaskGroup() as group:
            for number in range(COROUTINES):
                group.create_task(self._load(kv, Chooser(self, number)))
            group.create_task(self._scan(kv))
            group.create_task(follow_async(self, kv, "ttl-", lambda: self.until))

    async def _load(self, kv: AsyncClient, chooser: Chooser) -> None:
        pace = Pace(self.job.per_s / COROUTINES)
        while not self.stopped.is_set():
            await asyncio.sleep(pace.rest_s())
            ask, began_ms = chooser.next(), self.recorder.now_ms()
            try:
                if ask.queued:
                    pipeline = kv.pipeline(**ask.options)
                    for one in ask.queued:
                        getattr(pipeline, one.method)(*one.arguments, **one.options)
                    result = await pipeline.execute()
                else:
                    result = await getattr(kv, ask.method)(*ask.arguments, **ask.options)
            except ZkvError as error:
                self.failed(ask.method, error)
            else:
                self.came(ask, result, began_ms)

    async def _scan(self, kv: AsyncClient) -> None:
        while not self.stopped.is_set():
            await asyncio.sleep(0.4)
            kind = self.rng.choice(sorted(self.job.kinds.keys() - {"raw"}))
            prefix, began_ms = f"{kind}-{self.generation():04d}-", self.recorder.now_ms()
            try:
                seen = [entry.key async for entry in kv.scan(prefix)]
            except ZkvError as error:
                self.failed("scan", error)
                continue
            self.recorder.note("scan", prefix=prefix, start_ms=began_ms, end_ms=self.recorder.now_ms(), seen=seen)
            self.done("call: scan", began_ms)


class Pace:
    """Spreads calls over time, and does not catch up on what was missed for long."""

    def __init__(self, per_s: float) -> None:
        self._interval_s = 1 / per_s
        self._due_s = time.monotonic()

    def rest_s(self) -> float:
        """How long to wait before the next call."""
        now_s = time.monotonic()
        self._due_s = max(self._due_s + self._interval_s, now_s - 0.5)
        return max(0.0, self._due_s - now_s)
