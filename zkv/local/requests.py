"""What the launcher does on request: `zkv-launch status | stop | add | kill | restart`, and for
`LocalCluster`, which asks for the same and for partitions.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

from zkv.core.settings import NodeConfig
from zkv.errors import SettingError, UsageError
from zkv.local.control import Reply
from zkv.local.cuts import CLIENTS, Cut
from zkv.local.plan import LaunchError

if TYPE_CHECKING:
    from zkv.local.supervisor import Supervisor

__all__ = ["SIGNALS", "handle"]

SIGNALS: Final = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "STOP": signal.SIGSTOP, "CONT": signal.SIGCONT}


def handle(supervisor: Supervisor, request: dict[str, Any], reply: Reply) -> None:
    """Answer one request, now or when it is done."""
    match request.get("do"):
        case "status":
            reply.ok(status=supervisor.status(), phase=supervisor.phase, heard=_heard(supervisor))
        case "stop":
            supervisor.answer_when_stopped(reply)
            supervisor.stop("asked to stop")
        case "kill":
            _kill(supervisor, request, reply)
        case "add":
            _add(supervisor, request, reply)
        case "restart":
            supervisor.restart_manager(reply)
        case "partition":
            _partition(supervisor, request, reply)
        case "reconnect":
            supervisor.partitions.reconnect(_awake(supervisor), reply)
        case do:
            reply.error(f"the launcher knows no request {do!r}: is it of another version of zkv?", exit_status=2)


def _add(supervisor: Supervisor, request: dict[str, Any], reply: Reply) -> None:
    count, zone, weight = request.get("count"), request.get("zone"), request.get("weight")
    limit = request.get("memory_limit_bytes")
    if type(count) is not int or count < 1 or not isinstance(zone, str):
        reply.error("add needs a count, a zone and a weight", exit_status=2)
        return
    try:
        # It checks them.
        NodeConfig(name="server1", zone=zone, weight=1.0 if weight is None else weight, memory_limit_bytes=limit)
    except SettingError as error:
        reply.error(str(error), exit_status=2)
        return
    if supervisor.phase != "running":
        reply.error(f"the cluster is {supervisor.phase}: try again when it runs")
        return
    try:
        names = supervisor.nodes.add(count, zone, weight, limit)
    except LaunchError as error:
        reply.error(str(error), exit_status=error.exit_status)
        return
    supervisor.nodes.answer_when_ready(reply, names)


def _kill(supervisor: Supervisor, request: dict[str, Any], reply: Reply) -> None:
    names, signal_name, after_s = request.get("names"), request.get("signal"), request.get("after_s", 0)
    if not isinstance(names, list) or not names or signal_name not in SIGNALS or not isinstance(after_s, int | float):
        reply.error("kill needs names, a signal and a number of seconds", exit_status=2)
        return
    children = {child.name: child for child in supervisor.children()}
    for name in names:
        if name not in children:
            reply.error(f"there is no {name!r} here: there are {', '.join(children)}", exit_status=2)
            return
        if not children[name].up:
            reply.error(f"{name} is not running")
            return
    pids = {name: children[name].pid for name in names}
    if after_s > 0:
        supervisor.later(after_s, lambda: supervisor.send_signal(names, signal_name))
        reply.ok(pids=pids)
    elif signal_name == "KILL":
        # Who asked for a death may rely on it.
        waiting = set(names)

        def one_less(name: str) -> None:
            waiting.discard(name)
            if not waiting:
                reply.ok(pids=pids)

        for name in list(waiting):
            supervisor.on_death(name, one_less)
        supervisor.send_signal(names, signal_name)
    else:
        supervisor.send_signal(names, signal_name)
        reply.ok(pids=pids)


def _partition(supervisor: Supervisor, request: dict[str, Any], reply: Reply) -> None:
    names, apart_from = request.get("names"), request.get("apart_from")
    if not isinstance(names, list) or not isinstance(apart_from, list | None):
        reply.error("partition needs names, and those from whom they are cut off", exit_status=2)
        return
    known = [*(child.name for child in supervisor.children()), CLIENTS]
    for name in [*names, *(apart_from or ())]:
        if name not in known:
            reply.error(f"there is no {name!r} here: there are {', '.join(known)}", exit_status=2)
            return
    try:
        cut = Cut(tuple(names), None if apart_from is None else tuple(apart_from))
    except UsageError as error:
        reply.error(str(error), exit_status=2)
        return
    supervisor.partitions.cut(cut, _awake(supervisor), reply)


def _heard(supervisor: Supervisor) -> dict[str, bool | None]:
    """Node -> whether the manager can hear it."""
    children = supervisor.nodes.children()
    return {child.name: False if child.stopped else supervisor.partitions.hears(child.name) for child in children}


def _awake(supervisor: Supervisor) -> dict[int, str]:
    """The nodes that can be waited for: boot id -> name. One that is stopped knows before it sends anything."""
    return {
        child.boot_id: child.name
        for child in supervisor.nodes.children()
        if child.up and not child.stopped and child.boot_id is not None
    }
