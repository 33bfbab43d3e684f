"""`zkv-launch`: a cluster of processes on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from zkv import __version__
from zkv.cli.options import EXIT_INTERRUPTED, Commands, Failure, Size, chosen, setting_options
from zkv.cli.render import counted
from zkv.core.settings import DEFAULT_MANAGER, ClusterSettings, settings_of, split_endpoint
from zkv.errors import SettingError
from zkv.local.plan import MANAGER, Autoscale, LaunchError, Plan, nodes_of_shard_map
from zkv.local.rundir import RunDir, default_run_dir

EPILOG = """\
Examples:

  zkv-launch start --nodes 5 --rep 3             a cluster in this terminal, until Ctrl-C
  zkv-launch start --nodes 5 --rep 3 --detach    the same in the background, until zkv-launch stop
  zkv-launch status                              which processes run
  zkv-launch kill server3                        SIGKILL one and watch the others take over
  zkv-launch kill server1 server2 --after 2.5    two in the same instant, in two and a half seconds
  zkv-launch add --wait                          one node more; returns when it has its share
  zkv-admin drain server3                        one node less
  zkv-launch start --run-dir /tmp/two --port 0   a second cluster beside the first

Every cluster has a run directory with its logs (manager.log, server1.log, ..., launcher.log) and cluster.json.
--run-dir says which cluster a command is meant for; without it that is the one in ~/.zkv/default.

Exit status: 0 done; 2 wrong usage, or something that cannot be (a port that is taken, a second cluster in
one run directory); 3 no cluster runs, or the cluster could not be started.
"""


def _run_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--run-dir", type=click.Path(file_okay=False, path_type=Path), default=None, envvar="ZKV_RUN_DIR",
        show_envvar=True, metavar="DIR", help="The cluster's run directory.  [default: ~/.zkv/default]",
    )(command)  # fmt: skip


def _directory(run_dir: Path | None) -> RunDir:
    return RunDir(run_dir if run_dir is not None else default_run_dir())


def _ask(run_dir: Path | None, *, until_gone: bool = False, **request: Any) -> dict[str, Any]:
    from zkv.local.control import call

    try:
        return call(_directory(run_dir), request, until_gone=until_gone)
    except LaunchError as error:
        raise Failure(str(error), error.exit_status) from None


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zkv-launch")
def main() -> None:
    """Start, watch, disturb and stop a cluster of processes on this machine."""


@main.command(
    epilog="""\
The cluster starts empty: a manager on --port, and server1 ... serverN on ports that the system chooses. It is
ready when all nodes have joined and every shard is served. A manager that dies is started again on its port
with its state. When a node dies the others take over, and make new copies of what it held; with --respawn a
new node takes its name and its place. A node that was drained, or asked to end, stays away.

Examples:

  zkv-launch start --nodes 7 --rep 3 --detach --respawn
  zkv-launch start --nodes 6 --rep 3 --zones rack1,rack2,rack3      no two copies of a key in one rack
  zkv-launch start --nodes 3 --rep 2 --autoscale 3:8                nodes come and go with the load
  zkv-launch start --shard-map launch/shardmaps/three.json          the file says who holds what
  zkv-launch start --on-loss reset --loss-grace 5                   for a cache
  zkv-launch start --memory-limit 256MiB --eviction lru             each node makes room by itself

Nothing outlives the launcher: Ctrl-C, `zkv-launch stop` and even SIGKILL of the launcher end all of it.
"""
)
@click.option(
    "--nodes", type=int, default=None, envvar="ZKV_NODES", show_envvar=True, metavar="N",
    help="Number of storage nodes.  [default: 5, or as --shard-map says]",
)  # fmt: skip
@click.option(
    "--rep", "--replicas", "replicas", type=int, default=None, envvar="ZKV_REPLICAS", show_envvar=True, metavar="K",
    help="Copies of each key, at most N. With K copies, K - 1 nodes may die at once.  [default: 3, or as --shard-map "
    "says]",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), default=split_endpoint(DEFAULT_MANAGER)[1], show_default=True,
    envvar="ZKV_PORT", show_envvar=True, help="The manager's port; 0 takes any free one.",
)  # fmt: skip
@click.option("--detach", is_flag=True, help="Go to the background; return when the cluster is ready.")
@click.option("--no-manager-restart", is_flag=True, help="Leave a manager that dies dead.")
@click.option("--respawn", is_flag=True, help="Replace a node that dies by a new one under its name.")
@click.option(
    "--zones", default="", metavar="A,B,...", envvar="ZKV_ZONES", show_envvar=True,
    help="What fails together: given to the nodes in turn. Copies of a key are kept in different zones.",
)  # fmt: skip
@click.option(
    "--weights", default="", metavar="W,...", envvar="ZKV_WEIGHTS", show_envvar=True,
    help="Given to the nodes in turn: one of weight 2 is given twice the share of one of weight 1.",
)  # fmt: skip
@click.option(
    "--autoscale", metavar="MIN:MAX", envvar="ZKV_AUTOSCALE", show_envvar=True,
    help="Add and drain nodes as `zkv-admin advise` says, within these numbers of nodes.",
)  # fmt: skip
@click.option(
    "--autoscale-hold", "hold_s", type=click.FloatRange(min=0), default=10.0, show_default=True, metavar="SECONDS",
    envvar="ZKV_AUTOSCALE_HOLD", show_envvar=True, help="How long the same advice must last before it is followed.",
)  # fmt: skip
@click.option(
    "--autoscale-cooldown", "cooldown_s", type=click.FloatRange(min=0), default=30.0, show_default=True,
    metavar="SECONDS", envvar="ZKV_AUTOSCALE_COOLDOWN", show_envvar=True, help="The pause after each such change.",
)  # fmt: skip
@click.option(
    "--shard-map", type=click.Path(dir_okay=False), metavar="FILE", envvar="ZKV_SHARD_MAP", show_envvar=True,
    help="JSON file that says which nodes hold which shard, watched while the cluster runs.",
)  # fmt: skip
@_run_dir_option
@setting_options(ClusterSettings, skip=("nodes", "replicas"))
def start(
    nodes: int | None,
    replicas: int | None,
    port: int,
    detach: bool,
    no_manager_restart: bool,
    respawn: bool,
    zones: str,
    weights: str,
    autoscale: str | None,
    hold_s: float,
    cooldown_s: float,
    shard_map: str | None,
    run_dir: Path | None,
    **settings: Any,
) -> None:
    """Start a manager and N storage nodes."""
    defaults = {setting.name: setting.default for setting in settings_of(ClusterSettings)}
    if shard_map is not None:
        shard_map, nodes, replicas = nodes_of_shard_map(shard_map, nodes, replicas)
    plan = Plan(
        run_dir=str(_directory(run_dir).path),
        nodes=defaults["nodes"] if nodes is None else nodes,
        replicas=defaults["replicas"] if replicas is None else replicas,
        port=port,
        settings={name: value for name, value in chosen(ClusterSettings, settings).items() if value != defaults[name]},
        manager_restart=not no_manager_restart,
        zones=tuple(zones.split(",")) if zones else (),
        weights=_weights(weights),
        respawn=respawn,
        autoscale=Autoscale.parse(autoscale, hold_s, cooldown_s) if autoscale is not None else None,
        shard_map=shard_map,
    )
    try:
        if detach:
            from zkv.local.background import start_in_background

            _announce(plan, start_in_background(plan).status, detached=True)
        else:
            from zkv.local.supervisor import Supervisor

            Supervisor(plan, on_ready=lambda status: _announce(plan, status, detached=False), say=click.echo).run()
    except LaunchError as error:
        raise Failure(str(error), error.exit_status) from None


def _announce(plan: Plan, status: dict[str, Any], *, detached: bool) -> None:
    directory = RunDir(Path(plan.run_dir))
    # What the other commands need to be told, because it is not what they would take by themselves.
    usual = RunDir(Path(os.environ.get("ZKV_RUN_DIR") or default_run_dir()))
    where = "" if directory.path == usual.path else f" --run-dir {directory}"
    manager = status["manager"]["endpoint"]
    copies = f"with {counted(plan.replicas, 'copy', 'copies')} of each key"
    if plan.shard_map is not None:
        copies = f"with its shards where {plan.shard_map} says"
    lines = [
        f"A cluster of {counted(plan.nodes, 'node')} {copies} is ready.",
        "",
        _table(status, with_state=False),
        "",
        *([f"  export ZKV_MANAGER={manager}"] if manager != DEFAULT_MANAGER else []),
        "  zkv-client put key1 value1",
        "  zkv-client get key1",
        "  zkv-admin status",
        f"  zkv-launch stop{where}" + ("" if detached else "   (or Ctrl-C here)"),
        "",
        f"Logs are in {directory}.",
    ]
    try:
        click.echo("\n".join(lines))
    except OSError:
        pass  # nobody reads it; the cluster is there all the same


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(",")) if text else ()
    except ValueError:
        raise SettingError(f"weights is {text!r}, it must be numbers: 1,1,2") from None


def _table(status: dict[str, Any], *, with_state: bool) -> str:
    from zkv.cli.render import table

    rows = []
    for entry in [{"name": MANAGER, **status["manager"]}, *status["nodes"]]:
        state = (entry.get("state") or ("up" if entry["up"] else "dead"),) if with_state else ()
        rows.append((entry["name"], str(entry["pid"] or "-"), *state, entry["endpoint"] or "-"))
    return table(("name", "pid", *(("state",) if with_state else ()), "endpoint"), rows)


@main.command(
    epilog="""\
Examples:

  zkv-launch status
  zkv-launch status --json | jq -r '.nodes[] | select(.up) | .pid'
"""
)
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@_run_dir_option
def status(json_: bool, run_dir: Path | None) -> None:
    """Print the processes: names, pids, states, endpoints.

    States: up; dead; respawning (dead, about to be replaced); left (drained, or asked to end).

    This is about processes. What the cluster itself says (health, who serves what): zkv-admin status.
    """
    answer = _ask(run_dir, do="status")
    if json_:
        import json

        click.echo(json.dumps(answer["status"]))
        return
    if answer["phase"] != "running":
        click.echo(f"The cluster is {answer['phase']}.\n")
    click.echo(_table(answer["status"], with_state=True))


@main.command(
    epilog="""\
The new nodes are called by the next free numbers, join the cluster, and are given their share while it
serves. In a cluster with --shard-map they get what the file says. zkv-admin drain takes a node out again.

Examples:

  zkv-launch add                         one node, at once
  zkv-launch add 3 --wait                three; returns when each has its share
  zkv-launch add --zone rack4 --weight 2
  zkv-launch add --memory-limit 2GiB     one that may hold more than the others
"""
)
@click.argument("count", type=click.IntRange(min=1), required=False, metavar="[N]")
@click.option("--count", "count_", type=click.IntRange(min=1), metavar="N", help="The same as N.  [default: 1]")
@click.option("--zone", default="", metavar="ZONE", help="Its zone.  [default: the emptiest one of start --zones]")
@click.option("--weight", type=float, metavar="W", help="Its weight.  [default: as start --weights says, or 1]")
@click.option("--memory-limit", type=Size(), metavar="SIZE", help="What it may hold: 2GiB.  [default: as start says]")
@click.option("--wait", is_flag=True, help="Return when the cluster is at rest again.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@_run_dir_option
def add(
    count: int | None, count_: int | None, zone: str, weight: float | None, memory_limit: int | None, wait: bool,
    json_: bool, run_dir: Path | None,
) -> None:  # fmt: skip
    """Start N further nodes."""
    if count is not None and count_ is not None:
        raise click.UsageError("say N or --count N, not both")
    wish: dict[str, Any] = {"zone": zone, "weight": weight, "memory_limit_bytes": memory_limit}
    answer = _ask(run_dir, do="add", count=count or count_ or 1, **wish)
    nodes = answer["nodes"]
    if not json_:
        for node in nodes:
            click.echo(f"{node['name']} listens on {node['endpoint']} (pid {node['pid']})")
    if wait:
        health = _await_rest(run_dir, [node["name"] for node in nodes], quiet=json_)
        if not json_:
            click.echo(f"Everything is where it should be; the cluster is {health}.")
    if json_:
        from zkv.cli.render import as_json

        click.echo(as_json({"nodes": nodes}))


def _await_rest(run_dir: Path | None, names: list[str], *, quiet: bool) -> str:
    """Wait until the nodes called `names` have their share; how healthy the cluster is then."""
    from contextlib import nullcontext

    from zkv.cli.clusterview import shares
    from zkv.cli.live import progress
    from zkv.net.admin import AdminLink
    from zkv.net.waiting import settling

    manager = _ask(run_dir, do="status")["status"]["manager"]["endpoint"]
    label = f"{', '.join(names)} given {'its' if len(names) == 1 else 'their'} share"
    bar = nullcontext(lambda done, total: None) if quiet else progress(label, "copies")
    health, total = "", 0
    try:
        with AdminLink(manager, timeout_s=30.0) as link, bar as show:
            for status in settling(link, lambda: _ask(run_dir, do="status")["status"]["nodes"]):
                share = {} if status["layout"] else shares(status)
                held = {node["name"]: node["primaries"] + node["backups"] for node in status["nodes"]}
                total = round(sum(share.get(name, 0) for name in names))
                if total:
                    show(min(total, sum(held.get(name, 0) for name in names)), total)
                health = status["health"]
            if total:
                show(total, total)  # zones may have allowed for less than the weights say
    except KeyboardInterrupt:
        click.echo("\nThe nodes are there, and are given their share without being waited for.", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    return health


@main.command()
@_run_dir_option
def stop(run_dir: Path | None) -> None:
    """End all processes of the cluster; returns when none is left. Its data is gone then."""
    _ask(run_dir, do="stop", until_gone=True)
    click.echo("stopped")


@main.command()
@click.argument("what", type=click.Choice([MANAGER]), metavar=MANAGER)
@_run_dir_option
def restart(what: str, run_dir: Path | None) -> None:
    """Start the manager again, on its port and with its state; returns when it listens.

    A manager that runs is ended first. Nodes cannot be restarted, as they hold their data in memory: see start
    --respawn, and add.
    """
    answer = _ask(run_dir, do="restart")
    click.echo(f"{what} listens on {answer['endpoint']} (pid {answer['pid']})")


@main.command(
    epilog="""\
Examples:

  zkv-launch kill server3                        a crash
  zkv-launch kill server1 server2 --after 2.5    two in the same instant, in two and a half seconds
  zkv-launch kill server4 --signal STOP          it hangs; --signal CONT lets it go on
  zkv-launch kill manager                        it is started again
"""
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--signal", "signal_name", type=click.Choice(["KILL", "TERM", "STOP", "CONT"], case_sensitive=False),
    default="KILL", show_default=True,
    help="KILL: a crash. STOP: cut off, as if hung; CONT: back again. TERM: asked to end.",
)  # fmt: skip
@click.option(
    "--after", "after_s", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS",
    help="Let the launcher do it that much later; the command returns at once.",
)  # fmt: skip
@_run_dir_option
def kill(names: tuple[str, ...], signal_name: str, after_s: float, run_dir: Path | None) -> None:
    """Send a signal to processes of the cluster: server1, server2, ..., manager.

    Several are signalled in the same instant. With KILL it returns when they are dead.
    """
    signal_name = signal_name.upper()
    answer = _ask(run_dir, do="kill", names=list(dict.fromkeys(names)), signal=signal_name, after_s=after_s)
    for name, pid in answer["pids"].items():
        when = f"will be sent SIG{signal_name} in {after_s:g} s" if after_s else f"was sent SIG{signal_name}"
        click.echo(f"{name} (pid {pid}) {when}")


if __name__ == "__main__":
    main()
