"""docs/REFERENCE.md is what `make reference` makes of the docstrings, and lacks nothing that zkv exports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import zkv
from docs.reference import to_markdown

PAGE: Final = Path(__file__).parents[2] / "docs" / "REFERENCE.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == to_markdown(), "run `make reference`"


def test_everything_exported_has_a_heading() -> None:
    headings = set(re.findall(r"^#{2,3} (\w+)$", to_markdown(), re.MULTILINE))
    assert not {name for name in zkv.__all__ if name != "__version__"} - headings


def test_every_method_has_one_anchor_and_every_link_a_place_to_go() -> None:
    page = to_markdown()
    anchors = re.findall(r'<a id="([\w-]+)"></a>', page)
    assert len(anchors) == len(set(anchors)) > 40
    titles = {title.lower() for title in re.findall(r"^## (\w+)$", page, re.MULTILINE)}
    assert not set(re.findall(r"\]\(#([\w-]+)\)", page)) - {*anchors, *titles}


def test_signatures_show_what_calls_return() -> None:
    page = to_markdown()
    assert "\nexists(key: Key, *, timeout_s: float | None = None) -> bool\n" in page
    assert "\nlocate(key: Key, *, timeout_s: float | None = None) -> str\n" in page
    assert not re.search(r"(One|Many|Generator|Coroutine)\[", page)
