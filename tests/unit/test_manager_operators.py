"""What operators ask for, and what the manager does about loss, placement files, clients and flapping links."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest

from tests.unit.manager_world import World, boot_of, told
from zkv.core import wire
from zkv.core.load import Load
from zkv.core.manager.steering import LEISURE_BEATS

AT_LEISURE_MS = 100 * LEISURE_BEATS
"""In this time shards that have all their copies change once."""


def leads(world: World) -> Counter[str]:
    return Counter(world.names[shard.primary] for shard in world.manager.map.shards)


# --- ADMIN ----------------------------------------------------------------------------------------------------------


def test_a_verb_that_nobody_knows_is_refused() -> None:
    world = World()
    assert world.admin("dance").startswith("refused: a manager knows no 'dance': it knows advise, drain, events")
    assert World(join=False).admin("advise") == (
        "refused: the cluster has not formed yet: wait until all its nodes have joined"
    )
    for body in ([], ["drain"], [1, {}], ["drain", {"name": 7}], ["reset", {"shards": "all"}]):
        ((kind, reply),) = world.ask(wire.ADMIN, "F", body, cluster=0)
        assert kind == wire.REFUSED or not reply[0]


def test_a_plan_says_what_a_rebalance_would_move() -> None:
    world = World("ABC", shards=12, working=True)
    world.load = dict.fromkeys("ABC", Load(keys=1200, bytes=12_000))
    world.run(200)
    assert world.admin("plan")["balanced"] is True
    world.join("D", weight=1.0)
    plan = world.admin("plan")
    assert (plan["balanced"], plan["copies"], plan["keys"], plan["bytes"]) == (False, 9, 900, 9000)
    assert len(plan["moves"]) == 9
    assert all(move["to"] == ["D"] and move["keys"] == 100 for move in plan["moves"])
    assert world.admin("rebalance")["copies"] == 9
    world.rest()
    after = world.admin("plan")
    assert (after["balanced"], after["moves"]) == (True, [])


def test_events_are_numbered_and_survive_the_manager() -> None:
    world = World("ABC")
    world.proof("A")
    events = world.admin("events", after=0, limit=100)["events"]
    assert [event["kind"] for event in events] == ["manager", "join", "join", "join", "formed", "death"]
    assert [event["number"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[-1]["evidence"] == "its process was reaped"
    assert events[-1]["time_ms"] == world.now_ms
    world.start_manager(2)
    world.run(100)
    after = world.admin("events", after=5, limit=2)
    assert [event["kind"] for event in after["events"]] == ["death", "manager"]
    assert after["last"] >= 7
    assert world.admin("events", after=-1) == "refused: after and limit must be numbers"


def test_advice_comes_from_what_the_nodes_say() -> None:
    world = World("ABCD", shards=4)
    world.load = dict.fromkeys("ABCD", Load(busy_permille=900))
    world.run(100)
    assert world.admin("advise")["advice"] == "add"
    world.load = dict.fromkeys("ABCD", Load(busy_permille=10))
    world.run(100)
    assert world.admin("advise")["advice"] == "drain"


# --- loss -----------------------------------------------------------------------------------------------------------


def test_a_lost_shard_stays_as_it_is_by_default() -> None:
    world = World("ABC", shards=3, replicas=1, working=True)
    world.proof("A")
    world.rest()
    assert world.manager.status()["health"] == "unavailable"
    assert [event.data["shards"] for event in world.told("lost")] == [1]
    assert world.map()[0] == "epoch 1 on A"


def test_lost_shards_are_created_anew_after_the_grace_where_that_is_wanted() -> None:
    world = World("ABC", shards=3, replicas=1, working=True, on_loss="reset", loss_grace_s=2.0)
    world.proof("A")
    world.run(1800)
    assert world.map()[0] == "epoch 1 on A"
    world.run(500)
    assert world.map()[0] in ("epoch 2 on B", "epoch 2 on C")
    assert world.manager.map.shards[0].born == 2
    world.rest()
    assert (world.manager.status()["health"], world.manager.status()["resets"]) == ("healthy", 1)
    assert world.told("reset")[0].text.startswith("DATA LOSS: 1 shards are created anew")
    world.start_manager(2)
    assert world.manager.status()["resets"] == 1


def test_silence_is_no_proof_of_loss() -> None:
    world = World("ABC", shards=3, replicas=1, working=True, on_loss="reset", loss_grace_s=1.0)
    world.speaking.discard("A")
    world.run(20_000)
    assert world.map()[0] == "epoch 1 on A"
    assert world.admin("reset") == (
        "refused: shard 0 may still be alive: A held it and is not proven dead: "
        "end the process for good (zkv-launch kill NAME), or bring it back"
    )
    world.speaking.add("A")
    world.rest()
    assert world.map()[0] == "epoch 1 on A"
    assert world.manager.status()["health"] == "healthy"


def test_shards_are_reset_by_hand() -> None:
    world = World("ABC", shards=3, replicas=1, working=True)
    assert world.admin("reset") == "refused: no shard is lost"
    assert world.admin("reset", shards=[9]) == "refused: shards are numbered from 0 to 2"
    assert world.admin("reset", shards=[1]) == "refused: shard 1 is not lost"
    world.proof("A")
    assert world.admin("reset") == {"reset": [0]}
    assert world.manager.map.shards[0].epoch == 2, "at once, before the answer"
    world.rest()
    assert world.manager.status()["health"] == "healthy"


def test_a_reset_waits_for_who_may_hold_a_lease() -> None:
    world = World("ABC", shards=1, replicas=2, scatter_width=2)
    assert world.map() == ["epoch 1 on B C"]
    world.speaking.discard("B")
    world.run(900)  # C has not reported that it is active
    world.proof("C")
    assert world.admin("reset") == {"reset": [0]}
    assert world.map()[0] == "epoch 3 on A, waits for B"


# --- placement by file ----------------------------------------------------------------------------------------------


def layout(shards: dict[str, str], nodes: str = "A B C") -> str:
    return json.dumps({"nodes": nodes.split(), "shards": {key: names.split() for key, names in shards.items()}})


def test_the_file_says_where_shards_are_from_the_first_map_on() -> None:
    world = World("ABC", shards=3, working=True, layout=layout({"0": "B C", "1": "A", "2": "C A B"}))
    assert world.map() == ["epoch 1 on B C", "epoch 1 on A", "epoch 1 on C A B"]
    world.run(100)
    status = world.manager.status()
    assert status["health"] == "healthy", "what the lists ask for is there"
    assert status["layout"] == {"file": "map.json", "accepted_ms": 50_000, "refused": None, "warnings": []}
    world.layout = layout({"0": "A C", "1": "B", "2": "A B C"})
    world.rest()
    assert [line.split(" on ")[1].partition(",")[0] for line in world.map()] == ["A C", "B", "A B C"]
    assert world.manager.status()["health"] == "healthy"


def test_new_holders_are_filled_before_old_ones_go() -> None:
    world = World("ABC", shards=1, layout=layout({"0": "A B"}))
    world.layout = layout({"0": "C B"})
    world.run(AT_LEISURE_MS)
    assert world.map() == ["epoch 2 on A B, teaches C"]
    world.active("A")
    world.run(1000)
    assert world.map() == ["epoch 2 on A B, teaches C"]
    world.fill("A")
    world.run(AT_LEISURE_MS)
    assert world.map() == ["epoch 3 on C B, waits for A"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        (layout({"0": "A"}), "it places 1 shards, the cluster has 2 for ever"),
        (layout({"0-1": "A D"}), 'shard "0-1" names D, which is not in "nodes"'),
        (layout({"0-1": "A"}, "A B C D"), "D is not a node of this cluster"),
    ],
)
def test_a_bad_edit_is_refused_as_a_whole_and_the_last_good_one_stays(text: str, reason: str) -> None:
    world = World("ABC", shards=2, working=True, layout=layout({"0-1": "A B"}))
    world.layout = text
    world.rest()
    assert world.map() == ["epoch 1 on A B", "epoch 1 on A B"]
    assert reason in world.manager.status()["layout"]["refused"]
    (event,) = world.told("layout_refused")
    assert reason in event.text
    world.start_manager(2)
    world.rest()
    assert world.map() == ["epoch 1 on A B", "epoch 1 on A B"]
    assert reason in world.manager.status()["layout"]["refused"], "over a restart too"
    world.layout = layout({"0-1": "B A"})
    world.rest()
    assert leads(world) == {"B": 2}
    assert world.manager.status()["layout"]["refused"] is None


def test_an_edit_that_came_before_its_node_holds_once_the_node_joins() -> None:
    world = World("ABC", shards=1, working=True, layout=layout({"0": "A"}))
    world.layout = layout({"0": "D"}, "A B C D")
    world.rest()
    assert "D is not a node" in world.manager.status()["layout"]["refused"]
    world.join("D")
    world.rest()
    assert world.map()[0].split(", ")[0] == "epoch 3 on D"


def test_a_shard_without_a_holder_is_fenced_and_comes_back() -> None:
    world = World("ABC", shards=2, working=True, layout=layout({"0-1": "A B"}))
    world.run(100)
    world.layout = layout({"0": "A B", "1": ""})
    world.rest()
    assert world.map() == ["epoch 1 on A B", "epoch 2 on A B, withheld"]
    status = world.manager.status()
    assert (status["health"], status["withheld_shards"], status["lost_shards"]) == ("unavailable", 1, 0)
    assert status["layout"]["warnings"] == ["1 shards have no holder (1): their requests fail, and their data is kept"]
    world.filling = False
    world.layout = layout({"0": "A B", "1": "C"})
    world.run(300)
    assert world.map()[1] == "epoch 4 on A B, teaches C", "whoever has the data serves while it is copied"
    world.filling = True
    world.rest()
    assert world.map()[1].startswith("epoch 5 on C")
    assert world.manager.status()["health"] == "healthy"


def test_holders_that_are_down_are_left_out_until_they_are_back() -> None:
    world = World("ABC", shards=1, working=True, layout=layout({"0": "A B"}))
    world.proof("A")
    world.rest()
    assert world.map()[0] == "epoch 2 on B"
    assert world.manager.status()["health"] == "degraded"
    world.join("A'", endpoint="tcp://A:9", node="A")
    world.rest()
    assert world.map()[0].startswith("epoch 4 on A' B")
    assert world.manager.status()["health"] == "healthy"


def test_the_file_is_asked_instead_of_drains() -> None:
    world = World("ABC", shards=1, layout=layout({"0": "A B"}))
    assert world.admin("drain", name="C").startswith("refused: the operator's file places the shards")


def test_without_the_file_the_manager_places_again() -> None:
    world = World("ABC", shards=2, working=True, replicas=2, layout=layout({"0": "A B", "1": ""}))
    world.layout = ""
    world.start_manager(2)
    world.rest()
    assert world.manager.status()["health"] == "healthy"
    assert world.manager.status()["layout"] is None
    assert world.disk is not None
    assert world.disk.layout == ""


# --- distrust -------------------------------------------------------------------------------------------------------


def test_a_flapping_node_is_given_shards_ever_more_rarely() -> None:
    world = World("ABCD", shards=8, working=True)
    world.rest()

    def absence() -> float:
        """How long it takes until A is given something after it came back."""
        world.speaking.discard("A")
        world.run(1000)
        world.filling = False
        world.speaking.add("A")
        since = world.now_ms
        while not any(boot_of("A") in shard.learners for shard in world.manager.map.shards):
            world.run(50)
        world.filling = True
        world.rest()
        return world.now_ms - since - 3000

    waits = [absence() for _ in range(4)]
    assert 1000 <= waits[0] < 2000
    for earlier, later in pairwise(waits):
        assert later > 1.5 * earlier
    world.run(301_000)
    assert absence() < 2000, "in the end all is forgotten"


def test_an_isolated_node_is_pardoned_ever_later() -> None:
    world = World("ABC", shards=1, working=True)

    def isolation() -> float:
        world.accusing = {"B": "A", "C": "A"}
        while world.manager.map.members[boot_of("A")].state == 0:
            world.run(50)
        world.accusing = {}
        since = world.now_ms
        while world.manager.map.members[boot_of("A")].state != 0:
            world.run(50)
        world.rest()
        return world.now_ms - since - 3000

    waits = [isolation() for _ in range(3)]
    for earlier, later in pairwise(waits):
        assert later > 1.3 * earlier
    kinds = [event.kind for event in world.events if event.kind in ("isolated", "pardoned")]
    assert kinds == ["isolated", "pardoned"] * 3


def test_whom_clients_cannot_reach_leads_no_shard() -> None:
    world = World("ABC", shards=6, working=True)
    world.run(300)
    before = world.manager.map
    world.complaining = {77: "A"}
    world.run(700)
    assert world.manager.map is before, "complaints must last"
    world.run(300)
    (shunned,) = world.told("shunned")
    assert shunned.data["node"] == "A"
    world.rest()
    assert leads(world) == {"B": 3, "C": 3} or leads(world)["A"] == 0
    assert all(len(shard.replicas) == 3 for shard in world.manager.map.shards), "no copy moves"
    world.complaining = {}
    world.run(6000)
    world.rest()
    assert leads(world) == {"A": 2, "B": 2, "C": 2}
    assert world.told("pardoned")


def test_complaints_with_gaps_or_of_too_many_are_not_believed() -> None:
    world = World("ABC", shards=6, working=True)
    for _ in range(5):
        world.complaining = {77: "A"}
        world.run(600)
        world.complaining = {}
        world.run(900)
    world.complaining = {77: "A B", 78: "A B C"}
    world.run(3000)
    assert not world.told("shunned")


def test_never_more_than_half_are_shunned_nor_all_of_a_shard() -> None:
    world = World("ABCD", shards=4, working=True)
    world.complaining = {70: "A", 71: "B", 72: "C", 73: "D"}
    world.rest()
    assert len(world.told("shunned")) == 2
    alone = World("ABC", shards=3, replicas=1, working=True)
    alone.complaining = {70: "A"}
    alone.rest()
    assert not alone.told("shunned")


def test_the_successor_of_a_primary_is_not_one_that_is_shunned() -> None:
    world = World("ABC", shards=1, working=True)
    world.complaining = {70: "B"}
    world.run(1000)
    assert world.map()[0].split()[3] == "A"
    world.proof("A")
    assert world.map()[0] == "epoch 2 on C B"


def test_a_story_in_full() -> None:
    world = World("ABCD", shards=1, working=True)
    world.rest()
    world.story()
    world.proof("B")
    world.rest()
    assert world.story() == told("""
        B is dead: its process was reaped
        epoch 4 on C D A
        B is dead
    """)
    kinds = [event.kind for event in world.events]
    assert kinds[-4:] == ["death", "takeover", "fill", "healed"]


def test_a_shard_that_is_put_back_keeps_all_its_copies_until_others_are_made() -> None:
    world = World("ABCD", working=True, replicas=3, layout=layout({"0": "A B C", "1": "A B C"}, "A B C D"))
    world.rest()
    world.layout = layout({"0": "", "1": "A B C"}, "A B C D")
    world.rest()
    world.filling = False
    world.layout = layout({"0": "C D", "1": "A B C"}, "A B C D")
    world.run(1500)
    assert world.map()[0] == "epoch 4 on C A B, teaches D"
    world.filling = True
    world.rest()
    assert world.map()[0].partition(",")[0] == "epoch 5 on C D"
