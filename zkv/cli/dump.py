"""`zkv-admin dump` and `load`: the contents of a cluster into a file, and from there into any other cluster.

What goes to standard output is the summary, or the dump itself where the file is `-`; progress, on terminals only, and
everything else go to standard error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from zkv.cli.ending import ended_by_signals
from zkv.cli.options import CONTEXT, Command
from zkv.cli.render import as_json, byte_count, counted
from zkv.cli.session import word
from zkv.core.settings import check_connectable
from zkv.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from zkv.dump.dumping import Dumped
    from zkv.dump.format import Sink
    from zkv.dump.loading import Contents, Loaded

STANDARD: Final = "-"
"""As FILE: standard output, or input."""
MANAGER_S: Final = 5.0
"""Longest wait for the manager to say what time it is."""


@click.command(
    cls=Command, context_settings=CONTEXT,
    epilog="""\
Each shard is written as it was at one moment, values with their types, times to live included; shards differ
in their moments by as long as the dump takes. The cluster serves meanwhile. FILE appears, and replaces a
former one, when everything is in it and on the disk: whatever ends the command early leaves FILE as it was.
Until then FILE.partial grows beside it. Who can read FILE can read all keys and values: its mode is 0600.

Examples:

  zkv-admin dump backup.zkv                          all keys into a file
  zkv-admin dump - | zstd > backup.zkv.zst           compressed
  zkv-admin dump - | zkv-admin load - --manager tcp://10.0.0.2:5550     from one cluster into another
  zkv-admin dump backup.zkv --json | jq .keys
  zkv-admin load backup.zkv --dry-run                check what was written
""",
)  # fmt: skip
@click.argument("file", type=click.Path(allow_dash=True))
def dump(file: str, manager: str, timeout: float, json_: bool) -> None:
    """Write all keys of the cluster into FILE, or to standard output (-)."""
    check_connectable("manager", manager)
    from zkv.dump.whole import WholeFile

    started_s = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals(f"nothing is left of {file}" if file != STANDARD else ""))
        if file == STANDARD:
            if sys.stdout.isatty():
                raise UsageError("a dump is no text: name a file, or send standard output to one")
            done = _dump(sys.stdout.buffer, manager, timeout, json_)
            sys.stdout.buffer.flush()
        else:
            whole = stack.enter_context(WholeFile(file))
            done = _dump(whole, manager, timeout, json_)
            whole.keep()
    seconds = time.monotonic() - started_s
    fields = {
        "file": file, "keys": done.keys, "bytes": done.bytes, "shards": done.shards, "begun_anew": done.begun_anew,
        "seconds": round(seconds, 3),
    }  # fmt: skip
    again = f"; the pictures of {counted(done.begun_anew, 'shard')} were begun anew" if done.begun_anew else ""
    text = f"{counted(done.keys, 'key')} of {counted(done.shards, 'shard')} dumped to {file}: "
    text += f"{byte_count(done.bytes)} within {seconds:.1f} s{again}"
    click.echo(as_json(fields) if json_ else text, err=file == STANDARD)


def _dump(sink: Sink, manager: str, timeout_s: float, quiet: bool) -> Dumped:
    from zkv.client import Client
    from zkv.dump.dumping import dump as dump_into

    cluster_ms = _cluster_ms(manager, timeout_s)
    with Client(manager, timeout_s=timeout_s) as kv, _bar("dumped", quiet) as bar:

        def show(state: Dumped) -> None:
            about = f"of {counted(state.of_shards, 'shard')}, {counted(state.keys, 'key')}, {byte_count(state.bytes)}"
            bar(state.shards, state.of_shards, about)

        return dump_into(kv, sink, cluster_ms=cluster_ms, show=show)


@click.command(
    cls=Command, context_settings=CONTEXT,
    epilog="""\
The file is first read to its end: from one that is damaged, or was cut short, nothing is loaded. (What comes
from a pipe is kept in a temporary file until then.) Keys that exist are overwritten, others stay. Times to
live go on: what has expired since the dump is not loaded. To load again, after an error or an interruption,
ends in the same state.

Examples:

  zkv-admin load backup.zkv                          all of it
  zkv-admin load backup.zkv --dry-run                is it whole, and what is in it? Needs no cluster
  zkv-admin load backup.zkv --if-absent              only what is missing
  zkv-admin load backup.zkv --prefix user:           only keys that begin with user:
  zstd -dc backup.zkv.zst | zkv-admin load -
""",
)  # fmt: skip
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--if-absent", is_flag=True, help="Leave keys that exist as they are.")
@click.option("--prefix", default="", metavar="PREFIX", help="Only keys that begin with this; bytes keys, too.")
@click.option("--dry-run", is_flag=True, help="Only check the file, and count.")
def load(file: str, if_absent: bool, prefix: str, dry_run: bool, manager: str, timeout: float, json_: bool) -> None:
    """Put the keys in FILE, or standard input (-), into the cluster."""
    check_connectable("manager", manager)
    from zkv.dump.loading import Spool, count, verify

    started_s = time.monotonic()
    left = "" if dry_run else "keys may have been loaded; to load again does the rest"
    start = word(prefix)
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals(left))
        stream = sys.stdin.buffer if file == STANDARD else stack.enter_context(_opened(file))
        spool = None if stream.seekable() else stack.enter_context(Spool(stream))
        begin = 0 if spool else stream.tell()
        size = 0 if spool else max(0, os.fstat(stream.fileno()).st_size - begin)
        with _bar("checked", json_) as bar:
            contents = verify(
                spool or stream, size=size,
                show=lambda done, total: bar(done, total, f"of {byte_count(total)}" if total else byte_count(done)),
            )  # fmt: skip
        source = spool.again() if spool else stream
        source.seek(0 if spool else begin)
        with _bar("counted" if dry_run else "loaded", json_) as bar:

            def show(done: int, total: int) -> None:
                bar(done, total, f"of {counted(total, 'key')}")

            if dry_run:
                done = count(source, contents, prefix=start, show=show)
            else:
                done = _load(source, contents, manager, timeout, if_absent=if_absent, prefix=start, show=show)
    seconds = time.monotonic() - started_s
    fields = {
        "file": file, "dry_run": dry_run, **done._asdict(), "bytes": contents.bytes,
        "seconds": round(seconds, 3), "in_file": _about(contents),
    }  # fmt: skip
    click.echo(as_json(fields) if json_ else _text(file, contents, done, dry_run, seconds))


def _load(source: Any, contents: Contents, manager: str, timeout_s: float, **options: Any) -> Loaded:
    from zkv.client import Client
    from zkv.dump.loading import ClusterTime
    from zkv.dump.loading import load as load_from

    cluster_ms = _cluster_ms(manager, timeout_s)
    if contents.expiring and not cluster_ms:
        raise Unavailable(f"the manager at {manager} does not know the cluster's time yet: try again in a moment")
    with Client(manager, timeout_s=timeout_s) as kv:
        return load_from(kv, source, contents, ClusterTime(cluster_ms).now_ms, **options)


def _opened(file: str) -> Any:
    try:
        return open(file, "rb")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None


def _about(contents: Contents) -> dict[str, Any]:
    head = contents.head
    return {
        "keys": contents.keys, "expiring": contents.expiring, "shards": head.shards,
        "cluster": f"{head.cluster:016x}", "cluster_ms": head.cluster_ms, "writer": head.writer,
    }  # fmt: skip


def _text(file: str, contents: Contents, done: Loaded, dry_run: bool, seconds: float) -> str:
    """The summary for people."""
    apart = [
        f"{number} {what}" for number, what in (
            (done.expired, "had expired"), (done.kept, "were there already"), (done.left_out, "have other prefixes"),
        ) if number
    ]  # fmt: skip
    others = f"; of the others {', '.join(apart)}" if apart else ""
    if not dry_run:
        what = f"{counted(done.keys, 'key')} loaded from {file} ({byte_count(contents.bytes)})"
        return f"{what} within {seconds:.1f} s{others}"
    from zkv.cli.clusterview import local_time

    head = contents.head
    when = f", of {local_time(head.cluster_ms)}" if head.cluster_ms else ""
    return (
        f"{file} is whole: {counted(contents.keys, 'key')} of {counted(head.shards, 'shard')}, {contents.expiring} "
        f"with a time to live, {byte_count(contents.bytes)}{when}, written by {head.writer}\n"
        f"{counted(done.keys, 'key')} would be loaded{others}"
    )


# --- what both need -----------------------------------------------------------------------------------------------


def _cluster_ms(manager: str, timeout_s: float) -> int:
    from zkv.net.admin import AdminLink

    with AdminLink(manager, timeout_s=min(timeout_s, MANAGER_S)) as link:
        return link.cluster_ms()


@contextmanager
def _bar(label: str, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on standard error, if that is a terminal: the body calls `show(done, total, about)`."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total, about: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = TextColumn(label), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[about]}")
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, about="")
        yield lambda done, total, about: bar.update(task, completed=done, total=total or None, about=about)
