"""The checker of histories: what it must accept, and what it must not."""

from __future__ import annotations

from typing import Any

import pytest

from zkv.sim.history import NOT_DONE, OK, UNKNOWN, History, Operation, Violation

Row = tuple[str, Any, int | None, float, float, str]
"""(kind, value, version, start, end, outcome) of one operation on the one key."""


def history(*rows: Row) -> History:
    """A history of `rows`."""
    made = History()
    for kind, value, version, start_ms, end_ms, outcome in rows:
        existed = not (kind == "delete" and value == "missing")
        made.operations["k"].append(
            Operation("c", kind, "k", start_ms, None if kind == "delete" else value, end_ms, outcome, version, existed)
        )
    return made


GOOD: dict[str, list[Row]] = {
    "a read of what was written": [("put", "a", 1, 0, 1, OK), ("get", "a", 1, 2, 3, OK)],
    "concurrent writes": [("put", "a", 2, 0, 5, OK), ("put", "b", 1, 0, 5, OK), ("get", "a", 2, 6, 7, OK)],
    "an unknown write that took effect": [("put", "a", None, 0, float("inf"), UNKNOWN), ("get", "a", 4, 5, 6, OK)],
    "an unknown write that did not": [("put", "a", None, 0, float("inf"), UNKNOWN), ("get", None, 0, 5, 6, OK)],
    "a delete": [("put", "a", 1, 0, 1, OK), ("delete", None, 2, 2, 3, OK), ("get", None, 2, 4, 5, OK)],
    "a forgotten tombstone": [("put", "a", 1, 0, 1, OK), ("delete", None, 2, 2, 3, OK), ("get", None, 0, 400, 401, OK)],
}
BAD: dict[str, list[Row]] = {
    "a lost write": [("put", "a", 1, 0, 1, OK), ("get", None, 0, 2, 3, OK)],
    "a stale read": [("put", "a", 1, 0, 1, OK), ("put", "b", 2, 2, 3, OK), ("get", "a", 1, 4, 5, OK)],
    "a write done twice": [("put", "a", 1, 0, 1, OK), ("put", "b", 2, 2, 3, OK), ("get", "a", 3, 4, 5, OK)],
    "a write that was not done": [("put", "a", None, 0, 1, NOT_DONE), ("get", "a", 1, 2, 3, OK)],
    "two writes of one version": [("put", "a", 1, 0, 1, OK), ("put", "b", 1, 0, 1, OK)],
    "a value from nowhere": [("get", "x", 1, 0, 1, OK)],
    "a value from the future": [("get", "a", 1, 0, 1, OK), ("put", "a", 1, 2, 3, OK)],
    "a write that is older than what was shown": [("put", "a", 5, 0, 1, OK), ("put", "b", 4, 2, 3, OK)],
    "reads that go back": [
        ("put", "a", None, 0, float("inf"), UNKNOWN), ("put", "b", None, 0, float("inf"), UNKNOWN),
        ("get", "b", 2, 1, 2, OK), ("get", "a", 1, 3, 4, OK),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_accepts(name: str) -> None:
    history(*GOOD[name]).check()


@pytest.mark.parametrize("name", BAD)
def test_rejects(name: str) -> None:
    with pytest.raises(Violation):
        history(*BAD[name]).check()
