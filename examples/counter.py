"""A counter that four processes raise while a node is killed: nothing is lost, and nothing is counted twice.

Why it is right: `incr` reads and writes in one step at the key's primary, so no two processes overwrite each other's
sum. A client whose server dies sends its increment to the next primary under the same identity, and every replica
remembers what it has done for whom: tried again is not done again. So each call counts exactly once, and returns a
number that no other call returned.

    python examples/counter.py
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context

from zkv import Client, LocalCluster

PROCESSES = 4
TIMES = 500


def count(manager: str) -> list[int]:
    """Raise the shared counter `TIMES` times; the sums that this process was given."""
    with Client(manager) as kv:
        return [kv.incr("counter:visits") for _ in range(TIMES)]


def main() -> None:
    with ExitStack() as stack:
        # A cluster that runs already, or one of our own for as long as this takes.
        cluster = None if "ZKV_MANAGER" in os.environ else stack.enter_context(LocalCluster(nodes=3, replicas=2))
        kv = stack.enter_context(Client(cluster.manager if cluster else os.environ["ZKV_MANAGER"]))
        kv.delete("counter:visits")  # of a former run

        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            counting = [pool.submit(count, kv.manager) for _ in range(PROCESSES)]
            while kv.get("counter:visits", 0) < TIMES:
                time.sleep(0.01)
            if cluster:  # only our own may lose a node
                cluster.kill(kv.locate("counter:visits"))
                print("killed the node that holds the counter, in the middle of it")
            sums = [number for each in counting for number in each.result()]

        print(f"{PROCESSES} processes counted {TIMES} times each: {kv.get('counter:visits')}")
        print("every call had a number of its own:", sorted(sums) == list(range(1, PROCESSES * TIMES + 1)))


if __name__ == "__main__":
    main()
