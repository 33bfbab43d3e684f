"""ARCHITECTURE.md names modules, functions, files, tests and planted bugs: all of them exist; every rule is there."""

from __future__ import annotations

import importlib
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from zkv.sim.plants import PLANTS

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
CODE: Final = [word for word in re.findall(r"`([^`\n]+)`", TEXT) if "\n" not in word]
RULES: Final = range(1, 34)


def rules() -> dict[int, list[str]]:
    """Rule -> the cells of its row."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", TEXT, re.MULTILINE)
    return {int(number): re.split(r"\s*\|\s*", rest) for number, rest in rows}


def test_names_in_the_cores_exist() -> None:
    modules = {
        path.stem: ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "zkv" / "core").rglob("*.py")
        if path.stem != "__init__"
    }
    dotted = [word for word in CODE if re.fullmatch(r"[a-z]+(\.\w+)+", word) and not word.endswith(".py")]
    named = [word for word in dotted if word.partition(".")[0] in modules]
    assert len(named) > 50
    missing = []
    for word in named:
        module, *path = word.split(".")
        thing: object = importlib.import_module(modules[module])
        for name in path:
            thing = getattr(thing, name, None)
        if thing is None:
            missing.append(word)
    assert not missing


def test_files_exist() -> None:
    names = {path.name for path in (ROOT / "zkv").rglob("*.py")}
    assert not [word for word in CODE if re.fullmatch(r"\w+\.py", word) and word not in names]
    named = [word for word in CODE if re.fullmatch(r"(zkv|tests|launch)/[\w./]*", word)]
    assert len(named) > 20
    assert not [word for word in named if not (ROOT / word).exists()]


def test_tests_and_plants_exist() -> None:
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    missing = []
    for word in CODE:
        if word.startswith("test_") and not any(fnmatchcase(name, word) for name in tests):
            missing.append(word)
        if re.fullmatch(r"rule-\d\d-[a-z-]+", word) and word not in PLANTS:
            missing.append(word)
    assert not missing


def test_every_rule_says_where_it_lives_and_what_fails_without_it() -> None:
    found = rules()
    assert list(found) == list(RULES)
    for number, (_, where, fails) in found.items():
        assert where, f"rule {number} lives nowhere"
        assert fails or "*later*" in where, f"nothing fails without rule {number}"


def test_every_plant_is_mentioned() -> None:
    assert not [name for name in PLANTS if f"`{name}`" not in TEXT]
