"""What happens to keys, as programs see it and as it travels: the questions that a watch asks, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from zkv.client.operations import call_error
from zkv.client.plans import Many
from zkv.client.results import Key
from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.core.shardmap import ShardMap
from zkv.errors import ProtocolError

KINDS: Final = {
    wire.PUT_EVENT: "put", wire.DELETE_EVENT: "delete", wire.EXPIRE_EVENT: "expire", wire.EVICT_EVENT: "evict",
}  # fmt: skip


class Event(NamedTuple):
    """Something that happened to a key.

    >>> with kv.watch("color") as events:
    ...     put = kv.put("color", "green")
    ...     gone = kv.delete("color")
    ...     next(events), next(events)
    (Event(kind='put', key='color', value='green', version=...), Event(kind='delete', key='color', value=None, ...))
    """

    kind: str
    """"put", "delete", "expire" or "evict"."""
    key: Key
    value: Any
    """What was put; None where the key is gone."""
    version: int
    """Of the key from then on; of one key each is greater than the one before."""


def watch_plan(
    prefixes: Sequence[Key], tokens: Sequence[int], shards: Sequence[int], finish: Any, timeout_s: float | None
) -> Many[Any]:
    """One question: what came under a prefix of a shard after a token, for each."""
    return Many(wire.WATCH, prefixes, finish, operands=tokens, shards=shards, timeout_s=timeout_s)


def tokens_plan(
    manager: str, prefixes: Sequence[Key], shards: Sequence[int], timeout_s: float | None = None
) -> Many[list[int]]:
    """The tokens of now: what comes after is to be watched."""

    def finish(call: Call, _: ShardMap) -> list[int]:
        if call.failures:
            raise call_error(call, manager)
        return list(call.columns()[0])

    return watch_plan(prefixes, [wire.NOW] * len(shards), shards, finish, timeout_s)


def events_of(value: Any) -> Sequence[tuple[int, int, Key, Any]]:
    """(version, kind, key, value as it travels) of each event of an answer. Raises ProtocolError."""
    try:
        packed, kinds, keys, values, _ = value
        versions = wire.unpack_u64(packed)
        if not set(kinds) <= KINDS.keys() or any(late <= early for early, late in pairwise(versions)):
            raise ProtocolError("a node sent events of an unknown kind, or out of order")
        return list(zip(versions, kinds, keys, values, strict=True))
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"a node sent events that cannot be read: {error}") from error
