"""The check of dumps: which pictures of a shard it must accept, and which it must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zkv.core import wire
from zkv.core.node.tails import Part
from zkv.sim.history import OK, UNKNOWN, History, Operation, Violation
from zkv.sim.ledger import Ledger, Picture

OLD, NEW = 1 << wire.COUNTER_BITS, 2 << wire.COUNTER_BITS
"""Versions of two epochs begin here."""
MADE: list[tuple[int, str, Any, int]] = [
    (OLD + 1, "a", "a1", 0), (OLD + 2, "b", "b1", 0), (OLD + 3, "a", "a2", 0), (OLD + 4, "b", None, 0),
    (OLD + 5, "c", "c1", 900), (OLD + 6, "a", "lost", 0), (NEW + 1, "b", "b2", 0), (NEW + 2, "a", "a3", 0),
]  # fmt: skip
"""(version, key, value, expiry). The seventh's primary never had the sixth."""
A1, A2, A3 = (OLD + 1, "a1", 0), (OLD + 3, "a2", 0), (NEW + 2, "a3", 0)
B1, B2 = (OLD + 2, "b1", 0), (NEW + 1, "b2", 0)
C1 = (OLD + 5, "c1", 900)


def check(position: int, rows: dict[str, Any], *, began_ms: float = 0.0, cluster_ms: int = 100) -> None:
    """A picture that was begun at `began_ms`; `a2` was acknowledged at 5, `lost` never."""
    ledger, history = Ledger(), History()
    for version, key, value, expires_ms in MADE:
        ledger.note(Part(7, 1, 1, None, [0], [version], [key], [value], None, [expires_ms]), 1.0)
    history.operations["a"] = [
        Operation("c", "put", "a", 3.0, "a2", 5.0, OK, OLD + 3), Operation("c", "put", "a", 6.0, "lost", 9.0, UNKNOWN),
    ]  # fmt: skip
    ledger.check([Picture(0, position, began_ms, began_ms + 1, cluster_ms, rows)], history, lambda key: 0)


GOOD: dict[str, Callable[[], None]] = {
    "nothing": lambda: check(0, {}),
    "the first entry": lambda: check(OLD + 1, {"a": A1}),
    "each key's newest": lambda: check(OLD + 3, {"a": A2, "b": B1}),
    "a delete": lambda: check(OLD + 4, {"a": A2}),
    "an expiry": lambda: check(OLD + 5, {"a": A2, "c": C1}),
    "what has expired": lambda: check(OLD + 5, {"a": A2}, cluster_ms=900),
    "what was never committed": lambda: check(NEW + 1, {"a": A2, "b": B2, "c": C1}),
    "the end": lambda: check(NEW + 2, {"a": A3, "b": B2, "c": C1}, began_ms=20.0),
}
BAD: dict[str, Callable[[], None]] = {
    "a key is missing": lambda: check(OLD + 2, {"a": A1}),
    "an older value": lambda: check(OLD + 3, {"a": A1, "b": B1}),
    "a newer value": lambda: check(OLD + 2, {"a": A2, "b": B1}),
    "a delete is not seen": lambda: check(OLD + 4, {"a": A2, "b": B1}),
    "an expiry is lost": lambda: check(OLD + 5, {"a": A2, "c": (OLD + 5, "c1", 0)}),
    "an entry is missing that has not expired": lambda: check(OLD + 5, {"a": A2}, cluster_ms=899),
    "a value nobody wrote": lambda: check(OLD + 1, {"a": (OLD + 1, "x", 0)}),
    "an acknowledged write of an earlier epoch is missing": lambda: check(NEW + 1, {"b": B2, "c": C1}),
    "a write of this epoch is missing": lambda: check(NEW + 2, {"a": A2, "b": B2, "c": C1}),
    "it was so long ago": lambda: check(OLD + 2, {"a": A1, "b": B1}, began_ms=20.0),
}


@pytest.mark.parametrize("name", GOOD)
def test_accepts(name: str) -> None:
    GOOD[name]()


@pytest.mark.parametrize("name", BAD)
def test_rejects(name: str) -> None:
    with pytest.raises(Violation):
        BAD[name]()


def test_what_was_before_a_reset_is_gone() -> None:
    """Also for a picture that was asked for before it, and made after."""
    ledger, history = Ledger(), History()
    ledger.note(Part(7, 1, 1, None, [0], [OLD + 1], ["a"], ["a1"]), 1.0)
    history.operations["a"] = [Operation("c", "put", "a", 1.0, "a1", 2.0, OK, OLD + 1)]
    ledger.reset(0, NEW, 10.0)
    ledger.note(Part(7, 1, 1, None, [0], [NEW + 1], ["b"], ["b2"]), 12.0)
    for position, rows, began_ms in ((NEW + 1, {"b": B2}, 9.0), (NEW + 1, {"b": B2}, 11.0), (0, {}, 11.0)):
        ledger.check([Picture(0, position, began_ms, 13.0, 0, rows)], history, lambda key: 0)
    for position, rows, began_ms in ((NEW + 1, {"a": A1, "b": B2}, 11.0), (OLD + 1, {"a": A1}, 11.0), (0, {}, 9.0)):
        with pytest.raises(Violation):
            ledger.check([Picture(0, position, began_ms, 13.0, 0, rows)], history, lambda key: 0)


def test_nodes_agree_on_what_a_version_is() -> None:
    ledger = Ledger()
    ledger.note(Part(7, 1, 1, None, [0], [OLD], ["a"], ["one"]), 1.0)
    ledger.note(Part(7, 1, 1, None, [0], [OLD], ["a"], ["one"]), 2.0)
    with pytest.raises(Violation):
        ledger.note(Part(7, 1, 1, None, [0], [OLD], ["a"], ["two"]), 3.0)
