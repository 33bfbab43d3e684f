"""Leader election: of three candidates one leads; when it is killed another takes over, and the late are refused.

Why it is right: the leader holds a lock, and renews it. When it dies the others see the lock unchanged for `ttl_s`,
and one of them takes it over by compare-and-set. A leader that was paused for long may still believe that it leads; so
each lock carries a fencing token, greater than that of every holder before, and what the leader writes to (here: a
SQLite file, outside of zkv) refuses a token older than one it has seen.

    python examples/leader_election.py
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from contextlib import ExitStack, closing
from multiprocessing import get_context
from pathlib import Path

from zkv import Client, LocalCluster, LockLost

TTL_S = 0.5


def write(ledger: Path, token: int, text: str) -> bool:
    """Write into the ledger, unless somebody with a newer token has; whether that was so."""
    with closing(sqlite3.connect(ledger, timeout=30)) as db, db:
        return db.execute("UPDATE ledger SET token = ?, text = ? WHERE token <= ?", (token, text, token)).rowcount == 1


def campaign(manager: str, ledger: Path, name: str) -> None:
    """Become the leader, and lead until somebody else does."""
    with Client(manager) as kv:
        while True:
            lock = kv.lock("election", ttl_s=TTL_S)
            token = lock.acquire(timeout_s=60)
            write(ledger, token, f"{name} takes over")
            kv.put(f"election:term:{kv.incr('election:terms')}", [name, token])
            try:
                while write(ledger, token, f"{name} leads"):
                    time.sleep(TTL_S / 5)
                    lock.renew()
            except LockLost:
                pass  # we were too slow: stand again


def main() -> None:
    with ExitStack() as stack:
        # A cluster that runs already, or one of our own for as long as this takes.
        manager = os.environ.get("ZKV_MANAGER") or stack.enter_context(LocalCluster(nodes=3, replicas=2)).manager
        kv = stack.enter_context(Client(manager))
        kv.mdelete(kv.keys("election:"))  # of a former run
        ledger = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ledger.db"
        with closing(sqlite3.connect(ledger)) as db, db:
            db.execute("CREATE TABLE ledger AS SELECT 0 AS token, '' AS text")

        spawn = get_context("spawn")
        candidates = {}
        for name in ("ada", "bob", "eve"):
            candidates[name] = spawn.Process(target=campaign, args=(manager, ledger, name))
            candidates[name].start()
            stack.callback(candidates[name].kill)
        tokens = []
        for term in (1, 2, 3):
            kv.wait(f"election:term:{term}", timeout_s=60)
            name, token = kv.get(f"election:term:{term}")
            tokens.append(token)
            print(f"term {term}: {name} leads")
            candidates[name].kill()
            candidates[name].join()
        print("tokens grow:", tokens == sorted(tokens))
        print("a write of the first leader, too late:", "taken" if write(ledger, tokens[0], "me!") else "refused")


if __name__ == "__main__":
    main()
