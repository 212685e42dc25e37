"""Conditions, questions to people, included runbooks and durations: what a runbook may say, and what becomes of it."""

from pathlib import Path

import pytest

from actions.node import directory
from controlplane.domain import errors, outcomes, plans, services
from controlplane.runs import planning
from controlplane.runs.language import library
from tests.support import runbooks
from tests.support.clock import FakeClock

HEAD = "apiVersion: dsctl/v1\nkind: Runbook\nmetadata: {name: NAME, summary: A test's}\nspec:\n"
INPUTS = """\
  inputs:
    node: {type: node, required: false}
    count: {type: integer, default: 2}
    careful: {type: boolean, default: false}
    patience: {type: duration, default: 90s, minimum: 1s, maximum: 1h}
"""
GROW = "    - {name: grow, action: scale, with: {replicas: 2}}\n"
# Included elsewhere: an input of its own, a wait that reads it, a step that undoes another one of it.
BACK = (
    HEAD.replace("NAME", "back-to-work")
    + """\
  inputs: {node: {type: node, required: false}, wanted: {type: integer}}
  steps:
    - {name: grow, action: scale, with: {replicas: "${inputs.wanted}"}, on_failure: [{undo: all}]}
    - name: warm
      wait: {until: "ready_nodes() >= inputs.wanted", timeout: 1m}
      when: inputs.wanted > 1
      on_failure: [{undo: grow}, {run: calm}]
  verify: {signals: [latency_p99], within: 2m, hold: 30s}
  on_failure: [{run: panic}]
"""
)
CALM, PANIC = runbooks.runbook("calm"), runbooks.runbook("panic")
INCLUDES = '    - {name: back, include: back-to-work, with: {wanted: "${inputs.count + 1}"}}\n'


def text(*steps: str, name: str = "a", rest: str = "", inputs: str = INPUTS) -> str:
    return f"{HEAD.replace('NAME', name)}{inputs}  steps:\n{''.join(steps)}{rest}"


def parse(*steps: str, **more: str) -> library.Runbook:
    return library.parse(text(*steps, **more), source="a.yaml", words=runbooks.words())


def load(tmp_path: Path, *texts: str) -> library.Library:
    return library.load(runbooks.words(), shipped=runbooks.write(tmp_path / "books", *texts))


async def draft(tmp_path: Path, *texts: str, node: str = "n1", **inputs: outcomes.Json) -> plans.Plan:
    planner = planning.RunbookPlanner(
        runbooks=load(tmp_path, *texts),
        actions=runbooks.words().actions,
        managed={"chat": services.Service("chat", "dsctl", {"service": "chat"})},
        where=directory.StaticDirectory({"chat": {"n1": "http://127.0.0.1:1"}}),
        clock=FakeClock(),
    )
    given = {name: value for name, value in inputs.items() if value is not None}
    return await planner.draft(plans.PlanRequest("a", "chat", node, "tester", inputs=given))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("{name: x, action: scale, with: {replicas: 2}, when: inputs.cont > 1}", "did you mean 'count'"),
        ("{name: x, action: scale, with: {replicas: 2}, when: inputs.count}", "not true or false"),
        (
            "{name: x, action: scale, with: {replicas: 2}, when: 'signal(\"latency\") > 1.0'}",
            "did you mean 'latency_p99'",
        ),
        ("{name: x, action: scale, with: {replicas: 2}, when: ''}", "at least 1 character"),
        ("{name: x, approval: {prompt: Go on, quorum: 0}}", "greater than or equal to 1"),
        ("{name: x, approval: {prompt: ''}}", "at least 1 character"),
        ("{name: x, approval: {prompt: '${inputs.nod}'}}", "input 'nod' is not declared"),
        (
            "{name: x, approval: {prompt: Go on}, with: {a: 1}}",
            "'with' belongs to action and include, not to approval",
        ),
        ("{name: x, approval: {prompt: Go on}, continue_on_failure: true}", "would be no question"),
        ("{name: x, approval: {prompt: Go on}, wait: {seconds: 3}}", "exactly one of 'action', 'wait', 'approval'"),
        ("{name: x, wait: {seconds: 3}, attempts: 2}", "'attempts' belongs to action, not to wait"),
        ("{name: x, include: b, on_failure: [{escalate: me}]}", "keeps its steps' own"),
        ("{name: x, include: b, when: inputs.careful}", "'when' belongs to action and wait and approval"),
        ("{name: x, include: b, with: {n: '${inputs.cuont}'}}", "did you mean 'count'"),
    ],
)
def test_what_does_not_belong_together_is_refused_with_its_place(step: str, reason: str) -> None:
    """Each kind of step has its own fields; a condition is checked like that of a wait."""
    with pytest.raises(errors.InvalidInputError, match=r"^a\.yaml:1[0-9]: spec\.steps") as caught:
        parse(f"    - {step}\n")
    assert reason in str(caught.value)


def test_only_the_last_step_includes_and_undo_knows_what_can_be_undone() -> None:
    """What follows an include would depend on another file; a question leaves nothing to undo."""
    with pytest.raises(errors.InvalidInputError, match="only the last step may include"):
        parse("    - {name: back, include: b}\n", GROW)
    with pytest.raises(errors.InvalidInputError, match="step 'x' is an approval"):
        parse("    - {name: x, approval: {prompt: Go on}}\n", rest="  on_failure: [{undo: x}]\n")
    assert parse(GROW, rest="  on_failure: [{undo: all}]\n").spec.on_failure[0].undo == "all"


@pytest.mark.parametrize(
    ("books", "reason"),
    [
        (
            (text(INCLUDES.replace("back-to-work", "back-to-wrk")), BACK),
            "11: .*include: no runbook .*did you mean 'back-to-work'",
        ),
        ((text("    - {name: me, include: a}\n"),), "a includes itself; includes go one level deep"),
        ((text("    - {name: b, include: b}\n"), text(INCLUDES, name="b"), BACK), "includes b, which includes another"),
        (
            (text(INCLUDES, inputs="  lane: capacity\n" + INPUTS), BACK),
            "back-to-work works on lane nodes, a on capacity",
        ),
        ((text(INCLUDES.replace("wanted:", "wantd:")), BACK), "has no input 'wantd'; did you mean 'wanted'"),
        ((text(INCLUDES.replace('"${inputs.count + 1}"', "many")), BACK), "with.wanted: expects an integer"),
        ((text("    - {name: back, include: back-to-work}\n"), BACK), "back-to-work needs the input 'wanted'"),
        ((text(INCLUDES, rest="  on_failure: [{undo: back.gro}]\n"), BACK), "did you mean 'back.grow'"),
        ((text(INCLUDES, rest="  on_failure: [{undo: back.warm}]\n"), BACK), "step 'back.warm' cannot be undone"),
        ((text(INCLUDES), BACK.replace("run: calm", "run: a")), "in a circle"),
    ],
)
def test_includes_that_cannot_work_are_refused_when_the_set_is_loaded(
    tmp_path: Path, books: tuple[str, ...], reason: str
) -> None:
    """With file, line and path, and the nearest right name."""
    with pytest.raises(errors.InvalidInputError, match=reason):
        load(tmp_path, *books, CALM, PANIC)


async def test_included_steps_take_the_place_of_the_step_that_includes_them(tmp_path: Path) -> None:
    """Under its name, with their own inputs and undo edges; what is verified, and what follows a failure, is ours."""
    ours = text(GROW, INCLUDES, rest="  on_failure: [{undo: back.grow}, {undo: grow}]\n")
    plan = await draft(tmp_path, ours, BACK, CALM, PANIC)
    assert [step.name for step in plan.steps] == ["grow", "back.grow", "back.warm"]
    first, inner, warm = plan.steps
    assert (first.params["replicas"], inner.params["replicas"], first.inputs) == (2, 3, None)
    assert warm.inputs == {"node": "n1", "wanted": 3}
    assert (warm.when, warm.decided, warm.until) == ("inputs.wanted > 1", True, "ready_nodes() >= inputs.wanted")
    assert [(edge.kind.value, edge.argument) for edge in warm.on_failure or ()] == [
        ("undo", "back.grow"),
        ("run", "calm"),
    ]
    assert [edge.argument for edge in inner.on_failure or ()] == ["all"]
    assert plan.verify is None
    assert [edge.argument for edge in plan.on_failure] == ["back.grow", "grow"]


async def test_the_included_text_is_pinned(tmp_path: Path) -> None:
    """The plan keeps both texts, and its hash changes when the included one says something else."""
    ours = text(INCLUDES)
    before = await draft(tmp_path, ours, BACK, CALM, PANIC)
    assert before.runbook_source == f"{ours.rstrip()}\n---\n{BACK}"
    changed = BACK.replace("summary: A test's", "summary: Another's")
    after = await draft(tmp_path, ours, changed, CALM, PANIC)
    assert (after.steps, after.runbook_digest) == (before.steps, before.runbook_digest)
    assert after.hash != before.hash


async def test_an_included_runbook_works_on_the_node_of_the_run(tmp_path: Path) -> None:
    """A run for the whole service cannot narrow down in its middle: what it touches was planned for all of it."""
    ours = text(INCLUDES.replace("wanted:", "node: n1, wanted:"))
    assert (await draft(tmp_path, ours, BACK, CALM, PANIC)).target == "chat/n1"
    with pytest.raises(
        errors.InvalidInputError, match=r"step back: .*would work on node 'n1', and this run is for the whole"
    ):
        await draft(tmp_path, ours, BACK, CALM, PANIC, node="")


async def test_conditions_that_the_request_decides_are_decided_in_the_plan(tmp_path: Path) -> None:
    """A step that is known to be left out changes nothing and touches nobody; what needs the fleet stays open."""
    steps = (
        "    - {name: grow, action: scale, with: {replicas: 2}, when: inputs.careful}\n",
        "    - {name: more, action: scale, with: {replicas: 3}, when: 'plan.node == \"n1\" && inputs.count == 2'}\n",
        "    - {name: most, action: scale, with: {replicas: 4}, when: 'signal(\"latency_p99\") > 1.0'}\n",
    )
    plan = await draft(tmp_path, text(*steps))
    assert [step.decided for step in plan.steps] == [False, True, None]
    assert [change.after for change in plan.changes] == [3, 4]
    with pytest.raises(errors.InvalidInputError, match="step grow: "):
        await draft(tmp_path, text(steps[0].replace("inputs.careful", "1 / inputs.count > 1")), count=0)


async def test_a_question_is_planned_with_its_words(tmp_path: Path) -> None:
    """The prompt is resolved like a parameter and must be text; quorum and expiry have defaults."""
    ask = "    - {name: ask, approval: {prompt: \"${'Replace ' + inputs.node + '?'}\", quorum: 2, expires: 30m}}\n"
    [step] = (await draft(tmp_path, text(ask))).steps
    assert step == plans.PlannedStep("ask", plans.StepKind.APPROVAL, 1800.0, prompt="Replace n1?", quorum=2)
    [plain] = (await draft(tmp_path, text("    - {name: ask, approval: {prompt: Go on}}\n"))).steps
    assert (plain.prompt, plain.quorum, plain.timeout_seconds) == ("Go on", 1, 3600.0)
    number = "    - {name: ask, approval: {prompt: '${inputs.count}'}}\n"
    with pytest.raises(errors.InvalidInputError, match="step ask: the prompt must be text"):
        await draft(tmp_path, text(number))


WAIT = '    - {name: grow, action: scale, with: {replicas: 2}, when: "inputs.patience > 60.0"}\n'


@pytest.mark.parametrize(("given", "seconds"), [(None, 90.0), ("2m", 120.0), (30, 30.0), (45.5, 45.5)])
async def test_a_duration_is_written_as_one_and_read_in_seconds(
    tmp_path: Path, given: outcomes.Json, seconds: float
) -> None:
    """Also from the default; the seconds that an earlier plan made of it are taken back."""
    plan = await draft(tmp_path, text(WAIT), patience=given)
    assert plan.request.inputs["patience"] == seconds
    assert plan.steps[0].decided is (seconds > 60)


@pytest.mark.parametrize(
    ("given", "reason"),
    [("2h", "at most 3600s"), ("0s", "at least 1s"), ("soon", "is no duration"), (True, "expects a duration")],
)
async def test_other_durations_are_refused(tmp_path: Path, given: outcomes.Json, reason: str) -> None:
    """By type and by bounds."""
    with pytest.raises(errors.InvalidInputError, match=reason):
        await draft(tmp_path, text(WAIT), patience=given)


@pytest.mark.parametrize("bound", ["minimum: 3", "minimum: often", "default: 2h, maximum: 1h"])
def test_bounds_are_written_as_the_values_are(bound: str) -> None:
    """A duration is bounded by durations."""
    with pytest.raises(errors.InvalidInputError, match=r"a\.yaml:6"):
        parse(GROW, inputs=f"  inputs:\n    patience: {{type: duration, {bound}}}\n")
