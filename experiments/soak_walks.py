"""The client of the soak that goes through keys: scans, lists of keys, counts, flushes; and takes locks, and waits.

It also clears away generations of keys that are not used any more, which is a flush, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from soak_processes import PATIENCE_S, Worker
from soak_records import KEY_KINDS, RecordingClient, group_of, text_of

from zkv import Client, TimedOut, ZkvError

LOCKS: Final = ("a", "b")
LOCK_TTL_S: Final = 0.5
HOLD_S: Final = (0.0, 0.02, 0.1, 0.3)
WAIT_S: Final = 0.4
REST_S: Final = 0.15
OLD: Final = 4
"""Generations after which keys are cleared away: by then no call on them is under way."""


class Walker(Worker):
    """Goes through keys in one thread; others take locks and wait."""

    cleared = 0

    def run(self) -> None:
        """Work until `stopped`."""
        with RecordingClient(self.job.manager, self.recorder, timeout_s=PATIENCE_S) as kv:
            lockers = (self._every(REST_S, kv, self._lock_once) for _ in range(3))
            self.spawn(self._every(REST_S, kv, self._walk), self._every(REST_S, kv, self._wait_once), *lockers)

    def _every(self, rest_s: float, kv: Client, what: Callable[[Client, random.Random], None]) -> Callable[[], None]:
        rng = random.Random(self.rng.random())

        def work() -> None:
            while not self.stopped.wait(rng.uniform(0.2, 1.8) * rest_s):
                what(kv, rng)

        return work

    # --- going through keys ----------------------------------------------------------------------------------------

    def _walk(self, kv: Client, rng: random.Random) -> None:
        if self.generation() - OLD > self.cleared - 1:
            self._clear(kv, self.cleared)
            return
        choice, began_ms = rng.random(), self.recorder.now_ms()
        what = "scan" if choice < 0.45 else "keys" if choice < 0.7 else "count" if choice < 0.96 else "flush"
        prefix = self._prefix(rng, whole=what != "scan" or rng.random() < 0.5)
        try:
            if what == "scan":
                self._scanned(prefix, began_ms, [entry.key for entry in kv.scan(prefix)])
            elif what == "keys":
                self._scanned(prefix, began_ms, kv.keys(prefix))
            elif what == "count":
                count = kv.count(prefix)
                self.recorder.note(
                    "count", prefix=prefix, start_ms=began_ms, end_ms=self.recorder.now_ms(), count=count
                )
            else:
                kv.flush(f"{rng.choice(('plain', 'ttl'))}-{self.generation():04d}-1")  # about a fifth of a group
        except ZkvError as error:
            self.failed(what, error)
        else:
            self.done(f"call: {what}", began_ms)

    def _prefix(self, rng: random.Random, *, whole: bool) -> Any:
        """What to go through: a group, where it has to be `whole`, or a kind, or everything."""
        kind = rng.choice(KEY_KINDS)
        if whole:
            prefix = f"{kind}-{max(0, self.generation() - (rng.random() < 0.3)):04d}-"
        else:
            prefix = rng.choice(("", f"{kind}-"))
        return prefix.encode() if kind == "raw" else prefix

    def _scanned(self, prefix: Any, began_ms: float, keys: list[Any]) -> None:
        seen = [text_of(key) for key in keys]
        self.recorder.note(
            "scan", prefix=prefix, start_ms=began_ms, end_ms=self.recorder.now_ms(),
            seen=[key for key in seen if group_of(key)],
        )  # fmt: skip

    def _clear(self, kv: Client, generation: int) -> None:
        """Flush what nobody uses any more."""
        began_ms = self.recorder.now_ms()
        try:
            for kind in self.job.kinds:
                group = f"{kind}-{generation:04d}"
                if kind in ("count", "log"):
                    # What is only incremented and appended to is checked without deletes: its history ends here.
                    self.recorder.unseen.add(group)
                    self.recorder.note("closing", group=group, at_ms=self.recorder.now_ms())
                kv.flush(f"{group}-".encode() if kind == "raw" else f"{group}-")
                self.recorder.note("closed", group=group, at_ms=self.recorder.now_ms())
        except ZkvError as error:
            self.failed("flush", error)
            return
        self.cleared += 1
        self.done("call: flush", began_ms)

    # --- waiting and locks -----------------------------------------------------------------------------------------

    def _wait_once(self, kv: Client, rng: random.Random) -> None:
        keys = [self.pick("plain", rng), self.pick("ttl", rng)][: rng.choice((1, 2))]
        began_ms = self.recorder.now_ms()
        try:
            kv.wait(keys, timeout_s=WAIT_S)
        except TimedOut:
            self.report.counts["waits in vain"] += 1
        except ZkvError as error:
            self.failed("wait", error)
        else:
            self.recorder.note("waited", keys=keys, end_ms=self.recorder.now_ms())
            self.done("call: wait", began_ms)

    def _lock_once(self, kv: Client, rng: random.Random) -> None:
        name, asked_ms = rng.choice(LOCKS), self.recorder.now_ms()
        lock = kv.lock(name, ttl_s=LOCK_TTL_S)
        try:
            token = lock.acquire(timeout_s=2.0)
        except TimedOut:
            self.report.counts["locks not had"] += 1
            return
        except ZkvError as error:
            self.failed("lock", error)
            return
        got_ms = held_ms = self.recorder.now_ms()
        try:
            for _ in range(rng.choice((1, 2))):
                self.stopped.wait(rng.choice(HOLD_S))
                now_ms = self.recorder.now_ms()
                if lock.held:
                    held_ms = now_ms
                lock.renew()
            if rng.random() < 0.8:
                now_ms = self.recorder.now_ms()
                if lock.held:
                    held_ms = now_ms
                lock.release()  # else it is left to run out
        except ZkvError as error:
            self.failed("lock", error)
        self.recorder.note("lock", name=name, asked_ms=asked_ms, got_ms=got_ms, held_ms=held_ms, token=token)
        self.done("call: lock", asked_ms)
