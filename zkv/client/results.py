"""What operations return."""

from __future__ import annotations

from typing import Any, NamedTuple

Key = str | bytes


class PutResult(NamedTuple):
    """An acknowledged write.

    >>> version, server = kv.put("color", "green")
    >>> kv.put("color", "blue").version > version, server in cluster.names
    (True, True)
    """

    version: int
    """Grows with every change of the key."""
    server: str
    """Name of the node that acknowledged it, the key's primary."""


class DeleteResult(NamedTuple):
    """An acknowledged delete.

    >>> put = kv.put("color", "green")
    >>> kv.delete("color")
    DeleteResult(existed=True, version=..., server='server...')
    """

    existed: bool
    version: int
    """Of the tombstone; 0 where the key never existed, or its tombstone is long forgotten."""
    server: str


class Entry(NamedTuple):
    """A stored value with what is known about it.

    >>> put = kv.put("color", "green")
    >>> entry = kv.entry("color")
    >>> entry.value, kv.cas(entry.key, "blue", version=entry.version) is not None
    ('green', True)
    """

    key: Key
    value: Any
    version: int
    server: str
    """Name of the node that answered."""
