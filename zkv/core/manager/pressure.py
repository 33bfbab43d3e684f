"""Relief for nodes that are short of memory: they are given a smaller part of the shards, others a larger (pure).

Primaries refuse or evict at their own limit, but a backup takes what its primary accepted: so a node may find itself
over its limit, most likely where limits differ and weights do not follow them. Then, and where a node refuses writes,
copies move from it to nodes that have room. The means are the weights that placement goes by: each node's is multiplied
with a *factor*, by name, 1 for all as long as nothing presses. So all that steering promises holds: copies are complete
before others leave, moves are throttled, and the map comes to rest.

It would be easy to move shards to and fro for ever. Hence:

- nothing is decided while the map changes or anything is filled, nor before a node has been short for a while: each
  decision sees what the last one brought;
- a node sheds so much that it is well below its limit (`GOAL`), and nobody takes more than leaves him further below his
  (`ROOM`): it takes growth, not a fluctuation, to press again. What has no room elsewhere stays where it is;
- a decision is a number of copies for each node, and stays in force, as factors, while data comes and goes; it is made
  durable, so that a restarted manager does not undo it;
- the factors go only when with plain weights every node would have been far below its limit (`CALM`), for minutes.

Nodes without a limit are never pressed, and have room for whatever comes. Zones may leave the planner less choice than
the counting here: what the planner would make of the factors is worked out before, and dropped where it would press
somebody else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from zkv.core.load import Load
from zkv.core.manager.effects import Event
from zkv.core.manager.events import EventLog
from zkv.core.manager.memory import is_over
from zkv.core.placement.initial import Candidate, natural_order, shares
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import Member, ShardMap

GOAL: Final = 0.9
"""A node that is relieved comes down to this part of its limit."""
ROOM: Final = 0.85
"""Up to this part of its limit a node takes from others."""
BACK: Final = 0.95
"""At this part of its limit a node that was over it is told to be below it again."""
CALM: Final = 0.7
"""Below this part of each limit, were the weights plain, pressure is gone."""
STILL_MS: Final = 5000.0
"""So long the map must not have changed before anything is decided."""
HOLD_MS: Final = 3000.0
"""So long a node must have been short of memory."""
REFUSED_MS: Final = 10_000.0
"""A node that refused a write is short of memory for so long."""
CALM_MS: Final = 120_000.0
"""So long pressure must have been gone."""


class Pressure:
    """Who is short of memory, and the factors that follow. Times are on the manager's awake clock."""

    def __init__(
        self, settings: ClusterSettings, log: EventLog, factors: Mapping[str, float], events: Iterable[Event]
    ) -> None:
        """`factors`, `events`: what a former incarnation left."""
        self._settings = settings
        self._log = log
        self.factors: dict[str, float] = dict(factors)
        """By name, what the weight is multiplied with; 1 where there is none. Durable."""
        told = {str(event.data["node"]): event.data["over"] for event in events if event.kind == "memory"}
        self._told = {name for name, over in told.items() if over}
        """Names of those who were reported to be over their limit."""
        self._refused: dict[int, tuple[int, float]] = {}
        """boot -> writes refused for want of memory, and when there were more."""
        self._short_ms: dict[int, float] = {}
        """boot -> since when it is short of memory."""
        self._still: tuple[int, float] = (-1, 0.0)
        """The map's version, and since when it is that."""
        self._calm_ms: float | None = None
        """Since when nobody would need the factors."""

    def weighed(self, members: Iterable[Member]) -> list[Member]:
        """`members` with the weights that placement goes by."""
        if not self.factors:
            return list(members)
        return [one._replace(weight=one.weight * self.factors.get(one.name, 1.0)) for one in members]

    def look(
        self, map: ShardMap, holders: Sequence[Member], load: Mapping[int, Load], busy: bool, now_ms: float
    ) -> bool:
        """Called once a heartbeat; True where the factors have changed.

        `holders`: those that may be given shards, with their own weights; `load`: boot -> what its last heartbeat said;
        `busy`: whether shards are on the move, or placement is not ours.
        """
        self._report(holders, load)
        if map.version != self._still[0] or busy:
            self._still = (map.version, now_ms)
        self._notice(holders, load, now_ms)
        if not map.version or not (self.factors or self._short_ms) or any(one.boot not in load for one in holders):
            self._calm_ms = None
            return False
        rested = now_ms - self._still[1] >= STILL_MS
        pressed = [boot for boot, since_ms in self._short_ms.items() if now_ms - since_ms >= HOLD_MS]
        plan = _Plan(map, holders, load, self._settings.replicas)
        if not self.factors or not plan.is_calm():
            self._calm_ms = None
        elif self._calm_ms is None:
            self._calm_ms = now_ms
        if not rested or not plan.is_whole:
            return False
        if self._calm_ms is not None:
            return self._return(now_ms)
        return bool(pressed) and self._relieve(plan, pressed, now_ms)

    def _notice(self, holders: Sequence[Member], load: Mapping[int, Load], now_ms: float) -> None:
        """Who is over the limit, or refused writes a short while ago."""
        short = []
        known, self._refused = self._refused, {}
        for one in holders:
            held = load.get(one.boot, Load())
            if not held.limit_bytes:
                continue
            count, at_ms = known.get(one.boot, (held.refused, float("-inf")))
            self._refused[one.boot] = (held.refused, now_ms if held.refused > count else at_ms)
            at_ms = self._refused[one.boot][1]
            # What was refused before the last moves ended may be mended by them.
            if is_over(held) or (now_ms - at_ms < REFUSED_MS and at_ms >= self._still[1]):
                short.append(one.boot)
        self._short_ms = {boot: self._short_ms.get(boot, now_ms) for boot in short}

    def _return(self, now_ms: float) -> bool:
        if self._calm_ms is None or now_ms - self._calm_ms < CALM_MS:
            return False
        self.factors, self._calm_ms = {}, None
        self._log.add("move", "no memory is short any more: shards are placed by the nodes' own weights again")
        return True

    def _report(self, holders: Sequence[Member], load: Mapping[int, Load]) -> None:
        for one in holders:
            held = load.get(one.boot, Load())
            data = {"node": one.name, "bytes": held.bytes, "limit_bytes": held.limit_bytes}
            if is_over(held) and one.name not in self._told:
                self._told.add(one.name)
                text = f"{one.name} is over its memory limit: {held.bytes} of {held.limit_bytes} bytes"
                self._log.add("memory", text, over=True, **data)
            elif one.name in self._told and one.boot in load and held.bytes <= BACK * held.limit_bytes:
                self._told.discard(one.name)
                text = f"{one.name} is below its memory limit again: {held.bytes} of {held.limit_bytes} bytes"
                self._log.add("memory", text, over=False, **data)
            elif one.name in self._told and one.boot in load and not held.limit_bytes:
                self._told.discard(one.name)
                self._log.add("memory", f"{one.name} has no memory limit any more", over=False, **data)

    def _relieve(self, plan: _Plan, pressed: Sequence[int], now_ms: float) -> bool:
        shed = plan.shed(pressed)
        if shed is None:
            return False
        self.factors, moved = shed
        self._still = (-1, now_ms)
        names = ", ".join(sorted(moved, key=natural_order))
        text = f"{sum(moved.values())} copies are to leave {names}, short of memory, for nodes that have room"
        self._log.add("move", text, nodes=moved)
        return True


class _Plan:
    """How many copies each node holds, what they take, and how many it is to hold."""

    def __init__(self, map: ShardMap, holders: Sequence[Member], load: Mapping[int, Load], replicas: int) -> None:
        self._holders = sorted(holders, key=lambda one: natural_order(one.name))
        self._shards = len(map.shards)
        self._replicas = min(replicas, len(holders))
        counts = Counter(boot for shard in map.shards for boot in shard.replicas)
        self._copies = {one.boot: counts[one.boot] for one in holders}
        self._load = load
        total = sum(self._copies.values())
        self._mean_bytes = sum(load[one.boot].bytes for one in holders) / total if total else 0.0
        """What a copy takes on average."""
        self.is_whole = total == sum(counts.values()) == self._shards * self._replicas
        """Whether the holders hold all copies that there should be, and nobody else any."""

    def is_calm(self) -> bool:
        """Whether every node would be far below its limit if weights were plain."""
        plain = self._placed({one.boot: one.weight for one in self._holders})
        return all(
            plain[one.boot] * self._mean_bytes <= CALM * limit
            for one in self._holders
            if (limit := self._load[one.boot].limit_bytes)
        )

    def shed(self, pressed: Sequence[int]) -> tuple[dict[str, float], dict[str, int]] | None:
        """The factors by which nodes of `pressed` hold fewer copies, and how many fewer; None where nothing helps.

        First anybody may take what they shed; where zones do not let it come out so, only nodes of their zones.
        """
        zones = {one.zone for one in self._holders if one.boot in pressed}
        for takers in (self._holders, [one for one in self._holders if one.zone in zones]):
            wanted = self._wanted(pressed, [one for one in takers if one.boot not in pressed])
            made = self._placed({boot: max(count, 1) for boot, count in wanted.items()})
            moved = {
                one.name: self._copies[one.boot] - round(made[one.boot])
                for one in self._holders
                if one.boot in pressed and made[one.boot] <= self._copies[one.boot] - 1
            }
            if moved and self._presses_nobody(made, pressed):
                return self._factors(wanted), moved
        return None

    def _wanted(self, pressed: Sequence[int], takers: Sequence[Member]) -> dict[int, int]:
        """Copies by node: one after the other goes from whoever is fullest to whoever has fewest for his weight."""
        wanted = dict(self._copies)
        load = self._load
        own = {boot: load[boot].bytes / max(1, self._copies[boot]) for boot in pressed}
        goal = {boot: GOAL * min(1.0, load[boot].bytes / load[boot].limit_bytes) for boot in pressed}

        def filled(boot: int) -> float:
            """Which part of its limit a pressed node would hold."""
            left = load[boot].bytes - (self._copies[boot] - wanted[boot]) * own[boot]
            return left / load[boot].limit_bytes

        for _ in range(sum(self._copies.values())):
            givers = [boot for boot in pressed if wanted[boot] > 1 and filled(boot) > goal[boot]]
            free = [one for one in takers if self._has_room(one.boot, wanted[one.boot] + 1)]
            if not givers or not free:
                break
            wanted[max(givers, key=filled)] -= 1
            wanted[min(free, key=lambda one: wanted[one.boot] / one.weight).boot] += 1
        return wanted

    def _has_room(self, boot: int, copies: float) -> bool:
        """Whether a node may hold so many copies instead of those it has."""
        held = self._load[boot]
        after = held.bytes + (copies - self._copies[boot]) * self._mean_bytes
        return copies <= self._shards and (not held.limit_bytes or after <= ROOM * held.limit_bytes)

    def _presses_nobody(self, made: Mapping[int, float], pressed: Sequence[int]) -> bool:
        """Whether who is to hold more has room for it, a copy for rounding aside; who is pressed holds no more."""
        return all(
            count <= self._copies[boot] or (boot not in pressed and (
                count < self._copies[boot] + 1 or self._has_room(boot, int(count))
            ))
            for boot, count in made.items()
        )  # fmt: skip

    def _placed(self, weights: Mapping[int, float]) -> dict[int, float]:
        """How many copies the planner gives to each node, rounding aside."""
        nodes = [Candidate(one.name, one.boot, one.zone, weights[one.boot]) for one in self._holders]
        parts = shares(nodes, self._replicas)
        return {node.boot: float(part) * self._shards for node, part in zip(nodes, parts, strict=True)}

    def _factors(self, wanted: Mapping[int, int]) -> dict[str, float]:
        """Weights in proportion to `wanted`, on average what they were: a node that joins counts as it would have."""
        # Few bits, so that products are exact and nobody's part is off by a fraction: that could be a copy more.
        mantissa, exponent = math.frexp(sum(one.weight for one in self._holders) / sum(wanted.values()))
        scale = math.ldexp(round(mantissa * 1024), exponent - 10)
        return {one.name: max(wanted[one.boot], 1) * scale / one.weight for one in self._holders}
