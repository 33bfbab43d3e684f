"""What tests of frames share: strategies for everything that MessagePack can carry, and for shard maps."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from zkv.core.shardmap import DEAD, UP, Member, Shard, ShardMap

U64 = st.integers(0, 2**64 - 1)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text("0123456789", min_size=19, max_size=24)
SCALARS = st.none() | st.booleans() | NUMBERS | st.binary(max_size=24) | st.text(max_size=8)
KEYS = st.text(max_size=3) | st.integers(0, 9)
BODIES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
"""Anything that a frame's body may be."""

BOOTS = st.integers(2**32, 2**32 + 20)
TEXTS = st.text(max_size=5)
MEMBERS = st.builds(Member, BOOTS, TEXTS, TEXTS, TEXTS, st.floats(0.1, 9), st.integers(UP, DEAD), st.booleans())
SHARDS = st.builds(
    Shard,
    U64,
    U64,
    st.lists(BOOTS, min_size=1, max_size=4, unique=True).map(tuple),
    st.lists(BOOTS, max_size=2).map(tuple),
    st.lists(BOOTS, max_size=3).map(tuple),
    U64,
    st.booleans(),
)
MAPS = st.builds(
    ShardMap,
    U64,
    U64,
    st.lists(MEMBERS, max_size=5).map(lambda members: {member.boot: member for member in members}),
    st.lists(SHARDS, min_size=1, max_size=8).map(tuple),
)
