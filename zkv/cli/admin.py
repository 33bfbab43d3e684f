"""`zkv-admin`: what an operator needs to see."""

from __future__ import annotations

from typing import Any

import click

from zkv import __version__
from zkv.cli.options import CONTEXT, Commands
from zkv.cli.render import as_json, byte_count, table
from zkv.core.settings import DEFAULT_MANAGER, check_connectable

EPILOG = """\
Examples:

  zkv-admin status                     health, and a line for each node
  zkv-admin status --json              the same for programs
  zkv-admin map                        which nodes hold which shards
  zkv-admin status --manager tcp://10.0.0.1:5550

Exit status: 0 if the manager answered, whatever it said; 2 wrong usage; 3 no manager answered.
"""


def _common(command: Any) -> Any:
    for option in (
        click.option("--json", "json_", is_flag=True, help="Print JSON."),
        click.option(
            "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", default=2.0,
            show_default=True, envvar="ZKV_TIMEOUT", show_envvar=True, help="How long to wait for an answer.",
        ),
        click.option(
            "--manager", metavar="ENDPOINT", default=DEFAULT_MANAGER, show_default=True, envvar="ZKV_MANAGER",
            show_envvar=True, help="The cluster's manager.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group(cls=Commands, epilog=EPILOG, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="zkv-admin")
def main() -> None:
    """Look at a zkv cluster."""


@main.command()
@_common
def status(manager: str, timeout: float, json_: bool) -> None:
    """Print the cluster's health and its nodes."""
    check_connectable("manager", manager)
    from zkv.net.admin import AdminLink  # after the check: a wrong endpoint needs no sockets

    with AdminLink(manager, timeout_s=timeout) as link:
        answer = link.status()
    click.echo(as_json(answer) if json_ else _status_text(answer))


def _status_text(answer: dict[str, Any]) -> str:
    nodes = answer["nodes"]
    inactive = answer.get("inactive_shards", 0)
    lines = [
        f"{answer['health']}: {answer['shards']} shards, {answer['replicas']} replicas, "
        f"map version {answer['map_version']}"
    ]
    if answer["health"] == "forming":
        lines.append(f"{len(nodes)} of {answer['expected_nodes']} nodes have joined")
    elif inactive:
        lines.append(f"{inactive} shards are not served at present")
    if nodes:
        head = ("node", "state", "endpoint", "zone", "primaries", "backups", "keys", "size")
        rows = [
            (node["name"], node["state"], node["endpoint"], node["zone"] or "-", node["primaries"],
             node["backups"], node["keys"], byte_count(node["bytes"]))
            for node in nodes
        ]  # fmt: skip
        lines += ["", table(head, rows)]
    return "\n".join(lines)


@main.command("map")
@_common
def map_(manager: str, timeout: float, json_: bool) -> None:
    """Print which nodes hold which shards, the primary first."""
    check_connectable("manager", manager)
    from zkv.net.admin import AdminLink  # after the check: a wrong endpoint needs no sockets

    with AdminLink(manager, timeout_s=timeout) as link:
        current = link.map()
    rows = [
        (number, shard.epoch, [current.name_of(boot) for boot in shard.replicas])
        for number, shard in enumerate(current.shards)
    ]
    if json_:
        shards = [{"shard": number, "epoch": epoch, "replicas": names} for number, epoch, names in rows]
        click.echo(as_json({"cluster": f"{current.cluster:016x}", "map_version": current.version, "shards": shards}))
    else:
        click.echo(f"map version {current.version}, {len(rows)} shards")
        if rows:
            click.echo(table(("shards", "epoch", "replicas"), _merged(rows)))


def _merged(rows: list[tuple[int, int, list[str]]]) -> list[tuple[str, int, str]]:
    """Neighbours with the same holders and epoch share a line."""
    merged: list[tuple[str, int, str]] = []
    first = 0
    for at, (number, epoch, names) in enumerate(rows):
        if at + 1 == len(rows) or rows[at + 1][1:] != (epoch, names):
            span = str(number) if first == number else f"{first}-{number}"
            merged.append((span, epoch, ", ".join(names) or "nobody"))
            first = number + 1
    return merged


if __name__ == "__main__":
    main()
