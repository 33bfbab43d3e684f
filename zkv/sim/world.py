"""A cluster in virtual time: the production cores on a network that misbehaves, checked after every event.

Everything follows from one seed. After every turn of a process its invariants are checked, and those of the cluster:

- at most one node serves a shard at any instant (it is active there, and its leases cover it);
- an acknowledged write is held by every living member of the shard's present in-sync set, at the moment of its
  acknowledgement and at the end;
- map versions and epochs only grow, and each in-sync set is a part of the one before.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Final

from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.core.client.client import ClientCore
from zkv.core.manager.effects import Persist, Stored, applied
from zkv.core.node.entries import ABSENT, version_of
from zkv.core.node.history import SYSTEM
from zkv.core.node.local import MANAGER, PUBLISH
from zkv.core.node.node import Node
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import Shard, ShardMap, shard_of
from zkv.sim.history import MAY_EXPIRE, NOT_DONE, OK, UNKNOWN, History, Operation, Violation
from zkv.sim.ledger import Ledger
from zkv.sim.network import Clockwork, Network
from zkv.sim.processes import MANAGER_PID, ClientProcess, ManagerProcess, NodeProcess, Process
from zkv.sim.restless import RestlessManager

PROOF_MS: Final = (1.0, 30.0)
"""How soon a supervisor reports a child that it reaped."""
PROBE_MS: Final = (0.5, 5.0)
KEPT_MS: Final = 30_000.0
"""Tombstones that are kept for longer than this outlive a run."""


class World:
    """One simulated cluster. Replace the classes to plant a bug."""

    node_class: type[Node] = Node
    manager_class: type[RestlessManager] = RestlessManager
    client_class: type[ClientCore] = ClientCore

    def __init__(self, seed: int, settings: ClusterSettings, *, drift: float | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.settings = settings
        margin = settings.drift_margin if drift is None else drift
        # The margin covers the ratio of two rates: the fastest against the slowest (SAFETY 29).
        self.clock_rates = (1.0, 1.0 + margin)
        self.cluster = self.rng.randrange(2**32, 2**63)
        self.clockwork = Clockwork()
        self.network = Network(self.clockwork, self.rng, self._deliver)
        self.history = History()
        self.ledger: Ledger | None = None
        """What all nodes applied, where somebody wants to know."""
        self.disk: Stored | None = None
        self.processes: dict[str, Process] = {}
        self.nodes: dict[str, NodeProcess] = {}
        """The present incarnation of each node, by name."""
        self.by_boot: dict[int, NodeProcess] = {}
        self.fired: Counter[str] = Counter()
        self.supervised = True
        """Whether dead nodes are reported as such; otherwise only probes and silence tell."""
        self.restlessness = (0.0, 0.0, 0.0)
        """How often the manager changes the map for no reason, and how often such a change drops a member."""
        self._map_seen = ShardMap.empty()
        self._removed: set[tuple[str, int]] = set()
        """(key, version) of expiries and evictions that are in the history."""
        self.manager = self.start_manager()
        for number in range(settings.nodes):
            self.start_node(f"server{number + 1}")

    # --- life and death --------------------------------------------------------------------------------------------

    def start_manager(self) -> ManagerProcess:
        """A manager on what the disk holds."""
        self.manager = ManagerProcess(self)
        self.processes[MANAGER_PID] = self.manager
        return self.manager

    def make_restless(self, restlessness: float, drops: float, fickleness: float) -> None:
        """Have this and every later manager change the map at random, with these probabilities."""
        self.restlessness = restlessness, drops, fickleness
        self.manager.set_whims()

    def crash_manager(self) -> None:
        """The manager's process ends; the disk stays."""
        self.manager.kill()
        self.fired["manager crashes"] += 1

    def start_node(self, name: str) -> NodeProcess:
        """A fresh incarnation of a node: empty, with a new boot id."""
        start = sum(process.name == name for process in self.by_boot.values()) + 1
        process = NodeProcess(self, name, start)
        self.processes[process.pid] = self.nodes[name] = self.by_boot[process.boot] = process
        return process

    def crash_node(self, name: str) -> None:
        """A node's process ends; a supervisor may report it."""
        process = self.nodes[name]
        self.collect_counts(process)
        process.kill()
        self.fired["node crashes"] += 1
        if self.supervised:
            self.clockwork.after(self.rng.uniform(*PROOF_MS), lambda: self._report_dead(process))

    def node_left(self, process: NodeProcess) -> None:
        """A node ends by itself: it was drained, or is not let in any more."""
        self.fired["nodes drained" if process.core.contact.released else "nodes turned away"] += 1
        self.collect_counts(process)
        process.kill()
        self._report_dead(process)

    def _report_dead(self, process: NodeProcess) -> None:
        """Repeated until the manager has made it durable, as the launcher does."""
        if self.disk is not None:
            member = self.disk.map.members.get(process.boot)
            if self.disk.map.version and (member is None or member.state == 2):
                return
        if self.manager.alive:
            frame = wire.encode(wire.DEAD, self.cluster, 1, 0, 0, [process.boot])
            self.network.send("supervisor", MANAGER_PID, (b"supervisor", frame))
        self.clockwork.after(200.0, lambda: self._report_dead(process))

    def may_crash(self, name: str) -> bool:
        """Whether an in-sync copy of every shard outlives this node, by the map that is durable now."""
        if self.disk is None or not self.disk.map.version or not self.nodes[name].alive:
            return False
        boot = self.nodes[name].boot
        return all(
            any(other != boot and self.by_boot[other].alive for other in shard.replicas)
            for shard in self.disk.map.shards
            if boot in shard.replicas
        )

    def is_lost(self, key: str) -> bool:
        """Whether no in-sync copy of the key's shard lives: then nobody promised anything, and it stays unavailable."""
        assert self.disk is not None
        shard = self.disk.map.shards[shard_of(key, self.settings.shards)]
        lost = not any(self.by_boot[boot].alive for boot in shard.replicas)
        self.fired["keys lost with their last copy"] += lost
        return lost

    def collect_counts(self, process: NodeProcess) -> None:
        """Keep what a node counted before it is gone. No frame here comes from a stranger: none may be malformed."""
        refused = process.core.local.fired["malformed frames"]
        if refused:
            raise Violation(f"{process.pid} refused {refused} frames of correct processes as malformed")
        self.fired.update(process.core.local.fired)
        process.core.local.fired.clear()

    def order(self, verb: str, **arguments: Any) -> None:
        """An operator asks the manager for something; nobody looks at the answer."""
        if self.manager.alive:
            frame = wire.encode(wire.ADMIN, self.cluster, 1, 0, 0, [verb, arguments])
            self.network.send("operator", MANAGER_PID, (b"operator", frame))

    # --- frames ----------------------------------------------------------------------------------------------------

    def from_node(self, process: NodeProcess, address: int | bytes, frame: bytes) -> None:
        """A node sends: to a route, to a peer's ROUTER, to the manager, or as a heartbeat."""
        if isinstance(address, bytes):
            # What a ROUTER sends back arrives at the DEALER of that link: under the sender's address.
            self.network.send(process.pid, address.decode(), (process.boot, frame))
        elif address == PUBLISH:
            self.network.send(process.pid, MANAGER_PID, (b"", frame))
        else:
            self._dial(process, address, frame)

    def from_client(self, process: ClientProcess, address: int | bytes, frame: bytes) -> None:
        """A client sends to a node or to the manager."""
        assert isinstance(address, int)
        self._dial(process, address, frame)

    def _dial(self, process: Process, address: int, frame: bytes) -> None:
        target = MANAGER_PID if address == MANAGER else self.by_boot[address].pid if address in self.by_boot else None
        if target is not None:
            self.network.send(process.pid, target, (process.pid.encode(), frame))

    def broadcast(self, frame: bytes) -> None:
        """The manager publishes: every subscriber may get it."""
        for process in list(self.processes.values()):
            if isinstance(process, NodeProcess) or (isinstance(process, ClientProcess) and process.subscribed):
                self.network.send(MANAGER_PID, process.pid, (PUBLISH, frame))

    def probe(self, manager: ManagerProcess, boot: int) -> None:
        """The manager tries to connect: only a dead process's port refuses."""
        process = self.by_boot.get(boot)
        link = (MANAGER_PID, process.pid if process else "")

        def answer() -> None:
            if manager.alive and process is not None and link not in self.network.cut and not process.alive:
                manager.probes.append((boot, True))
                manager.wake_in(0.0)

        self.clockwork.after(self.rng.uniform(*PROBE_MS), answer)

    def _deliver(self, sender: str, receiver: str, message: Any) -> None:
        process = self.processes.get(receiver)
        if process is not None:
            process.receive(*message)

    # --- turns and checks ------------------------------------------------------------------------------------------

    def take_turn(self, process: Process) -> None:
        """Let a process have its turn, then check what must hold."""
        process.turn()
        if isinstance(process, NodeProcess):
            self._note_parts(process)
            process.core.check_invariants()
            self._check_one_server(process)
        elif isinstance(process, ManagerProcess) and process.alive:
            process.core.check_invariants()

    def _note_parts(self, process: NodeProcess) -> None:
        """What this node has applied in this turn, into the ledger; expiries and evictions that it has decided on, into
        the history."""
        count, history = process.seen_parts, process.core.local.history
        process.seen_parts = history.count
        for part in history.since(count):
            if self.ledger is not None:
                self.ledger.note(part, self.clockwork.now_ms)
            if part.client == SYSTEM:
                for key, version in zip(part.keys, part.versions, strict=True):
                    if (key, version) not in self._removed:
                        self._removed.add((key, version))
                        expired = part.batch == wire.EXPIRE_EVENT
                        self.history.removed(key, version, self.clockwork.now_ms, expired=expired)

    def _check_one_server(self, process: NodeProcess) -> None:
        """At most one node serves a shard at any instant."""
        serving = process.core.serving
        if not serving.active:
            return
        process.core.local.now_ms = process.now_ms()
        for other in self.nodes.values():
            if other is process or not other.alive or not other.core.serving.active:
                continue
            both = serving.active & other.core.serving.active
            if not both:
                continue
            former_ms, other.core.local.now_ms = other.core.local.now_ms, other.now_ms()
            for shard in sorted(both):
                if serving.covers((shard,)) and other.core.serving.covers((shard,)):
                    raise Violation(f"{process.pid} and {other.pid} both serve shard {shard}")
            other.core.local.now_ms = former_ms

    def persist(self, effect: Persist) -> None:
        """The manager makes something durable. Versions and epochs only grow."""
        self.disk = applied(self.disk, effect)
        new, old = self.disk.map, self._map_seen
        if new.version < old.version:
            raise Violation(f"the map went back from version {old.version} to {new.version}")
        for shard, (was, now) in enumerate(zip(old.shards, new.shards, strict=False)):
            if now.epoch < was.epoch or (now.epoch == was.epoch and now.replicas != was.replicas):
                raise Violation(f"shard {shard} changed from {was} to {now}")
            if now.born > was.born:
                self._shard_was_reset(shard, was, now)
        self._map_seen = new

    def _shard_was_reset(self, shard: int, was: Shard, now: Shard) -> None:
        self.fired["shards reset"] += 1
        alive = [self.by_boot[boot].pid for boot in was.replicas if self.by_boot[boot].alive]
        if alive:
            raise Violation(f"shard {shard} was reset although {', '.join(alive)} live")
        if self.ledger is not None:
            self.ledger.reset(shard, now.born << wire.COUNTER_BITS, self.clockwork.now_ms)
        for key in list(self.history.operations):
            if shard_of(key, self.settings.shards) == shard:
                self.history.reset(key, now.born << wire.COUNTER_BITS, self.clockwork.now_ms)

    def check_held(self, key: str, version: int) -> None:
        """An acknowledged version is in the history of every living in-sync member."""
        assert self.disk is not None
        shard = shard_of(key, self.settings.shards)
        entry = self.disk.map.shards[shard]
        if wire.epoch_of(version) < entry.born:
            return  # of a life that was lost since
        for boot in entry.replicas:
            process = self.by_boot[boot]
            if not process.alive:
                continue
            store = process.core.local.store
            lacks = store.positions[shard] < version
            if (
                self.settings.tombstone_ms > KEPT_MS
                and not self.settings.memory_limit_bytes
                and not key.startswith(MAY_EXPIRE)
            ):
                # Nobody has dropped a tombstone yet: the entry itself must be there.
                lacks = lacks or version_of(store.tables[shard].get(key, ABSENT)) < version
            if lacks:
                raise Violation(
                    f"{process.pid} is in sync for shard {shard}, but lacks acknowledged {key} {version:#x}"
                )

    def call_ended(self, process: ClientProcess, call: Call, note: Any) -> None:
        """A client's call came to its end: into the history."""
        operations, then = note
        self.record(call, operations)
        if then is not None:
            then()

    def record(self, call: Call, operations: list[Operation]) -> None:
        """Write results into the history."""
        now_ms = self.clockwork.now_ms
        if call.failures:
            self.fired["calls failed"] += 1
        versions, values, statuses, _ = call.columns()
        newest: dict[str, int] = {}
        for place, operation in enumerate(operations):
            failure = call.failures.get(place)
            if failure is not None:
                operation.end_ms = now_ms if operation.kind == "get" or not failure.unknown else float("inf")
                operation.outcome = UNKNOWN if failure.unknown else NOT_DONE
                continue
            if call.ack == wire.ACK_PRIMARY and operation.kind != "get":
                # It may yet be lost, with its primary; if it is ever seen that is all right, too (SAFETY 27).
                self.fired["writes acknowledged early"] += 1
                continue
            operation.end_ms, operation.outcome, operation.version = now_ms, OK, versions[place]
            op = call.op if isinstance(call.op, int) else call.op[place]
            operand = None if call.operands is None else call.operands[place]
            self._take_result(operation, op, operand, statuses[place], values[place])
            if isinstance(call.op, bytes) and versions[place]:
                # Operations of one call on one key take effect in their order.
                before, newest[operation.key] = newest.get(operation.key, 0), versions[place]
                writes = operation.kind != "get" and operation.existed
                if versions[place] < before or (versions[place] == before and writes):
                    raise Violation(f"operations of one call went out of order: {operation}")
            if operation.kind != "get" and operation.existed:
                self.check_held(operation.key, versions[place])

    def _take_result(self, operation: Operation, op: int, operand: int | None, status: int, value: Any) -> None:
        """What an answer says besides its version."""
        operation.existed = status == wire.OK
        operation.stale = op == wire.GET_STALE
        self.fired["conditions that failed"] += status == wire.UNMET
        if status == wire.NO_ROOM:
            operation.outcome = NOT_DONE
            self.fired["writes refused for want of memory"] += 1
            return
        if status not in (wire.OK, wire.UNMET):
            raise Violation(f"an answer with status {status}: {operation}")
        if op == wire.EXISTS and value:
            # It says that a version is there: that of a write which is known by now, or nothing can be made of it.
            written = [one for one in self.history.operations[operation.key] if one.version == operation.version]
            operation.value = next((one.value for one in written if one.kind == "put" and one.existed), None)
            operation.outcome = OK if operation.value is not None else UNKNOWN
            self.fired["existence seen"] += 1
        elif op == wire.EXISTS and value is not False:
            raise Violation(f"neither there nor not there: {operation}")
        elif op == wire.EXISTS:
            operation.value = None
        elif operation.kind == "get":
            operation.value = value
        elif operation.kind in ("incr", "append"):
            operation.result = value
            if value is None and operation.existed:
                raise Violation(f"the result of a write is gone: {operation}")
        elif op == wire.GETSET:
            operation.saw = value
        elif op == wire.PUT_IF_ABSENT:
            operation.saw = None
        elif op in (wire.PUT_IF_VERSION, wire.DELETE_IF_VERSION):
            operation.saw = operand
            # (A delete of nothing fails whatever the version of its tombstone.)
            if op == wire.PUT_IF_VERSION and not operation.existed and operation.version == operand and operand:
                raise Violation(f"a condition failed although it held: {operation}")

    def run(self, until_ms: float) -> None:
        """Let time pass."""
        while self.clockwork.next(until_ms):
            pass
