"""The exception tree."""

from __future__ import annotations

import pickle

import pytest

import zkv
from zkv import errors


def test_the_tree() -> None:
    assert issubclass(errors.UsageError, ValueError)
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.ZkvError)
        assert getattr(zkv, name) is getattr(errors, name)


@pytest.mark.parametrize("name", errors.__all__)
@pytest.mark.parametrize("outcome_unknown", [True, False])
def test_an_error_survives_its_way_out_of_a_worker_process(name: str, outcome_unknown: bool) -> None:
    error = getattr(errors, name)("why", outcome_unknown=outcome_unknown)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == "why"
    assert back.outcome_unknown is outcome_unknown


def test_a_timeout_assumes_the_worst() -> None:
    assert errors.TimedOut("late").outcome_unknown
    assert not errors.Unavailable("nobody").outcome_unknown


def test_the_package_knows_its_names_only() -> None:
    assert "Client" in dir(zkv)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = zkv.no_such_thing
