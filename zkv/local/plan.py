"""What a launcher is asked to start, and the errors of starting it.

A plan crosses from the process that asks (a command, a program with a `LocalCluster`) to the launcher process as one
line of JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from zkv.core.settings import ClusterSettings, settings_of
from zkv.errors import SettingError, ZkvError

__all__ = ["MANAGER", "LaunchError", "NotRunning", "Plan", "node_names"]

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
    bound_to_parent: bool = False
    """Whether the launcher ends, and everything with it, as soon as the process that started it is gone."""
    ephemeral: bool = False
    """Whether the run directory goes too, when the cluster ends because the parent is gone."""
    start_timeout_s: float = 30.0
    """How long the start may take until every shard is served."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingError(f"port is {self.port}, it must be from 0 (any free one) to 65535")
        if not Path(self.run_dir).is_absolute():
            raise SettingError(f"run_dir is {self.run_dir}, it must be absolute")
        try:
            self.cluster_settings()
        except TypeError:
            known = ", ".join(sorted(ClusterSettings.__slots__))
            unknown = ", ".join(sorted(set(self.settings) - set(ClusterSettings.__slots__)))
            raise SettingError(f"there is no cluster setting {unknown}; there are {known}") from None

    def cluster_settings(self) -> ClusterSettings:
        """The settings of the cluster, checked."""
        # Any: each value is checked against its type by ClusterSettings itself.
        rest: dict[str, Any] = dict(self.settings)
        return ClusterSettings(nodes=self.nodes, replicas=self.replicas, **rest)

    def manager_flags(self) -> list[str]:
        """The flags of `zkv-manager` that say what cluster it is."""
        named = {"nodes": self.nodes, "replicas": self.replicas, **self.settings}
        flags = {setting.name: setting.flag for setting in settings_of(ClusterSettings)}
        return [part for name, value in named.items() for part in (flags[name], str(value))]

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Plan:
        """The inverse of `to_json`."""
        return cls(**json.loads(line))
