"""A bench for directed schedules: production cores, links that a test holds, loses and releases, a manager by hand.

Seeds do not find every schedule (docs/SAFETY.md lists those that they missed), so a test here writes one down, in
sentences: who learns which map, which frame is lost, who dies when.

- Nodes are capital letters, clients small ones; the manager is "M", and says only what the test has it say.
- The cluster has two shards, `s` and `t`; a set is written as its members, the primary first: `s="PBC"`; learners
  follow a plus: `s="PB+L"`.
- A frame arrives at once, unless a fault drops or holds it; time stands still until `advance`.
- The manager's clock is cluster time: `cluster_ms` of the bench; `timeless` is a manager that does not know it.
- After every turn of a node its invariants are checked, and that nobody else serves what it serves.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from typing import Any

from tests.scenario.parts import (
    ANY,
    BEGAN_MS,
    CLUSTER,
    LOW,
    S2,
    S3,
    SHARDS,
    STATUS_NAMES,
    T2,
    Ask,
    Fault,
    Frame,
    Process,
    S,
    T,
    split_names,
)
from zkv.core import wire
from zkv.core.client.calls import Call
from zkv.core.client.client import ClientCore
from zkv.core.node.local import MANAGER, PUBLISH
from zkv.core.node.node import Node
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import DEAD, UP, Delta, Member, Shard, ShardMap, shard_of

__all__ = ["S2", "S3", "T2", "Ask", "Bench", "S", "T"]


class Bench:
    """A small cluster, formed under map version 1 and serving."""

    def __init__(
        self, *, s: str, t: str, others: str = "", rates: dict[str, float] | None = None, form: bool = True,
        timeless: bool = False, **settings: Any,
    ) -> None:  # fmt: skip
        names = sorted(set(s + t + others))
        self.settings = ClusterSettings(
            **({"nodes": len(names), "replicas": max(len(s), len(t)), "shards": 2} | settings)
        )
        self.rates = rates or {}
        self.now_ms = 0.0
        self.processes: dict[str, Process] = {}
        self.boots: dict[int, str] = {}
        self.asks: dict[int, Ask] = {}
        self.faults: list[Fault] = []
        self.lost: list[Frame] = []
        """What faults dropped, oldest first."""
        self.trace: list[str] = []
        self.reported: dict[int, int] = {}
        """shard -> newest epoch whose activation a primary reported to the manager."""
        self.filled: dict[str, set[str]] = {}
        """shard -> learners that its primary reported filled under the present epoch."""
        self.manager_boot = 7
        self.timeless = timeless
        """Whether the manager does not know cluster time."""
        self.stepped_ms = 0.0
        """By how much the manager's cluster time is wrong."""
        self._links: dict[tuple[str, str], deque[Frame]] = defaultdict(deque)
        self._batches: dict[str, int] = defaultdict(int)
        for name in names:
            self.start(name)
        self.previous = ShardMap.empty(CLUSTER)
        members = {boot: Member(boot, name, f"tcp://{name}:1", "", 1.0, UP) for boot, name in self.boots.items()}
        shards = tuple(Shard(1, 1, tuple(map(self.boot, replicas))) for replicas in (s, t))
        self.map = ShardMap(CLUSTER, 1, members, shards)
        if form:
            self.tell(*names)
            assert self.active("s") == s[0], "the cluster did not form"
            assert self.active("t") == t[0], "the cluster did not form"

    # --- processes ------------------------------------------------------------------------------------------------

    def start(self, pid: str) -> None:
        """Start a node (N' is the second start of N), and welcome it."""
        boot = LOW + ord(pid[0]) + 256 * pid.count("'")
        self.boots[boot] = pid
        self._add(pid, Node(pid[0], boot, f"tcp://{pid}:1"))
        self._send(Frame("M", pid, MANAGER, self._welcome()))
        self.settle()

    def client(self, pid: str) -> ClientCore:
        """A production client, which learned the map of this moment from the manager."""
        core = ClientCore(LOW + ord(pid), random.Random(ord(pid)))
        self._add(pid, core)
        self._send(Frame("M", pid, MANAGER, self._welcome()))
        self.tell(pid)
        return core

    def _add(self, pid: str, core: Node | ClientCore) -> None:
        # No rule compares two clocks: each starts somewhere else.
        self.processes[pid] = Process(pid, core, 1e6 * ord(pid[0]), self.rates.get(pid[0], 1.0))

    def _welcome(self) -> bytes:
        cluster_ms = 0 if self.timeless else self.cluster_ms
        body = [self.settings.to_wire(), "tcp://m:1", "tcp://m:2", self.manager_boot, cluster_ms]
        return wire.encode(wire.WELCOME, CLUSTER, self.manager_boot, 0, 0, body)

    def node(self, pid: str) -> Node:
        core = self.processes[pid].core
        assert isinstance(core, Node)
        return core

    def boot(self, pid: str) -> int:
        return self.node(pid).boot

    def clock_ms(self, pid: str) -> float:
        """What the clock of a process shows."""
        process = self.processes[pid]
        return process.offset_ms + self.now_ms * process.rate

    @property
    def cluster_ms(self) -> int:
        """Cluster time, as the manager has it."""
        return int(BEGAN_MS + self.now_ms + self.stepped_ms)

    def crash(self, pid: str) -> None:
        """The process is gone; what it had sent travels on."""
        self.processes[pid].alive = False
        self.processes[pid].inbox.clear()

    def pause(self, pid: str) -> None:
        self.processes[pid].paused = True

    def resume(self, pid: str) -> None:
        self.processes[pid].paused = False
        self._turn(self.processes[pid])
        self.settle()

    def active(self, shard: str) -> str:
        """Who holds `shard` for active, leased or not."""
        number = SHARDS[shard]
        return "".join(pid for pid in self.boots.values() if self._is_active(pid, number))

    def _is_active(self, pid: str, number: int) -> bool:
        return self.processes[pid].alive and number in self.node(pid).serving.active

    def serves(self, pid: str, shard: str) -> bool:
        """Whether a node would answer for `shard` at this moment: active, and leased."""
        node = self.node(pid)
        former_ms, node.local.now_ms = node.local.now_ms, self.clock_ms(pid)
        serves = self.processes[pid].alive and node.serving.covers((SHARDS[shard],))
        node.local.now_ms = former_ms
        return serves

    def held_by(self, pid: str, key: str) -> tuple[int, Any, int] | None:
        """The entry of `key` in a node's store: (version, value, expiry), or None."""
        return self.node(pid).local.store.opened(shard_of(key, 2)).get(key)

    # --- the manager by hand
    # --------------------------------------------------------------------------------

    def decide(self, *, s: str | None = None, t: str | None = None, dead: str = "") -> None:
        """The manager decides on the next map (rule 1: epochs, wait lists), and tells nobody yet."""
        old, version = self.map, self.map.version + 1
        shards = list(old.shards)
        for number, replicas in enumerate((s, t)):
            if replicas is None:
                continue
            entry = old.shards[number]
            in_sync, _, learners = replicas.partition("+")
            chosen = tuple(self.boot(pid) for pid in split_names(in_sync))
            filling = tuple(self.boot(pid) for pid in split_names(learners))
            sets = set(entry.replicas) | (set() if self.reported.get(number) == entry.epoch else set(entry.wait))
            waiting = tuple(sorted(boot for boot in sets - set(chosen) if self.boots[boot] not in split_names(dead)))
            shards[number] = Shard(entry.epoch + 1, version, chosen, filling, waiting, entry.born)
            self.filled.pop("st"[number], None)
        members = dict(old.members)
        for pid in split_names(dead):
            members[self.boot(pid)] = members[self.boot(pid)]._replace(state=DEAD)
        for boot, pid in self.boots.items():
            members.setdefault(boot, Member(boot, pid, f"tcp://{pid}:1", "", 1.0, UP))
        self.previous, self.map = old, ShardMap(CLUSTER, version, members, tuple(shards))

    def reborn(self, shard: str) -> None:
        """The decision creates `shard` empty (SAFETY 33)."""
        self._alter(shard, born=self.map.shards[SHARDS[shard]].epoch)

    def withhold(self, shard: str) -> None:
        """The decision takes `shard` from its holders, who keep the data."""
        self._alter(shard, withheld=True)

    def _alter(self, shard: str, **how: Any) -> None:
        shards = list(self.map.shards)
        shards[SHARDS[shard]] = shards[SHARDS[shard]]._replace(**how)
        self.map = ShardMap(CLUSTER, self.map.version, self.map.members, tuple(shards))

    def welcome(self, pid: str) -> None:
        """The manager, perhaps another incarnation, answers a JOIN."""
        self._send(Frame("M", pid, MANAGER, self._welcome()))
        self.settle()

    def tell(self, *pids: str) -> None:
        """The manager sends its map to these alone."""
        for pid in pids:
            data = wire.encode(wire.MAP, CLUSTER, self.manager_boot, 0, self.map.version, self.map.to_wire())
            self._send(Frame("M", pid, MANAGER, data))
        self.settle()

    def publish(self, *pids: str) -> None:
        """The manager's broadcast of its last decision reaches these alone."""
        old, new = self.previous, self.map
        changed = {n: shard for n, shard in enumerate(new.shards) if shard != old.shards[n]}
        members = tuple(member for boot, member in new.members.items() if old.members.get(boot) != member)
        delta = Delta(CLUSTER, old.version, new.version, changed, members)
        for pid in pids:
            data = wire.encode(wire.MAP_DELTA, CLUSTER, self.manager_boot, 0, new.version, delta.to_wire())
            self._send(Frame("M", pid, PUBLISH, data))
        self.settle()

    def change(self, *, s: str | None = None, t: str | None = None, dead: str = "") -> None:
        """The manager decides, and every living process learns it."""
        self.decide(s=s, t=t, dead=dead)
        self.tell(*(pid for pid, process in self.processes.items() if process.alive))

    def _to_manager(self, frame: Frame) -> None:
        if frame.kind == "ACTIVE":
            shards, epochs = map(wire.unpack_u64, wire.decode_body(frame.data))
            self.reported.update(zip(shards, epochs, strict=True))
            answer = wire.encode(
                wire.ACTIVE_ACK, CLUSTER, self.manager_boot, 0, 0, [wire.pack_u64(shards), wire.pack_u64(epochs)]
            )
            self._send(Frame("M", frame.sender, MANAGER, answer))
        elif frame.kind == "FILLED":
            learner, packed, epochs = body = wire.decode_body(frame.data)
            for number, epoch in zip(wire.unpack_u64(packed), wire.unpack_u64(epochs), strict=True):
                if self.map.shards[number].epoch == epoch:
                    self.filled.setdefault("st"[number], set()).add(self.boots[learner])
            answer = wire.encode(wire.FILLED_ACK, CLUSTER, self.manager_boot, 0, 0, body)
            self._send(Frame("M", frame.sender, MANAGER, answer))
        elif frame.kind in ("JOIN", "HELLO"):
            self._send(Frame("M", frame.sender, MANAGER, self._welcome()))

    # --- clients by hand
    # ------------------------------------------------------------------------------------

    def put(self, at: str, keys: str | list[str], values: Any, **how: Any) -> Ask:
        """A put, or several in one batch, sent to node `at`. `how`: see `_ask`."""
        keys, values = (keys, values) if isinstance(keys, list) else ([keys], [values])
        return self._ask(wire.PUT, at, keys, values, **how)

    def get(self, at: str, keys: str | list[str], **how: Any) -> Ask:
        return self._ask(wire.GET, at, keys if isinstance(keys, list) else [keys], None, **how)

    def get_any(self, at: str, keys: str | list[str], **how: Any) -> Ask:
        """A get that a backup may answer."""
        return self._ask(wire.GET_ANY, at, keys if isinstance(keys, list) else [keys], None, **how)

    def exists(self, at: str, key: str, **how: Any) -> Ask:
        return self._ask(wire.EXISTS, at, [key], None, **how)

    def delete(self, at: str, keys: str | list[str], **how: Any) -> Ask:
        return self._ask(wire.DELETE, at, keys if isinstance(keys, list) else [keys], None, **how)

    def op(self, op: int, at: str, keys: list[str], values: list[Any] | None, **how: Any) -> Ask:
        """Any operation by its number."""
        return self._ask(op, at, keys, values, **how)

    def mixed(self, at: str, ops: bytes, keys: list[str], values: list[Any], **how: Any) -> Ask:
        """Operations of several kinds in one request."""
        return self._ask(ops, at, keys, values, **how)

    def touch(self, at: str, key: str, ttl_ms: int, **how: Any) -> Ask:
        """A new time to live; 0: none."""
        return self._ask(wire.TOUCH, at, [key], None, ttls=[ttl_ms], **how)

    def ttl(self, at: str, key: str, **how: Any) -> Ask:
        return self._ask(wire.TTL, at, [key], None, **how)

    def scan(
        self, at: str, shard: str = "s", *, cursor: int = 0, mode: int = wire.SCAN_KEYS, prefix: str = "",
        walk: int = 1, **how: Any,
    ) -> Ask:  # fmt: skip
        """A page of a shard."""
        what, shards = walk << wire.SCAN_MODE_BITS | mode, [SHARDS[shard]]
        return self._ask(wire.SCAN, at, [prefix], [what], operands=[cursor], shards=shards, **how)

    def watch(self, at: str, tokens: dict[str, int], *, prefix: str = "", **how: Any) -> Ask:
        """What happened in these shards after these tokens."""
        how |= {"operands": [*tokens.values()], "shards": [SHARDS[shard] for shard in tokens]}
        return self._ask(wire.WATCH, at, [prefix] * len(tokens), None, **how)

    def _ask(
        self, op: int | bytes, at: str, keys: list[str], values: list[Any] | None, *, client: str = "x",
        batch: int | None = None, watermark: int = 0, indices: list[int] | None = None,
        timeout_ms: float = 100_000.0, routed_by: int | None = None, ack: str = "all",
        operands: list[int] | None = None, shards: list[int] | None = None, ttls: list[int] | None = None,
    ) -> Ask:  # fmt: skip
        """`routed_by`: the client's map version, by default the node's own."""
        writes = not wire.WRITES.isdisjoint(op) if isinstance(op, bytes) else op in wire.WRITES
        if batch is None and writes:
            batch = self._batches[client] = self._batches[client] + 1
        ask = Ask(
            client, batch or 0, watermark, op, keys, values, indices, self.now_ms + timeout_ms, ack=ack,
            operands=operands, shards=shards, ttls=ttls,
        )  # fmt: skip
        self._request(ask, at, routed_by)
        return ask

    def again(self, ask: Ask, at: str, *, routed_by: int | None = None) -> Ask:
        """The same request again, under the same identity, as the client's next try."""
        retry = Ask(
            ask.client, ask.batch, ask.watermark, ask.op, ask.keys, ask.values, ask.indices, ask.deadline_ms,
            ask.attempt + 1, ask.ack, ask.operands, ask.shards, ask.ttls,
        )  # fmt: skip
        self._request(retry, at, routed_by)
        return retry

    def _request(self, ask: Ask, at: str, routed_by: int | None) -> None:
        number = len(self.asks) + 1
        self.asks[number] = ask
        node_deadline_ms = self.clock_ms(at) + (ask.deadline_ms - self.now_ms) * self.processes[at].rate
        body = [
            number, ask.attempt, ask.batch, ask.watermark, node_deadline_ms, ask.op,
            None if ask.indices is None else wire.pack_u16(ask.indices),
            wire.pack_u16(ask.shards or [shard_of(key, 2) for key in ask.keys]), ask.keys, ask.values,
            wire.ACK_LEVELS[ask.ack],
            None if ask.operands is None else wire.pack_u64(ask.operands),
            None if ask.ttls is None else wire.pack_u64(ask.ttls),
        ]  # fmt: skip
        routed_by = self.node(at).map.version if routed_by is None else routed_by
        data = wire.encode(wire.REQUEST, CLUSTER, LOW + ord(ask.client), self.boot(at), routed_by, body)
        self._send(Frame(ask.client, at, ask.client.encode(), data))
        self.settle()

    def _answered(self, frame: Frame) -> None:
        """An answer to a request made by hand."""
        if frame.kind not in ("REPLY", "REFUSED"):
            return
        body = wire.decode_body(frame.data)
        ask = self.asks[body[0]]
        if frame.kind == "REFUSED":
            ask.statuses = ["REFUSED"]
        else:
            _, attempt, _, statuses, versions, values = body
            assert attempt == ask.attempt
            ask.statuses = [STATUS_NAMES[status] for status in statuses or bytes(len(ask.keys))]
            ask.versions, ask.results = wire.unpack_u64(versions), values or []

    # --- faults
    # ---------------------------------------------------------------------------------------------

    def drop(self, sender: str = ANY, receiver: str = ANY, kind: str = ANY) -> Fault:
        """From now on frames of this kind on this link are lost."""
        fault = Fault(sender, receiver, kind)
        self.faults.append(fault)
        return fault

    def hold(self, sender: str = ANY, receiver: str = ANY, kind: str = ANY) -> Fault:
        """From now on frames of this kind on this link are on their way, until they are released."""
        fault = Fault(sender, receiver, kind, [])
        self.faults.append(fault)
        return fault

    def cut(self, pid: str) -> None:
        """Nothing gets to `pid` or from it any more."""
        self.drop(pid, ANY)
        self.drop(ANY, pid)

    def heal(self, *faults: Fault) -> None:
        """End these faults, or all; what was held arrives."""
        for fault in faults or tuple(self.faults):
            self.faults.remove(fault)
            self.release(fault)

    def release(self, fault: Fault, most: int = 1_000_000) -> None:
        """Let the oldest held frames arrive; the fault goes on."""
        held = fault.held or []
        for frame in held[:most]:
            self._links[frame.sender, frame.receiver].append(frame)
        del held[:most]
        self.settle()

    def replay(self, frame: Frame) -> None:
        """A frame arrives (once more)."""
        self._links[frame.sender, frame.receiver].append(frame)
        self.settle()

    # --- time and frames
    # ------------------------------------------------------------------------------------

    def advance(self, ms: float) -> None:
        """Time passes: every process has a turn whenever it asked for one."""
        end_ms = self.now_ms + ms
        while True:
            self.settle()
            running = [p for p in self.processes.values() if p.alive and not p.paused]
            wakes = [(p.core.next_wake_ms - p.offset_ms) / p.rate for p in running]
            wake_ms = max(self.now_ms, min(wakes, default=end_ms + 1)) + 1e-6
            if wake_ms > end_ms:
                break
            self.now_ms = wake_ms
            for process in running:
                if process.core.next_wake_ms <= self.clock_ms(process.pid):
                    self._turn(process)
        self.now_ms = end_ms
        self.settle()

    def settle(self) -> None:
        """Deliver everything that is under way, until nothing is."""
        for _ in range(10_000):
            for link in self._links.values():
                while link:
                    self._arrive(link.popleft())
            waiting = [p for p in self.processes.values() if p.inbox and not p.paused]
            if not waiting:
                return
            for process in waiting:
                self._turn(process)
        raise AssertionError("the frames never come to rest")

    def _turn(self, process: Process) -> None:
        frames, process.inbox = process.inbox, []
        for address, data in process.core.step(frames, self.clock_ms(process.pid)):
            if isinstance(address, bytes):
                self._send(Frame(process.pid, address.decode(), self.boot(process.pid), data))
            elif address in (MANAGER, PUBLISH):
                self._send(Frame(process.pid, "M", process.pid.encode(), data))
            else:
                self._send(Frame(process.pid, self._listening(address), process.pid.encode(), data))
        if isinstance(process.core, Node):
            process.core.check_invariants()
            for shard in SHARDS:
                servers = [pid for pid in self.boots.values() if self.serves(pid, shard)]
                assert len(servers) <= 1, f"{servers} all serve {shard}"

    def _listening(self, boot: int) -> str:
        """Who listens where `boot` did: its latest incarnation."""
        return [pid for pid in self.boots.values() if pid[0] == self.boots[boot][0]][-1]

    def _send(self, frame: Frame) -> None:
        self.trace.append(f"{frame.sender} -> {frame.receiver} {frame.kind}")
        for fault in self.faults:
            if fault.matches(frame):
                (self.lost if fault.held is None else fault.held).append(frame)
                return
        self._links[frame.sender, frame.receiver].append(frame)

    def _arrive(self, frame: Frame) -> None:
        process = self.processes.get(frame.receiver)
        if frame.receiver == "M":
            self._to_manager(frame)
        elif process is None:
            self._answered(frame)
        elif process.alive:
            process.inbox.append((frame.source, frame.data))

    def call(self, pid: str, op: int, keys: list[str], values: list[Any] | None, timeout_ms: float = 5000.0) -> Call:
        """A call of a production client; it goes as far as it gets without time passing."""
        process = self.processes[pid]
        assert isinstance(process.core, ClientCore)
        now_ms = self.clock_ms(pid)
        call = process.core.submit(Call(op, keys, values, now_ms, now_ms + timeout_ms))
        self._turn(process)
        self.settle()
        return call
