"""Between plans and the core: what a plan asks for, what it makes of a call, and failures as exceptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zkv.client.plans import LearnMap, Many, One
from zkv.core import wire
from zkv.core.client.calls import NOT_FORMED, REFUSED, UNAVAILABLE, UNREACHABLE, Answer, Call, Failure
from zkv.core.shardmap import ShardMap
from zkv.errors import (
    ManagerUnreachable,
    NotFormed,
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


def request_of(plan: Any) -> tuple[int | bytes, Sequence[Any], Sequence[Any] | None, Sequence[int] | None]:
    """(operation, keys, values, operands) of a plan."""
    if type(plan) is One:
        value, operand = plan.value, plan.operand
        return plan.op, (plan.key,), None if value is None else (value,), None if operand is None else (operand,)
    if type(plan) is Many:
        return plan.op, plan.keys, plan.values, plan.operands
    return wire.GET, (), None, None  # a call without operations needs nothing but the map


def outcome_of(plan: Any, call: Call, shard_map: ShardMap, manager: str) -> Any:
    """What a plan makes of its call, or raise its error."""
    if type(plan) is Many:
        return plan.finish(call, shard_map.name_of)
    if call.failures:
        raise error_of(call.failures[0], manager)
    return shard_map if type(plan) is LearnMap else plan.finish(call.answer(), shard_map.name_of)


def check_status(answer: Answer, key: str | bytes) -> None:
    """Raise WrongType or TooLarge where that is the answer."""
    if answer.status == wire.WRONG_TYPE:
        raise WrongType(f"the value under {key!r} is of another type than this operation works on")
    if answer.status == wire.TOO_LARGE:
        raise TooLarge(f"the value under {key!r} would become too large: numbers fit 64 bits, values 16 MiB")
