"""What all tests share."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester"]  # for the tests of our own plugin; here, as pytest takes it only from the top

# No test may fail because the machine is busy: hypothesis' deadline is a timed assertion.
settings.register_profile("zkv", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zkv")

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that: Ctrl-C, which some
# tests send, would then do nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
