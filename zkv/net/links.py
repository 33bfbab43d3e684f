"""The sockets of one process, by address: what a host polls, drains and sends through.

A core speaks of addresses: a member's boot id, the manager, an opaque route. `Links` turns them into sockets: one
DEALER a member and one for the manager, each to a single peer. A frame for a link that is still connecting waits in a
small bounded outbox here (with IMMEDIATE set, ZeroMQ would refuse it), so that a first request leaves the moment the
connection stands; frames name the boot id they are for, so none can be mistaken by a later incarnation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import zmq

from zkv.core.node.local import MANAGER, PUBLISH, Address
from zkv.net import sockets
from zkv.net.poller import READABLE, WRITABLE, Poller, has_frames

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

DRAIN_FRAMES: Final = 1000
"""Frames taken from one socket in a turn, so that a busy one cannot starve the others."""
OUTBOX_FRAMES: Final = 256
OUTBOX_BYTES: Final = 16 * 1024 * 1024


class _Link:
    """One DEALER and what waits for its connection."""

    __slots__ = ("bytes", "endpoint", "outbox", "socket")

    def __init__(self, socket: Socket, endpoint: str) -> None:
        self.socket = socket
        self.endpoint = endpoint
        self.outbox: deque[bytes] = deque()
        self.bytes = 0


class Links:
    """All DEALERs of one process, and its subscription to the map."""

    def __init__(self, context: Context, manager: str) -> None:
        self.context = context
        self.poller = Poller()
        self._links: dict[int, _Link] = {}
        self._addresses: dict[Socket, int] = {}
        self._subscriber: Socket | None = None
        self.open(MANAGER, manager)

    def open(self, address: int, endpoint: str) -> None:
        """Connect to a peer. Raises zmq.ZMQError for an endpoint that cannot be."""
        known = self._links.get(address)
        if known is not None and known.endpoint == endpoint:
            return
        self.close_link(address)
        socket = sockets.dealer(self.context)
        sockets.connect(socket, endpoint)
        self._links[address] = _Link(socket, endpoint)
        self._addresses[socket] = address
        self.poller.register(socket)

    def is_open(self, address: int) -> bool:
        """Whether there is a link to `address`."""
        return address in self._links

    def keep_only(self, members: set[int]) -> None:
        """Close links to whoever is not in `members`."""
        for address in [address for address in self._links if address != MANAGER and address not in members]:
            self.close_link(address)

    def drop_waiting(self, chosen: Callable[[int], bool]) -> None:
        """Drop what waits for the connections of links whose address is `chosen`."""
        for address, link in self._links.items():
            if chosen(address):
                link.outbox.clear()
                link.bytes = 0

    def close_link(self, address: int) -> None:
        """Close one link; what waited for it is lost, as on any broken connection."""
        link = self._links.pop(address, None)
        if link is not None:
            self.poller.unregister(link.socket)
            del self._addresses[link.socket]
            link.socket.close()

    def subscribe(self, endpoint: str) -> None:
        """Listen to the manager's broadcasts at `endpoint`, on a new socket."""
        self.unsubscribe()
        self._subscriber = sockets.subscriber(self.context)
        sockets.connect(self._subscriber, endpoint)
        self._addresses[self._subscriber] = PUBLISH
        self.poller.register(self._subscriber)

    def unsubscribe(self) -> None:
        """Stop listening."""
        if self._subscriber is not None:
            self.poller.unregister(self._subscriber)
            del self._addresses[self._subscriber]
            self._subscriber.close()
            self._subscriber = None

    def send(self, address: int, frame: bytes) -> None:
        """Send, or keep for the moment the connection stands; beyond the bounds the frame is dropped."""
        link = self._links.get(address)
        if link is None:
            return
        self.poller.used(link.socket)
        if not link.outbox:
            try:
                link.socket.send(frame, zmq.NOBLOCK)
                return
            except zmq.Again:
                self.poller.modify(link.socket, READABLE | WRITABLE)
        if len(link.outbox) < OUTBOX_FRAMES and link.bytes < OUTBOX_BYTES:
            link.outbox.append(frame)
            link.bytes += len(frame)

    def _flush(self, link: _Link) -> None:
        while link.outbox:
            try:
                link.socket.send(link.outbox[0], zmq.NOBLOCK)
            except zmq.Again:
                return
            link.bytes -= len(link.outbox.popleft())
        self.poller.modify(link.socket, READABLE)

    def drain(self, events: list[tuple[Socket, int]], frames: list[tuple[Address, bytes]]) -> None:
        """Take what waits on the sockets of `events` that are ours, as (address, frame)."""
        for socket, event in events:
            address = self._addresses.get(socket)
            if address is None:
                continue
            if event & WRITABLE:
                self._flush(self._links[address])
            if event & READABLE:
                receive = socket.recv
                try:
                    for taken in range(DRAIN_FRAMES):
                        frames.append((address, receive(zmq.NOBLOCK)))
                        if not taken and not has_frames(socket):
                            break
                except zmq.Again:
                    pass

    def close(self) -> None:
        """Close every socket."""
        self.unsubscribe()
        for address in list(self._links):
            self.close_link(address)
