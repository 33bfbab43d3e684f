"""Adding and draining nodes as the manager advises: `zkv-launch start --autoscale MIN:MAX`.

What is advised has a band in which nothing is (`zkv.core.manager.advice`); here comes the hysteresis in time: the same
advice must last, and after a change there is a pause in which the cluster settles and its figures come to mean
something again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from zkv.local.plan import Autoscale, LaunchError

if TYPE_CHECKING:
    from zkv.local.supervisor import Supervisor

__all__ = ["Autoscaler", "Change", "Scaling"]

_ASK_S: Final = 2.0
_ASK_AT_LEAST_S: Final = 0.1
_ASKED_PART: Final = 4
"""The manager is asked at least so often while an advice has to last."""


class Change(NamedTuple):
    """What is to be done now."""

    drain: str | None
    """The node to be drained; None where one is to be added."""
    why: str


class Autoscaler:
    """Turns a series of advices into changes. Times are seconds of a clock that only grows."""

    def __init__(self, bounds: Autoscale) -> None:
        self._bounds = bounds
        self.interval_s = min(_ASK_S, max(_ASK_AT_LEAST_S, bounds.hold_s / _ASKED_PART))
        """At which the manager is to be asked."""
        self._advice = "none"
        self._since_s = 0.0
        self._heard_s = float("-inf")
        self._quiet_until_s = float("-inf")

    def advised(self, answer: Mapping[str, Any], now_s: float) -> Change | None:
        """The manager's "advise" answer: what is to be done about it now."""
        bounds, nodes = self._bounds, int(answer["figures"].get("nodes", 0))
        advice, why = str(answer["advice"]), str(answer["reason"])
        if 0 < nodes < bounds.low:
            advice, why = "add", f"there are fewer than {bounds.low} nodes"
        elif (advice == "add" and nodes >= bounds.high) or (advice == "drain" and nodes <= bounds.low):
            advice = "none"
        # Nobody knows what was advised while the manager did not answer.
        unbroken = now_s - self._heard_s <= 3 * self.interval_s
        self._heard_s = now_s
        if advice != self._advice or not unbroken:
            self._advice, self._since_s = advice, now_s
        if advice == "none" or now_s < self._quiet_until_s or now_s - self._since_s < bounds.hold_s:
            return None
        self._quiet_until_s = now_s + bounds.cooldown_s
        self._advice = "none"
        lasted = f"{why}, for {now_s - self._since_s:.3g} s"
        return Change(str(answer["node"]) if advice == "drain" else None, lasted)


class Scaling:
    """The launcher's side: asks, decides, and has it done."""

    def __init__(self, bounds: Autoscale, supervisor: Supervisor) -> None:
        self._bounds = bounds
        self._supervisor = supervisor
        self._autoscaler = Autoscaler(bounds)

    def begin(self) -> None:
        """Ask from now on, again and again."""
        self._supervisor.later(self._autoscaler.interval_s, self._ask)

    def _ask(self) -> None:
        self._supervisor.talk.ask(lambda link: link.advise(), self._advised, lambda _: self.begin())

    def _advised(self, answer: Mapping[str, Any]) -> None:
        change = self._autoscaler.advised(answer, time.monotonic())
        if change is not None:
            self._carry_out(change)
        self.begin()

    def _carry_out(self, change: Change) -> None:
        supervisor, name = self._supervisor, change.drain
        if name is None:
            try:
                (name,) = supervisor.nodes.add(1)
            except LaunchError as error:
                supervisor.say(f"autoscale cannot add a node: {error}")
                return
            supervisor.say(f"autoscale adds {name}: {change.why} (at most {self._bounds.high} nodes)")
        else:
            supervisor.say(f"autoscale drains {name}: {change.why} (at least {self._bounds.low} nodes)")
            supervisor.talk.ask(
                lambda link: link.drain(name), lambda _: None, lambda why: supervisor.say(f"no drain of {name}: {why}")
            )
