"""The small pure parts: fail points, redaction, submission."""

import dataclasses

import pytest

from controlplane.domain import errors
from controlplane.runs import engine, failpoints, redaction
from controlplane.store import house
from tests.support import runs as support
from tests.support.clock import FakeClock


@pytest.mark.parametrize("text", ["nowhere:1", "before_effect:soon", "before_effect:-1", ":2"])
def test_unknown_fail_point_is_refused(text: str) -> None:
    """A misspelt fail point would be a crash test that never crashes."""
    with pytest.raises(errors.InvalidInputError, match="before_effect"):
        failpoints.read_environment({"DSCTL_FAILPOINT": text})


def test_fail_points_are_inert_by_default() -> None:
    """Without the variable, and at any other point than the armed one, nothing happens."""
    for point in failpoints.Point:
        failpoints.read_environment({}).reach(point)
    armed = failpoints.read_environment({"DSCTL_FAILPOINT": "at_wait:2"})
    armed.reach(failpoints.Point.IN_COMMIT)
    armed.reach(failpoints.Point.AT_WAIT)


@pytest.mark.parametrize("key", ["token", "API_TOKEN", "apiToken", "db-password", "Authorization", "client.secret"])
def test_secret_looking_keys_are_blanked(key: str) -> None:
    """Whatever the spelling, a key with one of the four words hides its value, at any depth."""
    assert redaction.redact({"a": [{key: {"x": 1}}]}) == {"a": [{key: "***"}]}


def test_ordinary_values_stay_and_odd_ones_become_text() -> None:
    """Counts of tokens are no secrets; what JSON cannot hold must not cost the record."""
    odd = {"prompt_tokens": 7, "ratio": float("nan"), "thing": complex(1, 2), 3: (1, None, True)}
    assert redaction.redact(odd) == {"prompt_tokens": 7, "ratio": "nan", "thing": "(1+2j)", "3": [1, None, True]}


async def test_same_dedup_key_is_the_same_run_for_ever(
    driven: engine.RunEngine, store: house.House, clock: FakeClock, note: support.NotingAction
) -> None:
    """A repeated submission gets the first run's id, while that runs and long after it has ended."""
    plan = support.plan(dedup_key="policy:inc_1")
    first = await driven.submit(plan)
    assert await driven.submit(plan) == first
    await support.play_to_end(driven, store, clock, first)
    assert await driven.submit(dataclasses.replace(plan, id="plan_2")) == first
    assert note.sent() == ["flush"]


async def test_second_run_on_a_target_is_refused_with_its_holder(driven: engine.RunEngine) -> None:
    """The refusal names the run that is at work and says what to do; another target is free."""
    first = await driven.submit(support.plan())
    with pytest.raises(errors.ConflictError, match=rf"{first}.*chat/node-1.*cancel"):
        await driven.submit(support.plan())
    assert await driven.submit(support.plan(node="node-2")) != first
