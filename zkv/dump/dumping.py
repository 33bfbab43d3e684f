"""From a cluster into a dump, over a client: fetches the pages that the `pictures` ask for."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zkv import __version__
from zkv.client.operations import call_error
from zkv.client.plans import LearnMap, Many
from zkv.core import wire
from zkv.dump.format import Head, Sink
from zkv.dump.pictures import ATTEMPTS, Dumped, Pictures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zkv.client import Client
    from zkv.core.client.calls import Call
    from zkv.core.shardmap import ShardMap

__all__ = ["ATTEMPTS", "Dumped", "dump"]


def dump(
    kv: Client, sink: Sink, *, cluster_ms: int = 0, timeout_s: float | None = None,
    show: Callable[[Dumped], object] = lambda _: None,
) -> Dumped:  # fmt: skip
    """Write all of a cluster into `sink`, which is only appended to, and not closed.

    `cluster_ms`: the cluster's time, for information. `timeout_s`: for each of the requests that it takes. `show`:
    called with each page. Raises ZkvError and what `sink` raises; what was written until then is of no use.
    """

    def finish(call: Call, _: ShardMap) -> tuple[Sequence[int], Sequence[Any]]:
        if call.failures:
            raise call_error(call, kv.manager)
        versions, pages, _statuses, _sources = call.columns()
        call.batches.clear()  # calls and batches name each other: pages would wait for the garbage collector
        return versions, pages

    shard_map: ShardMap = kv._run(LearnMap(timeout_s))
    head = Head(shard_map.cluster, len(shard_map.shards), cluster_ms, f"zkv {__version__}")
    pictures = Pictures(sink, head, random.getrandbits, attempts=ATTEMPTS)
    show(pictures.state)
    while not pictures.over:
        asked = pictures.ask()
        plan = Many(
            wire.SCAN, asked.prefixes, finish, values=asked.values, operands=asked.operands, shards=asked.shards,
            timeout_s=timeout_s,
        )  # fmt: skip
        pictures.take(*kv._run(plan))
        show(pictures.state)
    return pictures.state
