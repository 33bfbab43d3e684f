"""One seeded run: a cluster, clients that load it, faults that hit it, and the checks at the end.

Safety phase, then liveness phase (as in TigerBeetle's VOPR): while faults come, nothing wrong may be seen; after they
stop and everything is mended, every key must be readable within a bound.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from zkv.core import wire
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import shard_of
from zkv.sim.history import COUNTER, EXPIRING, LOG, Violation
from zkv.sim.processes import MANAGER_PID, ClientProcess
from zkv.sim.restless import limits
from zkv.sim.walks import Walker, Watcher
from zkv.sim.world import World

READS: Final = (wire.GET, wire.GET, wire.GET_ANY, wire.GET_ANY, wire.GET_ANY, wire.GET_STALE)
CONDITIONS: Final = frozenset((wire.PUT_IF_VERSION, wire.DELETE_IF_VERSION))
WRITES: Final = (
    *(wire.PUT,) * 5, *(wire.DELETE,) * 3, wire.PUT_IF_ABSENT, wire.PUT_IF_PRESENT, wire.PUT_IF_VERSION,
    wire.PUT_IF_VERSION, wire.DELETE_IF_VERSION, wire.GETSET,
)  # fmt: skip
EXPIRING_WRITES: Final = (
    *(wire.PUT,) * 6,
    wire.TOUCH,
    wire.TOUCH,
    wire.GETSET,
    wire.PUT_IF_PRESENT,
    wire.PUT_IF_ABSENT,
    wire.DELETE,
)
TTLS_MS: Final = (0, 50, 300, 300, 1000, 2500)
MIXED: Final = (wire.GET, wire.GET, *WRITES)
KINDS: Final = {
    wire.DELETE: "delete", wire.DELETE_IF_VERSION: "delete", wire.INCR: "incr", wire.APPEND: "append",
    wire.TOUCH: "touch",
}  # fmt: skip
FORM_MS: Final = 3000.0
NODES_LIMIT: Final = 7
SETTLING: Final = 20
"""Versions of the map that may follow once every shard is whole, for balance; then there are no more."""
HEAL_MS: Final = 60_000.0
"""After the last fault every shard has all its copies again within this: suspicions have to be forgotten first."""
CALM_MS: Final = 6000.0
"""After the last fault everything must work again within this."""


class Campaign:
    """A run from one seed: what is varied, and by how much, follows from it."""

    def __init__(self, seed: int, world_class: type[World] = World) -> None:
        self.rng = random.Random(seed ^ 0x5EED)
        rng = self.rng
        nodes = rng.choice((3, 4, 5, 5))
        replicas = min(nodes, rng.choice((2, 3, 3)))
        settings = ClusterSettings(
            nodes=nodes,
            replicas=replicas,
            shards=rng.choice((2, 4, 8)),
            scatter_width=max(replicas - 1, rng.choice((2, 4))),
            tombstone_ms=rng.choice((60_000, 300)),
            session_ttl_ms=20_000,
            timeout_limit_ms=4000,
            on_loss=rng.choice(("keep", "keep", "reset")),
            loss_grace_s=rng.choice((0.0, 1.0)),
            fill_bytes_per_s=rng.choice((64 * 1024, 64 * 2**20)),
            min_in_sync=rng.choice((1, 1, 1, min(2, replicas))),
            history_bytes=rng.choice((16 * 2**20, 16 * 2**20, 20_000)),
            memory_limit_bytes=rng.choice((0, 0, 0, 0, 0, 5000)),
            eviction=rng.choice(("none", "lru", "ttl")),
        )
        self.world = world_class(seed, self._adjusted(settings))
        if rng.random() < 0.5:
            whims = rng.choice((0.005, 0.02, 0.1)), rng.choice((0.0, 0.05, 0.2)), rng.choice((0.0, 0.1))
            self.world.make_restless(*whims)
        elif rng.random() < 0.3:
            self.world.make_restless(0.0, 0.0, 0.1)
        self.world.supervised = rng.random() < 0.7
        self.world.network.drop = rng.choice((0.0, 0.0, 0.002, 0.02))
        self.world.network.duplicate = rng.choice((0.0, 0.005, 0.02))
        self.world.network.latency_ms = (0.05, rng.choice((0.5, 2.0, 20.0)))
        self.fault_ms = rng.choice((150.0, 400.0, 900.0))
        """Mean time between faults."""
        self.keys = [f"key{number}" for number in range(rng.choice((2, 6, 12, 40)))]
        self.counters = [f"{COUNTER}{number}" for number in range(2)]
        self.logs = [f"{LOG}{number}" for number in range(2)]
        self.expiring = [f"{EXPIRING}{number}" for number in range(rng.choice((1, 3)))]
        if settings.memory_limit_bytes:
            self.counters = self.logs = []  # evicted they would begin anew
        self.clients: list[ClientProcess] = []
        self.watchers: list[Watcher] = []
        self.values = self.asked = self.walks = 0
        self.storm = False
        self.early = rng.choice((0.0, 0.0, 0.3))
        """Part of the writes that ask for an early acknowledgement (SAFETY 27)."""

    def _adjusted(self, settings: ClusterSettings) -> ClusterSettings:
        """What was drawn, as this kind of campaign needs it."""
        return settings

    def run(self, storm_ms: float = 6000.0) -> World:
        """The whole run. Raises `Violation` or AssertionError where a promise or an invariant is broken."""
        with limits(self.rng):
            return self._run(storm_ms)

    def _run(self, storm_ms: float) -> World:
        world = self.world
        self._form()
        for number in range(self.rng.choice((2, 3, 4))):
            client = ClientProcess(world, f"client{number + 1}", subscribed=self.rng.random() < 0.8)
            world.processes[client.pid] = client
            self.clients.append(client)
            for _ in range(self.rng.choice((1, 2, 4, 6))):
                self._next_call(client)
        for number in range(self.rng.choice((0, 0, 1, 2))):
            client = ClientProcess(world, f"client-w{number + 1}", subscribed=self.rng.random() < 0.8)
            world.processes[client.pid] = client
            self.clients.append(client)
            self.watchers.append(Watcher(world, client))
        self.storm = True
        world.clockwork.after(self.rng.expovariate(1 / self.fault_ms), self._fault)
        world.run(world.clockwork.now_ms + storm_ms)
        self._calm()
        self._check_ended()
        self._finish()
        self._check()
        for process in world.nodes.values():
            world.collect_counts(process)
        for client in self.clients:
            world.fired.update(client.core.counts)
        return world

    def _form(self) -> None:
        world = self.world
        while world.disk is None or not world.disk.map.version:
            if world.clockwork.now_ms > FORM_MS:
                raise Violation("the cluster did not form")
            world.run(world.clockwork.now_ms + 50.0)

    # --- load ------------------------------------------------------------------------------------------------------

    def _next_call(self, client: ClientProcess) -> None:
        """A client is never idle for long while the storm lasts."""

        def start() -> None:
            if client.alive and self.storm:
                if client.paused:
                    self._next_call(client)
                else:
                    self._call(client)

        self.world.clockwork.after(self.rng.expovariate(1 / 15.0), start)

    def _call(self, client: ClientProcess) -> None:
        rng = self.rng
        keys = rng.sample(self.keys, rng.choice((1, 1, 1, 2, len(self.keys))))
        choice = rng.random()
        if choice < 0.03:
            self.walks += 1
            mode = rng.choice((wire.SCAN_KEYS, wire.SCAN_ENTRIES, wire.SCAN_FROZEN, wire.SCAN_COUNT))
            Walker(self.world, client, mode, self.walks, lambda: self.storm, lambda: self._next_call(client)).go_on()
        elif choice < 0.12:
            client_ops = [rng.choice(MIXED) for _ in range(rng.choice((2, 5)))]
            self._submit(client, client_ops, [rng.choice(keys) for _ in client_ops])
        elif choice >= 0.86:
            few = rng.sample(self.expiring, rng.choice((1, len(self.expiring))))
            self._submit(client, rng.choice(READS if rng.random() < 0.6 else EXPIRING_WRITES), few)
        elif choice < 0.34 and not self.counters:
            self._submit(client, rng.choice(READS), keys)
        elif choice < 0.2:
            self._submit(client, wire.INCR, rng.sample(self.counters, rng.choice((1, 2))))
        elif choice < 0.26:
            self._submit(client, wire.APPEND, rng.sample(self.logs, 1))
        elif choice < 0.34:
            special = [*self.counters, *self.logs]
            self._submit(client, rng.choice(READS), rng.sample(special, rng.choice((1, len(special)))))
        else:
            op = rng.choice(READS if rng.random() < 0.5 else WRITES)
            self.asked += 1
            self._submit(client, wire.EXISTS if op == wire.GET and self.asked % 3 == 0 else op, keys)

    def _submit(self, client: ClientProcess, op: int | list[int], keys: list[str]) -> None:
        """Start one call, and note its operations."""
        rng, world = self.rng, self.world
        ops = op if isinstance(op, list) else [op] * len(keys)
        values: list[Any] | None = None
        operands: list[int] | None = None
        if not wire.TAKES_VALUE.isdisjoint(ops):
            values = [self._value(one) if one in wire.TAKES_VALUE else None for one in ops]
        if not CONDITIONS.isdisjoint(ops):
            pairs = zip(ops, keys, strict=True)
            operands = [self._known_version(key) if one in CONDITIONS else 0 for one, key in pairs]
        ttls: list[int] | None = None
        if keys[0].startswith(EXPIRING) and not wire.TAKES_TTL.isdisjoint(ops):
            ttls = [rng.choice(TTLS_MS) if one in wire.TAKES_TTL else 0 for one in ops]
        now_ms = world.clockwork.now_ms
        operations = []
        for place, (one, key) in enumerate(zip(ops, keys, strict=True)):
            kind = KINDS.get(one, "put" if one in wire.TAKES_VALUE else "get")
            value = None if values is None else values[place]
            operations.append(world.history.begin(client.pid, kind, key, _word(kind, value), now_ms))
            operations[-1].ttl_ms = 0.0 if ttls is None else ttls[place]
        writes = not wire.WRITES.isdisjoint(ops)
        client.submit(
            bytes(ops) if isinstance(op, list) else op, keys, values, rng.choice((400.0, 1500.0, 3000.0)),
            (operations, lambda: self._next_call(client)),
            early=writes and rng.random() < self.early, operands=operands, ttls=ttls,
        )  # fmt: skip

    def _value(self, op: int) -> Any:
        if op == wire.INCR:
            return 1
        self.values += 1
        return f" v{self.values}" if op == wire.APPEND else f"v{self.values}"

    def _known_version(self, key: str) -> int:
        """A version for a condition: mostly one that somebody was told of lately."""
        known = [one.version for one in self.world.history.operations[key][-6:] if one.version]
        return self.rng.choice(known) if known and self.rng.random() < 0.9 else 0

    # --- faults ----------------------------------------------------------------------------------------------------

    def _fault(self) -> None:
        if not self.storm:
            return
        faults: list[Callable[[], None]] = [
            self._crash, self._crash, self._crash, self._pause, self._pause, self._cut, self._cut, self._cut_off,
            self._reset,
            self._slow, self._manager, self._manager_pause, self._client_pause, self._restart, self._depose,
            self._depose,
            self._deafen, self._quarrel, self._strike_fill, self._strike_fill, self._join, self._drain,
            self._rebalance, self._lose_everything, self._dismiss,
        ]  # fmt: skip
        self.rng.choice(faults)()
        self.world.clockwork.after(self.rng.expovariate(1 / self.fault_ms), self._fault)

    def _some_node(self) -> str:
        return self.rng.choice(sorted(self.world.nodes))

    def _crash(self) -> None:
        name = self._some_node()
        if not self.world.may_crash(name):
            return
        if self.rng.random() < 0.6:
            self.world.nodes[name].crash_in_batches = True
        else:
            self.world.crash_node(name)

    def _strike_fill(self) -> None:
        """Somebody who takes part in a fill dies, stops, or is cut off: the learner, the source, or another member."""
        world = self.world
        if world.disk is None or not world.disk.map.version:
            return
        filling = [shard for shard in world.disk.map.shards if shard.learners]
        if not filling:
            return
        shard = self.rng.choice(filling)
        process = world.by_boot[self.rng.choice((*shard.learners, *shard.learners, *shard.replicas))]
        if not process.alive or process is not world.nodes[process.name]:
            return
        world.fired["fills struck"] += 1
        strike = self.rng.random()
        if strike < 0.5 and world.may_crash(process.name):
            world.crash_node(process.name)
        elif strike < 0.7 and not process.paused:
            process.pause()
            world.clockwork.after(self.rng.choice((50.0, 500.0, 1500.0)), process.resume)
        elif strike < 0.85:
            other = world.by_boot[self.rng.choice((*shard.learners, *shard.replicas))]
            if other is not process:
                self._sever([(process.pid, other.pid), (other.pid, process.pid)], self.rng.choice((300.0, 1200.0)))
        elif world.manager.alive:
            world.crash_manager()
            world.clockwork.after(self.rng.choice((10.0, 300.0, 1500.0)), self._revive_manager)

    def _restart(self) -> None:
        """A dead node comes back empty, as a new member."""
        name = self._some_node()
        if not self.world.nodes[name].alive:
            self.world.start_node(name)
            self.world.fired["node restarts"] += 1

    def _join(self) -> None:
        """A further node joins."""
        if len(self.world.nodes) < NODES_LIMIT:
            self.world.start_node(f"server{len(self.world.nodes) + 1}")
            self.world.fired["node joins"] += 1

    def _drain(self) -> None:
        """A node is asked to leave, or asked to stay after all."""
        self.world.order(self.rng.choice(("drain", "drain", "join")), name=self._some_node(), force=False)

    def _rebalance(self) -> None:
        self.world.order("rebalance")

    def _lose_everything(self) -> None:
        """All who hold some shard die, or all but one who is only silent: it is lost, and where the settings say so
        created anew, if nobody has it any more (SAFETY 33)."""
        world = self.world
        if world.settings.on_loss != "reset" or world.disk is None or not world.disk.map.version:
            return
        shard = self.rng.choice(world.disk.map.shards)
        spared = self.rng.choice(shard.replicas) if self.rng.random() < 0.5 else None
        for boot in (*shard.replicas, *shard.learners):
            process = world.by_boot[boot]
            if not process.alive or process is not world.nodes[process.name]:
                continue
            if boot != spared:
                world.crash_node(process.name)
            elif not process.paused:
                process.pause()
                world.clockwork.after(self.rng.choice((1500.0, 3000.0)), process.resume)

    def _pause(self) -> None:
        process = self.world.nodes[self._some_node()]
        if process.alive and not process.paused:
            process.pause()
            self.world.fired["node pauses"] += 1
            self.world.clockwork.after(self.rng.choice((50.0, 500.0, 700.0, 1500.0)), process.resume)

    def _client_pause(self) -> None:
        client = self.rng.choice(self.clients)
        if not client.paused:
            client.pause()
            self.world.clockwork.after(self.rng.choice((100.0, 1000.0, 4000.0)), client.resume)

    def _pids(self) -> list[str]:
        return [process.pid for process in self.world.processes.values() if process.alive]

    def _sever(self, links: list[tuple[str, str]], lasting_ms: float) -> None:
        hold = self.rng.random() < 0.5
        for link in links:
            self.world.network.sever(link, hold=hold)
        self.world.fired["cuts"] += 1
        self.world.clockwork.after(lasting_ms, self.world.network.heal)

    def _cut(self) -> None:
        """One pair, one way or both."""
        one, other = self.rng.sample(self._pids(), 2)
        links = [(one, other)] if self.rng.random() < 0.5 else [(one, other), (other, one)]
        self._sever(links, self.rng.choice((100.0, 500.0, 1200.0, 2500.0)))

    def _depose(self) -> None:
        """A node cannot reach the manager: it is replaced while it lives, and its peers and clients still reach it."""
        pid = self.world.nodes[self._some_node()].pid
        links = [(pid, MANAGER_PID)]
        if self.rng.random() < 0.7:
            links.append((MANAGER_PID, pid))
        self._sever(links, self.rng.choice((900.0, 1300.0, 2500.0)))

    def _deafen(self) -> None:
        """Some nodes and clients miss the manager's broadcasts: they learn maps late, from others, several at once."""
        deaf = [pid for pid in self._pids() if pid != MANAGER_PID and self.rng.random() < 0.5]
        self._sever([(MANAGER_PID, pid) for pid in deaf], self.rng.choice((500.0, 1500.0, 3000.0)))

    def _quarrel(self) -> None:
        """Two nodes cannot reach each other, and the manager reaches both."""
        one, other = self.rng.sample([process.pid for process in self.world.nodes.values()], 2)
        links = [(one, other), (other, one)] if self.rng.random() < 0.5 else [(one, other)]
        self._sever(links, self.rng.choice((1000.0, 2500.0, 4000.0)))

    def _cut_off(self) -> None:
        """One node from everybody, or from all but its clients."""
        pid = self.world.nodes[self._some_node()].pid
        spared = self.rng.random() < 0.4
        others = [other for other in self._pids() if other != pid and not (spared and other.startswith("client"))]
        both = self.rng.random() < 0.6
        links = [(pid, other) for other in others] + ([(other, pid) for other in others] if both else [])
        self._sever(links, self.rng.choice((300.0, 900.0, 2000.0)))

    def _dismiss(self) -> None:
        """A backup is dropped from its sets just when it can hear clients, and nobody else."""
        world = self.world
        process = world.nodes[self._some_node()]
        if not world.manager.alive or not process.alive or world.disk is None:
            return
        others = [pid for pid in self._pids() if pid != process.pid and not pid.startswith("client")]
        links = [(process.pid, other) for other in others] + [(other, process.pid) for other in others]
        self._sever(links, self.rng.choice((300.0, 900.0)))
        world.manager.core.dismissed = process.core.boot
        world.fired["backups dismissed"] += 1

    def _reset(self) -> None:
        for _ in range(3):
            one, other = self.rng.sample(self._pids(), 2)
            self.world.network.reset((one, other))
            self.world.network.reset((other, one))

    def _slow(self) -> None:
        one, other = self.rng.sample(self._pids(), 2)
        self.world.network.slow[one, other] = self.rng.choice((20.0, 100.0, 300.0))

        def mend() -> None:
            self.world.network.slow.pop((one, other), None)

        self.world.clockwork.after(800.0, mend)

    def _manager(self) -> None:
        """The manager dies, perhaps between two effects, and comes back."""
        world = self.world
        if not world.manager.alive:
            return
        if self.rng.random() < 0.5:
            world.manager.crash_in_effects = True
        else:
            world.crash_manager()
        world.clockwork.after(self.rng.choice((50.0, 300.0, 1500.0)), self._revive_manager)

    def _revive_manager(self) -> None:
        if not self.world.manager.alive:
            self.world.start_manager()

    def _manager_pause(self) -> None:
        manager = self.world.manager
        if manager.alive and not manager.paused:
            manager.pause()
            self.world.clockwork.after(self.rng.choice((300.0, 1000.0, 2000.0)), manager.resume)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Mend everything, and let calls under way come to their end."""
        world = self.world
        self.storm = False
        world.network.heal()
        world.network.drop = world.network.duplicate = 0.0
        world.make_restless(0.0, 0.0, 0.0)
        world.manager.crash_in_effects = False
        for process in list(world.processes.values()):
            process.resume()
        self._revive_manager()
        world.run(world.clockwork.now_ms + CALM_MS)
        # A pause or a cut that was still to end has ended by now, but for those who began after the last.
        world.network.heal()

    def _check_ended(self) -> None:
        """Every call has come to its end by now: their deadlines have passed."""
        watching = {watcher.client for watcher in self.watchers}
        for client in self.clients:
            if client not in watching and (client.calls or client.core.calls):
                raise Violation(f"{client.pid} has {len(client.calls)} calls that never end")

    def _check(self) -> None:
        """What clients saw, as a whole."""
        shards = self.world.settings.shards
        self.world.history.check()
        self.world.history.check_watches(lambda key: shard_of(key, shards))

    def _all_keys(self) -> list[str]:
        """Those that the run may have written."""
        return [*self.keys, *self.counters, *self.logs, *self.expiring]

    def _finish(self) -> None:
        """A new client reads every key: nothing acknowledged may be missing, and all must answer."""
        world = self.world
        client = ClientProcess(world, "reader", subscribed=True)
        world.processes[client.pid] = client
        keys = [key for key in self._all_keys() if not world.is_lost(key)]
        operations = [world.history.begin(client.pid, "get", key, None, world.clockwork.now_ms) for key in keys]
        outcome: list[str] = []
        client.submit(wire.GET, keys, None, 3900.0, (operations, lambda: outcome.append("ended")))
        world.run(world.clockwork.now_ms + 4500.0)
        if not outcome or any(operation.outcome != "ok" for operation in operations):
            raise Violation(f"after the storm the cluster does not serve: {self._story()}")
        self._heal()
        self._check_watchers(keys)

    def _check_watchers(self, keys: list[str]) -> None:
        """By now every watch knows of every write, but of those to shards that were lost."""
        history, shards = self.world.history, self.world.settings.shards
        newest: dict[int, int] = {}
        for key in keys:
            writes = (one for one in history.operations[key] if one.outcome == "ok" and one.kind != "get")
            versions = [one.version or 0 for one in writes]
            shard = shard_of(key, shards)
            newest[shard] = max(newest.get(shard, 0), *versions, 0)
        for watcher in self.watchers:
            watcher.stopped = True
            for shard, version in newest.items():
                known = watcher.tokens.get(shard, 0)
                if known < version:
                    raise Violation(f"{watcher.client.pid} knows shard {shard} up to {known} only, not {version}")

    def _heal(self) -> None:
        """Every shard that is not lost gets all its copies, and then the map comes to rest."""
        world = self.world
        until_ms = world.clockwork.now_ms + HEAL_MS
        while not self._is_whole():
            if world.clockwork.now_ms > until_ms:
                raise Violation(f"the cluster does not heal: {self._story()}")
            world.run(world.clockwork.now_ms + 500.0)
        assert world.disk is not None
        version = world.disk.map.version
        world.run(world.clockwork.now_ms + 3000.0)
        if world.disk.map.version > version + SETTLING:
            raise Violation(f"the map does not come to rest: version {version}, then {world.disk.map.version}")

    def _is_whole(self) -> bool:
        world = self.world
        assert world.disk is not None
        shard_map = world.disk.map
        staying = [
            process for process in world.nodes.values()
            if process.alive and process.boot in shard_map.members and not shard_map.members[process.boot].draining
        ]  # fmt: skip
        wanted = min(world.settings.replicas, len(staying))
        for shard in shard_map.shards:
            alive = sum(world.by_boot[boot].alive for boot in shard.replicas)
            # A node that is to leave may have to stay, and keep what it has, where too few are left without it.
            if alive and (alive < max(wanted, len(shard.replicas)) or shard.learners):
                return False
        return True

    def _story(self) -> str:
        world = self.world
        assert world.disk is not None
        parts = [f"map {world.disk.map.version}, manager {'alive' if world.manager.alive else 'dead'}"]
        for process in world.nodes.values():
            local = process.core.local
            parts.append(
                f"{process.pid}: {'alive' if process.alive else 'dead'} map {local.map.version} "
                f"active {sorted(process.core.serving.active)} taking over {sorted(process.core.takeovers.running)}"
            )
        for shard, entry in enumerate(world.disk.map.shards):
            names = ",".join(world.by_boot[boot].pid for boot in entry.replicas)
            parts.append(
                f"shard {shard}: epoch {entry.epoch} {names} wait {[world.by_boot[b].pid for b in entry.wait]}"
            )
        return "\n    ".join(parts)


def _word(kind: str, value: Any) -> Any:
    """What an operation writes, as the checks look for it."""
    return value.strip() if kind == "append" else value


__all__ = ["MANAGER_PID", "Campaign"]
