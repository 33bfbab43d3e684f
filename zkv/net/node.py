"""The host of a storage node: sockets and a clock around `zkv.core.node.node.Node`. It decides nothing.

One thread, one loop: poll, drain every socket, *then* read the clock, step the core, send what it returned. A turn
takes all that waits; batches form because work is waiting, never because someone sleeps.
"""

from __future__ import annotations

import logging
import os
import random

import zmq

from zkv.core.node.local import MANAGER, PUBLISH, Address
from zkv.core.node.node import Node
from zkv.core.settings import BOOT_ID_LOW, NodeConfig
from zkv.errors import ZkvError
from zkv.local.lifeline import parent_is_gone
from zkv.net import collecting, sockets
from zkv.net.clock import now_ms
from zkv.net.links import DRAIN_FRAMES, Context, Links, Socket
from zkv.net.partition import Partition
from zkv.net.poller import READABLE, has_frames
from zkv.net.signals import Termination
from zkv.net.usage import Usage

logger = logging.getLogger("zkv.node")


class NodeHost:
    """Sockets of one node process."""

    def __init__(self, config: NodeConfig, context: Context) -> None:
        self.context = context
        self.router = sockets.router(context)
        try:
            bound = sockets.bind(self.router, config.bind)
        except zmq.ZMQError as error:
            self.router.close()
            raise ZkvError(
                f"cannot listen on {config.bind} ({error.strerror}): choose another --bind, port 0 takes any free one"
            ) from error
        self.endpoint = config.advertise or bound
        boot = config.boot_id or random.SystemRandom().randrange(BOOT_ID_LOW, 2**63)
        self.core = Node(
            config.name,
            boot,
            self.endpoint,
            zone=config.zone,
            weight=config.weight,
            bound=config.advertise is None,
            memory_limit_bytes=config.memory_limit_bytes,
        )
        self.links = Links(context, config.manager)
        self.links.poller.register(self.router)
        self.publisher: Socket | None = None
        self._heartbeats_to = ""
        self._listening_to: tuple[str, int] = ("", 0)
        self._map_version = 0
        self._usage = Usage(now_ms())
        self._partition = Partition.inherited(config.name)
        if self._partition is not None:
            self.links.poller.register(self._partition.fd)

    def turn(self, timeout_ms: float) -> None:
        """Wait for frames, at most `timeout_ms`, and take one step."""
        self.core.local.usage = self._usage.measured(now_ms())
        events = self.links.poller.poll(max(0, int(timeout_ms) + 1))
        self._usage.woke(now_ms())
        frames: list[tuple[Address, bytes]] = []
        partition = self._partition
        for socket, event in events:
            if socket is self.router and event & READABLE:
                self._take_requests(frames)
            elif partition is not None and socket == partition.fd:
                partition.renew(self.links.poller)
                self.links.drop_waiting(partition.is_cut)
        self.links.drain(events, frames)
        if partition is not None and partition.active:
            frames = partition.arriving(frames)
        # The clock is read after the sockets were drained: what waited there is not younger than it is (SAFETY 11).
        out = self.core.step(frames, now_ms())
        self._follow_core()
        if partition is not None and partition.active:
            out = partition.leaving(out)
        for address, frame in out:
            if isinstance(address, bytes):
                self._answer(address, frame)
            elif address == PUBLISH:
                if self.publisher is not None:
                    self.publisher.send(frame, zmq.NOBLOCK)
            else:
                if address != MANAGER and not self.links.is_open(address):
                    self._connect(address)
                self.links.send(address, frame)

    def _take_requests(self, frames: list[tuple[Address, bytes]]) -> None:
        """What waits at the ROUTER, as (route, frame). A message of more than one frame is nobody's that we know."""
        receive = self.router.recv
        try:
            for taken in range(DRAIN_FRAMES):
                route = receive(zmq.NOBLOCK)
                frame = receive(zmq.NOBLOCK, copy=False)
                if frame.more:
                    while frame.more:
                        frame = receive(zmq.NOBLOCK, copy=False)
                else:
                    frames.append((route, frame.bytes))
                if not taken and not has_frames(self.router):
                    return
        except zmq.Again:
            pass

    def _answer(self, route: bytes, frame: bytes) -> None:
        self.links.poller.used(self.router)
        try:
            self.router.send_multipart((route, frame), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            # Gone or full: whoever asked asks again.
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise

    def _connect(self, boot: int) -> None:
        member = self.core.map.members.get(boot)
        if member is not None:
            try:
                self.links.open(boot, member.endpoint)
            except zmq.ZMQError as error:
                logger.warning("cannot connect to %s at %s: %s", member.name, member.endpoint, error)

    def _follow_core(self) -> None:
        """Bring the sockets in line with what the core has learned."""
        core, contact = self.core, self.core.contact
        if contact.heartbeat_endpoint != self._heartbeats_to:
            self._heartbeats_to = contact.heartbeat_endpoint
            if self.publisher is not None:
                self.publisher.close()
            self.publisher = sockets.publisher(self.context)
            sockets.connect(self.publisher, self._heartbeats_to)
        if contact.map_endpoint and (contact.map_endpoint, contact.subscription) != self._listening_to:
            self._listening_to = (contact.map_endpoint, contact.subscription)
            self.links.subscribe(contact.map_endpoint)
        if core.map.version != self._map_version:
            self._map_version = core.map.version
            self.links.keep_only(set(core.map.members))
            owned = sum(shard.primary == core.boot for shard in core.map.shards)
            logger.info("map version %d: primary of %d shards", self._map_version, owned)

    def close(self) -> None:
        """Close every socket."""
        self.links.poller.unregister(self.router)
        self.router.close()
        if self.publisher is not None:
            self.publisher.close()
        if self._partition is not None:
            self._partition.close()
        self.links.close()


def run(config: NodeConfig) -> None:
    """Run one storage node until SIGTERM or SIGINT. Raises `ZkvError` if it cannot start or is not let in."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    context: Context = zmq.Context()
    try:
        host = NodeHost(config, context)
        try:
            logger.info("%s (boot %016x) listens on %s", config.name, host.core.boot, host.endpoint)
            if config.ready_fd is not None:
                with os.fdopen(config.ready_fd, "w") as ready:
                    ready.write(host.endpoint + "\n")
            collecting.begin()
            with Termination() as termination:
                host.links.poller.register(termination.fd)
                while not termination.asked and not parent_is_gone():
                    host.turn(host.core.next_wake_ms - now_ms())
                    collecting.rest()
                    if host.core.contact.released:
                        logger.info("%s was drained: its shards are held by others, and it leaves", config.name)
                        return
                    if host.core.contact.rejected is not None:
                        raise ZkvError(f"{config.name} is not let in: {host.core.contact.rejected}")
            logger.info("%s stops", config.name)
        finally:
            host.close()
    finally:
        context.destroy(linger=0)
