"""Holders are removed from the operator's placement and put back into it, while a cluster that follows it is loaded.

One node at a time is taken out of every shard that has another holder, until the cluster has followed; then it is put
back, until the cluster has followed. So every shard keeps a copy, and no request need fail. Whatever ends the block,
the file is as it was before; a copy of it lies beside it meanwhile, for the case that this process is killed.
"""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from zkv import ZkvError
from zkv.core.placement.layout import Layout, parse
from zkv.errors import UsageError
from zkv.net.admin import AdminLink

REST_S: Final = 1.0
"""Between two edits, once the cluster has followed the one before."""
LOOK_S: Final = 0.1
FOLLOW_S: Final = 30.0
"""How long the cluster may take to follow an edit."""


def written(layout: Layout) -> str:
    """The text of a placement: a range for each run of shards with the same holders."""
    shards: dict[str, tuple[str, ...]] = {}
    first = 0
    for number, names in enumerate(layout.shards):
        if number + 1 == len(layout.shards) or layout.shards[number + 1] != names:
            shards[f"{first}-{number}"] = names
            first = number + 1
    return json.dumps({"nodes": layout.nodes, "shards": shards}, indent=1) + "\n"


def ring(nodes: int, replicas: int, shards: int) -> Layout:
    """A placement of our own: each shard on neighbours, the primaries in turn."""
    names = tuple(f"server{number + 1}" for number in range(nodes))
    return Layout(
        names, tuple(tuple(names[(one + copy) % nodes] for copy in range(replicas)) for one in range(shards))
    )


def without(layout: Layout, name: str) -> Layout:
    """The placement with a node taken out wherever somebody else holds the shard."""
    shards = (tuple(one for one in names if one != name) or names for names in layout.shards)
    return layout._replace(shards=tuple(shards))


class Churn:
    """A context manager: holders come and go within it."""

    def __init__(self, file: Path, manager: str, seed: int) -> None:
        """Raises UsageError where no holder can be taken away, or a run that was killed has left its copy."""
        self._file = file.resolve()  # a link stays one
        self._copy = self._file.with_name(self._file.name + ".original")
        if self._copy.exists():
            raise UsageError(
                f"{self._copy} is what {file} was before a run that was killed: put it back, or remove it"
            )
        self._manager = manager
        self._text = self._file.read_text(encoding="utf-8")
        self._layout = parse(self._text)
        if not any(len(names) > 1 for names in self._layout.shards):
            raise UsageError(f"{file} has one holder for each shard: with --churn some have to have two")
        self._rng = random.Random(f"{seed} churn")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None
        self.removed = 0
        """How often a holder was taken out."""
        self.put_back = 0
        """How often it was put back, and the cluster has followed."""
        self.followed_ms: list[float] = []
        """How long the cluster took to follow each edit."""

    def __enter__(self) -> Self:
        self._copy.write_text(self._text, encoding="utf-8")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._write(self._text)
        self._copy.unlink()
        if kind is None and self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with AdminLink(self._manager, timeout_s=5.0) as link:
                while not self._over.wait(REST_S):
                    movable = {name for names in self._layout.shards if len(names) > 1 for name in names}
                    layout = without(self._layout, self._rng.choice(sorted(movable)))
                    self._write(written(layout))
                    self.removed += 1
                    if not self._follows(link, layout) or self._over.wait(REST_S):
                        return
                    self._write(self._text)
                    self.put_back += self._follows(link, self._layout)
        except (ZkvError, OSError) as error:
            self._failure = error

    def _follows(self, link: AdminLink, layout: Layout) -> bool:
        """Wait until the cluster's shards are held as the placement says; false where the load is over first."""
        began_s = time.monotonic()
        while not self._over.wait(LOOK_S):
            took_s = time.monotonic() - began_s
            present = link.map()
            held = [tuple(map(present.name_of, shard.replicas)) for shard in present.shards]
            if held == list(layout.shards) and not any(shard.learners for shard in present.shards):
                self.followed_ms.append(round(1000 * took_s, 1))
                return True
            if took_s > FOLLOW_S:
                raise ZkvError(f"the cluster has not followed {self._file} within {FOLLOW_S:g} s")
        return False

    def _write(self, text: str) -> None:
        new = self._file.with_name(self._file.name + ".new")
        new.write_text(text, encoding="utf-8")
        shutil.copymode(self._file, new)
        new.replace(self._file)
