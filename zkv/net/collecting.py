"""The garbage collector in a node: it never walks over what the node holds.

CPython frees nearly everything by reference counts; its collector is only there for cycles, and looks for them by
walking over all objects of a generation. A full collection of a node with five million entries takes a second and more,
in which it stands still, and finds nothing: the cores keep tables of tuples and make no cycles. So here

- only the young are looked at, `YOUNG` of them at a time, which bounds the pause whatever the node holds. That finds
  cycles that libraries or exceptions leave behind, and takes plain tuples off the collector's lists: it learns that
  they cannot be part of a cycle;
- what is alive between two turns, when no call is under way, is the node's state, and meant to stay: `rest` moves it to
  the permanent generation, which no collection visits. That is a few pointers, however much it is (`gc.freeze`).

The older generations thus stay empty, and their thresholds are never met. The price: a cycle that is alive at the end
of a turn and is dropped later is never found. Reference counts free all else, frozen or not.

So it is with CPython 3.11 to 3.13, whose generations these are; 3.14 has others, which were not measured.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 5_000
"""Objects, net of those freed, after which the young are looked at: less than half a millisecond's work."""
_NEVER: Final = 2**31 - 1


def begin() -> None:
    """From here on in this process. What was made by now (modules, settings) stays for good."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, _NEVER, _NEVER)


def rest() -> None:
    """Between two turns: look at what the turn has made, and make permanent what has survived.

    After each of them: CPython counts the young as made less freed, and what is freed of the frozen counts as well, so
    while entries are overwritten its own threshold is met late or never, and the young would pile up.
    """
    gc.collect(0)
    gc.freeze()
