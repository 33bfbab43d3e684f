"""The manager's port: free, and kept for the manager while that is down."""

from __future__ import annotations

import os
import socket

from zkv.local.plan import LaunchError

__all__ = ["HOST", "reserve"]

HOST = "127.0.0.1"


def reserve(port: int) -> tuple[socket.socket | None, int]:
    """Make sure of a port (0: of any free one); returns what to keep open meanwhile, and the port. Raises LaunchError.

    Linux lets a socket that is bound but does not listen share its port with one that does, if both ask for it, as
    ZeroMQ's do. While it is held nobody gets that port by chance: neither as the local port of an outgoing connection
    while the manager is down, nor by connecting to the dead port over and over until the connection meets itself.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((HOST, port))
        port = reserved.getsockname()[1]
    except OSError as error:
        reserved.close()
        raise LaunchError(
            f"port {port} cannot be used ({(error.strerror or str(error)).lower()}): "
            "name another with --port, or --port 0 for any free one",
            exit_status=2,
        ) from None
    if os.uname().sysname == "Linux":
        return reserved, port
    reserved.close()
    return None, port
