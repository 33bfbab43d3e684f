"""The account of a node's memory (`zkv.core.node.sizes`) against what its process takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.process.support import eventually
from zkv import LocalCluster
from zkv.core.node.entries import size_of_stored, stored
from zkv.core.node.sizes import ENTRY_BYTES, EXPIRY_BYTES, size_of

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at memory as Linux shows it"),
]

Make = Callable[..., LocalCluster]
STEP = 10_000
RATIO = 0.75, 1.25
FAR_S = 100_000.0


def rss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.parametrize(
    ("keys", "value_bytes", "ttl_s"), [(200_000, 16, None), (200_000, 100, FAR_S), (50_000, 1000, None)]
)
def test_account_is_what_the_process_takes(
    local_cluster: Make, keys: int, value_bytes: int, ttl_s: float | None
) -> None:
    cluster = local_cluster(nodes=1, replicas=1)
    options: dict[str, Any] = {} if ttl_s is None else {"ttl_s": ttl_s}
    names = [f"key:{number:012d}" for number in range(keys)]
    value = b"%016d"
    entry = stored(2**50, bytes(value_bytes), 2**40 if ttl_s else 0)
    expected = keys * (ENTRY_BYTES + size_of(names[0]) + size_of_stored(entry) + bool(ttl_s) * EXPIRY_BYTES)
    with cluster.client(timeout_s=30.0) as kv:
        kv.mget(names[:STEP])  # what a connection and a first request take is no entry's
        pid = cluster.status()["nodes"][0]["pid"]
        before = rss_bytes(pid)
        for first in range(0, keys, STEP):
            numbers = range(first, first + STEP)
            kv.mput({names[number]: (value % number).ljust(value_bytes, b"x") for number in numbers}, **options)

        def account() -> int:
            number: int = cluster.health()["nodes"][0]["bytes"]
            return number

        eventually(lambda: account() == expected, "the account is that of the entries")
        grown = rss_bytes(pid) - before
        assert RATIO[0] <= expected / grown <= RATIO[1]
