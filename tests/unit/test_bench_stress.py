"""`experiments/stress_check.py`: what gets may show, and that an answer which is impossible is counted as wrong."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
MARGIN_MS, TTL_MS, NEVER = 10.0, 500.0, float("inf")


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("stress_check")


@pytest.fixture
def churn(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("stress_churn")


PUTS: dict[str, list[tuple[str, float, float]]] = {
    "none": [],
    "one": [("a", 0, 5)],
    "two": [("a", 0, 5), ("b", 10, 15)],
    "at the same time": [("a", 0, 20), ("b", 10, 15)],
    "long ago": [("a", 0, 5), ("b", 10, 15), ("c", 600, 605)],
    "unknown": [("a", 0, 5), ("b", 10, NEVER)],
}
"""Value, sent, done."""
CASES = [
    # puts, get: sent, done -> possible values, nothing
    ("none", 10, 20, "", True),
    ("one", 0, 3, "a", True),  # under way
    ("one", 5, 6, "a", True),  # done in the moment in which the get was sent: who knows
    ("one", 6, 7, "a", False),
    ("one", 6, 489, "a", False),
    ("one", 6, 490, "a", True),  # the earliest expiry but for the margin
    ("one", 515, 516, "a", True),
    ("one", 516, 517, "", True),
    ("two", 6, 7, "a", False),
    ("two", 6, 12, "ab", False),
    ("two", 12, 13, "ab", False),
    ("two", 16, 17, "b", False),
    ("two", 16, 499, "b", False),
    ("two", 527, 530, "", True),
    ("at the same time", 21, 22, "ab", False),
    ("at the same time", 16, 17, "ab", False),
    ("at the same time", 21, 495, "ab", True),
    ("at the same time", 526, 527, "a", True),
    ("at the same time", 531, 532, "", True),
    ("long ago", 530, 531, "", True),
    ("long ago", 530, 603, "c", True),
    ("long ago", 606, 607, "c", False),
    ("unknown", 6, 7, "a", False),
    ("unknown", 16, 17, "ab", False),
    ("unknown", 600, 601, "b", True),  # it may take effect at any time
]


@pytest.mark.parametrize(("puts", "sent_ms", "done_ms", "values", "nothing"), CASES)
def test_what_a_get_may_show(
    check: Any, puts: str, sent_ms: float, done_ms: float, values: str, nothing: bool
) -> None:
    written = [check.Put("k", value, sent, done, TTL_MS) for value, sent, done in PUTS[puts]]
    get = check.Get("k", None, sent_ms, done_ms)
    possible = check.KeyHistory(written, [get], MARGIN_MS).possible(get)
    assert possible == check.Possible(frozenset(values), nothing)
    for found in (None, "a", "b", "c", "never set"):
        verdict = check.judge(written, [get._replace(found=found)], margin_ms=MARGIN_MS)
        right = nothing if found is None else found in values
        if written and found == "b" and puts == "unknown":
            continue  # it would say that b has taken effect
        assert verdict.wrong == (not right)
        assert verdict.correct == (right and not (values and nothing))
        assert bool(verdict.stories) is not right


def test_a_get_tells_that_a_set_of_unknown_outcome_was_done(check: Any) -> None:
    puts = [check.Put("k", "a", 0, 5, TTL_MS), check.Put("k", "b", 10, NEVER, TTL_MS)]
    gets = [check.Get("k", "b", 20, 25), check.Get("k", "a", 30, 35), check.Get("k", None, 600, 601)]
    verdict = check.judge(puts, gets, margin_ms=MARGIN_MS)
    assert (verdict.gets, verdict.determined, verdict.correct, verdict.wrong) == (3, 3, 2, 1)
    assert "k: a get from 30.0 to 35.0 ms showed a, possible: b" in verdict.stories


def test_a_value_shown_before_it_was_set_is_wrong_and_proves_nothing(check: Any) -> None:
    puts = [check.Put("k", "a", 0, 5, NEVER), check.Put("k", "b", 100, 110, NEVER)]
    gets = [check.Get("k", "b", 20, 25), check.Get("k", "a", 30, 35), check.Get("k", "a", 102, 105)]
    verdict = check.judge(puts, gets, margin_ms=MARGIN_MS)
    assert (verdict.determined, verdict.wrong) == (3, 1)


class Register:
    """Keys whose sets and gets take effect at one moment each, and overlap: what a cluster does when all is well."""

    def __init__(self, check: Any, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.puts: list[Any] = []
        self.gets: list[Any] = []
        moments = []
        for number in range(300):
            sent_ms = rng.uniform(0, 3000)
            done_ms = sent_ms + rng.expovariate(1 / 20)
            moments.append((rng.uniform(sent_ms, done_ms), sent_ms, done_ms, f"k{rng.randrange(3)}", f"v{number}"))
        held: dict[str, tuple[str, float]] = {}
        for at_ms, sent_ms, done_ms, key, value in sorted(moments):
            if rng.random() < 0.4:
                shown = rng.random() > 0.1  # or the client does not learn that it was done
                self.puts.append(check.Put(key, value, sent_ms, done_ms if shown else NEVER, TTL_MS))
                held[key] = value, at_ms + TTL_MS + rng.uniform(-MARGIN_MS, MARGIN_MS)
            else:
                found, until_ms = held.get(key, ("", 0.0))
                self.gets.append(check.Get(key, found if at_ms < until_ms else None, sent_ms, done_ms))


@pytest.mark.parametrize("seed", range(40))
def test_what_is_right_is_never_called_wrong(check: Any, seed: int) -> None:
    run = Register(check, seed)
    verdict = check.judge(run.puts, run.gets, margin_ms=MARGIN_MS)
    assert verdict.wrong == 0
    assert verdict.stories == []
    assert verdict.determined == verdict.correct > 0


@pytest.mark.parametrize("seed", range(20))
def test_planted_answers_are_counted(check: Any, seed: int) -> None:
    run = Register(check, seed)
    planted = set()
    for number in run.rng.sample(range(len(run.gets)), 8):
        get = run.gets[number]
        others = [put.value for put in run.puts if put.key != get.key or put.sent_ms > get.done_ms]
        run.gets[number] = get._replace(found=run.rng.choice([*others, "never set"]))
        planted.add(number)
    verdict = check.judge(run.puts, run.gets, margin_ms=MARGIN_MS)
    assert verdict.wrong == len(planted)
    assert len(verdict.stories) == check.STORIES


# --- the placement that is edited meanwhile -------------------------------------------------------------------------


def test_a_placement_without_a_node(churn: Any) -> None:
    from zkv.core.placement.layout import Layout, parse

    layout = churn.ring(3, 2, 6)
    assert layout.shards[:4] == (
        ("server1", "server2"), ("server2", "server3"), ("server3", "server1"), ("server1", "server2")
    )  # fmt: skip
    assert parse(churn.written(layout)) == layout
    less = churn.without(layout, "server2")
    assert less.shards[:3] == (("server1",), ("server3",), ("server3", "server1"))
    assert parse(churn.written(less)) == less
    alone = Layout(("server1", "server2"), (("server1",), (), ("server1",), ("server2", "server1")))
    assert churn.without(alone, "server1").shards == (("server1",), (), ("server1",), ("server2",))
    assert json.loads(churn.written(alone))["shards"] == {
        "0-0": ["server1"], "1-1": [], "2-2": ["server1"], "3-3": ["server2", "server1"]
    }  # fmt: skip


def test_a_placement_that_cannot_be_edited_is_refused(churn: Any, tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    file.write_text(churn.written(churn.ring(2, 1, 4)))
    with pytest.raises(ValueError, match="one holder for each shard"):
        churn.Churn(file, "tcp://127.0.0.1:1", 1)
    (tmp_path / "map.json.original").touch()
    with pytest.raises(ValueError, match="a run that was killed"):
        churn.Churn(file, "tcp://127.0.0.1:1", 1)
