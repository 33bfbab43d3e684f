"""A cache that several processes share, as a decorator: what one of them has computed none computes again.

Why it is right: `put(if_absent=True)` is decided by the key's primary, so of several processes that compute the same
value at the same time exactly one stores it, and all return that one. A cached None is told from a missing value by a
default that nobody can store. The cache outlives the processes that fill it, and the death of any one node; what was
computed goes after an hour (`ttl_s`).

    python examples/cache_decorator.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial, wraps
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from zkv import Client, LocalCluster

P = ParamSpec("P")
T = TypeVar("T")
MISSING = object()
TTL_S = 3600.0


def cached(kv: Client) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator: keep the results of a function in the cluster, by the function's name and its arguments' repr."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            key = f"cache:{function.__qualname__}:{args!r}:{sorted(kwargs.items())!r}"
            found: T = kv.get(key, MISSING)
            if found is not MISSING:
                return found
            result = function(*args, **kwargs)
            if kv.put(key, result, if_absent=True, ttl_s=TTL_S) is None:  # another process was faster: agree with it
                return wrapper(*args, **kwargs)
            return result

        return wrapper

    return decorate


def work(manager: str, numbers: range) -> int:
    """What each process does: add up an expensive function."""
    with Client(manager) as kv:

        @cached(kv)
        def collatz_steps(number: int) -> int:
            kv.incr("cache:computed")
            steps = 0
            while number != 1:
                number = number // 2 if number % 2 == 0 else 3 * number + 1
                steps += 1
            return steps

        return sum(collatz_steps(number) for number in numbers)


def main() -> None:
    with ExitStack() as stack:
        # A cluster that runs already, or one of our own for as long as this takes.
        manager = os.environ.get("ZKV_MANAGER") or stack.enter_context(LocalCluster(nodes=3, replicas=2)).manager
        kv = stack.enter_context(Client(manager))
        kv.flush("cache:")  # of a former run

        print("this process:   ", work(manager, range(1, 101)))
        computed = kv.get("cache:computed")
        with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
            print("three more:     ", *pool.map(partial(work, manager), [range(1, 101)] * 3))
        print("computed:       ", computed, "values, then", kv.get("cache:computed") - computed, "more")


if __name__ == "__main__":
    main()
