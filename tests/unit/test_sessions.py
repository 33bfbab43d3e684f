"""What replicas remember of a client's writes (rule 24)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkv.core import wire
from zkv.core.node import sessions as module
from zkv.core.node.sessions import RECORDS_LIMIT, Session, SessionPart, Sessions, status_of_unknown


def found(sessions: Sessions, client: int, batch: int, index: int) -> int | None:
    session = sessions.find(client)
    record = session.records.get(batch) if session else None
    found = record.find(index) if record else None
    return found[0] if found else None


def test_an_operation_is_found_by_client_batch_and_index() -> None:
    sessions = Sessions(1000)
    sessions.remember(1, 1, 0, None, [0, 0], [10, 11], 0.0)
    sessions.remember(1, 2, 0, [3, 5], [0, 0], [12, 13], 0.0)
    assert (found(sessions, 1, 1, 0), found(sessions, 1, 1, 1)) == (10, 11)
    assert (found(sessions, 1, 2, 3), found(sessions, 1, 2, 5)) == (12, 13)
    assert found(sessions, 1, 2, 0) is found(sessions, 1, 1, 2) is found(sessions, 2, 1, 0) is None


def test_parts_of_one_batch_are_merged_also_after_a_look_up() -> None:
    sessions = Sessions(1000)
    sessions.remember(1, 1, 0, [0], [0], [10], 0.0)
    assert found(sessions, 1, 1, 1) is None
    sessions.remember(1, 1, 0, [1], [0], [20], 0.0)
    sessions.remember(1, 1, 0, [0], [0], [10], 0.0)  # a tail that was sent again
    assert (found(sessions, 1, 1, 0), found(sessions, 1, 1, 1)) == (10, 20)


def test_the_watermark_forgets_and_refuses_what_is_below_it() -> None:
    sessions = Sessions(1000)
    for batch in (1, 2, 3):
        sessions.remember(1, batch, 0, None, [0], [batch], 0.0)
    session = sessions.open(1, 3, 0.0)
    assert list(session.records) == [3]
    assert status_of_unknown(session, 2) == wire.EXPIRED
    assert status_of_unknown(session, 3) == wire.OK
    sessions.remember(1, 2, 3, None, [0], [9], 0.0)
    assert found(sessions, 1, 2, 0) is None


def test_the_watermark_never_goes_back() -> None:
    sessions = Sessions(1000)
    sessions.open(1, 5, 0.0)
    assert sessions.open(1, 2, 0.0).watermark == 5
    sessions.remember(1, 7, 4, None, [0], [1], 0.0)
    assert sessions.open(1, 0, 0.0).watermark == 5


def test_one_client_may_have_so_many_batches_open() -> None:
    session = Session()
    sessions = Sessions(1000)
    for batch in range(RECORDS_LIMIT):
        sessions.remember(1, batch, 0, None, [0], [1], 0.0)
    session = sessions.open(1, 0, 0.0)
    assert status_of_unknown(session, RECORDS_LIMIT) == wire.MAYBE
    assert status_of_unknown(session, RECORDS_LIMIT - 1) == wire.OK, "it is one of those it has"


def test_a_silent_client_is_forgotten_and_one_that_speaks_is_not() -> None:
    sessions = Sessions(1000)
    sessions.remember(1, 1, 0, None, [0], [1], 0.0)
    sessions.remember(2, 1, 0, None, [0], [1], 0.0)
    sessions.open(1, 0, 900.0)
    sessions.expire(999.0)
    assert len(sessions) == 2
    sessions.expire(1000.0)
    assert sessions.find(2) is None
    assert found(sessions, 1, 1, 0) == 1


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8), st.sets(st.integers(0, 3), min_size=1)), max_size=25))
def test_every_replica_that_saw_the_parts_answers_alike(parts: list[tuple[int, int, set[int]]]) -> None:
    sessions, model, version = Sessions(1000), dict[tuple[int, int], int](), 0
    watermark = 0
    for batch, mark, indices in parts:
        watermark = max(watermark, mark)
        chosen = sorted(indices)
        versions = [model.get((batch, index), version + index + 1) for index in chosen]
        version += 4
        sessions.remember(7, batch, mark, chosen, [0] * len(versions), versions, 0.0)
        if batch >= watermark:
            model.update(((batch, index), v) for index, v in zip(chosen, versions, strict=True))
        for (known_batch, index), known in model.items():
            if known_batch >= watermark:
                assert found(sessions, 7, known_batch, index) == known


def test_results_are_remembered_beside_versions() -> None:
    sessions = Sessions(1000)
    sessions.remember(1, 1, 0, [4, 7], [0, 1], [10, 11], 0.0, ["former", None])
    session = sessions.find(1)
    assert session is not None
    record = session.records[1]
    assert (record.find(4), record.find(7), record.find(5)) == ((10, "former"), (11, None), None)
    part = record.of_shards({0})
    assert part == SessionPart((4,), (0,), (10,), ("former",))
    record.forget({0})
    assert (record.find(4), record.find(7)) == (None, (11, None))


def test_rows_and_parts_are_each_other_s_inverse() -> None:
    part = SessionPart(None, [3, 4], [10, 11])
    assert SessionPart.of_rows(list(part.rows())) == SessionPart((0, 1), (3, 4), (10, 11))


def test_results_have_a_bound_and_the_oldest_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESULTS_BYTES", 1000)
    sessions = Sessions(1000)
    for batch in range(1, 30):
        sessions.remember(1, batch, 0, None, [0], [batch], 0.0, ["x" * 100])
    session = sessions.find(1)
    assert session is not None
    forgetful = [batch for batch, record in session.records.items() if record.forgetful]
    assert forgetful == list(range(1, len(forgetful) + 1)), "oldest first"
    kept = [record.find(0) for record in session.records.values() if not record.forgetful]
    assert 5 <= len(kept) <= 10
    assert all(found == (batch, "x" * 100) for batch, found in zip(range(30 - len(kept), 30), kept, strict=True))
    assert all(session.records[batch].find(0) == (batch, None) for batch in forgetful), "what was done stays known"


def test_results_that_are_forgotten_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESULTS_BYTES", 1000)
    sessions = Sessions(1000)
    for batch in range(1, 1000):
        sessions.remember(1, batch, batch, None, [0], [batch], 0.0, ["x" * 100])
    session = sessions.find(1)
    assert session is not None
    assert not any(record.forgetful for record in session.records.values())
    assert len(sessions._bulky) < 30


def test_lone_results_leave_nothing_behind() -> None:
    """Found by attack: the names of forgotten records were kept until their results would have filled the bound."""
    sessions = Sessions(1000)
    for batch in range(1, 20_000):
        sessions.remember(1, batch, batch, None, [0], [batch], 0.0, [batch])
    assert len(sessions._bulky) <= 2 * module.BULKY_SPARE
