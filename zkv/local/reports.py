"""What the launcher tells the manager (which nodes are proven dead), and asks it (whether every shard is served).

A thread of its own, because the manager may be down, stopped or busy for as long as it likes, and the launcher has to
reap, restart and answer meanwhile. A report is repeated until the manager has acknowledged it, across any number of
managers; without it the cluster would still notice the death, by silence, only later (SAFETY 32).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from zkv.errors import ManagerUnreachable, ZkvError

if TYPE_CHECKING:
    from zkv.net.admin import AdminLink

__all__ = ["ManagerTalk"]

# One try; the next one follows at once, as a lost message and a restarted manager are answered by trying again.
_TRY_TIMEOUT_S = 0.5
# Between tries that failed at once, and between two questions whether the cluster is ready.
_PAUSE_S = 0.02


class ManagerTalk:
    """All methods return at once and may be called from the launcher's loop.

    `on_served` and `on_reported(boot id, milliseconds since the report was made)` are called from the thread.
    """

    def __init__(
        self,
        *,
        on_served: Callable[[], None],
        on_reported: Callable[[int, float], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._on_served = on_served
        self._on_reported = on_reported
        self._on_trouble = on_trouble
        self._changed = threading.Condition()
        # Bounded by the number of nodes: each dies once, as the launcher never restarts one.
        self._deaths: deque[tuple[int, float]] = deque()
        self._endpoint: str | None = None
        self._generation = 0
        self._served = False
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
        """The manager has ended; what is to be reported waits for the next one."""
        with self._changed:
            self._endpoint = None

    def report_dead(self, boot_id: int) -> None:
        """The process with this boot id was reaped."""
        with self._changed:
            self._deaths.append((boot_id, time.monotonic()))
            self._changed.notify()

    def close(self) -> None:
        """Forget what has not been reported yet."""
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
                endpoint, generation, death = turn
                if generation != linked or link is None:
                    # A new link for a new manager: an old one reconnects too, but takes its time over it.
                    if link is not None:
                        link.close()
                    link, linked = AdminLink(endpoint, timeout_s=_TRY_TIMEOUT_S), generation
                try:
                    if death is not None:
                        self._report(link, *death)
                    elif not self._served:
                        self._ask(link)
                except ManagerUnreachable:
                    linked = 0
                except ZkvError as error:
                    self._on_trouble(f"the manager refuses to talk to the launcher: {error}")
                    linked = 0
                    time.sleep(_PAUSE_S)
        except Exception as error:  # noqa: BLE001  # the launcher goes on without (deaths are found by silence), and says so
            self._on_trouble(f"deaths are no longer reported to the manager: {type(error).__name__}: {error}")
        finally:
            if link is not None:
                link.close()

    def _next(self, linked: int) -> tuple[str, int, tuple[int, float] | None] | None:
        """Wait for something to do: (endpoint, which manager, the oldest unreported death if any). None: the end."""
        with self._changed:
            while not self._closed:
                if self._endpoint is not None and (self._deaths or not self._served or self._generation != linked):
                    return self._endpoint, self._generation, self._deaths[0] if self._deaths else None
                self._changed.wait()
            return None

    def _report(self, link: AdminLink, boot_id: int, since: float) -> None:
        link.report_dead(boot_id)
        with self._changed:
            self._deaths.popleft()
        self._on_reported(boot_id, (time.monotonic() - since) * 1000)

    def _ask(self, link: AdminLink) -> None:
        status = link.status()
        if status["health"] != "forming" and status.get("inactive_shards", 0) == 0:
            self._served = True
            self._on_served()
            return
        with self._changed:
            if not self._deaths and not self._closed:
                self._changed.wait(_PAUSE_S)
