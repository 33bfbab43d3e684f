"""What operations return."""

from __future__ import annotations

from typing import Any, NamedTuple

Key = str | bytes


class PutResult(NamedTuple):
    """An acknowledged write."""

    version: int
    """Grows with every change of the key."""
    server: str
    """Name of the node that acknowledged it, the key's primary."""


class DeleteResult(NamedTuple):
    """An acknowledged delete."""

    existed: bool
    version: int
    """Of the tombstone; 0 where the key never existed, or its tombstone is long forgotten."""
    server: str


class Entry(NamedTuple):
    """A stored value with what is known about it."""

    key: Key
    value: Any
    version: int
    server: str
    """Name of the node that answered."""
