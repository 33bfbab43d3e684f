"""The faces of the client have the same methods: nobody keeps twins in step by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from zkv import AsyncClient, Client
from zkv.client.batches import AsyncPipeline, Pipeline
from zkv.client.coordination import AsyncLock, Lock
from zkv.client.operations import KeyOperations
from zkv.client.plans import Operation
from zkv.client.watching import AsyncWatch, Watch

PAIRS = [(Client, AsyncClient), (Pipeline, AsyncPipeline), (Lock, AsyncLock), (Watch, AsyncWatch)]
CONTEXT = {"__enter__": "__aenter__", "__exit__": "__aexit__"}


def methods(face: type) -> dict[str, Callable[..., Any]]:
    """The public methods of a class, its constructor, and what makes it a context manager."""
    names = [name for name in dir(face) if not name.startswith("_") or name in ("__init__", *CONTEXT)]
    return {name: getattr(face, name) for name in names if callable(getattr(face, name))}


def parameters(method: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(method).parameters.values())


@pytest.mark.parametrize(("blocking", "awaiting"), PAIRS)
def test_the_same_methods(blocking: type, awaiting: type) -> None:
    ours, theirs = methods(blocking), methods(awaiting)
    assert {name for name in ours if name not in CONTEXT} == set(theirs)
    for name, method in theirs.items():
        assert parameters(ours[name]) == parameters(method), name
    for name, async_name in CONTEXT.items():
        assert parameters(ours[name]) == parameters(getattr(awaiting, async_name)), name


@pytest.mark.parametrize(("blocking", "awaiting"), PAIRS)
def test_the_same_documentation(blocking: type, awaiting: type) -> None:
    for name, method in methods(awaiting).items():
        if name == "__init__":
            continue
        ours, theirs = (inspect.getdoc(of) or "" for of in (getattr(blocking, name), method))
        assert ours, name
        if isinstance(_operations(blocking).get(name), Operation):
            assert ours == theirs, name
        else:  # what makes a face: said in the words of each
            assert _gist(ours) == _gist(theirs), name


def _operations(face: type) -> dict[str, object]:
    """What the classes that a face is made of define, before it got methods for it."""
    found: dict[str, object] = {}
    for base in reversed(face.__mro__[1:]):
        found |= vars(base)
    return found


def _gist(text: str) -> str:
    """The first sentence, whether it is for `with` or for `async with`."""
    return text.partition(".")[0].replace("an `async with`", "a `with`")


@pytest.mark.parametrize(("blocking", "awaiting"), PAIRS)
def test_the_same_documentation_of_classes(blocking: type, awaiting: type) -> None:
    for face in (blocking, awaiting):
        assert inspect.getdoc(face)
    for part in ("Args:", "Raises (all calls):"):
        assert (part in (blocking.__doc__ or "")) == (part in (awaiting.__doc__ or ""))
    arguments = [(face.__doc__ or "").partition("Args:")[2] for face in (blocking, awaiting)]
    assert arguments[0] == arguments[1]


@pytest.mark.parametrize("face", [face for pair in PAIRS for face in pair])
def test_every_operation_has_become_a_method(face: type) -> None:
    for name in dir(face):
        assert not isinstance(inspect.getattr_static(face, name), Operation), name


@pytest.mark.parametrize("pipeline", [Pipeline, AsyncPipeline])
def test_a_pipeline_queues_what_a_client_does_with_one_key(pipeline: type) -> None:
    names = {name for name, found in vars(KeyOperations).items() if isinstance(found, Operation)}
    assert names == {
        "get", "entry", "exists", "put", "cas", "getset", "delete", "incr", "append", "touch", "persist", "ttl",
    }  # fmt: skip
    for name in names:
        assert parameters(getattr(pipeline, name)) == parameters(getattr(Client, name)), name
        assert inspect.getdoc(getattr(pipeline, name)) == inspect.getdoc(getattr(Client, name)), name


@pytest.mark.parametrize("face", [face for pair in PAIRS[:2] for face in pair])
def test_what_introspection_says_of_methods(face: type) -> None:
    """As `help()` and editors show them: by the name they are called by, with the result that comes back."""
    for name, method in methods(face).items():
        if name.startswith("__"):
            continue
        assert method.__name__ == name
        returns = str(inspect.signature(method).return_annotation)
        assert not returns.startswith(("One[", "Many[", "Generator[Step")), f"{name} -> {returns}"
