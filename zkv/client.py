"""The blocking client: a Python face over `zkv.core.client.client`.

    with Client("tcp://127.0.0.1:5550") as kv:
        kv.put("key1", "value1")      # -> PutResult(version=…, server="server1")
        kv.get("key1")                # -> "value1"

Keys are str or bytes (distinct, as in a dict), values bytes, str, numbers, None, lists, dicts, tuples and numpy arrays;
a value comes back as the type it was put. Every operation is linearizable, and every write takes effect at most once,
however often the client has to try.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import repeat
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from zkv.core import wire
from zkv.core.client.calls import Call, Failure
from zkv.core.settings import DEFAULT_MANAGER, ClusterSettings
from zkv.core.shardmap import shard_of
from zkv.errors import (
    ClosedError,
    ManagerUnreachable,
    NotFormed,
    ShardUnavailable,
    TimedOut,
    UsageError,
    ZkvError,
)
from zkv.net.client import Connection
from zkv.values import check_keys, decode, decode_column, encode_column

Key = str | bytes
TIMEOUT_LIMIT_S: Final = 120.0
"""Longest deadline of a call: replicas remember a write for longer than that (`session_ttl_ms`)."""


class PutResult(NamedTuple):
    """An acknowledged write."""

    version: int
    """Grows with every change of the key."""
    server: str
    """Name of the node that acknowledged it, the key's primary."""


class DeleteResult(NamedTuple):
    """An acknowledged delete."""

    existed: bool
    version: int
    """Of the tombstone; 0 where the key never existed, or its tombstone is long forgotten."""
    server: str


class Entry(NamedTuple):
    """A stored value with what is known about it."""

    key: Key
    value: Any
    version: int
    server: str
    """Name of the node that answered."""


_put_result: Final = partial(tuple.__new__, PutResult)


class Client:
    """A client of one cluster. Safe to share between threads (calls take turns) and to use after a fork.

    Args:
        manager: endpoint of the manager, `tcp://HOST:PORT`.
        timeout_s: default deadline of a call, in seconds, over all its tries; at most 120.
        read: "primary", or "any": reads go to any in-sync replica, which answers where it holds a read lease and knows
            that what it shows is committed, and sends the client to the primary otherwise. Both are linearizable.
        ack: "all": a write is acknowledged once every in-sync replica has it; "primary": once its primary has it, whose
            crash may then lose it, and nobody reads it before all have it. None: as the cluster is set.
        subscribe: listen to map changes. Without it the client asks the manager when a node does not answer.

    Nothing is sent before the first call, and the manager is needed only to learn the map.

    Raises (all calls):
        UsageError: a key or value that zkv does not take; nothing was sent.
        ManagerUnreachable, NotFormed: no map within the deadline.
        ShardUnavailable: every copy of a key's shard is gone or silent.
        TimedOut: the deadline passed.
        ClosedError: after `close`.
    After a failed write `error.outcome_unknown` says whether it may have been done all the same.
    """

    def __init__(
        self, manager: str = DEFAULT_MANAGER, timeout_s: float = 5.0, *, read: str = "primary",
        ack: str | None = None, subscribe: bool = True,
    ) -> None:  # fmt: skip
        if read not in ("primary", "any"):
            raise UsageError(f'read is {read!r}, it must be "primary" or "any"')
        self.read = read
        self._ack = _ack_level(ack)
        self._get = wire.GET if read == "primary" else wire.GET_ANY
        self.manager = manager
        self.timeout_s = _checked_timeout(timeout_s)
        self._subscribe = subscribe
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._connection = self._connect()

    # --- operations ------------------------------------------------------------------------------------------------

    def put(self, key: Key, value: Any, *, timeout_s: float | None = None, ack: str | None = None) -> PutResult:
        """Store `value` under `key`; returns once every in-sync replica has it (see `ack` of the class)."""
        return self.mput({key: value}, timeout_s=timeout_s, ack=ack)[0]

    def get(self, key: Key, default: Any = None, *, timeout_s: float | None = None) -> Any:
        """The value under `key`, or `default` where there is none."""
        entry = self.entry(key, timeout_s=timeout_s)
        return default if entry is None else entry.value

    def entry(self, key: Key, *, timeout_s: float | None = None) -> Entry | None:
        """The value under `key` with its version and the server that answered; None where there is none."""
        call = self._call(self._get, (key,), None, timeout_s)
        versions, values, _, sources = call.results()
        if values[0] is None:
            return None
        return Entry(key, decode(values[0]), versions[0], self._name(sources[0]))

    def exists(self, key: Key, *, timeout_s: float | None = None) -> bool:
        """Whether there is a value under `key`, without fetching it."""
        return bool(self._call(wire.EXISTS, (key,), None, timeout_s).results()[1][0])

    def delete(self, key: Key, *, timeout_s: float | None = None, ack: str | None = None) -> DeleteResult:
        """Remove `key`; the result says whether there was anything to remove."""
        call = self._call(wire.DELETE, (key,), None, timeout_s, ack)
        versions, _, statuses, sources = call.results()
        existed = not statuses or statuses[0] != wire.MISSING
        return DeleteResult(existed, versions[0], self._name(sources[0]))

    def mput(
        self, items: Mapping[str, Any] | Mapping[bytes, Any] | Mapping[Key, Any], *, timeout_s: float | None = None,
        ack: str | None = None,
    ) -> list[PutResult]:  # fmt: skip
        """Store many values, all nodes in parallel; results in the order of `items`. Each key is atomic by itself."""
        keys: list[Key] = list(items)
        values = list(items.values())
        call = self._call(wire.PUT, keys, encode_column(values), timeout_s, ack)
        versions, _, _, sources = call.results()
        return list(map(_put_result, zip(versions, self._names(sources), strict=True)))

    def mget(self, keys: Sequence[Key], default: Any = None, *, timeout_s: float | None = None) -> list[Any]:
        """The values under `keys`, in their order, `default` where there is none; all nodes in parallel."""
        call = self._call(self._get, keys, None, timeout_s)
        return decode_column(call.results()[1], default)

    def locate(self, key: Key, *, timeout_s: float | None = None) -> str:
        """Name of the key's primary by the newest map this client knows."""
        check_keys((key,))
        with self._lock:
            connection = self._usable()
            failure = connection.learn_map(1000 * self._deadline_s(timeout_s))
            if failure is not None:
                raise self._error(failure)
            shard_map = connection.core.map
            return shard_map.name_of(shard_map.shards[shard_of(key, len(shard_map.shards))].primary)

    # --- life ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the sockets. Further calls raise `ClosedError`."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if self._pid == os.getpid():
                    self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.manager!r}{', closed' if self._closed else ''})"

    # --- inside ----------------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        import zmq

        try:
            return Connection(self.manager, subscribe=self._subscribe)
        except zmq.ZMQError as error:
            raise UsageError(
                f"{self.manager!r} is not an endpoint: write tcp://HOST:PORT ({error.strerror})"
            ) from error

    def _usable(self) -> Connection:
        if self._closed:
            raise ClosedError("this client is closed")
        if self._pid != os.getpid():
            # A ZeroMQ context does not survive a fork, and two processes must not share an identity (SAFETY 24).
            self._pid = os.getpid()
            self._connection = self._connect()
        return self._connection

    def _deadline_s(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else _checked_timeout(timeout_s)

    def _call(
        self, op: int, keys: Sequence[Key], values: Sequence[Any] | None, timeout_s: float | None,
        ack: str | None = None,
    ) -> Call:  # fmt: skip
        check_keys(keys)
        level = self._ack if ack is None else _ack_level(ack)
        with self._lock:
            call = self._usable().call(op, keys, values, 1000 * self._deadline_s(timeout_s), level)
        if call.failure is not None:
            raise self._error(call.failure)
        return call

    def _name(self, boot: int) -> str:
        return self._connection.core.map.name_of(boot)

    def _names(self, boots: Sequence[int]) -> Any:
        names = {boot: self._name(boot) for boot in set(boots)}
        return repeat(names[boots[0]], len(boots)) if len(names) == 1 else map(names.__getitem__, boots)

    def _error(self, failure: Failure) -> ZkvError:
        if failure.kind == Failure.UNREACHABLE:
            return ManagerUnreachable(_no_manager(self.manager))
        if failure.kind == Failure.NOT_FORMED:
            return NotFormed(f"{failure.text}: the manager at {self.manager} still waits for nodes to join")
        if failure.kind == Failure.UNAVAILABLE:
            return ShardUnavailable(failure.text, outcome_unknown=failure.unknown)
        if failure.kind == Failure.REFUSED:
            return UsageError(failure.text, outcome_unknown=failure.unknown)
        return TimedOut(failure.text, outcome_unknown=failure.unknown)


def _no_manager(endpoint: str) -> str:
    return f"no manager answers at {endpoint}: start a cluster with `zkv-launch start`, or name another manager"


def _ack_level(ack: str | None) -> int:
    if ack is None:
        return wire.ACK_DEFAULT
    if ack not in wire.ACK_LEVELS:
        raise UsageError(f'ack is {ack!r}, it must be "all" or "primary"')
    return wire.ACK_LEVELS[ack]


def _checked_timeout(timeout_s: float) -> float:
    limit_s = min(TIMEOUT_LIMIT_S, ClusterSettings().timeout_limit_ms / 1000)
    if not 0 < timeout_s <= limit_s:
        raise UsageError(f"timeout_s is {timeout_s}, it must be above 0 and at most {limit_s:g} seconds")
    return float(timeout_s)
