"""A part of the cluster's keys as a dict."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, Final

from zkv.client.scanning import Walk
from zkv.core import wire
from zkv.errors import UsageError

if TYPE_CHECKING:
    from zkv.client.blocking import Client

_ABSENT: Final = object()


class Map(MutableMapping[str, Any]):
    """The str keys that begin with `prefix`, as a `MutableMapping` without it.

    Single operations are atomic, `setdefault`, `pop` and `del` too; those that go through all keys (`len`, iteration,
    `items`, `values`, `clear`, `popitem`) see each key that lives throughout once, and are not atomic. They take a page
    at a time.

    >>> users = Map(kv, "user:")
    >>> users["ada"] = {"born": 1815}
    >>> users.setdefault("ada", None), len(users), list(users)
    ({'born': 1815}, 1, ['ada'])
    >>> users.pop("ada"), "ada" in users
    ({'born': 1815}, False)
    """

    def __init__(self, client: Client, prefix: str) -> None:
        if not isinstance(prefix, str) or not prefix:
            raise UsageError(f'the prefix of a Map is a str that is not empty, like "user:", not {prefix!r}')
        self.client = client
        self.prefix = prefix

    def __getitem__(self, key: str) -> Any:
        value = self.client.get(self._full(key), _ABSENT)
        if value is _ABSENT:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self.client.put(self._full(key), value)

    def __delitem__(self, key: str) -> None:
        if not self.client.delete(self._full(key)).existed:
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.client.exists(self._full(key))

    def __iter__(self) -> Iterator[str]:
        cut = len(self.prefix)
        walk = Walk(wire.SCAN_KEYS, self.prefix)
        while not walk.over:
            for page in self.client._walk_on(walk):
                for key in page.keys:
                    yield key[cut:]  # type: ignore[misc]  # a str prefix finds str keys

    def __len__(self) -> int:
        return self.client.count(self.prefix)

    def items(self) -> ItemsView[str, Any]:
        """Keys and values; going through them takes a page of both at a time.

        >>> users = Map(kv, "user:")
        >>> users["ada"] = 1815
        >>> list(users.items())
        [('ada', 1815)]
        """
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """The values; going through them takes a page at a time.

        >>> users = Map(kv, "user:")
        >>> users["ada"] = 1815
        >>> list(users.values())
        [1815]
        """
        return _Values(self)

    def __repr__(self) -> str:
        return f"Map({self.client!r}, {self.prefix!r})"

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value under `key`, which becomes `default` if there is none; atomic.

        >>> users = Map(kv, "user:")
        >>> users.setdefault("ada", 1815), users.setdefault("ada", 1912)
        (1815, 1815)
        """
        while True:
            value = self.client.get(self._full(key), _ABSENT)
            if value is not _ABSENT:
                return value
            if self.client.put(self._full(key), default, if_absent=True) is not None:
                return default

    def pop(self, key: str, default: Any = _ABSENT) -> Any:
        """Remove `key` and return its value; atomic: of several who pop it one gets it.

        >>> users = Map(kv, "user:")
        >>> users["ada"] = 1815
        >>> users.pop("ada"), users.pop("ada", None)
        (1815, None)
        """
        while True:
            entry = self.client.entry(self._full(key))
            if entry is None:
                if default is _ABSENT:
                    raise KeyError(key)
                return default
            if self.client.delete(self._full(key), if_version=entry.version) is not None:
                return entry.value

    def update(  # type: ignore[override]  # positional, as in dict
        self, other: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any
    ) -> None:
        """Store many values in one go, all nodes in parallel; each key is atomic by itself.

        >>> users = Map(kv, "user:")
        >>> users.update({"ada": 1815}, alan=1912)
        >>> sorted(users.items()), kv.get("user:alan")
        ([('ada', 1815), ('alan', 1912)], 1912)
        """
        items = dict(other, **more)
        self.client.mput({self._full(key): value for key, value in items.items()})

    def clear(self) -> None:
        """Remove all that is there now; what others put meanwhile may stay.

        >>> users = Map(kv, "user:")
        >>> users["ada"] = 1815
        >>> users.clear()
        >>> list(users)
        []
        """
        self.client.flush(self.prefix)

    def _full(self, key: str) -> str:
        if not isinstance(key, str):
            raise UsageError(f"the keys of a Map are str, not {key!r}")
        return self.prefix + key


class _Items(ItemsView[str, Any]):
    """What `Map.items` returns."""

    _mapping: Map

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        cut = len(self._mapping.prefix)
        for entry in self._mapping.client.scan(self._mapping.prefix):
            yield entry.key[cut:], entry.value  # type: ignore[misc]  # a str prefix finds str keys


class _Values(ValuesView[Any]):
    """What `Map.values` returns."""

    _mapping: Map

    def __iter__(self) -> Iterator[Any]:
        for entry in self._mapping.client.scan(self._mapping.prefix):
            yield entry.value
