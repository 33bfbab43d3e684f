"""What the launcher tells the manager (which nodes are proven dead), and asks it (whether every shard is served,
whether nodes should be added).

A thread of its own, because the manager may be down, stopped or busy for as long as it likes, and the launcher has to
reap, restart and answer meanwhile. An errand is repeated until the manager has answered it, across any number of
managers. Without the report of a death the cluster would still notice it, by silence, only later (SAFETY 32).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from zkv.errors import ManagerUnreachable, ZkvError

if TYPE_CHECKING:
    from zkv.net.admin import AdminLink

__all__ = ["ManagerTalk"]

# One try; the next one follows at once, as a lost message and a restarted manager are answered by trying again.
_TRY_TIMEOUT_S: Final = 0.5
_ERRANDS_LIMIT: Final = 4096


class _Errand(NamedTuple):
    what: Callable[[AdminLink], Any]
    then: Callable[[Any], None]
    refused: Callable[[str], None]


class ManagerTalk:
    """All methods return at once and may be called from the launcher's loop."""

    def __init__(self, *, post: Callable[[Callable[[], None]], None], on_trouble: Callable[[str], None]) -> None:
        """`post` gets what is to be called from the loop; `on_trouble` is called from the thread."""
        self._post = post
        self._on_trouble = on_trouble
        self._changed = threading.Condition()
        self._errands: deque[_Errand] = deque()
        self._endpoint: str | None = None
        self._generation = 0
        self._closed = False
        # A daemon: a try that hangs must not keep the launcher from ending.
        self._thread = threading.Thread(target=self._run, name="manager-talk", daemon=True)
        self._thread.start()

    def manager_up(self, endpoint: str) -> None:
        """A manager listens now at `endpoint`."""
        with self._changed:
            self._endpoint = endpoint
            self._generation += 1
            self._changed.notify()

    def manager_down(self) -> None:
        """The manager has ended; errands wait for the next one."""
        with self._changed:
            self._endpoint = None

    def ask(
        self, what: Callable[[AdminLink], Any], then: Callable[[Any], None], refused: Callable[[str], None]
    ) -> None:
        """Do `what` in the thread once a manager answers, then call `then` with its result from the loop, or `refused`
        with the reason. Errands are done in order."""
        with self._changed:
            full = len(self._errands) >= _ERRANDS_LIMIT
            if not full:
                self._errands.append(_Errand(what, then, refused))
                self._changed.notify()
        if full:
            self._post(lambda: refused("too much waits for the manager already"))

    def close(self) -> None:
        """Forget what has not been done yet."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(2 * _TRY_TIMEOUT_S)

    def _run(self) -> None:
        from zkv.net.admin import AdminLink  # here: loading ZeroMQ takes as long as starting a node

        link: AdminLink | None = None
        linked = 0
        try:
            while (turn := self._next(linked)) is not None:
                endpoint, generation, errand = turn
                if generation != linked or link is None:
                    # A new link for a new manager: an old one reconnects too, but takes its time over it.
                    if link is not None:
                        link.close()
                    link, linked = AdminLink(endpoint, timeout_s=_TRY_TIMEOUT_S), generation
                if errand is not None and not self._do(link, errand):
                    linked = 0
        except Exception as error:  # noqa: BLE001  # the launcher goes on without (deaths are found by silence), and says so
            self._on_trouble(f"the launcher talks no longer to the manager: {type(error).__name__}: {error}")
        finally:
            if link is not None:
                link.close()

    def _next(self, linked: int) -> tuple[str, int, _Errand | None] | None:
        """Wait for something to do: (endpoint, which manager, the oldest errand if any). None: the end."""
        with self._changed:
            while not self._closed:
                # A link is made before it is needed: then a report of a death is not held up by connecting.
                if self._endpoint is not None and (self._errands or self._generation != linked):
                    return self._endpoint, self._generation, self._errands[0] if self._errands else None
                self._changed.wait()
            return None

    def _do(self, link: AdminLink, errand: _Errand) -> bool:
        """Do one; False where nobody answered, and it is to be tried again."""
        try:
            result = errand.what(link)
        except ManagerUnreachable:
            return False
        except ZkvError as error:
            reason = str(error)
            self._post(lambda: errand.refused(reason))
        else:
            self._post(lambda: errand.then(result))
        with self._changed:
            self._errands.popleft()
        return True
