"""An event loop of one thread: file descriptors, signals and timers. Nothing here polls: the thread sleeps in one
`select` until one of them has something to say.

asyncio would do the same at forty milliseconds more of start-up time.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

__all__ = ["Loop", "Timer"]


class Timer:
    """A callback that is due later; `cancel` it as often as you like."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Belongs to the main thread, as signals do. `post` alone may be called from other threads."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._signals: dict[int, Callable[[], None]] = {}
        self._previous: dict[int, object] = {}
        self._posted: deque[Callable[[], None]] = deque()
        # One pipe for signals (one byte each, the signal's number) and for `post` (a zero byte).
        self._wake_read, self._wake_write = os.pipe()
        self._post_lock = threading.Lock()
        self._closed = False
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self.add(self._wake_read, self._drain_wake)

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def remove(self, fd: int) -> None:
        """Forget `fd`. Call it before closing."""
        self._selector.unregister(fd)

    def on_signals(self, numbers: Iterable[int], callback: Callable[[], None]) -> None:
        """Call `callback` from the loop after one of the signals arrived."""
        for number in numbers:
            self._signals[number] = callback
            self._previous.setdefault(number, signal.signal(number, lambda *_: None))

    def post(self, callback: Callable[[], None]) -> None:
        """From any thread: call `callback` from the loop, in the order of the posts. Nothing happens after `close`."""
        with self._post_lock:  # else a thread that outlives the loop could write to whatever got the same number
            if self._closed:
                return
            self._posted.append(callback)
            with contextlib.suppress(BlockingIOError):  # full of earlier ones: the loop will wake up anyway
                os.write(self._wake_write, b"\0")

    def later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, `delay_s` seconds from now."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def turn(self) -> None:
        """Sleep until something happened, and call what waits for it."""
        for key, _ in self._selector.select(self._until_next_timer_s()):
            callback: Callable[[], None] = key.data
            # An earlier callback of this round may have removed it.
            if self._selector.get_map().get(key.fd) is key:
                callback()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._previous_wakeup)
        self._selector.close()
        with self._post_lock:
            self._closed = True
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _until_next_timer_s(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _drain_wake(self) -> None:
        try:
            noted = set(os.read(self._wake_read, 4096))
        except BlockingIOError:
            return
        for number in sorted(noted):
            if number == 0:
                for _ in range(len(self._posted)):
                    self._posted.popleft()()
            elif number in self._signals:
                self._signals[number]()
