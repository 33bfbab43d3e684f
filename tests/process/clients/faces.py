"""The faces of the client as one: a test is a program on a blocking client, and is run with every face.

An asynchronous client gets the blocking look here: a loop of its own, in which each awaitable that comes back is run
to its end. What has to happen at the same time is written as *scripts*: generators that yield what to ask of the client
and are sent what came of it, run in threads by the one face and as tasks by the others.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

from zkv import AsyncClient, Client, ZkvError
from zkv.client.batches import AsyncPipeline
from zkv.client.coordination import AsyncLock

FACES: Final = ("blocking", "asyncio", "uvloop")

T = TypeVar("T")
Ask = Callable[[Any], Any]
"""One thing asked of a client."""
Script = Generator[Ask, Any, T]


def ask(method: str, *arguments: Any, **options: Any) -> Ask:
    """To ask for one call of a method: `ask("get", "key1")`."""
    return lambda kv: getattr(kv, method)(*arguments, **options)


class Face:
    """One way of using zkv: "blocking", "asyncio" or "uvloop"."""

    def __init__(self, name: str) -> None:
        self.name = name

    @contextmanager
    def open(self, manager: str, **options: Any) -> Iterator[Client]:
        """A client, or what looks like one; closed at the end."""
        if self.name == "blocking":
            with Client(manager, **options) as kv:
                yield kv
        else:
            factory = importlib.import_module(self.name).new_event_loop
            with (
                asyncio.Runner(loop_factory=factory) as runner,
                cast(Client, Awaited(AsyncClient(manager, **options), runner)) as kv,
            ):
                yield kv

    def run(self, kv: Client, scripts: Sequence[Script[Any]]) -> list[Any]:
        """Run scripts on one client at the same time; what they return, in order. Raises the first error."""
        if isinstance(kv, Awaited):
            return kv.runner.run(_together(kv.inner, scripts))
        with ThreadPoolExecutor(len(scripts)) as pool:
            return list(pool.map(lambda script: _walk(kv, script), scripts))


class Awaited:
    """An asynchronous client, or a pipeline, lock, watch or scan of one, with the blocking look."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self.inner = inner
        self.runner = runner

    def _settled(self, result: Any) -> Any:
        if inspect.isawaitable(result):
            result = self.runner.run(cast("Coroutine[Any, Any, Any]", result))
        if isinstance(result, AsyncPipeline | AsyncLock | AsyncIterator):  # watches and scans are iterators
            return Awaited(result, self.runner)
        return result

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return found
        return lambda *arguments, **options: self._settled(found(*arguments, **options))

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        async def step() -> Any:
            return await anext(self.inner)

        try:
            return self.runner.run(step())
        except StopAsyncIteration:
            raise StopIteration from None

    def __repr__(self) -> str:
        return repr(self.inner)

    def __enter__(self) -> Awaited:
        self._settled(self.inner.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._settled(self.inner.__aexit__(*error))


def _walk(kv: Client, script: Script[T]) -> T:
    try:
        what = next(script)
        while True:
            try:
                outcome = what(kv)
            except ZkvError as error:
                what = script.throw(error)
            else:
                what = script.send(outcome)
    except StopIteration as end:
        return cast(T, end.value)


async def _walk_async(kv: AsyncClient, script: Script[T]) -> T:
    try:
        what = next(script)
        while True:
            try:
                outcome = what(kv)
                if inspect.isawaitable(outcome):
                    outcome = await outcome
            except ZkvError as error:
                what = script.throw(error)
            else:
                what = script.send(outcome)
    except StopIteration as end:
        return cast(T, end.value)


async def _together(kv: AsyncClient, scripts: Sequence[Script[Any]]) -> list[Any]:
    return await asyncio.gather(*(_walk_async(kv, script) for script in scripts))


__all__ = ["FACES", "Ask", "Awaited", "Face", "Script", "ask"]
