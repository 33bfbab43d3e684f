"""Draws results/figures/*.png and *.svg from results/*.jsonl, and from nothing else: no experiment is run.

Of each experiment the newest line counts, of one that writes several the newest of each; those of quick runs only where
there is no other, and then the figure says so. A figure whose experiment has not been run yet is left out.

\b
    python experiments/figures.py
    python experiments/figures.py expiry_lag scans
    python experiments/figures.py --list

A new figure is a function here with `@figure(experiment, …)`: it gets the line and draws. With `each` it gets the lines
that this tells apart as "lines" of the newest one. Notebooks take `image`, `newest` and `table`.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS: Final = Path(__file__).resolve().parent.parent / "results"
FIGURES: Final = RESULTS / "figures"
Line = dict[str, Any]
Draw = Callable[["Figure", Line], None]
Each = Callable[[Line], Hashable]
"""Tells apart the lines of an experiment that writes several; None: a line that is not to be drawn."""

# Okabe & Ito's colours, which also those can tell apart who see few.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
RED: Final = "#D55E00"
GREY: Final = "#999999"
STYLE: Final[dict[str, Any]] = {
    "figure.dpi": 150, "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
    "svg.hashsalt": "zkv",  # the same results give the same file
}  # fmt: skip


class Drawing(NamedTuple):
    """One figure."""

    draw: Draw
    experiment: str
    where: dict[str, Any]
    """What the line must have besides."""
    each: Each | None
    """None: one line has it all."""
    size: tuple[float, float]


DRAWINGS: Final[dict[str, Drawing]] = {}


def figure(
    experiment: str, *, size: tuple[float, float] = (6.4, 3.4), each: Each | None = None, **where: Any
) -> Callable[[Draw], Draw]:  # fmt: skip
    """The decorated function draws the newest line of results/`experiment`.jsonl that has all of `where`."""

    def register(draw: Draw) -> Draw:
        DRAWINGS[draw.__name__] = Drawing(draw, experiment, where, each, size)
        return draw

    return register


def newest(experiment: str, each: Each | None = None, **where: Any) -> Line | None:
    """The line to draw, if there is one. `each`: the newest line, with the newest ones of all that this tells apart as
    its "lines"."""
    file = RESULTS / f"{experiment}.jsonl"
    lines = [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []
    fitting = [line for line in lines if all(line.get(name) == value for name, value in where.items())]
    if each is not None:
        fitting = [line for line in fitting if each(line) is not None]
    chosen = [line for line in fitting if not line.get("quick")] or fitting
    if not chosen:
        return None
    if each is None:
        return chosen[-1]
    return chosen[-1] | {"lines": list({each(line): line for line in chosen}.values())}


# --- what several figures need --------------------------------------------------------------------------------------


def limit(axes: Axes, value: float, text: str) -> None:
    """What was asked for."""
    axes.axhline(value, color=RED, linewidth=1, linestyle="--")
    axes.annotate(
        text, (1.0, value), xycoords=("axes fraction", "data"), xytext=(-2, 2), textcoords="offset points", color=RED,
        ha="right", va="bottom", fontsize=8, bbox={"boxstyle": "square,pad=0", "color": "white", "alpha": 0.7},
    )  # fmt: skip


def distributions(axes: Axes, curves: dict[str, tuple[list[list[float]], str]]) -> None:
    """Percentiles, drawn so that each further nine takes as much room: label -> ([[fraction, ms]], colour)."""

    def place(fraction: float) -> float:
        return -math.log10(1 - fraction)

    for label, (curve, colour) in curves.items():
        inner = [(fraction, ms) for fraction, ms in curve if 0.5 <= fraction < 1]
        axes.plot([place(one[0]) for one in inner], [one[1] for one in inner], marker=".", color=colour, label=label)
    shown = (0.5, 0.9, 0.99, 0.999)
    axes.set_xticks([place(fraction) for fraction in shown], [f"p{100 * fraction:g}" for fraction in shown])
    axes.set_yscale("log")
    axes.set_ylabel("ms, from when it was due")
    axes.legend()


def bars(axes: Axes, groups: list[str], series: dict[str, tuple[list[float], str]], form: str = "{:,.0f}") -> None:
    """Groups of bars: label -> (a value for each group, colour)."""
    width = 0.8 / len(series)
    for number, (label, (values, colour)) in enumerate(series.items()):
        places = [group + (number - (len(series) - 1) / 2) * width for group in range(len(groups))]
        drawn = axes.bar(places, values, width * 0.92, color=colour, label=label)
        axes.bar_label(drawn, [form.format(value) for value in values], fontsize=7, padding=1)
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(visible=False, axis="x")


# --- expiry ---------------------------------------------------------------------------------------------------------


@figure("expiry", part="lag", size=(6.4, 4.4))
def expiry_lag(drawn: Figure, line: Line) -> None:
    above, below = drawn.subplots(2, sharex=True, height_ratios=(3, 2))
    at_s = [one["at_s"] for one in line["samples"]]
    for node, colour in enumerate((BLUE, ORANGE, GREEN)):
        above.plot(at_s, [one["lag_ms"][node] for one in line["samples"]], color=colour, label=f"server{node + 1}")
    limit(above, 50, "asked: 50 ms")
    above.set_ylim(bottom=0)
    above.set_ylabel("lag, p99 of 5 s, ms")
    above.set_title(f"How late expired entries are reclaimed: {line['expired_per_s']:,} of them a second")
    above.legend(ncols=3)
    below.plot(at_s, [one["expiring_keys"] / 1e6 for one in line["samples"]], color=GREY)
    below.set_ylim(bottom=0)
    below.set_ylabel("keys with a TTL,\nmillions")
    below.set_xlabel("s")


@figure("expiry", part="writes", size=(8.4, 3.4))
def expiry_writes(drawn: Figure, line: Line) -> None:
    keys = line["settings"]["keys"]
    places = drawn.subplots(1, 3, width_ratios=(3, 3, 2))
    for axes, what, title in zip(places, ("single", "batch"), ("single puts", "batches of 100"), strict=False):
        curves = line["curves"]
        distributions(axes, {
            "no TTLs": (curves["none"][what], GREY),
            f"{keys / 1e6:g} M keys expire": (curves["expiring"][what], BLUE),
        })  # fmt: skip
        axes.set_title(f"{title}: p99 {line[f'{what}_p99_times']:.2f} times")
    idle = line["idle_cpu_ms_per_s"]
    per_s = line["settings"]["expiring_per_s"]
    names = {"none": "no TTLs", "far": "TTLs\nfar away", "expiring": f"{per_s:,}/s\nexpire"}
    bars(places[2], list(names.values()), {"": ([idle[kind] for kind in names], BLUE)}, "{:.0f}")
    places[2].set_title("an idle node")
    places[2].set_ylabel("ms of CPU a second")


# --- memory ---------------------------------------------------------------------------------------------------------


@figure("memory", part="bytes")
def memory_bytes(drawn: Figure, line: Line) -> None:
    axes = drawn.subplots()
    medians = line["medians"]
    sizes = list(medians["zkv"])
    series = {
        "zkv, RSS": ([medians["zkv"][size]["rss_per_key"] for size in sizes], BLUE),
        "zkv, its account": ([medians["zkv"][size]["account_per_key"] for size in sizes], "#56B4E9"),
    }
    if "redis" in medians:
        series["Redis, RSS"] = [medians["redis"][size]["rss_per_key"] for size in sizes], ORANGE
        series["Redis, used_memory"] = [medians["redis"][size]["used_per_key"] for size in sizes], "#F0E442"
    bars(axes, [f"values of {size} bytes" for size in sizes], series)
    axes.set_ylabel("bytes a key")
    axes.set_title("What a key takes (a key of 16 characters and its value)")
    axes.legend()


@figure("memory", part="bytes", size=(8.4, 3.2))
def memory_account(drawn: Figure, line: Line) -> None:
    rows = line["rows"]["zkv"]
    for axes, (size, runs) in zip(drawn.subplots(1, len(rows)), rows.items(), strict=True):
        samples = runs[-1]["samples"]
        keys = [one["keys"] / 1e6 for one in samples]
        axes.plot(keys, [one["rss_bytes"] / 2**20 for one in samples], marker=".", color=BLUE, label="RSS")
        account = [one["account_bytes"] / 2**20 for one in samples]
        axes.plot(keys, account, marker=".", color=ORANGE, label="account")
        axes.set_title(f"values of {size} bytes: {line['medians']['zkv'][size]['account_to_rss']:.2f}")
        axes.set_xlabel("keys, millions")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("MiB")
        axes.legend()


@figure("memory", part="layouts", size=(10, 5.6))
def memory_layouts(drawn: Figure, line: Line) -> None:
    above, below = drawn.subplots(2)
    medians = line["medians"]
    colours = {"tuple": BLUE, "pair": "#56B4E9", "packed": ORANGE, "encoded": RED, "slots": GREY}
    bars(above, [f"values of {size} bytes" for size in medians], {
        name: ([of[name]["rss_per_key"] for of in medians.values()], colour) for name, colour in colours.items()
    })  # fmt: skip
    above.set_ylabel("bytes a key")
    above.set_title("What a key takes in each layout, and the time of an operation, of a tuple's")
    above.legend(ncols=len(colours))
    kinds = [(kind, size) for size in medians for kind in ("get", "put")]
    bars(below, [f"{kind}, {size} B" for kind, size in kinds], {
        name: ([medians[size][name][f"cold_{kind}_times"] for kind, size in kinds], colour)
        for name, colour in colours.items()
    }, "{:.2f}")  # fmt: skip
    below.set_ylabel("time, on any of all keys")


@figure("memory", part="eviction")
def memory_eviction(drawn: Figure, line: Line) -> None:
    axes = drawn.subplots()
    rows = line["rows"]
    bars(
        axes,
        [f"s = {row['skew']}\n{row['part']:.0%} of the memory" for row in rows],
        {
            "any (random)": ([100 * row["random"] for row in rows], GREY),
            "zkv, --eviction lru": ([100 * row["zkv"] for row in rows], BLUE),
            "exact LRU": ([100 * row["exact_lru"] for row in rows], ORANGE),
        },
        "{:.1f}",
    )
    axes.set_ylim(0, 100)
    axes.set_ylabel("hit rate, %")
    axes.set_title("What is evicted: hits of as many entries on a zipfian load")
    axes.legend(ncols=3, loc="upper center")


@figure("memory", part="pauses")
def memory_pauses(drawn: Figure, line: Line) -> None:
    axes = drawn.subplots()
    for row, colour, label in zip(line["rows"], (BLUE, GREY), ("in a node", "as CPython has it"), strict=True):
        points = row["drawn"]
        axes.scatter(
            [held / 1e6 for held, _ in points], [ms for _, ms in points], s=4, color=colour, rasterized=True,
            label=f"{label}: longest {row['longest_ms']:.2g} ms",
        )  # fmt: skip
    limit(axes, 10, "asked: 10 ms")
    axes.set_yscale("log")
    axes.set_xlabel("keys in the node, millions")
    axes.set_ylabel("ms")
    axes.set_title("Pauses of the garbage collector")
    axes.legend(markerscale=3)


# --- scans ----------------------------------------------------------------------------------------------------------


@figure("scans")
def scans(drawn: Figure, line: Line) -> None:
    axes = drawn.subplots()
    per_s = line["medians"]["scanning"]["keys_per_s"]
    distributions(axes, {
        "nothing": (line["curves"]["quiet"], GREY),
        "only computes": (line["curves"]["computing"], ORANGE),
        f"scans, {per_s:,.0f} keys a second": (line["curves"]["scanning"], BLUE),
    })  # fmt: skip
    axes.set_title(f"Single puts, while another process … (scans: p99 {line['p99_times']['scanning']:.2f} times)")


# --- balance --------------------------------------------------------------------------------------------------------


@figure("balance", size=(8.4, 3.2))
def balance(drawn: Figure, line: Line) -> None:
    kinds = line["kinds"]
    names = {"sequential": "sequential keys", "uuid": "UUIDs"}
    places = drawn.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, (kind, found) in zip(places, kinds.items(), strict=True):
        per_node = list(found["keys_per_node"].values())
        mean = sum(per_node) / len(per_node)
        shown = axes.bar(range(1, len(per_node) + 1), per_node, color=BLUE)
        axes.bar_label(
            shown, [f"{count / mean:.3f} of the mean" for count in per_node], label_type="center", rotation=90,
            fontsize=7, color="white",
        )  # fmt: skip
        axes.axhline(mean, color=GREY, linewidth=1)
        axes.axhline(line["limit_times"] * mean, color=RED, linewidth=1, linestyle="--")
        axes.set_ylim(0, 1.1 * mean)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xticks(range(1, len(per_node) + 1))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("node")
        axes.set_title(f"{names.get(kind, kind)}: max/mean {found['max_to_mean']:.3f}")
    places[0].set_ylabel("keys of the node")
    limit = f"asked: {line['limit_times']:g} × the mean at most (dashed)"
    drawn.suptitle(f"{line['keys']:,} keys on {line['nodes']} nodes; {limit}", fontsize=10)


# --- failover -------------------------------------------------------------------------------------------------------


def fault_of(line: Line) -> Hashable:
    """The fault of a series of trials."""
    return line.get("fault")


@figure("failover", part="timeline", size=(9.6, 5.4))
def failover_timeline(drawn: Figure, line: Line) -> None:
    rate, latency, errors = drawn.subplots(3, sharex=True, height_ratios=(3, 3, 1))
    bins = line["bins"]
    at_s = [(number + 0.5) * line["bin_ms"] / 1000 for number in range(len(bins["ops_per_s"]))]
    rate.plot(at_s, bins["ops_per_s"], color=BLUE, linewidth=0.8)
    rate.set_ylim(bottom=0)
    rate.set_ylabel("ops/s")
    for name, colour in (("p99", ORANGE), ("p50", BLUE)):
        figures = [math.nan if ms is None else ms for ms in bins[f"{name}_ms"]]
        latency.plot(at_s, figures, color=colour, linewidth=0.8, label=name)
    latency.set_yscale("log")
    latency.set_ylabel("ms, by when it was due")
    latency.legend(ncols=2, loc="upper right")
    errors.bar(at_s, bins["errors"], line["bin_ms"] / 1000, color=RED)
    errors.set_ylim(0, max(1, *bins["errors"]))
    errors.set_ylabel("errors")
    errors.set_xlabel(f"s (bins of {line['bin_ms']} ms)")
    errors.set_xlim(0, at_s[-1])
    for event in line["events"]:
        for axes in (rate, latency, errors):
            axes.axvspan(event["at_s"], event["well_at_s"], color=GREY, alpha=0.12, linewidth=0)
            axes.axvspan(event["at_s"], event["ended_at_s"], color=RED, alpha=0.12, linewidth=0)
            axes.axvline(event["at_s"], color=RED, linewidth=0.8)
        rate.annotate(
            f"{event['what']}\n{event['who']}", (event["at_s"], 1), xycoords=("data", "axes fraction"),
            xytext=(0, 3), textcoords="offset points", va="bottom", fontsize=8,
        )  # fmt: skip
    settings = line["settings"]
    drawn.suptitle(
        f"{settings['per_s']:g} operations a second fall due, on {settings['keys']:,} keys "
        "(red: the fault lasts; grey: until all is where it should be)",
        fontsize=10,
    )


@figure("failover", each=fault_of, size=(8.4, 4.2))
def failover_interruptions(drawn: Figure, line: Line) -> None:
    """Deaths are noticed at once, silence is waited for: two scales."""
    places = {"p50_ms": 0.5, "p95_ms": 0.95, "longest_ms": 1.0}
    deaths = [one for one in line["lines"] if "SIGKILL" in one["fault"]]
    silences = [one for one in line["lines"] if "SIGKILL" not in one["fault"]]
    left, right = drawn.subplots(1, 2, sharey=True)
    calm_ms = [ms for one in line["lines"] for ms in one["without_fault_ms"]]
    left.ecdf(calm_ms, color=GREY, linestyle="--", label=f"without a fault: {len(calm_ms)} trials")
    for axes, lines in ((left, deaths), (right, silences)):
        asked: set[tuple[float, float]] = set()
        for one, colour in zip(lines, (BLUE, ORANGE, GREEN, "#CC79A7"), strict=False):
            axes.ecdf(one["interrupted_ms"], color=colour, label=f"{one['fault']}: {len(one['interrupted_ms'])} trials")
            asked |= {(limit_ms, places[name]) for name, limit_ms in one.get("limits_ms", {}).items()}
        if asked:
            columns = zip(*sorted(asked), strict=True)
            axes.scatter(*columns, marker="<", color=RED, zorder=3, clip_on=False, label="asked: left of here")
        axes.set_xlim(left=0)
        axes.set_xlabel("longest time between two acknowledged writes, ms")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    left.set_ylabel("part of the trials")
    left.set_title("A node dies: how long writes are interrupted")
    right.set_title("It falls silent, or is cut off")


# --- throughput -----------------------------------------------------------------------------------------------------


SIDES: Final = {
    "zkv": ("zkv", BLUE), "floor": ("floor", GREY), "redis": ("Redis Cluster, redis-py", ORANGE),
    "memcached": ("memcached, pymemcache", GREEN), "manager-dict": ("multiprocessing dict", "#CC79A7"),
}  # fmt: skip
"""What the sides are called, and their colours; others get the ones that are left."""
SPARE: Final = ("#56B4E9", "#F0E442", "#000000")
CLIENTS: Final = {
    "one": "one operation at a time", "pipelined": "pipelines", "batched": "batches", "asyncio": "asyncio",
}  # fmt: skip


ROUNDS: Final = {
    "gets": "one get at a time", "puts": "one put at a time", "many clients": "64 clients, one operation a message",
    "large gets": "gets of 1 MB", "large puts": "puts of 1 MB",
}  # fmt: skip


def copies(replicas: int) -> str:
    """In words."""
    return f"{replicas} replica{'s' * (replicas > 1)}"


def measured_of(line: Line) -> Hashable:
    """What a comparison of sides was about."""
    return (line["client"], line["processes"], line["replicas"]) if "client" in line else None


def round_of(line: Line) -> Hashable:
    """What a measurement of single operations was about."""
    return (line["figure"], line["replicas"]) if line.get("figure") in ROUNDS else None


def sides_of(lines: Iterable[Line]) -> dict[str, tuple[str, str]]:
    """The sides that these lines have: name -> (what it is called, colour)."""
    names = dict.fromkeys(name for line in lines for name in line["medians"])
    unknown = [name for name in names if name not in SIDES]
    spare = {name: (name, colour) for name, colour in zip(unknown, SPARE * len(unknown), strict=False)}
    return {name: SIDES.get(name) or spare[name] for name in [*SIDES, *unknown] if name in names}


def spread(line: Line, side: str) -> tuple[list[float], list[float]]:
    """How far below and above the median the runs of a side reach, as error bars want it."""
    runs, median = (line.get("ops_per_s") or line["mb_per_s"])[side], line["medians"][side]
    return [median - min(runs)], [max(runs) - median]


@figure("throughput", each=measured_of, part="operations", size=(11, 7.2))
def throughput(drawn: Figure, line: Line) -> None:
    """Bars with the fewest client processes that were measured."""
    fewest = min(one["processes"] for one in line["lines"])
    lines = [one for one in line["lines"] if one["processes"] == fewest]
    for axes, client in zip(drawn.subplots(2, 2).flat, CLIENTS, strict=True):
        found = {one["replicas"]: one for one in lines if one["client"] == client}
        sides = sides_of(found.values())
        width = 0.84 / max(1, len(sides))
        for number, (side, (label, colour)) in enumerate(sides.items()):
            for group, one in enumerate(found[replicas] for replicas in sorted(found)):
                if side not in one["medians"]:
                    continue
                place, rate = group + (number - (len(sides) - 1) / 2) * width, one["medians"][side]
                axes.bar(place, rate, width * 0.92, color=colour, label=label)
                axes.errorbar(place, rate, spread(one, side), color="black", linewidth=0.8, capsize=2)
                times = one["median_zkv_to"].get(side)
                text = f"{rate:,.0f}" if times is None else f"{rate:,.0f}; zkv {times:.2f} ×"
                axes.annotate(
                    text, (place, rate + spread(one, side)[1][0]), xytext=(0, 3), textcoords="offset points",
                    rotation=90, ha="center", va="bottom", fontsize=6,
                )  # fmt: skip
        axes.set_xticks(range(len(found)), [copies(replicas) for replicas in sorted(found)])
        axes.set_ylim(0, axes.get_ylim()[1] * 1.45)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("ops/s")
        axes.set_title(CLIENTS[client])
    legend(drawn, sides_of(lines))
    drawn.suptitle(
        f"Half puts, half gets on {line['nodes']} nodes; {fewest} client process{'es' * (fewest > 1)}; median, least "
        f"and greatest of {line['runs']} runs in turn",
        fontsize=10,
    )


def legend(drawn: Figure, sides: dict[str, tuple[str, str]]) -> None:
    """One for the whole figure, beside it."""
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=label) for label, colour in sides.values()]
    drawn.legend(handles=handles, loc="outside right upper", fontsize=8)


@figure("throughput", each=measured_of, part="operations", size=(11, 9.6))
def throughput_processes(drawn: Figure, line: Line) -> None:
    lines = line["lines"]
    sides = sides_of(lines)
    counts = sorted({one["replicas"] for one in lines})
    grid = drawn.subplots(len(CLIENTS), len(counts), sharex=True, sharey="row", squeeze=False)
    for row, client in zip(grid, CLIENTS, strict=True):
        for axes, replicas in zip(row, counts, strict=True):
            of_here = [one for one in lines if (one["client"], one["replicas"]) == (client, replicas)]
            for side, (_, colour) in sides.items():
                points = sorted((one["processes"], one) for one in of_here if side in one["medians"])
                if not points:
                    continue
                reach = [spread(one, side) for _, one in points]
                axes.errorbar(
                    [count for count, _ in points], [one["medians"][side] for _, one in points],
                    [[below for (below,), _ in reach], [above for _, (above,) in reach]],
                    color=colour, marker=".", linewidth=1, elinewidth=0.8, capsize=2,
                )  # fmt: skip
            axes.set_yscale("log")
            axes.set_title(f"{CLIENTS[client]}, {copies(replicas)}", fontsize=8)
        row[0].set_ylabel("ops/s")
    processes = sorted({one["processes"] for one in lines})
    for axes in grid[-1]:
        axes.set_xscale("log", base=2)
        axes.set_xticks(processes, [f"{count}" for count in processes])
        axes.set_xlabel("client processes")
    legend(drawn, sides)
    drawn.suptitle(f"Half puts, half gets on {line['nodes']} nodes, on {line['machine']['cpus']} cores", fontsize=10)


@figure("throughput", each=round_of, part="rounds", size=(8.4, 4.8))
def throughput_rounds(drawn: Figure, line: Line) -> None:
    """zkv as a ratio to the others: single operations, and large values."""
    axes = drawn.subplots()
    lines = sorted(line["lines"], key=lambda one: (list(ROUNDS).index(one["figure"]), one["replicas"]))
    sides = {name: look for name, look in sides_of(lines).items() if name != "zkv"}
    height = 0.8 / max(1, len(sides))
    for group, one in enumerate(lines):
        for number, (side, (_, colour)) in enumerate(sides.items()):
            if side not in one["median_zkv_to"]:
                continue
            place = group + (number - (len(sides) - 1) / 2) * height
            times, runs = one["median_zkv_to"][side], one["zkv_to"][side]
            axes.barh(place, times, height * 0.9, color=colour)
            axes.errorbar(
                times, place, xerr=[[times - min(runs)], [max(runs) - times]], color="black", linewidth=0.8, capsize=2
            )
            axes.annotate(f"{times:.2f}", (max(runs), place), xytext=(3, 0), textcoords="offset points", va="center",
                          fontsize=7)  # fmt: skip
            if side in (one.get("asked") or {}):
                asked = one["asked"][side]
                axes.plot([asked, asked], [place - height / 2, place + height / 2], color=RED, linewidth=1.5)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [f"{ROUNDS[one['figure']]}, {copies(one['replicas'])}" for one in lines])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("zkv, times as many as … (red: asked)")
    legend(drawn, sides)


# --- stress ---------------------------------------------------------------------------------------------------------


def load_of(line: Line) -> Hashable:
    """How hard the load was, and whether the placement changed meanwhile."""
    settings = line["settings"]
    return settings["get_qps"], settings["set_qps"], settings["ttl_s"], line["churn"] is not None


@figure("stress", each=load_of, size=(8.4, 3.8))
def stress(drawn: Figure, line: Line) -> None:
    for axes, (kind, title) in zip(drawn.subplots(1, 2, sharey=True), (("get", "gets"), ("put", "sets")), strict=True):
        curves = {}
        for one, colour in zip(line["lines"], (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9"), strict=False):
            settings = one["settings"]
            churn = ", holders come and go" if one["churn"] else ""
            label = f"{settings['get_qps']:g} + {settings['set_qps']:g} a second, TTL {settings['ttl_s']:g} s{churn}"
            if kind in one["kinds"]:
                curves[label] = one["kinds"][kind]["curve_ms"], colour
        distributions(axes, curves)
        axes.legend(fontsize=7)
        axes.set_title(title)
    drawn.suptitle("Latency of gets and sets at a steady rate", fontsize=10)


# --- drawing --------------------------------------------------------------------------------------------------------


def drawn_of(name: str) -> tuple[Figure, Line] | None:
    """The figure with the line that it shows; None where there is no such line."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawing = DRAWINGS[name]
    line = newest(drawing.experiment, drawing.each, **drawing.where)
    if line is None:
        return None
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=drawing.size, layout="constrained")
        drawing.draw(drawn, line)
        about = f"{line['command']}, {line['when'][:10]}, commit {line['commit']}"
        quick = "quick run · " if line.get("quick") else ""
        drawn.supxlabel(quick + about, fontsize=6, color=RED if quick else GREY, ha="right", x=0.99)
    return drawn, line


def left_out(name: str) -> str:
    """Why there is no such figure."""
    return f"{name}: left out, there is no such line in results/{DRAWINGS[name].experiment}.jsonl"


def draw(name: str) -> str:
    """Draw one into its files; what is to be said of it."""
    import matplotlib as mpl

    found = drawn_of(name)
    if found is None:
        return left_out(name)
    drawn, line = found
    with mpl.rc_context(STYLE):
        drawn.savefig(FIGURES / f"{name}.png")
        drawn.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})
    return f"{name}: {'of a quick run, ' * bool(line.get('quick'))}{line['when']}"


# --- for notebooks --------------------------------------------------------------------------------------------------


class Image(NamedTuple):
    """A figure that a notebook shows where it is the value of a cell."""

    png: bytes

    def __repr__(self) -> str:
        return "a figure"

    def _repr_png_(self) -> bytes:
        return self.png


class Text(str):
    """Text that a notebook shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def image(name: str) -> Image | Text:
    """A figure of results/ as it is now; no file is written."""
    import matplotlib as mpl

    found = drawn_of(name)
    if found is None:
        return Text(left_out(name))
    with mpl.rc_context(STYLE | {"figure.dpi": 100}):
        file = io.BytesIO()
        found[0].savefig(file, format="png", dpi=100)
    return Image(file.getvalue())


def table(rows: Iterable[Sequence[object]]) -> Text:
    """Columns of text, numbers to the right; the first row is the head. A head alone: nothing has been measured."""
    cells = [[f"{cell:,.4g}" if isinstance(cell, float) else f"{cell}" for cell in row] for row in rows]
    if len(cells) < 2:
        return Text("not measured yet")
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return Text(
        "\n".join("  ".join((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))) for row in cells)
    )


# --- the command ----------------------------------------------------------------------------------------------------


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--list", "listed", is_flag=True, help="Only name the figures.")
def main(names: tuple[str, ...], listed: bool) -> None:
    unknown = sorted(set(names) - set(DRAWINGS))
    if unknown:
        raise click.UsageError(f"no figure is called {unknown[0]!r}; there are: {', '.join(DRAWINGS)}")
    if listed:
        click.echo("\n".join(DRAWINGS))
        return
    try:
        import matplotlib  # noqa: F401 - whether it is there
    except ImportError:
        sys.exit("figures need matplotlib: pip install '.[experiments]', or `make figures`, which does that")
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name in names or DRAWINGS:
        click.echo(draw(name))


if __name__ == "__main__":
    main()
