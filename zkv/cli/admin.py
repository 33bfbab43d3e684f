"""`zkv-admin`: what an operator needs to see, and to ask for."""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import click

from zkv import __version__
from zkv.cli.dump import dump, load
from zkv.cli.options import CONTEXT, EXIT_INTERRUPTED, Commands
from zkv.cli.render import as_json, byte_count, counted
from zkv.core.settings import DEFAULT_MANAGER, check_connectable
from zkv.errors import ManagerUnreachable, UsageError

if TYPE_CHECKING:
    from zkv.cli.live import Screen
    from zkv.net.admin import AdminLink

EPILOG = """\
Examples:

  zkv-admin status                     health, and a line for each node
  zkv-admin status --watch             the same, live, with progress bars and events
  zkv-admin map                        which nodes hold which shards
  zkv-admin events --follow            joins, deaths, takeovers, fills as they happen
  zkv-admin drain server3              empty a node, then let it go
  zkv-admin rebalance --dry-run        what would move, and how much of it
  zkv-admin advise                     whether nodes should be added, or can go
  zkv-admin dump backup.zkv            all keys into a file, from which any cluster can load them
  zkv-admin status --json              everything for programs
  zkv-admin status --manager tcp://10.0.0.1:5550

Each command has --help with examples of its own.

Exit status: 0 if the manager answered, whatever it said; 2 wrong usage, or something that the manager
refuses; 3 no manager answered; 130 interrupted.
"""
EVENTS_SHOWN: Final = 8
"""Events below a cluster that is watched."""
FOLLOW_S: Final = 0.5
_SHARDS = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)


def _common(command: Any, *, timeout_s: float = 2.0) -> Any:
    for option in (
        click.option("--json", "json_", is_flag=True, help="Print JSON."),
        click.option(
            "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", default=timeout_s,
            show_default=True, envvar="ZKV_TIMEOUT", show_envvar=True, help="How long to wait for an answer.",
        ),
        click.option(
            "--manager", metavar="ENDPOINT", default=DEFAULT_MANAGER, show_default=True, envvar="ZKV_MANAGER",
            show_envvar=True, help="The cluster's manager.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def _patient(command: Any) -> Any:
    """As `_common`, for what a manager may be long over."""
    return _common(command, timeout_s=30.0)


def _link(manager: str, timeout_s: float) -> AdminLink:
    check_connectable("manager", manager)
    from zkv.net.admin import AdminLink  # after the check: a wrong endpoint needs no sockets

    return AdminLink(manager, timeout_s=timeout_s)


@click.group(cls=Commands, epilog=EPILOG, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="zkv-admin")
def main() -> None:
    """Look at a zkv cluster, and change what it is made of."""


# --- looking ------------------------------------------------------------------------------------------------------


@main.command(
    epilog="""\
Health: healthy; healing (copies or primaries are being replaced); degraded (too few copies, and no node
that could take another); unavailable (some shard has no copy that is up, or is withheld); forming.

Where nodes have a memory limit, each node that holds more is named, and where all have one: whether all
copies would still fit after the loss of the node that holds most ("fits_after_loss" in JSON, null where
there is no telling).

Examples:

  zkv-admin status                       once
  zkv-admin status --watch               live, until Ctrl-C
  zkv-admin status --watch --json        one JSON object a line, each second
  zkv-admin status --json | jq .health
  zkv-admin status --json | jq .memory   bytes, limits, who is over, fits_after_loss
"""
)
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval", "interval_s", type=click.FloatRange(min=0.05), default=1.0, show_default=True, metavar="SECONDS",
    help="With --watch: how often.",
)  # fmt: skip
@_common
def status(manager: str, timeout: float, json_: bool, watch: bool, interval_s: float) -> None:
    """Print the cluster's health and its nodes."""
    with _link(manager, timeout) as link:
        if watch:
            _watch(link, interval_s, json_)
            return
        answer = link.status()
    if json_:
        click.echo(as_json(answer))
    else:
        from zkv.cli.clusterview import status_text

        click.echo(status_text(answer))


def _watch(link: AdminLink, interval_s: float, json_: bool) -> None:
    from zkv.cli.live import Screen, is_terminal

    screen: AbstractContextManager[Screen | None] = nullcontext()
    if is_terminal() and not json_:
        screen = Screen()
    try:
        with screen as shown:
            show = _shower(link, shown, json_)
            while True:
                try:
                    show()
                except ManagerUnreachable as error:  # it may be just being restarted
                    click.echo(f"{error}; still trying", err=True)
                time.sleep(interval_s)
    except KeyboardInterrupt:
        return


def _shower(link: AdminLink, screen: Screen | None, json_: bool) -> Callable[[], None]:
    """What is done at each look."""
    from zkv.cli.clusterview import local_time, status_text
    from zkv.cli.meters import Meters

    meters = Meters()
    events: deque[dict[str, Any]] = deque(maxlen=EVENTS_SHOWN)
    newest = 0

    def show() -> None:
        nonlocal newest
        answer = link.status()
        if json_:
            click.echo(as_json(answer))
        elif screen is None:
            click.echo(f"{local_time(int(time.time() * 1000))}  {status_text(answer)}\n")
        else:
            last = link.events(limit=0)[1]
            start = max(newest, last - EVENTS_SHOWN) if last >= newest else 0  # fewer: another cluster
            fresh, newest = link.events(start, EVENTS_SHOWN)
            events.extend(fresh)
            screen.show(answer, meters.update(answer), list(events))

    return show


@main.command(
    "map",
    epilog="""\
Shards with the same holders and epoch share a line. A node that is being filled is no holder yet; a shard
that is withheld is kept by its last holders, and served by nobody.

Examples:

  zkv-admin map
  zkv-admin map --json | jq '.shards[] | select(.learners != [])'
""",
)
@_common
def map_(manager: str, timeout: float, json_: bool) -> None:
    """Print which nodes hold which shards, the primary first."""
    with _link(manager, timeout) as link:
        current = link.map()
    from zkv.cli.clusterview import map_json, map_text

    click.echo(as_json(map_json(current)) if json_ else map_text(current))


@main.command(
    epilog="""\
The log is durable: it outlives the manager. Each event has a number, so that a program can go on where it
stopped. Kinds: formed, join, suspect, down, back, death, takeover, fill, healed, drain, drained, move,
handover, memory, reset, lost, layout, layout_refused, manager, doubt, isolated, pardoned, shunned.

Examples:

  zkv-admin events                       the last 50
  zkv-admin events --limit 1000          the last 1000
  zkv-admin events --after 120           from number 121 on
  zkv-admin events --follow              the last ones, and more as they come, until Ctrl-C
  zkv-admin events --json | jq 'select(.kind == "takeover") | .duration_ms'
"""
)
@click.option("--after", type=click.IntRange(min=0), metavar="NUMBER", help="Those after this one, the oldest first.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, metavar="N",
    help="How many; with --follow, how many of those that are there already.",
)  # fmt: skip
@click.option("--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@_common
def events(manager: str, timeout: float, json_: bool, after: int | None, limit: int, follow: bool) -> None:
    """Print what happened: joins, deaths with their evidence, takeovers, fills, resets.

    With --json one object a line.
    """
    with _link(manager, timeout) as link:
        try:
            start = max(0, link.events(limit=0)[1] - limit) if after is None else after
            newest = _print_events(link, start, limit, json_, follow=follow)
            while follow:
                time.sleep(FOLLOW_S)
                try:
                    newest = _print_events(link, newest, sys.maxsize, json_, follow=True)
                except ManagerUnreachable as error:  # it may be just being restarted
                    click.echo(f"{error}; still trying", err=True)
        except KeyboardInterrupt:
            if not follow:
                raise


def _print_events(link: AdminLink, after: int, limit: int, json_: bool, *, follow: bool) -> int:
    """Print up to `limit` events; the number of the last one."""
    from zkv.cli.clusterview import event_line

    while limit > 0:
        found, last = link.events(after, min(limit, 1000))
        if last < after and follow:  # another cluster, at the same endpoint
            after = 0
            continue
        for event in found:
            click.echo(as_json(event) if json_ else event_line(event))
        if not found:
            break
        after, limit = found[-1]["number"], limit - len(found)
    return after


# --- changing -----------------------------------------------------------------------------------------------------


@main.command(
    epilog="""\
Each copy that the node holds is first made elsewhere; then the node leaves, and its process ends. Clients
notice nothing. Refused if fewer nodes would remain than each shard is to have copies, unless forced: then
shards keep as many copies as there are nodes.

Examples:

  zkv-admin drain server3                returns when server3 has left
  zkv-admin drain server3 --no-wait      returns at once
  zkv-admin join server3                 takes it back
"""
)
@click.argument("name")
@click.option("--force", is_flag=True, help="Even if too few nodes remain for all copies.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when the node has left.")
@_common
def drain(manager: str, timeout: float, json_: bool, name: str, force: bool, wait: bool) -> None:
    """Empty the node NAME, then let it go."""
    with _link(manager, timeout) as link:
        answer = link.drain(name, force=force)
        if not json_:
            held = counted(answer["shards"], "copy", "copies")
            click.echo(f"{name} is being drained: it holds {held}, {byte_count(answer['bytes'])}")
        if wait:
            _await_drain(link, name, answer["shards"], quiet=json_)
    if json_:
        click.echo(as_json({**answer, "drained": wait}))
    elif wait:
        click.echo(f"{name} has left")


def _await_drain(link: AdminLink, name: str, total: int, *, quiet: bool) -> None:
    from zkv.cli.live import progress
    from zkv.net.waiting import draining

    try:
        if quiet:
            deque(draining(link, name), maxlen=0)
            return
        with progress(f"{name} emptied", "copies") as show:
            for left in draining(link, name):
                show(max(0, total - left), total)
            show(total, total)
    except KeyboardInterrupt:
        back = f"`zkv-admin join {name}` takes it back"
        click.echo(f"\nThe drain of {name} goes on, as `zkv-admin status --watch` shows; {back}.", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


@main.command(
    epilog="""\
Examples:

  zkv-admin join server3                 server3 stays, and is given its share again

A new node joins by itself: zkv-launch add, or zkv-node --name NAME --manager ENDPOINT on any machine.
"""
)
@click.argument("name")
@_common
def join(manager: str, timeout: float, json_: bool, name: str) -> None:
    """Take the drain of the node NAME back."""
    with _link(manager, timeout) as link:
        answer = link.join(name)
    click.echo(as_json(answer) if json_ else f"{name} stays")


@main.command(
    epilog="""\
The manager rebalances by itself when nodes come and go. This places everything anew from where it is now,
and does not wait for nodes that came back a short while ago to prove that they are steady.

Examples:

  zkv-admin rebalance --dry-run          what would move from whom to whom, and how many bytes
  zkv-admin rebalance                    do it; zkv-admin status --watch shows it
"""
)
@click.option("--dry-run", is_flag=True, help="Only say what would move.")
@_patient
def rebalance(manager: str, timeout: float, json_: bool, dry_run: bool) -> None:
    """Move shards until each node has its share."""
    with _link(manager, timeout) as link:
        answer = link.plan() if dry_run else link.rebalance()
    if json_:
        click.echo(as_json(answer))
    else:
        from zkv.cli.clusterview import plan_text

        click.echo(plan_text(answer, begun=not dry_run))


@main.command(
    epilog="""\
From how busy the nodes are, and from their memory. Nothing is done about it: zkv-launch add, zkv-admin
drain, or zkv-launch start --autoscale MIN:MAX, which follows the advice by itself.

Examples:

  zkv-admin advise
  zkv-admin advise --json | jq -r .advice      add, drain or none
"""
)
@_common
def advise(manager: str, timeout: float, json_: bool) -> None:
    """Say whether nodes should be added, or can be drained."""
    with _link(manager, timeout) as link:
        answer = link.advise()
    if json_:
        click.echo(as_json(answer))
    else:
        from zkv.cli.clusterview import advice_text

        click.echo(advice_text(answer))


@main.command(
    "reset-shards",
    epilog="""\
A shard is lost when no copy of it is up. Its requests fail, and its data is awaited: a node that was only
paused or cut off may bring it back. To create it anew, empty, is refused as long as anyone who held all of
it is not proven dead; the refusal names him. Caches may want --on-loss reset, which does it by itself.

Examples:

  zkv-admin reset-shards --all-lost      shows what is lost, and asks
  zkv-admin reset-shards 17 20-23        these
  zkv-admin reset-shards --all-lost --yes
""",
)
@click.argument("shards", nargs=-1, metavar="[SHARD...]")
@click.option("--all-lost", is_flag=True, help="All shards that are lost at present.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_common
def reset_shards(
    manager: str, timeout: float, json_: bool, shards: tuple[str, ...], all_lost: bool, yes: bool
) -> None:
    """Create lost shards anew, empty. Their data is given up for ever."""
    if bool(shards) == all_lost:
        raise UsageError("name the shards (17, 20-23), or say --all-lost")
    from zkv.cli.clusterview import loss_text, lost_shards, spans

    with _link(manager, timeout) as link:
        current = link.map()
        numbers = lost_shards(current) if all_lost else _numbers(shards)
        beyond = [number for number in numbers if number >= len(current.shards)]
        if beyond:
            raise UsageError(f"there is no shard {beyond[0]}: there are 0 to {len(current.shards) - 1}")
        if not numbers:
            raise UsageError("no shard is lost")
        served = sorted(set(numbers).difference(lost_shards(current)))
        if served:
            raise UsageError(f"shard {served[0]} is not lost")
        if not json_:
            click.echo(loss_text(current, numbers))
        if not yes:
            if json_ or not sys.stdin.isatty():
                raise UsageError("nobody can be asked here: repeat it with --yes to give this data up")
            if not click.confirm("Give it up?"):
                click.echo("Nothing was done.")
                raise click.exceptions.Exit(EXIT_INTERRUPTED)
        # These, and not what else has been lost since they were shown.
        done = link.reset(numbers)
    if json_:
        click.echo(as_json({"reset": done}))
    else:
        click.echo(f"{counted(len(done), 'shard')} created anew, empty: {spans(done)}")


def _numbers(words: tuple[str, ...]) -> list[int]:
    """`17 20-23` -> [17, 20, 21, 22, 23]. Raises UsageError."""
    found: set[int] = set()
    for word in words:
        match = _SHARDS.fullmatch(word)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise UsageError(f"{word!r} is neither a shard number nor a range like 4-7")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)


# --- saving -------------------------------------------------------------------------------------------------------

main.add_command(_patient(dump))
main.add_command(_patient(load))


if __name__ == "__main__":
    main()
