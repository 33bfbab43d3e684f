"""`LocalCluster`: a cluster on this machine, for tests, experiments and first steps.

The processes are started and watched by a launcher, the same one that `zkv-launch` runs, in a process of its own. It
ends with this process however that ends, and everything it started ends with it.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from zkv.core.amounts import as_bytes
from zkv.errors import SettingError, TimedOut, UsageError
from zkv.local.background import Background, start_in_background
from zkv.local.control import call
from zkv.local.cuts import Cut
from zkv.local.plan import MANAGER, Autoscale, LaunchError, Plan, node_names, nodes_of_shard_map
from zkv.local.rundir import RunDir

if TYPE_CHECKING:
    from zkv.client import Client
    from zkv.net.admin import AdminLink

__all__ = ["LocalCluster"]


class LocalCluster:
    """A manager and `server1` … `serverN` as processes on this machine, ports chosen by the system.

    with LocalCluster(nodes=5, replicas=3) as cluster, cluster.client() as kv:
        kv.put("key1", "value1")
        cluster.kill("server1")
        kv.get("key1")

    The constructor returns when every shard is served. The cluster ends with `close`, with the `with` block, when the
    object is collected, or with this process.
    """

    def __init__(
        self,
        nodes: int = 5,
        replicas: int = 3,
        *,
        port: int = 0,
        manager_restart: bool = True,
        run_dir: str | os.PathLike[str] | None = None,
        start_timeout_s: float = 30.0,
        respawn: bool = False,
        autoscale: Autoscale | tuple[int, int] | None = None,
        shard_map: str | os.PathLike[str] | None = None,
        zones: Sequence[str] = (),
        weights: Sequence[float] = (),
        memory_limit: int | str | None = None,
        **settings: int | float | str,
    ) -> None:
        """Start it.

        `port`: the manager's; 0 takes any free one. `manager_restart`: whether a manager that dies is started again.
        `run_dir`: where logs go and stay; without it a temporary directory that is removed at the end, unless the
        start fails. `respawn`: whether a node that dies is replaced by a new one under its name. `autoscale`: the
        least and the greatest number of nodes, between which nodes are added and drained as the load is. `shard_map`:
        JSON file that says which nodes hold which shard, watched; it also says how many nodes and replicas there are.
        `zones`, `weights`: given to the nodes in turn. `memory_limit`: what the entries of each node may take, in bytes
        or as text: `"256MiB"`. `settings`: any cluster setting by name (docs/SETTINGS.md): `shards=64`, `lease_ms=300`,
        `eviction="lru"`.

        Raises SettingError for settings that contradict each other, LaunchError if the cluster cannot be started.
        """
        self._temporary = run_dir is None
        if run_dir is None:
            import tempfile

            run_dir = tempfile.mkdtemp(prefix="zkv-")
        self._run_dir = RunDir(Path(run_dir))
        try:
            if memory_limit is not None:
                if "memory_limit_bytes" in settings:
                    raise SettingError("memory_limit and memory_limit_bytes mean the same: give one of the two")
                settings["memory_limit_bytes"] = as_bytes(memory_limit)
            placed: str | None = None
            if shard_map is not None:
                placed, nodes, replicas = nodes_of_shard_map(os.fspath(shard_map), None, None)
            plan = Plan(
                run_dir=str(self._run_dir.path),
                nodes=nodes,
                replicas=replicas,
                port=port,
                settings=settings,
                manager_restart=manager_restart,
                zones=tuple(zones),
                weights=tuple(weights),
                respawn=respawn,
                autoscale=Autoscale(*autoscale) if isinstance(autoscale, tuple) else autoscale,
                shard_map=placed,
                bound_to_parent=True,
                ephemeral=self._temporary,
                start_timeout_s=start_timeout_s,
            )
        except ValueError:
            if self._temporary:
                self._run_dir.remove()
            raise
        try:
            background = start_in_background(plan)
        except LaunchError:
            if self._temporary and not self._run_dir.log(MANAGER).exists():  # then there is nothing to read either
                self._run_dir.remove()
            raise
        self._names = node_names(nodes)
        self._disturbed = False
        self.launcher_pid: int = background.process.pid
        self.manager: str = background.status["manager"]["endpoint"]
        """Endpoint of the manager, which also a restarted one has."""
        self._end = weakref.finalize(self, _end, os.getpid(), background, self._run_dir, self._temporary)

    @property
    def run_dir(self) -> Path:
        """Where the logs are."""
        return self._run_dir.path

    @property
    def names(self) -> list[str]:
        """The nodes' names, also of those that were added, have left or have died."""
        try:
            self._names = [node["name"] for node in self.status()["nodes"]]
        except LaunchError:
            pass  # it is closed or gone: as they were
        return list(self._names)

    @property
    def disturbed(self) -> bool:
        """Whether its processes were interfered with by any method here, so that it is not as it was at its start."""
        return self._disturbed

    def client(self, **options: Any) -> Client:
        """A new `zkv.Client` for this cluster; `options` as for that. The caller closes it."""
        from zkv.client import Client

        return Client(self.manager, **options)

    def status(self) -> dict[str, Any]:
        """Which processes run: `{"manager": {"endpoint", "pid", "up"}, "nodes": [{"name", "pid", "endpoint", "up",
        "state", "boot"}]}`.

        A process that has ended has no pid (None); its state is "dead", "respawning", or "left" where it was drained or
        asked to end.
        """
        status: dict[str, Any] = self._call(do="status")["status"]
        return status

    def health(self) -> dict[str, Any]:
        """What the manager says of the cluster, as `zkv-admin status --json`. Raises ManagerUnreachable."""
        with self._admin() as link:
            return link.status()

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """The manager's log after event number `after`: `[{"number", "time_ms", "kind", "text", …}]`, at most 1000.
        Raises ManagerUnreachable."""
        with self._admin() as link:
            return link.events(after)[0]

    def wait_healthy(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until the cluster is healthy, with everything where it should be; what `health` says then.

        Right after a `pause` or `partition` it waits until the manager has given up those it cannot hear, right after
        `resume` or `reconnect` until it has them back. Raises TimedOut, ManagerUnreachable.
        """
        return self._wait(timeout_s, healthy=True)

    @overload
    def add(
        self, count: None = None, *, zone: str = "", weight: float = 1.0, memory_limit: int | str | None = None,
        wait: bool = True, timeout_s: float = 60.0,
    ) -> str: ...  # fmt: skip

    @overload
    def add(
        self, count: int, *, zone: str = "", weight: float = 1.0, memory_limit: int | str | None = None,
        wait: bool = True, timeout_s: float = 60.0,
    ) -> list[str]: ...  # fmt: skip

    def add(
        self,
        count: int | None = None,
        *,
        zone: str = "",
        weight: float = 1.0,
        memory_limit: int | str | None = None,
        wait: bool = True,
        timeout_s: float = 60.0,
    ) -> str | list[str]:
        """Start another node, or `count` of them; the name, or the list of names.

        `zone` "": the emptiest of the cluster's. `memory_limit`: what their entries may take, in bytes or as "256MiB";
        None: as the others'. `wait`: return when they have their share, and nothing moves any more.
        Raises UsageError, LaunchError; with `wait` TimedOut, ManagerUnreachable.
        """
        if (count is not None and (type(count) is not int or count < 1)) or not isinstance(zone, str):
            raise UsageError(f"add takes a number of nodes, 1 or more, and the name of a zone: {count!r}, {zone!r}")
        limit = None if memory_limit is None else as_bytes(memory_limit)
        wish = {"count": count or 1, "zone": zone, "weight": weight, "memory_limit_bytes": limit}
        nodes = self._disturb(do="add", **wish)["nodes"]
        names = [node["name"] for node in nodes]
        if wait:
            self._wait(timeout_s, healthy=False)
        return names if count is not None else names[0]

    def drain(self, name: str, *, force: bool = False, wait: bool = True, timeout_s: float = 60.0) -> None:
        """Empty a node, then let it go. `force`: even if fewer nodes remain than each key is to have copies. `wait`:
        return when its process has ended.

        Raises AdminRefused (a UsageError) with the reason; with `wait` Unavailable if it dies before it is empty,
        TimedOut, ManagerUnreachable.
        """
        from zkv.net.waiting import LOOK_S, draining

        deadline = time.monotonic() + timeout_s
        self._disturbed = True
        with self._admin() as link:
            link.drain(name, force=force)
            for left in draining(link, name) if wait else ():
                if time.monotonic() > deadline:
                    raise TimedOut(f"{name} still holds {left} copies after {timeout_s:g} s", outcome_unknown=False)
        while wait and any(node["name"] == name and node["up"] for node in self.status()["nodes"]):
            if time.monotonic() > deadline:
                raise TimedOut(f"{name} is empty and still runs after {timeout_s:g} s", outcome_unknown=False)
            time.sleep(LOOK_S)

    def kill(self, *names: str, signal: str = "KILL") -> None:
        """End processes (`"server1"`, `"manager"`), several of them in the same instant; returns when they are dead.

        `signal`: KILL, TERM, STOP or CONT; for those other than KILL it returns once they are sent. Raises
        LaunchError for a name that does not exist or a process that does not run.
        """
        self._disturb(do="kill", names=list(names), signal=signal)

    def pause(self, *names: str) -> None:
        """Stop processes where they are (SIGSTOP); to the others they look as if cut off."""
        self.kill(*names, signal="STOP")

    def resume(self, *names: str) -> None:
        """Let paused processes go on."""
        self.kill(*names, signal="CONT")

    def partition(self, *names: str, apart_from: str | Sequence[str] | None = None) -> None:
        """Cut `names` off, silently and both ways, as if the network swallowed every packet; returns when that is so.

            cluster.partition("server1")                          # from everybody: nodes, manager, clients
            cluster.partition("server1", "server2")               # these two are among themselves
            cluster.partition("server1", apart_from="server2")    # from each other; all others reach both
            cluster.partition("manager")                          # from all nodes

        `names` are on one side, `apart_from` on the other; without it everybody else is, also who comes later. Those of
        one side reach each other. A name is that of a node, also of one that was or will be replaced, "manager", or
        "clients" for all of them together. Several cuts hold at the same time, until `reconnect`.

        The nodes do it: they drop what they receive and send. So clients (and `health`) reach the manager always, and a
        paused node takes part from its first turn after `resume`. What was under way already may still arrive.

        Raises LaunchError for a name that does not exist, UsageError for sides that make no sense.
        """
        apart = (apart_from,) if isinstance(apart_from, str) else apart_from
        cut = Cut(names, None if apart is None else tuple(apart))
        self._disturb(do="partition", names=cut.names, apart_from=cut.apart_from)

    def reconnect(self) -> None:
        """End all partitions; returns when every node knows."""
        self._call(do="reconnect")

    def restart_manager(self) -> None:
        """Start the manager again on its port with its state, ending it first if it runs; returns when it listens."""
        self._disturb(do="restart")

    def close(self) -> None:
        """End everything; returns when no process is left. May be called again."""
        self._end()

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = self.manager if self._end.alive else "closed"
        return f"<LocalCluster of {len(self.names)} nodes, {state}>"

    def _admin(self) -> AdminLink:
        from zkv.net.admin import AdminLink

        if not self._end.alive:
            raise LaunchError("this cluster has been closed")
        return AdminLink(self.manager, timeout_s=10.0)  # time for a manager to be started again

    def _wait(self, timeout_s: float, *, healthy: bool) -> dict[str, Any]:
        from zkv.net.waiting import settling

        deadline = time.monotonic() + timeout_s
        status: dict[str, Any] = {}
        with self._admin() as link:
            for status in settling(link, self._processes, healthy=healthy):
                if time.monotonic() > deadline:
                    moving, draining = status["moving"]["shards"], ", ".join(status["draining"]) or "nobody"
                    what = f"{moving} shards are moving, {draining} is being drained"
                    text = f"the cluster is {status['health']} and not at rest after {timeout_s:g} s: {what}"
                    raise TimedOut(text, outcome_unknown=False)
        return status

    def _processes(self) -> list[dict[str, Any]]:
        """The nodes as `zkv.net.waiting` wants to know them."""
        answer = self._call(do="status")
        return [{**node, "heard": answer["heard"][node["name"]]} for node in answer["status"]["nodes"]]

    def _disturb(self, **request: Any) -> dict[str, Any]:
        self._disturbed = True
        return self._call(**request)

    def _call(self, **request: Any) -> dict[str, Any]:
        if not self._end.alive:
            raise LaunchError("this cluster has been closed")
        return call(self._run_dir, request)


def _end(owner_pid: int, background: Background, run_dir: RunDir, temporary: bool) -> None:
    if os.getpid() != owner_pid:
        return  # a forked copy of the owner ends; the cluster is not its own
    try:
        call(run_dir, {"do": "stop"})
    except LaunchError:
        pass  # it is gone already, or will be made to go
    background.let_go()
    background.wait()
    if temporary:
        run_dir.remove()
