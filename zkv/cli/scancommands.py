"""The operations of `zkv-client` on all keys with a prefix: to list, count, delete and watch them.

Each goes through the cluster a page at a time and prints what it has, however much there is.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from zkv.cli.options import EXIT_INTERRUPTED
from zkv.cli.render import as_json, as_text, counted
from zkv.cli.session import REQUEST_LIMIT_S, Session, operation, word
from zkv.core import wire
from zkv.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zkv.client import Client, Event

_prefix_argument = click.argument("prefix", default="")
_bytes_option = click.option(
    "--bytes", "of_bytes", is_flag=True, help="The keys that are bytes, not those that are strings."
)


def _start(prefix: str, of_bytes: bool) -> str | bytes:
    """The prefix that a word stands for."""
    start = word(prefix)
    return start.encode() if of_bytes and isinstance(start, str) else start


@operation("""\
  zkv-client keys                                all keys, one a line, in no order
  zkv-client keys user:                          those that begin with user:
  zkv-client keys user: --count                  how many
  zkv-client keys --json                         also right where keys contain line ends
""")
@_prefix_argument
@click.option("--count", "only_count", is_flag=True, help="Print how many there are.")
@_bytes_option
def keys(ctx: click.Context, /, prefix: str, only_count: bool, of_bytes: bool, **options: Any) -> None:
    """List the keys that begin with PREFIX.

    A page at a time, however many there are. Keys that come or go meanwhile may be missed. A key is a string unless it
    was put as bytes; this lists strings. --timeout is for each page.
    """
    session, start = Session(ctx, options), _start(prefix, of_bytes)
    with session.client(prefix=start) as kv:
        if only_count:
            _show_count(session, start, kv.count(start))
        else:
            _print_keys(session, kv, start)


def _print_keys(session: Session, kv: Client, start: str | bytes) -> None:
    from zkv.client.scanning import Walk

    walk = Walk(wire.SCAN_KEYS, start)
    while not walk.over:
        found = [key for page in kv._walk_on(walk) for key in page.keys]
        if found:
            click.echo("\n".join(as_json({"key": key}) if session.json else as_text(key) for key in found))


@operation("""\
  zkv-client scan                                everything: key, value on each line, in no order
  zkv-client scan user:                          keys that begin with user:
  zkv-client scan user: --json > users.jsonl     objects with key, value, version and server
  zkv-client scan user: --keys-only              as `zkv-client keys`
""")
@_prefix_argument
@click.option("--keys-only", is_flag=True, help="Leave the values where they are.")
@_bytes_option
def scan(ctx: click.Context, /, prefix: str, keys_only: bool, of_bytes: bool, **options: Any) -> None:
    """Print the keys that begin with PREFIX, and their values.

    A page at a time, however many there are. Every key that is there all the time is printed once, whatever fails or
    moves meanwhile; what comes, goes or changes may be shown as it is or as it was. --timeout is for each page.
    """
    session, start = Session(ctx, options), _start(prefix, of_bytes)
    with session.client(prefix=start) as kv:
        if keys_only:
            _print_keys(session, kv, start)
            return
        for key, value, version, server in kv.scan(start):
            session.show(
                f"{as_text(key)}, {as_text(value)}", key=key, value=value, version=version, server=server
            )


@operation("""\
  zkv-client count                               how many keys there are
  zkv-client count user:                         how many begin with user:
""")
@_prefix_argument
@_bytes_option
def count(ctx: click.Context, /, prefix: str, of_bytes: bool, **options: Any) -> None:
    """Print how many keys begin with PREFIX.

    They are counted where they are. A key is a string unless it was put as bytes; this counts strings.
    """
    session, start = Session(ctx, options), _start(prefix, of_bytes)
    with session.client(prefix=start) as kv:
        _show_count(session, start, kv.count(start))


def _show_count(session: Session, prefix: str | bytes, number: int) -> None:
    session.show(str(number), prefix=prefix, count=number)


@operation("""\
  zkv-client flush tmp:                          says how many, asks, and deletes them
  zkv-client flush tmp: --yes                    does not ask
  zkv-client flush --all                         every key of the cluster, strings and bytes
""")
@_prefix_argument
@click.option("--all", "everything", is_flag=True, help="Every key of the cluster.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@_bytes_option
def flush(
    ctx: click.Context, /, prefix: str, everything: bool, yes: bool, of_bytes: bool, **options: Any
) -> None:
    """Delete the keys that begin with PREFIX; prints how many.

    A page at a time; what others put meanwhile may stay. A flush that was interrupted is gone on with by another.
    """
    if everything == bool(prefix):
        raise click.UsageError("name a PREFIX, or say --all to delete every key" + " (not both)" * bool(prefix))
    session, start = Session(ctx, options), _start(prefix, of_bytes)
    prefixes: list[str | bytes] = [start] if prefix or of_bytes else ["", b""]
    with session.client(prefix=start) as kv:
        if not yes:
            number = sum(map(kv.count, prefixes))
            which = f"that begin with {as_text(start)}" if prefix else "of the cluster"
            if session.json or not sys.stdin.isatty():
                raise UsageError(f"nobody can be asked here: repeat it with --yes to delete {counted(number, 'key')}")
            if not click.confirm(f"Delete {counted(number, 'key')} {which}?"):
                click.echo("Nothing was deleted.")
                raise click.exceptions.Exit(EXIT_INTERRUPTED)
        deleted = sum(map(kv.flush, prefixes))
    session.show(f"{counted(deleted, 'key')} deleted", prefix=start, ok=True, deleted=deleted)


@operation("""\
  zkv-client watch                               put, key1, value1; delete, key1; expire, session:7; …
  zkv-client watch user: --json                  objects with event, key, value and version
  zkv-client watch job: --count 1 && make        go on when something has happened
""")
@_prefix_argument
@click.option("--count", "limit", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@_bytes_option
def watch(ctx: click.Context, /, prefix: str, limit: int | None, of_bytes: bool, **options: Any) -> None:
    """Print what happens to the keys that begin with PREFIX, a line each, until Ctrl-C.

    Puts, deletes, expiries and evictions, from now on: for each key in order, none missing and none twice, also when
    servers fail meanwhile. A line on stderr says when it has begun. It waits as long as it takes; --timeout is for the
    beginning.
    """
    session, start = Session(ctx, options), _start(prefix, of_bytes)
    with session.client(limit_s=REQUEST_LIMIT_S, subscribe=True, prefix=start) as kv:
        try:
            with kv.watch(start) as events:
                what = f"keys that begin with {as_text(start)}" if prefix else "all keys"
                click.echo(f"watching {what}; Ctrl-C ends it", err=True)
                for number, event in enumerate(events, 1):
                    _show_event(session, event)
                    if number == limit:
                        break
        except KeyboardInterrupt:
            pass  # that is how it ends


def _show_event(session: Session, event: Event) -> None:
    value = {"value": event.value} if event.kind == "put" else {}
    text = ", ".join((event.kind, *map(as_text, (event.key, *value.values()))))
    session.show(text, event=event.kind, key=event.key, **value, version=event.version)


COMMANDS: Final[tuple[click.Command, ...]] = (keys, scan, count, flush, watch)
