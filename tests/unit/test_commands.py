"""The command lines as far as they go without a cluster: help, settings, output formats, wrong usage."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from zkv.cli.options import Command, chosen, setting_options
from zkv.cli.render import as_json, as_text, byte_count, table
from zkv.cli.session import Session
from zkv.core.settings import ClusterSettings, NodeConfig, settings_of
from zkv.errors import LockLost, ManagerUnreachable, ShardUnavailable, TimedOut, TooLarge, UsageError, WrongType

COMMANDS = ("manager", "node", "client", "admin", "launch", "bench")


def command(name: str) -> click.Command:
    main = importlib.import_module(f"zkv.cli.{name}").main
    assert isinstance(main, click.Command)
    return main


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name: str) -> None:
    result = CliRunner().invoke(command(name), ["--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"  zkv-{name} " in result.output
    assert "Exit status: 0" in result.output


@pytest.mark.parametrize("name", ["status", "map", "events", "drain", "join", "rebalance", "advise", "reset-shards"])
def test_help_of_an_operators_commands_teaches(name: str) -> None:
    result = CliRunner().invoke(command("admin"), [name, "--help"])
    assert result.exit_code == 0
    assert f"  zkv-admin {name}" in result.output.split("Examples:")[1]
    assert "--json" in result.output


CLIENT_COMMANDS = (
    "put", "get", "delete", "exists", "cas", "getset", "incr", "append", "touch", "persist", "ttl",
    "mput", "mget", "mdelete", "keys", "scan", "count", "flush", "watch", "wait", "lock",
)  # fmt: skip


@pytest.mark.parametrize("name", CLIENT_COMMANDS)
def test_help_of_a_clients_commands_teaches(name: str) -> None:
    result = CliRunner().invoke(command("client"), [name, "--help"])
    assert result.exit_code == 0
    assert f"  zkv-client {name}" in result.output.split("Examples:")[1]
    assert "--json" in result.output
    assert all(len(line) <= 116 for line in result.output.splitlines())


def test_every_command_of_the_client_is_tested() -> None:
    main = command("client")
    assert isinstance(main, click.Group)
    assert tuple(main.commands) == CLIENT_COMMANDS


def test_every_setting_is_a_flag() -> None:
    result = CliRunner().invoke(command("manager"), ["--help"])
    for setting in settings_of(ClusterSettings):
        assert setting.flag in result.output
        assert setting.env is not None
        assert setting.env in result.output


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("manager", [], "state_dir"),
        ("manager", ["--in-memory", "--nodes", "2"], "replicas is 3, nodes is 2"),
        ("manager", ["--in-memory", "--lease-ms", "900"], "lease_ms is 900"),
        ("manager", ["--in-memory", "--shards", "many"], "--shards"),
        ("manager", ["--in-memory", "--bind", "here"], "tcp://HOST:PORT"),
        ("node", [], "--name"),
        ("node", ["--name", "a b"], "letters"),
        ("node", ["--name", "a", "--boot-id", "xyz"], "hexadecimal"),
        ("node", ["--name", "a", "--boot-id", "1"], "boot_id"),
        ("client", ["get"], "KEY"),
        ("client", ["get", "k", "more"], "more"),
        ("client", ["put", "k"], "VALUE"),
        ("client", ["mput", "k"], "KEY=VALUE"),
        ("client", ["conquer"], "conquer"),
        ("client", ["put", "k", "five", "--type", "int"], "'five' is no int value"),
        ("client", ["put", "k", "{", "--type", "json"], "is no json value (Expecting"),
        ("client", ["put", "k", "[" * 100_000, "--type", "json"], "is no json value"),
        ("client", ["put", "k", "1" * 5000, "--type", "int"], "…' is no int value"),
        ("client", ["mput", "a=1", "b=x", "--type", "float"], "'x' is no float value"),
        ("client", ["put", "k", "v", "--if-absent", "--if-present"], "choose one"),
        ("client", ["put", "k", "v", "--if-present", "--if-version", "0"], "choose one"),
        ("client", ["put", "k", "v", "--if-version", "-1"], "--if-version"),
        ("client", ["put", "k", "-5", "--josn"], "--josn"),
        ("client", ["put", "k", "--value"], "--value"),
        ("client", ["put", "k", "-v"], "-v"),
        ("client", ["cas", "k", "v"], "--version"),
        ("client", ["incr", "k", "much"], "'much' is no number"),
        ("client", ["incr", "k", "-1", "-2"], "-2"),
        ("client", ["append", "k", "v", "--type", "int"], "--type"),
        ("client", ["get", "k", "--read", "backup"], "--read"),
        ("client", ["wait"], "KEY"),
        ("client", ["lock", "job"], "COMMAND"),
        ("client", ["lock", "job", "--ttl", "0", "--", "true"], "--ttl"),
        ("client", ["lock", "job", "ls", "-l"], "-l"),
        ("client", ["--manager", "there", "get", "k"], "tcp://HOST:PORT"),
        ("client", ["get", "k", "--manager", "tcp://*:1"], "cannot be connected to"),
        ("client", ["get", "k", "--timeout", "0"], "--timeout"),
        ("admin", ["status", "--manager", "there"], "tcp://HOST:PORT"),
        ("admin", ["drain"], "NAME"),
        ("admin", ["reset-shards"], "--all-lost"),
        ("admin", ["reset-shards", "3", "--all-lost"], "--all-lost"),
        ("launch", ["start", "--autoscale", "3"], "MIN:MAX"),
        ("launch", ["start", "--autoscale", "4:3"], "MIN <= MAX"),
        ("launch", ["start", "--autoscale", "6:9"], "nodes is 5, it must be within autoscale, 6 to 9"),
        ("launch", ["start", "--weights", "1,x"], "weights"),
        ("launch", ["start", "--weights", "0"], "weight is 0"),
        ("launch", ["start", "--zones", "A,,B"], "empty zone"),
        ("launch", ["start", "--shard-map", "/no/such/file"], "cannot be read"),
        ("launch", ["add", "2", "--count", "3"], "not both"),
    ],
)
def test_wrong_usage(name: str, arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(command(name), arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not result.stdout


def test_flags_beat_the_environment_and_both_reach_the_settings() -> None:
    seen: list[Any] = []

    @click.command(cls=Command)
    @setting_options(NodeConfig, skip=("memory_limit_bytes",))
    @setting_options(ClusterSettings, skip=("shards",))
    def probe(**options: Any) -> None:
        seen.append((NodeConfig(**chosen(NodeConfig, options)), ClusterSettings(**chosen(ClusterSettings, options))))

    environment = {"ZKV_NODE_NAME": "server7", "ZKV_NODES": "9", "ZKV_REPLICAS": "4", "ZKV_SHARDS": "7"}
    arguments = ["--replicas", "2", "--weight", "2.5", "--boot-id", "00000001000000ff"]
    result = CliRunner().invoke(probe, arguments, env=environment)
    assert result.exit_code == 0, result.output
    node, cluster = seen[0]
    assert node == NodeConfig(name="server7", weight=2.5, boot_id=0x1000000FF, memory_limit_bytes=0)
    assert cluster == ClusterSettings(nodes=9, replicas=2)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UsageError("bad key"), 2, "bad key"),
        (ManagerUnreachable("no manager answers at tcp://x:1"), 3, "zkv-launch start"),
        (ShardUnavailable("shard 7 is lost"), 3, "zkv-admin status"),
        (TimedOut("too late"), 4, "may or may not"),
        (TimedOut("too late", outcome_unknown=False), 4, "too late"),
        (WrongType("no number"), 6, "no number; nothing was changed"),
        (TooLarge("too large"), 6, "nothing was changed"),
        (LockLost("lost"), 76, "lost"),
        (OSError("no\nspace"), 3, "no space"),
        (RuntimeError("oops"), 70, "RuntimeError: oops"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_error_is_one_line(error: BaseException, status: int, words: str) -> None:
    @click.command(cls=Command)
    def failing() -> None:
        raise error

    result = CliRunner().invoke(failing, env={"ZKV_DEBUG": ""})
    assert result.exit_code == status
    assert words in result.stderr
    assert result.stderr.count("\n") <= 1
    assert not result.stdout


@pytest.mark.parametrize(
    ("value", "text", "parsed"),
    [
        ("value1", "value1", "value1"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("red \x1b[31m", "red \\x1b[31m", "red \x1b[31m"),
        (b"value1", "value1", {"base64": "dmFsdWUx"}),
        (b"\xff\x00", "b'\\xff\\x00'", {"base64": "/wA="}),
        (b"a\x1b", "b'a\\x1b'", {"base64": "YRs="}),
        (7, "7", 7),
        (None, "None", None),
        (float("inf"), "inf", "inf"),
        ([1, (2, b"x")], "[1, (2, b'x')]", [1, [2, {"base64": "eA=="}]]),
        ({1: 2.5}, "{1: 2.5}", {"1": 2.5}),
        (np.arange(3), "array([0, 1, 2])", [0, 1, 2]),
    ],
)
def test_values_in_print(value: Any, text: str, parsed: Any) -> None:
    assert as_text(value) == text
    assert json.loads(as_json(value)) == parsed
    assert "\n" not in as_json(value)


def test_tables_and_sizes() -> None:
    assert table(("name", "n"), [("a", 1), ("long name", 10)]).split("\n") == [
        "name        n",
        "a           1",
        "long name  10",
    ]
    assert [byte_count(n) for n in (0, 1023, 1536, 2**30 * 5)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]


@pytest.mark.parametrize("as_json", [True, False])
def test_of_several_keys_those_that_failed_are_named(as_json: bool) -> None:
    """The others were done, and are shown."""

    @click.command(cls=Command)
    @click.pass_context
    def several(ctx: click.Context) -> None:
        session = Session(ctx, {"json_": as_json, "timeout": None, "manager": None})
        results = [1, ShardUnavailable("first", outcome_unknown=True), 2, TimedOut("second")]
        session.show_all(["a", "b", "c", "d"], results, lambda key, result: session.show(f"{key}, {result}", key=key))

    done = CliRunner().invoke(several)
    assert done.exit_code == 3
    assert done.stderr.startswith("failed: b, d\nError: first")
    if as_json:
        said = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(line["key"], line.get("error")) for line in said] == [
            ("a", None), ("b", "ShardUnavailable"), ("c", None), ("d", "TimedOut"),
        ]  # fmt: skip
        assert said[1] == {"key": "b", "ok": False, "error": "ShardUnavailable", "message": "first",
                           "outcome_unknown": True}  # fmt: skip
    else:
        assert done.stdout == "a, 1\nc, 2\n"


def test_the_client_command_is_lean() -> None:
    """It is started for each operation: what it does not need it does not import."""
    heavy = {"rich", "asyncio", "numpy", "sqlite3", "hypothesis", "importlib.metadata", "fractions", "logging",
             "subprocess"}  # fmt: skip
    code = "import sys, zkv.cli.client; from zkv.client import Client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert heavy.isdisjoint(loaded)
