"""Who has been silent for how long, told by a manager that doubts itself (SAFETY 31).

Silence is only suspicion, and half the time it is the listener who was asleep. So the detector keeps a clock
of its own, the *awake* clock, which advances only while the manager is stepping at its usual pace: all
silences are measured on it. A manager that was stopped for ten seconds finds, when it wakes, nobody any more
silent than before. And where most nodes fall silent together, the likelier cause is the manager's own
network: it waits, until a bound passes or a node that it does hear accuses them too. Proofs of death go past
all of this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from zkv.core.settings import ClusterSettings

DOUBT_FACTOR = 5
"""Mass silence is believed after this many times `dead_ms`."""


class Detector:
    """Silence of the nodes under watch. Call `tick` first in each step, then `heard` for what arrived."""

    def __init__(self, settings: ClusterSettings, now_ms: float) -> None:
        self._heartbeat_ms = settings.heartbeat_ms
        self._suspect_ms = settings.suspect_ms
        self._dead_ms = settings.dead_ms
        self._pause_ms = 2.0 * settings.heartbeat_ms
        self._now_ms = now_ms
        self._paused = False
        self.awake_ms = 0.0
        """Time that counts: it stands still while the manager does."""
        self.doubting = False
        """Whether the last judgement was withheld because most nodes were silent at once."""
        self._heard_ms: dict[int, float] = {}
        self._allowance_ms: dict[int, float] = {}
        self._sign_ms: dict[int, float] = {}

    def tick(self, now_ms: float) -> None:
        """Advance the clock. A gap of more than two heartbeats is the manager's own pause.

        What arrived during a pause may still be on its way through the kernel, so nothing is counted for it.
        Pauses in a row mean a machine so busy that this is the usual pace: each then counts as one heartbeat,
        or else a death would never be seen.
        """
        gap = now_ms - self._now_ms
        self._now_ms = now_ms
        if gap <= self._pause_ms:
            self.awake_ms += max(0.0, gap)
            self._paused = False
        else:
            self.awake_ms += self._heartbeat_ms if self._paused else 0.0
            self._paused = True

    def watch(self, boot: int, allowance_ms: float = 0.0) -> None:
        """Begin to listen for `boot`; until its first heartbeat `allowance_ms` more count as no silence (it
        has yet to connect)."""
        self._heard_ms[boot] = self.awake_ms
        self._allowance_ms[boot] = allowance_ms

    def forget(self, boot: int) -> None:
        """Stop listening for `boot`."""
        for table in (self._heard_ms, self._allowance_ms, self._sign_ms):
            table.pop(boot, None)

    def heard(self, boot: int, heartbeat: bool = True) -> None:
        """A heartbeat, or another sign of life, came from `boot`. Ignored for those not under watch."""
        if boot not in self._heard_ms:
            return
        self._heard_ms[boot] = self._sign_ms[boot] = self.awake_ms
        if heartbeat:
            self._allowance_ms.pop(boot, None)

    def is_speaking(self, boot: int) -> bool:
        """Whether there was a sign of life within `suspect_ms`; being new, or the manager's being new, is
        none."""
        return boot in self._sign_ms and self.awake_ms - self._sign_ms[boot] < self._suspect_ms

    def silence_ms(self, boot: int) -> float:
        """How long `boot` has been silent while the manager was awake; negative within its allowance."""
        return self.awake_ms - self._heard_ms[boot] - self._allowance_ms.get(boot, 0.0)

    def is_quiet(self, boot: int) -> bool:
        """Whether nothing came for `suspect_ms`, allowances aside: worth a probe, if not yet a suspicion."""
        return self.awake_ms - self._heard_ms[boot] >= self._suspect_ms

    def is_fresh(self, boot: int) -> bool:
        """Whether `boot` is under watch and not suspected."""
        return boot in self._heard_ms and self.silence_ms(boot) < self._suspect_ms

    def suspects(self, up: Collection[int]) -> list[int]:
        """Those of `up` that have been silent for `suspect_ms` or more."""
        return [boot for boot in up if self.silence_ms(boot) >= self._suspect_ms]

    def judge(self, up: Collection[int], accused: Callable[[int], bool]) -> list[int]:
        """Those of `up` whose silence counts as death. `accused(boot)`: whether a live node cannot reach it
        either."""
        silent = self.suspects(up)
        self.doubting = len(silent) >= 2 and 2 * len(silent) > len(up)
        bound_ms = self._dead_ms * DOUBT_FACTOR
        return [
            boot
            for boot in silent
            if self.silence_ms(boot) >= self._dead_ms
            and (not self.doubting or self.silence_ms(boot) >= bound_ms or accused(boot))
        ]
