"""Every line as a place where a signal arrives or another thread comes in between (see `schedules`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.support import environment
from zkv import LocalCluster

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[3]


SCHEDULES = {
    "interrupted_alone": "an interrupt takes the wheel along, or leaves half a step in the core",
    "interrupted_among_others": "the same, and an interrupt between a step and waking those it was for",
    "interrupted_watching": "an interrupt leaves questions under way that nobody listens for, or tells events twice",
    "overtaken": "the inbox changes while one who leaves looks through it",
    "closed_meanwhile": "a call that comes while the sockets are closed sleeps for ever",
    "loop_ended": "what was scheduled in a loop that ended is waited for ever after",
    "forked": "a child uses its parent's sockets and identity",
}
"""Schedules, and how a client could break in them."""


LONG = ("interrupted_watching", "closed_meanwhile")
SLOW = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SCHEDULES]


@pytest.mark.parametrize("schedule", SLOW)
def test_no_schedule_makes_a_client_hang(cluster: LocalCluster, schedule: str) -> None:
    program = [sys.executable, "-m", "tests.process.clients.schedules", schedule, cluster.manager]
    done = subprocess.run(
        program, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=300.0, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
