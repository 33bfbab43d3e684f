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
    ttl_option,
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


_put_ttl_option = ttl_option(help="Have it expire after so long.  [default: never]")


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
  zkv-client put session:7 ada --ttl 60          gone after a minute; without --ttl it stays
  zkv-client put key1 -- --value                 a value that begins with a dash
""")
@click.argument("key")
@click.argument("value")
@click.option("--if-absent", is_flag=True, help="Only if the key does not exist.")
@click.option("--if-present", is_flag=True, help="Only if the key exists.")
@version_option("--if-version", help="Only if the key has this version; 0: if it never existed or was deleted.")
@_put_ttl_option
@type_option()
@ack_option
def put(
    ctx: click.Context, /, key: str, value: str, if_absent: bool, if_present: bool, if_version: int | None,
    ttl_s: float | None, kind: str, ack: str | None, **options: Any,
) -> None:  # fmt: skip
    """Store VALUE under KEY; prints OK and the server."""
    if if_absent + if_present + (if_version is not None) > 1:
        raise click.UsageError("choose one of --if-absent, --if-present and --if-version")
    session, name = Session(ctx, options), word(key)
    with session.client(key=name) as kv:
        result = kv.put(
            name, typed(value, kind), if_absent=if_absent, if_present=if_present, if_version=if_version, ttl_s=ttl_s,
            ack=ack,
        )  # fmt: skip
    if result is None:
        if if_absent:
            session.end_unmet(name, "if_absent", "the key exists already")
        if if_present:
            session.end_unmet(name, "if_present", "no such key")
        session.end_unmet(name, "if_version", _not_version(if_version))
    _show_written(session, name, result)


@operation("""\
  zkv-client get key1 --verbose                  key1, value1, server1, str, version 1099511627777
  zkv-client cas key1 new --version 1099511627777
  zkv-client cas key1 first --version 0          if the key does not exist
""")
@click.argument("key")
@click.argument("value")
@version_option("--version", required=True, help="The version that the key must have.")
@_put_ttl_option
@type_option()
@ack_option
def cas(
    ctx: click.Context, /, key: str, value: str, if_version: int, ttl_s: float | None, kind: str, ack: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """Compare and set: store VALUE if KEY has a certain version."""
    session, name = Session(ctx, options), word(key)
    with session.client(key=name) as kv:
        result = kv.cas(name, typed(value, kind), version=if_version, ttl_s=ttl_s, ack=ack)
    if result is None:
        session.end_unmet(name, "if_version", _not_version(if_version))
    _show_written(session, name, result)


def _show_written(session: Session, key: str | bytes, result: PutResult) -> None:
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
@_put_ttl_option
@type_option()
@ack_option
def getset(
    ctx: click.Context, /, key: str, value: str, ttl_s: float | None, kind: str, ack: str | None, **options: Any
) -> None:
    """Store VALUE under KEY; prints the former value."""
    session, name, new = Session(ctx, options), word(key), typed(value, kind)
    with session.client(key=name) as kv:
        former = kv.getset(name, new, _MISSING, ttl_s=ttl_s, ack=ack)
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


# --- how long a key lives ------------------------------------------------------------------------------------------


@operation("""\
  zkv-client touch session:7 --ttl 60            gone a minute from now, unless it is touched again
""")
@click.argument("key")
@ttl_option(required=True, help="How long KEY lives from now.")
@ack_option
def touch(ctx: click.Context, /, key: str, ttl_s: float, ack: str | None, **options: Any) -> None:
    """Give KEY a new time to live; prints OK and the server. Its value stays."""
    session, name = Session(ctx, options), word(key)
    with session.client(key=name) as kv:
        result = kv.touch(name, ttl_s, ack=ack)
    if result is None:
        session.missing(name)
        end_missing()
    _show_written(session, name, result)


@operation("""\
  zkv-client persist session:7                   it stays until somebody deletes it
""")
@click.argument("key")
@ack_option
def persist(ctx: click.Context, /, key: str, ack: str | None, **options: Any) -> None:
    """Have KEY never expire; prints OK and the server. Its value stays."""
    session, name = Session(ctx, options), word(key)
    with session.client(key=name) as kv:
        result = kv.persist(name, ack=ack)
    if result is None:
        session.missing(name)
        end_missing()
    _show_written(session, name, result)


@operation("""\
  zkv-client ttl session:7                       session:7, 59.998 s
  zkv-client ttl key1                            key1, never expires
  zkv-client ttl session:7 --json | jq .ttl_s    seconds, or null
""")
@click.argument("key")
def ttl(ctx: click.Context, /, key: str, **options: Any) -> None:
    """Print how long KEY still lives."""
    session, name = Session(ctx, options), word(key)
    with session.client(key=name) as kv:
        left_s = kv.ttl(name)
    if left_s is None:
        session.missing(name)
        end_missing()
    expires = left_s != float("inf")
    what = f"{left_s:.3f} s" if expires else "never expires"
    session.show(f"{as_text(name)}, {what}", key=name, found=True, ttl_s=left_s if expires else None)


# --- several keys -------------------------------------------------------------------------------------------------


@operation("""\
  zkv-client mput a=1 b=2 c=3                    strings
  zkv-client mput a=1 b=2 c=3 --type int         numbers
""")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE...")
@_put_ttl_option
@type_option()
@ack_option
def mput(
    ctx: click.Context, /, pairs: tuple[str, ...], ttl_s: float | None, kind: str, ack: str | None, **options: Any
) -> None:
    """Store several values in one go; prints a line for each key."""
    values: dict[str | bytes, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"{pair!r} has no '=': write KEY=VALUE")
        values[word(key)] = typed(value, kind)
    session = Session(ctx, options)
    with session.client() as kv:
        results = kv.mput(values, ttl_s=ttl_s, ack=ack, return_exceptions=True)

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
    put, get, delete, exists, cas, getset, incr, append, touch, persist, ttl, mput, mget, mdelete,
)  # fmt: skip
