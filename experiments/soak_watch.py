"""Watches of the soak: everything that they tell is written down, with the tokens between which they told it.

A *stretch* is a part of a watch in which nothing may be missing: from where it began, through any number of resumptions
(some after a while, from a position that was stored as JSON), to where it ended or was lost.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

from soak_processes import PATIENCE_S, Worker
from soak_records import EventRow, shown, text_of

from zkv import AsyncClient, Client, Event, WatchLost, ZkvError
from zkv.client.events import KINDS

CODES: Final = {name: code for code, name in KINDS.items()}
STRETCH_S: Final = (3.0, 8.0, 15.0)
"""After so long a watch is closed, and goes on from its position."""
AWAY_S: Final = (0.0, 0.0, 0.3, 2.0)
CATCH_UP_S: Final = 60.0
"""In quiet a watch has told of everything within this."""
POLL_S: Final = 0.25


class Stretch:
    """One stretch of a watch, as it is written down."""

    def __init__(self, worker: Worker, prefix: Any, number: int) -> None:
        self.worker = worker
        self.name = f"{worker.job.name} {prefix!r} {number}"
        self.prefix = prefix

    def began(self, position: dict[str, Any]) -> None:
        """It begins there."""
        self.worker.recorder.note(
            "watch", stretch=self.name, prefix=self.prefix, versions=position["versions"],
            at_ms=self.worker.recorder.now_ms(),
        )  # fmt: skip

    def told(self, event: Event) -> None:
        """It was told of something."""
        recorder, key = self.worker.recorder, text_of(event.key)
        self.worker.report.counts[f"event: {event.kind}"] += 1
        recorder.event(
            EventRow(self.name, key, event.version, CODES[event.kind], shown(key, event.value), recorder.now_ms())
        )

    def ended(self, position: dict[str, Any]) -> None:
        """It ends there."""
        self.worker.recorder.note("watched", stretch=self.name, versions=position["versions"])


class _Follower:
    """How a watch is followed, without the waiting, which differs between the faces."""

    def __init__(self, worker: Worker, prefix: Any, until: Callable[[], Any]) -> None:
        self.worker = worker
        self.prefix = prefix
        self.until = until
        self.rng = random.Random(f"{worker.job.seed} {worker.job.name} {prefix!r}")
        self.stretches = 0
        self.stretch: Stretch | None = None
        self.since: dict[str, Any] | None = None
        self.begun_ms = self.resume_ms = self.polled_ms = 0.0
        self.stopped_ms: float | None = None

    def begun(self, watch: Any) -> None:
        """A watch has begun, or goes on."""
        now_ms = self.begun_ms = self.polled_ms = self.worker.recorder.now_ms()
        self.resume_ms = now_ms + 1000 * self.rng.choice(STRETCH_S)
        if self.stretch is None:
            self.stretches += 1
            self.stretch = Stretch(self.worker, self.prefix, self.stretches)
            self.stretch.began(watch.position)
        else:
            self.worker.report.counts["watches resumed"] += 1

    def polled(self, watch: Any, event: Event | None) -> bool:
        """Note an event; whether to go on with this watch."""
        assert self.stretch is not None
        self.polled_ms = self.worker.recorder.now_ms()
        if event is not None:
            self.stretch.told(event)
            return True
        if self.worker.stopped.is_set():
            return not self._is_through(watch) and self.polled_ms < self.begun_ms + 1000
        return self.polled_ms < self.resume_ms

    def _is_through(self, watch: Any) -> bool:
        """Whether everything that was written has been told."""
        versions = self.until()
        if versions is None:
            return True
        return all(at >= version for at, version in zip(watch.position["versions"], versions, strict=True))

    def gives_up(self) -> bool:
        """Whether it is too late for what was written to be told still."""
        recorder = self.worker.recorder
        if not self.worker.stopped.is_set():
            return False
        self.stopped_ms = self.stopped_ms or recorder.now_ms()
        late = recorder.now_ms() > self.stopped_ms + 1000 * CATCH_UP_S
        if late:
            recorder.violation(f"the watch of {self.prefix!r} does not catch up within {CATCH_UP_S:g} s")
        return late

    def paused(self, watch: Any) -> bool:
        """A watch is to be closed; whether it is over."""
        self.since = json.loads(json.dumps(watch.position))
        over = self.worker.stopped.is_set() and self._is_through(watch)
        if over:
            assert self.stretch is not None
            self.stretch.ended(watch.position)
        return over

    def broke(self, watch: Any, error: ZkvError) -> None:
        """A watch ended with an error."""
        self.worker.failed("watch", error)
        if self.stretch is None or watch is None:
            return
        if isinstance(error, WatchLost):
            # Who was away may have missed more than is remembered; who was there, and lost it all the same, is told of.
            now_ms = self.worker.recorder.now_ms()
            was_there = now_ms - self.begun_ms > 1000
            self.worker.report.counts[f"watches lost {'while there' if was_there else 'while away'}"] += 1
            self.worker.recorder.note(
                "noted", at_ms=now_ms,
                text=f"watch of {self.prefix!r} lost, shard {error.shard}, {now_ms - self.begun_ms:.0f} ms after it "
                f"began or went on, {now_ms - self.polled_ms:.0f} ms after it was asked last",
            )  # fmt: skip
            self.stretch.ended(watch.position)
            self.stretch = self.since = None
        else:
            self.since = watch.position

    def away_s(self) -> float:
        """How long to be away before going on."""
        return 0.0 if self.worker.stopped.is_set() else self.rng.choice(AWAY_S)


def follow(worker: Worker, kv: Client, prefix: Any, until: Callable[[], Any]) -> None:
    """Watch a prefix until the worker stops, and what was written by then, up to the tokens `until()`, was told."""
    follower = _Follower(worker, prefix, until)
    while not follower.gives_up():
        watch = None
        try:
            with kv.watch(prefix, since=follower.since) as watch:
                follower.begun(watch)
                while follower.polled(watch, watch.poll(POLL_S)):
                    pass
                if follower.paused(watch):
                    return
        except ZkvError as error:
            follower.broke(watch, error)
        worker.stopped.wait(follower.away_s())


async def follow_async(worker: Worker, kv: AsyncClient, prefix: Any, until: Callable[[], Any]) -> None:
    """The same with an asynchronous client."""
    import asyncio

    follower = _Follower(worker, prefix, until)
    while not follower.gives_up():
        watch = kv.watch(prefix, since=follower.since)
        try:
            async with watch:
                follower.begun(watch)
                while follower.polled(watch, await watch.poll(POLL_S)):
                    pass
                if follower.paused(watch):
                    return
        except ZkvError as error:
            follower.broke(watch, error)
        await asyncio.sleep(follower.away_s())


class WatchWorker(Worker):
    """Watches everything, and parts of it, each with a client of its own."""

    until: Any = None

    def last_word(self, message: Any) -> None:
        """Up to where to follow, when all writing has ended."""
        self.until = message

    def run(self) -> None:
        """Work until everything was told."""
        prefixes: tuple[Any, ...] = ("", "plain-", b"") if "count" in self.job.kinds else ("",)
        self.spawn(*(self._follower(prefix) for prefix in prefixes))

    def _follower(self, prefix: Any) -> Callable[[], None]:
        def watch() -> None:
            with Client(self.job.manager, timeout_s=PATIENCE_S) as kv:
                follow(self, kv, prefix, lambda: self.until)

        return watch
