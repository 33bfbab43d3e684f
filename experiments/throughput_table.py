"""Figures of several sides in a table, and as they are kept: every run, medians, and zkv as a ratio to each other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, Final

import click

ZKV: Final = "zkv"
Rates = dict[str, list[float]]
"""Side -> the figure of each run: more is better."""


def ratios(rates: Mapping[str, list[float]]) -> Rates:
    """zkv's figure to that of each other, by turns: the two that ran next to each other are compared."""
    ours = rates.get(ZKV, [])
    return {
        name: [mine / other for mine, other in zip(ours, others, strict=True)]
        for name, others in rates.items()
        if ours and name != ZKV
    }


def summary(rates: Mapping[str, list[float]], name: str) -> dict[str, Any]:
    """What is kept: `name` with each run, medians of them, ratios of each turn and their medians."""
    found = ratios(rates)
    return {
        name: {side: [round(rate, 1) for rate in runs] for side, runs in rates.items()},
        "medians": {side: round(statistics.median(runs), 1) for side, runs in rates.items()},
        "zkv_to": {side: [round(ratio, 3) for ratio in runs] for side, runs in found.items()},
        "median_zkv_to": {side: round(statistics.median(runs), 3) for side, runs in found.items()},
    }


def show(title: str, rates: Mapping[str, list[float]], unit: str, targets: Mapping[str, float] | None = None) -> None:
    """Print one table. `targets`: what zkv's ratio to a side is asked to be."""
    found = ratios(rates)
    asked = targets or {}
    click.echo(f"\n{title}")
    click.echo(f"  {'':18}{unit:>12}  {'(least to greatest)':28}{'zkv, times as many':>20}")
    for side, runs in rates.items():
        spread = f"({min(runs):,.0f} to {max(runs):,.0f})"
        line = f"  {side:18}{statistics.median(runs):>12,.0f}  {spread:28}"
        if side in found:
            times = found[side]
            line += f"{statistics.median(times):>20.2f}  ({min(times):.2f} to {max(times):.2f})"
            if side in asked:
                line += f"; asked: {asked[side]:g}"
        click.echo(line.rstrip())
