"""ZeroMQ sockets with the options that make failures show quickly. The only place that sets socket options.

Without them a socket queues for a peer that is gone, hangs the exit of its process, needs ten seconds to
notice a silent cut, or takes messages of any size. All of them have to be set before bind or connect, so the
functions here return sockets that are neither. None of them uses ZMTP heartbeats, which abort the process
when a connecting socket is full (libzmq 4767), and prove only that an I/O thread is alive: our leases and
heartbeats do better.

A socket belongs to the thread that uses it. High-water marks count messages per peer and are a backstop: what
bounds memory are the queues of the application.
"""

from __future__ import annotations

import zmq

from zkv.core.settings import split_endpoint

MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
"""A frame above this ends the connection. Fragments are far below it; a map of 65,536 shards has 1.6 MiB."""

_HANDSHAKE_MS = 3000
_TCP_MAXRT_MS = 2000
_CONNECT_MS = 500
_RECONNECT_MS = 100
_RECONNECT_MAX_MS = 1000


def router(context: zmq.Context[zmq.Socket[bytes]], hwm: int = 4096) -> zmq.Socket[bytes]:
    """A ROUTER. Sending to a peer that is gone or full raises zmq.ZMQError (EHOSTUNREACH, EAGAIN): send
    NOBLOCK."""
    socket = _socket(context, zmq.ROUTER, hwm)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    return socket


def dealer(context: zmq.Context[zmq.Socket[bytes]], hwm: int = 4096) -> zmq.Socket[bytes]:
    """A DEALER for exactly one peer (several would get messages in turn).

    Without a completed connection a NOBLOCK send raises zmq.Again: nothing is kept for a later incarnation of
    the peer.
    """
    socket = _socket(context, zmq.DEALER, hwm)
    socket.set(zmq.IMMEDIATE, 1)
    return socket


def publisher(context: zmq.Context[zmq.Socket[bytes]], hwm: int = 1000) -> zmq.Socket[bytes]:
    """A PUB. It never blocks; what a subscriber cannot take is dropped, so receivers need a way to notice a
    gap."""
    return _socket(context, zmq.PUB, hwm)


def subscriber(context: zmq.Context[zmq.Socket[bytes]], hwm: int = 1000) -> zmq.Socket[bytes]:
    """A SUB that receives everything from whoever it connects to, or connects to it."""
    socket = _socket(context, zmq.SUB, hwm)
    socket.set(zmq.SUBSCRIBE, b"")
    return socket


def bind(socket: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind, and return the real endpoint (port 0 becomes the port chosen). Raises zmq.ZMQError."""
    host, port = split_endpoint(endpoint)
    if ":" in host:
        socket.set(zmq.IPV6, 1)
        socket.bind(f"tcp://[{host}]:{port or '*'}")
    else:
        socket.bind(f"tcp://{host}:{port or '*'}")
    return bytes(socket.get(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()


def connect(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Connect; returns at once, ZeroMQ keeps trying. Raises zmq.ZMQError for an endpoint that cannot be."""
    if endpoint.startswith("tcp://["):
        socket.set(zmq.IPV6, 1)
    socket.connect(endpoint)


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, hwm: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, hwm)
    socket.set(zmq.RCVHWM, hwm)
    socket.set(zmq.MAXMSGSIZE, MESSAGE_LIMIT_BYTES)
    socket.set(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.set(zmq.TCP_MAXRT, _TCP_MAXRT_MS)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.CONNECT_TIMEOUT, _CONNECT_MS)
    socket.set(zmq.RECONNECT_IVL, _RECONNECT_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    return socket
