"""Requests to a running launcher: one line of JSON each way, over a Unix socket in its run directory.

Only the user who started the cluster can connect: the socket has mode 0600. One connection carries one request:
`{"do": "status"}`, answered by `{"ok": true, …}` or `{"ok": false, "error": "…", "exit_status": 3}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zkv.local.loop import Loop
from zkv.local.plan import LaunchError, NotRunning
from zkv.local.rundir import RunDir

__all__ = ["ControlServer", "Reply", "call"]

_REQUEST_LIMIT_BYTES = 65536
_SEND_TIMEOUT_S = 2.0
# The system's limit on the path of a Unix socket is 108 bytes on Linux, 104 on macOS, its terminator included.
_PATH_LIMIT_BYTES = 100


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name of `path` that is short enough for a socket address."""
    if len(os.fsencode(path)) <= _PATH_LIMIT_BYTES:
        yield str(path)
        return
    if not Path("/proc/self/fd").is_dir():
        raise LaunchError(f"{path} is too long for a socket: name a shorter directory with --run-dir", exit_status=2)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class Reply:
    """How one request is answered, now or later. The connection stays open until the launcher is done with it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection: socket.socket | None = connection

    def ok(self, **answer: Any) -> None:
        self._send({"ok": True, **answer})

    def error(self, message: str, *, exit_status: int = 3) -> None:
        self._send({"ok": False, "error": message, "exit_status": exit_status})

    def _send(self, answer: dict[str, Any]) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # The caller may be gone; what it asked for has been done all the same.
        with contextlib.suppress(OSError):
            connection.settimeout(_SEND_TIMEOUT_S)
            connection.sendall(json.dumps(answer).encode() + b"\n")
            connection.setblocking(False)


class ControlServer:
    """Listens in the run directory and hands each request to `handle(request, reply)`."""

    def __init__(self, loop: Loop, run_dir: RunDir, handle: Callable[[dict[str, Any], Reply], None]) -> None:
        self._loop = loop
        self._handle = handle
        self._connections: dict[socket.socket, bytes] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        umask = os.umask(0o177)
        try:
            with _address(run_dir.socket) as address:
                self._socket.bind(address)
        except BaseException:
            self._socket.close()
            raise
        finally:
            os.umask(umask)
        self._socket.listen(16)
        self._socket.setblocking(False)
        loop.add(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Stop listening. Open connections are kept: their callers see the end of the launcher by them."""
        self._loop.remove(self._socket.fileno())
        self._socket.close()

    def hang_up(self) -> None:
        """Close the open connections too, for a launcher whose process goes on."""
        for connection in self._connections:
            self._loop.remove(connection.fileno())
            connection.close()
        self._connections.clear()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        connection.setblocking(False)
        self._connections[connection] = b""
        self._loop.add(connection.fileno(), lambda: self._read(connection))

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_REQUEST_LIMIT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        text = self._connections[connection] + data
        if not data or len(text) > _REQUEST_LIMIT_BYTES:
            self._loop.remove(connection.fileno())
            del self._connections[connection]
            connection.close()
            return
        line, newline, _ = text.partition(b"\n")
        # After its request a caller says no more; what is read then is the end of the connection.
        self._connections[connection] = b"" if newline else text
        if not newline:
            return
        reply = Reply(connection)
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if isinstance(request, dict):
            self._handle(request, reply)
        else:
            reply.error("a request is one JSON object on one line", exit_status=2)


def call(
    run_dir: RunDir, request: dict[str, Any], *, timeout_s: float = 15.0, until_gone: bool = False
) -> dict[str, Any]:
    """Send a request to the launcher of `run_dir` and return its answer.

    `until_gone`: return only after the launcher process has ended. Raises NotRunning if there is none, LaunchError if
    it does not answer in `timeout_s` seconds or answers with an error.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with _address(run_dir.socket) as address:
                connection.connect(address)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline()
                if until_gone and line:
                    lines.read()  # to its end: the launcher leaves the connection to the kernel to close
        except (FileNotFoundError, NotADirectoryError, ConnectionError):
            raise NotRunning(
                f"no cluster runs in {run_dir}: start one with `zkv-launch start`, or name its directory with --run-dir"
            ) from None
        except TimeoutError:
            raise LaunchError(
                f"the launcher in {run_dir} does not answer: look at {run_dir}/launcher.log for the reason"
            ) from None
        except OSError as error:
            raise LaunchError(f"cannot talk to the launcher in {run_dir}: {error.strerror}") from None
        if not line:
            raise LaunchError(f"the launcher in {run_dir} ended before it answered: look at {run_dir}/launcher.log")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise LaunchError(answer["error"], exit_status=answer["exit_status"])
        return answer
