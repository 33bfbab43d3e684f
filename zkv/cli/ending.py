"""Commands that clean up when they are told to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

import click

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Ended(KeyboardInterrupt):
    """A signal asks to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def ended_by_signals(remark: str = "") -> Iterator[None]:
    """SIGTERM and SIGHUP end the block like Ctrl-C: in order. The first one counts; cleaning up is not disturbed.

    Then the command ends with 128 and the number of the signal, and says so, with a remark where there is one.
    """

    def end(number: int, _: FrameType | None) -> NoReturn:
        for each in former:
            signal.signal(each, signal.SIG_IGN)
        raise _Ended(number)

    # Who had them ignored (nohup) wants them ignored.
    former = {each: found for each in _ENDING if (found := signal.getsignal(each)) is not signal.SIG_IGN}
    try:
        for each in former:
            signal.signal(each, end)
        yield
    except _Ended as ended:
        click.echo(f"interrupted{remark and ': '}{remark}", err=True)
        raise click.exceptions.Exit(128 + ended.number) from None
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)
