"""Every operation on keys, written once. `zkv.client.plans` says how faces run them.

Keys are str or bytes (distinct, as in a dict), values bytes, str, numbers, bool, None, lists, dicts, tuples and numpy
arrays; a value comes back as the type it was put. Every operation is linearizable, and every write takes effect at most
once, however often it has to be tried.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from itertools import repeat
from math import inf, isfinite
from typing import Any, Final

from zkv.client.arguments import (
    READ_OPS,
    ack_level,
    checked,
    checked_keys,
    checked_version,
    condition_of,
    lifetime_ms,
    read_op,
)
from zkv.client.failures import check_status, error_of, out_of_memory
from zkv.client.plans import LearnMap, Many, One, Operation, Step, operation
from zkv.client.results import DeleteResult, Entry, Key, PutResult
from zkv.core import wire
from zkv.core.client.calls import Answer, Call
from zkv.core.shardmap import ShardMap, shard_of
from zkv.errors import UsageError, ZkvError
from zkv.values import Codec


class KeyOperations:
    """Operations on one key: what a client offers, and a pipeline too."""

    _codec: Codec
    _read: str
    _ack: int
    manager: str

    @operation
    def get(
        self, key: Key, default: Any = None, *, read: str | None = None, timeout_s: float | None = None
    ) -> One[Any]:
        """The value under `key`, or `default` where there is none.

        >>> kv.put("color", "green")
        PutResult(version=..., server='server...')
        >>> kv.get("color"), kv.get("no such key"), kv.get("no such key", "blue")
        ('green', None, 'blue')
        """
        decode = self._codec.decode

        def finish(answer: Answer, _: ShardMap) -> Any:
            return decode(answer.value, default)

        return One(self._read_op(read), checked(key), finish, timeout_s=timeout_s)

    @operation
    def entry(self, key: Key, *, read: str | None = None, timeout_s: float | None = None) -> One[Entry | None]:
        """The value under `key` with its version and the server that answered; None where there is none.

        >>> put = kv.put("color", "green")
        >>> kv.entry("color")
        Entry(key='color', value='green', version=..., server='server...')
        >>> kv.entry("color").version == put.version, kv.entry("no such key")
        (True, None)
        """
        decode = self._codec.decode

        def finish(answer: Answer, shard_map: ShardMap) -> Entry | None:
            if answer.value is None:
                return None
            return Entry(key, decode(answer.value), answer.version, shard_map.name_of(answer.source))

        return One(self._read_op(read), checked(key), finish, timeout_s=timeout_s)

    @operation
    def exists(self, key: Key, *, timeout_s: float | None = None) -> One[bool]:
        """Whether there is a value under `key`, without fetching it.

        >>> put = kv.put("color", None)
        >>> kv.exists("color"), kv.exists("no such key")
        (True, False)
        """

        def finish(answer: Answer, _: ShardMap) -> bool:
            return bool(answer.value)

        return One(wire.EXISTS, checked(key), finish, timeout_s=timeout_s)

    def _put(
        self, key: Key, value: Any, *, if_absent: bool = False, if_present: bool = False,
        if_version: int | None = None, ttl_s: float | None = None, timeout_s: float | None = None,
        ack: str | None = None,
    ) -> One[PutResult | None]:  # fmt: skip
        """Store `value` under `key`; returns once every in-sync replica has it (see `ack` of the class).

        At most one condition: `if_absent`, the key must not exist; `if_present`, it must; `if_version`, its version
        must be this one (of a missing key: 0). Where the condition does not hold nothing is written, and None returned.
        `ttl_s`: seconds until the key expires; without it the key stays, also if it would have expired before.

        Raises UsageError for a value that cannot be stored, or is greater than 16 MiB; nothing was sent then. Raises
        OutOfMemory if the key's primary has no room for it within its memory limit.

        >>> kv.put("owner", "ada", if_absent=True)
        PutResult(version=..., server='server...')
        >>> kv.put("owner", "bob", if_absent=True) is None, kv.get("owner")
        (True, 'ada')
        >>> kv.put("owner", {"ada"})
        Traceback (most recent call last):
        zkv.errors.UsageError: a value of type set cannot be stored; ...
        >>> kv.put("session", "ada", ttl_s=60).version == kv.entry("session").version, 59 < kv.ttl("session") <= 60
        (True, True)
        """
        op, operand = condition_of(if_absent, if_present, if_version)

        def finish(answer: Answer, shard_map: ShardMap) -> PutResult | None:
            return _written(answer, key, shard_map)

        wire_value = self._codec.encode(value)
        return One(
            op, checked(key), finish, value=wire_value, operand=operand, timeout_s=timeout_s, ack=self._level(ack),
            ttl_ms=lifetime_ms(ttl_s),
        )  # fmt: skip

    put = operation(_put)

    @operation
    def cas(
        self, key: Key, value: Any, *, version: int, ttl_s: float | None = None, timeout_s: float | None = None,
        ack: str | None = None,
    ) -> One[PutResult | None]:  # fmt: skip
        """Compare and set: store `value` if the key still has `version` (0: if it does not exist); None if it has not.

        `ttl_s`: as with `put`.

        >>> seen = kv.put("balance", 100)
        >>> kv.cas("balance", 90, version=seen.version)
        PutResult(version=..., server='server...')
        >>> kv.cas("balance", 80, version=seen.version) is None, kv.get("balance")
        (True, 90)
        """
        return KeyOperations._put(self, key, value, if_version=version, ttl_s=ttl_s, timeout_s=timeout_s, ack=ack)

    @operation
    def getset(
        self, key: Key, value: Any, default: Any = None, *, ttl_s: float | None = None, timeout_s: float | None = None,
        ack: str | None = None,
    ) -> One[Any]:  # fmt: skip
        """Store `value` under `key`; returns the former value, `default` where there was none. `ttl_s`: as with `put`.

        >>> kv.getset("shift", "day", "nobody"), kv.getset("shift", "night")
        ('nobody', 'day')
        """
        decode = self._codec.decode

        def finish(answer: Answer, shard_map: ShardMap) -> Any:
            check_status(answer, key, shard_map)
            try:
                return decode(answer.value, default)
            except ZkvError as error:  # the write was done, and only its former value cannot be read
                error.outcome_unknown = True
                raise

        wire_value = self._codec.encode(value)
        return One(
            wire.GETSET, checked(key), finish, value=wire_value, timeout_s=timeout_s, ack=self._level(ack),
            ttl_ms=lifetime_ms(ttl_s),
        )  # fmt: skip

    def _delete(
        self, key: Key, *, if_version: int | None = None, timeout_s: float | None = None, ack: str | None = None
    ) -> One[DeleteResult | None]:
        """Remove `key`; the result says whether there was anything to remove.

        With `if_version`: only if that is its version; None where it is not.

        >>> put = kv.put("note", "milk, bread")
        >>> kv.delete("note").existed, kv.delete("note").existed
        (True, False)
        >>> kv.put("note", "tea").version > put.version
        True
        >>> kv.delete("note", if_version=put.version) is None, kv.get("note")
        (True, 'tea')
        """
        conditional = if_version is not None

        def finish(answer: Answer, shard_map: ShardMap) -> DeleteResult | None:
            if answer.status and conditional:
                return None
            return DeleteResult(not answer.status, answer.version, shard_map.name_of(answer.source))

        op, operand = (wire.DELETE_IF_VERSION, checked_version(if_version)) if conditional else (wire.DELETE, None)
        return One(op, checked(key), finish, operand=operand, timeout_s=timeout_s, ack=self._level(ack))

    delete = operation(_delete)

    @operation
    def incr(
        self, key: Key, by: float = 1, *, timeout_s: float | None = None, ack: str | None = None
    ) -> One[Any]:
        """Add `by` to the number under `key`; returns the sum. A missing key counts from 0.

        A key that expires still does. Raises WrongType if the value is no number, TooLarge if the sum would not fit: 64
        bits, or a finite float.

        >>> kv.incr("visits"), kv.incr("visits", 10), kv.incr("visits", -1)
        (1, 11, 10)
        >>> put = kv.put("name", "ada")
        >>> kv.incr("name")
        Traceback (most recent call last):
        zkv.errors.WrongType: the value under 'name' is of another type than this operation works on
        """
        if type(by) not in (int, float) or not isfinite(by):
            raise UsageError(f"by is {by!r}: it must be an int or a finite float")

        def finish(answer: Answer, shard_map: ShardMap) -> Any:
            check_status(answer, key, shard_map)
            return answer.value

        value = self._numbers.encode(by)
        return One(wire.INCR, checked(key), finish, value=value, timeout_s=timeout_s, ack=self._level(ack))

    @operation
    def append(
        self, key: Key, piece: str | bytes, *, timeout_s: float | None = None, ack: str | None = None
    ) -> One[int]:
        """Append `piece` to the str or bytes under `key`; returns the new length. A missing key becomes the piece.

        A key that expires still does. Raises WrongType if the value is of another type than the piece, TooLarge beyond
        the limit of a value.

        >>> kv.append("log", "one "), kv.append("log", "two"), kv.get("log")
        (4, 7, 'one two')
        """
        if type(piece) not in (str, bytes):
            raise UsageError(f"a piece must be str or bytes, not {type(piece).__name__}")

        def finish(answer: Answer, shard_map: ShardMap) -> int:
            check_status(answer, key, shard_map)
            return int(answer.value)

        value = self._codec.encode(piece)
        return One(wire.APPEND, checked(key), finish, value=value, timeout_s=timeout_s, ack=self._level(ack))

    @operation
    def touch(
        self, key: Key, ttl_s: float, *, timeout_s: float | None = None, ack: str | None = None
    ) -> One[PutResult | None]:
        """Have `key` expire in `ttl_s` seconds from now, and keep its value; None where there is no such key.

        It counts as a change: the key has a new version then.

        >>> put = kv.put("session", "ada", ttl_s=60)
        >>> kv.touch("session", 600).version > put.version, kv.ttl("session") > 599
        (True, True)
        >>> kv.touch("no such key", 600) is None
        True
        """
        return self._touch(key, lifetime_ms(ttl_s, required=True), timeout_s, ack)

    @operation
    def persist(
        self, key: Key, *, timeout_s: float | None = None, ack: str | None = None
    ) -> One[PutResult | None]:
        """Have `key` stay for ever, and keep its value; None where there is no such key. It counts as a change.

        >>> put = kv.put("session", "ada", ttl_s=60)
        >>> kv.persist("session").version > put.version, kv.ttl("session")
        (True, inf)
        """
        return self._touch(key, 0, timeout_s, ack)

    @operation
    def ttl(self, key: Key, *, timeout_s: float | None = None) -> One[float | None]:
        """Seconds until `key` expires; `math.inf` if it never does, None where there is no such key.

        >>> puts = kv.put("session", "ada", ttl_s=60), kv.put("color", "green")
        >>> 59 < kv.ttl("session") <= 60, kv.ttl("color"), kv.ttl("no such key")
        (True, inf, None)
        """

        def finish(answer: Answer, _: ShardMap) -> float | None:
            left_ms = answer.value
            return None if left_ms is None else inf if left_ms < 0 else left_ms / 1000

        return One(wire.TTL, checked(key), finish, timeout_s=timeout_s)

    # --- inside ----------------------------------------------------------------------------------------------------

    _numbers: Codec

    def _touch(self, key: Key, ttl_ms: int, timeout_s: float | None, ack: str | None) -> One[PutResult | None]:
        def finish(answer: Answer, shard_map: ShardMap) -> PutResult | None:
            return _written(answer, key, shard_map)

        return One(
            wire.TOUCH, checked(key), finish, timeout_s=timeout_s, ack=self._level(ack), ttl_ms=ttl_ms
        )

    def _read_op(self, read: str | None) -> int:
        return READ_OPS[self._read] if read is None else read_op(read)

    def _level(self, ack: str | None) -> int:
        return self._ack if ack is None else ack_level(ack)


class Operations(KeyOperations):
    """Operations on keys, one or many."""

    @operation
    def mput(
        self, items: Mapping[str, Any] | Mapping[bytes, Any] | Mapping[Key, Any], *, ttl_s: float | None = None,
        return_exceptions: bool = False, timeout_s: float | None = None, ack: str | None = None,
    ) -> Many[list[PutResult]]:  # fmt: skip
        """Store many values, all nodes in parallel; results in the order of `items`. Each key is atomic by itself.

        `ttl_s`: as with `put`, for all of them.

        Where some cannot be done the first error is raised; with `return_exceptions` each error stands in the place of
        its result instead, as with asyncio.gather.

        >>> kv.mput({"a": 1, "b": 2})
        [PutResult(version=..., server='server...'), PutResult(version=..., server='server...')]
        """
        keys: list[Key] = list(items)
        ttl_ms = lifetime_ms(ttl_s)

        def finish(call: Call, shard_map: ShardMap) -> list[PutResult]:
            versions, values, statuses, sources = call.columns()
            names = _names(sources, shard_map)
            results: list[Any] = list(map(_put_result, repeat(PutResult), zip(versions, names, strict=True)))
            if wire.NO_ROOM in statuses:
                _refuse(results, values, statuses, sources, shard_map, return_exceptions)
            return self._complete(call, results, return_exceptions)

        return Many(
            wire.PUT, checked_keys(keys), finish, values=self._codec.encode_column(list(items.values())),
            timeout_s=timeout_s, ack=self._level(ack), ttls=[ttl_ms] * len(keys) if ttl_ms else None,
        )  # fmt: skip

    @operation
    def mget(
        self, keys: Sequence[Key], default: Any = None, *, return_exceptions: bool = False, read: str | None = None,
        timeout_s: float | None = None,
    ) -> Many[list[Any]]:  # fmt: skip
        """The values under `keys`, in their order, `default` where there is none; all nodes in parallel.

        `return_exceptions`: as in `mput`.

        >>> puts = kv.mput({"a": 1, "b": 2})
        >>> kv.mget(["a", "b", "no such key"])
        [1, 2, None]
        """
        codec, decode_column = self._codec, self._codec.decode_column

        def finish(call: Call, _: ShardMap) -> list[Any]:
            values = call.columns()[1]
            decoded = _each_decoded(values, default, codec) if return_exceptions else decode_column(values, default)
            return self._complete(call, decoded, return_exceptions)

        return Many(self._read_op(read), checked_keys(keys), finish, timeout_s=timeout_s)

    @operation
    def mdelete(
        self, keys: Sequence[Key], *, return_exceptions: bool = False, timeout_s: float | None = None,
        ack: str | None = None,
    ) -> Many[list[DeleteResult]]:  # fmt: skip
        """Remove many keys, all nodes in parallel; results in their order. `return_exceptions`: as in `mput`.

        >>> puts = kv.mput({"a": 1, "b": 2})
        >>> [result.existed for result in kv.mdelete(["a", "b", "no such key"])]
        [True, True, False]
        """

        def finish(call: Call, shard_map: ShardMap) -> list[DeleteResult]:
            versions, _, statuses, sources = call.columns()
            rows = zip(statuses, versions, _names(sources, shard_map), strict=True)
            results = [DeleteResult(not status, version, name) for status, version, name in rows]
            return self._complete(call, results, return_exceptions)

        return Many(wire.DELETE, checked_keys(keys), finish, timeout_s=timeout_s, ack=self._level(ack))

    @operation
    def locate(self, key: Key, *, timeout_s: float | None = None) -> Generator[Step, Any, str]:
        """Name of the key's primary by the newest map this client knows.

        Right after a takeover that may still be the former one; `entry(key).server` is who answered.

        >>> kv.locate("color") == kv.put("color", "green").server
        True
        """
        checked(key)

        def steps() -> Generator[Step, Any, str]:
            shard_map: ShardMap = yield LearnMap(timeout_s)
            return shard_map.name_of(shard_map.shards[shard_of(key, len(shard_map.shards))].primary)

        return steps()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _complete(self, call: Call, results: list[Any], return_exceptions: bool) -> list[Any]:
        """Results with the errors in their places, or the first error raised."""
        if call.failures:
            if not return_exceptions:
                raise call_error(call, self.manager)
            for place, failure in call.failures.items():
                results[place] = error_of(failure, self.manager)
        return results


_put_result: Final = tuple.__new__


def call_error(call: Call, manager: str) -> ZkvError:
    """The error of a call of several operations of which some failed."""
    failure = call.failure
    assert failure is not None
    error = error_of(failure, manager)
    if 1 < call.count != len(call.failures):
        error.add_note(f"{len(call.failures)} of {call.count} operations failed; the others were done")
    return error


def _each_decoded(values: Sequence[Any], default: Any, codec: Codec) -> list[Any]:
    """Values, with an error in the place of one that cannot be decoded."""
    try:
        return list(codec.decode_column(values, default))
    except ZkvError:
        return [_decoded(value, default, codec) for value in values]


def _decoded(value: Any, default: Any, codec: Codec) -> Any:
    try:
        return codec.decode(value, default)
    except ZkvError as error:
        return error


def _written(answer: Answer, key: Key, shard_map: ShardMap) -> PutResult | None:
    """The result of a write that may depend on a condition."""
    if answer.status:
        check_status(answer, key, shard_map)
        return None
    return wire.new_tuple(PutResult, (answer.version, shard_map.name_of(answer.source)))


def _refuse(
    results: list[Any], values: Sequence[Any], statuses: Sequence[int], sources: Sequence[int], shard_map: ShardMap,
    return_exceptions: bool,
) -> None:  # fmt: skip
    """Put an error in the place of each write that there was no room for, or raise the first."""
    refused = [place for place, status in enumerate(statuses) if status == wire.NO_ROOM]
    for place in refused:
        error = out_of_memory(values[place], sources[place], shard_map)
        if not return_exceptions:
            if len(refused) < len(results):
                # The call as a whole: some of it may have been done, as where any other of its operations fails.
                error.outcome_unknown = True
                error.add_note(f"{len(refused)} of {len(results)} operations had no room")
            raise error
        results[place] = error


def _names(sources: Sequence[int], shard_map: ShardMap) -> Any:
    """Names of who answered, by operation; failed ones have no source."""
    names = {boot: shard_map.name_of(boot) if boot else "" for boot in set(sources)}
    return repeat(names[sources[0]], len(sources)) if len(names) == 1 else map(names.__getitem__, sources)


__all__ = ["KeyOperations", "Operation", "Operations", "call_error"]
