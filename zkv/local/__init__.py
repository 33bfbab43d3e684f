"""Clusters of local processes: one launcher process that owns a manager and storage nodes, and what talks to it.

    plan         what to start, and the errors of starting it
    rundir       the run directory: lock, cluster.json, logs
    processes    one child process: started so that it cannot outlive the launcher, signalled, reaped
    loop         file descriptors, signals and timers of one thread
    control      requests to a running launcher, over a Unix socket in its run directory
    backoff      how soon a process that ended is started again
    nodes        the launcher's storage nodes: added, replaced, where they are put
    cuts         who is cut off from whom: the file by which nodes learn it
    partitions   the launcher's side of it: made, confirmed, ended
    autoscale    adding and draining them as the manager advises
    reports      what the launcher tells and asks the manager, in a thread of its own
    supervisor   the launcher itself
    background   a launcher as a child process: `zkv-launch start --detach`, `LocalCluster`
    lifeline     for children: whether their launcher still lives
    cluster      `LocalCluster`

Nodes and managers import `lifeline` and `cuts`, so nothing else is loaded before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zkv.local.cluster import LocalCluster

__all__ = ["LocalCluster"]


def __getattr__(name: str) -> Any:
    if name == "LocalCluster":
        from zkv.local.cluster import LocalCluster

        return LocalCluster
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
