"""`zkv-node`: runs one storage node until SIGTERM."""

from __future__ import annotations

from typing import Any

import click

from zkv import __version__
from zkv.cli.options import CONTEXT, Command, chosen, setting_options
from zkv.core.settings import NodeConfig

EPILOG = """\
Examples:

  zkv-node --name server1
      Joins the manager on tcp://127.0.0.1:5550, listens on any free port.
  zkv-node --name server2 --manager tcp://10.0.0.1:5550 --bind tcp://10.0.0.2:5560 --zone rack2
      On a network of its own; copies of a shard are kept in different zones.
  zkv-node --name server3 --memory-limit 4GiB
      Its entries may take so much, whatever the cluster's settings say of the others.

A node keeps its data in memory and starts empty, as a new member, each time.

Exit status: 0 after SIGTERM or SIGINT; 2 for wrong settings or a port that is taken.
"""


@click.command(cls=Command, epilog=EPILOG, context_settings=CONTEXT)
@setting_options(NodeConfig)
@click.version_option(__version__, prog_name="zkv-node")
def main(**options: Any) -> None:
    """Run one storage node."""
    config = NodeConfig(**chosen(NodeConfig, options))

    from zkv.net.node import run  # after the checks: `--help` and a wrong flag need no sockets

    run(config)


if __name__ == "__main__":
    main()
