"""What operators wait for: the end of a drain, and a cluster at rest. Each looks again and again, and says what it saw,
so that whoever waits can show progress, and decides how long to go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from zkv.errors import Unavailable
from zkv.net.admin import AdminLink

LOOK_S: Final = 0.1
"""Interval of looking."""


Processes = Callable[[], Iterable[Mapping[str, Any]]]
"""Which processes of nodes there are: `{"boot", "up", "heard"}` each, as a launcher knows them. `heard`, where it is
known: whether the manager can hear it, which is neither stopped nor cut off."""


def settling(link: AdminLink, processes: Processes, *, healthy: bool = False) -> Iterator[dict[str, Any]]:
    """The cluster's status, until the manager knows of all that became of `processes`, and everything is where it
    should be, as far as that can be; with `healthy` until it is healthy, too. The last one says how it is then.

    Raises ManagerUnreachable.
    """
    while True:
        status = link.status()
        yield status
        well = status["health"] == "healthy" or not healthy
        if well and _knows(status, processes()) and _is_at_rest(link, status):
            return
        time.sleep(LOOK_S)


def _knows(status: Mapping[str, Any], processes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether those that can be heard are members and up, and those that cannot, or have ended, are not taken to be
    up."""
    states = {node["boot"]: node["state"] for node in status["nodes"]}
    for one in processes:
        state, heard = states.get(one["boot"]), one.get("heard") if one["up"] else False
        if state is None if heard is None else (state == "up") is not heard:
            return False
    return True


def _is_at_rest(link: AdminLink, status: Mapping[str, Any]) -> bool:
    if status["health"] in ("forming", "healing") or status["moving"]["shards"] or status["draining"]:
        return False
    if status["inactive_shards"] > status["lost_shards"]:
        return False
    # Between two steps of a move nothing moves either. (Asked last: in a large cluster the answer takes a while.)
    return bool(status["lost_shards"] or link.plan()["balanced"])


def draining(link: AdminLink, name: str) -> Iterator[int]:
    """The number of copies that the draining node still holds, until it has left.

    Raises Unavailable if it dies before, or its drain is taken back; ManagerUnreachable.
    """
    boot: str | None = None
    while True:
        found = [one for one in link.status()["nodes"] if one["name"] == name and boot in (None, one["boot"])]
        node = next((one for one in found if one["draining"]), None)
        if node is None:
            if found and found[0]["state"] == "up":
                raise Unavailable(f"{name} is not drained any more: its drain was taken back")
            return
        if node["state"] == "dead":
            raise Unavailable(f"{name} died before it was empty: the others make new copies of what it held")
        boot = node["boot"]
        yield node["primaries"] + node["backups"]
        time.sleep(LOOK_S)
