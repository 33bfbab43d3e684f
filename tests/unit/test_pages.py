"""Pages of keys: whatever happens between two pages, what is there throughout is seen once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkv.core.node import pages
from zkv.core.node.pages import page_of_keys


def walk(table: dict[Any, Any], prefix: Any, between: list[tuple[str, str]] | None = None) -> list[Any]:
    seen: list[Any] = []
    cursor: int | None = 0
    changes = iter(between or ())
    while cursor is not None:
        keys, cursor = page_of_keys(table, prefix, cursor)
        seen += keys
        for kind, key in changes:
            if kind == "put":
                table[key] = (9, "later")
            elif key in table:
                del table[key]
            break
    return seen


@given(
    st.sets(st.text("abc", max_size=3), max_size=30), st.text("ab", max_size=1), st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(("put", "delete")), st.text("abc", min_size=1, max_size=3)), max_size=10),
)  # fmt: skip
def test_what_lives_throughout_is_seen_once(
    keys: set[str], prefix: str, page_keys: int, between: list[tuple[str, str]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "PAGE_KEYS", page_keys)
        seen = walk(dict.fromkeys(keys, (1, "v")), prefix, between)
    touched = {key for _, key in between}
    assert len(seen) == len(set(seen))
    assert {key for key in keys - touched if key.startswith(prefix)} == set(seen) - touched


def test_tombstones_and_keys_of_the_other_type_are_left_out() -> None:
    table: dict[Any, Any] = {"a": (1, "v"), "b": (2, None), b"a": (3, "v"), b"ab": (4, 0)}
    assert walk(table, "") == ["a"]
    assert sorted(walk(table, b"a")) == [b"a", b"ab"]


def test_a_page_is_no_longer_than_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE_KEYS", 4)
    keys, cursor = page_of_keys({f"k{n}": (1, n) for n in range(10)}, "", 0)
    assert len(keys) == 4
    assert cursor
