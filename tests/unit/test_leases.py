"""Both sides of the grants between peers (rules 11, 12, 15)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zkv.core.node.leases import ASKED_LIMIT, LATER_LIMIT, Given, Leases

NEVER = float("-inf")


def test_a_grant_runs_from_the_sending_of_its_request() -> None:
    leases = Leases(600)
    token = leases.ask(1, 100.0)
    leases.ask(1, 200.0)
    assert leases.granted(1, token, 1, 1)
    assert leases.until_ms([1], 1) == 700.0
    assert leases.heard_ms(1) == 100.0
    assert leases.asked_ms(1) == 200.0


def test_all_peers_must_have_granted_and_the_earliest_end_counts() -> None:
    leases = Leases(600)
    for peer, now_ms in ((1, 100.0), (2, 50.0)):
        leases.granted(peer, leases.ask(peer, now_ms), 1, 1)
    assert leases.until_ms([1, 2], 1) == 650.0
    assert leases.until_ms([1, 2, 3], 1) == NEVER
    assert leases.until_ms([], 1) == float("inf")


def test_a_grant_answers_one_question_of_one_peer() -> None:
    leases = Leases(600)
    token = leases.ask(1, 100.0)
    assert not leases.granted(2, token, 1, 1)
    assert not leases.granted(1, token + 1, 1, 1)
    assert leases.granted(1, token, 1, 1)
    assert not leases.granted(1, token, 1, 1), "a duplicate"


def test_a_grant_counts_only_for_changes_that_its_grantor_knew() -> None:
    leases = Leases(600)
    leases.granted(1, leases.ask(1, 0.0), 4, 5)
    assert leases.until_ms([1], 4) == 600.0
    assert leases.until_ms([1], 5) == NEVER


def test_a_grant_by_a_newer_map_counts_once_the_holder_has_caught_up() -> None:
    leases = Leases(600)
    leases.granted(1, leases.ask(1, 0.0), 1, 1)
    leases.granted(1, leases.ask(1, 100.0), 3, 1)
    assert leases.until_ms([1], 1) == 600.0, "it does not replace the one that counts"
    leases.caught_up(2)
    assert leases.until_ms([1], 1) == 600.0
    leases.caught_up(3)
    assert leases.until_ms([1], 3) == 700.0


def test_an_answer_that_overtook_a_later_one_shortens_nothing() -> None:
    leases = Leases(600)
    first, second = leases.ask(1, 0.0), leases.ask(1, 100.0)
    leases.granted(1, second, 1, 1)
    leases.granted(1, first, 1, 1)
    assert leases.until_ms([1], 1) == 700.0
    assert leases.heard_ms(1) == 100.0


def test_what_is_remembered_of_a_peer_is_bounded() -> None:
    leases = Leases(600)
    tokens = [leases.ask(1, float(number)) for number in range(ASKED_LIMIT + 5)]
    assert not leases.granted(1, tokens[4], 1, 1), "its question is forgotten"
    for token in tokens[5:]:
        assert leases.granted(1, token, 9, 1)
    assert len(leases._peers[1].later) == LATER_LIMIT
    leases.caught_up(9)
    assert leases.until_ms([1], 9) == 600.0 + ASKED_LIMIT + 4, "the newest were kept"


def test_a_forgotten_peer_has_granted_nothing() -> None:
    leases = Leases(600)
    leases.granted(1, leases.ask(1, 0.0), 1, 1)
    leases.forget([1, 2])
    assert leases.until_ms([1], 1) == NEVER
    assert (leases.asked_ms(1), leases.heard_ms(1)) == (NEVER, NEVER)


grants = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30)


@given(grants, st.integers(0, 5))
def test_the_holder_never_believes_in_more_than_was_granted(history: list[tuple[int, bool]], changed: int) -> None:
    """Whatever the order of grants and new maps: what counts was granted by a map between the change and ours."""
    leases = Leases(600)
    own = 0
    given_out: list[tuple[int, float]] = []
    for step, (version, learns) in enumerate(history):
        now_ms = 10.0 * step
        if learns:
            own = max(own, version)
            leases.caught_up(own)
        else:
            leases.granted(1, leases.ask(1, now_ms), version, own)
            given_out.append((version, now_ms + 600))
        counting = [until for version, until in given_out if changed <= version <= own]
        assert leases.until_ms([1], changed) <= max(counting, default=NEVER)


def test_a_successor_waits_from_the_last_grant_to_the_former_primary() -> None:
    given_out = Given()
    given_out.joined(0, 10.0)
    given_out.grant(1, 100.0)
    given_out.grant(2, 500.0)
    given_out.primary_changed(0, 1)
    given_out.grant(1, 900.0)  # for other shards that we share
    assert given_out.wait_from_ms(0) == 100.0


def test_it_waits_for_every_former_primary_it_knew() -> None:
    given_out = Given()
    given_out.grant(1, 300.0)
    given_out.primary_changed(0, 1)
    given_out.grant(2, 200.0)
    given_out.primary_changed(0, 2)
    given_out.primary_changed(0, 3)  # never granted anything
    assert given_out.wait_from_ms(0) == 300.0
    assert given_out.wait_from_ms(1) == NEVER


def test_it_waits_from_its_joining_at_least_and_forgets_with_leaving() -> None:
    given_out = Given()
    given_out.grant(1, 100.0)
    given_out.primary_changed(0, 1)
    given_out.joined(0, 400.0)
    assert given_out.wait_from_ms(0) == 400.0
    given_out.left(0)
    assert given_out.wait_from_ms(0) == NEVER
    assert given_out.granted_ms(1) == 100.0
    given_out.forget([1])
    assert given_out.granted_ms(1) == NEVER
