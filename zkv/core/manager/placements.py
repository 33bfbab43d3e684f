"""Whose placement holds: the manager's own, or the operator's, from a file that is watched.

The host hands over the file's text whenever it changed. A text that makes no sense, or names nodes that nobody has ever
seen, is refused as a whole, and the last good one stays, over restarts too; it is looked at again when another node
joins. Before the cluster has formed unknown nodes are waited for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from zkv.core.manager.events import EventLog
from zkv.core.placement.layout import Layout, LayoutError, parse
from zkv.core.settings import ClusterSettings
from zkv.core.shardmap import Member, Shard

SHOWN = 10
"""Shard numbers that a text lists."""


class Placement:
    """The operator's placement, if there is one."""

    def __init__(self, file: str | None, stored: str, settings: ClusterSettings, log: EventLog) -> None:
        """`file`: its name, None where placement is the manager's own; `stored`: the text that was accepted last."""
        self.layout: Layout | None = None
        self._file = file
        self._settings = settings
        self._log = log
        self._text = stored
        self._offered: str | None = None
        self._refused: str | None = None
        self._accepted_ms = 0
        self.trouble = ""
        """Why the file cannot be read just now; the host says so."""
        self._known: frozenset[str] = frozenset()
        """Names of members when the offer was last looked at."""
        self._new = False
        if file is not None and stored:
            self.layout = parse(stored)

    def offer(self, text: str) -> None:
        """The file says this now."""
        self._offered, self._new = text, True

    def settle(self, members: Collection[Member], formed: bool, wall_ms: int) -> str | None:
        """Decide about what was offered. The text that is to be durable from now on, None where it stays."""
        if self._file is None:
            if not self._text:
                return None
            self._text = ""
            self._log.add("layout", "no placement is given any more: the manager places the shards itself")
            return ""
        if self._offered is None or (not self._new and _names(members) == self._known):
            return None
        self._known, told, self._new = _names(members), not self._new, False
        try:
            layout = self._checked(self._offered, formed)
        except LayoutError as error:
            if not told:
                self._log.add("layout_refused", f"{self._file} is refused: {error}", reason=str(error))
            self._refused = str(error)
            return None
        text, self._offered, self._refused = self._offered, None, None
        if layout == self.layout and text == self._text:
            return None
        self.layout, self._text, self._accepted_ms = layout, text, wall_ms
        warnings = self._warnings()
        self._log.add("layout", "; ".join([f"the placement of {self._file} holds", *warnings]), warnings=warnings)
        return text

    def _checked(self, text: str, formed: bool) -> Layout:
        layout = parse(text)
        shards = self._settings.shards
        if len(layout.shards) != shards:
            raise LayoutError(f"it places {len(layout.shards)} shards, the cluster has {shards} for ever")
        before = self.layout.nodes if self.layout else ()
        unknown = [name for name in layout.nodes if name not in self._known and name not in before]
        if formed and unknown:
            raise LayoutError(f"{unknown[0]} is not a node of this cluster: start it first, or take it out")
        return layout

    def formation(self, candidates: Sequence[Member]) -> dict[int, Shard]:
        """The first entries of all shards; none before all who are to hold something have joined."""
        assert self.layout is not None
        boots = {member.name: member.boot for member in candidates}
        needed = sorted({name for names in self.layout.shards for name in names})
        if not boots.keys() >= set(needed):
            return {}
        somebody = (boots[needed[0]],)
        return {
            number: Shard(1, 1, tuple(boots[name] for name in names) or somebody, withheld=not names)
            for number, names in enumerate(self.layout.shards)
        }

    def status(self) -> dict[str, Any] | None:
        """What operators see of it."""
        if self._file is None:
            return None
        return {
            "file": self._file,
            "accepted_ms": self._accepted_ms,
            "refused": self._refused,
            "warnings": self._warnings(),
        }

    def _warnings(self) -> list[str]:
        empty = self.layout.empty if self.layout else []
        warnings = []
        if self.trouble:
            warnings.append(f"{self._file} cannot be read ({self.trouble}): the last good placement holds")
        if empty:
            shown = ", ".join(map(str, empty[:SHOWN])) + (", …" if len(empty) > SHOWN else "")
            what = f"{len(empty)} shards have no holder ({shown})"
            warnings.append(f"{what}: their requests fail, and their data is kept")
        return warnings


def _names(members: Collection[Member]) -> frozenset[str]:
    return frozenset(member.name for member in members)
