"""The judge of the run engine: what it lets pass, and what it blames."""

import json
from pathlib import Path

import pytest

from benchmarks import run_load, run_oracle, run_target
from controlplane.domain import plans
from controlplane.store import codec
from tests.support import clock

Fate = run_target.Fate
STARTED = {"key": "r1:one", "attempt": 1}


def _send(token: int = 1, attempt: int = 1, *, key: str = "r1:one", verb: str = "apply", honours: bool = True) -> str:
    values = {"verb": verb, "key": key, "token": token, "attempt": attempt, "payload": "one", "honours_keys": honours}
    return json.dumps(values)


def _event(number: int, kind: str, token: int = 1, step: str = "one", data: object = None) -> dict[str, object]:
    return {
        "run_id": "r1",
        "number": number,
        "at": clock.START,
        "kind": kind,
        "step": step,
        "token": token,
        "data": data,
    }


def _judge(events: list[dict[str, object]], *lines: str, state: str = "failed", accepted: tuple[str, ...] = ("r1",)):
    plan = codec.to_json(run_load.make_plan(0, "node-1"))
    row = {"id": "r1", "plan": plan, "state": state, "step": 0, "target": "chat/node-1"}
    log = run_oracle.Log({"r1": row}, {"r1": events}, 0)
    return run_oracle.judge(log, run_target.replay(lines, "node-1"), accepted, is_over=True)


GOOD = [_event(1, "step_started", data=STARTED), _event(2, "step_finished"), _event(3, "ended", step="")]


def test_a_run_that_kept_every_promise_is_not_blamed():
    """Announced, sent once, finished once, ended once."""
    assert _judge(GOOD, _send()).is_clean


@pytest.mark.parametrize(
    ("what", "events", "lines", "more"),
    [
        ("lost", GOOD, [_send()], {"accepted": ("r1", "r2")}),
        ("stuck", GOOD[:2], [_send()], {"state": "running"}),
        ("unannounced_repeats", GOOD, [_send(), _send()], {}),
        ("unannounced_repeats", GOOD, [_send(token=2)], {}),
        ("double_effects", GOOD, [_send(honours=False), _send(honours=False)], {}),
        ("double_effects", GOOD, [_send(), _send(key="r1:one:again")], {}),
        ("stale_sends", GOOD, [_send(token=2, verb="probe"), _send(token=1)], {}),
        ("invented", GOOD, [], {}),
        ("refinished", [*GOOD[:2], _event(3, "step_finished"), _event(4, "ended")], [_send()], {}),
        ("refinished", [*GOOD, _event(4, "ended", step="")], [_send()], {}),
        ("tokens_backwards", [_event(1, "reclaimed", token=2, step=""), *GOOD[1:]], [], {}),
        ("log_gaps", [GOOD[0], GOOD[2]], [_send()], {}),
        ("out_of_order", GOOD, [_send(key="r1:two"), _send()], {}),
    ],
)
def test_each_broken_promise_has_its_count(what, events, lines, more):
    """Whatever else it upsets, the promise itself is named."""
    assert getattr(_judge(events, *lines, **more), what) > 0


def test_the_target_remembers_keys_and_the_newest_owner():
    """A key that is known is no second effect, and an older token than one that looked or acted is refused."""
    lines = [_send(), _send(attempt=2), _send(token=3, verb="probe"), _send(token=2, attempt=3)]
    assert [one.fate for one in run_target.replay(lines)] == [Fate.EFFECT, Fate.REPEAT, Fate.LOOK, Fate.STALE]


def test_runs_that_mix_on_one_target_are_noticed():
    """A, B, A among the effects that the log knows means that both held the target at once."""
    arrivals = run_target.replay([_send(), _send(key="r2:one"), _send(key="r1:two", token=1)], "node-1")
    row = {"plan": codec.to_json(run_load.make_plan(0, "node-1")), "state": "failed", "step": 0}
    events = {
        run: [_event(1, "step_finished"), _event(2, "step_finished", step="two"), _event(3, "ended")]
        for run in ("r1", "r2")
    }
    log = run_oracle.Log({run: {"id": run, **row} for run in events}, events, 0)
    assert run_oracle.judge(log, arrivals, events, is_over=True).over_slot == 1


def test_every_kind_of_step_and_edge_is_in_the_load(tmp_path: Path):
    """The kills come at steps, waits, verification, undo and follow-ups, and at every way back in."""
    made = [run_load.make_plan(number, "node-1") for number in range(len(run_load.SHAPES))]
    actions = run_load.make_actions(run_target.Target(tmp_path), clock.FakeClock(), 0.0)
    used = {actions[step.action].spec.reentry for plan in made for step in plan.steps if step.action}
    assert used == set(plans.Reentry)
    assert {edge.kind for plan in made for edge in plan.on_failure} == set(plans.EdgeKind)
    assert any(plan.verify for plan in made)
    assert {bool(step.until) for plan in made for step in plan.steps if step.kind is plans.StepKind.WAIT} == {
        True,
        False,
    }
