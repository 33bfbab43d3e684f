"""What all tests share."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester"]  # for the tests of our own plugin; here, as pytest takes it only from the top

# No test may fail because the machine is busy: hypothesis' deadline is a timed assertion.
settings.register_profile("zkv", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("zkv-brief", settings.get_profile("zkv"), max_examples=50)
settings.load_profile("zkv" if os.environ.get("ZKVTEST_FULL") else "zkv-brief")

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that: Ctrl-C, which some
# tests send, would then do nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long is left to `make prove`."""
    if not os.environ.get("ZKVTEST_FULL"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=slow)
