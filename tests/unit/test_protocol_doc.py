"""docs/PROTOCOL.md says what the code does: its tables, test vectors and hex examples are read and compared."""

from __future__ import annotations

import importlib
import random
import re
from ast import literal_eval
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import xxhash

from zkv import values
from zkv.core import shardmap, wire
from zkv.core.client.calls import Call
from zkv.core.client.client import ClientCore
from zkv.core.manager.effects import Publish, Send
from zkv.core.manager.manager import Manager
from zkv.core.node import serving
from zkv.core.node.local import MANAGER, PUBLISH
from zkv.core.node.node import Node
from zkv.core.settings import ClusterSettings

TEXT: Final = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
CLUSTER: Final = 0xC1C2C3C4C5C6C7C8
MANAGER_BOOT: Final = 0x0A0A0A0A0A0A0A0A
CLIENT: Final = 0x0C0C0C0C0C0C0C0C
BOOTS: Final = {0x1111111111111111: "server1", 0x2222222222222222: "server2"}


def table(name: str) -> list[list[str]]:
    """The rows of the table marked `<!-- table: name -->`, without its head; code marks are taken off."""
    found = re.search(rf"<!-- table: {name} -->\n(?:\|.*\n){{2}}((?:\|.*\n)+)", TEXT)
    assert found, f"no table {name}"
    return [[cell.strip().strip("`") for cell in line.strip().strip("|").split("|")] for line in found[1].splitlines()]


def example(name: str) -> bytes:
    """The bytes of the block marked `<!-- example: name -->`; what follows a # is a comment."""
    found = re.search(rf"<!-- example: {name} -->\n```text\n(.*?)```", TEXT, re.DOTALL)
    assert found, f"no example {name}"
    return bytes.fromhex("".join(line.partition("#")[0] for line in found[1].splitlines()))


# --- a small cluster on a perfect network ---------------------------------------------------------------------------


class Sent(NamedTuple):
    """One frame that was sent."""

    sender: str
    kind: int
    frame: bytes


@cache
def conversation() -> list[Sent]:
    """All frames of a cluster of two nodes that forms, and of a client that puts one key; all clocks are the same."""
    settings = ClusterSettings(nodes=2, replicas=2, shards=4, scatter_width=1)
    now_ms = 1000.0
    manager = Manager(settings, MANAGER_BOOT, "tcp://127.0.0.1:5551", "tcp://127.0.0.1:5552", None, CLUSTER, now_ms)
    nodes = {
        boot: Node(name, boot, f"tcp://127.0.0.1:556{number}")
        for number, (boot, name) in enumerate(BOOTS.items(), start=1)
    }
    client = ClientCore(CLIENT, random.Random(1))
    inboxes: dict[int, list[tuple[Any, bytes]]] = {MANAGER: [], CLIENT: [], **{boot: [] for boot in nodes}}
    sent: list[Sent] = []

    def send(sender: int, name: str, to: Any, frame: bytes) -> None:
        """What a socket would do: a route leads back to the link of whoever asked, under the answerer's address."""
        sent.append(Sent(name, frame[3], frame))
        if isinstance(to, bytes):
            inboxes[int(to, 16)].append((sender, frame))
        elif to == PUBLISH:
            inboxes[MANAGER].append((b"", frame))
        else:
            inboxes[to].append((f"{sender:x}".encode(), frame))

    def drain(who: int) -> list[tuple[Any, bytes]]:
        frames, inboxes[who] = inboxes[who], []
        return frames

    call = None
    for turn in range(100):
        now_ms += 1.0
        for effect in manager.step(drain(MANAGER), now_ms):
            if isinstance(effect, Send):
                send(MANAGER, "manager", effect.route, effect.frame)
            elif isinstance(effect, Publish):
                sent.append(Sent("manager", effect.frame[3], effect.frame))
                for boot in nodes:
                    inboxes[boot].append((PUBLISH, effect.frame))
        for boot, node in nodes.items():
            for to, frame in node.step(drain(boot), now_ms):
                send(boot, node.name, to, frame)
        if call is None and turn > 20:
            assert all(len(node.serving.active) == 2 for node in nodes.values())
            call = client.submit(Call(wire.PUT, ["key1"], ["value1"], now_ms, now_ms + 5000))
        if call is not None:
            for to, frame in client.step(drain(CLIENT), now_ms):
                send(CLIENT, "client", to, frame)
            if call.done:
                assert call.failure is None
                return sent
    raise AssertionError("the put did not end")


def chosen(sender: str, kind: int, place: int = -1) -> bytes:
    """The frame at `place` among those of one kind from one sender."""
    return [one.frame for one in conversation() if one.sender == sender and one.kind == kind][place]


def to_client(kind: int) -> bytes:
    """The manager's answer to the client."""
    (frame,) = [
        one.frame
        for one in conversation()
        if one.kind == kind and one.sender == "manager" and wire.decode_header(one.frame).target == CLIENT
    ]
    return frame


# --- examples -------------------------------------------------------------------------------------------------------


def actual_examples() -> dict[str, bytes]:
    """What the code sends, by the names that the document uses."""
    return {
        "hello-manager": chosen("client", wire.HELLO, 0),
        "map": to_client(wire.MAP),
        "hello-node": chosen("client", wire.HELLO, 1),
        "hello-ack": chosen("server2", wire.HELLO_ACK),
        "request": chosen("client", wire.REQUEST),
        "batch": chosen("server2", wire.BATCH),
        "ack": chosen("server1", wire.ACK),
        "reply": chosen("server2", wire.REPLY),
    }


@pytest.mark.parametrize("name", re.findall(r"<!-- example: ([a-z-]+) -->", TEXT))
def test_hex_examples_are_what_the_code_sends(name: str) -> None:
    assert example(name).hex(" ") == actual_examples()[name].hex(" ")


def test_every_example_is_in_the_document() -> None:
    assert set(re.findall(r"<!-- example: ([a-z-]+) -->", TEXT)) == set(actual_examples())


def test_bodies_have_the_fields_that_the_document_names() -> None:
    fields = {row[1]: row[2] for row in table("kinds")}
    seen = set()
    for one in conversation():
        name = wire.KIND_NAMES[one.kind]
        body = wire.decode_body(one.frame, wire.HEADER.size + (wire.STREAM.size if one.kind == wire.BATCH else 0))
        said = fields[name]
        if said.startswith("[") and "…" not in said:
            assert len(body) == len(said.split(",")), name
            seen.add(name)
        elif said == "nil":
            assert body is None, name
        elif name == "JOIN":
            assert list(body) == said.strip("{}").split(", ")
    assert {"MAP", "MAP_DELTA", "WELCOME", "REQUEST", "REPLY", "ACK", "LEASE", "GRANT", "TAIL_PULL"} <= seen


# --- tables ---------------------------------------------------------------------------------------------------------


def test_header() -> None:
    sizes = {1: "B", 2: "2s", 8: "Q"}
    offset = 0
    layout = "<"
    for row in table("header"):
        assert int(row[0]) == offset
        offset += int(row[1])
        layout += sizes[int(row[1])]
    assert (layout, offset) == (wire.HEADER.format, wire.HEADER.size)
    assert wire.MAGIC.hex(" ") == "7a 6b"
    assert f"Protocol version {wire.PROTOCOL}." in TEXT


def test_kinds() -> None:
    assert {int(row[0]): row[1] for row in table("kinds")} == wire.KIND_NAMES


def test_operations() -> None:
    rows = {int(row[0]): row[1] for row in table("operations")}
    names = [name for name, value in vars(wire).items() if name.isupper() and isinstance(value, int)]
    operations = names[names.index("GET") : names.index("SCAN_KEYS")]
    assert {getattr(wire, name) for name in operations} == wire.OPERATIONS
    assert rows == {getattr(wire, name): name for name in operations}


def test_statuses() -> None:
    rows = {int(row[0]): row for row in table("statuses")}
    names = [name for name, value in vars(wire).items() if name.isupper() and isinstance(value, int)]
    statuses = names[names.index("OK") : names.index("BAD_REQUEST")]
    assert {code: row[1] for code, row in rows.items()} == {getattr(wire, name): name for name in statuses}
    assert {code for code, row in rows.items() if row[2] == "definite"} == wire.DEFINITE
    assert {code for code, row in rows.items() if row[2] == "done"} == wire.ANSWERS


def test_refusals() -> None:
    rows = {int(row[0]): row[1] for row in table("refusals")}
    assert rows == {getattr(wire, name): name for name in ("BAD_REQUEST", "WRONG_BOOT", "WRONG_CLUSTER")}


def test_parts() -> None:
    found = {value: name for name, value in vars(serving).items() if name.endswith("_PART") and type(value) is int}
    assert {int(row[0]): row[1] for row in table("parts")} == found


@pytest.mark.parametrize(("name", "pattern"), [("scans", "SCAN_[A-Z]+"), ("events", "[A-Z]+_EVENT")])
def test_modes_and_kinds(name: str, pattern: str) -> None:
    found = {value: key for key, value in vars(wire).items() if re.fullmatch(pattern, key)}
    assert {int(row[0]): row[1] for row in table(name)} == found


def test_member_states() -> None:
    rows = table("states")
    assert [row[1].lower() for row in rows] == list(shardmap.STATE_NAMES)
    assert all(getattr(shardmap, row[1]) == int(row[0]) for row in rows)


def test_limits() -> None:
    for what, value, home in table("limits"):
        module, _, name = home.rpartition(".")
        assert getattr(importlib.import_module(module), name) == int(value), what


# --- test vectors ---------------------------------------------------------------------------------------------------


def test_hashes() -> None:
    for key_text, packed, digest, of_1024, of_4 in table("hashes"):
        key = literal_eval(key_text)
        raw = key.encode() if isinstance(key, str) else key
        assert raw.hex() == packed
        assert f"{xxhash.xxh3_64_intdigest(raw):016x}" == digest
        assert shardmap.shard_of(key, 1024) == int(of_1024)
        assert shardmap.shard_of(key, 4) == int(of_4)


def test_values() -> None:
    for value_text, packed in table("values"):
        if value_text.startswith("numpy."):
            numpy = pytest.importorskip("numpy")
            value = {
                "numpy.array([1, 2], dtype='<i4')": numpy.array([1, 2], dtype="<i4"),
                "numpy.float64(0.5)": numpy.float64(0.5),
            }[value_text]
        else:
            value = literal_eval(value_text)
        assert wire.pack(values.encode(value)).hex(" ") == packed, value_text


def test_extension_codes() -> None:
    for code, name, _ in table("extensions"):
        assert getattr(values, name) == int(code)
    assert len(table("extensions")) == sum(name.startswith("CODE_") for name in vars(values))


def test_packed_column_in_the_text() -> None:
    assert "`" + wire.pack(wire.pack_u16([1, 2, 3])).hex(" ") + "`" in TEXT.replace("\n", " ")
