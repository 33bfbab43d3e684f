"""The operator's placement: what is read, and what is refused with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkv.core.placement.layout import LayoutError, parse


def text(shards: Any, nodes: Any = ("a", "b", "c")) -> str:
    return json.dumps({"nodes": nodes, "shards": shards})


def test_numbers_ranges_and_shards_without_a_holder() -> None:
    layout = parse(text({"0": ["a", "b"], "3-4": [], "1-2": ["c"]}))
    assert layout.nodes == ("a", "b", "c")
    assert layout.shards == (("a", "b"), ("c",), ("c",), (), ())
    assert layout.empty == [3, 4]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ('{"nodes": ["a"],\n "shards": {"0": ["a"],}}', "not JSON: .*, in line 2, column"),
        ("[]", 'an object with "nodes" and "shards"'),
        ('{"nodes": ["a"], "shards": {}, "more": 1}', "and nothing else"),
        (text({}, "abc"), "nodes must be a list"),
        (text({"0": ["a"]}, []), "must have 1 to"),
        (text({"0": ["a"]}, ["a", "a"]), "nodes names a twice"),
        (text([]), '"shards" must be an object'),
        (text({}), '"shards" is empty'),
        (text({"0": "a"}), 'shard "0" must be a list'),
        (text({"0": ["a", "a"]}), 'shard "0" names a twice'),
        (text({"0": ["a", "z"]}), 'shard "0" names z, which is not in "nodes"'),
        (text({"x": ["a"]}), '"x" is neither a shard number nor a range'),
        (text({"-1": ["a"]}), "neither a shard number"),
        (text({"4-1": ["a"]}), "neither a shard number"),
        (text({"0": ["a"], "2": ["a"]}), "shard 1 is missing: shards are numbered from 0 to 2"),
        (text({"0-3": ["a"], "2": ["a"]}), "shard 2 is given twice"),
        ('{"nodes": ["a"], "shards": {"0": ["a"], "0": ["a"]}}', '"0" is given twice'),
        (text({"0-99999": ["a"]}), "65536 shards at most"),
        (text({"0": []}), "no shard has a holder"),
        (text({"0": [str(n) for n in range(17)]}, [str(n) for n in range(17)]), "16 at most"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(given: str, reason: str) -> None:
    with pytest.raises(LayoutError, match=reason) as refused:
        parse(given)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=60) | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(json.dumps))
def test_no_text_does_harm(given: str) -> None:
    with pytest.raises(LayoutError):
        parse(given)
