"""`zkv-manager`: runs the manager of one cluster until SIGTERM."""

from __future__ import annotations

from typing import Any

import click

from zkv import __version__
from zkv.cli.options import CONTEXT, Command, chosen, setting_options
from zkv.core.settings import ClusterSettings, ManagerConfig

EPILOG = """\
Examples:

  zkv-manager --state-dir state --nodes 5 --replicas 3
      A durable manager on tcp://127.0.0.1:5550 for five nodes, three copies each.
  zkv-manager --in-memory --nodes 1 --replicas 1 --bind tcp://127.0.0.1:0
      For an experiment, on any free port; the log says which.

Started again with the same --state-dir it goes on with the cluster that it finds there, and with that
cluster's settings. A local cluster in one command: zkv-launch start --nodes 5 --rep 3

Exit status: 0 after SIGTERM or SIGINT; 2 for wrong settings, a port that is taken, or a state directory
that another manager holds.
"""


@click.command(cls=Command, epilog=EPILOG, context_settings=CONTEXT)
@setting_options(ManagerConfig)
@setting_options(ClusterSettings)
@click.version_option(__version__, prog_name="zkv-manager")
def main(**options: Any) -> None:
    """Run the manager: it decides which node holds which shard.

    It is not on the path of a read or write: a cluster goes on without its manager until a node fails.
    """
    cluster = ClusterSettings(**chosen(ClusterSettings, options))
    config = ManagerConfig(**chosen(ManagerConfig, options), cluster=cluster)

    from zkv.net.manager import run  # after the checks: `--help` and a wrong flag need no sockets

    run(config)


if __name__ == "__main__":
    main()
