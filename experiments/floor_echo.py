"""A bare round trip, as a process: a ROUTER that answers the same bytes to whatever comes (see `floor`)."""

from __future__ import annotations

import gc
import os

import click
import zmq

from zkv.net import sockets
from zkv.net.links import Context


@click.command(help=__doc__)
@click.option("--reply", required=True, help="In hexadecimal digits.")
@click.option("--ready-fd", type=int, required=True)
def main(reply: str, ready_fd: int) -> None:
    context: Context = zmq.Context()
    router = sockets.router(context)
    endpoint = sockets.bind(router, "tcp://127.0.0.1:0")
    with os.fdopen(ready_fd, "w") as ready:
        ready.write(endpoint + "\n")
    gc.freeze()
    gc.disable()
    frame = bytes.fromhex(reply)
    while True:
        route, _ = router.recv_multipart()
        router.send_multipart((route, frame))


if __name__ == "__main__":
    main()
