"""The examples in the docstrings of what `zkv.client` gives to programs, and those of docs/CLIENT.md, are true.

Each docstring has the cluster for itself, without keys. In its examples `kv` is a client of it, `cluster` the
`LocalCluster`; what zkv exports and asyncio have been imported, and `...` stands for anything. They are collected
through the classes that programs use: there the methods are, with the docstrings of the operations they run. Nothing
public lacks one. Those of the guide are one session, which starts a cluster itself.
"""

from __future__ import annotations

import asyncio
import doctest
import re
from pathlib import Path
from typing import Any, Final

import pytest

import zkv
from zkv import AsyncClient, Client, DeleteResult, Entry, Event, LocalCluster, Map, PutResult
from zkv.client.batches import AsyncPipeline, Handle, Pipeline
from zkv.client.coordination import AsyncLock, Lock
from zkv.client.watching import AsyncWatch, Watch

CLASSES: Final = (
    Client, AsyncClient, Pipeline, AsyncPipeline, Handle, Lock, AsyncLock, Watch, AsyncWatch, Map, PutResult,
    DeleteResult, Entry, Event,
)  # fmt: skip
GUIDE: Final = Path(__file__).resolve().parents[2] / "docs" / "CLIENT.md"
NAMES: Final = {name: getattr(zkv, name) for name in zkv.__all__} | {"asyncio": asyncio}


def docstrings() -> dict[str, str]:
    """Class or method -> its docstring; what classes share is found once."""
    found: dict[str, str] = {}
    for cls in CLASSES:
        found[cls.__name__] = cls.__doc__ or ""
        for name in dir(cls):
            thing = getattr(cls, name)
            home = getattr(thing.fget if isinstance(thing, property) else thing, "__module__", None) or ""
            if not name.startswith("_") and home.startswith("zkv.client.") and thing.__doc__ not in found.values():
                found[f"{cls.__name__}.{name}"] = thing.__doc__ or ""
    return found


def test_everything_public_has_an_example() -> None:
    found = docstrings()
    assert len(found) > 40
    assert not [name for name, text in found.items() if ">>> " not in text]


@pytest.mark.process
def test_the_examples_are_right() -> None:
    with LocalCluster(nodes=3, replicas=2, shards=16) as cluster, cluster.client(timeout_s=30.0) as kv:
        assert not [report for name, text in docstrings().items() if (report := failures(name, text, cluster, kv))]


def failures(name: str, text: str, cluster: LocalCluster, kv: Client) -> str:
    """What doctest says of the examples of one docstring; nothing where they are right."""
    for prefix in ("", b""):
        kv.flush(prefix)
    names: dict[str, Any] = {**NAMES, "cluster": cluster, "kv": kv}
    said: list[str] = []
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    return "".join(said)


@pytest.mark.process
def test_the_guide_is_right() -> None:
    pytest.importorskip("numpy")
    blocks = re.findall(r"^```pycon\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    examples = [example for block in blocks for example in doctest.DocTestParser().get_examples(block)]
    assert len(examples) > 60
    for example in examples:
        example.want = masked(example.want)
        example.exc_msg = masked(example.exc_msg) if example.exc_msg else None
    names: dict[str, Any] = {"__name__": "__main__"}
    said: list[str] = []
    try:
        test = doctest.DocTest(examples, names, GUIDE.name, str(GUIDE), 0, None)
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append, clear_globs=False)
    finally:
        for name in ("kv", "cluster"):
            if name in names:
                names[name].close()
    assert not said, "".join(said)


def masked(text: str) -> str:
    """What was printed once, without what another run may print otherwise: versions, servers, ports, how many requests
    it took."""
    for pattern in (r"\d{10,}", r"(?<=server)\d", r"(?<=127\.0\.0\.1:)\d{2,}", r"^\d+$"):
        text = re.sub(pattern, "...", text, flags=re.MULTILINE)
    return text
