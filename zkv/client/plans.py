"""An operation as a plan: what to ask of the cluster, and what to make of the answer.

Operations are written once, as functions that return a plan and do nothing. A *face* runs plans: `Client` in the thread
that asks, `AsyncClient` in an asyncio loop, a pipeline by keeping them until it sends them all. So there are no twins
to keep in step (the sans-I/O way, one floor up), and each face has every operation with the same arguments,
documentation and errors; type checkers see what it returns there.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from zkv.core import wire

if TYPE_CHECKING:
    from zkv.client.batches import Handle
    from zkv.core.client.calls import Answer, Call
    from zkv.core.shardmap import ShardMap

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class One(Generic[T_co]):
    """One operation on one key."""

    __slots__ = ("ack", "finish", "key", "op", "operand", "timeout_s", "ttl_ms", "value")

    def __init__(
        self, op: int, key: str | bytes, finish: Callable[[Answer, ShardMap], T_co], *, value: Any = None,
        operand: int | None = None, timeout_s: float | None = None, ack: int = wire.ACK_DEFAULT, ttl_ms: int = 0,
    ) -> None:  # fmt: skip
        self.op = op
        self.key = key
        self.finish = finish
        """Makes the result of an answer."""
        self.value = value
        """As it travels."""
        self.operand = operand
        self.timeout_s = timeout_s
        self.ack = ack
        self.ttl_ms = ttl_ms
        """0: for ever."""


class Many(Generic[T_co]):
    """Operations that go in together."""

    __slots__ = ("ack", "finish", "keys", "op", "operands", "shards", "timeout_s", "ttls", "values")

    def __init__(
        self, op: int | bytes, keys: Sequence[str | bytes], finish: Callable[[Call, ShardMap], T_co], *,
        values: Sequence[Any] | None = None, operands: Sequence[int] | None = None, timeout_s: float | None = None,
        ack: int = wire.ACK_DEFAULT, ttls: Sequence[int] | None = None, shards: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.op = op
        """One for all, or one for each: then those on one key take effect in their order."""
        self.keys = keys
        self.finish = finish
        """Makes the result of a call that is done, or raises."""
        self.values = values
        self.operands = operands
        self.timeout_s = timeout_s
        self.ack = ack
        self.ttls = ttls
        """Milliseconds to live, 0: for ever; None: no operation gives any."""
        self.shards = shards
        """Of operations on whole shards, whose keys are prefixes; None: those of the keys."""


class LearnMap:
    """A step of a procedure: learn the shard map, if there is none yet; its outcome is the map."""

    __slots__ = ("ack", "timeout_s")

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self.ack = wire.ACK_DEFAULT


class Pause:
    """A step of a procedure: let time pass."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Begin:
    """A step of a procedure: start a call and don't wait for it; its outcome is a *standing call*: it has `call`, and
    says `done`."""

    __slots__ = ("plan",)

    def __init__(self, plan: Many[Any]) -> None:
        self.plan = plan


class AnyOf:
    """A step of a procedure: wait until one of these standing calls is done or given up, or some time has passed; its
    outcome is the map. Raises Unavailable where they belong to a connection that is no more: they are lost then."""

    __slots__ = ("seconds", "standing")

    def __init__(self, standing: Sequence[Any], seconds: float) -> None:
        self.standing = standing
        self.seconds = seconds


class GiveUp:
    """A step of a procedure: nobody wants these standing calls any more; whoever waits for them does so no longer."""

    __slots__ = ("standing",)

    def __init__(self, standing: Sequence[Any]) -> None:
        self.standing = standing


Step = One[Any] | Many[Any] | LearnMap | Pause | Begin | AnyOf | GiveUp | Generator[Any, Any, Any]
"""What a procedure may do next; another procedure, too."""
Procedure = Generator[Step, Any, T]
"""Several steps, each sent the outcome of the one before: the third kind of plan."""
Plan = One[T] | Many[T] | Generator[Step, Any, T]


class Blocking:
    """A face whose operations return when they are done."""

    __slots__ = ()


class Awaiting:
    """A face whose operations are awaited."""

    __slots__ = ()


class Queueing:
    """A face whose operations wait for the others."""

    __slots__ = ()


class Operation(Generic[P, T_co]):
    """A function that returns a plan, as a method of every face. (Each class of a face replaces it by a plain method.)
    """

    def __init__(self, plan: Callable[Concatenate[Any, P], Plan[T_co]]) -> None:
        self.plan = plan
        self.__doc__ = plan.__doc__
        # What `help()` shows is what callers get, not the plan. (It looks at the plan, which the methods wrap.)
        plan.__annotations__["return"] = _result_of(plan.__annotations__.get("return", ""))

    @overload
    def __get__(self, face: None, owner: Any) -> Operation[P, T_co]: ...
    @overload
    def __get__(self, face: Blocking, owner: Any) -> Callable[P, T_co]: ...
    @overload
    def __get__(self, face: Awaiting, owner: Any) -> Callable[P, Coroutine[Any, Any, T_co]]: ...
    @overload
    def __get__(self, face: Queueing, owner: Any) -> Callable[P, Handle[T_co]]: ...
    def __get__(self, face: Any, owner: Any) -> Any:
        if face is None:
            return self
        raise TypeError("this class of operations is not a face: Client, AsyncClient and Pipeline are")


def operation(plan: Callable[Concatenate[Any, P], Plan[T]]) -> Operation[P, T]:
    """Decorator: a method that returns a plan becomes an operation of all faces."""
    return Operation(plan)


def run_with(face: type, runner: Callable[[Any, Any], Any]) -> None:
    """Give a class of faces its methods: each operation makes its plan, and `runner(face, plan)` runs it."""
    for name in dir(face):
        found = next((vars(base)[name] for base in face.__mro__ if name in vars(base)), None)
        if isinstance(found, Operation):
            setattr(face, name, _method(found, runner, f"{face.__qualname__}.{name}"))


def _method(one: Operation[..., Any], runner: Callable[[Any, Any], Any], name: str) -> Callable[..., Any]:
    plan = one.plan

    @wraps(plan)
    def method(self: Any, /, *arguments: Any, **options: Any) -> Any:
        return runner(self, plan(self, *arguments, **options))

    method.__qualname__, method.__name__ = name, name.rpartition(".")[2]
    return method


def _result_of(annotation: Any) -> Any:
    """`"Entry"` of `"One[Entry]"` or `"Generator[Step, Any, Entry]"`: what documentation shows."""
    text = str(annotation)
    for kind in ("One[", "Many[", "Generator[Step, Any, "):
        if text.startswith(kind):
            return text[len(kind) : -1]
    return text
