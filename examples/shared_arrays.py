"""Numpy arrays shared between processes: a matrix product, each process computing some rows of it.

Why it is right: an array is stored as its dtype, its shape and its bytes. What comes back is an array equal to the one
that was put; nothing is pickled, so nothing that is read can run code. Each key is written by one process only, and
reads are linearizable: who is told that a block is there (`wait`) reads all of it. `mput` and `mget` move blocks to and
from all nodes in parallel. A value has at most 16 MiB; cut larger arrays into blocks, as here.

    python examples/shared_arrays.py
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from multiprocessing import get_context

import numpy as np

from zkv import Client, LocalCluster

BLOCKS = 8
PROCESSES = 2


def multiply(manager: str, blocks: range) -> None:
    """Compute some blocks of the product."""
    with Client(manager) as kv:
        right = kv.get("matrix:right")
        lefts = kv.mget([f"matrix:left:{block}" for block in blocks])
        kv.mput({f"matrix:product:{block}": left @ right for block, left in zip(blocks, lefts, strict=True)})


def main() -> None:
    random = np.random.default_rng(seed=1)
    left, right = random.random((800, 300)), random.random((300, 200))
    with ExitStack() as stack:
        # A cluster that runs already, or one of our own for as long as this takes.
        manager = os.environ.get("ZKV_MANAGER") or stack.enter_context(LocalCluster(nodes=3, replicas=2)).manager
        kv = stack.enter_context(Client(manager))
        kv.mdelete(kv.keys("matrix:"))  # of a former run

        kv.put("matrix:right", right)
        kv.mput({f"matrix:left:{block}": rows for block, rows in enumerate(np.split(left, BLOCKS))})
        spawn = get_context("spawn")
        workers = [
            spawn.Process(target=multiply, args=(manager, range(first, BLOCKS, PROCESSES)))
            for first in range(PROCESSES)
        ]
        for worker in workers:
            worker.start()
        names = [f"matrix:product:{block}" for block in range(BLOCKS)]
        kv.wait(names, timeout_s=60)  # blocks count, not the ends of processes: they could be on other machines
        product = np.vstack(kv.mget(names))
        for worker in workers:
            worker.join()

        print(f"{PROCESSES} processes made {BLOCKS} blocks: {product.dtype} {product.shape}")
        print("equal to the product made here:", np.allclose(product, left @ right))


if __name__ == "__main__":
    main()
