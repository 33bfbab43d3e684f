"""The operator's placement as a file that is watched: its text, whenever that has changed.

Editors write in many ways: in place, or into another file that takes the name. So the file is looked at twice a second:
its inode, size and time of change. While it is missing, or cannot be read, nothing has changed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from zkv.core.placement.layout import LayoutError, parse
from zkv.core.settings import ClusterSettings
from zkv.errors import SettingError

LOOK_MS: Final = 500.0
SIZE_LIMIT: Final = 64 * 2**20
"""No placement is longer."""


class LayoutFile:
    """One watched file."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._look_ms = float("-inf")
        self._seen: tuple[int, int, int] | None = None
        self._first: str | None = None
        self.trouble = ""
        """Why it could not be read when it was last looked at; empty if it could."""
        try:
            self._first = self._read()
        except OSError as error:
            self.trouble = error.strerror or str(error)

    def settings(self, settings: ClusterSettings) -> ClusterSettings:
        """`settings` for a new cluster with this placement: nodes, shards and copies come from it.

        Raises SettingError with the reason if the placement cannot be read, or makes no sense.
        """
        if self._first is None:
            raise SettingError(f"the placement {self._path} cannot be read: {self.trouble}")
        try:
            layout = parse(self._first)
        except LayoutError as error:
            raise SettingError(f"the placement {self._path} is refused: {error}") from error
        replicas = max(map(len, layout.shards))
        return replace(
            settings,
            nodes=len(layout.nodes),
            shards=len(layout.shards),
            replicas=replicas,
            scatter_width=max(settings.scatter_width, replicas - 1),
        )

    def changed(self, now_ms: float) -> str | None:
        """The text if it has changed since the last call, the first time in any case. Looks at intervals."""
        if now_ms - self._look_ms < LOOK_MS:
            return None
        first = self._look_ms == float("-inf")
        self._look_ms = now_ms
        before = self._seen
        try:
            seen = _identity(os.stat(self._path))
            self.trouble = ""
            if seen != before:
                return self._read()
        except OSError as error:
            self.trouble = error.strerror or str(error)
        return self._first if first else None

    def _read(self) -> str:
        with self._path.open("rb") as file:
            self._seen = _identity(os.fstat(file.fileno()))
            return file.read(SIZE_LIMIT).decode("utf-8", errors="replace")


def _identity(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_ino, about.st_size, about.st_mtime_ns
