"""Everything at once, for minutes, on real processes, and all of it checked.

A cluster of 5 nodes with 3 copies is loaded by blocking, threaded and asynchronous clients with every kind of
operation: single and many, conditions, counters, appends, times to live, pipelines, reads of all kinds, locks, waits,
scans, counts, flushes, watches, dumps (each loaded into a second cluster, and compared). Meanwhile nodes are killed,
paused, cut off from all or from each other, added and drained, and the manager is killed, restarted, paused and cut
off. A third, small cluster is a cache that evicts, whose nodes are killed.

Each operation is written down with its times, and in the end everything is checked as the simulator's runs are: single
keys are linearizable, acknowledged writes are kept, each takes effect once; scans and dumps miss nothing that lives
throughout; watches tell everything once and in order, through resumptions; times to live are kept to; no lock has two
holders.

\b
    python experiments/soak.py                        ten minutes
    python experiments/soak.py --quick                half a minute
    python experiments/soak.py --minutes 3 --seed 7   what is done, and to whom, follows from the seed, but not when
    python experiments/soak.py --quick --json | jq .violations

Exit status 1 if a promise was broken; then its story is told, and where the records and the logs are.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final

import click
from record import record
from soak_check import Site, check, longest_gap_s, totals
from soak_dump import OTHER_LIMIT_BYTES, Dumper
from soak_load import AsyncLoader, Loader, ThreadsLoader
from soak_processes import PATIENCE_S, Job, Processes, Report
from soak_records import Recorder, RecordingClient
from soak_torment import Tormentor
from soak_walks import OLD, Walker
from soak_watch import WatchWorker

from zkv import LocalCluster, ZkvError
from zkv.cli.live import progress

QUICK_MINUTES: Final = 0.5
GENERATION_S: Final = (3.5, 10.0)
"""Least and most."""
TICK_S: Final = 0.05
SHARDS: Final = 64
CACHE_SHARDS: Final = 16
CACHE_LIMIT: Final = "512KiB"
KINDS: Final = {"plain": 60, "raw": 16, "ttl": 40, "count": 10, "log": 40}
CACHE_KINDS: Final = {"plain": 300, "ttl": 100}
STORIES: Final = 5
"""Violations that are told in full."""
HURT: Final = "does not serve"


class Soak:
    """One run."""

    def __init__(self, directory: Path, seconds: float, seed: int, per_s: float) -> None:
        self.directory = directory
        self.seconds = seconds
        self.seed = seed
        self.per_s = per_s
        self.generation_s = min(max(seconds / 8, GENERATION_S[0]), GENERATION_S[1])
        self.sites = {
            "main": Site(directory / "main", SHARDS, evicts=False),
            "cache": Site(directory / "cache", CACHE_SHARDS, evicts=True),
        }
        self.began_ns = 0
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.torment: Counter[str] = Counter()
        self.story: list[tuple[float, str]] = []
        self.broken: list[str] = []
        """What went wrong besides what the records tell."""
        self.acks: set[int] = set()
        self.longest = (0.0, "")

    def run(self, show: Any) -> None:
        """The whole run, but for the checks."""
        with ExitStack() as stack:
            main, other, cache = self._clusters(stack)
            self.began_ns = time.monotonic_ns()
            processes = stack.enter_context(Processes())
            busy, watching = self._start(processes, main, other, cache)
            processes.wait_ready()
            tormentors = [
                Tormentor(main, self.seed, name="main"),
                Tormentor(cache, self.seed, name="cache", kills_only=True),
            ]
            began_s = time.monotonic()
            while (now_s := time.monotonic()) < began_s + self.seconds and not processes.ended():
                for tormentor in tormentors:
                    tormentor.step()
                show(int(now_s - began_s), int(self.seconds))
                time.sleep(TICK_S)  # the load is what is looked at: this is the experiment's own time
            for tormentor in tormentors:
                try:
                    tormentor.mend()
                except ZkvError as error:
                    self.broken.append(f"the cluster {tormentor.name} does not become well: {error}")
                self.torment.update({f"{tormentor.name}: {what}": n for what, n in tormentor.counts.items()})
                self.story += tormentor.story
            for report in processes.stop(busy):
                self._take(report)
            for name, cluster in (("main", main), ("cache", cache)):
                for report in processes.stop([watching[name]], self._final(name, cluster)):
                    self._take(report)
            show(int(self.seconds), int(self.seconds))

    def _clusters(self, stack: ExitStack) -> list[LocalCluster]:
        def started(name: str, nodes: int, replicas: int, **settings: Any) -> LocalCluster:
            run_dir = self.directory / f"{name}-cluster"
            return stack.enter_context(LocalCluster(nodes, replicas, run_dir=run_dir, respawn=True, **settings))

        return [
            started("main", 5, 3, shards=SHARDS),
            started("other", 2, 1, shards=8, memory_limit=OTHER_LIMIT_BYTES),
            started("cache", 3, 2, shards=CACHE_SHARDS, memory_limit=CACHE_LIMIT, eviction="lru"),
        ]

    def _start(
        self, processes: Processes, main: LocalCluster, other: LocalCluster, cache: LocalCluster
    ) -> tuple[list[str], dict[str, str]]:
        def job(name: str, site: str, share: float = 0.0) -> Job:
            return Job(
                name, cache.manager if site == "cache" else main.manager, self.sites[site].directory, self.began_ns,
                self.seed, self.generation_s, CACHE_KINDS if site == "cache" else KINDS, share * self.per_s,
                other.manager, self.sites[site].shards, large=site == "cache",
            )  # fmt: skip

        busy: list[tuple[type[Any], Job]] = [
            (Loader, job("one", "main", 0.2)), (Loader, job("two", "main", 0.2)),
            (ThreadsLoader, job("threads", "main", 0.25)), (AsyncLoader, job("async", "main", 0.25)),
            (Walker, job("walker", "main")), (Dumper, job("dumper", "main")), (Loader, job("cache", "cache", 0.1)),
        ]  # fmt: skip
        watching = [(WatchWorker, job("watcher", "main")), (WatchWorker, job("cache-watcher", "cache"))]
        for kind, one in [*watching, *busy]:
            processes.start(kind, one)
        return [one.name for _, one in busy], {"main": "watcher", "cache": "cache-watcher"}

    def _final(self, name: str, cluster: LocalCluster) -> list[int] | None:
        """Read everything once more, when nobody writes; the tokens of then, for the watches."""
        kinds = CACHE_KINDS if name == "cache" else KINDS
        recorder = Recorder(self.sites[name].directory, "reader", self.began_ns)
        newest = int(recorder.now_ms() / 1000 / self.generation_s)
        try:
            with RecordingClient(cluster.manager, recorder, timeout_s=5 * PATIENCE_S) as kv:
                for generation in range(max(0, newest - OLD + 1), newest + 1):
                    for kind, count in kinds.items():
                        keys = [f"{kind}-{generation:04d}-{number}" for number in range(count)]
                        kv.mget([key.encode() for key in keys] if kind == "raw" else keys)
                for prefix in ("", b""):
                    start_ms = recorder.now_ms()
                    seen = [entry.key for entry in kv.scan(prefix)]
                    texts = [key if isinstance(key, str) else key.decode() for key in seen]
                    recorder.note(
                        "scan", prefix=prefix, start_ms=start_ms, end_ms=recorder.now_ms(),
                        seen=[key for key in texts if key.partition("-")[0] in kinds],
                    )  # fmt: skip
                with kv.watch("") as watch:
                    versions: list[int] = watch.position["versions"]
                return versions
        except ZkvError as error:
            self.broken.append(f"after the storm the cluster {name} {HURT}: {type(error).__name__}: {error}")
            return None
        finally:
            recorder.close()

    def _take(self, report: Report) -> None:
        self.counts.update(report.counts)
        self.errors.update(report.errors)
        if "cache" not in report.name:
            self.acks |= report.acks
            self.longest = max(self.longest, (report.longest_ms, f"{report.name}: {report.longest_what}"))
        if report.failure:
            self.broken.append(f"{report.name} could not go on: {report.failure}")

    # --- the checks ------------------------------------------------------------------------------------------------

    def figures(self, bar: Callable[[str, str], Any]) -> dict[str, Any]:
        """Check everything; what there is to report."""
        figures: dict[str, Any] = {"seed": self.seed, "seconds": self.seconds, "calls_per_s": self.per_s}
        violations = list(self.broken)
        remarks: list[str] = []
        for name, site in self.sites.items():
            with bar(f"checking {name}", "groups of keys") as show:
                found, notes = check(site, show)
            figures[f"checked_{name}"] = totals(found)
            violations += [*notes.violations, *(text for one in found for text in one.violations)]
            remarks += notes.remarks
        calls = {what.removeprefix("call: "): n for what, n in self.counts.items() if what.startswith("call: ")}
        events = {what.removeprefix("event: "): n for what, n in self.counts.items() if what.startswith("event: ")}
        rest = {what: n for what, n in self.counts.items() if not what.startswith(("call: ", "event: "))}
        return figures | {
            "torment": _sorted(self.torment), "calls": _sorted(calls), "operations": _sorted(rest),
            "events": _sorted(events), "errors": _sorted(self.errors),
            "longest_gap_between_acks_ms": round(1000 * longest_gap_s(self.acks)),
            "longest_call_ms": round(self.longest[0]), "longest_call": self.longest[1], "remarks": remarks,
            "violations": violations,
        }  # fmt: skip

    def write_story(self) -> None:
        """What was done when, beside the records."""
        began_s = self.began_ns / 1e9
        lines = [f"{at_s - began_s:9.3f} {text}\n" for at_s, text in sorted(self.story)]
        (self.directory / "torment.txt").write_text("".join(lines))


def _sorted(counts: Any) -> dict[str, int]:
    return dict(sorted(counts.items()))


def tell(figures: dict[str, Any]) -> None:
    """The figures for people."""
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{name.replace('_', ' ')}: " + ", ".join(f"{what} {figure}" for what, figure in value.items()))
        elif name not in ("violations", "remarks"):
            print(f"{name.replace('_', ' ')}: {value}")
    for remark in figures["remarks"][:STORIES]:
        print(f"remarked: {remark[:300]}")
    print(f"violations: {len(figures['violations'])}")
    for text in figures["violations"][:STORIES]:
        print(f"\n{text}")


@click.command(help=__doc__)
@click.option("--minutes", default=10.0, show_default=True, help="How long the load lasts.")
@click.option("--quick", is_flag=True, help="Half a minute.")
@click.option("--seed", type=int, help="Of what is chosen; a random one if not given.")
@click.option("--per-s", default=450.0, show_default=True, help="Calls a second; many are of several keys.")
@click.option("--json", "json_", is_flag=True, help="Print the figures as JSON.")
@click.option("--record/--no-record", "recorded", default=True, show_default=True, help="Append to results/soak.jsonl.")
def main(minutes: float, quick: bool, seed: int | None, per_s: float, json_: bool, recorded: bool) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing behind, like Ctrl-C
    seed = secrets.randbelow(2**31) if seed is None else seed
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(directory, 60 * (QUICK_MINUTES if quick else minutes), seed, per_s)
    bar: Callable[[str, str], Any] = progress
    if json_:
        bar = lambda label, unit: nullcontext(lambda done, total: None)  # noqa: E731
    kept = True
    try:
        with bar(f"soaking (seed {seed})", "s") as show:
            soak.run(show)
        figures = soak.figures(bar)
        if kept := bool(figures["violations"]):
            soak.write_story()
            figures["records"] = str(directory)
    except KeyboardInterrupt:
        kept = False
        raise
    finally:
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)
    if json_:
        print(json.dumps(figures))
    else:
        tell(figures)
    if recorded:
        record("soak", **figures)
    sys.stdout.flush()
    sys.exit(1 if kept else 0)


if __name__ == "__main__":
    main()
