"""Waiting for keys, and locks.

A lock is a key that its holder keeps changing. Whoever wants it and has seen the same version of it for `ttl_s`, by its
own clock, may take it over by compare-and-set: no two clocks are compared, only how fast they run (the DynamoDB lock
client works like this; the idea is that of Gray & Cheriton's leases, SOSP 1989).

What a lock with a lifetime cannot promise: its holder may be paused for longer than `ttl_s`, believe that it still
holds the lock, and act, while another does. Therefore a lock has a *fencing token*, a number that grows from holder to
holder: pass it along with what you do, and have the other side refuse what is older than it has seen (Kleppmann, "How
to do distributed locking", 2016). Where the protected thing is in zkv itself, `cas` alone is simpler, and enough.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any, Final, Self

from zkv.client.operations import call_error
from zkv.client.plans import Awaiting, Blocking, Many, NameOf, One, Pause, Step, operation, run_with
from zkv.client.results import Entry, Key
from zkv.core import wire
from zkv.core.client.calls import Answer, Call
from zkv.errors import LockLost, TimedOut, UsageError, ZkvError
from zkv.values import TYPED, check_keys

LOCK_PREFIX: Final = "zkv:lock:"
"""Locks are keys of this namespace."""
LOOK_S: Final = 0.005
LOOK_MAX_S: Final = 0.1
SHORTEST_S: Final = 0.2
"""Deadline of a step of `acquire`, however little time is left: it looks once at least."""
"""Interval at which keys are looked at, and how long it grows."""


class WaitOperations:
    """Waiting for keys."""

    manager: str
    timeout_s: float

    @operation
    def wait(self, keys: Key | Sequence[Key], *, timeout_s: float | None = None) -> Generator[Step, Any, None]:
        """Return once all `keys` exist, for which it may wait `timeout_s` (the client's).

        They are looked at again and again, every 100 ms in the end. Raises TimedOut, naming some of those that do not
        exist.

        >>> put = kv.put("ready:1", True)
        >>> kv.wait(["ready:1"], timeout_s=5)
        >>> kv.wait(["ready:1", "ready:2"], timeout_s=0.01)
        Traceback (most recent call last):
        zkv.errors.TimedOut: 1 key does not exist after 0.01 s: 'ready:2'
        """
        wanted = [keys] if isinstance(keys, str | bytes) else list(keys)
        check_keys(wanted)
        return self._wait_steps(wanted, _patience(timeout_s, self.timeout_s))

    def _wait_steps(self, missing: list[Key], limit_s: float) -> Generator[Step, Any, None]:
        deadline, pause_s = time.monotonic() + limit_s, LOOK_S
        while missing:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                names = ", ".join(map(repr, missing[:3])) + (", …" if len(missing) > 3 else "")
                what = f"{len(missing)} keys do" if len(missing) > 1 else "1 key does"
                raise TimedOut(f"{what} not exist after {limit_s:g} s: {names}", outcome_unknown=False)
            try:
                ask = Many(wire.EXISTS, missing, self._found, timeout_s=min(left_s, self.timeout_s))
                found = yield ask
            except TimedOut:
                continue  # the time was too short for an answer: it may be over, too
            missing = [key for key, exists in zip(missing, found, strict=True) if not exists]
            if missing:
                yield Pause(max(0.0, min(pause_s * random.uniform(0.5, 1.0), deadline - time.monotonic())))
                pause_s = min(2 * pause_s, LOOK_MAX_S)

    def _found(self, call: Call, _: NameOf) -> list[Any]:
        if call.failures:
            raise call_error(call, self.manager)
        return list(call.columns()[1])


class LockOperations:
    """What a lock does, for both faces."""

    def __init__(self, client: Any, name: str, ttl_s: float) -> None:
        if not isinstance(name, str) or not isinstance(ttl_s, int | float) or not ttl_s > 0:
            raise UsageError(f"a lock has a name and a lifetime in seconds: {name!r}, {ttl_s!r}")
        self._client = client
        self.name = name
        self.ttl_s = ttl_s
        self.token: int | None = None
        """Fencing token while the lock is held: greater than that of every holder before."""
        self._key = LOCK_PREFIX + name
        self._owner = secrets.token_hex(8)
        self._version = 0
        self._until_s = 0.0

    @property
    def held(self) -> bool:
        """Whether the lock is held, as far as this process can know: taken, and its time not run out by our clock.

        >>> lock = kv.lock("report")
        >>> lock.held, lock.token
        (False, None)
        """
        return self.token is not None and time.monotonic() < self._until_s

    @operation
    def acquire(self, timeout_s: float | None = None) -> Generator[Step, Any, int]:
        """Take the lock, waiting for it up to `timeout_s` (the client's; 0: try once); returns the fencing token.

        To wait for longer than the lock's lifetime is to have it after the death of its holder. Raises TimedOut.

        >>> lock = kv.lock("report", ttl_s=5)
        >>> lock.acquire() == lock.token
        True
        >>> kv.lock("report").acquire(timeout_s=0)
        Traceback (most recent call last):
        zkv.errors.TimedOut: the lock 'report' was not free within 0 s
        """
        return self._acquire_steps(_patience(timeout_s, self._client.timeout_s))

    @operation
    def renew(self) -> Generator[Step, Any, None]:
        """Begin the lock's time anew. Raises LockLost if somebody else has taken it.

        >>> with kv.lock("report", ttl_s=5) as lock:
        ...     lock.renew()  # now and then, in the middle of long work
        """
        return self._renew_steps()

    @operation
    def release(self) -> Generator[Step, Any, None]:
        """Give the lock back. Raises LockLost if somebody else has taken it.

        >>> lock = kv.lock("report", ttl_s=5)
        >>> token = lock.acquire()
        >>> lock.release()
        >>> kv.lock("report").acquire(timeout_s=0) > token
        True
        """
        return self._release_steps()

    def _acquire_steps(self, limit_s: float) -> Generator[Step, Any, int]:
        if self.held:
            raise UsageError(f"the lock {self.name!r} is held by this very object")
        deadline, pause_s = time.monotonic() + limit_s, LOOK_S
        seen_version, seen_s = 0, 0.0
        while True:
            now_s = time.monotonic()
            step_s = min(max(deadline - now_s, SHORTEST_S), self._client.timeout_s)
            try:
                entry = yield self._look(step_s)
                version = 0 if entry is None else entry.version
                if entry is None or version != seen_version:
                    # From when the answer came, not from when it was asked for: the holder may have renewed in between.
                    seen_version, seen_s = version, time.monotonic()
                if self._is_ours(entry) or entry is None or now_s - seen_s >= self._lifetime_of(entry.value):
                    taken = yield self._write(version, step_s)
                    if taken is not None:
                        self._version = self.token = taken
                        self._until_s = now_s + self.ttl_s
                        return int(taken)
            except TimedOut:
                pass  # nobody answered in time; if the lock was taken all the same, it is found to be ours
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimedOut(f"the lock {self.name!r} was not free within {limit_s:g} s", outcome_unknown=False)
            yield Pause(min(pause_s * random.uniform(0.5, 1.0), left_s))
            pause_s = min(2 * pause_s, LOOK_MAX_S)

    # A lock is read at its primary and written as it is, whatever way its client has of reading and encoding.

    def _look(self, timeout_s: float | None = None) -> One[Entry | None]:
        def finish(answer: Answer, name_of: NameOf) -> Entry | None:
            value = TYPED.decode(answer.value)
            return None if value is None else Entry(self._key, value, answer.version, name_of(answer.source))

        return One(wire.GET, self._key, finish, timeout_s=timeout_s)

    def _write(self, version: int, timeout_s: float | None = None) -> One[int | None]:
        """Make the lock ours, if it still has `version`; the new one, or None."""
        mark = TYPED.encode([self._owner, self.ttl_s])
        return One(
            wire.PUT_IF_VERSION, self._key, _changed, value=mark, operand=version, timeout_s=timeout_s,
            ack=wire.ACK_ALL,
        )  # fmt: skip

    def _is_ours(self, entry: Entry | None) -> bool:
        return entry is not None and isinstance(entry.value, list) and entry.value[:1] == [self._owner]

    def _lifetime_of(self, value: Any) -> float:
        """How long the present holder may keep the lock without a sign."""
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int | float):
            return float(value[1])
        return self.ttl_s  # somebody else's key

    def _renew_steps(self) -> Generator[Step, Any, None]:
        self._check_taken()
        while True:
            now_s = time.monotonic()
            renewed = yield self._write(self._version)
            if renewed is not None:
                self._version, self._until_s = renewed, now_s + self.ttl_s
                return
            yield from self._find_again()

    def _release_steps(self) -> Generator[Step, Any, None]:
        self._check_taken()
        while True:
            gone = yield One(
                wire.DELETE_IF_VERSION, self._key, _changed, operand=self._version, ack=wire.ACK_ALL
            )
            if gone is not None:
                self.token = None
                return
            yield from self._find_again()

    def _find_again(self) -> Generator[Step, Any, None]:
        """The lock has another version than we know: ours, if an earlier call was done without our being told so.
        Raises LockLost if it is not."""
        entry = yield self._look()
        if not self._is_ours(entry):
            self.token = None
            why = f"its {self.ttl_s:g} s were over, and somebody else took it"
            raise LockLost(f"the lock {self.name!r} is not ours any more: {why}")
        self._version = entry.version

    def _check_taken(self) -> None:
        if self.token is None:
            raise UsageError(f"the lock {self.name!r} is not held: acquire() it first")


def _changed(answer: Answer, _: NameOf) -> int | None:
    """The new version; None where the condition did not hold."""
    return None if answer.status else answer.version


def _patience(timeout_s: float | None, usual_s: float) -> float:
    """How long somebody is ready to wait. Raises UsageError."""
    if timeout_s is None:
        return usual_s
    if not isinstance(timeout_s, int | float) or not timeout_s >= 0:
        raise UsageError(f"timeout_s is {timeout_s!r}, it must be a number of seconds, 0 or more")
    return timeout_s


class Lock(LockOperations, Blocking):
    """A lock with a lifetime and a fencing token; see `zkv.client.coordination` for what it cannot promise.

    >>> with kv.lock("report", ttl_s=5) as lock:
    ...     lock.token > 0, lock.held
    (True, True)
    """

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.token is None:
            return
        try:
            self.release()
        except ZkvError:
            if kind is None:  # an error on its way is the better one to see
                raise


class AsyncLock(LockOperations, Awaiting):
    """A lock with a lifetime and a fencing token; see `zkv.client.coordination` for what it cannot promise.

    Its methods are those of `Lock`, awaited.

    >>> async def report():
    ...     async with AsyncClient(cluster.manager) as kv, kv.lock("report", ttl_s=5) as lock:
    ...         await lock.renew()
    ...         return lock.held
    >>> asyncio.run(report())
    True
    """

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.token is None:
            return
        try:
            await self.release()
        except ZkvError:
            if kind is None:
                raise


run_with(Lock, lambda lock, plan: lock._client._run(plan))
run_with(AsyncLock, lambda lock, plan: lock._client._run(plan))
