"""What the commands share: options made from the settings, and errors that fit on one line.

An option's name, type, help, default and environment variable all come from `zkv.core.settings`; nothing here
knows a single setting by name. No traceback reaches a user: what zkv raises becomes one line on stderr and an
exit status, and so does a mistake of ours, which ZKV_DEBUG=1 shows in full.

Exit statuses, the same for all commands: 0 done; 1 the key does not exist; 2 wrong usage; 3 nobody can serve
this now; 4 the deadline passed; 5 a condition did not hold; 6 the stored value does not allow the operation; 70 a
mistake in zkv; 75 and 76 a lock could not be taken, or was lost; 130 interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from zkv.core.amounts import exact_size, parse_size
from zkv.core.settings import Setting, settings_of
from zkv.errors import (
    LockLost,
    ManagerUnreachable,
    SettingError,
    TimedOut,
    TooLarge,
    Unavailable,
    UsageError,
    WrongType,
    ZkvError,
)

__all__ = [
    "CONTEXT",
    "EXIT_CONDITION",
    "EXIT_INTERNAL",
    "EXIT_LOCK_LOST",
    "EXIT_MISSING",
    "EXIT_NOT_LOCKED",
    "EXIT_TIMED_OUT",
    "EXIT_UNAVAILABLE",
    "EXIT_USAGE",
    "EXIT_VALUE",
    "Command",
    "Commands",
    "Failure",
    "Size",
    "chosen",
    "setting_options",
]

EXIT_MISSING: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 3
EXIT_TIMED_OUT: Final = 4
EXIT_CONDITION: Final = 5
EXIT_VALUE: Final = 6
EXIT_INTERNAL: Final = 70
EXIT_NOT_LOCKED: Final = 75
EXIT_LOCK_LOST: Final = 76
EXIT_INTERRUPTED: Final = 130

CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """One line on stderr and an exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(" ".join(message.split()))  # one line, whatever went into the message
        self.status = status

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click declares a class variable
        return self.status


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (click.ClickException, click.exceptions.Exit):
        raise
    except click.Abort:  # Ctrl-C at a question
        click.echo(err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        raise  # the reader of our output went away: click ends quietly
    except Exception as error:
        if os.environ.get("ZKV_DEBUG"):
            raise
        raise failure_of(error) from None


def failure_of(error: Exception) -> Failure:
    """The line and the status for an error."""
    if isinstance(error, ManagerUnreachable):
        where = str(error).partition(": start a cluster")[0]  # here the flag can be named as well
        return Failure(
            f"{where}: start a cluster with `zkv-launch start --nodes 5 --rep 3`, "
            "or name the manager of another with --manager or ZKV_MANAGER",
            EXIT_UNAVAILABLE,
        )
    if isinstance(error, UsageError):
        return Failure(str(error), EXIT_USAGE)
    if isinstance(error, Unavailable):
        return Failure(f"{error}: `zkv-admin status` shows what is missing", EXIT_UNAVAILABLE)
    if isinstance(error, TimedOut):
        hint = ": the write may or may not have been done" if error.outcome_unknown else ""
        return Failure(f"{error}{hint}", EXIT_TIMED_OUT)
    if isinstance(error, WrongType | TooLarge):
        return Failure(f"{error}; nothing was changed", EXIT_VALUE)
    if isinstance(error, LockLost):
        return Failure(str(error), EXIT_LOCK_LOST)
    if isinstance(error, ZkvError):
        return Failure(str(error), EXIT_UNAVAILABLE)
    if isinstance(error, OSError):
        return Failure(str(error), EXIT_UNAVAILABLE)
    return Failure(
        f"a mistake in zkv: {type(error).__name__}: {error} (ZKV_DEBUG=1 shows where; please report it)",
        EXIT_INTERNAL,
    )


class Command(click.Command):
    """A command whose errors are one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line_errors():
            return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _verbatim_epilog(self.epilog, formatter)


class Commands(click.Group):
    """A group of such commands, listed in the order in which they are defined."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line_errors():
            return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _verbatim_epilog(self.epilog, formatter)


def _verbatim_epilog(epilog: str | None, formatter: click.HelpFormatter) -> None:
    """Examples keep their lines; click would fill them into paragraphs."""
    if epilog:
        formatter.write("\n" + epilog.rstrip() + "\n")


class _BootId(click.ParamType[int]):
    name = "hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return int(value, 16)
        except ValueError:
            self.fail(f"{value!r} is not a hexadecimal number", param, ctx)


class Size(click.ParamType[int]):
    """An amount of memory: 512MiB, 2GB, or a number of bytes; a whole number for the command."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `zkv.core.amounts.parse_size`; the same for flags and for the environment."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except SettingError as error:
            self.fail(str(error), param, ctx)


def setting_options(
    cls: type, *, skip: Collection[str] = (), changes: Mapping[str, Any] | None = None
) -> Callable[[F], F]:
    """A decorator that adds one option for each setting of the dataclass `cls`, except those named in `skip`.

    `changes` replaces defaults. The command gets each value under the setting's name; `chosen` collects them.
    """
    made = [_option(setting, changes or {}) for setting in settings_of(cls) if setting.name not in skip]

    def decorate(command: F) -> F:
        for option in reversed(made):  # decorators apply from the inside out
            command = option(command)
        return command

    return decorate


def chosen(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` (a command's keyword arguments) that are settings of `cls`."""
    return {setting.name: values[setting.name] for setting in settings_of(cls) if setting.name in values}


def _option(setting: Setting, changes: Mapping[str, Any]) -> Callable[[F], F]:
    default = changes.get(setting.name, setting.default)
    extra: dict[str, Any] = {}
    if setting.kind is bool:
        extra["is_flag"] = True
    elif setting.name == "boot_id":
        extra["type"] = _BootId()
    elif setting.choices:
        extra["type"] = click.Choice(setting.choices)
    elif setting.unit == "bytes":
        extra["type"] = Size()
        if isinstance(default, int):
            default = exact_size(default)  # as it is shown in --help
    else:
        extra["type"] = setting.kind
        extra["metavar"] = setting.unit.upper() or None
    if default is ...:
        extra["required"] = True
    else:
        extra["default"] = default
        # Absent values and off switches go without saying.
        extra["show_default"] = default is not None and default != "" and default is not False
    return click.option(
        setting.flag,
        setting.name,
        help=setting.help,
        envvar=setting.env,
        show_envvar=setting.env is not None,
        **extra,
    )
