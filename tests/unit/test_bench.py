"""`zkv-bench` without a cluster: its histogram against exact percentiles, its pace, its choices, its table."""

from __future__ import annotations

import importlib
import math
import pickle
import random
from collections import Counter
from itertools import islice

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from zkv.bench.histogram import FRACTIONS, Histogram, merged
from zkv.bench.pacing import GRACE_S, SECOND_NS, Due, Pace, share
from zkv.bench.tally import GET, PUT, Tally, table_of
from zkv.bench.workload import Choices, Workload
from zkv.errors import ShardUnavailable, TimedOut

latencies = st.lists(st.integers(0, 2**45), min_size=1, max_size=300)


# --- the histogram ----------------------------------------------------------------------------------------------------


def recorded(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def exact(ordered: list[int], fraction: float) -> int:
    return ordered[max(1, math.ceil(round(fraction * len(ordered), 6))) - 1]


@given(latencies)
def test_percentiles_are_exact_to_three_digits(values: list[int]) -> None:
    histogram, ordered = recorded(values), sorted(values)
    for fraction, found in zip(FRACTIONS, histogram.percentiles(FRACTIONS), strict=True):
        wanted = exact(ordered, fraction)
        assert wanted <= found <= wanted * (1 + 1 / 1024)
        assert histogram.percentile(fraction) == found
    assert histogram.percentile(1.0) == histogram.greatest == ordered[-1]
    assert (histogram.least, histogram.count, histogram.total) == (ordered[0], len(values), sum(values))
    assert histogram.mean() == sum(values) / len(values)


def test_a_million_values_take_little_and_are_as_exact() -> None:
    rng = random.Random(1)
    values = sorted(int(rng.lognormvariate(12, 2)) for _ in range(100_000))
    histogram = Histogram()
    for value in values:
        histogram.record(value, 10)
    assert histogram.count == 1_000_000
    assert len(histogram._counts) < 20_000
    for fraction in (0.5, 0.9, 0.99, 0.999, 0.9999):
        assert histogram.percentile(fraction) == pytest.approx(exact(values, fraction), rel=0.001)


def test_small_values_have_buckets_of_their_own_and_none_is_skipped() -> None:
    histogram = recorded(list(range(5000)))
    assert histogram.percentiles([(number + 1) / 5000 for number in range(2048)]) == list(range(2048))
    assert sorted(histogram._counts) == list(range(max(histogram._counts) + 1))


@given(latencies, latencies)
def test_merged_is_as_recorded_together(ones: list[int], others: list[int]) -> None:
    whole = merged([recorded(ones), Histogram(), recorded(others)])
    assert whole == recorded(ones + others)
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_an_empty_histogram_and_a_clock_that_goes_back() -> None:
    histogram = Histogram()
    assert histogram.percentile(0.99) == 0
    assert math.isnan(histogram.mean())
    assert histogram.curve_ms() == []
    assert histogram.figures()["p50_ms"] is None
    histogram.record(-5)
    assert (histogram.count, histogram.greatest) == (1, 0)
    histogram.record(2_500_000, 3)
    assert histogram.figures() == {
        "count": 4, "mean_ms": 1.875, "p50_ms": 2.5, "p90_ms": 2.5, "p99_ms": 2.5, "p99_9_ms": 2.5, "max_ms": 2.5,
    }  # fmt: skip
    assert histogram.curve_ms((0.25, 1.0)) == [[0.25, 0.0], [1.0, 2.5]]


# --- the pace ---------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def test_an_open_loop_is_due_whatever_the_clock_says() -> None:
    clock = Clock()
    pace = Pace(1000, size=10, seconds=1, per_s=40, shift=0.5, clock=clock)
    first = next(pace)
    clock.now_ns = SECOND_NS * 5  # the first call took that long
    quarter = SECOND_NS // 4
    assert [first, *pace] == [Due(1000 + quarter * number + quarter // 2, 10) for number in range(4)]
    assert pace.skipped == 0


def test_an_open_loop_gives_up_in_the_end() -> None:
    clock = Clock()
    pace = Pace(0, size=3, operations=10, per_s=10, clock=clock)
    assert next(pace).size == 3
    clock.now_ns = round((1 + GRACE_S) * SECOND_NS)
    assert list(pace) == []
    assert pace.skipped == 7


def test_a_closed_loop_is_due_when_it_asks() -> None:
    clock = Clock()
    pace = Pace(0, size=4, operations=10, clock=clock)
    asked = []
    for due in pace:
        asked.append(due)
        clock.now_ns += 7
    assert asked == [Due(0, 4), Due(7, 4), Due(14, 2)]
    timed = Pace(0, size=1, seconds=1e-7, clock=clock)
    assert [next(timed).at_ns, clock.now_ns] == [21, 21]
    clock.now_ns = 100
    assert list(timed) == []
    assert timed.skipped == 0


def test_shares_add_up() -> None:
    assert [share(10, 4, number) for number in range(4)] == [2, 3, 2, 3]


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_choices_follow_from_the_seed_and_the_client() -> None:
    def first(client: int, seed: int) -> list[object]:
        choices = Choices(Workload(keys=50, seed=seed), client)
        return [list(islice(one, 2000)) for one in (choices.keys, choices.values, choices.reads)]

    assert first(0, 1) == first(0, 1)
    assert first(0, 1) != first(1, 1)
    assert first(0, 1) != first(0, 2)


def test_choices_are_as_the_workload_says() -> None:
    work = Workload(keys=10, value_bytes=7, reads_percent=90, prefix="p:")
    choices = Choices(work, 0)
    keys = Counter(islice(choices.keys, 10_000))
    assert sorted(keys) == sorted(work.names()) == [f"p:{number:08d}" for number in range(10)]
    assert all(800 < times < 1200 for times in keys.values())
    assert {len(value) for value in islice(choices.values, 100)} == {7}
    assert 8700 < sum(islice(choices.reads, 10_000)) < 9300
    skewed = Counter(islice(Choices(Workload(keys=10, zipf=1.0), 0).keys, 10_000))
    assert 8 < skewed["zkv-bench:00000000"] / skewed["zkv-bench:00000009"] < 13
    assert {*islice(Choices(Workload(reads_percent=0), 0).reads, 2000)} == {False}
    assert {*islice(Choices(Workload(reads_percent=100), 0).reads, 2000)} == {True}


# --- what came of it --------------------------------------------------------------------------------------------------


def test_a_tally_tells_errors_by_kind_and_adds_up() -> None:
    one, other = Tally(began_ns=10, ended_ns=2 * SECOND_NS + 10), Tally(began_ns=20, ended_ns=SECOND_NS)
    one.took(GET, [b"x", None, ShardUnavailable("gone"), b"y"], 1_000_000)
    one.took(PUT, [TimedOut("late")], 2_000_000)
    other.failed(GET, ShardUnavailable("gone"))
    other.failed(PUT, TimedOut("late", outcome_unknown=False))
    other.succeeded(PUT, 3_000_000, 5)
    other.skipped = 4
    whole = Tally()
    for tally in (one, other):
        whole.add(tally)
    assert (whole.operations, whole.failures, whole.missed, whole.skipped, whole.seconds) == (8, 4, 1, 4, 2.0)
    assert whole.errors == {
        GET: Counter({"ShardUnavailable": 2}), PUT: Counter({"TimedOut, outcome unknown": 1, "TimedOut": 1})
    }  # fmt: skip
    kinds = whole.figures()["kinds"]
    assert (kinds["get"]["count"], kinds["get"]["p50_ms"], kinds["put"]["ops_per_s"]) == (3, 1.0, 2.5)
    assert kinds["all"]["errors"] == {"ShardUnavailable": 2, "TimedOut, outcome unknown": 1, "TimedOut": 1}
    assert table_of(kinds).splitlines() == [
        "     operations  ops/s  p50 ms  p90 ms  p99 ms  p99.9 ms  max ms  errors",
        "get           3      2   1.000   1.000   1.000     1.000   1.000       2",
        "put           5      2   3.000   3.000   3.000     3.000   3.000       2",
        "all           8      4   3.000   3.000   3.000     3.000   3.000       4",
    ]


# --- the command ------------------------------------------------------------------------------------------------------


def command() -> click.Command:
    main = importlib.import_module("zkv.cli.bench").main
    assert isinstance(main, click.Command)
    return main


def test_help_teaches() -> None:
    result = CliRunner().invoke(command(), ["--help"])
    assert result.exit_code == 0
    assert "  zkv-bench --rate 2000" in result.output.split("Examples:")[1]
    assert "Exit status: 0" in result.output
    assert all(len(line) <= 116 for line in result.output.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--clients", "9"], "--clients"),
        (["--reads", "101"], "--reads"),
        (["--mode", "fast"], "--mode"),
        (["--rate", "0"], "--rate"),
        (["--seconds", "1", "--operations", "5"], "choose one of --seconds and --operations"),
        (["--operations", "5", "--clients", "8"], "less than one for each of 8 clients"),
        (["--batch", "4"], "--batch goes with pipeline"),
        (["--mode", "pipeline", "--read", "any"], "pipelines read at primaries"),
        (["--prefix", ""], "--prefix is empty"),
        (["--value-bytes", "99999999"], "--value-bytes"),
        (["--manager", "there"], "tcp://HOST:PORT"),
        (["more"], "more"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(command(), arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
