"""`zkv-client`: single operations from a shell.

Started anew for each operation, so it imports nothing that it does not need, and opens no map subscription:
it lives too short for one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

import click

from zkv import __version__
from zkv.cli.options import CONTEXT, EXIT_MISSING, Commands
from zkv.cli.render import as_json, as_text
from zkv.core.settings import DEFAULT_MANAGER, check_connectable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zkv.client import Client

EPILOG = """\
Examples:

  zkv-client put key1 value1            OK, server1
  zkv-client get key1                   key1, value1, server1
  zkv-client get key1 --json            {"key": "key1", "found": true, "value": "value1", ...}
  zkv-client mput a=1 b=2               one line for each
  zkv-client put key1 -- -5             a value that begins with a dash
  ZKV_MANAGER=tcp://10.0.0.1:5550 zkv-client get key1

The server named is the one that answered. Keys and values given here are strings.

Exit status: 0 done; 1 the key does not exist; 2 wrong usage; 3 no manager or no server for the key;
4 the deadline passed (a write may or may not have been done).
"""


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that may stand before or after the name of the operation."""
    for option in (
        click.option("--json", "json_", is_flag=True, default=None, help="Print JSON, one object a line."),
        click.option(
            "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", envvar="ZKV_TIMEOUT",
            show_envvar=True, help="How long to go on trying.  [default: 5]",
        ),
        click.option(
            "--manager", metavar="ENDPOINT", envvar="ZKV_MANAGER", show_envvar=True,
            help=f"The cluster's manager.  [default: {DEFAULT_MANAGER}]",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


_acknowledged = click.option(
    "--ack", type=click.Choice(["all", "primary"]), default=None, metavar="LEVEL", envvar="ZKV_ACK", show_envvar=True,
    help="When the write is acknowledged: `all` once every in-sync copy has it, `primary` once the primary has it, "
    "whose crash may then lose it.  [default: as the cluster is set]",
)  # fmt: skip


class _Session:
    """What the options chose, and the client, opened when first asked for."""

    def __init__(self, ctx: click.Context, options: dict[str, Any]) -> None:
        outer: dict[str, Any] = ctx.obj or {}
        # A flag after the operation's name counts most, then one before it, then the environment, which click
        # has put into both.
        given = {
            name: value
            if outer.get(name) is None or ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
            else outer[name]
            for name, value in options.items()
        }
        self.json = bool(given["json_"])
        self.timeout_s: float = given["timeout"] or 5.0
        self.manager: str = given["manager"] or DEFAULT_MANAGER

    def client(self) -> Client:
        check_connectable("manager", self.manager)
        from zkv.client import Client  # after the check: a wrong endpoint needs no sockets

        return Client(self.manager, timeout_s=self.timeout_s, subscribe=False)

    def show(self, text: str, **fields: Any) -> None:
        click.echo(as_json(fields) if self.json else text)

    def missing(self, key: str | bytes) -> None:
        if self.json:
            click.echo(as_json({"key": key, "found": False}))
        click.echo(f"{as_text(key)}: no such key", err=True)


def _end_missing() -> NoReturn:
    raise click.exceptions.Exit(EXIT_MISSING)


def _word(text: str) -> str | bytes:
    """A word of the command line; one that is not valid in the locale's encoding is bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


@click.group(cls=Commands, epilog=EPILOG, context_settings=CONTEXT)
@_common
@click.version_option(__version__, prog_name="zkv-client")
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Read and write single keys of a zkv cluster."""
    ctx.obj = options


@main.command()
@click.argument("key")
@click.argument("value")
@_acknowledged
@_common
@click.pass_context
def put(ctx: click.Context, /, key: str, value: str, ack: str | None, **options: Any) -> None:
    """Store VALUE under KEY; prints OK and the server."""
    session = _Session(ctx, options)
    with session.client() as kv:
        result = kv.put(_word(key), _word(value), ack=ack)
    session.show(f"OK, {result.server}", key=_word(key), ok=True, server=result.server, version=result.version)


@main.command()
@click.argument("key")
@_common
@click.pass_context
def get(ctx: click.Context, /, key: str, **options: Any) -> None:
    """Print KEY, its value, and the server."""
    _get(_Session(ctx, options), (key,))


@main.command()
@click.argument("key")
@_acknowledged
@_common
@click.pass_context
def delete(ctx: click.Context, /, key: str, ack: str | None, **options: Any) -> None:
    """Delete KEY; prints OK and the server."""
    session = _Session(ctx, options)
    with session.client() as kv:
        result = kv.delete(_word(key), ack=ack)
    if not result.existed:
        session.missing(_word(key))
        _end_missing()
    session.show(f"OK, {result.server}", key=_word(key), ok=True, server=result.server, version=result.version)


@main.command()
@click.argument("key")
@_common
@click.pass_context
def exists(ctx: click.Context, /, key: str, **options: Any) -> None:
    """Print yes if KEY exists; the exit status says it too."""
    session = _Session(ctx, options)
    with session.client() as kv:
        found = kv.exists(_word(key))
    if not found:
        session.missing(_word(key))
        _end_missing()
    session.show("yes", key=_word(key), found=True)


@main.command()
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE...")
@_acknowledged
@_common
@click.pass_context
def mput(ctx: click.Context, /, pairs: tuple[str, ...], ack: str | None, **options: Any) -> None:
    """Store several values in one go; prints a line for each key."""
    values: dict[str | bytes, str | bytes] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"{pair!r} has no '=': write KEY=VALUE")
        values[_word(key)] = _word(value)
    session = _Session(ctx, options)
    with session.client() as kv:
        results = kv.mput(values, ack=ack)
    for name, result in zip(values, results, strict=True):
        session.show(
            f"{as_text(name)}, OK, {result.server}",
            key=name,
            ok=True,
            server=result.server,
            version=result.version,
        )


@main.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@_common
@click.pass_context
def mget(ctx: click.Context, /, keys: tuple[str, ...], **options: Any) -> None:
    """Print several keys, their values and servers."""
    _get(_Session(ctx, options), keys)


def _get(session: _Session, keys: tuple[str, ...]) -> None:
    found_all = True
    with session.client() as kv:
        for word in keys:
            key = _word(word)
            entry = kv.entry(key)  # not mget(): the server that answered is part of the output
            if entry is None:
                found_all = False
                session.missing(key)
            else:
                session.show(
                    f"{as_text(key)}, {as_text(entry.value)}, {entry.server}",
                    key=key, found=True, value=entry.value, server=entry.server, version=entry.version,
                )  # fmt: skip
    if not found_all:
        _end_missing()


if __name__ == "__main__":
    main()
