"""The storage nodes of a launcher: which there are, where they are put, and which are started again.

A node keeps its data in memory. So one that dies is never *re*started: where it is replaced (`--respawn`) the new
process has a new boot id, is a new, empty member, and is filled by the others (SAFETY 2, 20). A node that ended by
itself with status 0 was drained or asked to leave, and stays away.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from zkv.local.backoff import Backoff
from zkv.local.control import Reply
from zkv.local.plan import LaunchError, Plan
from zkv.local.processes import Child

__all__ = ["NODES_LIMIT", "Nodes"]

NODES_LIMIT: Final = 1000
"""Processes that one launcher keeps."""
# A node that ends sooner than this after its start is replaced with growing delays, any other one at once.
_STEADY_S: Final = 10.0
_BACKOFF_S: Final = 0.5
_BACKOFF_MAX_S: Final = 10.0


@dataclass(slots=True)
class _Node:
    """A name, and the process that bears it at present."""

    child: Child
    zone: str
    weight: float
    memory_limit_bytes: int | None
    backoff: Backoff
    due: bool = False
    """Whether it is about to be replaced."""

    @property
    def state(self) -> str:
        """`up`, `respawning`, `left` (drained, or asked to end), or `dead`."""
        if self.child.up:
            return "up"
        if self.due:
            return "respawning"
        return "left" if self.child.exit_status == 0 else "dead"


@dataclass(slots=True)
class _Addition:
    """An answer that waits until all of these listen."""

    reply: Reply
    names: list[str]
    missing: set[str] = field(default_factory=set)


class Nodes:
    """All of them by name, the ended ones included."""

    def __init__(
        self,
        plan: Plan,
        *,
        start: Callable[[str, str, float, int | None], Child],
        later: Callable[[float, Callable[[], None]], None],
        say: Callable[[str], None],
    ) -> None:
        """`start(name, zone, weight, memory_limit_bytes)` starts a process, or raises LaunchError; `later` and `say` as
        of the supervisor."""
        self._plan = plan
        self._start = start
        self._later = later
        self._say = say
        self._nodes: dict[str, _Node] = {}
        self._additions: list[_Addition] = []

    def children(self) -> list[Child]:
        """Their processes, those that have ended included."""
        return [node.child for node in self._nodes.values()]

    def rows(self) -> list[dict[str, Any]]:
        """What `zkv-launch status --json` says of them."""
        return [
            {
                "name": name,
                "pid": node.child.pid if node.child.up else None,
                "endpoint": node.child.endpoint,
                "up": node.child.up,
                "state": node.state,
                "boot": f"{node.child.boot_id:016x}",
            }
            for name, node in self._nodes.items()
        ]

    def add(
        self, count: int, zone: str = "", weight: float | None = None, memory_limit_bytes: int | None = None
    ) -> list[str]:
        """Start `count` further nodes and return their names. `zone` "": one of the plan's; `weight` None: as the plan
        says; `memory_limit_bytes` None: the cluster's. Raises LaunchError; what was started by then goes on."""
        if len(self._nodes) + count > NODES_LIMIT:
            raise LaunchError(f"one launcher keeps {NODES_LIMIT} nodes at most", exit_status=2)
        names = []
        for _ in range(count):
            place = len(self._nodes)
            name = f"server{place + 1}"
            where = zone or self._emptiest_zone()
            heavy = self._plan.weight(place) if weight is None else weight
            backoff = Backoff(_BACKOFF_S, _BACKOFF_MAX_S, _STEADY_S)
            child = self._start(name, where, heavy, memory_limit_bytes)
            self._nodes[name] = _Node(child, where, heavy, memory_limit_bytes, backoff)
            backoff.started(time.monotonic())
            names.append(name)
        return names

    def _emptiest_zone(self) -> str:
        zones = self._plan.zones
        there = Counter(node.zone for node in self._nodes.values() if node.state not in ("left", "dead"))
        return min(zones, key=there.__getitem__, default="")  # the first of equals: so they come in turn

    def answer_when_ready(self, reply: Reply, names: list[str]) -> None:
        """Answer once all of these listen, or one of them has ended before."""
        self._additions.append(_Addition(reply, names, set(names)))

    def ready(self, child: Child) -> None:
        """A node listens."""
        for addition in list(self._additions):
            addition.missing.discard(child.name)
            if not addition.missing:
                self._additions.remove(addition)
                rows = {row["name"]: row for row in self.rows()}
                addition.reply.ok(nodes=[rows[name] for name in addition.names])

    def ended(self, child: Child, how: str) -> None:
        """A node has ended while the cluster runs."""
        node = self._nodes[child.name]
        for addition in [one for one in self._additions if child.name in one.missing]:
            self._additions.remove(addition)
            addition.reply.error(f"{child.name} {how} as it was started: look at its log")
        if child.exit_status == 0:
            self._say(f"{child.name} (pid {child.pid}) has left")
        elif self._plan.respawn:
            delay_s = node.backoff.ended(time.monotonic())
            when = f"in {delay_s:g} s" if delay_s else "now"
            self._say(f"{child.name} (pid {child.pid}) {how}; it is replaced {when}")
            node.due = True
            self._later(delay_s, lambda: self._replace(child.name))
        else:
            self._say(f"{child.name} (pid {child.pid}) {how}")

    def _replace(self, name: str) -> None:
        node = self._nodes[name]
        try:
            node.child = self._start(name, node.zone, node.weight, node.memory_limit_bytes)
        except LaunchError as error:  # the machine is out of processes, say: go on trying
            self._say(str(error))
            self._later(_BACKOFF_MAX_S, lambda: self._replace(name))
            return
        node.due = False
        node.backoff.started(time.monotonic())

    def refuse_additions(self, message: str) -> None:
        """Nobody of those that are awaited will come."""
        for addition in self._additions:
            addition.reply.error(message)
        self._additions.clear()
