"""Between plans and the core: the call that a plan asks for, what it makes of a call, and failures as exceptions."""

from __future__ import annotations

from typing import Any

from zkv.client.plans import LearnMap, Many, One
from zkv.core import wire
from zkv.core.client.calls import NOT_FORMED, REFUSED, UNAVAILABLE, UNREACHABLE, Answer, Call, Failure
from zkv.core.shardmap import ShardMap
from zkv.errors import (
    ManagerUnreachable,
    NotFormed,
    OutOfMemory,
    ShardUnavailable,
    TimedOut,
    TooLarge,
    UsageError,
    WrongType,
    ZkvError,
)


def error_of(failure: Failure, manager: str, unknown: bool | None = None) -> ZkvError:
    """The exception for an operation that has no answer. `unknown`: of the whole call, where it is more than one."""
    doubt = failure.unknown if unknown is None else unknown
    where = {"endpoint": failure.endpoint or None, "shard": failure.shard, "tries": failure.tries}
    if failure.kind == UNREACHABLE:
        text = f"no manager answers at {manager}: start a cluster with `zkv-launch start`, or name another manager"
        return ManagerUnreachable(text, endpoint=manager)
    if failure.kind == NOT_FORMED:
        return NotFormed(f"{failure.text}: the manager at {manager} still waits for nodes to join", endpoint=manager)
    kind: type[ZkvError] = TimedOut
    if failure.kind == UNAVAILABLE:
        kind = ShardUnavailable
    elif failure.kind == REFUSED:
        kind = UsageError
    return kind(failure.text, outcome_unknown=doubt, **where)  # type: ignore[arg-type]


def call_of(plan: Any, now_ms: float, timeout_ms: float) -> Call:
    """What a plan asks of the cluster, from now on."""
    deadline_ms = now_ms + timeout_ms
    if type(plan) is One:
        value, operand, ttl_ms = plan.value, plan.operand, plan.ttl_ms
        return Call(
            plan.op, (plan.key,), None if value is None else (value,), now_ms, deadline_ms, plan.ack,
            None if operand is None else (operand,), (ttl_ms,) if ttl_ms else None,
        )  # fmt: skip
    if type(plan) is Many:
        return Call(
            plan.op, plan.keys, plan.values, now_ms, deadline_ms, plan.ack, plan.operands, plan.ttls, plan.shards
        )
    return Call(wire.GET, (), None, now_ms, deadline_ms, plan.ack)  # without operations it needs but the map


def outcome_of(plan: Any, call: Call, shard_map: ShardMap, manager: str) -> Any:
    """What a plan makes of its call, or raise its error."""
    if type(plan) is Many:
        try:
            return plan.finish(call, shard_map)
        finally:
            call.batches.clear()  # they refer to it: a large call must not wait for the garbage collector
    if call.failures:
        raise error_of(call.failures[0], manager)
    return shard_map if type(plan) is LearnMap else plan.finish(call.answer(), shard_map)


def check_status(answer: Answer, key: str | bytes, shard_map: ShardMap) -> None:
    """Raise WrongType, TooLarge or OutOfMemory where that is the answer."""
    status = answer.status
    if not status:
        return
    if status == wire.WRONG_TYPE:
        raise WrongType(f"the value under {key!r} is of another type than this operation works on")
    if status == wire.TOO_LARGE:
        raise TooLarge(f"the value under {key!r} would become too large: numbers fit 64 bits, values 16 MiB")
    if status == wire.NO_ROOM:
        raise out_of_memory(answer.value, answer.source, shard_map)


def out_of_memory(figures: Any, source: int, shard_map: ShardMap) -> OutOfMemory:
    """The exception for a write that was refused for want of memory, with the figures of the node that refused it."""
    used, limit = figures if isinstance(figures, list) and len(figures) == 2 else (0, 0)
    return OutOfMemory(
        f"{shard_map.name_of(source)} has no room for this write: its entries take {used:,} bytes, {limit:,} is its "
        "limit; delete something, add a node, or raise --memory-limit (see `zkv-admin status`)",
        used_bytes=used, limit_bytes=limit, endpoint=shard_map.endpoint_of(source),
    )  # fmt: skip
