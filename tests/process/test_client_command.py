"""`zkv-client` against a cluster: what it prints, what it says when something does not hold, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.support import (
    WAIT_S,
    cluster_of_module,
    command,
    environment,
    eventually,
    gone,
    marked_processes,
    run,
    succeed,
)
from zkv import Client, LocalCluster

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="looks for processes as Linux shows them"),
]

LOCK_KEY = "zkv:lock:job"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One for all tests here: each uses keys of its own."""
    with cluster_of_module(tmp_path_factory, nodes=3, replicas=2, shards=16) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: LocalCluster) -> Iterator[None]:
    """Instead of the check that conftest.py makes after each test: the cluster's processes stay."""
    before = set(marked_processes())
    yield
    left = {pid: line for pid, line in marked_processes().items() if pid not in before and not gone(pid, 5.0)}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"processes are left: {left}"


@pytest.fixture
def kv(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client(timeout_s=WAIT_S) as kv:
        yield kv
        for prefix in ("", b""):
            kv.flush(prefix)


class Shell:
    """`zkv-client` for one cluster."""

    def __init__(self, manager: str) -> None:
        self.manager = manager

    def __call__(self, *arguments: str) -> str:
        """What it prints; it must succeed."""
        return succeed("client", *arguments, ZKV_MANAGER=self.manager, ZKV_TIMEOUT=str(WAIT_S))

    def json(self, *arguments: str) -> Any:
        return json.loads(self("--json", *arguments))

    def fails(self, status: int, *arguments: str) -> str:
        """What it prints on stderr; it must end with `status`."""
        done = run("client", *arguments, ZKV_MANAGER=self.manager, ZKV_TIMEOUT=str(WAIT_S))
        assert done.returncode == status, done.stderr
        assert done.stdout == ""
        return done.stderr

    def json_of_failure(self, status: int, *arguments: str) -> Any:
        """The object that it prints on stdout; there is a line for people on stderr all the same."""
        done = run("client", "--json", *arguments, ZKV_MANAGER=self.manager, ZKV_TIMEOUT=str(WAIT_S))
        assert done.returncode == status, done.stderr
        assert done.stderr.count("\n") == 1
        return json.loads(done.stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """It, running, with its output in pipes."""
        extra = {"ZKV_MANAGER": self.manager, "ZKV_TIMEOUT": str(WAIT_S)}
        return subprocess.Popen(
            command("client", *arguments), env=environment(**extra), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@pytest.fixture
def shell(cluster: LocalCluster, kv: Client) -> Shell:
    return Shell(cluster.manager)


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("5", "str", "5"),
        ("-5", "str", "-5"),
        ("-5", "int", -5),
        ("2.5", "float", 2.5),
        ("-1e3", "float", -1000.0),
        ("text", "bytes", b"text"),
        ('{"name": "Ada", "tags": [1, null, true]}', "json", {"name": "Ada", "tags": [1, None, True]}),
    ],
)
def test_words_become_values(shell: Shell, kv: Client, text: str, kind: str, value: Any) -> None:
    assert re.fullmatch(r"OK, server[123]\n", shell("put", "key1", text, "--type", kind))
    stored = kv.get("key1")
    assert (type(stored), stored) == (type(value), value)


def test_type_is_the_same_for_all_that_store(shell: Shell, kv: Client) -> None:
    shell("mput", "a=1", "b=-2", "--type", "int")
    assert kv.mget(["a", "b"]) == [1, -2]
    assert shell("getset", "a", "7", "--type", "int") == "a, 1\n"
    version = kv.put("a", 8).version
    shell("cas", "a", "9.5", "--type", "float", "--version", str(version))
    assert kv.get("a") == 9.5


def test_number_that_is_put_is_counted(shell: Shell) -> None:
    shell("put", "n", "5", "--type", "int")
    assert shell("incr", "n") == "n, 6\n"
    assert shell("incr", "n", "-10") == "n, -4\n"
    assert shell("incr", "n", "-.5", "--json") == '{"key": "n", "ok": true, "value": -4.5}\n'
    assert shell("incr", "n", "--", "-0.5") == "n, -5.0\n"
    assert shell("incr", "new", "3") == "new, 3\n"


def test_get_shows_types_and_versions_when_asked(shell: Shell, kv: Client) -> None:
    put = kv.put("n", 5)
    assert shell("get", "n") == f"n, 5, {put.server}\n"
    assert shell("get", "n", "--verbose") == f"n, 5, {put.server}, int, version {put.version}\n"
    expected = {"key": "n", "found": True, "value": 5, "server": put.server, "version": put.version}
    assert shell.json("get", "n") == expected
    for read in ("primary", "any", "stale"):
        assert shell("get", "n", "--read", read).startswith("n, 5, server")


def test_mget_keeps_the_order_and_says_what_is_missing(shell: Shell, kv: Client) -> None:
    kv.mput({"a": 1, "b": "two"})
    for read in ("primary", "any"):
        done = run("client", "mget", "b", "none", "a", "--read", read, ZKV_MANAGER=shell.manager)
        assert re.fullmatch(r"b, two, server[123]\na, 1, server[123]\n", done.stdout)
        assert (done.returncode, done.stderr) == (1, "none: no such key\n")


def test_append(shell: Shell, kv: Client) -> None:
    assert shell("append", "log", "one ") == "log, 4\n"
    assert shell.json("append", "log", "two") == {"key": "log", "ok": True, "length": 7}
    shell("append", "raw", "x", "--type", "bytes")
    assert kv.mget(["log", "raw"]) == ["one two", b"x"]


def test_getset_where_there_was_nothing(shell: Shell, kv: Client) -> None:
    done = run("client", "getset", "shift", "day", ZKV_MANAGER=shell.manager)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "shift: there was no value\n")
    kv.put("shift", None)  # a value too
    assert shell.json("getset", "shift", "night") == {"key": "shift", "ok": True, "found": True, "value": None}


def test_mdelete(shell: Shell, kv: Client) -> None:
    kv.mput({"a": 1, "b": 2, "c": 3})
    assert re.fullmatch(r"a, OK, server[123]\nb, OK, server[123]\n", shell("mdelete", "a", "b"))
    done = run("client", "mdelete", "c", "none", ZKV_MANAGER=shell.manager)
    assert re.fullmatch(r"c, OK, server[123]\n", done.stdout)
    assert (done.returncode, done.stderr) == (1, "none: no such key\n")
    assert kv.keys() == []


# --- what does not hold -------------------------------------------------------------------------------------------


def test_conditions(shell: Shell, kv: Client) -> None:
    assert shell.fails(5, "put", "key1", "x", "--if-present") == "key1: no such key; nothing was changed\n"
    version = shell.json("put", "key1", "first", "--if-absent")["version"]
    assert "exists already" in shell.fails(5, "put", "key1", "x", "--if-absent")
    assert "exists already" in shell.fails(5, "cas", "key1", "x", "--version", "0")
    shell("put", "key1", "second", "--if-present")
    for arguments in (["put", "key1", "x", "--if-version"], ["cas", "key1", "x", "--version"],
                      ["delete", "key1", "--if-version"]):  # fmt: skip
        assert f"its version is not {version}; nothing was changed" in shell.fails(5, *arguments, str(version))
    assert kv.get("key1") == "second"
    newest = str(shell.json("get", "key1")["version"])
    newest = str(shell.json("cas", "key1", "third", "--version", newest)["version"])
    newest = str(shell.json("put", "key1", "fourth", "--if-version", newest)["version"])
    assert shell("delete", "key1", "--if-version", newest).startswith("OK, server")


def test_conditions_for_programs(shell: Shell, kv: Client) -> None:
    kv.put("key1", "value1")
    said = shell.json_of_failure(5, "put", "key1", "x", "--if-absent")
    assert said == {"key": "key1", "ok": False, "condition": "if_absent"}
    said = shell.json_of_failure(5, "delete", "key1", "--if-version", "1")
    assert said == {"key": "key1", "ok": False, "condition": "if_version"}
    assert shell.json_of_failure(1, "get", "none") == {"key": "none", "found": False}


def test_values_that_do_not_allow_it(shell: Shell, kv: Client) -> None:
    kv.mput({"word": "five", "large": 2**64 - 1, "n": 5})
    assert "'word' is no number" in shell.fails(6, "incr", "word")
    assert "'n' is no str" in shell.fails(6, "append", "n", "x")
    assert "'word' is no bytes" in shell.fails(6, "append", "word", "x", "--type", "bytes")
    assert "'large' would become too large" in shell.fails(6, "incr", "large")
    said = shell.json_of_failure(6, "incr", "word")
    assert (said["key"], said["ok"], said["error"], said["outcome_unknown"]) == ("word", False, "WrongType", False)
    assert kv.mget(["word", "n"]) == ["five", 5]


def test_errors_for_programs(shell: Shell) -> None:
    nobody = ("--manager", "tcp://127.0.0.1:1", "--timeout", "0.2")
    for arguments in (["get", "key1"], ["put", "key1", "x"], ["mput", "key1=x"], ["mget", "key1"]):
        said = shell.json_of_failure(3, *arguments, *nobody)
        assert (said["ok"], said["error"], said["outcome_unknown"]) == (False, "ManagerUnreachable", False)
    said = shell.json_of_failure(2, "get", "k" * 5000)
    assert (said["ok"], said["error"]) == (False, "UsageError")


# --- listing and waiting ------------------------------------------------------------------------------------------


def test_keys(shell: Shell, kv: Client) -> None:
    stored: dict[str | bytes, int] = {"user:1": 1, "user:2": 2, "other": 3, b"user:3": 4}
    kv.mput(stored)
    assert sorted(shell("keys", "user:").split()) == ["user:1", "user:2"]
    assert len(shell("keys").split()) == 3
    assert shell("keys", "user:", "--bytes") == "user:3\n"
    assert shell("keys", "none:") == ""
    assert shell("keys", "--count") == "3\n"
    assert shell.json("keys", "user:", "--count") == {"prefix": "user:", "count": 2}
    lines = shell("keys", "user:", "--json").splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == ["user:1", "user:2"]


def test_reader_of_many_keys_goes_away(shell: Shell, kv: Client) -> None:
    kv.mput({f"{number:05}{'x' * 100}": 1 for number in range(5000)})
    assert shell("keys", "--count") == "5000\n"
    with shell.start("keys") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().endswith("x\n")
        process.stdout.close()  # as `head` does
        assert process.stderr.read() == ""


def test_wait(shell: Shell, kv: Client) -> None:
    kv.put("a", 1)
    with shell.start("wait", "a", "b", "--timeout", "inf") as process:
        kv.put("b", 2)
        assert process.communicate(timeout=WAIT_S) == ("OK\n", "")
    assert process.returncode == 0
    assert shell.json("wait", "a", "b") == {"keys": ["a", "b"], "ok": True}


def test_wait_in_vain(shell: Shell) -> None:
    assert "may or may not" not in shell.fails(4, "wait", "none", "--timeout", "0.05")
    said = shell.json_of_failure(4, "wait", "none", "--timeout", "0.05")
    assert (said["keys"], said["ok"], said["error"]) == (["none"], False, "TimedOut")


# --- how long keys live -------------------------------------------------------------------------------------------


def test_keys_that_expire(shell: Shell, kv: Client) -> None:
    shell("put", "key1", "value1", "--ttl", "3600")
    assert re.fullmatch(r"key1, 3(599\.\d{3}|600\.000) s\n", shell("ttl", "key1"))
    assert 3500 < shell.json("ttl", "key1")["ttl_s"] <= 3600
    assert re.fullmatch(r"OK, server[123]\n", shell("persist", "key1"))
    assert shell("ttl", "key1") == "key1, never expires\n"
    assert shell.json("ttl", "key1") == {"key": "key1", "found": True, "ttl_s": None}
    touched = shell.json("touch", "key1", "--ttl", "0.001")
    assert (touched["key"], touched["ok"]) == ("key1", True)
    eventually(lambda: not kv.exists("key1"), "the key expires")
    for arguments in (["ttl", "key1"], ["touch", "key1", "--ttl", "5"], ["persist", "key1"]):
        assert shell.fails(1, *arguments) == "key1: no such key\n"
        assert shell.json_of_failure(1, *arguments) == {"key": "key1", "found": False}


def test_every_command_that_takes_a_time_to_live(shell: Shell, kv: Client) -> None:
    shell("mput", "a=1", "b=2", "--ttl", "3600")
    shell("put", "c", "3", "--if-absent", "--ttl", "3600")
    version = str(kv.put("d", 4).version)
    shell("cas", "d", "5", "--version", version, "--ttl", "3600")
    kv.put("e", 5)
    shell("getset", "e", "6", "--ttl", "3600")
    assert all(0 < (kv.ttl(key) or 0) <= 3600 for key in "abcde")
    assert "--ttl" in shell.fails(2, "put", "key1", "x", "--ttl", "0")
    assert "--ttl" in shell.fails(2, "touch", "key1")


# --- everything with a prefix -------------------------------------------------------------------------------------


def test_scan_and_count(shell: Shell, kv: Client) -> None:
    stored: dict[str | bytes, Any] = {"user:1": "Ada", "user:2": [1, None], "other": 3, b"user:3": 4}
    kv.mput(stored)
    assert sorted(shell("scan", "user:").splitlines()) == ["user:1, Ada", "user:2, [1, None]"]
    assert sorted(shell("scan", "user:", "--keys-only").split()) == ["user:1", "user:2"]
    assert shell("scan", "user:", "--bytes") == "user:3, 4\n"
    assert len(shell("scan").splitlines()) == 3
    entry = kv.entry("other")
    assert entry is not None
    said = {"key": "other", "value": 3, "version": entry.version, "server": entry.server}
    assert shell.json("scan", "other") == said
    assert shell.json("scan", "other", "--keys-only") == {"key": "other"}
    assert (shell("count"), shell("count", "user:"), shell("count", "none:")) == ("3\n", "2\n", "0\n")
    assert shell.json("count", "user:", "--bytes") == {"prefix": {"base64": "dXNlcjo="}, "count": 1}


def test_flush(shell: Shell, kv: Client) -> None:
    stored: dict[str | bytes, Any] = {"tmp:1": 1, "tmp:2": 2, "other": 3, b"tmp:3": 4, b"other": 5}
    kv.mput(stored)
    assert "repeat it with --yes to delete 2 keys" in shell.fails(2, "flush", "tmp:")
    assert "--all" in shell.fails(2, "flush")
    assert "not both" in shell.fails(2, "flush", "tmp:", "--all", "--yes")
    assert shell("flush", "tmp:", "--yes") == "2 keys deleted\n"
    assert sorted(map(str, (*kv.keys(), *kv.keys(b"")))) == ["b'other'", "b'tmp:3'", "other"]
    assert shell.json("flush", "tmp:", "--bytes", "--yes") == {
        "prefix": {"base64": "dG1wOg=="}, "ok": True, "deleted": 1,
    }  # fmt: skip
    assert "delete 2 keys" in shell.fails(2, "flush", "--all")
    assert shell("flush", "--all", "--yes") == "2 keys deleted\n"
    assert (kv.count(), kv.count(b"")) == (0, 0)


@pytest.mark.parametrize(("answer", "said", "status"), [("y", "2 keys deleted", 0), ("n", "Nothing was deleted", 130)])
def test_flush_asks_on_a_terminal(shell: Shell, kv: Client, answer: str, said: str, status: int) -> None:
    kv.mput({"tmp:1": 1, "tmp:2": 2})
    controller, terminal = os.openpty()
    try:
        done = subprocess.run(
            command("client", "flush", "tmp:"), env=environment(ZKV_MANAGER=shell.manager), stdin=terminal,
            stdout=subprocess.PIPE, text=True, timeout=WAIT_S, check=False,
            preexec_fn=lambda: os.write(controller, f"{answer}\n".encode()),
        )  # fmt: skip
    finally:
        os.close(controller)
        os.close(terminal)
    assert "Delete 2 keys that begin with tmp:?" in done.stdout
    assert said in done.stdout
    assert done.returncode == status
    assert kv.count("tmp:") == (0 if status == 0 else 2)


def begun(process: subprocess.Popen[str], what: str) -> None:
    assert process.stderr is not None
    assert process.stderr.readline() == f"watching {what}; Ctrl-C ends it\n"


def test_watch(shell: Shell, kv: Client) -> None:
    with shell.start("watch", "user:") as process:
        begun(process, "keys that begin with user:")
        kv.put("user:1", {"a": 1})
        kv.put("other", 1)
        kv.delete("user:1")
        assert process.stdout is not None
        assert process.stdout.readline() == "put, user:1, {'a': 1}\n"  # each line at once
        assert process.stdout.readline() == "delete, user:1\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=WAIT_S) == ("", "")
    assert process.returncode == 0


def test_watch_for_programs(shell: Shell, kv: Client) -> None:
    with shell.start("watch", "--json", "--count", "2", "--bytes") as process:
        begun(process, "all keys")
        put = kv.put(b"key", 5, ttl_s=0.05)
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    key = {"base64": "a2V5"}
    assert first == {"event": "put", "key": key, "value": 5, "version": put.version}
    assert (second["event"], second["key"], second["version"] > put.version) == ("expire", key, True)
    assert "value" not in second


def test_reader_of_a_watch_goes_away(shell: Shell, kv: Client) -> None:
    with shell.start("watch") as process:
        begun(process, "all keys")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        eventually(lambda: [kv.put("key", 1), process.poll() is not None][-1], "it notices")
        assert process.stderr.read() == ""


# --- locks --------------------------------------------------------------------------------------------------------

PRINT_TOKEN = (sys.executable, "-c", "import os; print(os.environ['ZKV_LOCK_TOKEN'])")
CAT = (sys.executable, "-c", "import sys; print('runs', flush=True); sys.stdin.read()")
"""Says that it runs, and ends when its standard input does."""


def hold(shell: Shell, *arguments: str) -> subprocess.Popen[str]:
    """`zkv-client lock job` with a command that runs until its standard input ends."""
    process = subprocess.Popen(
        command("client", "lock", "job", *arguments, "--", *CAT),
        env=environment(ZKV_MANAGER=shell.manager, ZKV_TIMEOUT=str(WAIT_S)), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "runs\n"
    return process


def test_command_under_a_lock(shell: Shell, kv: Client) -> None:
    first, second = (int(shell("lock", "job", "--", *PRINT_TOKEN)) for _ in range(2))
    assert 0 < first < second
    assert not kv.exists(LOCK_KEY)
    lines = shell("lock", "job", "--json", "--", *PRINT_TOKEN).splitlines()
    assert json.loads(lines[1]) == {"lock": "job", "ok": True, "token": int(lines[0]), "status": 0}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--", "sh", "-c", "exit 7"], 7),
        (["--", "sh", "-c", "kill -KILL $$"], 137),
        (["true"], 0),  # without options of its own no -- is needed
    ],
)
def test_exit_status_is_that_of_the_command(shell: Shell, kv: Client, arguments: list[str], status: int) -> None:
    assert shell.fails(status, "lock", "job", *arguments) == ""
    assert not kv.exists(LOCK_KEY)


def test_command_that_cannot_be_run(shell: Shell, kv: Client, tmp_path: Path) -> None:
    assert "cannot be run" in shell.fails(127, "lock", "job", "--", str(tmp_path / "none"))
    assert "cannot be run" in shell.fails(126, "lock", "job", "--", str(tmp_path))
    assert not kv.exists(LOCK_KEY)


def test_lock_that_somebody_holds(shell: Shell, kv: Client, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with kv.lock("job", ttl_s=600):
        said = shell.fails(75, "lock", "job", "--wait", "0", "--", "touch", str(trace))
        assert "'job' was not free within 0 s: the command was not run" in said
        fields = shell.json_of_failure(75, "lock", "job", "--wait", "0.01", "--", "touch", str(trace))
        assert (fields["lock"], fields["ok"], fields["error"]) == ("job", False, "TimedOut")
        assert not trace.exists()
    shell("lock", "job", "--wait", "0", "--", "touch", str(trace))
    assert trace.exists()
    nobody = ("--manager", "tcp://127.0.0.1:1", "--timeout", "0.2")
    assert "no manager answers" in shell.fails(75, "lock", "job", *nobody, "--", "true")


def test_lock_is_waited_for(shell: Shell, kv: Client) -> None:
    with kv.lock("job", ttl_s=600) as lock:
        waiting = shell.start("lock", "job", "--wait", "inf", "--", *PRINT_TOKEN)
        token = lock.token
    with waiting:
        out, _ = waiting.communicate(timeout=WAIT_S)
    assert token is not None
    assert int(out) > token


def test_lock_is_renewed(shell: Shell, kv: Client) -> None:
    with hold(shell, "--ttl", "6") as process:
        versions = set()

        def renewed_twice() -> bool:
            entry = kv.entry(LOCK_KEY)
            versions.add(entry.version if entry else 0)
            return len(versions) > 2

        eventually(renewed_twice, "the lock is renewed twice")
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert not kv.exists(LOCK_KEY)


def test_lock_that_is_lost(shell: Shell, kv: Client) -> None:
    with hold(shell, "--ttl", "1.5", "--json") as process:
        kv.put(LOCK_KEY, ["somebody else", 600.0])
        # Its standard input stays open: only the signal ends the command.
        assert process.wait(timeout=WAIT_S) == 76
        assert process.stdout is not None
        assert process.stderr is not None
        said = json.loads(process.stdout.read())
        assert "is not ours any more" in process.stderr.read()
    assert (said["ok"], said["error"], said["status"]) == (False, "LockLost", 128 + signal.SIGTERM)
    assert kv.get(LOCK_KEY) == ["somebody else", 600.0]


def test_lock_whose_loss_shows_at_the_end(shell: Shell, kv: Client) -> None:
    with hold(shell, "--ttl", "600") as process:
        kv.put(LOCK_KEY, ["somebody else", 600.0])
        _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 76
    assert "is not ours any more" in said
    assert kv.get(LOCK_KEY) == ["somebody else", 600.0]


def test_lock_that_nobody_can_renew() -> None:
    alone = LocalCluster(nodes=1, replicas=1, shards=16)
    with alone, hold(Shell(alone.manager), "--ttl", "2") as process:
        alone.kill("server1")
        assert process.wait(timeout=WAIT_S) == 76
        assert process.stderr is not None
        assert "could not be renewed within its 2 s" in process.stderr.read()


def test_signals_reach_the_command(shell: Shell, kv: Client) -> None:
    with hold(shell) as process:
        process.terminate()
        assert process.wait(timeout=WAIT_S) == 128 + signal.SIGTERM
    assert not kv.exists(LOCK_KEY)


def test_ctrl_c_ends_the_command_and_gives_the_lock_back(shell: Shell, kv: Client) -> None:
    with hold(shell) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(timeout=WAIT_S) == 128 + signal.SIGINT
    assert not kv.exists(LOCK_KEY)
