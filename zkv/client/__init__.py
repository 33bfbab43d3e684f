"""The client, as programs see it: one set of operations, and two faces that run them.

    results         what operations return
    plans           an operation as a plan: what to ask, and what to make of the answer
    arguments       what operations take, checked
    operations      every operation on keys, once, for all faces
    batches         pipelines: operations queued, then sent together
    coordination    waiting for keys, and locks
    scanning        the keys with a prefix, page by page
    watching        what happens to them
    events          the questions of a watch, and their answers
    failures        what the core says of a failure, as an exception
    blocking        `Client`: runs plans in the thread that asks
    awaiting        `AsyncClient`: runs plans in an asyncio loop
    mapping         `Map`: a dict on a prefix of the keys

The protocol is in `zkv.core.client`, the sockets are in `zkv.net`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zkv.client.awaiting import AsyncClient
    from zkv.client.blocking import Client
    from zkv.client.events import Event
    from zkv.client.mapping import Map
    from zkv.client.results import DeleteResult, Entry, PutResult

__all__ = ["AsyncClient", "Client", "DeleteResult", "Entry", "Event", "Map", "PutResult"]

_HOMES = {
    "AsyncClient": "zkv.client.awaiting",
    "Client": "zkv.client.blocking",
    "Event": "zkv.client.events",
    "Map": "zkv.client.mapping",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # what a program does not use it does not pay for: asyncio alone takes as long as all of zkv

    return getattr(importlib.import_module(_HOMES.get(name, "zkv.client.results")), name)
