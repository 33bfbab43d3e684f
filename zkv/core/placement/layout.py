"""The operator's placement: a JSON text that says which nodes hold which shard, read and checked (pure).

    {"nodes": ["server1", "server2"], "shards": {"0": ["server1", "server2"], "1-6": ["server2", "server1"], "7": []}}

The first node of a shard is its primary. Every shard is given exactly once, by its number or in a range. A shard
without nodes has no holder: nobody serves it, and whoever held it last keeps its data until it is put back.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

SHARD_LIMIT = 65536
NODE_LIMIT = 4096
REPLICA_LIMIT = 16
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)


class LayoutError(ValueError):
    """A placement that makes no sense; the text says where."""


class Layout(NamedTuple):
    """A placement that was checked."""

    nodes: tuple[str, ...]
    shards: tuple[tuple[str, ...], ...]
    """By shard, the names of its holders, the primary first."""

    @property
    def empty(self) -> list[int]:
        """Shards without a holder."""
        return [number for number, names in enumerate(self.shards) if not names]


def parse(text: str) -> Layout:
    """The placement that `text` describes. Raises LayoutError with the reason in one line."""
    try:
        body = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise LayoutError(f"not JSON: {error.msg}, in line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise LayoutError("not a placement: nested too deeply") from error
    if not isinstance(body, dict) or body.keys() != {"nodes", "shards"}:
        raise LayoutError('it must be an object with "nodes" and "shards", and nothing else')
    nodes = _names("nodes", body["nodes"])
    if not 1 <= len(nodes) <= NODE_LIMIT:
        raise LayoutError(f'"nodes" has {len(nodes)} names, it must have 1 to {NODE_LIMIT}')
    if not isinstance(body["shards"], dict):
        raise LayoutError('"shards" must be an object: shard number, or range of them, to a list of nodes')
    return Layout(nodes, _shards(body["shards"], frozenset(nodes)))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different: JSON would silently take the last one."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key in made if sum(key == other for other, _ in pairs) > 1)
        raise LayoutError(f'"{twice}" is given twice')
    return made


def _names(where: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LayoutError(f"{where} must be a list of node names")
    seen = set()
    for name in names:
        if name in seen:
            raise LayoutError(f"{where} names {name} twice")
        seen.add(name)
    return tuple(names)


def _shards(body: dict[str, Any], nodes: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    found: dict[int, tuple[str, ...]] = {}
    for key, value in body.items():
        match = _RANGE.fullmatch(key)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if first > last:
            raise LayoutError(f'"{key}" is neither a shard number nor a range like 4-7')
        if last >= SHARD_LIMIT:
            raise LayoutError(f'"{key}": there may be {SHARD_LIMIT} shards at most, numbered from 0')
        names = _names(f'shard "{key}"', value)
        if len(names) > REPLICA_LIMIT:
            raise LayoutError(f'shard "{key}" has {len(names)} nodes, it may have {REPLICA_LIMIT} at most')
        unknown = [name for name in names if name not in nodes]
        if unknown:
            raise LayoutError(f'shard "{key}" names {unknown[0]}, which is not in "nodes"')
        for number in range(first, last + 1):
            if number in found:
                raise LayoutError(f"shard {number} is given twice")
            found[number] = names
    if not found:
        raise LayoutError('"shards" is empty')
    missing = next((number for number in range(len(found)) if number not in found), None)
    if missing is not None:
        raise LayoutError(f"shard {missing} is missing: shards are numbered from 0 to {max(found)}")
    if not any(found.values()):
        raise LayoutError("no shard has a holder")
    return tuple(found[number] for number in range(len(found)))
