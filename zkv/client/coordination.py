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

from zkv.client.events import events_of, tokens_plan, watch_plan
from zkv.client.failures import check_status
from zkv.client.operations import call_error
from zkv.client.plans import Awaiting, Blocking, LearnMap, Many, One, Pause, Step, operation, run_with
from zkv.client.results import Entry, Key
from zkv.core import wire
from zkv.core.client.calls import TIMED_OUT, Answer, Call
from zkv.core.shardmap import ShardMap, shards_of
from zkv.errors import LockLost, TimedOut, UsageError, ZkvError
from zkv.values import TYPED, check_keys

LOCK_PREFIX: Final = "zkv:lock:"
"""Locks are keys of this namespace."""
LOOK_S: Final = 0.005
LOOK_MAX_S: Final = 0.1
"""Interval at which a lock is looked at, and how long it grows."""
HURRY_S: Final = 0.1
"""Who has so little time left to wait for keys looks at them every `LOOK_S`."""
SHORTEST_S: Final = 0.2
"""Deadline of a step of `acquire`, however little time is left: it looks once at least."""


class WaitOperations:
    """Waiting for keys."""

    manager: str
    timeout_s: float

    @operation
    def wait(self, keys: Key | Sequence[Key], *, timeout_s: float | None = None) -> Generator[Step, Any, None]:
        """Return once all `keys` exist, for which it may wait `timeout_s` (the client's).

        Those that do not exist are watched: it returns as soon as the last of them was put. A key that came and went
        counts. Raises TimedOut, naming some of those that do not exist.

        >>> put = kv.put("ready:1", True)
        >>> kv.wait(["ready:1"], timeout_s=5)
        >>> kv.wait(["ready:1", "ready:2"], timeout_s=0.01)
        Traceback (most recent call last):
        zkv.errors.TimedOut: 1 key does not exist after 0.01 s: 'ready:2'
        """
        wanted = [keys] if isinstance(keys, str | bytes) else list(keys)
        check_keys(wanted)
        return self._wait_steps(wanted, _patience(timeout_s, self.timeout_s))

    def _wait_steps(self, wanted: list[Key], limit_s: float) -> Generator[Step, Any, None]:
        deadline = time.monotonic() + limit_s
        missing = dict.fromkeys(wanted)
        watched = _Watched()
        while missing:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                names = ", ".join(map(repr, list(missing)[:3])) + (", …" if len(missing) > 3 else "")
                what = f"{len(missing)} keys do" if len(missing) > 1 else "1 key does"
                raise TimedOut(f"{what} not exist after {limit_s:g} s: {names}", outcome_unknown=False)
            try:
                found = yield from self._find(list(missing), watched, min(left_s, self.timeout_s))
            except TimedOut:
                continue  # the time was too short for an answer: it may be over, too
            for key in found:
                del missing[key]

    def _find(self, missing: list[Key], watched: _Watched, timeout_s: float) -> Generator[Step, Any, list[Key]]:
        """Those of the keys that exist, or that come while it waits for a moment."""
        if watched.tokens is not None:
            found = yield watched.plan(missing, self.manager, timeout_s)
            if not found and timeout_s < HURRY_S:
                yield Pause(min(timeout_s, LOOK_S))  # nodes answer before the deadline: now at once
            return list(found)
        tokens: dict[Key, int] = {}
        if watched.begun:
            # First from where to watch, and then what is there by now: so nothing falls in between.
            shard_map: ShardMap = yield LearnMap(timeout_s)
            watched.shards = dict(zip(missing, shards_of(missing, len(shard_map.shards)), strict=True))
            shards = sorted(set(watched.shards.values()))
            now = yield tokens_plan(self.manager, ["\0"] * len(shards), shards, timeout_s)
            by_shard = dict(zip(shards, now, strict=True))
            tokens = {key: by_shard[shard] for key, shard in watched.shards.items()}
        exist = yield Many(wire.EXISTS, missing, self._found, timeout_s=timeout_s)
        if watched.begun:
            watched.tokens = tokens
        watched.begun = True  # only who finds that something is missing need watch at all
        return [key for key, exists in zip(missing, exist, strict=True) if exists]

    def _found(self, call: Call, _: ShardMap) -> list[Any]:
        if call.failures:
            raise call_error(call, self.manager)
        return list(call.columns()[1])


class _Watched:
    """Keys that are waited for, and how far they were watched."""

    def __init__(self) -> None:
        self.begun = False
        """Whether it was found that some are missing."""
        self.shards: dict[Key, int] = {}
        self.tokens: dict[Key, int] | None = None
        """Key -> token; None: not watched yet, or what came meanwhile is not remembered."""

    def plan(self, missing: list[Key], manager: str, timeout_s: float) -> Many[list[Key]]:
        """Ask what came, each shard once: for those of its keys that have a beginning in common, or else for one of
        them. (The others' turn comes when that one is there. All are needed.)"""
        assert self.tokens is not None
        tokens = self.tokens
        groups: dict[int, list[Key]] = {}
        for key in missing:
            groups.setdefault(self.shards[key], []).append(key)
        asked: list[tuple[Key, list[Key]]] = []
        for keys in groups.values():
            alike = [key for key in keys if type(key) is type(keys[0])]
            prefix = _beginning(alike)
            asked.append((prefix, alike) if prefix else (keys[0], keys[:1]))
        prefixes = [prefix for prefix, _ in asked]
        since = [min(tokens[key] for key in keys) for _, keys in asked]

        def finish(call: Call, _: ShardMap) -> list[Key]:
            return self._take(call, [keys for _, keys in asked], manager)

        return watch_plan(prefixes, since, list(groups), finish, timeout_s)

    def _take(self, call: Call, asked: list[list[Key]], manager: str) -> list[Key]:
        """The keys that came; the next question goes on from there."""
        if any(failure.kind != TIMED_OUT for failure in call.failures.values()):
            raise call_error(call, manager)
        came: list[Key] = []
        gone = False
        versions, values, statuses, _ = call.columns()
        for place, keys in enumerate(asked):
            if place in call.failures:
                continue
            gone |= statuses[place] == wire.GONE
            if values[place] is not None:
                put = {key for _, kind, key, _ in events_of(values[place]) if kind == wire.PUT_EVENT}
                came += [key for key in keys if key in put]
            assert self.tokens is not None
            self.tokens.update((key, max(self.tokens[key], versions[place])) for key in keys)
        if gone:
            self.tokens = None
        return came


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
        def finish(answer: Answer, shard_map: ShardMap) -> Entry | None:
            value = TYPED.decode(answer.value)
            return None if value is None else Entry(self._key, value, answer.version, shard_map.name_of(answer.source))

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


def _beginning(keys: Sequence[Any]) -> Key:
    """What the keys, all of one type, begin with."""
    first, last = min(keys), max(keys)
    pairs = enumerate(zip(first, last, strict=False))
    beginning: Key = first[: next((place for place, (one, other) in pairs if one != other), len(first))]
    return beginning


def _changed(answer: Answer, shard_map: ShardMap) -> int | None:
    """The new version; None where the condition did not hold."""
    if answer.status:
        check_status(answer, "", shard_map)
        return None
    return answer.version


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
