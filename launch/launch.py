"""`python launch/launch.py …` is `zkv-launch …`, for a checkout that need not be installed."""

from __future__ import annotations

import sys
from pathlib import Path

# This checkout, whatever else is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

try:
    from zkv.cli.launch import main
except ModuleNotFoundError as error:
    sys.exit(f"launch.py: {error.name} is not installed: `make demo` makes an environment with all that zkv needs")

if __name__ == "__main__":
    main(prog_name="launch.py")
