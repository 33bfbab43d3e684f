"""Writes docs/REFERENCE.md: the public interface, from its signatures and docstrings.

`make reference` runs it, and a test says when that is due. So the page says what `help()` says; what is wrong in it is
to be mended in a docstring.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from zkv import AsyncClient, Client, DeleteResult, Entry, Event, LocalCluster, Map, PutResult, errors
from zkv.client import coordination
from zkv.client.batches import Handle, Pipeline
from zkv.client.coordination import Lock
from zkv.client.operations import KeyOperations, Operations
from zkv.client.options import Configured
from zkv.client.scanning import ScanOperations
from zkv.client.watching import Watch

WIDTH: Final = 100
"""Of signatures."""

HEAD: Final = """\
# Reference

<!-- Made by `python docs/reference.py > docs/REFERENCE.md` (`make reference`); a test keeps it true. -->

Everything that `from zkv import …` gives, from the docstrings; [CLIENT.md](CLIENT.md) is the guide. A `Key` is a `str`
or `bytes`. Names that end in `_s` are seconds. In the examples, which the tests run, `kv` is a `Client` of a cluster
without keys, `cluster` its `LocalCluster`, and `...` stands for anything.
"""

ASYNC: Final = """\
`AsyncClient(…)` takes what [`Client`](#client) takes, and has the same methods with the same arguments, results and
errors: each returns a coroutine, to be awaited. `pipeline()`, `lock()`, `scan()`, `watch()` and `stats()` return at
once; a pipeline is used with `async with`, or `await p.execute()`, a lock with `async with`, or `await lock.acquire()`
and so on, a scan with `async for`, a watch with `async with` and `async for`, or `await watch.poll()`. There is no Map
for it.
"""

PIPELINE: Final = """\
It has the methods on one key, `get`, `entry`, `exists`, `put`, `cas`, `getset`, `delete`, `incr`, `append`, `touch`,
`persist` and `ttl`, with the arguments that they have in [`Client`](#client), but for `read`, `timeout_s` and `ack`;
each returns a [`Handle`](#handle) of its result.
"""

LOCAL_CLUSTER: Final = """\
`manager`: endpoint of the manager, which also a restarted one has. `LaunchError` is a `ZkvError`, `AdminRefused` a
`UsageError`. As pytest fixtures: [TESTING.md](TESTING.md).
"""

RESULTS: Final = (PutResult, DeleteResult, Entry, Event)
Section = list[str]


def to_markdown() -> str:
    """The text of docs/REFERENCE.md."""
    of_one = [name for name in vars(KeyOperations) if not name.startswith("_")]
    of_many = [name for name in (*vars(Operations), *vars(ScanOperations)) if not name.startswith("_")]
    others = [name for name in _public(Client) if name not in {*of_one, *of_many, "locate"}]
    client = [
        *_class(Client, _prose(_about_face(Client)), _bullets(Configured)),
        *_methods(Client, of_one, "One key"),
        *_methods(Client, [name for name in of_many if name != "locate"], "Many keys"),
        *_methods(Client, [*others, "locate"], "More"),
    ]
    sections = {
        "Client": client,
        "AsyncClient": ["## AsyncClient", ASYNC, *_prose(_about_face(AsyncClient))],
        "Pipeline": [*_class(Pipeline, _doc(Pipeline), [PIPELINE], signature=False), *_methods(Pipeline, ["execute"])],
        "Handle": [*_class(Handle, _doc(Handle), signature=False), *_methods(Handle, _public(Handle))],
        "Lock": [*_class(Lock, _doc(Lock), _lock_attributes(), signature=False), *_methods(Lock, _public(Lock))],
        "Watch": [
            *_class(Watch, _doc(Watch), ["Made by [`Client.watch`](#client-watch)."], signature=False),
            *_methods(Watch, _public(Watch)),
        ],
        "Map": [*_class(Map, _doc(Map)), *_methods(Map, [name for name in _public(Map) if name in vars(Map)])],
        "Results": ["## Results", *(line for kind in RESULTS for line in _result(kind))],
        "Errors": list(_errors()),
        "LocalCluster": [
            *_class(LocalCluster, _doc(LocalCluster), _doc(LocalCluster.__init__)[1:], [LOCAL_CLUSTER]),
            *_methods(LocalCluster, _public(LocalCluster)),
        ],
    }  # fmt: skip
    contents = "**Contents**: " + " · ".join(f"[{name}](#{name.lower()})" for name in sections)
    parts = [HEAD, contents, *(part for section in sections.values() for part in section)]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


# --- classes -------------------------------------------------------------------------------------------------------


def _class(cls: type, *about: Section, signature: bool = True) -> Section:
    parts = [f"## {cls.__name__}"]
    if signature:
        parts.append(_fenced(_signature(cls.__name__, inspect.signature(cls)).removesuffix(" -> None")))
    return parts + [part for section in about for part in section]


def _about_face(cls: type) -> str:
    """Of the docstring of a client what comes before the options, which both share."""
    return (cls.__doc__ or "").partition("Args:")[0]


def _bullets(cls: type) -> Section:
    """`Args:` and `Raises:` as lists."""
    parts: Section = []
    for paragraph in re.split(r"\n\n(?=\S)", inspect.cleandoc(cls.__doc__ or ""))[1:]:
        lines: list[str] = []
        for line in paragraph.splitlines():
            item = re.match(r" {4}([\w, ]+): (.*)", line)
            if item:
                lines.append(f"- {', '.join(f'`{name}`' for name in item[1].split(', '))}: {item[2]}")
            elif line.startswith(" "):
                lines.append(f"  {line.strip()}")
            elif line == "Args:":
                pass
            elif line.endswith(":"):
                lines += [line, ""]
            else:
                lines += ["", line] if lines and lines[-1].startswith(("-", "  ")) else [line]
        parts.append("\n".join(lines).strip("\n"))
    return parts


def _lock_attributes() -> Section:
    limits = inspect.cleandoc(coordination.__doc__ or "").split("\n\n")[1:]
    return ["Made by [`Client.lock`](#client-lock). `token`: its fencing token while it is held, else None.", *limits]


def _result(cls: type) -> Section:
    """A NamedTuple with what is said about its fields."""
    fields = []
    for node, following in _neighbours(_parsed(cls).body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            about = following.value.value if _is_text(following) else ""
            fields.append(f"- `{node.target.id}: {ast.unparse(node.annotation)}`" + (f": {about}" if about else ""))
    return [f"### {cls.__name__}", *_doc(cls), "\n".join(fields)]


def _errors() -> Iterator[str]:
    yield "## Errors"
    yield from _doc(errors)
    classes = [getattr(errors, name) for name in errors.__all__]
    for cls in sorted(classes, key=lambda cls: inspect.getsourcelines(cls)[1]):
        yield f"### {cls.__name__}"
        bases = [base.__name__ for base in cls.__bases__]
        yield f"A kind of {' and '.join(f'`{base}`' for base in bases)}."
        yield from _doc(cls)


# --- methods -------------------------------------------------------------------------------------------------------


def _public(cls: type) -> list[str]:
    """Methods and properties in the order in which they are written."""
    found = []
    for name in dir(cls):
        thing = getattr(cls, name)
        function: Any = thing.fget if isinstance(thing, property) else inspect.unwrap(thing)
        home = getattr(function, "__module__", None) or ""
        if not name.startswith("_") and home.startswith("zkv.") and hasattr(function, "__code__"):
            found.append((home, function.__code__.co_firstlineno, name))
    return [name for _, _, name in sorted(found)]


def _methods(cls: type, names: list[str], title: str = "") -> Section:
    parts = [f"**{title}**: " + " · ".join(f"[`{name}`](#{_id(cls, name)})" for name in names)] if title else []
    for name in names:
        thing = getattr(cls, name)
        shown = f"{cls.__name__}.{name}"
        if isinstance(thing, property):
            signatures = [f"{name}: {thing.fget.__annotations__['return']}"]
        else:
            signatures = _overloads(cls, name) or [_signature(name, inspect.signature(thing))]
        parts += [f'<a id="{_id(cls, name)}"></a>', f"### {shown}", _fenced("\n".join(signatures)), *_doc(thing)]
    return parts


def _id(cls: type, name: str) -> str:
    return f"{cls.__name__}-{name}".lower()


def _signature(name: str, signature: inspect.Signature) -> str:
    """As it would be written, without `self`."""
    parts = []
    star = False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            parts.append("*")
        text = parameter.name
        if parameter.kind is parameter.VAR_POSITIONAL:
            text = f"*{text}"
        elif parameter.kind is parameter.VAR_KEYWORD:
            text = f"**{text}"
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        if parameter.annotation is not parameter.empty:
            text += f": {parameter.annotation}"
        if parameter.default is not parameter.empty:
            # A default that is no literal is a marker for "not given".
            text += f" = {parameter.default!r}" if type(parameter.default) is not object else " = …"
        parts.append(text)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            parts.append("/")
    returns = "" if signature.return_annotation is signature.empty else f" -> {signature.return_annotation}"
    return _wrapped(name, parts, returns)


def _overloads(cls: type, name: str) -> list[str]:
    """What only type checkers see: signatures whose results depend on the arguments."""
    found = []
    for node in ast.walk(_parsed(cls)):
        if not isinstance(node, ast.FunctionDef) or node.name != name:
            continue
        if any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list):
            node.args.args = [each for each in node.args.args if each.arg != "self"]
            parts = re.split(r", (?![^\[]*\])", re.sub(r"(?<=\S)=(?=\S)", " = ", ast.unparse(node.args)))
            assert node.returns is not None
            found.append(_wrapped(name, parts, f" -> {ast.unparse(node.returns)}"))
    return found


def _wrapped(name: str, parts: list[str], returns: str) -> str:
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= WIDTH:
        return line
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) + 6 > WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{part},"
    inner = "\n".join(f"    {each}" for each in lines).removesuffix("*,").removesuffix("/,").removesuffix(",")
    return f"{name}(\n{inner},\n){returns}"


# --- docstrings ----------------------------------------------------------------------------------------------------


def _doc(thing: Any) -> Section:
    return _prose(thing.__doc__ or "")


def _prose(text: str) -> Section:
    """Paragraphs as they are, examples and what is indented in fences."""
    parts: Section = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        before, prompt, example = paragraph.partition(">>> ")
        if prompt:
            parts += [before.strip(), f"```pycon\n{prompt}{example}\n```"]
        elif paragraph.startswith((" ", "with ")):
            parts.append(_fenced(textwrap.dedent(paragraph), "text" if "─" in paragraph else "python"))
        else:
            parts.append(paragraph)
    return [part for part in parts if part]


def _fenced(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def _parsed(cls: type) -> ast.ClassDef:
    node = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(node, ast.ClassDef)
    return node


def _neighbours(nodes: list[ast.stmt]) -> Iterator[tuple[ast.stmt, Any]]:
    return zip(nodes, [*nodes[1:], None], strict=True)


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


if __name__ == "__main__":
    print(to_markdown(), end="")
