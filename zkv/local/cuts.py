"""Who is cut off from whom in a cluster of local processes: the file by which a launcher tells its nodes.

A cut has two sides, and nothing passes between them in either direction, as in a network that swallows packets. It
needs no privileges, because no network is touched: the nodes drop the frames themselves (`zkv.net.partition`). So every
cut has a node on one side at least; the manager and the clients cannot be parted from each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from zkv.errors import UsageError

CLIENTS: Final = "clients"
"""All clients together, beside `manager` and the nodes' names. Whoever the launcher did not start is one of them."""
MANAGER: Final = "manager"

CUTS_FILE_ENV: Final = "ZKV_CUTS_FILE"
CUTS_FD_ENV: Final = "ZKV_CUTS_FD"
"""Set by a launcher for its nodes: the file, and a socket on which any byte means that it has changed."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut. Raises UsageError for one that cannot be made."""

    names: tuple[str, ...]
    apart_from: tuple[str, ...] | None = None
    """The other side; None: everybody who is not in `names`, whenever he comes."""

    def __post_init__(self) -> None:
        if not self.names or self.apart_from == ():
            raise UsageError("a partition has two sides: name whom it cuts off, and from whom if not from everybody")
        both = set(self.names).intersection(self.apart_from or ())
        if both:
            raise UsageError(f"{min(both)} is on both sides of the partition")
        if self.apart_from is not None and self.separates(CLIENTS, MANAGER):
            raise UsageError("the clients cannot be cut off from the manager: partitions are made at the nodes")

    def __str__(self) -> str:
        side = "everybody else" if self.apart_from is None else ", ".join(self.apart_from)
        return f"{', '.join(self.names)} cut off from {side}"

    def separates(self, one: str, other: str) -> bool:
        """Whether nothing passes between these two."""
        return (one in self.names and self._is_beyond(other)) or (other in self.names and self._is_beyond(one))

    def _is_beyond(self, name: str) -> bool:
        return name not in self.names if self.apart_from is None else name in self.apart_from


@dataclass(frozen=True, slots=True)
class Cuts:
    """What the file says."""

    number: int = 0
    """Raised with each change; a node that honours it confirms it by this number."""
    cuts: tuple[Cut, ...] = ()
    boots: Mapping[int, str] = field(default_factory=dict)
    """Boot id -> name of the nodes: frames carry the one, people speak of the other."""

    def separate(self, one: str, other: str) -> bool:
        """Whether any cut separates these two."""
        return any(cut.separates(one, other) for cut in self.cuts)

    def hears(self, name: str) -> bool | None:
        """Whether the manager hears that node; None: it does, and what others say of it."""
        if self.separate(name, MANAGER):
            return False
        return None if any(self.separate(name, other) for other in self.boots.values()) else True

    def to_json(self) -> str:
        """For the file."""
        return json.dumps(
            {
                "number": self.number,
                "cuts": [[cut.names, cut.apart_from] for cut in self.cuts],
                "boots": {f"{boot:016x}": name for boot, name in self.boots.items()},
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        body = json.loads(text)
        cuts = tuple(Cut(tuple(names), None if apart is None else tuple(apart)) for names, apart in body["cuts"])
        return cls(body["number"], cuts, {int(boot, 16): name for boot, name in body["boots"].items()})

    @classmethod
    def read(cls, path: Path) -> Self:
        """What the file at `path` says; no cuts if there is none."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
