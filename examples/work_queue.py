"""A queue of jobs that survives the death of a worker: every job is done, and has one result.

Why it is right: a worker claims a job by a lock with a lifetime. When it dies nobody renews the lock, and whoever has
seen it unchanged for `ttl_s` may take it, and does the job again. No lock can keep a worker that was only paused from
finishing late; so results are stored by `setdefault`, which is atomic: of two the first one stays. A job leaves the
queue after its result is there, so there is no moment at which a crash could lose it.

    python examples/work_queue.py
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from multiprocessing import get_context

from zkv import Client, LocalCluster, LockLost, Map, TimedOut

TTL_S = 0.5
"""Whoever works on a job for longer than this calls `lock.renew()` in time."""


def work(manager: str, crashes: bool) -> None:
    """Do jobs until the queue is empty; or, to show what happens then, crash with the first one in hand."""
    with Client(manager) as kv:
        jobs, results = Map(kv, "queue:job:"), Map(kv, "queue:result:")
        patience_s = 0.0  # first take what is free
        while names := list(jobs):
            for name in names:
                lock = kv.lock(f"queue:{name}", ttl_s=TTL_S)
                try:
                    lock.acquire(timeout_s=patience_s)
                except TimedOut:
                    continue  # in other hands
                if crashes:
                    os.kill(os.getpid(), signal.SIGKILL)
                number = jobs.get(name)
                if number is not None:  # otherwise somebody has just done it
                    results.setdefault(name, number**2)
                    jobs.pop(name, None)
                try:
                    lock.release()
                except LockLost:
                    pass  # we were slow, and another worker has begun: it finds the result, and keeps it
            patience_s = 2 * TTL_S  # then wait for what others hold: they finish it, or their locks run out


def main() -> None:
    with ExitStack() as stack:
        # A cluster that runs already, or one of our own for as long as this takes.
        manager = os.environ.get("ZKV_MANAGER") or stack.enter_context(LocalCluster(nodes=3, replicas=2)).manager
        kv = stack.enter_context(Client(manager))
        jobs, results = Map(kv, "queue:job:"), Map(kv, "queue:result:")
        Map(kv, "queue:").clear()  # of a former run
        jobs.update({f"job{number}": number for number in range(30)})

        spawn = get_context("spawn")
        crashing = spawn.Process(target=work, args=(manager, True))
        crashing.start()
        crashing.join()
        print("a worker died with exit code", crashing.exitcode, "and left", len(jobs), "jobs, one of them locked")
        workers = [spawn.Process(target=work, args=(manager, False)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print("jobs left:", len(jobs))
        print("results as they should be:", dict(results) == {f"job{number}": number**2 for number in range(30)})


if __name__ == "__main__":
    main()
