"""Loading many records in batches, with a count for each kind, while a node is killed in the middle of it.

Why it is right: a pipeline sends one message to each node, all nodes in parallel, and waits once for all of them. The
operations are independent of each other (a pipeline is no transaction), and each takes effect at most once however
often its message had to be sent. So the counts are exact, although their node died. Where a deadline passes all the
same, `outcome_unknown` tells which operations may have been done: puts can be repeated then, increments cannot.

    python examples/batch_loader.py

It kills a node, so it always starts a cluster of its own.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice

from zkv import LocalCluster

KINDS = ("tree", "bird", "fish")
RECORDS = [{"id": number, "kind": KINDS[number % 3]} for number in range(6_000)]
BATCH = 500


def main() -> None:
    with LocalCluster(nodes=4, replicas=2) as cluster, cluster.client() as kv:
        records = iter(RECORDS)
        loaded = 0
        while batch := list(islice(records, BATCH)):
            with kv.pipeline(timeout_s=30) as pipeline:
                for record in batch:
                    pipeline.put(f"record:{record['id']}", record)
                    total = pipeline.incr(f"count:{record['kind']}")
            loaded += len(batch)
            if loaded == len(RECORDS) // 2:
                cluster.kill(kv.locate("count:bird"))
                print("half of it is loaded; killed the node that counts the birds")
        print(f"the last record was number {total.result()} of its kind")

        found = kv.mget([f"record:{record['id']}" for record in RECORDS])
        print("all records are there:", found == RECORDS)
        counts = {kind: kv.get(f"count:{kind}") for kind in KINDS}
        print("the counts are right:", counts == Counter(record["kind"] for record in RECORDS))


if __name__ == "__main__":
    main()
