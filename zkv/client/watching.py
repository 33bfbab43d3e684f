"""Watching the keys with a prefix: what happens to them, in order for each key, from one moment on.

Each shard counts its own changes, so a watch has a *token* for each: what came up to there has been fetched. It asks
each node for what came after the tokens of the shards that the node is primary of; the answer comes when there is
something, or after a third of a second without. Nothing of a watch is kept on the nodes: whichever is primary by then
answers from the shard's history, which all replicas have, and therefore neither a failover nor a move nor a
disconnected client makes a gap or a duplicate. A history has a floor; who is so late that his token lies below it is
told so (`WatchLost`), and reads anew. At most one answer of each node waits for a reader: a slow one costs the nodes
nothing.

All of it is a procedure (`zkv.client.plans`), the same for both faces. Its state changes after each step in an order
that an interrupt cannot turn into a gap or a duplicate: what is fetched twice is delivered once.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from zkv.client.events import KINDS, Event, events_of, tokens_plan, watch_plan
from zkv.client.failures import error_of
from zkv.client.plans import (
    AnyOf,
    Awaiting,
    Begin,
    Blocking,
    GiveUp,
    LearnMap,
    Pause,
    Step,
    operation,
    run_with,
)
from zkv.client.results import Key
from zkv.core import wire
from zkv.core.client.calls import REFUSED, Call
from zkv.core.shardmap import ShardMap
from zkv.errors import ClosedError, TimedOut, Unavailable, UsageError, WatchLost
from zkv.values import check_keys

POLL_S: Final = 2.0
"""Deadline of one question."""
SHARDS_AT_ONCE: Final = 1024
"""Shards of one question."""
PAUSE_S: Final = 0.05
PAUSE_MAX_S: Final = 0.25
"""How long a shard that gave no answer is left alone; doubled each time."""
LOOK_S: Final = 0.05
"""Questions that were answered in part are looked for at least so often."""


class _Poll(NamedTuple):
    """A question under way."""

    standing: Any
    shards: Sequence[int]
    begun_s: float


class _Answer(NamedTuple):
    """Of a question, for one shard."""

    version: int
    value: Any
    status: int


class _Mark:
    """Lives as long as somebody waits."""

    __slots__ = ("__weakref__",)


class _Fetched(NamedTuple):
    """Something to be delivered."""

    shard: int
    version: int
    event: tuple[int, Key, Any] | None
    """(kind, key, value as it travels); None: nothing more came up to this version."""


class WatchOperations:
    """What a watch does, for both faces."""

    def __init__(self, client: Any, prefix: Key, since: Mapping[str, Any] | None) -> None:
        check_keys((prefix,))
        self._client = client
        self.prefix = prefix
        self._since = None if since is None else _checked_position(since)
        self._cluster = 0
        self._tokens: list[int] = []
        """By shard: what came up to there has been fetched. Empty: not begun."""
        self._reached: list[int] = []
        """By shard: what came up to there has been delivered."""
        self._ready: deque[_Fetched] = deque()
        self._polls: dict[tuple[int, bool, int], _Poll] = {}
        """(primary, whether its shards gave trouble, group of shards) -> question under way."""
        self._idle: set[int] = set()
        """Shards that no question is under way for."""
        self._trouble: dict[int, tuple[int, float]] = {}
        """Shard -> (how often in a row it gave no answer, until when it is left alone)."""
        self._map: ShardMap | None = None
        self._lost: int | None = None
        """A shard whose history is gone."""
        self._waiting: Callable[[], _Mark | None] = lambda: None
        self._closed = False

    @property
    def _busy(self) -> bool:
        """Whether somebody waits for the next event. Nobody does whose procedure is gone, whatever ended it."""
        return self._waiting() is not None

    @property
    def position(self) -> dict[str, Any]:
        """Up to where events were delivered, as a dict of plain values: store it, and begin another watch there with
        `since=`, which gets what came after.

        Raises UsageError before the watch has begun.

        >>> with kv.watch("color") as events:
        ...     put = kv.put("color", "green")
        ...     first = events.poll(5)
        ...     position = events.position
        >>> put = kv.put("color", "blue")
        >>> with kv.watch("color", since=position) as events:
        ...     events.poll(5).value
        'blue'
        """
        if self._tokens:
            return {"cluster": f"{self._cluster:016x}", "versions": list(self._reached)}
        if self._since is None:
            raise UsageError("this watch has not begun: enter it with `async with`, or take a step")
        return self._since

    @operation
    def poll(self, timeout_s: float | None = None) -> Generator[Step, Any, Event | None]:
        """The next event, for which it waits up to `timeout_s` (None: as long as it takes); None if none came.

        Raises WatchLost, ClosedError.

        >>> with kv.watch("color") as events:
        ...     put = kv.put("color", "green")
        ...     events.poll(timeout_s=5).value, events.poll(timeout_s=0.01)
        ('green', None)
        """
        if timeout_s is not None and (not isinstance(timeout_s, int | float) or not timeout_s >= 0):
            raise UsageError(f"timeout_s is {timeout_s!r}, it must be a number of seconds, 0 or more")
        return self._poll_steps(timeout_s)

    @operation
    def close(self) -> Generator[Step, Any, None]:
        """End the watch: whoever waits for its events waits no more. `position` is still there.

        >>> events = kv.watch("color")
        >>> events.close()
        >>> list(events)
        []
        """
        return self._close_steps()

    @operation
    def _begin(self) -> Generator[Step, Any, None]:
        return self._begin_steps()

    @operation
    def _step(self) -> Generator[Step, Any, Event | None]:
        """The next event; None: the watch was closed."""
        return self._next_steps(float("inf"))

    def _poll_steps(self, timeout_s: float | None) -> Generator[Step, Any, Event | None]:
        event = yield from self._next_steps(float("inf") if timeout_s is None else time.monotonic() + timeout_s)
        if event is None and self._closed:
            raise ClosedError("this watch is closed")
        return event

    def _next_steps(self, until_s: float) -> Generator[Step, Any, Event | None]:
        if self._busy:
            raise UsageError("somebody else waits for this watch's events: make one for each")
        mark: _Mark | None = None
        try:
            mark = _Mark()
            self._waiting = weakref.ref(mark)
            event, looked = self._delivered(), False
            while event is None and not self._closed:
                left_s = until_s - time.monotonic()
                if left_s <= 0 and looked:
                    return None
                yield from self._fetch_steps(max(0.0, left_s))
                looked = True
                event = self._delivered()
            return event
        finally:
            mark = None

    def _close_steps(self) -> Generator[Step, Any, None]:
        self._closed = True
        yield GiveUp([poll.standing for poll in self._polls.values()])

    # --- the beginning ---------------------------------------------------------------------------------------------

    def _begin_steps(self) -> Generator[Step, Any, None]:
        """Find out where to begin: after `since`, or now. Raises UsageError for a position of another cluster."""
        if self._tokens:
            return
        shard_map: ShardMap = yield LearnMap(None)
        count = len(shard_map.shards)
        if self._since is None:
            tokens = yield tokens_plan(self._client.manager, [self.prefix] * count, range(count))
        else:
            tokens = list(self._since["versions"])
            if self._since["cluster"] != f"{shard_map.cluster:016x}" or len(tokens) != count:
                raise UsageError("this position is one of another cluster: watch anew, without since=")
        self._cluster, self._map = shard_map.cluster, shard_map
        self._idle = set(range(count))
        self._reached = list(tokens)
        self._tokens = tokens

    # --- fetching --------------------------------------------------------------------------------------------------

    def _fetch_steps(self, left_s: float) -> Generator[Step, Any, None]:
        """Ask whoever is not being asked, and wait for an answer."""
        if self._lost is not None:
            raise WatchLost(
                f"the history of shard {self._lost} does not reach back to where this watch is: it was away for too "
                "long, or too slow; read what there is, and watch anew",
                shard=self._lost,
            )
        if not self._tokens:
            yield from self._begin_steps()
        try:
            if self._map is None:
                self._map = yield LearnMap(min(self._client.timeout_s, max(left_s, PAUSE_S)))
            yield from self._ask_steps(self._map)
            polls = [poll.standing for poll in self._polls.values()]
            self._map = yield AnyOf(polls, min(left_s, self._rest_s()))
        except (Unavailable, TimedOut):
            # Nobody is there, or the connection is no more (a fork, an interrupt elsewhere) and the questions with it.
            self._polls.clear()
            self._idle = set(range(len(self._tokens)))
            self._map = None
            yield Pause(min(PAUSE_S, left_s))
            return
        if not self._closed:
            yield from self._take_steps()

    def _ask_steps(self, shard_map: ShardMap) -> Generator[Step, Any, None]:
        """Send a question to each node that is primary of idle shards, and is not being asked; else they wait until it
        has answered, for else there would be ever more questions, each of fewer shards."""
        now_s = time.monotonic()
        groups: dict[tuple[int, bool, int], list[int]] = {}
        for shard in sorted(self._idle):
            trouble = self._trouble.get(shard)
            if trouble is None or trouble[1] <= now_s:
                # Those that gave trouble are asked for by themselves: they must not hold up the others.
                group = shard_map.shards[shard].primary, trouble is not None, shard // SHARDS_AT_ONCE
                groups.setdefault(group, []).append(shard)
        for group, shards in groups.items():
            if group not in self._polls:
                tokens = [self._tokens[shard] for shard in shards]
                standing = yield Begin(watch_plan([self.prefix] * len(shards), tokens, shards, _as_it_is, POLL_S))
                self._polls[group] = _Poll(standing, shards, now_s)
                self._idle.difference_update(shards)

    def _rest_s(self) -> float:
        """For how long there is nothing to do unless somebody answers."""
        if not self._trouble:
            return LOOK_S
        now_s = time.monotonic()
        rests = [self._trouble[shard][1] - now_s for shard in self._idle if shard in self._trouble]
        return max(0.001, min(rests, default=LOOK_S))

    def _take_steps(self) -> Generator[Step, Any, None]:
        """Take the answers that are there. Where a part is missing its shards have moved, or nobody serves them: from
        then on they are asked for by themselves, so that the others need not wait for them."""
        for group, poll in list(self._polls.items()):
            call: Call = poll.standing.call
            answers = _settled(call)
            if call.done or answers:
                self._take_answer(poll, call, answers)
                self._idle.update(poll.shards)
                del self._polls[group]
                if not call.done:
                    yield GiveUp([poll.standing])

    def _take_answer(self, poll: _Poll, call: Call, answers: Mapping[int, _Answer]) -> None:
        now_s = time.monotonic()
        # A node that has nothing to tell waits before it says so, unless it has too many watches, or is being replaced.
        turned_away = now_s - poll.begun_s < PAUSE_S and not any(one.value for one in answers.values())
        for place, shard in enumerate(poll.shards):
            failure = call.failures.get(place)
            answer = answers.get(place)
            if failure is not None or answer is None:
                if failure is not None and failure.kind == REFUSED:
                    raise error_of(failure, self._client.manager)
                times = self._trouble.get(shard, (0, 0.0))[0]
                pause_s = min(PAUSE_S * 2.0 ** min(times, 10), PAUSE_MAX_S)
                self._trouble[shard] = times + 1, now_s + pause_s
                continue
            if turned_away:
                self._trouble[shard] = 0, now_s + PAUSE_S
            else:
                self._trouble.pop(shard, None)
            if answer.status == wire.GONE:
                self._lost = shard
            else:
                self._take_events(shard, answer.version, answer.value)

    def _take_events(self, shard: int, version: int, value: Any) -> None:
        """What came in one shard. Raises ProtocolError."""
        token = self._tokens[shard]
        if value is None:
            if version > token:
                # Nothing of ours up to there: said at once, unless something waits to be delivered before.
                if self._ready:
                    self._ready.append(_Fetched(shard, version, None))
                else:
                    self._reached[shard] = version
                self._tokens[shard] = version
            return
        events = events_of(value)
        fetched = [_Fetched(shard, at, (kind, key, what)) for at, kind, key, what in events if at > token]
        fetched.append(_Fetched(shard, max(version, token, *(one.version for one in fetched)), None))
        self._ready.extend(fetched)
        self._tokens[shard] = fetched[-1].version

    # --- delivering ------------------------------------------------------------------------------------------------

    def _delivered(self) -> Event | None:
        """The next event that was fetched, if there is one."""
        ready, reached = self._ready, self._reached
        while ready and not self._closed:
            shard, version, event = ready.popleft()
            if event is None:
                reached[shard] = max(version, reached[shard])
            elif version > reached[shard]:
                kind, key, value = event
                reached[shard] = version
                return Event(KINDS[kind], key, self._client._codec.decode(value), version)
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._client!r}, {self.prefix!r}{', closed' if self._closed else ''})"


def _settled(call: Call) -> dict[int, _Answer]:
    """Place -> answer of those of a call's operations that have ended."""
    return {
        place: _Answer(batch.versions[index], batch.values[index], batch.statuses[index])
        for batch in call.batches
        if batch.left is not None
        for index, place in enumerate(batch.places)
        if index not in batch.left
    }


def _as_it_is(call: Call, _: ShardMap) -> Call:
    return call


def _checked_position(since: Any) -> dict[str, Any]:
    """A position that may have been stored in between. Raises UsageError."""
    versions = since.get("versions") if isinstance(since, Mapping) else None
    if (
        not isinstance(versions, Sequence)
        or isinstance(versions, str | bytes)
        or not all(type(version) is int and 0 <= version < wire.NOW for version in versions)
        or not isinstance(since.get("cluster"), str)
    ):
        raise UsageError("since= takes what the `position` of a watch was")
    return {"cluster": since["cluster"], "versions": list(versions)}


class Watch(WatchOperations, Blocking):
    """What happens to the keys with a prefix, from one moment on; an iterator that waits, and a context manager.

    It runs in the thread that asks for events, and in one at a time. A node that fails, a shard that moves, a manager
    that is away: the watch goes on where it was, for as long as somebody waits. Raises WatchLost once what it has
    missed is not remembered any more.

    >>> with kv.watch("color:") as events:
    ...     puts = kv.mput({"color:a": "green", "size:a": 5, "color:b": "blue"})
    ...     sorted((event.key, event.value) for event in (next(events), next(events)))
    [('color:a', 'green'), ('color:b', 'blue')]
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = None if self._busy else self._delivered()
        if event is None and (event := self._step()) is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncWatch(WatchOperations, Awaiting):
    """What happens to the keys with a prefix, from one moment on: for `async with` and `async for`.

    It begins where it is entered, or with its first step. Its methods are those of `Watch`, awaited.

    >>> async def first():
    ...     async with AsyncClient(cluster.manager) as kv, kv.watch("color") as events:
    ...         await kv.put("color", "green")
    ...         async for event in events:
    ...             return event.value
    >>> asyncio.run(first())
    'green'
    """

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = None if self._busy else self._delivered()
        if event is None and (event := await self._step()) is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


run_with(Watch, lambda watch, plan: watch._client._run(plan))
run_with(AsyncWatch, lambda watch, plan: watch._client._run(plan))

__all__ = ["AsyncWatch", "Watch"]
