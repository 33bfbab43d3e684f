"""What is under way in a cluster as progress bars: a pure reading of one status after the other.

The manager's status says what there is; how far something is follows from how it was when it began. So whoever watches
keeps that, from when he began to watch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from zkv.cli.clusterview import shares
from zkv.cli.render import counted


class Meter(NamedTuple):
    """One bar."""

    label: str
    done: int
    total: int


class Meters:
    """The bars of one who watches a cluster."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}
        """label -> how much there was to do when it was first seen."""
        self._sent_before = 0

    def update(self, status: Mapping[str, Any]) -> list[Meter]:
        """The bars for this status; call it with each one."""
        left: dict[str, int] = {}
        if status["short_shards"] > status["lost_shards"]:
            left["missing copies made (shards)"] = status["short_shards"] - status["lost_shards"]
        for node in status["nodes"]:
            if node["draining"]:
                left[f"{node['name']} emptied (copies)"] = node["primaries"] + node["backups"]
        if status["moving"]["shards"] and not status["draining"] and not status["short_shards"]:
            left |= joining(status)  # else those who take over from others seem to have just come, too
        self._begun = {label: max(count, self._begun.get(label, 0)) for label, count in left.items()}
        meters = [Meter(label, self._begun[label] - count, self._begun[label]) for label, count in left.items()]
        return [*meters, *self._keys(status["moving"])]

    def _keys(self, moving: Mapping[str, int]) -> list[Meter]:
        """Entries of the fills under way: those sent since nothing was, and those still to be sent."""
        if not moving["shards"]:
            self._sent_before = moving["fill_keys"]
            return []
        sent = max(0, moving["fill_keys"] - self._sent_before)  # a sender that left takes its count with it
        return [Meter(f"{counted(moving['shards'], 'shard')} filled (keys)", sent, sent + moving["left_keys"])]


def joining(status: Mapping[str, Any]) -> dict[str, int]:
    """How many copies nodes lack that have much less than their share: those that have just come."""
    share = shares(status)
    left = {}
    for node in status["nodes"]:
        lacking = round(share.get(node["name"], 0) - node["primaries"] - node["backups"])
        if lacking > share.get(node["name"], 0) / 10:
            left[f"{node['name']} given its share (copies)"] = lacking
    return left
