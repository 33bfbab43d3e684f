"""What operators are shown: texts and bars from the manager's answers, and a whole screen of them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from zkv.cli.clusterview import (
    advice_text,
    event_line,
    loss_text,
    lost_shards,
    map_json,
    map_text,
    plan_text,
    shares,
    spans,
    status_text,
)
from zkv.cli.live import dashboard
from zkv.cli.meters import Meter, Meters
from zkv.core.shardmap import DEAD, DOWN, UP, Member, Shard, ShardMap


def node(name: str, primaries: int, backups: int, **other: Any) -> dict[str, Any]:
    usual = {
        "name": name, "endpoint": f"tcp://127.0.0.1:{5560 + int(name[-1])}", "state": "up", "zone": "", "weight": 1.0,
        "draining": False, "primaries": primaries, "backups": backups, "keys": 10, "bytes": 2048, "fill_left_keys": 0,
        "operations": 0, "busy_permille": 125, "rss_bytes": 0, "boot": f"{int(name[-1]):016x}",
        "limit_bytes": 0, "expiring_keys": 0, "expired": 0, "evicted": 0, "refused": 0, "lag_us": 0,
    }  # fmt: skip
    return {"placed_weight": (usual | other)["weight"], **usual, **other}


def status(*nodes: dict[str, Any], **other: Any) -> dict[str, Any]:
    usual = {
        "health": "healthy", "map_version": 7, "shards": 16, "replicas": 2, "expected_nodes": 2, "inactive_shards": 0,
        "lost_shards": 0, "withheld_shards": 0, "short_shards": 0, "draining": [], "resets": 0, "layout": None,
        "moving": {"shards": 0, "left_keys": 0, "fill_keys": 0, "fill_bytes": 0}, "nodes": list(nodes),
        "memory": {"bytes": 4096, "limit_bytes": 0, "over": [], "largest": "server1", "fits_after_loss": None},
    }  # fmt: skip
    return usual | other


def moving(shards: int, left: int, sent: int) -> dict[str, int]:
    return {"shards": shards, "left_keys": left, "fill_keys": sent, "fill_bytes": 0}


TWO = (node("server1", 8, 8), node("server2", 8, 8))


def test_a_healthy_cluster_is_told_in_few_words() -> None:
    assert status_text(status(*TWO)).split("\n") == [
        "healthy: 16 shards, 2 replicas, map version 7",
        "",
        "node     state  endpoint              zone  primaries  backups  keys  size     busy",
        "server1  up     tcp://127.0.0.1:5561  -             8        8    10  2.0 KiB  12 %",
        "server2  up     tcp://127.0.0.1:5562  -             8        8    10  2.0 KiB  12 %",
    ]


@pytest.mark.parametrize(
    ("changes", "remarks"),
    [
        ({"health": "forming", "expected_nodes": 3}, ["2 of 3 nodes have joined"]),
        ({"lost_shards": 2, "inactive_shards": 3, "short_shards": 2},
         ["2 shards are LOST: no copy is up (zkv-admin map shows who held them)", "1 shard is not served at present"]),
        ({"short_shards": 1}, ["1 shard has fewer copies than wanted"]),
        ({"moving": moving(3, 40, 2)}, ["3 shards are given new copies, 40 keys left to send"]),
        ({"memory": {"bytes": 3072, "limit_bytes": 8192, "over": [], "largest": "server2", "fits_after_loss": True}},
         ["memory: 3.0 KiB of 8.0 KiB; all copies would still fit after the loss of the largest node, server2"]),
        ({"nodes": [TWO[0], node("server2", 8, 8, bytes=3072, limit_bytes=2048)],
          "memory": {"bytes": 5120, "limit_bytes": 6144, "over": ["server2"], "largest": "server2",
                     "fits_after_loss": False}},
         ["server2 is OVER its memory limit: 3.0 KiB of 2.0 KiB",
          "memory: 5.0 KiB of 6.0 KiB; after the loss of the largest node, server2, NOT all copies would fit"]),
        ({"resets": 4}, ["4 shards are created anew, empty, since the cluster formed"]),
        ({"nodes": [TWO[0], node("server2", 1, 2, draining=True)]}, ["server2 is being drained: 3 copies left"]),
        ({"withheld_shards": 1,
          "layout": {"file": "/a/map.json", "accepted_ms": 0, "refused": "nonsense", "warnings": ["1 without holder"]}},
         ["/a/map.json places the shards", "its last edit is REFUSED, the map stays: nonsense", "1 without holder"]),
    ],
)  # fmt: skip
def test_what_is_not_as_usual_is_said(changes: dict[str, Any], remarks: list[str]) -> None:
    assert status_text(status(*TWO) | changes).split("\n\n")[0].split("\n")[1:] == remarks


def test_rare_columns_are_shown_where_they_say_something() -> None:
    text = status_text(status(TWO[0], node("server2", 0, 0, weight=2.0, fill_left_keys=7, draining=True)))
    head, *_, last = text.split("\n\n")[1].split("\n")
    assert head.split() == ["node", "state", "endpoint", "zone", "weight", "primaries", "backups", "keys", "size",
                            "to", "send", "busy"]  # fmt: skip
    assert last.split()[:5] == ["server2", "draining", "tcp://127.0.0.1:5562", "-", "2.0"]


def test_limits_evictions_and_refusals_are_columns_where_there_are_any() -> None:
    limited = node("server2", 8, 8, bytes=3072, limit_bytes=2048, refused=3)
    head, first, last = status_text(status(node("server1", 8, 8, evicted=7), limited)).split("\n\n")[1].split("\n")
    assert head.split()[-5:] == ["size", "limit", "evicted", "refused", "busy"]
    assert first.split()[-5:] == ["-", "7", "0", "12", "%"]
    assert "3.0 KiB  2.0 KiB (150 %, OVER)        0        3  12 %" in last


def test_shares_follow_weights_and_nobody_holds_a_shard_twice() -> None:
    nodes = [node("server1", 0, 0), node("server2", 0, 0), node("server3", 0, 0, weight=2.0)]
    assert shares(status(*nodes)) == {"server1": 8, "server2": 8, "server3": 16}
    assert shares(status(*nodes[:2], node("server3", 0, 0, draining=True))) == {"server1": 16, "server2": 16}


MEMBERS = {
    boot: Member(boot, f"server{boot}", f"tcp://h:{boot}", "", 1.0, state)
    for boot, state in ((1, UP), (2, UP), (3, DOWN), (4, DEAD))
}
MAP = ShardMap(9, 7, MEMBERS, (
    Shard(1, 1, (1, 2)), Shard(1, 1, (1, 2)), Shard(2, 5, (2, 1), learners=(3,)), Shard(3, 6, (1, 2), withheld=True),
    Shard(4, 6, (4, 3)), Shard(1, 1, (2, 4)), Shard(4, 6, (4, 3)),
))  # fmt: skip


def test_a_map_shows_who_fills_who_is_gone_and_what_is_withheld() -> None:
    assert map_text(MAP).split("\n") == [
        "map version 7, 7 shards",
        "shards  epoch  replicas",
        "0-1         1  server1, server2",
        "2           2  server2, server1, server3 (filling)",
        "3           3  nobody (withheld; kept by server1, server2)",
        "4           4  server4 (dead), server3 (down)",
        "5           1  server2, server4 (dead)",
        "6           4  server4 (dead), server3 (down)",
    ]
    shards = map_json(MAP)["shards"]
    assert shards[2] == {
        "shard": 2, "epoch": 2, "replicas": ["server2", "server1"], "learners": ["server3"], "withheld": False,
    }  # fmt: skip


def test_a_reset_says_exactly_what_is_lost() -> None:
    assert lost_shards(MAP) == [4, 6]
    assert loss_text(MAP, [4, 6]).split("\n") == [
        "All keys of 2 shards (28.6 % of all keys) will be lost for ever:",
        "  4, 6: held by server4 (dead), server3 (down)",
    ]


def test_spans() -> None:
    assert spans([3, 1, 2, 7]) == "1-3, 7"
    assert spans(list(range(0, 100, 2)), shown=2) == "0, 2, …"


def test_moves_are_summed_up_by_giver_and_taker() -> None:
    def move(givers: list[str], takers: list[str], keys: int, size: int) -> dict[str, Any]:
        return {"shard": 0, "from": givers, "to": takers, "keys": keys, "bytes": size}

    moves = [move(["a"], ["c"], 5, 1024), move(["a"], ["c"], 5, 1024), move([], ["c"], 4, 10), move(["b"], [], 0, 0)]
    plan = {"moves": moves, "copies": 3, "primaries": 1, "keys": 14, "bytes": 2058, "balanced": False, "bound": {}}
    assert plan_text(plan, begun=False).split("\n") == [
        "Would move 3 copies (14 keys, 2.0 KiB), and change 1 primary.",
        "",
        "from  to  copies  keys  size",
        "-     c        1     4  10 B",
        "a     c        2    10  2.0 KiB",
        "b     -        1     0  0 B",
    ]
    assert plan_text(plan, begun=True).startswith("Moving 3 copies (14 keys, 2.0 KiB), changing 1 primary.")
    none = plan | {"moves": [], "balanced": True, "bound": {"copies": 0.5, "primaries": 2.0}}
    assert plan_text(none, begun=False).split("\n") == [
        "Nothing to move: every copy is where it should be.",
        "No placement brings every node nearer to its share than 2 primaries.",
    ]


def test_advice_and_events() -> None:
    figures = {"nodes": 3, "bytes": 2048, "replicas": 2, "busy_permille": 801}
    answer = {"advice": "add", "node": None, "reason": "too busy", "figures": figures}
    assert advice_text(answer) == "add a node: too busy\n3 nodes hold 2.0 KiB, with 2 replicas; 80.1 % busy on average"
    drain = {"advice": "drain", "node": "server2", "reason": "idle", "figures": {}}
    assert advice_text(drain) == "drain server2: idle"
    line = event_line({"number": 3, "time_ms": 1_700_000_000_123, "kind": "join", "text": "server1 joins"})
    assert line.endswith(".123  join            server1 joins")


# --- bars ---------------------------------------------------------------------------------------------------------


def test_bars_run_from_what_there_was_to_do_when_first_seen() -> None:
    meters = Meters()
    assert meters.update(status(*TWO)) == []
    assert meters.update(status(*TWO, short_shards=10)) == [Meter("missing copies made (shards)", 0, 10)]
    assert meters.update(status(*TWO, short_shards=4)) == [Meter("missing copies made (shards)", 6, 10)]
    assert meters.update(status(*TWO)) == []
    assert meters.update(status(*TWO, short_shards=3)) == [Meter("missing copies made (shards)", 0, 3)]


def test_bars_of_drains_joins_and_keys() -> None:
    meters = Meters()
    meters.update(status(*TWO, moving=moving(0, 0, 100)))
    leaving = node("server2", 4, 4, draining=True)
    assert meters.update(status(TWO[0], leaving, moving=moving(2, 30, 120))) == [
        Meter("server2 emptied (copies)", 0, 8),
        Meter("2 shards filled (keys)", 20, 50),
    ]
    # server3 has come: it lacks most of its 10.67 copies.
    assert meters.update(status(*TWO, node("server3", 0, 2), moving=moving(1, 0, 150))) == [
        Meter("server3 given its share (copies)", 0, 9),
        Meter("1 shard filled (keys)", 50, 50),
    ]


def test_a_screen() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    event = {"number": 1, "time_ms": 0, "kind": "join", "text": "server1 [bold] joins"}
    console.print(dashboard(status(*TWO, short_shards=2), [Meter("server2 emptied (copies)", 3, 8)], [event]))
    text = out.getvalue()
    for words in ("healthy: 16 shards", "2 shards have fewer", "tcp://127.0.0.1:5562", "3 of 8", "server1 [bold]"):
        assert words in text
