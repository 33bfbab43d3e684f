"""The poller: whatever is sent, taken and answered, nothing that waits is overlooked.

(libzmq's own cannot stand beside it as a reference: to ask a socket takes its news in.)
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator

import pytest
import zmq

from zkv.net.poller import READABLE, WRITABLE, Poller

Socket = zmq.Socket[bytes]
LONG_MS = 20_000.0
"""Longer than anything here takes: who waits so long was not woken."""


class Pairs:
    """ROUTERs that are polled, each with a DEALER that talks to it."""

    def __init__(self, context: zmq.Context[Socket], number: int) -> None:
        self.poller = Poller()
        self.routers: list[Socket] = []
        self.dealers: list[Socket] = []
        for _ in range(number):
            router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
            port = router.bind_to_random_port("tcp://127.0.0.1")
            dealer.connect(f"tcp://127.0.0.1:{port}")
            self.routers.append(router)
            self.dealers.append(dealer)
            self.poller.register(router)


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    context: zmq.Context[Socket] = zmq.Context()
    yield Pairs(context, 4)
    context.destroy(linger=0)


def take(socket: Socket) -> bytes:
    """One message, answered."""
    route, body = socket.recv_multipart(zmq.NOBLOCK)
    socket.send_multipart((route, body), zmq.NOBLOCK)
    return body


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_overlooked(pairs: Pairs, seed: int) -> None:
    """Messages are taken one, some or all at a time, and answers leave in between, which takes news in unasked."""
    rng = random.Random(seed)
    sent: dict[int, int] = dict.fromkeys(range(4), 0)
    taken: dict[int, int] = dict.fromkeys(range(4), 0)
    for _ in range(300):
        for _ in range(rng.choice((0, 1, 1, 5))):
            number = rng.randrange(4)
            pairs.dealers[number].send(b"%d" % sent[number])
            sent[number] += 1
        while sum(sent.values()) - sum(taken.values()) > rng.choice((0, 0, 3)):
            events = pairs.poller.poll(LONG_MS)
            assert events, "what waits was overlooked"
            for socket, event in events:
                assert event == READABLE
                number = pairs.routers.index(socket)
                for _ in range(rng.choice((1, 1, 2, 100))):
                    try:
                        assert take(socket) == b"%d" % taken[number]
                    except zmq.Again:
                        break
                    pairs.poller.used(socket)
                    taken[number] += 1


def test_it_waits_in_vain(pairs: Pairs) -> None:
    assert pairs.poller.poll(1) == []
    assert pairs.poller.poll(0) == []


def test_what_was_sent_while_it_slept_wakes_it(pairs: Pairs) -> None:
    endpoint = pairs.routers[2].getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)

    def send() -> None:
        own: zmq.Context[Socket] = zmq.Context()
        dealer = own.socket(zmq.DEALER)
        dealer.connect(endpoint.decode())
        dealer.send(b"hello")
        own.destroy(linger=1000)

    thread = threading.Thread(target=send)
    thread.start()
    assert pairs.poller.poll(LONG_MS) == [(pairs.routers[2], READABLE)]
    thread.join()


def test_whether_it_can_be_written_to(pairs: Pairs) -> None:
    dealer = pairs.dealers[0]
    pairs.poller.register(dealer, READABLE | WRITABLE)
    assert (dealer, WRITABLE) in pairs.poller.poll(LONG_MS)
    pairs.poller.modify(dealer, READABLE)
    assert pairs.poller.poll(0) == []
    pairs.poller.unregister(dealer)
    assert dealer not in pairs.poller.zmq_sockets


def test_files_are_waited_for_beside_sockets(pairs: Pairs) -> None:
    read, write = os.pipe()
    pairs.poller.register(read)
    os.write(write, b"x")
    assert pairs.poller.poll(LONG_MS) == [(read, READABLE)]
    pairs.dealers[1].send(b"hello")
    found: set[object] = set()
    while len(found) < 2:
        found |= {what for what, _ in pairs.poller.poll(LONG_MS)}
    assert found == {read, pairs.routers[1]}
    pairs.poller.unregister(read)
    assert [what for what, _ in pairs.poller.poll(0)] == [pairs.routers[1]]
    os.close(read)
    os.close(write)
