"""A storage node as `zkv-node` runs it, which also notes every pause of the garbage collector.

\b
    python experiments/watched_node.py --pauses FILE [--default-collector] [options of zkv-node]

When it ends (SIGTERM) FILE has {"generations": […], "ms": […], "cpu_ms": […], "keys": […]}: of each collection, the
generation, how long it took, how much of that the thread computed (on a busy machine it also has to wait), and how many
keys the node held. `--default-collector`: leave the collector as CPython has it.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from array import array
from pathlib import Path
from typing import Any

from zkv.cli.node import main as node_command
from zkv.net import collecting, node


class Watch:
    """The pauses of this process."""

    def __init__(self) -> None:
        # Arrays, not lists of tuples: what takes notes must not make work for what it watches.
        self.generations, self.ms, self.cpu_ms, self.keys = array("b"), array("d"), array("d"), array("q")
        self.hosts: list[node.NodeHost] = []
        self._began_s = self._began_cpu_s = 0.0

    def note(self, phase: str, info: dict[str, int]) -> None:
        """A collection begins or ends."""
        if phase == "start":
            self._began_s, self._began_cpu_s = time.perf_counter(), time.thread_time()
            return
        self.cpu_ms.append(1000 * (time.thread_time() - self._began_cpu_s))
        self.ms.append(1000 * (time.perf_counter() - self._began_s))
        self.generations.append(info["generation"])
        self.keys.append(self.hosts[0].core.local.store.count() if self.hosts else 0)

    def write(self, path: Path) -> None:
        """All of them, as JSON."""
        columns = {"generations": self.generations, "ms": self.ms, "cpu_ms": self.cpu_ms, "keys": self.keys}
        path.write_text(json.dumps({name: list(column) for name, column in columns.items()}))


def main(arguments: list[str]) -> None:
    watch = Watch()
    path = Path(arguments.pop(arguments.index("--pauses") + 1))
    arguments.remove("--pauses")
    if "--default-collector" in arguments:
        arguments.remove("--default-collector")
        collecting.begin = collecting.rest = lambda: None

    class Host(node.NodeHost):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            watch.hosts.append(self)

    node.NodeHost = Host  # type: ignore[misc]
    gc.callbacks.append(watch.note)
    try:
        node_command(arguments)
    finally:
        gc.callbacks.remove(watch.note)
        watch.write(path)


if __name__ == "__main__":
    main(sys.argv[1:])
