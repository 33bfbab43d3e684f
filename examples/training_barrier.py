"""A barrier for a training job: after each step every worker has the gradients of all, and then they go on together.

Why it is right: `incr` counts each arrival exactly once, also when it had to be tried again because a node died: a
count that ran ahead would open the barrier too early. Who arrives last opens it by a key that the others `wait` for.
The gradient was acknowledged before its worker arrived, and reads see every acknowledged write: behind the barrier
nobody reads an old gradient, or none.

    python examples/training_barrier.py
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context

from zkv import Client, LocalCluster

WORKERS = 3
STEPS = 25


def barrier(kv: Client, name: str, parties: int) -> None:
    """Return once `parties` workers have come here."""
    if kv.incr(f"{name}:arrived") == parties:
        kv.put(f"{name}:open", True)
    kv.wait(f"{name}:open", timeout_s=60)


def train(manager: str, rank: int) -> tuple[float, float]:
    """Fit y = a * x + b to a third of the data, in step with the others."""
    data = [(x / 10, 3 * x / 10 + 1) for x in range(rank, 30, WORKERS)]
    a = b = 0.0
    with Client(manager) as kv:
        for step in range(STEPS):
            errors = [(a * x + b - y, x) for x, y in data]
            kv.put(f"train:{step}:{rank}", [sum(e * x for e, x in errors), sum(e for e, _ in errors)])
            barrier(kv, f"train:{step}", WORKERS)
            gradients = kv.mget([f"train:{step}:{other}" for other in range(WORKERS)])
            a -= 0.008 * sum(gradient[0] for gradient in gradients)
            b -= 0.008 * sum(gradient[1] for gradient in gradients)
    return a, b


def main() -> None:
    with ExitStack() as stack:
        # A cluster that runs already, or one of our own for as long as this takes.
        manager = os.environ.get("ZKV_MANAGER") or stack.enter_context(LocalCluster(nodes=3, replicas=2)).manager
        kv = stack.enter_context(Client(manager))
        kv.mdelete(kv.keys("train:"))  # of a former run

        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
            models = list(pool.map(partial(train, manager), range(WORKERS)))
        a, b = models[0]
        print(f"after {STEPS} steps: y = {a:.2f} * x + {b:.2f}")
        print(f"all {WORKERS} workers have the same model:", len(set(models)) == 1)


if __name__ == "__main__":
    main()
