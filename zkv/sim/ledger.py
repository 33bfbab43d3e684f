"""What all nodes of a simulation ever applied, by version: the measure of what a dump shows, and of what a load left.

A version names one outcome for ever, whoever holds it. Not all in the ledger is committed: an entry may be lost with
the primary that made it. It is certain to be committed where somebody was told of it, and so is, for whoever is at
position V, all that was made under V's epoch up to V: members apply what one primary makes of a shard in order, and
without gaps (SAFETY 6, 7).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zkv.core import wire
from zkv.core.node.tails import Part
from zkv.sim.history import MANAGER, OK, History, Violation


class Row(NamedTuple):
    """What one version did to a key."""

    key: str
    value: Any
    """None: a delete."""
    expires_ms: int
    seen_ms: float
    """When it was first applied somewhere."""


@dataclass
class Picture:
    """A shard as a dump shows it."""

    shard: int
    position: int
    began_ms: float
    """When its first page was asked for."""
    ended_ms: float
    """When its last page came."""
    cluster_ms: int
    """No node took it to be later in cluster time when the last page came."""
    rows: dict[str, tuple[int, Any, int]] = field(default_factory=dict)
    """Key -> (version, value, expiry)."""

    def __str__(self) -> str:
        span = f"{self.began_ms:.1f}–{self.ended_ms:.1f}"
        return f"picture of shard {self.shard} at {self.position}, {span}, {len(self.rows)} entries"


class Ledger:
    """The outcomes of one run."""

    def __init__(self) -> None:
        self.rows: defaultdict[int, dict[int, Row]] = defaultdict(dict)
        """Shard -> version -> what it did."""
        self._births: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
        """Shard -> (a version below its new life, when it was created anew)."""

    def note(self, part: Part, now_ms: float) -> None:
        """A node has applied this. Raises `Violation` where another one made something else of a version."""
        expiries = part.expiries or [0] * len(part.keys)
        columns = (part.shards, part.versions, part.keys, part.values, expiries)
        for shard, version, key, value, expires_ms in zip(*columns, strict=True):
            row = Row(key, value, expires_ms, now_ms)
            known = self.rows[shard].setdefault(version, row)
            if known[:3] != row[:3]:
                raise Violation(f"version {version} of shard {shard} is {known} at one node and {row} at another")

    def reset(self, shard: int, version: int, now_ms: float) -> None:
        """A shard was created anew, empty; `version` is below all of its new life."""
        self._births[shard].append((version, now_ms))

    def check(self, pictures: list[Picture], history: History, shard_of: Callable[[str], int]) -> None:
        """Raise `Violation` unless each picture holds of every key what the newest commit up to its position left."""
        certain: dict[int, dict[int, float]] = defaultdict(dict)
        """Shard -> version -> when somebody had been told of it: it is committed."""
        for key, operations in history.operations.items():
            known = certain[shard_of(key)]
            for one in operations:
                if one.outcome == OK and one.version and one.client != MANAGER:
                    known[one.version] = min(one.end_ms, known.get(one.version, one.end_ms))
        for picture in pictures:
            self._check(picture, certain[picture.shard])

    def _check(self, picture: Picture, certain: dict[int, float]) -> None:
        shard, position = picture.shard, picture.position
        births = self._births[shard]
        born = max((one for one, when_ms in births if one <= position or when_ms <= picture.began_ms), default=0)
        newest = max((version for version, told_ms in certain.items() if told_ms < picture.began_ms), default=0)
        if newest > max(position, born):
            raise Violation(f"a dump shows a moment of long ago: {newest} was known before it began: {picture}")
        by_key: dict[str, dict[int, Row]] = defaultdict(dict)
        for version in sorted(self.rows[shard], reverse=True):
            if born < version <= position:
                row = self.rows[shard][version]
                by_key[row.key][version] = row
        for key, (version, value, expires_ms) in picture.rows.items():
            made = by_key[key].get(version)
            if made is None or made[:3] != (key, value, expires_ms):
                raise Violation(f"a dump shows {value!r} under {key}, {version}, but it is {made}: {picture}")
        for key, rows in by_key.items():
            shown = picture.rows[key][0] if key in picture.rows else 0
            for version, row in rows.items():
                if version <= shown or (not shown and row.value is None):
                    break
                if not shown and 0 < row.expires_ms <= picture.cluster_ms:
                    break
                if version in certain or wire.epoch_of(version) == wire.epoch_of(position):
                    raise Violation(f"a dump lacks {row} of version {version}, and shows {shown}: {picture}")


__all__ = ["Ledger", "Picture", "Row"]
