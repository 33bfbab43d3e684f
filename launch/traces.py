"""Four traces against real clusters: each command as it would be typed, and what came back.

`python launch/traces.py [NAME …]` runs all of them, or those named. What a trace expects is checked and printed as a
comment; exit status 1 if something else came back.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 60.0


class Unexpected(Exception):
    """A command or a check came out otherwise than the trace says."""


class Shell:
    """Runs commands with a run directory of its own, so that no other cluster is in the way, or disturbed."""

    def __init__(self) -> None:
        self._run_dir = tempfile.mkdtemp(prefix="zkv-trace-")
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("ZKV_")}
        self._environment["PYTHONPATH"] = os.pathsep.join(
            path for path in (str(ROOT), os.environ.get("PYTHONPATH", "")) if path
        )
        self._running = False
        self._tried = False
        self.export("ZKV_RUN_DIR", self._run_dir)

    def export(self, name: str, value: str) -> None:
        """Set an environment variable for the commands that follow."""
        print(f"$ export {name}={value}", flush=True)
        self._environment[name] = value

    def run(self, line: str) -> str:
        """Run one command, print it and its output, and return the output. Raises Unexpected unless it succeeds."""
        print(f"$ {line}", flush=True)
        done = self._execute(line)
        print(done.stdout, end="", flush=True)
        if done.returncode != 0:
            raise Unexpected(f"`{line}` ended with status {done.returncode}")
        return done.stdout

    def _execute(self, line: str) -> subprocess.CompletedProcess[str]:
        program, *arguments = shlex.split(line)
        # The same commands, found also where they are not on the PATH.
        module = "zkv.cli." + program.removeprefix("zkv-")
        return subprocess.run(
            [sys.executable, "-P", "-m", module, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def start(self, nodes: int, replicas: int) -> None:
        """Start a cluster, and let the commands that follow talk to it."""
        self._tried = True
        answer = self.run(f"zkv-launch start --nodes {nodes} --rep {replicas} --port 0 --detach")
        self._running = True
        exports = [line.strip() for line in answer.splitlines() if line.strip().startswith("export ZKV_MANAGER=")]
        check(len(exports) == 1, "the launcher says where the manager is", quiet=True)
        self.export("ZKV_MANAGER", exports[0].partition("=")[2])

    def put(self, key: str, value: str) -> str:
        """Put, and return the server that acknowledged it."""
        answer = self.run(f"zkv-client put {key} {value}").strip()
        word, _, server = answer.partition(", ")
        check(word == "OK" and server.startswith("server"), f"put {key} is acknowledged", quiet=True)
        return server

    def get(self, *keys: str) -> dict[str, tuple[str, str]]:
        """Get one or several keys: {key: (value, the server that answered)}."""
        command = "get" if len(keys) == 1 else "mget"
        lines = self.run(f"zkv-client {command} {' '.join(keys)}").splitlines()
        answers = {}
        for line in lines:
            key, value, server = line.split(", ")
            answers[key] = (value, server)
        check(list(answers) == list(keys), f"{len(keys)} keys are read", quiet=True)
        return answers

    def close(self) -> None:
        """Stop the cluster if one was started, and remove the run directory."""
        if self._running:
            self.run("zkv-launch stop")
        elif self._tried:
            self._execute("zkv-launch stop")  # a start that hung may have left something
        shutil.rmtree(self._run_dir, ignore_errors=True)


def check(holds: bool, what: str, *, quiet: bool = False) -> None:
    """Print what was checked, or raise Unexpected."""
    if not holds:
        raise Unexpected(f"this does not hold: {what}")
    if not quiet:
        print(f"# {what}", flush=True)


def check_values(answers: dict[str, tuple[str, str]], latest: dict[str, str], dead: Iterable[str] = ()) -> None:
    """Every key read has its latest value, and none was read from a server that is dead."""
    values = {key: value for key, (value, _) in answers.items()}
    check(values == {key: latest[key] for key in answers}, "every key has its latest value")
    for name in dead:
        check(all(server != name for _, server in answers.values()), f"no key was read from {name}")


def same_trace(shell: Shell) -> tuple[dict[str, str], dict[str, str]]:
    """Put, get, overwrite; returns who acknowledged each key's last put, and who answered its last get."""
    put_by = {"key1": shell.put("key1", "value1")}
    got = shell.get("key1")["key1"]
    check(got == ("value1", put_by["key1"]), "key1 holds value1, read from the server that took it")
    put_by["key1"] = shell.put("key1", "value2")
    put_by["key2"] = shell.put("key2", "value3")
    put_by["key3"] = shell.put("key3", "value4")
    got_by = {}
    for key, value in (("key1", "value2"), ("key2", "value3"), ("key3", "value4")):
        got = shell.get(key)[key]
        check(got[0] == value, f"{key} holds {value}")
        got_by[key] = got[1]
    return put_by, got_by


def one_node(shell: Shell) -> None:
    """One node, one replica: overwritten values are gone, and there is only one place to be."""
    shell.start(1, 1)
    put_by, got_by = same_trace(shell)
    check({*put_by.values(), *got_by.values()} == {"server1"}, "all of it on server1")


def five_nodes(shell: Shell) -> None:
    """Five nodes, three replicas: keys spread over the servers, and each stays where it is."""
    shell.start(5, 3)
    put_by, got_by = same_trace(shell)
    for number in range(4, 9):
        key = f"key{number}"
        put_by[key] = shell.put(key, f"value{number + 1}")
        got_by[key] = shell.get(key)[key][1]
    check(put_by == got_by, "the server of a key is the same in put and get")
    check(len(set(put_by.values())) >= 3, f"{len(put_by)} keys are spread over {len(set(put_by.values()))} servers")


def three_nodes(shell: Shell) -> None:
    """Three nodes, two replicas: the server that holds three keys is killed."""
    shell.start(3, 2)
    latest: dict[str, str] = {}
    server_of: dict[str, str] = {}
    victim = ""
    while not victim:
        key = f"key{len(latest) + 1}"
        shell.put(key, f"old{len(latest) + 1}")
        latest[key] = f"new{len(latest) + 1}"
        server_of[key] = shell.put(key, latest[key])
        name, keys = Counter(server_of.values()).most_common(1)[0]
        victim = name if keys == 3 else ""
    check(True, f"three keys live on {victim}")
    shell.run(f"zkv-launch kill {victim}")
    for key in latest:
        check_values(shell.get(key), latest, [victim])


def _seven_nodes(shell: Shell) -> tuple[dict[str, str], list[str]]:
    """Seven nodes, 20 keys of which three are overwritten: returns the latest values and the two servers to kill."""
    shell.start(7, 3)
    latest = {f"key{number}": f"value{number}" for number in range(1, 21)}
    server_of = {key: shell.put(key, value) for key, value in latest.items()}
    check(len(set(server_of.values())) >= 4, f"20 keys are spread over {len(set(server_of.values()))} servers")
    for key in ("key3", "key11", "key20"):
        latest[key] = f"again{key.removeprefix('key')}"
        check(shell.put(key, latest[key]) == server_of[key], f"{key} is overwritten where it is")
    check_values(shell.get(*latest), latest)
    busiest = [name for name, _ in Counter(sorted(server_of.values())).most_common(2)]
    return latest, busiest


def _overwrite_all(shell: Shell, latest: dict[str, str], dead: list[str]) -> None:
    latest = {key: f"last{key.removeprefix('key')}" for key in latest}
    shell.run("zkv-client mput " + " ".join(f"{key}={value}" for key, value in latest.items()))
    check_values(shell.get(*latest), latest, dead)
    check(len(latest) == 20, "all 20 keys could be overwritten")


def seven_nodes_in_turn(shell: Shell) -> None:
    """Seven nodes, three replicas: two servers are killed, one after the other."""
    latest, victims = _seven_nodes(shell)
    for number, victim in enumerate(victims, start=1):
        shell.run(f"zkv-launch kill {victim}")
        check_values(shell.get(*latest), latest, victims[:number])
    _overwrite_all(shell, latest, victims)


def seven_nodes_at_once(shell: Shell) -> None:
    """Seven nodes, three replicas: two servers are killed at the same instant."""
    latest, victims = _seven_nodes(shell)
    shell.run(f"zkv-launch kill {' '.join(victims)}")
    check_values(shell.get(*latest), latest, victims)
    _overwrite_all(shell, latest, victims)


TRACES: dict[str, Callable[[Shell], None]] = {
    "one-node": one_node,
    "five-nodes": five_nodes,
    "three-nodes": three_nodes,
    "seven-nodes-in-turn": seven_nodes_in_turn,
    "seven-nodes-at-once": seven_nodes_at_once,
}


def play(name: str) -> bool:
    """Run one trace; returns whether all came out as expected."""
    trace = TRACES[name]
    print(f"## {name}: {(trace.__doc__ or '').splitlines()[0]}", flush=True)
    shell = Shell()
    try:
        try:
            trace(shell)
        finally:
            shell.close()
    except (Unexpected, subprocess.TimeoutExpired) as error:
        print(f"! {error}", flush=True)
        return False
    return True


def main() -> int:
    """Run the traces named on the command line, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which traces to run: {', '.join(TRACES)}")
    names = parser.parse_args().names
    for name in names:
        if name not in TRACES:
            parser.error(f"there is no trace {name!r}: there are {', '.join(TRACES)}")
    good = True
    for number, name in enumerate(names or TRACES):
        if number:
            print()
        good = play(name) and good
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
