"""A TCP forwarder that delays: what stands between a node and everybody else when an experiment makes that node slow.

It listens on a free port of loopback and forwards each connection to `--to`, both ways. The delay of each chunk, in
milliseconds each way, is what the last line of its standard input says, at first 0; chunks that wait do not hold up
those behind them for longer than their own delay, as on a long line. It is a process of its own, so that neither the
client nor the node that are measured wait for it in their own loops.

It is started by `start_forwarder`, or by hand:  python experiments/forwarder.py --to 127.0.0.1:5560
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import click
from children import Children

CHUNK_BYTES: Final = 64 * 1024
QUEUE_CHUNKS: Final = 1024
"""Chunks that wait in one direction of one connection, before its sender is no longer read."""
SWITCH_S: Final = 0.2
"""After this long a new delay holds, and what waited under the old one has arrived."""


class Slowness:
    """A forwarder, seen from the experiment."""

    def __init__(self, process: subprocess.Popen[bytes], endpoint: str) -> None:
        self._process = process
        self.endpoint = endpoint
        """What it listens on: tcp://HOST:PORT."""

    def delay(self, delay_ms: float) -> None:
        """Delay each chunk by so much, each way, from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{delay_ms}\n".encode())
        self._process.stdin.flush()
        time.sleep(SWITCH_S)  # the network's time, not a condition that could be waited for


def start_forwarder(children: Children, name: str, host: str, port: int) -> Slowness:
    """Start a forwarder to a port at which nobody needs to listen yet."""
    command = [sys.executable, str(Path(__file__).resolve()), "--to", f"{host}:{port}"]
    process, endpoint = children.start_ready(name, command, stdin=True)
    return Slowness(process, endpoint)


class Forwarder:
    """Forwards connections."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._delay_s = 0.0
        self._busy: set[asyncio.Task[None]] = set()

    async def serve(self, ready_fd: int | None) -> None:
        """Listen until standard input ends."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        line = f"tcp://{host}:{port}\n"
        if ready_fd is None:
            click.echo(line, nl=False)
        else:
            with os.fdopen(ready_fd, "w") as ready:
                ready.write(line)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while text := await lines.readline():
            self._delay_s = float(text) / 1000

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()  # nobody listens there: whoever connected shall see that
            return
        ways = ((reader, there_writer), (there_reader, writer))
        tasks = [asyncio.create_task(self._carry(*way)) for way in ways]
        self._busy.update(tasks)
        # When one side has ended the connection is over; neither ZeroMQ nor we go on with half of one.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for one in (writer, there_writer):
            one.close()
        for task in tasks:
            task.cancel()
            self._busy.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until its sender ends it."""
        clock = asyncio.get_running_loop().time
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS)

        async def receive() -> None:
            chunk = b"-"
            while chunk:
                try:
                    chunk = await reader.read(CHUNK_BYTES)
                except OSError:
                    chunk = b""
                await waiting.put((clock() + self._delay_s, chunk))

        receiver = asyncio.create_task(receive())
        try:
            while True:
                due_s, chunk = await waiting.get()
                if not chunk:
                    return
                if due_s > clock():
                    await asyncio.sleep(due_s - clock())
                writer.write(chunk)
                await writer.drain()
        except OSError:
            return  # the receiver of this direction has gone
        finally:
            receiver.cancel()


@click.command(help=__doc__)
@click.option("--to", required=True, metavar="HOST:PORT")
@click.option("--ready-fd", type=int, help="Inherited pipe; one line with the endpoint is written to it.")
def main(to: str, ready_fd: int | None) -> None:
    host, _, port = to.rpartition(":")
    asyncio.run(Forwarder(host, int(port)).serve(ready_fd))


if __name__ == "__main__":
    main()
