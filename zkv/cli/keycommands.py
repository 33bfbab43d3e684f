"""The operations of `zkv-client` on keys that are named: one command each."""

from __future__ import annotations

from typing import Any, Final

import click

from zkv.cli.render import as_text
from zkv.cli.session import (
    Session,
    ack_option,
    end_missing,
    operation,
    read_option,
    shortened,
    type_option,
    typed,
    version_option,
    word,
)
from zkv.errors import WrongType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zkv.client import DeleteResult, Entry, PutResult

_MISSING: Final = object()

_verbose_option = click.option("-v", "--verbose", is_flag=True, help="Add the value's type and its version.")


class _Number(click.ParamType[Any]):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        try:
            return value if isinstance(value, int | float) else int(value)
        except ValueError:
            pass
        try:
            return float(value)
        except ValueError:
            self.fail(f"{shortened(value)} is no number", param, ctx)


# --- one key ------------------------------------------------------------------------------------------------------


@operation("""\
  zkv-client put key1 value1
  zkv-client put visits 5 --type int             a number, for incr
  zkv-client put user:42 '{"name": "Ada"}' --type json
  zkv-client put leader host1 --if-absent        exit status 5 if there is one already
  zkv-client put key1 new --if-version 1099511627777
  zkv-client put key1 -- --value                 a value that begins with a dash
""")
@click.argument("key")
@click.argument("value")
@click.option("--if-absent", is_flag=True, help="Only if the key does not exist.")
@click.option("--if-present", is_flag=True, help="Only if the key exists.")
@version_option("--if-version", help="Only if the key has this version; 0: if it never existed or was deleted.")
@type_option()
@ack_option
def put(
    ctx: click.Context, /, key: str, value: str, if_absent: bool, if_present: bool, if_version: int | None, kind: str,
    ack: str | None, **options: Any,
) -> None:  # fmt: skip
    """Store VALUE under KEY; prints OK and the server."""
    if if_absent + if_present + (if_version is not None) > 1:
        raise click.UsageError("choose one of --if-absent, --if-present and --if-version")
    _put(Session(ctx, options), word(key), typed(value, kind), ack, if_absent, if_present, if_version)


@operation("""\
  zkv-client get key1 --verbose                  key1, value1, server1, str, version 1099511627777
  zkv-client cas key1 new --version 1099511627777
  zkv-client cas key1 first --version 0          if the key does not exist
""")
@click.argument("key")
@click.argument("value")
@version_option("--version", required=True, help="The version that the key must have.")
@type_option()
@ack_option
def cas(
    ctx: click.Context, /, key: str, value: str, if_version: int, kind: str, ack: str | None, **options: Any
) -> None:
    """Compare and set: store VALUE if KEY has a certain version."""
    _put(Session(ctx, options), word(key), typed(value, kind), ack, if_version=if_version)


def _put(
    session: Session, key: str | bytes, value: Any, ack: str | None, if_absent: bool = False, if_present: bool = False,
    if_version: int | None = None,
) -> None:  # fmt: skip
    with session.client(key=key) as kv:
        result = kv.put(key, value, if_absent=if_absent, if_present=if_present, if_version=if_version, ack=ack)
    if result is None:
        if if_absent:
            session.end_unmet(key, "if_absent", "the key exists already")
        if if_present:
            session.end_unmet(key, "if_present", "no such key")
        session.end_unmet(key, "if_version", _not_version(if_version))
    session.show(f"OK, {result.server}", key=key, ok=True, server=result.server, version=result.version)


def _not_version(version: int | None) -> str:
    return f"its version is not {version}" if version else "the key exists already"


@operation("""\
  zkv-client get key1                            key1, value1, server1
  zkv-client get key1 --verbose                  key1, value1, server1, str, version 1099511627777
  zkv-client get key1 --read any                 from any in-sync copy
""")
@click.argument("key")
@_verbose_option
@read_option
def get(ctx: click.Context, /, key: str, verbose: bool, read: str | None, **options: Any) -> None:
    """Print KEY, its value, and the server."""
    _get(Session(ctx, options), (key,), verbose, read)


@operation("""\
  zkv-client getset shift night                  shift, day
  zkv-client getset turn 2 --type int
""")
@click.argument("key")
@click.argument("value")
@type_option()
@ack_option
def getset(ctx: click.Context, /, key: str, value: str, kind: str, ack: str | None, **options: Any) -> None:
    """Store VALUE under KEY; prints the former value."""
    session, name, new = Session(ctx, options), word(key), typed(value, kind)
    with session.client(key=name) as kv:
        former = kv.getset(name, new, _MISSING, ack=ack)
    if former is not _MISSING:
        session.show(f"{as_text(name)}, {as_text(former)}", key=name, ok=True, found=True, value=former)
        return
    if session.json:
        session.show("", key=name, ok=True, found=False)
    click.echo(f"{as_text(name)}: there was no value", err=True)


@operation("""\
  zkv-client incr visits                         visits, 1
  zkv-client incr visits 10                      visits, 11
  zkv-client incr visits -1                      visits, 10
  zkv-client incr balance 0.5
""")
@click.argument("key")
@click.argument("by", type=_Number(), default=1)
@ack_option
def incr(ctx: click.Context, /, key: str, by: int | float, ack: str | None, **options: Any) -> None:
    """Add BY to the number under KEY; prints the sum.

    BY is 1 if it is not given. A missing key counts from 0.
    """
    session, name = Session(ctx, options), word(key)
    with session.client(key=name) as kv:
        try:
            total = kv.incr(name, by, ack=ack)
        except WrongType as error:
            error.args = (f"the value under {name!r} is no number: numbers are stored with --type int or --type float",)
            raise
    session.show(f"{as_text(name)}, {total}", key=name, ok=True, value=total)


@operation("""\
  zkv-client append log "one "                   log, 4
  zkv-client append log two                      log, 7
""")
@click.argument("key")
@click.argument("piece")
@type_option("str", "bytes")
@ack_option
def append(ctx: click.Context, /, key: str, piece: str, kind: str, ack: str | None, **options: Any) -> None:
    """Append PIECE to the text under KEY; prints the new length.

    A missing key becomes the piece. Strings are appended to strings, bytes to bytes.
    """
    session, name, end = Session(ctx, options), word(key), typed(piece, kind)
    with session.client(key=name) as kv:
        try:
            length = kv.append(name, end, ack=ack)
        except WrongType as error:
            error.args = (f"the value under {name!r} is no {type(end).__name__}, which is what would be appended",)
            raise
    session.show(f"{as_text(name)}, {length}", key=name, ok=True, length=length)


@operation("""\
  zkv-client delete key1                         exit status 1 if there is no such key
  zkv-client delete key1 --if-version 1099511627777
""")
@click.argument("key")
@version_option("--if-version", help="Only if the key has this version.")
@ack_option
def delete(
    ctx: click.Context, /, key: str, if_version: int | None, ack: str | None, **options: Any
) -> None:
    """Delete KEY; prints OK and the server."""
    session, name = Session(ctx, options), word(key)
    with session.client(key=name) as kv:
        result: DeleteResult | None
        if if_version is None:
            result = kv.delete(name, ack=ack)
        else:
            result = kv.delete(name, if_version=if_version, ack=ack)
    if result is None:
        session.end_unmet(name, "if_version", f"its version is not {if_version}")
    if not result.existed:
        session.missing(name)
        end_missing()
    session.show(f"OK, {result.server}", key=name, ok=True, server=result.server, version=result.version)


@operation("""\
  zkv-client exists key1                         yes
  zkv-client exists key1 > /dev/null 2>&1 || zkv-client put key1 value1
""")
@click.argument("key")
def exists(ctx: click.Context, /, key: str, **options: Any) -> None:
    """Print yes if KEY exists; the exit status says it too."""
    session, name = Session(ctx, options), word(key)
    with session.client(key=name) as kv:
        found = kv.exists(name)
    if not found:
        session.missing(name)
        end_missing()
    session.show("yes", key=name, found=True)


# --- several keys -------------------------------------------------------------------------------------------------


@operation("""\
  zkv-client mput a=1 b=2 c=3                    strings
  zkv-client mput a=1 b=2 c=3 --type int         numbers
""")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE...")
@type_option()
@ack_option
def mput(ctx: click.Context, /, pairs: tuple[str, ...], kind: str, ack: str | None, **options: Any) -> None:
    """Store several values in one go; prints a line for each key."""
    values: dict[str | bytes, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"{pair!r} has no '=': write KEY=VALUE")
        values[word(key)] = typed(value, kind)
    session = Session(ctx, options)
    with session.client() as kv:
        results = kv.mput(values, ack=ack, return_exceptions=True)

    def show(key: str | bytes, result: PutResult) -> None:
        session.show(
            f"{as_text(key)}, OK, {result.server}", key=key, ok=True, server=result.server, version=result.version
        )

    session.show_all(list(values), results, show)


@operation("""\
  zkv-client mget a b c                          a line for each: a, 1, server2
  zkv-client mget a b c --json | jq .value
""")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@_verbose_option
@read_option
def mget(ctx: click.Context, /, keys: tuple[str, ...], verbose: bool, read: str | None, **options: Any) -> None:
    """Print several keys, their values and servers."""
    _get(Session(ctx, options), keys, verbose, read)


def _get(session: Session, words: tuple[str, ...], verbose: bool, read: str | None) -> None:
    keys = list(map(word, words))
    results: list[Any]
    found_all = True
    with session.client() as kv:
        if read in (None, "primary"):
            # Not mget(): the server that answered is part of the output.
            with kv.pipeline(return_exceptions=True) as pipeline:
                for key in keys:
                    pipeline.entry(key)
            results = pipeline.results
        else:  # a pipeline reads at primaries
            results = [kv.entry(key, read=read) for key in keys]

    def show(key: str | bytes, entry: Entry | None) -> None:
        nonlocal found_all
        if entry is None:
            found_all = False
            session.missing(key)
            return
        more = f", {type(entry.value).__name__}, version {entry.version}" if verbose else ""
        session.show(
            f"{as_text(key)}, {as_text(entry.value)}, {entry.server}{more}",
            key=key, found=True, value=entry.value, server=entry.server, version=entry.version,
        )  # fmt: skip

    session.show_all(keys, results, show)
    if not found_all:
        end_missing()


@operation("""\
  zkv-client mdelete a b c                       a line for each: a, OK, server2
  zkv-client keys tmp: | xargs zkv-client mdelete
""")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@ack_option
def mdelete(ctx: click.Context, /, keys: tuple[str, ...], ack: str | None, **options: Any) -> None:
    """Delete several keys in one go; prints a line for each."""
    session, names = Session(ctx, options), list(map(word, keys))
    existed_all = True
    with session.client() as kv:
        results = kv.mdelete(names, ack=ack, return_exceptions=True)

    def show(key: str | bytes, result: DeleteResult) -> None:
        nonlocal existed_all
        if not result.existed:
            existed_all = False
            session.missing(key)
            return
        session.show(
            f"{as_text(key)}, OK, {result.server}", key=key, ok=True, server=result.server, version=result.version
        )

    session.show_all(names, results, show)
    if not existed_all:
        end_missing()


COMMANDS: Final[tuple[click.Command, ...]] = (
    put, get, delete, exists, cas, getset, incr, append, mput, mget, mdelete,
)  # fmt: skip
