"""The launcher: one process that starts a manager and N nodes, and answers for them until the last one is gone.

It learns each endpoint from the child's ready pipe, reaps a child the moment it ends, tells the manager which boot id
that was (a death with proof is taken over in milliseconds, a silent one in most of a second), and restarts the manager
on its port with its state. Which nodes there are, and which are replaced, is for `zkv.local.nodes`.

Everything happens on one thread and in one loop, except for the talk with the manager (`zkv.local.reports`).
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from zkv.core.settings import BOOT_ID_HIGH, BOOT_ID_LOW
from zkv.local.autoscale import Scaling
from zkv.local.backoff import Backoff
from zkv.local.control import ControlServer, Reply
from zkv.local.journal import Journal, last_line
from zkv.local.loop import Loop
from zkv.local.nodes import Nodes
from zkv.local.partitions import Partitions
from zkv.local.plan import MANAGER, LaunchError, Plan
from zkv.local.ports import HOST, reserve
from zkv.local.processes import Child, python_command, start_time_of
from zkv.local.reports import ManagerTalk
from zkv.local.requests import SIGNALS, handle
from zkv.local.rundir import RunDir

__all__ = ["Supervisor"]

# How long a child may take over its orderly end before it is killed.
_TERM_TIMEOUT_S: Final = 2.0
# A manager that ends sooner than this after its start is restarted with growing delays, any other one at once.
_STEADY_S: Final = 5.0
_BACKOFF_S: Final = 0.1
_BACKOFF_MAX_S: Final = 2.0
# Between two questions whether the cluster is ready.
_LOOK_S: Final = 0.02

Phase = Literal["starting", "running", "stopping"]


class Supervisor:
    """Make it in the main thread of the launcher process, then `run` it once."""

    def __init__(self, plan: Plan, *, on_ready: Callable[[dict[str, Any]], None], say: Callable[[str], None]) -> None:
        """`on_ready(status)` is called once every shard is served; `say` gets each event as a line for people."""
        self.plan = plan
        self.run_dir = RunDir(Path(plan.run_dir))
        self._on_ready = on_ready
        self._journal = Journal(self.run_dir.log("launcher"), say)
        self.phase: Phase = "starting"
        """Changes from left to right."""
        self.orphaned = False
        """Whether it ended because the process that started it was gone."""
        self._failure: LaunchError | None = None
        self._manager: Child | None = None
        self._manager_endpoint = ""
        self._manager_backoff = Backoff(_BACKOFF_S, _BACKOFF_MAX_S, _STEADY_S)
        self._restart_due = False
        self.nodes = Nodes(plan, start=self._start_node, later=self.later, say=self.say)
        self._stop_replies: list[Reply] = []
        self._restart_replies: list[Reply] = []
        self._on_death: dict[str, list[Callable[[str], None]]] = {}
        self._changed = False
        self._loop = Loop()
        self.partitions = Partitions(self._loop, self.run_dir, self._journal.note)

    # --- its life --------------------------------------------------------------------------------------------------

    def run(self, *, lifeline_fd: int | None = None, parent_pid: int | None = None) -> None:
        """Start everything, serve until told to stop, stop everything.

        `lifeline_fd`, `parent_pid`: if given, the launcher ends when the one reaches its end of file, or the other is
        no longer this process's parent. Raises LaunchError if the cluster could not be started; nothing runs then.
        """
        try:
            self.run_dir.acquire()
        except LaunchError:
            self._loop.close()
            raise
        reserved: socket.socket | None = None
        control: ControlServer | None = None
        talk: ManagerTalk | None = None
        try:
            self._loop.on_signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self._interrupted)
            # Where the kernel has pidfds they say the same. Installed in any case: a launcher that inherited this
            # signal as ignored could not wait for its children.
            self._loop.on_signals((signal.SIGCHLD,), self._reap_all)
            self._watch_parent(lifeline_fd, parent_pid)
            reserved, port = reserve(self.plan.port)
            self._manager_endpoint = f"tcp://{HOST}:{port}"
            control = ControlServer(self._loop, self.run_dir, lambda request, reply: handle(self, request, reply))
            self._start_manager()
            self.nodes.add(self.plan.nodes)
            self._record()
            self.talk = talk = ManagerTalk(post=self._loop.post, on_trouble=self._journal.note)
            self._look()
            self._loop.later(self.plan.start_timeout_s, self._start_timed_out)
            while not self._finished():
                self._loop.turn()
                self._record()
        finally:
            self._kill_all_now()
            for child in self.children():
                child.wait_for_death()
            if talk is not None:
                talk.close()
            if control is not None:
                control.close()
            self.partitions.close()
            if reserved is not None:
                reserved.close()
            self._loop.close()
            self.run_dir.release()
            for reply in self._stop_replies:
                reply.ok()
        if self._failure is not None:
            raise self._failure

    def _finished(self) -> bool:
        return self.phase == "stopping" and not any(child.up for child in self.children())

    def _watch_parent(self, lifeline_fd: int | None, parent_pid: int | None) -> None:
        if lifeline_fd is not None:
            self._loop.add(lifeline_fd, lambda: self._parent_gone(lifeline_fd))
        if parent_pid is None:
            return
        # The pipe alone would not do: a process that the parent forked holds its other end as well.
        try:
            pidfd = os.pidfd_open(parent_pid)
        except (AttributeError, OSError):
            self._look_for_parent(parent_pid)
            return
        self._loop.add(pidfd, lambda: self._parent_gone(pidfd))
        if os.getppid() != parent_pid:  # it was gone already, and the descriptor may be another process's
            self._loop.later(0, lambda: self._parent_gone(pidfd))

    def _look_for_parent(self, parent_pid: int) -> None:
        if os.getppid() == parent_pid:
            self._loop.later(0.5, lambda: self._look_for_parent(parent_pid))
        else:
            self._parent_gone(None)

    def _parent_gone(self, fd: int | None) -> None:
        if fd is not None:
            self._loop.remove(fd)  # it stays readable for ever
        self.orphaned = True
        self.stop("the process that started this cluster is gone")
        self._kill_all_now()  # nobody is left to care how they end

    def _interrupted(self) -> None:
        if self.phase == "stopping":  # a second Ctrl-C: someone is in a hurry
            self._kill_all_now()
        else:
            self.stop("asked to stop")

    # --- starting --------------------------------------------------------------------------------------------------

    def _start_manager(self) -> None:
        self._restart_due = False
        command = python_command("zkv.cli.manager", "--bind", self._manager_endpoint)
        command += ["--state-dir", str(self.run_dir.state), *self.plan.manager_flags()]
        self._manager_backoff.started(time.monotonic())
        self._manager = self._start(MANAGER, command)

    def _start_node(self, name: str, zone: str, weight: float, memory_limit_bytes: int | None) -> Child:
        boot_id = BOOT_ID_LOW + secrets.randbelow(BOOT_ID_HIGH - BOOT_ID_LOW)
        command = python_command("zkv.cli.node", "--name", name, "--manager", self._manager_endpoint)
        command += ["--bind", f"tcp://{HOST}:0", "--boot-id", f"{boot_id:016x}"]
        command += ["--zone", zone, "--weight", str(weight)]
        if memory_limit_bytes is not None:
            command += ["--memory-limit", str(memory_limit_bytes)]
        try:
            channel, environment = self.partitions.admit(name, boot_id)
        except OSError as error:
            raise LaunchError(f"cannot start {name}: {error.strerror}") from None
        with channel:
            return self._start(name, command, boot_id, (channel.fileno(),), environment)

    def _start(
        self, name: str, command: list[str], boot_id: int | None = None,
        pass_fds: Sequence[int] = (), environment: Mapping[str, str] | None = None,
    ) -> Child:  # fmt: skip
        try:
            child = Child(
                self._loop, name, command,
                log=self.run_dir.log(name), on_ready=self._child_ready, on_exit=self._child_ended,
                boot_id=boot_id, pass_fds=pass_fds, environment=environment,
            )  # fmt: skip
        except OSError as error:
            raise LaunchError(f"cannot start {name}: {error.strerror}") from None
        self._changed = True
        return child

    def _child_ready(self, child: Child) -> None:
        self._changed = True
        self._journal.note(f"{child.name} listens on {child.endpoint} (pid {child.pid})")
        if child.name != MANAGER:
            self.nodes.ready(child)
            return
        assert child.endpoint is not None
        self._manager_endpoint = child.endpoint
        self.talk.manager_up(child.endpoint)
        for reply in self._restart_replies:
            reply.ok(endpoint=child.endpoint, pid=child.pid)
        self._restart_replies.clear()

    def _look(self) -> None:
        """Ask whether every shard is served."""
        self.talk.ask(lambda link: link.status(), self._looked, lambda why: self._fail(f"the manager refuses: {why}"))

    def _looked(self, status: dict[str, Any]) -> None:
        if self.phase != "starting":
            return
        formed = status["health"] != "forming" and status["inactive_shards"] == 0
        # The manager may know a node before we read its pipe; its line is on its way.
        if not formed or any(child.endpoint is None for child in self.children()):
            self.later(_LOOK_S, self._look)
            return
        self.phase = "running"
        self._changed = True
        self._record()
        self._journal.note("every shard is served")
        self._on_ready(self.status())
        if self.plan.autoscale is not None:
            Scaling(self.plan.autoscale, self).begin()

    def _start_timed_out(self) -> None:
        if self.phase == "starting":
            self._fail(f"not every shard was served within {self.plan.start_timeout_s:g} s")

    def _fail(self, message: str, exit_status: int = 3) -> None:
        if self._failure is None:
            self._failure = LaunchError(f"{message}; the logs are in {self.run_dir}", exit_status=exit_status)
        self.stop(message, aloud=False)

    # --- the end of a child ----------------------------------------------------------------------------------------

    def _reap_all(self) -> None:
        for child in self.children():
            child.reap()

    def _child_ended(self, child: Child) -> None:
        self._changed = True
        how = child.describe_exit()
        if self.phase == "stopping":
            self._journal.note(f"{child.name} {how}")
            self._stop_manager_after_nodes()
        elif child.name == MANAGER:
            self._manager_ended(child, how)
        else:
            self._report(child)
            if self.phase == "starting":
                self._failed_early(child, how)
            else:
                self.nodes.ended(child, how)
        for callback in self._on_death.pop(child.name, []):
            callback(child.name)

    def _report(self, child: Child) -> None:
        """Tell the manager that a node was reaped: proof of its death (SAFETY 32)."""
        boot_id, reaped_s = child.boot_id, time.monotonic()
        assert boot_id is not None

        def known(_: None) -> None:
            after_ms = (time.monotonic() - reaped_s) * 1000
            who = f"{child.name} (boot {boot_id:016x})"
            self._journal.note(f"the manager knows that {who} is dead, {after_ms:.1f} ms later")

        refused = f"the manager does not want to know that {child.name} is dead"
        self.talk.ask(
            lambda link: link.report_dead(boot_id), known, lambda why: self._journal.note(f"{refused}: {why}")
        )

    def _manager_ended(self, child: Child, how: str) -> None:
        self.talk.manager_down()
        if self.phase == "starting":
            self._failed_early(child, how)
            return
        if child.endpoint is None:
            self._refuse_restarts(f"the manager {how} as it was started ({last_line(self.run_dir.log(MANAGER))})")
        if self._restart_replies and child.endpoint is not None:  # ended in order to be started again
            delay_s = 0.0
        elif self.plan.manager_restart:
            delay_s = self._manager_backoff.ended(time.monotonic())
        else:
            self._journal.say(f"the manager (pid {child.pid}) {how}; start it again with `zkv-launch restart manager`")
            return
        self._journal.say(f"the manager (pid {child.pid}) {how}; it is started again")
        self._restart_due = True
        self._loop.later(delay_s, self._restart_now)

    def _restart_now(self) -> None:
        if self.phase == "stopping" or not self._restart_due:
            return
        try:
            self._start_manager()
        except LaunchError as error:  # the machine is out of processes, say: go on trying
            self._journal.say(str(error))
            self._restart_due = True
            self._loop.later(_BACKOFF_MAX_S, self._restart_now)

    def _refuse_restarts(self, message: str) -> None:
        for reply in self._restart_replies:
            reply.error(message)
        self._restart_replies.clear()

    def _failed_early(self, child: Child, how: str) -> None:
        last = last_line(self.run_dir.log(child.name))
        status = 2 if child.exit_status == 2 else 3
        self._fail(f"{child.name} {how} before the cluster was ready{f' ({last})' if last else ''}", status)

    # --- stopping --------------------------------------------------------------------------------------------------

    def stop(self, reason: str, *, aloud: bool = True) -> None:
        """Begin to end everything: the nodes, then the manager; whatever does not end by itself is killed."""
        if self.phase == "stopping":
            return
        self.phase = "stopping"
        self._changed = True
        (self._journal.say if aloud else self._journal.note)(f"stopping: {reason}")
        self._refuse_restarts("the cluster is being stopped")
        self.nodes.refuse_additions("the cluster is being stopped")
        for node in self.nodes.children():
            self._end(node)
        self._stop_manager_after_nodes()

    def _stop_manager_after_nodes(self) -> None:
        # In this order no node has to wonder where its manager went.
        if self._manager is not None and not any(node.up for node in self.nodes.children()):
            self._end(self._manager)

    def _end(self, child: Child) -> None:
        """Ask a child to end, and see to it."""
        if child.up:
            child.terminate()
            self._loop.later(_TERM_TIMEOUT_S, lambda: child.signal(signal.SIGKILL) if child.up else None)

    def _kill_all_now(self) -> None:
        for child in self.children():
            if child.up:
                child.signal(signal.SIGKILL)

    # --- requests --------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What runs, as `zkv-launch status --json` prints it. A process that has ended has no pid."""
        manager = self._manager
        manager_up = manager is not None and manager.up
        return {
            "manager": {
                "endpoint": self._manager_endpoint,
                "pid": manager.pid if manager is not None and manager_up else None,
                "up": manager_up,
            },
            "nodes": self.nodes.rows(),
        }

    def children(self) -> list[Child]:
        """The nodes and the manager, those that have ended included."""
        return [*self.nodes.children(), *([self._manager] if self._manager is not None else [])]

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` from the loop, unless the cluster has been stopped by then."""
        self._loop.later(delay_s, lambda: callback() if self.phase != "stopping" else None)

    def send_signal(self, names: list[str], signal_name: str) -> None:
        """Signal processes; those that have ended are left out."""
        # First all signals, then all words, so that several die in the same instant.
        children = [child for child in self.children() if child.name in names and child.up]
        for child in children:
            child.signal(SIGNALS[signal_name])
        for child in children:
            self._journal.note(f"sent SIG{signal_name} to {child.name} (pid {child.pid})")

    def on_death(self, name: str, callback: Callable[[str], None]) -> None:
        """Call `callback(name)` once that process has been reaped."""
        self._on_death.setdefault(name, []).append(callback)

    def restart_manager(self, reply: Reply) -> None:
        """Start the manager again, ending it first if it runs, and answer once it listens."""
        if self.phase != "running":
            reply.error(f"the cluster is {self.phase}: try again when it runs")
            return
        self._restart_replies.append(reply)
        if self._manager is not None and self._manager.up:
            if self._manager.endpoint is not None:  # else it is just being started
                self._end(self._manager)
        else:
            self._restart_due = True
            self._restart_now()

    def answer_when_stopped(self, reply: Reply) -> None:
        """Answer as the last thing, when nothing is left."""
        self._stop_replies.append(reply)

    # --- said and recorded -----------------------------------------------------------------------------------------

    def say(self, message: str) -> None:
        """Tell whoever started the cluster, and the log."""
        self._changed = True
        self._journal.say(message)

    def _record(self) -> None:
        if not self._changed:
            return
        self._changed = False
        manager = self._manager
        record = {
            "format": 1,
            "supervisor": {"pid": os.getpid(), "start_time": start_time_of(os.getpid())},
            "phase": self.phase,
            "replicas": self.plan.replicas,
            "manager": manager.record() | {"endpoint": self._manager_endpoint} if manager is not None else None,
            "nodes": [node.record() for node in self.nodes.children()],
        }
        try:
            self.run_dir.write(record)
        except OSError as error:
            self._journal.note(f"cannot write {self.run_dir.cluster_file.name}: {error.strerror}")
