"""The launcher's side of partitions: which cuts there are, and whether every node honours them.

A change is written to a file, then each node is poked and confirms (`zkv.net.partition`). The file is the state, so a
node that is started later begins with it, one that is stopped finds it when it goes on, and nothing has to be repeated.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from zkv.local.control import Reply
from zkv.local.cuts import CUTS_FD_ENV, CUTS_FILE_ENV, Cut, Cuts
from zkv.local.loop import Loop
from zkv.local.rundir import RunDir

__all__ = ["CUTS_LIMIT", "Partitions"]

CUTS_LIMIT: Final = 1000
"""Cuts at a time."""
_CONFIRM_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class _Channel:
    """The socket to one node, and what it has said in part."""

    socket: socket.socket
    heard: bytes = b""


@dataclass(slots=True)
class _Waiting:
    """An answer that waits until these nodes have confirmed."""

    reply: Reply
    number: int
    missing: dict[int, str] = field(default_factory=dict)


class Partitions:
    """All cuts of one launcher, and its sockets to the nodes."""

    def __init__(self, loop: Loop, run_dir: RunDir, note: Callable[[str], None]) -> None:
        self._loop = loop
        self._run_dir = run_dir
        self._note = note
        self._told = Cuts()
        self._channels: dict[int, _Channel] = {}
        self._waiting: list[_Waiting] = []

    def admit(self, name: str, boot: int) -> tuple[socket.socket, dict[str, str]]:
        """Before a node is started: the socket that it inherits, which the caller closes, and its environment.

        Raises OSError.
        """
        boots = {known: other for known, other in self._told.boots.items() if other != name}
        # Nobody need look at a file that holds no cuts.
        told = replace(self._told, number=self._told.number + 1, boots=boots | {boot: name})
        if told.cuts:
            self._run_dir.write_cuts(told.to_json())
        self._told = told
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._channels[boot] = channel = _Channel(ours)
        self._loop.add(ours.fileno(), lambda: self._read(boot, channel))
        if told.cuts:
            self._poke()
        return theirs, {CUTS_FILE_ENV: str(self._run_dir.cuts_file), CUTS_FD_ENV: str(theirs.fileno())}

    def hears(self, name: str) -> bool | None:
        """Whether the cuts let the manager hear that node (`Cuts.hears`)."""
        return self._told.hears(name)

    def cut(self, cut: Cut, awaited: Mapping[int, str], reply: Reply) -> None:
        """Add one, and answer when the nodes `awaited` (boot id -> name) honour it."""
        if len(self._told.cuts) >= CUTS_LIMIT:
            reply.error(f"there are {CUTS_LIMIT} cuts already: reconnect first")
            return
        cuts = self._told.cuts if cut in self._told.cuts else (*self._told.cuts, cut)
        self._change(cuts, awaited, reply, str(cut))

    def reconnect(self, awaited: Mapping[int, str], reply: Reply) -> None:
        """End all, and answer when the nodes `awaited` know."""
        self._change((), awaited, reply, "no cuts any more")

    def _change(self, cuts: tuple[Cut, ...], awaited: Mapping[int, str], reply: Reply, what: str) -> None:
        told = replace(self._told, number=self._told.number + 1, cuts=cuts)
        try:
            self._run_dir.write_cuts(told.to_json())
        except OSError as error:
            reply.error(f"cannot write {self._run_dir.cuts_file.name}: {error.strerror}")
            return
        self._told = told
        self._note(what)
        missing = {boot: name for boot, name in awaited.items() if boot in self._channels}
        waiting = _Waiting(reply, told.number, missing)
        self._waiting.append(waiting)
        self._loop.later(_CONFIRM_TIMEOUT_S, lambda: self._give_up(waiting))
        self._poke()
        self._settle()

    def _poke(self) -> None:
        for channel in self._channels.values():
            try:
                channel.socket.send(b"!")
            except OSError:
                pass  # full of earlier ones, which it will find; or it has ended

    def _read(self, boot: int, channel: _Channel) -> None:
        try:
            data = channel.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove(channel.socket.fileno())
            channel.socket.close()
            del self._channels[boot]
            self._confirmed([boot], self._told.number)  # it has ended, and sends nothing
            return
        *lines, channel.heard = (channel.heard + data).split(b"\n")
        if lines:
            self._confirmed([boot], int(lines[-1]))

    def _confirmed(self, boots: Collection[int], number: int) -> None:
        for waiting in self._waiting:
            if waiting.number <= number:
                for boot in boots:
                    waiting.missing.pop(boot, None)
        self._settle()

    def _settle(self) -> None:
        for waiting in [waiting for waiting in self._waiting if not waiting.missing]:
            self._waiting.remove(waiting)
            waiting.reply.ok()

    def _give_up(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            who = ", ".join(waiting.missing.values())
            waiting.reply.error(f"{who} did not confirm within {_CONFIRM_TIMEOUT_S:g} s, all others did: does it hang?")

    def close(self) -> None:
        """Close the sockets, when no node is left."""
        for channel in self._channels.values():
            channel.socket.close()
        self._channels.clear()
