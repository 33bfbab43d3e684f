"""The manager as a process: its port, its state, its probes, its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from zkv.core import wire
from zkv.errors import ManagerUnreachable
from zkv.net import sockets
from zkv.net.admin import AdminLink

pytestmark = pytest.mark.process

BOOT = 2**40
GIVE_UP_S = 30
"""A bound for what must happen; nothing is timed."""

Start = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts managers, and ends those that are left at the end of the test."""
    with ExitStack() as stack:

        def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
            reader, writer = os.pipe()
            command = [sys.executable, "-m", "zkv.cli.manager", *arguments, "--ready-fd", str(writer)]
            process = subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.PIPE, text=True)
            stack.callback(_end, process)
            os.close(writer)
            with os.fdopen(reader) as ready:
                return process, ready.readline().strip()

        yield start


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def ask(endpoint: str, kind: int, body: Any, answer: int) -> Any:
    """Send one frame as a node would; the body of the `answer`."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = sockets.dealer(context)
    try:
        sockets.connect(dealer, endpoint)
        assert dealer.poll(GIVE_UP_S * 1000, zmq.POLLOUT)
        dealer.send(wire.encode(kind, 0, BOOT, 0, 0, body))
        while dealer.poll(GIVE_UP_S * 1000):
            frame = dealer.recv()
            if wire.decode_header(frame).kind == answer:
                return wire.decode_body(frame)
        raise AssertionError("no answer")
    finally:
        context.destroy(linger=0)


def test_it_serves_keeps_its_state_and_ends_cleanly(start: Start, tmp_path: Path) -> None:
    flags = ("--state-dir", str(tmp_path), "--nodes", "2", "--replicas", "2")
    process, endpoint = start("--bind", "tcp://127.0.0.1:0", *flags)
    with AdminLink(endpoint) as link:
        first = link.status()
    assert first["health"] == "forming"
    assert link_refuses_nothing(endpoint)
    _, *ports, boot, cluster_ms = ask(endpoint, wire.HELLO, None, wire.WELCOME)
    assert cluster_ms > 1_700_000_000_000, "cluster time begins as Unix time"

    process.kill()
    process.wait()
    process, again = start("--bind", endpoint, "--state-dir", str(tmp_path))
    assert again == endpoint
    settings, *ports_again, boot_again, _ = ask(endpoint, wire.HELLO, None, wire.WELCOME)
    assert ports_again == ports, "sockets of nodes and clients find it again by themselves"
    assert boot_again != boot
    assert settings["nodes"] == 2, "the state's settings win"
    with AdminLink(endpoint) as link:
        assert link.status()["cluster"] == first["cluster"]

    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == 0
    assert "Traceback" not in log
    with AdminLink(endpoint, timeout_s=0.1) as link, pytest.raises(ManagerUnreachable, match="no manager answers"):
        link.status()


def link_refuses_nothing(endpoint: str) -> bool:
    """Reports of deaths of strangers are taken, as often as they come."""
    with AdminLink(endpoint) as link:
        link.report_dead(BOOT + 1)
        link.report_dead(BOOT + 1)
        return link.map().version == 0


def test_a_second_manager_is_told_what_to_do(start: Start, tmp_path: Path) -> None:
    _, endpoint = start("--bind", "tcp://127.0.0.1:0", "--state-dir", str(tmp_path))
    port = endpoint.rpartition(":")[2]
    for arguments, message in (
        (("--bind", endpoint, "--in-memory"), f"port {port} is taken"),
        (("--bind", "tcp://127.0.0.1:0", "--state-dir", str(tmp_path)), "in use by another manager"),
    ):
        process, nothing = start(*arguments)
        _, errors = process.communicate(timeout=GIVE_UP_S)
        assert (process.returncode, nothing) == (2, "")
        assert message in errors
        assert len(errors.splitlines()) == 1


def test_a_refused_port_proves_a_death(start: Start) -> None:
    _, endpoint = start("--bind", "tcp://127.0.0.1:0", "--in-memory", "--nodes", "1", "--replicas", "1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        body = {"name": "n", "endpoint": f"tcp://127.0.0.1:{listener.getsockname()[1]}", "zone": "", "weight": 1.0}
        ask(endpoint, wire.JOIN, body, wire.WELCOME)
        with AdminLink(endpoint) as link:
            assert state_becomes(link, "down"), "a port that accepts proves nothing"
            listener.close()
            assert state_becomes(link, "dead")


def state_becomes(link: AdminLink, wanted: str) -> bool:
    deadline = time.monotonic() + GIVE_UP_S
    while time.monotonic() < deadline:
        (node,) = link.status()["nodes"]
        if node["state"] == wanted:
            return True
    return False
