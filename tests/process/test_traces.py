"""The four traces (the last one in two ways), compared with what they printed when they were accepted.

Which server holds a key depends on the servers' names alone, so the output is the same each time, but for pids, ports
and directories. Only after a kill does it depend on the moment: the survivors make new copies and share the primaries
anew, while the commands follow on each other. After a wanted change: `ZKVTEST_REWRITE=1 python -m pytest
tests/process/test_traces.py`, and read the difference before committing it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.support import WAIT_S, environment

TRACES = ("one-node", "five-nodes", "three-nodes", "seven-nodes-in-turn", "seven-nodes-at-once")
HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent.parent / "launch" / "traces.py"


def masked(output: str) -> str:
    """Without what the system chose: pids, ports, the temporary directory, and the widths that follow from them."""
    output = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", output)
    output = re.sub(r"\(pid \d+\)", "(pid PID)", output)
    output = re.sub(r"^(\w+) +\d+ +(tcp:)", r"\1 PID \2", output, flags=re.MULTILINE)
    output = re.sub(r"[^\s=]*/zkv-trace-\w+", "DIR", output)
    output = re.sub(r"(?<=\S) {2,}", " ", output)
    before, kill, after = output.partition("$ zkv-launch kill")
    return before + kill + re.sub(r", server\d$", ", SERVER", after, flags=re.MULTILINE)


@pytest.mark.process
@pytest.mark.parametrize("name", TRACES)
def test_trace(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), name], env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=4 * WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    golden = HERE / "golden" / f"{name}.txt"
    if os.environ.get("ZKVTEST_REWRITE"):
        golden.write_text(masked(done.stdout))
    assert masked(done.stdout) == golden.read_text()
