"""Tests of a program that uses zkv, with the pytest plugin that zkv brings: a shop that never sells what it has not.

Why the shop is right: `cas` stores the new stock only if nobody has changed it since it was read; who was overtaken
reads again. Versions grow with every change, so a stock that went down and up again is not mistaken for an unchanged
one. The tests prove it under competition, and while the node that holds the stock is killed: `zkv_cluster` is a real
cluster of processes, new for each test, and `zkv_client` a client of it.

    pytest examples/test_with_fixtures.py
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from zkv import Client, LocalCluster


def sell(kv: Client, item: str) -> bool:
    """Take one piece out of the stock; whether there was one."""
    while True:
        stock = kv.entry(f"stock:{item}")
        if stock is None or stock.value == 0:
            return False
        if kv.cas(stock.key, stock.value - 1, version=stock.version) is not None:
            return True


def test_sells_what_it_has(zkv_client: Client) -> None:
    zkv_client.put("stock:lamp", 2)
    assert [sell(zkv_client, "lamp") for _ in range(3)] == [True, True, False]


def test_sells_nothing_it_never_had(zkv_client: Client) -> None:
    assert not sell(zkv_client, "unicorn")


def test_never_sells_a_piece_twice(zkv_client: Client) -> None:
    zkv_client.put("stock:lamp", 30)
    with ThreadPoolExecutor(8) as customers:  # one client serves all threads
        sold = list(customers.map(lambda _: sell(zkv_client, "lamp"), range(50)))
    assert sold.count(True) == 30
    assert zkv_client.get("stock:lamp") == 0


def test_goes_on_when_a_node_dies(zkv_cluster: LocalCluster, zkv_client: Client) -> None:
    zkv_client.put("stock:lamp", 3)
    assert sell(zkv_client, "lamp")
    zkv_cluster.kill(zkv_client.locate("stock:lamp"))
    assert [sell(zkv_client, "lamp") for _ in range(3)] == [True, True, False]
