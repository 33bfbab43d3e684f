"""A cluster of a thousand nodes, in virtual time: how long until it is whole again, and how much moves?

The production cores run in the simulator's network (latencies up to 1.5 ms, no losses, processes with clocks of their
own); nothing is measured in the time of this machine. The data is put into the nodes' stores directly, the same at all
holders of a shard, as if it had been written. Then a node is killed; then a node joins; then one is drained. Each time
the virtual time until the cluster is whole and at rest again, and the entries sent against the least that could be.

\b
    python experiments/large.py
    python experiments/large.py --nodes 50 --shards 1024 --keys 50000
"""

from __future__ import annotations

import time
from typing import Any, Final

import click
from record import record

from zkv.core import wire
from zkv.core.manager.steering import LEISURE_BEATS
from zkv.core.node.entries import stored
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import shards_of
from zkv.sim.processes import NodeProcess, Process
from zkv.sim.world import World

LIMIT_MS: Final = 300_000.0
VALUE: Final = "x" * 100


class LargeWorld(World):
    """A world whose invariants are not checked after every turn: the campaigns do that, in small clusters."""

    def take_turn(self, process: Process) -> None:
        process.turn()


def preload(world: World, keys: int) -> None:
    """The same entries in the stores of all who hold them."""
    names = [f"key{number:09d}" for number in range(keys)]
    assert world.disk is not None
    for counter, (key, shard) in enumerate(zip(names, shards_of(names, world.settings.shards), strict=True), start=1):
        version = (1 << wire.COUNTER_BITS) + counter
        entry = stored(version, VALUE, 0)
        for boot in world.disk.map.shards[shard].replicas:
            store = world.by_boot[boot].core.local.store
            store.tables[shard][key] = entry
            store.positions[shard] = store.committed[shard] = version
    for process in world.nodes.values():
        process.core.serving.counter = keys


def sent(world: World) -> tuple[int, int]:
    """(entries, bytes) sent to learners so far."""
    locals_ = [process.core.local for process in world.by_boot.values()]
    return sum(local.fill_keys for local in locals_), sum(local.fill_bytes for local in locals_)


def held_by(process: NodeProcess) -> int:
    """Entries that a node holds."""
    return process.core.local.store.count()


def settle(world: World) -> float:
    """Run until every shard has its copies, is served, and nothing moves; the virtual time it took, in seconds."""
    began_ms = since_ms = world.clockwork.now_ms
    version = -1
    while world.clockwork.now_ms - began_ms < LIMIT_MS:
        world.run(world.clockwork.now_ms + world.settings.heartbeat_ms)
        status = world.manager.core.status()
        whole = status["health"] == "healthy" and not status["moving"]["shards"] and not status["draining"]
        if not whole or status["map_version"] != version:
            version, since_ms = status["map_version"], world.clockwork.now_ms
        elif world.clockwork.now_ms - since_ms >= 2 * LEISURE_BEATS * world.settings.heartbeat_ms:
            return (since_ms - began_ms) / 1000
    raise TimeoutError(f"not at rest: {status['health']}, {status['moving']}")


@click.command(help=__doc__)
@click.option("--nodes", default=1000, show_default=True)
@click.option("--shards", default=16_384, show_default=True)
@click.option("--keys", default=1_000_000, show_default=True)
@click.option("--scatter-width", default=8, show_default=True)
def main(nodes: int, shards: int, keys: int, scatter_width: int) -> None:
    # A large cluster speaks more slowly: a manager of a thousand nodes hears 2,000 heartbeats a second.
    settings = ClusterSettings(
        nodes=nodes, replicas=3, shards=shards, scatter_width=scatter_width,
        heartbeat_ms=500, suspect_ms=2000, dead_ms=4000, lease_ms=3000,
    )  # fmt: skip
    started_s = time.monotonic()
    world = LargeWorld(1, settings)
    rows: list[dict[str, Any]] = [{"step": "formation", "took_s": round(settle(world), 1)}]
    preload(world, keys)
    click.echo(f"formed and loaded after {time.monotonic() - started_s:.0f} s of this machine's time")

    victim = world.nodes["server7"]
    least, before = held_by(victim), sent(world)
    world.crash_node(victim.name)
    rows.append(row("death of one", settle(world), world, before, least))
    click.echo(rows[-1])

    before = sent(world)
    newcomer = world.start_node(f"server{nodes + 1}")
    took_s = settle(world)
    rows.append(row("join of one", took_s, world, before, held_by(newcomer)))
    click.echo(rows[-1])

    leaving = world.nodes["server9"]
    least, before = held_by(leaving), sent(world)
    world.order("drain", name=leaving.name, force=False)
    world.run(world.clockwork.now_ms + 100.0)
    rows.append(row("drain of one", settle(world), world, before, least))
    click.echo(rows[-1])
    record(
        "large", nodes=nodes, shards=shards, keys=keys, scatter_width=scatter_width, rows=rows,
        machine_time_s=round(time.monotonic() - started_s),
    )  # fmt: skip


def row(step: str, took_s: float, world: World, before: tuple[int, int], least: int) -> dict[str, Any]:
    """What one step came to."""
    after = sent(world)
    return {
        "step": step, "took_s": round(took_s, 1), "sent_keys": after[0] - before[0], "least_keys": least,
        "sent_bytes": after[1] - before[1],
    }  # fmt: skip


if __name__ == "__main__":
    main()
