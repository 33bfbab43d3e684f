"""What must hold between two steps of a node. The simulator checks it after every turn of every node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkv.core import wire

if TYPE_CHECKING:
    from zkv.core.node.node import Node


def check_node(node: Node) -> None:
    """Raise AssertionError, naming what is broken."""
    local, serving, store = node.local, node.serving, node.local.store
    shards = local.map.shards
    for shard in serving.active:
        entry = shards[shard]
        assert entry.primary == node.boot, f"active for shard {shard}, which belongs to another primary"
        assert node.takeovers.activated[shard] == entry.epoch, f"shard {shard} is active under an old epoch"
        assert shard not in node.takeovers.running, f"shard {shard} is active and being taken over"
        group = serving.group_of[shard]
        assert group is not None and set(group.backups) | {node.boot} == set(entry.replicas)
        assert set(group.learners) == set(entry.learners), f"shard {shard} is in a group with other learners"
        assert serving.bases[shard] == entry.epoch << wire.COUNTER_BITS
    for shard, entry in enumerate(shards):
        if node.boot in (*entry.replicas, *entry.learners):
            assert store.committed[shard] <= store.positions[shard], f"shard {shard}: committed beyond its position"
            assert wire.epoch_of(store.positions[shard]) <= entry.epoch, (
                f"shard {shard}: an entry of a future epoch"
            )
        else:
            assert not store.tables[shard], f"shard {shard} is held by a node outside its set"
    ours = {shard for shard, entry in enumerate(shards) if node.boot in (*entry.replicas, *entry.learners)}
    assert ours == set(node._held), "what this node believes to hold is not what the map says"
    for group in serving.groups:
        assert group.shards and group.committed <= serving.counter
        assert set(group.backups) <= set(group.members) <= set(group.receivers)
        assert not group.parts and not group.wire, "a batch was left behind at the end of the turn"
    for stream in local.outgoing.values():
        assert stream.acked <= stream.last_seq and stream.committed <= stream.last_seq
    for held in serving.held:
        assert held.pending or held.blocked, "a reply is held for nothing"
