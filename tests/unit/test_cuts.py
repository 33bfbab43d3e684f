"""Who is cut off from whom, which frames a node drops for it, and when a launcher says that it is so."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zkv.core import wire
from zkv.core.node.local import MANAGER, PUBLISH, Address
from zkv.errors import UsageError
from zkv.local.control import Reply
from zkv.local.cuts import CLIENTS, CUTS_FD_ENV, CUTS_FILE_ENV, Cut, Cuts
from zkv.local.loop import Loop
from zkv.local.partitions import CUTS_LIMIT, Partitions
from zkv.local.rundir import RunDir
from zkv.net.partition import ROUTES_LIMIT, Partition
from zkv.net.poller import Poller

BOOTS = {11: "server1", 12: "server2", 13: "server3"}
EVERYBODY = [*BOOTS.values(), "manager", CLIENTS]


def parted(*cuts: Cut) -> set[tuple[str, str]]:
    """All pairs that are separated."""
    told = Cuts(1, cuts, BOOTS)
    pairs = {(one, other) for one in EVERYBODY for other in EVERYBODY if told.separate(one, other)}
    assert pairs == {(other, one) for one, other in pairs}
    return {(one, other) for one, other in pairs if one < other}


def test_who_is_apart_from_whom() -> None:
    assert parted() == set()
    assert parted(Cut(("server1",), ("server2",))) == {("server1", "server2")}
    assert parted(Cut(("server1",))) == {("server1", "server2"), ("server1", "server3"), ("manager", "server1"),
                                         ("clients", "server1")}  # fmt: skip
    one_side, other_side = ("server1", "manager"), ("server2", "server3", "clients")
    both_ways = {(min(one, other), max(one, other)) for one in one_side for other in other_side}
    assert parted(Cut(one_side)) == both_ways
    pair, triple = Cut(("server1",), ("server2",)), Cut(("server3",), ("server1", "manager"))
    assert parted(pair, triple) == parted(pair) | parted(triple)


def test_everybody_else_is_also_who_comes_later() -> None:
    assert Cut(("server1",)).separates("server9", "server1")
    assert not Cut(("server1",), ("server2",)).separates("server9", "server1")


@pytest.mark.parametrize(
    ("names", "apart_from", "complaint"),
    [
        ((), None, "two sides"),
        (("server1",), (), "two sides"),
        (("server1", "server2"), ("server2",), "server2 is on both sides"),
        ((CLIENTS,), ("manager",), "clients cannot be cut off from the manager"),
        (("manager", "server1"), (CLIENTS,), "clients cannot be cut off from the manager"),
    ],
)
def test_cuts_that_cannot_be(names: tuple[str, ...], apart_from: tuple[str, ...] | None, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        Cut(names, apart_from)


def test_whom_the_manager_hears() -> None:
    told = Cuts(1, (Cut(("server1",)), Cut((CLIENTS,), ("server3",))), BOOTS)
    assert [told.hears(name) for name in BOOTS.values()] == [False, None, None]
    assert Cuts(1, (Cut((CLIENTS,), ("server3",)),), BOOTS).hears("server3") is True
    assert Cuts(1, (Cut(("server1",), ("manager",)),), BOOTS).hears("server1") is False


def test_what_the_file_says_comes_back(tmp_path: Path) -> None:
    assert Cuts.read(tmp_path / "cuts.json") == Cuts()
    told = Cuts(7, (Cut(("server1",)), Cut(("server2", CLIENTS), ("server3",))), BOOTS)
    run_dir = RunDir(tmp_path)
    run_dir.write_cuts(told.to_json())
    assert Cuts.read(run_dir.cuts_file) == told
    assert run_dir.cuts_file.stat().st_mode & 0o777 == 0o600


# --- at a node ----------------------------------------------------------------------------------------------------


class Told:
    """A node's partition, and the end of its launcher."""

    def __init__(self, name: str, file: Path) -> None:
        self.file = file
        self.launcher, theirs = socket.socketpair()
        self.partition = Partition(name, theirs, file)
        self.poller = Poller()
        self.poller.register(self.partition.fd)

    def tell(self, *cuts: Cut) -> None:
        number = Cuts.read(self.file).number + 1
        self.file.write_text(Cuts(number, cuts, BOOTS).to_json())
        self.launcher.send(b"!")
        self.partition.renew(self.poller)
        assert self.launcher.recv(100) == b"%d\n" % number

    def passing(self, frames: list[tuple[Address, bytes]]) -> list[Address]:
        return [address for address, _ in self.partition.arriving(frames)]

    def leaving(self, *addresses: Address) -> list[Address]:
        return [address for address, _ in self.partition.leaving([(address, b"frame") for address in addresses])]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Callable[[str], Told]]:
    """Makes the partitions of nodes."""
    made: list[Told] = []

    def make(name: str) -> Told:
        made.append(Told(name, tmp_path / "cuts.json"))
        return made[-1]

    yield make
    for one in made:
        one.partition.close()
        one.launcher.close()


def frame(sender: int) -> bytes:
    return wire.encode(wire.HELLO, 1, sender, 0, 0, None)


CLIENT = 99
ARRIVING: list[tuple[Address, bytes]] = [
    (MANAGER, frame(5)), (PUBLISH, frame(5)), (12, frame(12)), (13, frame(13)),
    (b"two", frame(12)), (b"three", frame(13)), (b"client", frame(CLIENT)), (b"garbage", b"?"),
]  # fmt: skip
ADDRESSES = [address for address, _ in ARRIVING]


@pytest.mark.parametrize(
    ("cut", "gone"),
    [
        (Cut(("server2",)), {12, b"two"}),
        (Cut(("server2",), ("server3",)), set()),
        (Cut(("server1",)), set(ADDRESSES)),
        (Cut(("server1", "server2", CLIENTS)), {MANAGER, PUBLISH, 13, b"three"}),
        (Cut(("manager",)), {MANAGER, PUBLISH}),
        (Cut((CLIENTS,), ("server1",)), {b"client", b"garbage"}),
    ],
)
def test_frames_are_dropped_both_ways(told: Callable[[str], Told], cut: Cut, gone: set[Address]) -> None:
    node = told("server1")
    assert not node.partition.active
    node.tell(cut)
    assert node.partition.active is bool(gone)
    rest = [address for address in ADDRESSES if address not in gone]
    assert node.passing(ARRIVING) == rest
    assert node.leaving(*ADDRESSES) == rest
    node.tell()
    assert not node.partition.active
    assert node.passing(ARRIVING) == ADDRESSES


def test_a_reply_that_was_held_since_before_the_cut(told: Callable[[str], Told]) -> None:
    """Its route has not spoken since. Only clients wait that long."""
    node = told("server1")
    node.tell(Cut(("server2",)))
    assert node.leaving(b"held") == [b"held"]
    node.tell(Cut((CLIENTS,), ("server1",)))
    assert node.leaving(b"held") == []


def test_a_node_that_starts_under_cuts_honours_them(told: Callable[[str], Told]) -> None:
    told("server2").tell(Cut(("server1",)))
    assert told("server1").partition.active


def test_a_new_boot_of_a_name_is_cut_off_as_well(told: Callable[[str], Told]) -> None:
    node = told("server1")
    node.tell(Cut(("server2",)))
    assert node.leaving(21) == [21]
    node.file.write_text(Cuts(9, (Cut(("server2",)),), BOOTS | {21: "server2"}).to_json())
    node.launcher.send(b"!")
    node.partition.renew(node.poller)
    assert node.leaving(21) == []


def test_routes_are_bounded(told: Callable[[str], Told]) -> None:
    node = told("server1")
    node.tell(Cut(("server2",)))
    for number in range(ROUTES_LIMIT + 10):
        node.passing([(b"%d" % number, frame(12))])
    assert node.leaving(b"%d" % (ROUTES_LIMIT + 9)) == []


def test_a_launcher_that_is_gone_does_not_keep_the_node_awake(told: Callable[[str], Told]) -> None:
    node = told("server1")
    node.launcher.close()
    assert node.poller.poll(0)
    node.partition.renew(node.poller)
    assert not node.poller.poll(0)


def test_only_a_launched_node_has_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CUTS_FD_ENV, raising=False)
    monkeypatch.delenv(CUTS_FILE_ENV, raising=False)
    assert Partition.inherited("server1") is None
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(CUTS_FD_ENV, str(theirs.detach()))
    monkeypatch.setenv(CUTS_FILE_ENV, str(tmp_path / "cuts.json"))
    partition = Partition.inherited("server1")
    assert partition is not None
    partition.close()
    ours.close()


# --- at the launcher ----------------------------------------------------------------------------------------------


class Asker:
    """One who asked the launcher, and what he was told."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        self._theirs = theirs
        self.reply = Reply(theirs)

    def answer(self) -> dict[str, object] | None:
        self._connection.setblocking(False)
        try:
            answer: dict[str, object] = json.loads(self._connection.recv(4096))
        except BlockingIOError:
            return None
        return answer

    def close(self) -> None:
        self._connection.close()
        self._theirs.close()


@pytest.fixture
def partitions(tmp_path: Path) -> Iterator[tuple[Partitions, Loop, list[str]]]:
    loop = Loop()
    notes: list[str] = []
    made = Partitions(loop, RunDir(tmp_path), notes.append)
    yield made, loop, notes
    made.close()
    loop.close()


@pytest.fixture
def asker() -> Iterator[Callable[[], Asker]]:
    """Makes askers."""
    made: list[Asker] = []

    def make() -> Asker:
        made.append(Asker())
        return made[-1]

    yield make
    for one in made:
        one.close()


def node_of(name: str, channel: socket.socket, environment: dict[str, str]) -> Partition:
    """The process that inherits the channel."""
    assert int(environment[CUTS_FD_ENV]) == channel.fileno()
    return Partition(name, channel, Path(environment[CUTS_FILE_ENV]))


def test_the_answer_comes_when_all_have_confirmed(
    partitions: tuple[Partitions, Loop, list[str]], asker: Callable[[], Asker]
) -> None:
    launcher, loop, notes = partitions
    nodes = {boot: node_of(name, *launcher.admit(name, boot)) for boot, name in BOOTS.items()}
    cut, poller = asker(), Poller()
    launcher.cut(Cut(("server1",)), {11: "server1", 12: "server2"}, cut.reply)  # server3 is stopped: not awaited
    for boot in (11, 12):
        assert cut.answer() is None
        nodes[boot].renew(poller)
        assert nodes[boot].active
        loop.turn()
    assert cut.answer() == {"ok": True}
    assert [launcher.hears(name) for name in BOOTS.values()] == [False, None, None]

    # One of those that are awaited ends instead.
    over = asker()
    launcher.reconnect({11: "server1", 12: "server2"}, over.reply)
    nodes[11].close()
    loop.turn()
    assert over.answer() is None
    nodes[12].renew(poller)
    loop.turn()
    assert over.answer() == {"ok": True}
    nodes[13].renew(poller)  # it goes on, and finds what holds by then
    assert not nodes[13].active
    assert notes == ["server1 cut off from everybody else", "no cuts any more"]
    for boot in (12, 13):
        nodes[boot].close()


def test_who_is_started_under_cuts_is_known_to_all(
    partitions: tuple[Partitions, Loop, list[str]], asker: Callable[[], Asker]
) -> None:
    launcher, _, _ = partitions
    old = node_of("server1", *launcher.admit("server1", 11))
    cut, poller = asker(), Poller()
    launcher.cut(Cut(("server2",)), {}, cut.reply)
    assert cut.answer() == {"ok": True}
    new = node_of("server2", *launcher.admit("server2", 22))
    old.renew(poller)
    assert new.active
    assert old.is_cut(22)
    old.close()
    new.close()


def test_cuts_are_bounded(partitions: tuple[Partitions, Loop, list[str]], asker: Callable[[], Asker]) -> None:
    launcher, _, _ = partitions
    last = asker()
    for number in range(CUTS_LIMIT + 1):
        for reply in (asker() if number < CUTS_LIMIT else last,):
            launcher.cut(Cut((f"server{number}",)), {}, reply.reply)
    answer = last.answer()
    assert answer is not None
    assert answer["ok"] is False
    assert "reconnect first" in str(answer["error"])


def test_no_descriptor_is_left(partitions: tuple[Partitions, Loop, list[str]]) -> None:
    launcher, loop, _ = partitions
    before = len(os.listdir("/dev/fd"))
    channel, _ = launcher.admit("server1", 11)
    channel.close()
    loop.turn()
    assert len(os.listdir("/dev/fd")) == before
