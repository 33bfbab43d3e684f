"""`zkv-launch`: a cluster of processes on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from zkv import __version__
from zkv.cli.options import Commands, Failure, chosen, setting_options
from zkv.core.settings import DEFAULT_MANAGER, ClusterSettings, settings_of, split_endpoint
from zkv.local.plan import MANAGER, LaunchError, Plan
from zkv.local.rundir import RunDir, default_run_dir

EPILOG = """\
Examples:

  zkv-launch start --nodes 5 --rep 3             a cluster in this terminal, until Ctrl-C
  zkv-launch start --nodes 5 --rep 3 --detach    the same in the background, until zkv-launch stop
  zkv-launch status                              which processes run
  zkv-launch kill server3                        SIGKILL one and watch the others take over
  zkv-launch kill server1 server2 --after 2.5    two in the same instant, in two and a half seconds
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
with its state; a node that dies stays dead, and the others take over.

Nothing outlives the launcher: Ctrl-C, `zkv-launch stop` and even SIGKILL of the launcher end all of it.
"""
)
@click.option(
    "--nodes", type=int, default=5, show_default=True, envvar="ZKV_NODES", show_envvar=True, metavar="N",
    help="Number of storage nodes.",
)  # fmt: skip
@click.option(
    "--rep", "--replicas", "replicas", type=int, default=3, show_default=True, envvar="ZKV_REPLICAS",
    show_envvar=True, metavar="K", help="Copies of each key, at most N. With K copies, K - 1 nodes may die.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), default=split_endpoint(DEFAULT_MANAGER)[1], show_default=True,
    envvar="ZKV_PORT", show_envvar=True, help="The manager's port; 0 takes any free one.",
)  # fmt: skip
@click.option("--detach", is_flag=True, help="Go to the background; return when the cluster is ready.")
@click.option("--no-manager-restart", is_flag=True, help="Leave a manager that dies dead.")
@_run_dir_option
@setting_options(ClusterSettings, skip=("nodes", "replicas"))
def start(
    nodes: int, replicas: int, port: int, detach: bool, no_manager_restart: bool, run_dir: Path | None, **settings: Any
) -> None:
    """Start a manager and N storage nodes."""
    defaults = {setting.name: setting.default for setting in settings_of(ClusterSettings)}
    plan = Plan(
        run_dir=str(_directory(run_dir).path),
        nodes=nodes,
        replicas=replicas,
        port=port,
        settings={name: value for name, value in chosen(ClusterSettings, settings).items() if value != defaults[name]},
        manager_restart=not no_manager_restart,
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
    lines = [
        f"A cluster of {_count(plan.nodes, 'node', 'nodes')} with {_count(plan.replicas, 'copy', 'copies')} "
        "of each key is ready.",
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


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _table(status: dict[str, Any], *, with_state: bool) -> str:
    from zkv.cli.render import table

    rows = []
    for entry in [{"name": MANAGER, **status["manager"]}, *status["nodes"]]:
        state = ("up" if entry["up"] else "dead",) if with_state else ()
        rows.append((entry["name"], str(entry["pid"] or "-"), *state, entry["endpoint"] or "-"))
    return table(("name", "pid", *(("state",) if with_state else ()), "endpoint"), rows)


@main.command()
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@_run_dir_option
def status(json_: bool, run_dir: Path | None) -> None:
    """Print the processes: names, pids, endpoints.

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

    A manager that runs is ended first. Nodes cannot be restarted: they hold their data in memory.
    """
    answer = _ask(run_dir, do="restart")
    click.echo(f"{what} listens on {answer['endpoint']} (pid {answer['pid']})")


@main.command()
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
