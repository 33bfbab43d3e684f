"""Sessions and settings of a web application, as dicts that all its processes share: `zkv.Map`.

Why it is right: a Map is a `MutableMapping` over the keys with a prefix, and its single operations are atomic. Of
several processes that `setdefault` the same key one decides, and all get that value; of several that `pop` it one gets
it. What is read from a Map is a copy: change it, and put it back (or use `Client.cas`, where several may change it).

    python examples/sessions.py
"""

from __future__ import annotations

import os
import secrets
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context

from zkv import Client, LocalCluster, Map

PROCESSES = 3


def web_process(manager: str) -> tuple[str, int]:
    """What each process of the application does: the secret it signs cookies with, and how many vouchers it won."""
    with Client(manager) as kv:
        settings, vouchers = Map(kv, "app:setting:"), Map(kv, "app:voucher:")
        secret = settings.setdefault("secret", secrets.token_hex(16))  # whoever comes first makes it
        won = sum(vouchers.pop(f"{number}", None) is not None for number in range(20))
        return secret, won


def main() -> None:
    with ExitStack() as stack:
        # A cluster that runs already, or one of our own for as long as this takes.
        manager = os.environ.get("ZKV_MANAGER") or stack.enter_context(LocalCluster(nodes=3, replicas=2)).manager
        kv = stack.enter_context(Client(manager))
        Map(kv, "app:").clear()  # of a former run

        sessions = Map(kv, "app:session:")
        sessions["s1"] = {"user": "ada", "cart": ["lamp"]}
        sessions.update(s2={"user": "bob", "cart": []}, s3={"user": "eve", "cart": []})
        session = sessions["s1"]
        session["cart"].append("book")
        sessions["s1"] = session
        print("ada's cart:", sessions["s1"]["cart"])
        del sessions["s3"]
        print("who is there:", sorted(session["user"] for session in sessions.values()))

        Map(kv, "app:voucher:").update({f"{number}": "10 % off" for number in range(20)})
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            results = list(pool.map(web_process, [manager] * PROCESSES))
        print("secrets in use:", len({secret for secret, _ in results}))
        print("20 vouchers were won", sum(won for _, won in results), "times")


if __name__ == "__main__":
    main()
