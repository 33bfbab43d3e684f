"""The cuts of one node: which frames its host drops, silently and both ways, because its launcher says so.

Only for nodes of a local launcher, which hands each of them a file and a socket (`zkv.local.cuts`). The node looks at
the file when the socket says that it has changed, and confirms it: from then on no frame passes a cut here. Where
nobody asks for cuts that costs one more descriptor in the poll; a node that no launcher started has not even that.

Who is at the other end: a link's address is a boot id; a route of the ROUTER is whoever spoke on it last, by the
header. Between two nodes both drop, so that neither has to be sure of the other's routes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from zkv.core import wire
from zkv.core.node.local import MANAGER, PUBLISH, Address
from zkv.local import cuts
from zkv.local.cuts import Cuts
from zkv.net.poller import Poller

Frames = list[tuple[Address, bytes]]

ROUTES_LIMIT: Final = 4096
"""Routes remembered while there are cuts; a forgotten one is known again with its next frame."""


class Partition:
    """Whom one node is cut off from. The host polls `fd`, and calls `renew` when it is readable."""

    def __init__(self, name: str, channel: socket.socket, file: Path) -> None:
        """`channel`: the socket to the launcher. A node that is started under cuts honours them from the start."""
        self.active = False
        """Whether anything is to be dropped."""
        self._name = name
        self._file = file
        self._channel = channel
        self._channel.setblocking(False)
        self.fd = channel.fileno()
        self._ids: dict[int, bool] = {}
        """Manager and nodes -> whether they are cut off."""
        self._others = False
        """The same for everybody else."""
        self._routes: dict[bytes, int] = {}
        self._take(Cuts.read(file))

    @classmethod
    def inherited(cls, name: str) -> Partition | None:
        """That of this process, the node `name`; None if no launcher started it."""
        file, fd = os.environ.get(cuts.CUTS_FILE_ENV), os.environ.get(cuts.CUTS_FD_ENV)
        if file is None or fd is None:
            return None
        return cls(name, socket.socket(fileno=int(fd)), Path(file))

    def renew(self, poller: Poller) -> None:
        """Honour the file as it is now, and say so."""
        try:
            if not self._channel.recv(4096):
                poller.unregister(self.fd)  # the launcher is gone, which ends this process elsewhere
                return
        except BlockingIOError:
            return
        told = Cuts.read(self._file)
        self._take(told)
        try:
            self._channel.send(b"%d\n" % told.number)
        except OSError:
            pass  # the launcher is gone

    def _take(self, told: Cuts) -> None:
        manager = told.separate(self._name, cuts.MANAGER)
        self._ids = {MANAGER: manager, PUBLISH: manager}
        self._ids |= {boot: told.separate(self._name, name) for boot, name in told.boots.items()}
        self._others = told.separate(self._name, cuts.CLIENTS)
        self.active = self._others or any(self._ids.values())
        if not self.active:
            self._routes.clear()

    def is_cut(self, address: Address) -> bool:
        """Whether nothing passes to and from `address`."""
        # A route that has not spoken since the cut is a client that waits for a reply: nodes are answered at once.
        identity = self._routes.get(address, -1) if isinstance(address, bytes) else address
        return self._ids.get(identity, self._others)

    def arriving(self, frames: Frames) -> Frames:
        """Those of `frames` that have arrived."""
        for address, frame in frames:
            if isinstance(address, bytes):
                self._hear(address, frame)
        return self.leaving(frames)

    def leaving(self, frames: Iterable[tuple[Address, bytes]]) -> Frames:
        """Those of `frames` that may leave."""
        return [(address, frame) for address, frame in frames if not self.is_cut(address)]

    def _hear(self, route: bytes, frame: bytes) -> None:
        try:
            sender = wire.decode_header(frame).sender
        except wire.Malformed:
            return
        if len(self._routes) >= ROUTES_LIMIT:
            self._routes.clear()
        self._routes[route] = sender

    def close(self) -> None:
        """Close the socket."""
        self._channel.close()
