"""The manager's host: sockets, clock and file for the pure `Manager`. One thread, one loop.

Each turn drains both inboxes, *then* reads the clock, steps, and carries out the effects in their order: a
change is on disk before a frame that shows it leaves (SAFETY 1, 11, 31). Should the disk fail the process
ends at once, before it tells anyone what it could not keep.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Sequence
from typing import Final

import zmq

from zkv.core.manager.effects import Effect, Event, Persist, Probe, Publish, Send
from zkv.core.manager.manager import Manager
from zkv.core.settings import BOOT_ID_HIGH, BOOT_ID_LOW, ManagerConfig, split_endpoint
from zkv.errors import SettingError
from zkv.local.lifeline import parent_is_gone
from zkv.net import sockets
from zkv.net.clock import now_ms
from zkv.net.layoutfile import LayoutFile
from zkv.net.probes import Probes
from zkv.net.signals import Termination
from zkv.net.state import FileState, MemoryState, State

logger = logging.getLogger("zkv.manager")

DRAIN_LIMIT: Final = 20_000
"""Frames taken from one socket in a turn. After a long pause all of them should fit into one."""


def run(config: ManagerConfig) -> None:
    """Run a manager until SIGTERM or SIGINT.

    Raises SettingError if the port is taken, or the state directory in use; ZkvError if the state cannot be
    written.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with Termination() as termination:
        host = _Host(config)
        try:
            host.serve(termination)
        finally:
            host.close()


class _Host:
    """Sockets and state of one manager process."""

    def __init__(self, config: ManagerConfig) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._state: State | None = None
        self._probes = Probes()
        try:
            self._open(config)
        except BaseException:
            self.close()
            raise

    def _open(self, config: ManagerConfig) -> None:
        self._router = sockets.router(self._context)
        self._heartbeats = sockets.subscriber(self._context)
        self._maps = sockets.publisher(self._context)
        # The port first: who starts a second manager by mistake is told so in the plainest way.
        endpoint = _bind_router(self._router, config.bind)
        self._state = FileState(config.state_dir) if config.state_dir else MemoryState()
        host = endpoint[: endpoint.rindex(":")]
        # The former ports, if they are free: then the nodes' sockets find us again by themselves.
        heartbeat_port, map_port = self._state.ports() or (0, 0)
        heartbeat_endpoint = _bind(self._heartbeats, host, heartbeat_port)
        map_endpoint = _bind(self._maps, host, map_port)
        self._state.keep_ports(split_endpoint(heartbeat_endpoint)[1], split_endpoint(map_endpoint)[1])
        stored = self._state.load()
        self._file = LayoutFile(config.shard_map) if config.shard_map else None
        settings = config.cluster
        if self._file is not None and stored is None:
            settings = self._file.settings(settings)
        boot, cluster = _random_id(), _random_id()
        self._manager = Manager(
            settings, boot, heartbeat_endpoint, map_endpoint, stored, cluster, now_ms(), config.shard_map
        )
        known = f"map {stored.map.version} of cluster {stored.cluster:016x}" if stored else "a new cluster"
        logger.info("the manager (boot %016x) listens on %s, with %s", boot, endpoint, known)
        if config.ready_fd is not None:
            with os.fdopen(config.ready_fd, "w") as ready:
                ready.write(endpoint + "\n")

    def serve(self, termination: Termination) -> None:
        """Turn after turn until a signal comes."""
        manager = self._manager
        now = now_ms()
        while not termination.asked and not parent_is_gone():
            timeout_ms = 0.0 if self._probes.waiting else max(0.0, manager.next_wake_ms - now)
            ready = self._wait(termination.fd, timeout_ms)
            frames = _drain(self._router)
            frames += [(b"", frame) for _, frame in _drain(self._heartbeats)]
            now = now_ms()
            layout = self._file.changed(now) if self._file is not None else None
            if self._file is not None:
                manager.placement.trouble = self._file.trouble
            probes = self._probes.collect(now, ready)
            self._execute(manager.step(frames, now, probes, time.time_ns() // 1_000_000, layout), now)
        logger.info("the manager stops")

    def _wait(self, signal_fd: int, timeout_ms: float) -> set[int]:
        """Wait for anything; the plain descriptors that are ready."""
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._heartbeats, zmq.POLLIN)
        poller.register(signal_fd, zmq.POLLIN)
        for attempt in self._probes.sockets():
            poller.register(attempt.fileno(), zmq.POLLOUT)
        # Rounded up: waking a fraction early would spin.
        return {ready for ready, _ in poller.poll(int(timeout_ms) + 1 if timeout_ms else 0) if isinstance(ready, int)}

    def _execute(self, effects: Sequence[Effect], now: float) -> None:
        """Carry them out in their order; events that follow on each other in one transaction."""
        events: list[Event] = []
        for effect in effects:
            if isinstance(effect, Event):
                logger.info("%s", effect.text)
                events.append(effect)
                continue
            self._record(events)
            self._carry_out(effect, now)
        self._record(events)

    def _record(self, events: list[Event]) -> None:
        if events:
            assert self._state is not None
            self._state.record(events)
            events.clear()

    def _carry_out(self, effect: Effect, now: float) -> None:
        match effect:
            case Send(route, frame):
                try:
                    self._router.send_multipart((route, frame), zmq.NOBLOCK)
                except zmq.ZMQError as error:
                    # Gone, or its queue is full: it will ask again.
                    if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                        raise
            case Publish(frame):
                self._maps.send(frame, zmq.NOBLOCK)
            case Persist():
                assert self._state is not None
                self._state.persist(effect)
            case Probe(boot, endpoint):
                self._probes.start(boot, endpoint, now)

    def close(self) -> None:
        """Stop listening, then let go of the state. Nothing is served any more when this is called."""
        self._probes.close()
        self._context.destroy(linger=0)
        if self._state is not None:
            self._state.close()


def _drain(socket: zmq.Socket[bytes]) -> list[tuple[bytes, bytes]]:
    """All that waits, as (route, frame); a SUB's route is empty. Messages of another shape are dropped."""
    taken = []
    parts = 1 if socket.socket_type == zmq.SUB else 2
    for _ in range(DRAIN_LIMIT):
        try:
            message = socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            break
        if len(message) == parts:
            taken.append((message[0] if parts == 2 else b"", message[-1]))
    return taken


def _bind_router(socket: zmq.Socket[bytes], endpoint: str) -> str:
    try:
        return sockets.bind(socket, endpoint)
    except zmq.ZMQError as error:
        _, port = split_endpoint(endpoint)
        if error.errno == zmq.EADDRINUSE:
            raise SettingError(
                f"port {port} is taken, perhaps by another cluster: stop it (`zkv-launch stop`), or choose another "
                "port (`zkv-manager --bind tcp://127.0.0.1:PORT`, `zkv-launch start --port PORT`; 0 takes any free one)"
            ) from error
        raise SettingError(f"cannot listen on {endpoint}: {error.strerror or error}") from error


def _bind(socket: zmq.Socket[bytes], host: str, port: int) -> str:
    """Bind on `port` of `host` (tcp://HOST), or on any free one if it is taken."""
    try:
        return sockets.bind(socket, f"{host}:{port}")
    except zmq.ZMQError:
        return sockets.bind(socket, f"{host}:0")


def _random_id() -> int:
    return BOOT_ID_LOW + secrets.randbelow(BOOT_ID_HIGH - BOOT_ID_LOW)
