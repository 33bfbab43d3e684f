"""Draws results/figures/*.png and *.svg from results/*.jsonl, and from nothing else: no experiment is run.

Of each experiment the newest line counts; those of quick runs only where there is no other, and then the figure says
so. A figure whose experiment has not been run yet is left out.

\b
    python experiments/figures.py
    python experiments/figures.py expiry_lag scans
    python experiments/figures.py --list

A new figure is a function here with `@figure(experiment, …)`: it gets the line and draws.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
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
    size: tuple[float, float]


DRAWINGS: Final[dict[str, Drawing]] = {}


def figure(experiment: str, *, size: tuple[float, float] = (6.4, 3.4), **where: Any) -> Callable[[Draw], Draw]:
    """The decorated function draws the newest line of results/`experiment`.jsonl that has all of `where`."""

    def register(draw: Draw) -> Draw:
        DRAWINGS[draw.__name__] = Drawing(draw, experiment, where, size)
        return draw

    return register


def newest(experiment: str, where: dict[str, Any]) -> Line | None:
    """The line to draw, if there is one."""
    file = RESULTS / f"{experiment}.jsonl"
    lines = [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []
    fitting = [line for line in lines if all(line.get(name) == value for name, value in where.items())]
    whole = [line for line in fitting if not line.get("quick")]
    return (whole or fitting or [None])[-1]


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


# --- the command ----------------------------------------------------------------------------------------------------


def draw(name: str) -> str:
    """Draw one; what is to be said of it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawing = DRAWINGS[name]
    line = newest(drawing.experiment, drawing.where)
    if line is None:
        return f"{name}: left out, there is no such line in results/{drawing.experiment}.jsonl"
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=drawing.size, layout="constrained")
        drawing.draw(drawn, line)
        about = f"{line['command']}, {line['when'][:10]}, commit {line['commit']}"
        quick = "quick run · " if line.get("quick") else ""
        drawn.supxlabel(quick + about, fontsize=6, color=RED if quick else GREY, ha="right", x=0.99)
        drawn.savefig(FIGURES / f"{name}.png")
        drawn.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})
    return f"{name}: {'of a quick run, ' * bool(quick)}{line['when']}"


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
