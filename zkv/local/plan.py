"""What a launcher is asked to start, and the errors of starting it.

A plan crosses from the process that asks (a command, a program with a `LocalCluster`) to the launcher process as one
line of JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from zkv.core.placement.layout import LayoutError, parse
from zkv.core.settings import ClusterSettings, NodeConfig, settings_of
from zkv.errors import SettingError, ZkvError

__all__ = ["MANAGER", "Autoscale", "LaunchError", "NotRunning", "Plan", "node_names", "nodes_of_shard_map"]

MANAGER: Final = "manager"
"""The manager's name, beside `server1` … `serverN`."""


class LaunchError(ZkvError):
    """A cluster of local processes could not be started, or a request to its launcher failed.

    `exit_status`: what a command that ends with this error returns: 2 where it was asked for something that cannot
    be (a port in use, an unknown name), 3 otherwise, as with all commands.
    """

    def __init__(self, message: str, *, exit_status: int = 3) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class NotRunning(LaunchError):
    """No launcher runs in the run directory."""


def node_names(nodes: int) -> list[str]:
    """`server1` … `serverN`."""
    return [f"server{number}" for number in range(1, nodes + 1)]


@dataclass(frozen=True, slots=True)
class Autoscale:
    """The bounds within which nodes are added and drained. Raises SettingError where they make no sense."""

    low: int
    high: int
    hold_s: float = 10.0
    """How long the same advice has to last."""
    cooldown_s: float = 30.0
    """How long nothing is changed after a change."""

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise SettingError(f"autoscale is {self.low}:{self.high}, it must be MIN:MAX with 1 <= MIN <= MAX")

    @classmethod
    def parse(cls, text: str, hold_s: float, cooldown_s: float) -> Autoscale:
        """From `MIN:MAX`. Raises SettingError."""
        low, _, high = text.partition(":")
        if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
            raise SettingError(f"autoscale is {text!r}, it must be MIN:MAX, for example 3:7")
        return cls(int(low), int(high), hold_s, cooldown_s)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. Raises SettingError where the settings contradict each other."""

    run_dir: str
    """Absolute path."""
    nodes: int
    replicas: int
    port: int = 0
    """The manager's port on the loopback interface; 0 takes any free one."""
    settings: dict[str, int | float | str] = field(default_factory=dict)
    """Other cluster settings by name, where they differ from their defaults: `lease_ms`, `shards`."""
    manager_restart: bool = True
    """Whether a manager that dies is started again."""
    zones: tuple[str, ...] = ()
    """Zones, given to the nodes in turn; a node that is added later is put where there are fewest."""
    weights: tuple[float, ...] = ()
    """Weights, given to the first nodes in turn; 1 for all if there are none."""
    respawn: bool = False
    """Whether a node that dies is replaced by a new one under its name."""
    autoscale: Autoscale | None = None
    """Whether nodes are added and drained as the manager advises."""
    shard_map: str | None = None
    """Absolute path of the operator's placement (`zkv.core.placement.layout`); `nodes` and `replicas` must be what it
    says."""
    bound_to_parent: bool = False
    """Whether the launcher ends, and everything with it, as soon as the process that started it is gone."""
    ephemeral: bool = False
    """Whether the run directory goes too, when the cluster ends because the parent is gone."""
    start_timeout_s: float = 30.0
    """How long the start may take until every shard is served."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingError(f"port is {self.port}, it must be from 0 (any free one) to 65535")
        for name, path in (("run_dir", self.run_dir), ("shard_map", self.shard_map)):
            if path is not None and not Path(path).is_absolute():
                raise SettingError(f"{name} is {path}, it must be absolute")
        for weight in self.weights:
            NodeConfig(name="server1", weight=weight)  # checks it
        if not all(self.zones):
            raise SettingError("zones names an empty zone")
        try:
            self.cluster_settings()
        except TypeError:
            known = ", ".join(sorted(ClusterSettings.__slots__))
            unknown = ", ".join(sorted(set(self.settings) - set(ClusterSettings.__slots__)))
            raise SettingError(f"there is no cluster setting {unknown}; there are {known}") from None
        if self.autoscale is not None:
            if not isinstance(self.autoscale, Autoscale):
                raise SettingError(f"autoscale is {self.autoscale!r}, it must be a pair: (3, 7)")
            self._check_autoscale(self.autoscale)

    def _check_autoscale(self, bounds: Autoscale) -> None:
        if not bounds.low <= self.nodes <= bounds.high:
            raise SettingError(f"nodes is {self.nodes}, it must be within autoscale, {bounds.low} to {bounds.high}")
        if self.shard_map is not None:
            raise SettingError("autoscale and shard_map exclude each other: the file says which nodes there are")

    def weight(self, place: int) -> float:
        """Of the node at this place, from 0 on."""
        return self.weights[place % len(self.weights)] if self.weights else 1.0

    def cluster_settings(self) -> ClusterSettings:
        """The settings of the cluster, checked."""
        # Any: each value is checked against its type by ClusterSettings itself.
        rest: dict[str, Any] = dict(self.settings)
        return ClusterSettings(nodes=self.nodes, replicas=self.replicas, **rest)

    def manager_flags(self) -> list[str]:
        """The flags of `zkv-manager` that say what cluster it is."""
        named = {"nodes": self.nodes, "replicas": self.replicas, **self.settings}
        flags = {setting.name: setting.flag for setting in settings_of(ClusterSettings)}
        placed = ["--shard-map", self.shard_map] if self.shard_map is not None else []
        return [part for name, value in named.items() for part in (flags[name], str(value))] + placed

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Plan:
        """The inverse of `to_json`."""
        body = json.loads(line)
        if body["autoscale"] is not None:
            body["autoscale"] = Autoscale(**body["autoscale"])
        return cls(**body | {name: tuple(body[name]) for name in ("zones", "weights")})


def nodes_of_shard_map(path: str, nodes: int | None, replicas: int | None) -> tuple[str, int, int]:
    """What the operator's placement says: its absolute path, the number of nodes, and of copies.

    `nodes`, `replicas`: what was asked for beside it, None if nothing was. Raises SettingError with the reason where
    the file cannot be read, makes no sense, says something else, or names other nodes than `server1` … `serverN`.
    """
    absolute = str(Path(path).expanduser().absolute())
    try:
        layout = parse(Path(absolute).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"the placement {path} cannot be read: {error.strerror}") from None
    except (LayoutError, UnicodeDecodeError) as error:
        raise SettingError(f"the placement {path} is refused: {error}") from None
    found, copies = len(layout.nodes), max(map(len, layout.shards))
    strange = sorted(set(layout.nodes).difference(node_names(found)))
    if strange:
        raise SettingError(
            f"the placement {path} names {strange[0]}: a launcher's nodes are called server1 to server{found}"
        )
    for name, asked, given in (("nodes", nodes, found), ("replicas", replicas, copies)):
        if asked not in (None, given):
            raise SettingError(f"{name} is {asked}, but the placement {path} has {given}: leave it out")
    return absolute, found, copies
