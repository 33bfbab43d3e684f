"""Results as JSON lines, with what is needed to read them later: command, commit, machine, versions, time."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def record(experiment: str, **figures: Any) -> None:
    """Append one result to results/EXPERIMENT.jsonl."""
    import msgpack
    import zmq

    RESULTS.mkdir(exist_ok=True)
    line = {
        "experiment": experiment,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": " ".join(["python", f"experiments/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": _commit(),
        "machine": {"cpus": os.cpu_count(), "system": platform.system(), "architecture": platform.machine()},
        "versions": {
            "python": platform.python_version(),
            "pyzmq": zmq.__version__,
            "libzmq": zmq.zmq_version(),
            "msgpack": ".".join(map(str, msgpack.version)),
        },
        **figures,
    }
    with (RESULTS / f"{experiment}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
