"""The schedule: the same from the same seed, with everything in it that was asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.schedule import KINDS, NAMES, counts, plan

_SECONDS = st.floats(10.0, 3600.0)
_KILLS = st.integers(1, 300)


@given(st.integers(), _SECONDS, _KILLS)
def test_a_seed_always_gives_the_same_schedule(seed: int, seconds: float, kills: int) -> None:
    assert plan(seed, seconds=seconds, kills=kills) == plan(seed, seconds=seconds, kills=kills)


@given(st.integers(), _SECONDS, _KILLS)
def test_it_has_every_kill_and_at_least_one_of_everything_else_in_order(
    seed: int, seconds: float, kills: int
) -> None:
    actions = plan(seed, seconds=seconds, kills=kills)
    assert counts(actions)["kill"] == kills
    assert {action.kind for action in actions} == {"kill", "migration", *(kind.name for kind in KINDS)}
    assert [action.at for action in actions] == sorted(action.at for action in actions)
    assert all(0 <= action.at <= seconds for action in actions)


@given(st.integers(), st.sampled_from(sorted({*NAMES} - {"kill", "torn tail"})))
def test_what_is_left_out_changes_nothing_of_the_rest(seed: int, kind: str) -> None:
    whole = plan(seed, seconds=120.0, kills=5)
    part = plan(seed, seconds=120.0, kills=5, without=[kind])
    assert part == [action for action in whole if action.kind != kind]


def test_seeds_differ() -> None:
    assert plan(1, seconds=60.0, kills=5) != plan(2, seconds=60.0, kills=5)


def test_torn_tails_can_be_left_out() -> None:
    torn = [action for action in plan(1, seconds=60.0, kills=8) if action.kind == "kill" and action.target]
    assert len(torn) == 2
    without = plan(1, seconds=60.0, kills=8, without=["torn tail"])
    assert not any(action.target for action in without if action.kind == "kill")


def test_an_unknown_action_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no action is called earthquake"):
        plan(1, seconds=60.0, kills=1, without=["earthquake"])
