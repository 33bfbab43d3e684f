"""The detector's two doubts: about its own pauses, and about everyone falling silent at once."""

from __future__ import annotations

from collections.abc import Iterable

from zkv.core.manager.detector import Detector
from zkv.core.settings import ClusterSettings

SETTINGS = ClusterSettings(nodes=5, heartbeat_ms=100, suspect_ms=400, dead_ms=800)


class Timeline:
    """A detector stepped every 50 ms, watching nodes 1 to `nodes`."""

    def __init__(self, nodes: int = 5) -> None:
        self.now_ms = 0.0
        self.detector = Detector(SETTINGS, 0.0)
        self.up = list(range(1, nodes + 1))
        self.accused: set[int] = set()
        for boot in self.up:
            self.detector.watch(boot)

    def run(self, duration_ms: float, speaking: Iterable[int] = ()) -> list[int]:
        """Time passes, `speaking` are heard; who is judged dead at its end."""
        speaking = list(speaking)
        for _ in range(int(duration_ms // 50)):
            self.tick(50, speaking)
        return self.judge()

    def tick(self, gap_ms: float, speaking: Iterable[int] = ()) -> None:
        self.now_ms += gap_ms
        self.detector.tick(self.now_ms)
        for boot in speaking:
            self.detector.heard(boot)

    def judge(self) -> list[int]:
        return self.detector.judge(self.up, self.accused.__contains__)


def test_silence_is_first_suspicious_then_deadly() -> None:
    line = Timeline()
    assert line.run(350, [2, 3, 4, 5]) == []
    assert line.detector.suspects(line.up) == []
    assert line.run(50, [2, 3, 4, 5]) == []
    assert line.detector.suspects(line.up) == [1]
    assert line.run(350, [2, 3, 4, 5]) == []
    assert line.run(50, [2, 3, 4, 5]) == [1]


def test_a_pause_of_the_listener_is_nobodys_silence() -> None:
    line = Timeline()
    line.run(750, [2, 3, 4, 5])
    line.tick(60_000)
    assert line.judge() == []
    assert line.detector.silence_ms(1) == 750
    line.tick(50)
    assert line.judge() == [1]


def test_a_listener_that_is_always_late_counts_a_heartbeat_each_time() -> None:
    line = Timeline()
    for _ in range(8):
        line.tick(1000, [2, 3, 4, 5])
        assert line.judge() == []
    line.tick(1000, [2, 3, 4, 5])
    assert line.judge() == [1]


def test_mass_silence_is_believed_after_a_bound() -> None:
    line = Timeline()
    assert line.run(3950, [4, 5]) == []
    assert line.detector.doubting
    assert line.run(50, [4, 5]) == [1, 2, 3]


def test_mass_silence_is_believed_of_those_that_a_live_node_accuses() -> None:
    line = Timeline()
    line.accused = {2}
    assert line.run(1000, [4, 5]) == [2]


def test_half_is_not_most_and_one_is_not_many() -> None:
    assert Timeline(4).run(800, [1, 2]) == [3, 4]
    assert Timeline(1).run(800) == [1]
    assert Timeline(2).run(800) == []


def test_an_allowance_ends_with_the_first_heartbeat() -> None:
    line = Timeline(2)
    line.detector.watch(1, allowance_ms=1500)
    assert line.run(2250, [2]) == []
    assert line.run(50, [2]) == [1]

    line = Timeline(2)
    line.detector.watch(1, allowance_ms=1500)
    line.detector.heard(1, heartbeat=False)
    assert line.run(1000, [2]) == []
    line.detector.heard(1)
    assert line.run(800, [2]) == [1]


def test_being_new_is_not_speaking() -> None:
    line = Timeline(1)
    assert line.detector.is_fresh(1)
    assert not line.detector.is_speaking(1)
    line.detector.heard(1, heartbeat=False)
    assert line.detector.is_speaking(1)
    line.detector.forget(1)
    assert not line.detector.is_speaking(1)
    line.detector.heard(1)
    assert not line.detector.is_fresh(1), "not under watch any more"
