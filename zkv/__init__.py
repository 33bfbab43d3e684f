"""zkv: a replicated, sharded, in-memory key-value cluster that is one `pip install` away.

    from zkv import Client, LocalCluster

    with LocalCluster(nodes=5, replicas=3) as cluster, cluster.client() as kv:
        kv.put("key1", "value1")        # -> PutResult(version, server)
        kv.get("key1")                  # -> "value1"

The names below are the public interface. They are loaded when first used, so that a command which needs one
of them does not pay for the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zkv.client import AsyncClient, Client, DeleteResult, Entry, Event, Map, PutResult
    from zkv.errors import (
        ClosedError,
        LockLost,
        ManagerUnreachable,
        NotFormed,
        OutOfMemory,
        ProtocolError,
        SettingError,
        ShardUnavailable,
        TimedOut,
        TooLarge,
        Unavailable,
        UsageError,
        WatchLost,
        WrongType,
        ZkvError,
    )
    from zkv.local import LocalCluster

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "ClosedError",
    "DeleteResult",
    "Entry",
    "Event",
    "LocalCluster",
    "LockLost",
    "ManagerUnreachable",
    "Map",
    "NotFormed",
    "OutOfMemory",
    "ProtocolError",
    "PutResult",
    "SettingError",
    "ShardUnavailable",
    "TimedOut",
    "TooLarge",
    "Unavailable",
    "UsageError",
    "WatchLost",
    "WrongType",
    "ZkvError",
    "__version__",
]

_HOMES = {
    **dict.fromkeys(("AsyncClient", "Client", "DeleteResult", "Entry", "Event", "Map", "PutResult"), "zkv.client"),
    "LocalCluster": "zkv.local",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "zkv.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
