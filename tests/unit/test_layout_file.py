"""The watched file: every change is seen once, and a moment without the file is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from zkv.core.settings import ClusterSettings
from zkv.errors import SettingError
from zkv.net.layoutfile import LOOK_MS, LayoutFile

FIRST = '{"nodes": ["a", "b"], "shards": {"0-6": ["a", "b"], "7": ["b"]}}'


def test_changes_are_seen_once_however_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(FIRST)
    file = LayoutFile(str(path))
    assert file.changed(0.0) == FIRST
    assert file.changed(LOOK_MS) is None
    path.write_text("in place")
    assert file.changed(LOOK_MS + 1) is None, "not so soon"
    assert file.changed(2 * LOOK_MS) == "in place"
    path.unlink()
    assert file.changed(3 * LOOK_MS) is None
    other = tmp_path / "other"
    other.write_text("replaced")
    other.rename(path)
    assert file.changed(4 * LOOK_MS) == "replaced"
    assert file.changed(5 * LOOK_MS) is None


def test_a_new_cluster_takes_nodes_shards_and_copies_from_it(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(FIRST)
    settings = LayoutFile(str(path)).settings(ClusterSettings())
    assert (settings.nodes, settings.shards, settings.replicas) == (2, 8, 2)


@pytest.mark.parametrize(("text", "reason"), [(None, "cannot be read: No such file"), ("{", "is refused: not JSON")])
def test_a_new_cluster_needs_a_good_one(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "map.json"
    if text is not None:
        path.write_text(text)
    file = LayoutFile(str(path))
    with pytest.raises(SettingError, match=reason):
        file.settings(ClusterSettings())
    assert file.changed(0.0) == text
