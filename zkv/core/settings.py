"""Every setting of zkv, defined once.

A setting is one field of one of the three dataclasses below. Its metadata (help, unit, bounds) is what
the command lines make their flags from, the environment variables their names, the constructors their
checks and `docs/SETTINGS.md` its tables (`python -m zkv.core.settings` prints that file). So the four cannot
disagree, and a new setting is one line here.

Whoever holds one of these objects may rely on it: a constructor that returns has checked each bound and
each relation between settings, and raises `SettingError` otherwise, with both names, both values and
the relation in the message.

`ClusterSettings` belong to the manager, which makes them durable and hands them to each node that joins:
two members with different lease lengths would be a broken promise, not a matter of taste.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, NamedTuple

from zkv.core.amounts import exact_size
from zkv.errors import SettingError

__all__ = [
    "BOOT_ID_LOW",
    "DEFAULT_MANAGER",
    "ClusterSettings",
    "ManagerConfig",
    "NodeConfig",
    "Setting",
    "SettingError",
    "check_connectable",
    "settings_of",
    "split_endpoint",
    "to_markdown",
]

DEFAULT_MANAGER: Final = "tcp://127.0.0.1:5550"
BOOT_ID_LOW: Final = 2**32
BOOT_ID_HIGH: Final = 2**63 - 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WILDCARDS: Final = frozenset({"*", "0.0.0.0", "::"})
# The annotation of a field, as it is written below -> the type that parses it.
_KINDS: Final[dict[str, type]] = {
    "int": int,
    "int | None": int,
    "float": float,
    "str": str,
    "str | None": str,
    "bool": bool,
}


class Setting(NamedTuple):
    """What is known about one setting; see `settings_of`."""

    name: str
    """The field's name, and with dashes the flag's: `lease_ms`, `--lease-ms`."""
    kind: type
    """int, float, str or bool."""
    default: Any
    """`...` where a value must be given."""
    optional: bool
    """Whether None is a value."""
    help: str
    unit: str
    low: float | None
    high: float | None
    env: str | None
    """The environment variable, or None: what identifies one process must not be inherited by another."""
    choices: tuple[str, ...]
    """Of a string: the values there are; empty where any will do."""
    flag: str
    """On the command lines."""

    def check(self, value: object) -> None:
        """Raise SettingError unless `value` has the right type and lies within the bounds."""
        if value is None and self.optional:
            return
        # bool is an int to isinstance(), yet `--shards true` would be a mistake.
        if type(value) is not self.kind and not (self.kind is float and type(value) is int):
            raise SettingError(f"{self.name} must be {_A[self.kind]}, not {value!r}")
        if self.choices and value not in self.choices:
            raise SettingError(f"{self.name} is {value!r}, it must be one of {', '.join(self.choices)}")
        if isinstance(value, int | float) and self.kind is not bool:
            if not math.isfinite(value):
                raise SettingError(f"{self.name} must be a finite number, not {value}")
            if self.low is not None and value < self.low:
                raise SettingError(
                    f"{self.name} is {value}, it must be at least {_number(self.low)} {self.unit}".rstrip()
                )
            if self.high is not None and value > self.high:
                raise SettingError(
                    f"{self.name} is {value}, it must be at most {_number(self.high)} {self.unit}".rstrip()
                )


_A: Final[dict[type, str]] = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _setting(
    help: str,
    default: Any = MISSING,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    env: str | None = "",
    choices: tuple[str, ...] = (),
    flag: str = "",
) -> Any:
    """A dataclass field with its metadata. `env`: "" for ZKV_ and the field's name, None for no variable; `flag`: ""
    for the field's name."""
    about = {"help": help, "unit": unit, "low": low, "high": high, "env": env, "choices": choices, "flag": flag}
    return field(default=default, metadata=about)


def settings_of(cls: type) -> Iterator[Setting]:
    """The settings that the dataclass `cls` defines, in order; fields without metadata are skipped."""
    for entry in fields(cls):
        meta = entry.metadata
        if "help" not in meta:
            continue
        kind = str(entry.type)
        yield Setting(
            name=entry.name,
            kind=_KINDS[kind],
            default=... if entry.default is MISSING else entry.default,
            optional=kind.endswith("None"),
            help=meta["help"],
            unit=meta["unit"],
            low=meta["low"],
            high=meta["high"],
            env="ZKV_" + entry.name.upper() if meta["env"] == "" else meta["env"],
            choices=meta["choices"],
            flag=meta["flag"] or "--" + entry.name.replace("_", "-"),
        )


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """`tcp://HOST:PORT` -> (host, port); port 0 means any free one. Raises SettingError."""
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise SettingError(f"{endpoint!r} is not an endpoint: write tcp://HOST:PORT, for example {DEFAULT_MANAGER}")
    return host.removeprefix("[").removesuffix("]"), int(port)


class _Relation(NamedTuple):
    """What must hold between settings: `text` over their names, why, and the test."""

    text: str
    names: tuple[str, ...]
    why: str
    holds: Callable[[ClusterSettings], bool]


_RELATIONS: Final = (
    _Relation(
        "replicas <= nodes",
        ("replicas", "nodes"),
        "two copies on one node would die together",
        lambda s: s.replicas <= s.nodes,
    ),
    _Relation(
        "min_in_sync <= replicas",
        ("min_in_sync", "replicas"),
        "no write could ever be taken",
        lambda s: s.min_in_sync <= s.replicas,
    ),
    _Relation(
        "scatter_width >= replicas - 1",
        ("scatter_width", "replicas"),
        "a primary needs that many peers for one shard alone",
        lambda s: s.scatter_width >= s.replicas - 1,
    ),
    _Relation(
        "2 * heartbeat_ms < suspect_ms",
        ("heartbeat_ms", "suspect_ms"),
        "one lost heartbeat must not make a suspect",
        lambda s: 2 * s.heartbeat_ms < s.suspect_ms,
    ),
    _Relation(
        "suspect_ms < dead_ms",
        ("suspect_ms", "dead_ms"),
        "a node is suspected before it is given up",
        lambda s: s.suspect_ms < s.dead_ms,
    ),
    _Relation(
        "lease_ms >= 3 * heartbeat_ms",
        ("lease_ms", "heartbeat_ms"),
        "a lease must outlive two lost renewals, which go out at the heartbeat's pace",
        lambda s: s.lease_ms >= 3 * s.heartbeat_ms,
    ),
    _Relation(
        "lease_ms * (1 + drift_margin) <= dead_ms",
        ("lease_ms", "drift_margin", "dead_ms"),
        "by the time a silent node is given up its lease should have run out",
        # A nanosecond of grace: in floats 600 * (1 + 0.1) is 660.0000000000001, and 660 is meant to do.
        lambda s: s.lease_ms * (1 + s.drift_margin) <= s.dead_ms + 1e-6,
    ),
    _Relation(
        "session_ttl_ms > 2 * timeout_limit_ms * (1 + drift_margin)",
        ("session_ttl_ms", "timeout_limit_ms", "drift_margin"),
        "replicas must remember a write for longer than any client retries it",
        lambda s: s.session_ttl_ms > 2 * s.timeout_limit_ms * (1 + s.drift_margin),
    ),
)


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What all members of a cluster have in common. Set at its creation, kept by the manager."""

    nodes: int = _setting("Nodes that join before the cluster forms.", 5, low=1, high=4096)
    replicas: int = _setting("Copies of each shard, its primary included.", 3, low=1, high=16)
    shards: int = _setting("Number of shards that the keys are hashed onto. Fixed for ever.", 1024, low=1, high=65536)
    scatter_width: int = _setting(
        "Number of distinct peers that a primary replicates to. More of them share the work after a death; "
        "fewer make fuller replication batches.",
        4, low=0, high=4096,
    )  # fmt: skip
    heartbeat_ms: int = _setting("Interval of heartbeats and lease renewals.", 100, unit="ms", low=5, high=60_000)
    suspect_ms: int = _setting("Silence after which a node is suspected.", 400, unit="ms", low=11, high=600_000)
    dead_ms: int = _setting("Silence after which a node is taken for dead.", 800, unit="ms", low=12, high=600_000)
    lease_ms: int = _setting(
        "How long a primary may serve on one grant of its backups.", 600, unit="ms", low=15, high=600_000
    )
    drift_margin: float = _setting(
        "By how much the rates of two clocks may differ, as a fraction: 0.1 is ten per cent.",
        0.1,
        low=0.0,
        high=1.0,
    )
    session_ttl_ms: int = _setting(
        "How long replicas remember a client's writes in order to recognise a retry.",
        300_000, unit="ms", low=1000, high=86_400_000,
    )  # fmt: skip
    tombstone_ms: int = _setting(
        "How long the version of a deleted key is remembered at least.",
        60_000,
        unit="ms",
        low=0,
        high=86_400_000,
    )
    timeout_limit_ms: int = _setting(
        "Longest deadline that a request may carry.", 120_000, unit="ms", low=100, high=3_600_000
    )
    key_limit_bytes: int = _setting("Longest key, encoded as UTF-8.", 4096, unit="bytes", low=16, high=65536)
    value_limit_bytes: int = _setting(
        "Largest value, as encoded for the wire.", 16 * 2**20, unit="bytes", low=1024, high=256 * 2**20
    )

    ack: str = _setting(
        "When a write is acknowledged: by all in-sync copies, or by its primary alone, whose crash may then lose it. "
        "Each request may say otherwise.",
        "all", choices=("all", "primary"),
    )  # fmt: skip
    min_in_sync: int = _setting(
        "In-sync copies that a shard must have for its writes to be taken and acknowledged.", 1, low=1, high=16
    )
    fill_bytes_per_s: int = _setting(
        "Most that a node sends to fill others with copies; a part of it while clients keep the node busy.",
        64 * 2**20, unit="bytes", low=64 * 1024, high=2**40,
    )  # fmt: skip
    on_loss: str = _setting(
        "What becomes of a shard whose every copy is proven dead: keep it, unavailable, or reset it, empty.",
        "keep", choices=("keep", "reset"),
    )  # fmt: skip
    loss_grace_s: float = _setting(
        "How long a lost shard is unavailable before it is reset.",
        10.0, unit="s", low=0, high=86_400, flag="--loss-grace",
    )  # fmt: skip
    memory_limit_bytes: int = _setting(
        "What the entries of each node may take in memory; 0: no limit. A node may have a limit of its own.",
        0, unit="bytes", low=0, high=2**50, env="ZKV_MEMORY_LIMIT", flag="--memory-limit",
    )  # fmt: skip
    eviction: str = _setting(
        "What a node at its limit does: refuse the write, or make room by removing what was not used for longest, or "
        "what expires soonest.",
        "none", choices=("none", "lru", "ttl"),
    )  # fmt: skip
    history_bytes: int = _setting(
        "What each node remembers of the last writes, so that watches can go on after a failure.",
        16 * 2**20, unit="bytes", low=1, high=2**40, flag="--watch-history",
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise SettingError if a bound or a relation does not hold."""
        _check_bounds(self)
        for relation in _RELATIONS:
            if not relation.holds(self):
                values = ", ".join(f"{name} is {_number(getattr(self, name))}" for name in relation.names)
                raise SettingError(f"{values}, but {relation.text} must hold: {relation.why}")

    def to_wire(self) -> dict[str, int | float | str]:
        """Plain values by name, for MessagePack, JSON and the manager's database."""
        return {entry.name: getattr(self, entry.name) for entry in settings_of(ClusterSettings)}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> ClusterSettings:
        """The inverse. Unknown names are ignored (a newer manager may know more), missing ones take their
        default.
        """
        if not isinstance(wire, Mapping):
            raise SettingError(f"settings must be a map, not {type(wire).__name__}")
        return cls(**{entry.name: wire[entry.name] for entry in settings_of(cls) if entry.name in wire})


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What one storage node is told at its start."""

    name: str = _setting("The node's name, unique in the cluster: server1.", env="ZKV_NODE_NAME")
    manager: str = _setting("Endpoint of the manager.", DEFAULT_MANAGER)
    bind: str = _setting("Endpoint to listen on; port 0 takes any free one.", "tcp://127.0.0.1:0", env="ZKV_NODE_BIND")
    advertise: str | None = _setting(
        "Endpoint that clients and peers connect to, where it differs from the one bound.",
        None,
        env="ZKV_NODE_ADVERTISE",
    )
    zone: str = _setting(
        "What fails together with this node: a rack, a building. Copies are spread over zones; nodes without one count "
        "as one zone.",
        "",
        env="ZKV_NODE_ZONE",
    )
    weight: float = _setting(
        "Share of the shards, relative to the other nodes.", 1.0, low=0.01, high=1000, env="ZKV_NODE_WEIGHT"
    )
    memory_limit_bytes: int | None = _setting(
        "What this node's entries may take in memory; 0: no limit; if not given, what the cluster's settings say.",
        None, unit="bytes", low=0, high=2**50, env="ZKV_NODE_MEMORY_LIMIT", flag="--memory-limit",
    )  # fmt: skip
    boot_id: int | None = _setting(
        "Identity of this start of the node, 16 hex digits; made at random if not given.",
        None, low=BOOT_ID_LOW, high=BOOT_ID_HIGH, env=None,
    )  # fmt: skip
    ready_fd: int | None = _setting(
        "Inherited pipe; one line with the endpoint is written to it once the node listens.",
        None,
        low=0,
        env=None,
    )

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise SettingError if a setting is out of its bounds or malformed."""
        _check_bounds(self)
        if not _NAME.fullmatch(self.name):
            raise SettingError(
                f"name is {self.name!r}, it must be 1 to 64 letters, digits, dots, dashes and underscores"
            )
        if not self.zone.isprintable() or len(self.zone.split()) > 1 or self.zone != self.zone.strip():
            raise SettingError(f"zone is {self.zone!r}, it must be one word")
        check_connectable("manager", self.manager)
        host, _ = split_endpoint(self.bind)
        if self.advertise is not None:
            check_connectable("advertise", self.advertise)
        elif host in _WILDCARDS:
            raise SettingError(f"bind is {self.bind}, which nobody can connect to by that name: set advertise as well")


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """What the manager is told at its start. `cluster` counts only where its state holds no cluster yet."""

    bind: str = _setting("Endpoint to listen on; port 0 takes any free one.", DEFAULT_MANAGER, env="ZKV_MANAGER_BIND")
    state_dir: str | None = _setting("Directory of the manager's durable state.", None, env="ZKV_MANAGER_STATE_DIR")
    in_memory: bool = _setting(
        "Keep the state in memory instead: the cluster is lost with its manager.",
        False,
        env="ZKV_MANAGER_IN_MEMORY",
    )
    shard_map: str | None = _setting(
        "JSON file that says which nodes hold which shard, watched while the manager runs; without it the manager "
        "places the shards itself.",
        None,
    )
    ready_fd: int | None = _setting(
        "Inherited pipe; one line with the endpoint is written to it once the manager listens.",
        None,
        low=0,
        env=None,
    )
    cluster: ClusterSettings = field(default_factory=ClusterSettings)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise SettingError if a setting is out of its bounds or malformed."""
        _check_bounds(self)
        split_endpoint(self.bind)
        if self.in_memory and self.state_dir is not None:
            raise SettingError(f"state_dir is {self.state_dir} and in_memory is true: give one of the two")
        if not self.in_memory and not self.state_dir:
            raise SettingError("neither state_dir nor in_memory is given: say where the manager keeps its state")


def _check_bounds(config: ClusterSettings | NodeConfig | ManagerConfig) -> None:
    for entry in settings_of(type(config)):
        entry.check(getattr(config, entry.name))


def check_connectable(name: str, endpoint: str) -> None:
    """Raise SettingError unless `endpoint`, the setting `name`, is one that can be connected to."""
    host, port = split_endpoint(endpoint)
    if port == 0 or host in _WILDCARDS:
        raise SettingError(f"{name} is {endpoint}, which cannot be connected to: name a host and a port")


def to_markdown() -> str:
    """The text of docs/SETTINGS.md."""
    lines = [
        "# Settings",
        "",
        "<!-- Made by `python -m zkv.core.settings > docs/SETTINGS.md`; a test keeps it true. -->",
        "",
        "Each setting is a flag and an environment variable; the flag wins. All are checked at start, each",
        "against its bounds and against the others. Sizes are plain numbers of bytes, or have a unit: `512MiB`, `2GB`.",
    ]
    for title, cls, about in (
        (
            "The cluster",
            ClusterSettings,
            "Flags of `zkv-manager`, which keeps them and hands them to each node that joins.",
        ),
        ("The manager", ManagerConfig, "Flags of `zkv-manager`."),
        ("A node", NodeConfig, "Flags of `zkv-node`."),
    ):
        lines += ["", f"## {title}", "", about, ""]
        lines += ["| flag | environment | default | bounds | what it is |", "|---|---|---|---|---|"]
        for entry in settings_of(cls):
            bounds = ""
            if entry.choices:
                bounds = ", ".join(f"`{choice}`" for choice in entry.choices)
            elif entry.low is not None and entry.kind is not bool and entry.name != "boot_id":
                show = _size if entry.unit == "bytes" else _number
                bounds = f"{show(entry.low)} …" + (f" {show(entry.high)}" if entry.high is not None else "")
            default = "required" if entry.default is ... else _shown(entry)
            unit = f" {entry.unit}" if entry.unit not in ("", "bytes") else ""
            env = f"`{entry.env}`" if entry.env else ""
            lines.append(f"| `{entry.flag}` | {env} | {default}{unit} | {bounds} | {entry.help} |")
    lines += ["", "## What must hold between them", "", "| relation | why |", "|---|---|"]
    lines += [f"| `{relation.text}` | {relation.why} |" for relation in _RELATIONS]
    return "\n".join(lines) + "\n"


def _shown(entry: Setting) -> str:
    default = entry.default
    if default is None or default == "" or default is False:
        return ""
    if entry.unit == "bytes":
        return _size(default)
    return f"`{default}`" if isinstance(default, str) else str(default)


def _size(value: float) -> str:
    return exact_size(int(value))


if __name__ == "__main__":
    print(to_markdown(), end="")
