"""What a single operation costs, beside the least that it can cost: the rounds of `python experiments/throughput.py`.

- one `get` at a time, beside a bare round trip: a process that only answers, with the bytes of a real zkv get and its
  reply; and beside redis-py;
- one `put` at a time, beside the floor's, which sends it on to the backups and waits for them;
- 64 clients with one operation under way each, puts and gets, so that every operation is a message; beside the floor's.
  They live in a few processes, on asyncio, each with sockets and a ZeroMQ context of its own, like the clients of 64
  processes;
- values of 1 MB, put and got one at a time; beside the floor's.
"""

from __future__ import annotations

from typing import Any, Final

from floor import EchoServers
from floor_client import EchoClient
from paced import key_of, value_of
from peers import PEERS, Peer, versions
from record import record
from throughput_clients import GETS, LARGE_BYTES, LARGE_GETS, LARGE_PUTS, MANY, PUTS, SHARE, Crew, Task
from throughput_table import Rates, show, summary

from zkv import LocalCluster
from zkv.cli.live import progress
from zkv.core import wire

BARE: Final = "bare round trip"
OUTSTANDING: Final = 64
PROCESSES: Final = 4
"""Client processes that `OUTSTANDING` clients share."""
MB: Final = 1e6
OPERATIONS: Final = {GETS: 10_000, PUTS: 4_000, MANY: 20_000, LARGE_GETS: 200, LARGE_PUTS: 200}
QUICK_PART: Final = 10
"""A quick run does one operation in so many, of small values."""
WITH: Final = {
    GETS: ("zkv", "floor", "redis", BARE), PUTS: ("zkv", "floor", "redis"), MANY: ("zkv", "floor"),
    LARGE_PUTS: ("zkv", "floor", "redis"), LARGE_GETS: ("zkv", "floor", "redis"),
}  # fmt: skip
TITLES: Final = {
    GETS: "one get at a time", PUTS: "one put at a time", MANY: f"{OUTSTANDING} clients, one operation a message",
    LARGE_PUTS: "puts of 1 MB", LARGE_GETS: "gets of 1 MB",
}  # fmt: skip
ASKED: Final[dict[tuple[str, int], dict[str, float]]] = {
    (GETS, 1): {BARE: 0.8, "redis": 1.1}, (GETS, 3): {BARE: 0.8, "redis": 1.1}, (PUTS, 3): {"floor": 0.7},
    (MANY, 1): {"floor": 0.8}, (MANY, 3): {"floor": 0.8},
    **{(large, copies): {"floor": 0.7} for large in (LARGE_PUTS, LARGE_GETS) for copies in (1, 3)},
}  # fmt: skip
"""Issue 6, by figure and copies."""


def real_bytes(value: bytes) -> tuple[bytes, bytes]:
    """The frames of one get of zkv: request and reply."""
    with LocalCluster(nodes=1, replicas=1) as cluster, cluster.client() as kv:
        key = key_of(SHARE)
        kv.put(key, value)
        assert kv.get(key) == value  # everything has been greeted by now
        connection = kv._connection
        assert connection is not None
        core = connection.core
        frames: list[bytes] = []
        step = core.step

        def listening(arrived: Any, now_ms: float) -> Any:
            out = step(arrived, now_ms)
            frames.extend(frame for _, frame in (*arrived, *out))
            return out

        core.step = listening  # type: ignore[method-assign]
        assert kv.get(key) == value
    by_kind = {wire.decode_header(frame).kind: frame for frame in frames}
    return by_kind[wire.REQUEST], by_kind[wire.REPLY]


def _tasks(name: str, settings: dict[str, Any]) -> list[tuple[Task, int]]:
    """What one side does: (task, client processes)."""
    found = []
    for figure, operations in OPERATIONS.items():
        if name in WITH[figure]:
            small = figure not in (LARGE_GETS, LARGE_PUTS)
            count = operations // QUICK_PART if settings["quick"] and small else operations
            processes = PROCESSES if figure == MANY else 1
            found.append((Task(figure, count, 1, settings["value_bytes"], OUTSTANDING // PROCESSES), processes))
    return found


def rounds(names: list[str], settings: dict[str, Any], *, recorded: bool) -> None:
    """All runs; a table and a line of results for each figure and number of copies."""
    value = value_of(0, settings["value_bytes"])
    request, reply = real_bytes(value)
    bare = Peer(lambda nodes, copies: EchoServers(request, reply, value), EchoClient, frozenset())
    sides = {name: PEERS[name] for name in names if any(name in with_ for with_ in WITH.values())} | {BARE: bare}
    turns = [
        (copies, run, name) for copies in settings["replicas"] for run in range(settings["runs"]) for name in sides
    ]
    rates: dict[tuple[str, int], Rates] = {
        (figure, copies): {} for copies in settings["replicas"] for figure in OPERATIONS
    }
    with progress("rounds", "clusters") as told:
        for number, (copies, _, name) in enumerate(turns):
            told(number, len(turns))
            peer = sides[name]
            with peer.servers(settings["nodes"], copies) as servers, Crew(peer, servers.address, PROCESSES) as crew:
                for task, processes in _tasks(name, settings):
                    servers.settle()
                    rate = crew.ops_per_s(task, processes)
                    if task.client in (LARGE_GETS, LARGE_PUTS):
                        rate *= LARGE_BYTES / MB
                    rates[task.client, copies].setdefault(name, []).append(rate)
        told(len(turns), len(turns))
    for (figure, copies), found in rates.items():
        large = figure in (LARGE_GETS, LARGE_PUTS)
        title = f"{TITLES[figure]}, {copies} {'copies' if copies > 1 else 'copy'} of each key"
        show(title, found, "MB/s" if large else "ops/s", ASKED.get((figure, copies)))
        operations = OPERATIONS[figure] // (QUICK_PART if settings["quick"] and not large else 1)
        if not recorded:
            continue
        record(
            "throughput", part="rounds", figure=figure,
            processes=PROCESSES if figure == MANY else 1, outstanding=OUTSTANDING if figure == MANY else 1,
            **{name: settings[name] for name in ("nodes", "runs", "value_bytes", "seed", "quick")},
            replicas=copies, operations=operations, request_bytes=len(request), reply_bytes=len(reply),
            asked=ASKED.get((figure, copies), {}), other_versions=versions(names),
            **summary(found, "mb_per_s" if large else "ops_per_s"),
        )  # fmt: skip
