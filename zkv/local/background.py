"""A launcher as a child process: what `zkv-launch start --detach` and `LocalCluster` start.

The child gets its plan as the first line of its standard input and answers with one line of JSON on its standard
output, once every shard is served or the start has failed. A launcher that is bound to its parent takes the end of its
standard input, or of the parent, as its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zkv.local.lifeline import PARENT_PID_ENV
from zkv.local.plan import LaunchError, Plan
from zkv.local.processes import child_environment, python_command
from zkv.local.rundir import RunDir

__all__ = ["Background", "main", "start_in_background"]

_ANSWER_GRACE_S = 15.0
_END_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Background:
    """A launcher that serves."""

    process: subprocess.Popen[bytes]
    status: dict[str, Any]
    """As `zkv-launch status --json` prints it."""

    def let_go(self) -> None:
        """Close the pipes to it. One that is bound to its parent ends then, another one goes on."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def wait(self) -> None:
        """Wait until the launcher, which has been told to stop, is gone; kill it if it takes too long."""
        try:
            self.process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_in_background(plan: Plan) -> Background:
    """Start a launcher and return once every shard is served. Raises LaunchError; nothing is left running then."""
    process = subprocess.Popen(
        python_command("zkv.local.background"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        # Out of the reach of the terminal: neither Ctrl-C nor its closing ends it.
        start_new_session=True,
    )
    background = Background(process, {})
    try:
        answer = _first_answer(process, plan)
    except BaseException:
        process.send_signal(signal.SIGTERM)  # it stops its children in order
        background.let_go()
        background.wait()
        raise
    if not answer["ok"]:
        background.let_go()
        background.wait()
        raise LaunchError(answer["error"], exit_status=answer["exit_status"])
    background.status = answer["status"]
    if not plan.bound_to_parent:
        background.let_go()
        process.returncode = 0  # it outlives us, and that is no oversight to be warned of
    return background


def _first_answer(process: subprocess.Popen[bytes], plan: Plan) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    lost = LaunchError(f"the launcher ended before it answered: look at {plan.run_dir}/launcher.log for the reason")
    try:
        process.stdin.write(plan.to_json().encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        raise lost from None
    readable, _, _ = select.select([process.stdout], [], [], plan.start_timeout_s + _ANSWER_GRACE_S)
    line = process.stdout.readline() if readable else b""
    if not line:
        raise lost
    answer: dict[str, Any] = json.loads(line)
    return answer


def main() -> None:
    """Run a launcher, as the child process described above."""
    from zkv.local.supervisor import Supervisor

    plan = Plan.from_json(sys.stdin.readline())

    def answer(ok: bool, **rest: Any) -> None:
        try:
            os.write(sys.stdout.fileno(), json.dumps({"ok": ok, **rest}).encode() + b"\n")
        except BrokenPipeError:
            pass  # whoever asked has ended; a launcher that is bound to it learns that elsewhere

    supervisor = Supervisor(plan, on_ready=lambda status: answer(True, status=status), say=lambda _: None)
    try:
        if plan.bound_to_parent:
            supervisor.run(lifeline_fd=sys.stdin.fileno(), parent_pid=int(os.environ[PARENT_PID_ENV]))
        else:
            supervisor.run()
    except LaunchError as error:
        answer(False, error=str(error), exit_status=error.exit_status)
        sys.exit(error.exit_status)
    except Exception as error:  # noqa: BLE001  # a mistake of ours must be found in the log, not lost with stderr
        with RunDir(Path(plan.run_dir)).log("launcher").open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        answer(False, error=f"a mistake in zkv: {type(error).__name__}: {error}", exit_status=70)
        sys.exit(70)
    finally:
        if plan.ephemeral and supervisor.orphaned:
            RunDir(Path(plan.run_dir)).remove()


if __name__ == "__main__":
    main()
