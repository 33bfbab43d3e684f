"""What the soak does to its cluster: nodes and the manager are killed, paused, cut off, nodes come and go.

Everything that is promised holds while one in-sync copy of each shard can go on, so no more than that is done: who is
to be killed is killed only if, by the map of that moment, each shard keeps a copy on a node that is well.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from zkv import LocalCluster
from zkv.errors import UsageError, ZkvError
from zkv.local.plan import LaunchError
from zkv.net.admin import AdminLink

MANAGER: Final = "manager"
PAUSES_S: Final = (0.1, 0.5, 1.0, 2.0, 3.0)
REST_S: Final = (0.3, 1.0, 2.0, 3.0)
MENDED_S: Final = 90.0
WELL: Final = 2
"""Nodes that are left alone at least."""


class Tormentor:
    """Does one thing after the other to a cluster; call `step` often."""

    def __init__(self, cluster: LocalCluster, seed: int, *, name: str, kills_only: bool = False) -> None:
        self.cluster = cluster
        self.name = name
        self.rng = random.Random(f"{seed} {name}")
        self.counts: Counter[str] = Counter()
        self.story: list[tuple[float, str]] = []
        """When (monotonic, s) what was done."""
        self._link = AdminLink(cluster.manager, timeout_s=1.0)
        self._nodes = len(cluster.names)
        self._due: list[tuple[float, Callable[[], None]]] = []
        """What has to be undone, and when."""
        self._unwell: set[str] = set()
        self._next_s = time.monotonic() + 1.0
        kill = self._kill_one
        self._acts: tuple[Callable[[], None], ...] = (kill,) if kills_only else (
            kill, kill, kill, self._kill_two, self._pause, self._pause, self._cut_off, self._quarrel, self._quarrel,
            self._kill_manager, self._restart_manager, self._pause_manager, self._cut_manager, self._add, self._drain,
        )  # fmt: skip
        self._rest_s: tuple[float, ...] = (4.0, 8.0) if kills_only else REST_S

    def step(self) -> None:
        """Do what is due."""
        now_s = time.monotonic()
        for due_s, undo in [one for one in self._due if one[0] <= now_s]:
            self._due.remove((due_s, undo))
            self._try(undo)
        if now_s >= self._next_s:
            self._try(self.rng.choice(self._acts))
            self._next_s = time.monotonic() + self.rng.choice(self._rest_s)

    def mend(self) -> None:
        """Undo everything, and wait until the cluster is well. Raises TimedOut where it does not become so."""
        for _, undo in self._due:
            self._try(undo)
        self._due.clear()
        self.cluster.reconnect()
        self.cluster.wait_healthy(MENDED_S)
        self._link.close()

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (LaunchError, UsageError) as error:
            self.counts["refused"] += 1
            self._tell(f"refused: {error}")
        except ZkvError as error:
            self.counts["not possible just now"] += 1
            self._tell(f"not possible: {error}")

    def _tell(self, text: str) -> None:
        self.story.append((time.monotonic(), f"{self.name}: {text}"))

    def _did(self, what: str, *names: str) -> None:
        self.counts[what] += 1
        self._tell(f"{what} {' '.join(names)}")

    def _later(self, after_s: float, undo: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + after_s, undo))

    # --- who -------------------------------------------------------------------------------------------------------

    def _up(self) -> list[str]:
        """Nodes that run, and that nothing was done to."""
        nodes: list[dict[str, Any]] = self.cluster.status()["nodes"]
        return sorted(node["name"] for node in nodes if node["up"] and node["name"] not in self._unwell)

    def _may_lose(self, victims: list[str]) -> bool:
        """Whether each shard keeps a copy that is well."""
        nodes: list[dict[str, Any]] = self.cluster.status()["nodes"]
        up = {node["boot"]: node["name"] for node in nodes if node["up"] and node["name"] not in self._unwell}
        shard_map = self._link.map()
        return bool(shard_map.shards) and all(
            any(up.get(f"{boot:016x}") not in (None, *victims) for boot in shard.replicas) for shard in shard_map.shards
        )

    # --- what ------------------------------------------------------------------------------------------------------

    def _kill(self, count: int) -> None:
        up = self._up()
        if len(up) <= count:
            return
        victims = self.rng.sample(up, count)
        if self._may_lose(victims):
            self.cluster.kill(*victims)
            self._did("kills" if count == 1 else "kills of two at once", *victims)

    def _kill_one(self) -> None:
        self._kill(1)

    def _kill_two(self) -> None:
        self._kill(2)

    def _unwell_for(self, names: list[str], after_s: float, undo: Callable[[], None]) -> None:
        self._unwell.update(names)

        def well_again() -> None:
            try:
                undo()
            finally:
                self._unwell.difference_update(names)

        self._later(after_s, well_again)

    def _victims(self, count: int) -> list[str]:
        """Nodes for something that passes; none where so many are unwell already that hardly anything would go on."""
        up = self._up()
        return self.rng.sample(up, count) if len(up) >= count + WELL else []

    def _pause(self) -> None:
        for victim in self._victims(1):
            self._pause_for(victim, self.rng.choice(PAUSES_S))

    def _pause_for(self, victim: str, seconds: float) -> None:
        self.cluster.pause(victim)
        self._did("pauses", victim)
        self._unwell_for([victim], seconds, lambda: self.cluster.resume(victim))

    def _cut_off(self) -> None:
        for victim in self._victims(1):
            self.cluster.partition(victim)
            self._did("nodes cut off", victim)
            self._unwell_for([victim], self.rng.choice(PAUSES_S), self.cluster.reconnect)

    def _quarrel(self) -> None:
        pair = self._victims(2)
        if pair:
            one, other = pair
            self.cluster.partition(one, apart_from=other)
            self._did("pairs parted", one, other)
            self._unwell_for([one, other], self.rng.choice(PAUSES_S), self.cluster.reconnect)

    def _kill_manager(self) -> None:
        if MANAGER not in self._unwell:
            self.cluster.kill(MANAGER)
            self._did("manager kills")

    def _restart_manager(self) -> None:
        if MANAGER not in self._unwell:
            self.cluster.restart_manager()
            self._did("manager restarts")

    def _pause_manager(self) -> None:
        if MANAGER not in self._unwell:
            self.cluster.pause(MANAGER)
            self._did("manager pauses")
            self._unwell_for([MANAGER], self.rng.choice(PAUSES_S), lambda: self.cluster.resume(MANAGER))

    def _cut_manager(self) -> None:
        self.cluster.partition(MANAGER)
        self._did("manager cut off")
        self._later(self.rng.choice(PAUSES_S), self.cluster.reconnect)

    def _add(self) -> None:
        if MANAGER not in self._unwell and len(self._up()) < self._nodes + 2:
            self._did("nodes added", self.cluster.add(wait=False))

    def _drain(self) -> None:
        up = self._up()
        if MANAGER not in self._unwell and len(up) >= self._nodes:
            victim = self.rng.choice(up)
            self.cluster.drain(victim, wait=False)
            self._did("drains", victim)
