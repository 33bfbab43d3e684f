"""Golden traces: commands, and below each the frames that it set going, by kind, in order.

A file is made of paragraphs: a command line, "----", what came of it. After a change of the protocol look at the
difference that `ZKV_REWRITE=1 python -m pytest tests/scenario/test_golden.py` makes; it is the review.
In the taste of etcd raft's testdata.
"""

from __future__ import annotations

import os
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.scenario.bench import S2, T2, Ask, Bench, S, T
from zkv.core import wire

FILES = sorted((Path(__file__).parent / "golden").glob("*.txt"))
KEYS = {"S": S, "S2": S2, "T": T, "T2": T2}
NOISE = re.compile(r"HEARTBEAT|JOIN|HELLO|WELCOME|ACCUSE|LEASE|GRANT")


class Story:
    """One bench, driven by the lines of a file."""

    def __init__(self) -> None:
        self.bench: Bench | None = None
        self.asks: list[tuple[str, Ask]] = []

    def run(self, command: str) -> list[str]:
        """Carry out one command; the lines that describe what came of it."""
        verb, *words = command.split()
        options: dict[str, Any] = dict(word.split("=") for word in words if "=" in word)
        places = [KEYS.get(word, word) for word in words if "=" not in word]
        if verb == "cluster":
            self.bench = Bench(**options, form=False)
            self.bench.tell(*self.bench.processes)
            return self._describe(0)
        bench = self.bench
        assert bench is not None, "a story begins with a cluster"
        before = len(bench.trace)
        match verb:
            case "put" | "get" | "delete" | "get_any":
                self.asks.append((command, getattr(bench, verb)(*places)))
            case "again":
                self.asks.append((command, bench.again(self.asks[-1][1], *places)))
            case "advance":
                bench.advance(float(places[0]))
            case "drop" | "hold":
                getattr(bench, verb)(*places)
            case "crash" | "heal" | "tell" | "change" | "decide":
                getattr(bench, verb)(*places, **options)
            case _:
                raise ValueError(f"unknown command: {command}")
        return self._describe(before)

    def _describe(self, since: int) -> list[str]:
        bench = self.bench
        assert bench is not None
        frames = groupby(line for line in bench.trace[since:] if not NOISE.search(line))
        counted = [(line, len(list(same))) for line, same in frames]
        lines = [line if times == 1 else f"{line} ({times} times)" for line, times in counted]
        for command, ask in self.asks[:]:
            if ask.status != "UNANSWERED":
                lines.append(f"{command}: {ask.status} {self._result(ask)}".rstrip())
                self.asks.remove((command, ask))
        lines.append(f"active: s {bench.active('s') or '-'}, t {bench.active('t') or '-'}")
        return lines

    def _result(self, ask: Ask) -> str:
        if ask.status not in ("OK", "UNMET"):
            return ""
        version = f"{wire.epoch_of(ask.version)}.{ask.version & wire.COUNTER_MASK}"
        return f"version {version} value {ask.value!r}" if ask.results else f"version {version}"


def replay(text: str) -> str:
    """The file as it should be."""
    story, paragraphs = Story(), []
    for paragraph in text.strip().split("\n\n"):
        if paragraph.startswith("#"):
            paragraphs.append(paragraph)
            continue
        command = paragraph.split("\n", 1)[0]
        paragraphs.append("\n".join([command, "----", *story.run(command)]))
    return "\n\n".join(paragraphs) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_trace(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    came = replay(text)
    if os.environ.get("ZKV_REWRITE"):
        path.write_text(came, encoding="utf-8")
    assert came == text
