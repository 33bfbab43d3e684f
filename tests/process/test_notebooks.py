"""The notebooks of experiments/: each runs from results/ as they are, and says what follows from what it shows."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process.support import WAIT_S, environment

pytestmark = pytest.mark.process

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
NOTEBOOKS = sorted((EXPERIMENTS / "notebooks").glob("*.ipynb"))
FAMILIES = {"balance", "failover", "storage", "stress", "throughput"}
# Where matplotlib remembers what fonts there are. HOME is another one in each test, and looking for them takes seconds.
FONTS = os.environ.get("MPLCONFIGDIR") or str(Path.home() / ".cache" / "matplotlib")


def needed(*modules: str) -> None:
    for module in modules:
        pytest.importorskip(module, reason=f"{module} is not here: pip install '.[experiments]'")


def test_all_run() -> None:
    needed("matplotlib", "nbclient", "ipykernel")
    before = {file: file.read_bytes() for file in NOTEBOOKS}
    done = subprocess.run(
        [sys.executable, EXPERIMENTS / "run_notebooks.py", "--check"], env=environment(MPLCONFIGDIR=FONTS),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10 * WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"{file.stem}: runs" for file in NOTEBOOKS]
    assert {file: file.read_bytes() for file in NOTEBOOKS} == before


def test_each_has_a_question_and_conclusions() -> None:
    assert {file.stem for file in NOTEBOOKS} == FAMILIES
    for file in NOTEBOOKS:
        cells = json.loads(file.read_text())["cells"]
        prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        assert prose[0].startswith("# ")
        assert prose[-1].startswith("## Conclusions")


# --- which line of results/ is drawn --------------------------------------------------------------------------------


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    module = importlib.import_module("figures")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def write(directory: Path, *lines: dict[str, Any]) -> None:
    (directory / "some.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_newest_line_is_drawn(figures: Any, tmp_path: Path) -> None:
    assert figures.newest("some") is None
    first, second, other = {"part": "a", "x": 1}, {"part": "a", "x": 2}, {"part": "b", "x": 3}
    write(tmp_path, first, second, other)
    assert figures.newest("some", part="a") == second
    assert figures.newest("some", part="c") is None


def test_quick_lines_count_only_where_there_is_no_other(figures: Any, tmp_path: Path) -> None:
    quick, whole = {"x": 2, "quick": True}, {"x": 1, "quick": False}
    write(tmp_path, quick)
    assert figures.newest("some") == quick
    write(tmp_path, whole, quick)
    assert figures.newest("some") == whole


def test_the_newest_of_each_kind(figures: Any, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"kind": "a", "x": 1}, {"kind": "b", "x": 2}, {"kind": "a", "x": 3}, {"x": 4}]
    write(tmp_path, *lines)
    found = figures.newest("some", lambda line: line.get("kind"))
    assert found["lines"] == [{"kind": "a", "x": 3}, {"kind": "b", "x": 2}]


def test_what_has_not_been_measured_is_left_out(figures: Any) -> None:
    needed("matplotlib")
    for name in figures.DRAWINGS:
        assert f"{figures.image(name)!r}".startswith(f"{name}: left out")
    assert f"{figures.table([('a', 'b')])!r}" == "not measured yet"
