"""What the operations of `zkv-client` share: options, the client, typed words, and how results and errors are shown.

With --json each result is one object on stdout, and so is each failure: `"ok": false`, the error's name, and whether a
write may have been done all the same. The line on stderr and the exit status are the same with and without it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar

import click

from zkv.cli.options import EXIT_CONDITION, EXIT_MISSING, Command
from zkv.cli.render import as_json, as_text
from zkv.core.settings import DEFAULT_MANAGER, check_connectable
from zkv.errors import ZkvError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zkv.client import Client

F = TypeVar("F", bound=Callable[..., Any])

REQUEST_LIMIT_S: Final = 60.0
"""Longest deadline of one request of an operation that consists of many."""
TYPES: Final = ("str", "bytes", "int", "float", "json")
NEGATIVE: Final = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


class Operation(Command):
    """A command to which a word like -5 is a number, while other words with a dash are options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any(map(NEGATIVE.fullmatch, args)):
            # click can take all options that it does not know for arguments, or none. So all must be known first.
            self.make_parser(ctx).parse_args(["0" if NEGATIVE.fullmatch(word) else word for word in args])
            ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)


def operation(examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorator: an operation with the common options after its own; its --help ends with `examples`."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        command = click.command(cls=Operation, epilog=f"Examples:\n\n{examples}")(click.pass_context(function))
        command.params += common_options()
        return command

    return decorate


def common_options() -> list[click.Parameter]:
    """The options that may stand before or after the name of the operation."""
    return [
        click.Option(
            ["--manager"], metavar="ENDPOINT", envvar="ZKV_MANAGER", show_envvar=True,
            help=f"The cluster's manager.  [default: {DEFAULT_MANAGER}]",
        ),
        click.Option(
            ["--timeout"], type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", envvar="ZKV_TIMEOUT",
            show_envvar=True, help="How long to go on trying.  [default: 5]",
        ),
        click.Option(["--json", "json_"], is_flag=True, default=None, help="Print JSON, one object a line."),
    ]  # fmt: skip


ack_option = click.option(
    "--ack", type=click.Choice(["all", "primary"]), default=None, metavar="LEVEL", envvar="ZKV_ACK", show_envvar=True,
    help="When the write is acknowledged: `all` once every in-sync copy has it, `primary` once the primary has it, "
    "whose crash may then lose it.  [default: as the cluster is set]",
)  # fmt: skip
read_option = click.option(
    "--read", type=click.Choice(["primary", "any", "stale"]), default=None, envvar="ZKV_READ", show_envvar=True,
    help="Who may answer: the key's primary; `any` in-sync copy, which shows the newest value all the same; or any "
    "copy, with a committed value that need not be the newest (`stale`).  [default: primary]",
)  # fmt: skip


def type_option(*types: str) -> Callable[[F], F]:
    """`--type`: what a word that is stored means; one of `types`, all by default."""
    return click.option(
        "--type", "kind", type=click.Choice(types or TYPES), default="str", show_default=True,
        help="What the words given as values are." + ("" if types else " `json`: also lists, objects, null, true."),
    )  # fmt: skip


def ttl_option(**extra: Any) -> Callable[[F], F]:
    """A time to live."""
    kind = click.FloatRange(min=0.001)
    return click.option("--ttl", "ttl_s", type=kind, metavar="SECONDS", **extra)


def version_option(name: str, **extra: Any) -> Callable[[F], F]:
    """A version as a condition."""
    kind = click.IntRange(0, 2**64 - 1)
    return click.option(name, "if_version", type=kind, metavar="N", **extra)


def word(text: str) -> str | bytes:
    """A word of the command line; one that is not valid in the locale's encoding is bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text)
    return text


def typed(text: str, kind: str) -> Any:
    """The value that a word of the command line stands for."""
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "json":
            import json

            return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = f" ({error})" if kind == "json" else ""
        raise click.UsageError(f"{shortened(text)} is no {kind} value{why}") from None
    return os.fsencode(text) if kind == "bytes" else word(text)


def shortened(text: str) -> str:
    """A word in an error message."""
    return repr(text if len(text) <= 60 else text[:59] + "…")


class Session:
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

    @contextmanager
    def client(self, *, limit_s: float | None = None, subscribe: bool = False, **about: Any) -> Iterator[Client]:
        """The client; errors inside are also shown as JSON, if that is wanted, with `about` (`key=…`).

        `limit_s`: longest deadline of one call, where that of the whole operation may be longer. `subscribe`: for what
        lives long enough for a map subscription to be of use.
        """
        try:
            check_connectable("manager", self.manager)
            from zkv.client import Client  # after the check: a wrong endpoint needs no sockets

            timeout_s = self.timeout_s if limit_s is None else min(self.timeout_s, limit_s)
            with Client(self.manager, timeout_s=timeout_s, subscribe=subscribe) as kv:
                yield kv
        except ZkvError as error:
            self.show_error(error, **about)
            raise

    def show(self, text: str, **fields: Any) -> None:
        """A result on stdout, for people or for programs."""
        click.echo(as_json(fields) if self.json else text)

    def show_error(self, error: ZkvError, **about: Any) -> None:
        """An error as JSON, if that is wanted; the line on stderr is made of the exception at the end."""
        if self.json:
            what = {"error": type(error).__name__, "message": str(error), "outcome_unknown": error.outcome_unknown}
            click.echo(as_json({**about, "ok": False, **what}))

    def show_all(self, keys: Sequence[Any], results: Sequence[Any], show: Callable[[Any, Any], None]) -> None:
        """Results of several keys, in their order; then the first error of those that failed is raised."""
        failed = []
        for key, result in zip(keys, results, strict=True):
            if isinstance(result, ZkvError):
                failed.append((key, result))
                self.show_error(result, key=key)
            else:
                show(key, result)
        if failed:
            if len(failed) < len(keys):
                click.echo(f"failed: {', '.join(as_text(key) for key, _ in failed)}", err=True)
            raise failed[0][1]

    def missing(self, key: str | bytes) -> None:
        """Say that a key does not exist."""
        if self.json:
            click.echo(as_json({"key": key, "found": False}))
        click.echo(f"{as_text(key)}: no such key", err=True)

    def end_unmet(self, key: str | bytes, condition: str, why: str) -> NoReturn:
        """End, because a condition did not hold."""
        if self.json:
            click.echo(as_json({"key": key, "ok": False, "condition": condition}))
        click.echo(f"{as_text(key)}: {why}; nothing was changed", err=True)
        raise click.exceptions.Exit(EXIT_CONDITION)


def end_missing() -> NoReturn:
    """End, because a key does not exist."""
    raise click.exceptions.Exit(EXIT_MISSING)
