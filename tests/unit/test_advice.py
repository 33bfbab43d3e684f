"""When more nodes are advised, when fewer, and that following the advice does not turn it round."""

from __future__ import annotations

from typing import Any

from zkv.core.load import Load
from zkv.core.manager.advice import advise
from zkv.core.shardmap import UP, Member

GIB = 2**30


def asked(loads: list[Load], copies: list[int] | None = None, replicas: int = 3) -> dict[str, Any]:
    nodes = [Member(n, f"server{n}", "tcp://h:1", "", 1.0, UP) for n in range(1, len(loads) + 1)]
    held = dict(enumerate(copies or [100] * len(loads), start=1))
    return advise(nodes, dict(enumerate(loads, start=1)), held, replicas)


def test_busy_nodes_want_company() -> None:
    advice = asked([Load(busy_permille=700), Load(busy_permille=820), Load(busy_permille=760)])
    assert (advice["advice"], advice["node"]) == ("add", None)
    assert advice["reason"] == "the nodes are busy for 76 % of the time on average"
    assert advice["figures"]["busy_permille"] == 760


def test_little_memory_wants_company() -> None:
    roomy, tight = Load(rss_bytes=GIB, free_bytes=8 * GIB), Load(rss_bytes=9 * GIB, free_bytes=GIB)
    advice = asked([roomy, tight, roomy])
    assert advice["advice"] == "add"
    assert advice["reason"] == "10 % of the memory that server2 could have is free"
    assert asked([roomy] * 3)["advice"] == "none"


def test_memory_limits_count_as_the_memory_there_is() -> None:
    roomy, tight, over = (Load(bytes=part, limit_bytes=100) for part in (50, 90, 110))
    assert asked([roomy, tight])["reason"] == "10 % of the memory that server2 could have is free"
    assert asked([roomy, over])["reason"] == "0 % of the memory that server2 could have is free"
    assert asked([roomy, roomy, roomy], replicas=1)["advice"] == "drain"
    assert asked([Load(bytes=60, limit_bytes=100)] * 3, replicas=1)["advice"] == "none", "90 % each would be left"


def test_idle_nodes_may_go_the_one_that_holds_least_first() -> None:
    advice = asked([Load(busy_permille=100)] * 5, [100, 90, 100, 90, 100])
    assert (advice["advice"], advice["node"]) == ("drain", "server2")
    assert advice["figures"]["busy_permille_with_one_less"] == 125


def test_never_fewer_nodes_than_copies() -> None:
    assert asked([Load()] * 3)["advice"] == "none"
    assert asked([Load()], replicas=1)["advice"] == "none"
    assert asked([Load()] * 2, replicas=1)["advice"] == "drain"


def test_nobody_goes_whose_data_has_no_room_elsewhere() -> None:
    full = Load(bytes=3 * GIB, rss_bytes=4 * GIB, free_bytes=GIB)
    assert asked([full] * 5)["advice"] == "none"


def test_nothing_is_advised_before_all_were_heard() -> None:
    nodes = [Member(n, f"server{n}", "tcp://h:1", "", 1.0, UP) for n in (1, 2)]
    assert advise(nodes, {1: Load(busy_permille=1000)}, {}, 1)["advice"] == "none"


def test_followed_advice_does_not_turn_round() -> None:
    """Work is what it is: it is shared by however many nodes there are."""
    for work in range(0, 20_000, 100):
        nodes = 4
        kinds = []
        for _ in range(40):
            advice = asked([Load(busy_permille=min(1000, work // nodes))] * nodes)["advice"]
            kinds.append(advice)
            nodes += {"add": 1, "drain": -1, "none": 0}[advice]
        assert not {"add", "drain"} <= set(kinds), f"{work} permille of work in all"
