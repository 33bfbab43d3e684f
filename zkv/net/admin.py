"""A link to the manager for those who ask now and then: the launcher and the operator's commands. Blocking.

Each request has an id of its own, which the reply names as its target, so that the late answer to an earlier
try is never taken for the answer to this one. A request is repeated until its deadline: a manager that is
just being restarted costs a moment, not an error.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import zmq

from zkv.core import wire
from zkv.core.settings import BOOT_ID_HIGH, BOOT_ID_LOW
from zkv.core.shardmap import ShardMap
from zkv.errors import ManagerUnreachable, ProtocolError, UsageError
from zkv.net import sockets

_TRY_S: Final = 0.5
"""Time after which a request is sent again; doubled each time, as a manager may also be long over its answer."""


class AdminRefused(UsageError):
    """The manager does not do what it was asked to; the text says why, and what to do instead."""


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

    def cluster_ms(self) -> int:
        """The cluster's time, in which expiries are kept: milliseconds since the Unix epoch; 0: not known yet.

        Raises ManagerUnreachable, ProtocolError.
        """
        answer = self._ask(wire.HELLO, None, wire.WELCOME)
        if not isinstance(answer, list) or len(answer) < 5 or type(answer[4]) is not int:
            raise ProtocolError("the manager's WELCOME does not tell the time")
        return answer[4]

    def ask(self, verb: str, **args: Any) -> dict[str, Any]:
        """What an operator asks of the manager; its answer. docs/PROTOCOL.md lists the verbs and their arguments.

        Raises AdminRefused where the manager says no, ManagerUnreachable, ProtocolError.
        """
        answer = self._ask(wire.ADMIN, [verb, args], wire.ADMIN_REPLY)
        if not isinstance(answer, list) or len(answer) != 2:
            raise ProtocolError("the manager's ADMIN_REPLY is not a pair")
        ok, result = answer
        if ok is not True:
            raise AdminRefused(str(result))
        if not isinstance(result, dict):
            raise ProtocolError("the manager's ADMIN_REPLY is not a map")
        return result

    def drain(self, name: str, *, force: bool = False) -> dict[str, Any]:
        """Begin to empty a node: {"name", "shards": copies that it holds, "bytes"}. `force`: even if copies are lost
        for lack of nodes. Raises as `ask`."""
        return self.ask("drain", name=name, force=force)

    def join(self, name: str) -> dict[str, Any]:
        """Take a drain back: {"name"}. Raises as `ask`."""
        return self.ask("join", name=name)

    def plan(self) -> dict[str, Any]:
        """What `rebalance` would do now: {"moves": [{"shard", "from", "to", "keys", "bytes"}], "copies", "primaries",
        "keys", "bytes", "balanced", "bound"}. Raises as `ask`."""
        return self.ask("plan")

    def rebalance(self) -> dict[str, Any]:
        """Place all shards anew; what that moves, as `plan`. Raises as `ask`."""
        return self.ask("rebalance")

    def advise(self) -> dict[str, Any]:
        """Whether nodes should be added or could go: {"advice": "add", "drain" or "none", "node", "reason",
        "figures"}. Raises as `ask`."""
        return self.ask("advise")

    def reset(self, shards: Sequence[int] | None) -> list[int]:
        """Create lost shards anew, empty (None: all that are lost); their numbers. Raises as `ask`."""
        numbers: list[int] = self.ask("reset", shards=None if shards is None else list(shards))["reset"]
        return numbers

    def events(self, after: int = 0, limit: int = 1000) -> tuple[list[dict[str, Any]], int]:
        """The first `limit` events after number `after`, each {"number", "time_ms" (Unix), "kind", "text", ...}; and
        the number of the newest event there is. Raises as `ask`."""
        answer = self.ask("events", after=after, limit=limit)
        return answer["events"], answer["last"]

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
        try_s = _TRY_S
        while (rest_s := deadline - time.monotonic()) > 0:
            # IMMEDIATE: writable means connected.
            if not self._socket.poll(_ms(rest_s), zmq.POLLOUT):
                break
            try:
                self._socket.send(frame, zmq.NOBLOCK)
            except zmq.Again:
                continue
            patience = min(deadline, time.monotonic() + try_s)
            try_s *= 2
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
