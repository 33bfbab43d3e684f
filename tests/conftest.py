"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No test may fail because the machine is busy: hypothesis' deadline is a timed assertion.
settings.register_profile("zkv", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zkv")
