"""A web server that counts visits, with `AsyncClient` and nothing but asyncio: any number of it may run side by side.

Why it is right: the server keeps no state of its own. `incr` counts each visit once, whichever server process it came
to, and whichever node dies meanwhile. The client belongs to the event loop; what all handlers ask for in one round of
the loop goes out together, so many visitors at once cost few messages. Where the cluster cannot answer in time, the
visitor is told so (503) within the deadline; the connection is not left hanging.

    python examples/web_handler.py
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import ExitStack
from typing import Any

from zkv import AsyncClient, LocalCluster, TimedOut, Unavailable


async def answer(kv: AsyncClient, path: str) -> tuple[str, dict[str, Any]]:
    """What a GET of `path` gives: the status, and a document."""
    try:
        visits = await kv.incr(f"web:visits:{path}", timeout_s=2)
    except (TimedOut, Unavailable) as error:
        return "503 Service Unavailable", {"error": str(error)}
    return "200 OK", {"page": path, "visits": visits}


async def handle(kv: AsyncClient, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, one answer."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        status, document = await answer(kv, path)
        body = json.dumps(document).encode()
        lines = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(lines.encode() + b"Connection: close\r\n\r\n" + body)
        await writer.drain()
    finally:
        writer.close()


async def visit(port: int, path: str) -> dict[str, Any]:
    """What a browser does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    document: dict[str, Any] = json.loads(body)
    return document


async def serve(manager: str) -> None:
    async with AsyncClient(manager) as kv:
        await kv.mdelete(await kv.keys("web:"))  # of a former run
        server = await asyncio.start_server(lambda reader, writer: handle(kv, reader, writer), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            sent = kv.stats()["requests"]
            answers = await asyncio.gather(*(visit(port, "/index.html") for _ in range(100)))
            numbers = sorted(answer["visits"] for answer in answers)
            print("100 visitors were given the numbers 1 to 100:", numbers == list(range(1, 101)))
            print("messages to the cluster for all of them:", kv.stats()["requests"] - sent)
            print(await visit(port, "/about.html"))


def main() -> None:
    with ExitStack() as stack:
        # A cluster that runs already, or one of our own for as long as this takes.
        manager = os.environ.get("ZKV_MANAGER") or stack.enter_context(LocalCluster(nodes=3, replicas=2)).manager
        asyncio.run(serve(manager))


if __name__ == "__main__":
    main()
