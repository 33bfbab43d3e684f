"""Views that change while one looks, for terminals: a cluster being watched, progress bars. Elsewhere plain lines.

rich is imported in the functions: most commands do without, and it takes longer to load than they take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from zkv.cli.clusterview import event_line, headline, node_table, remarks
from zkv.cli.meters import Meter

if TYPE_CHECKING:
    from rich.console import RenderableType

COLOURS: Final = {"healthy": "green", "healing": "yellow", "degraded": "yellow", "forming": "yellow"}
"""Of the health; red for any other."""
STATE_COLOURS: Final = {"up": "green", "draining": "yellow", "down": "red", "dead": "red"}
_PLAIN_LINE_S: Final = 1.0
"""Where there is no terminal progress is a line, so often at most."""


def is_terminal() -> bool:
    """Whether standard output is one."""
    return sys.stdout.isatty()


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, else a line now and then: the body calls `show(done, total)`."""
    if not is_terminal():
        yield _plain_progress(label, unit)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn()
    with Progress(*columns) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_progress(label: str, unit: str) -> Callable[[int, int], None]:
    last: tuple[int, int] | None = None
    last_s = float("-inf")

    def show(done: int, total: int) -> None:
        nonlocal last, last_s
        now_s = time.monotonic()
        if (done, total) != last and (done == total or now_s - last_s >= _PLAIN_LINE_S):
            last, last_s = (done, total), now_s
            click.echo(f"{label}: {done} of {total} {unit}")

    return show


class Screen:
    """A terminal that shows one cluster until it is closed. A context manager."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(auto_refresh=False, vertical_overflow="crop")

    def show(self, status: dict[str, Any], meters: Sequence[Meter], events: Sequence[dict[str, Any]]) -> None:
        """Replace what is shown."""
        self._live.update(dashboard(status, meters, events), refresh=True)

    def __enter__(self) -> Screen:
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)


def dashboard(
    status: dict[str, Any], meters: Sequence[Meter], events: Sequence[dict[str, Any]]
) -> RenderableType:
    """Health, remarks, nodes, bars, the last events."""
    from rich.console import Group
    from rich.text import Text

    health, _, rest = headline(status).partition(":")
    parts: list[RenderableType] = [
        Text.assemble((health, f"bold {COLOURS.get(health, 'red')}"), ":", rest),
        *(Text(f"  {line}") for line in remarks(status)),
        Text(),
        _nodes(status),
    ]
    if meters:
        parts += [Text(), _bars(meters)]
    if events:
        lines = (Text(event_line(event), style="dim", no_wrap=True, overflow="ellipsis") for event in events)
        parts += [Text(), *lines]
    return Group(*parts)


def _nodes(status: dict[str, Any]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    head, rows = node_table(status)
    words = {"node", "state", "endpoint", "zone"}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in head:
        table.add_column(name, justify="left" if name in words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(cell), style=STATE_COLOURS.get(str(cell), "")) for cell in row))
    return table


def _bars(meters: Sequence[Meter]) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for meter in meters:
        bar = ProgressBar(total=max(1, meter.total), completed=meter.done, width=40)
        grid.add_row(Text(meter.label), bar, Text(f"{meter.done} of {meter.total}"))
    return grid
