"""A link to the manager for those who ask now and then: the launcher and the operator's commands. Blocking.

Each request has an id of its own, which the reply names as its target, so that the late answer to an earlier
try is never taken for the answer to this one. A request is repeated until its deadline: a manager that is
just being restarted costs a moment, not an error.
"""

from __future__ import annotations

import secrets
import time
from types import TracebackType
from typing import Any, Final, Self

import zmq

from zkv.core import wire
from zkv.core.settings import BOOT_ID_HIGH, BOOT_ID_LOW
from zkv.core.shardmap import ShardMap
from zkv.errors import ManagerUnreachable, ProtocolError
from zkv.net import sockets

_TRY_S: Final = 0.5
"""Time after which a request is sent again."""


class AdminLink:
    """A connection to one manager. Not for use by several threads; a context manager."""

    def __init__(self, endpoint: str, timeout_s: float = 2.0) -> None:
        """`timeout_s`: how long each call may take. Connects in the background; raises UsageError for a bad
        endpoint."""
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = sockets.dealer(self._context)
        try:
            sockets.connect(self._socket, endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ManagerUnreachable(f"{endpoint} cannot be connected to: {error}") from error

    def status(self) -> dict[str, Any]:
        """The cluster as the manager sees it: what `zkv-admin status --json` prints.

        Raises ManagerUnreachable, ProtocolError.
        """
        answer = self._ask(wire.STATUS_PULL, None, wire.STATUS)
        if not isinstance(answer, dict):
            raise ProtocolError("the manager's STATUS is not a map")
        return answer

    def map(self) -> ShardMap:
        """The present shard map. Raises ManagerUnreachable, ProtocolError."""
        try:
            return ShardMap.from_wire(self._ask(wire.MAP_PULL, None, wire.MAP))
        except wire.Malformed as error:
            raise ProtocolError(str(error)) from error

    def report_dead(self, boot: int) -> None:
        """Tell the manager that the process with this boot id was reaped; returns once that is durable.

        Raises ManagerUnreachable, ProtocolError. May be repeated.
        """
        self._ask(wire.DEAD, [boot], wire.DEAD_ACK)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, kind: int, body: Any, answer: int) -> Any:
        # Not a boot id of anyone, and never the same twice.
        sender = BOOT_ID_LOW + secrets.randbelow(BOOT_ID_HIGH - BOOT_ID_LOW)
        frame = wire.encode(kind, 0, sender, 0, 0, body)
        deadline = time.monotonic() + self._timeout_s
        while (rest_s := deadline - time.monotonic()) > 0:
            # IMMEDIATE: writable means connected.
            if not self._socket.poll(_ms(rest_s), zmq.POLLOUT):
                break
            try:
                self._socket.send(frame, zmq.NOBLOCK)
            except zmq.Again:
                continue
            patience = min(deadline, time.monotonic() + _TRY_S)
            while (rest_s := patience - time.monotonic()) > 0:
                if not self._socket.poll(_ms(rest_s), zmq.POLLIN):
                    break
                header, reply = self._receive()
                if header is None or header.target != sender:
                    continue
                if header.kind == wire.REFUSED:
                    text = reply[2] if isinstance(reply, list) and len(reply) > 2 else "no reason given"
                    raise ProtocolError(f"the manager at {self._endpoint} refuses: {text}")
                if header.kind == answer:
                    return reply
        raise ManagerUnreachable(f"no manager answers at {self._endpoint} (within {self._timeout_s:g} s)")

    def _receive(self) -> tuple[wire.Header | None, Any]:
        frames = self._socket.recv_multipart()
        try:
            return wire.decode_header(frames[-1]), wire.decode_body(frames[-1])
        except wire.Malformed:
            return None, None


def _ms(duration_s: float) -> int:
    return max(1, int(duration_s * 1000))
