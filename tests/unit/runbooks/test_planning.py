"""Planning resolves a request completely, reads its difference, and changes nothing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from actions.node import directory
from controlplane.domain import errors, outcomes, plans, services
from controlplane.runs import planning
from controlplane.runs.language import library
from tests.support import runbooks
from tests.support.clock import FakeClock

NODE_BOOK = """\
apiVersion: dsctl/v1
kind: Runbook
metadata: {name: fix, summary: Fix it}
spec:
  inputs:
    node: {type: node, required: false}
    count: {type: integer, default: 3, minimum: 1}
    share: {type: number, default: 0.5}
    loud: {type: boolean, default: false}
    note: {type: string, default: none}
  steps:
    - {name: grow, action: scale, with: {replicas: "${inputs.count + 1}", pace: "${inputs.note}"}}
    - {name: pause, wait: {seconds: 5}}
  on_failure: [{undo: grow}, {run: calm}, {escalate: oncall}]
"""

WHERE = directory.StaticDirectory({"chat": {"n1": "http://127.0.0.1:1", "n2": "http://127.0.0.1:2"}})
CHAT = services.Service("chat", "dsctl", {"service": "chat"})


def planner(*texts: str, action: runbooks.Recording | None = None, service: services.Service = CHAT) -> Any:
    action = action or runbooks.Recording()
    words = runbooks.words(action)
    books = [library.parse(text, source="x.yaml", words=words) for text in texts]
    return planning.RunbookPlanner(
        runbooks=library.Library({book.name: book for book in books}),
        actions=words.actions,
        managed={service.name: service},
        where=WHERE,
        clock=FakeClock(),
    )


def request(runbook: str = "fix", *, node: str = "", **inputs: outcomes.Json) -> plans.PlanRequest:
    return plans.PlanRequest(runbook, "chat", node, "tester", inputs=inputs)


async def test_a_plan_is_complete() -> None:
    """Parameters are typed values, waits keep their bounds, edges keep their order, nothing was applied."""
    action = runbooks.Recording(blast=plans.BlastRadius(touched=("n2", "n1"), unavailable=("n1",), is_destructive=True))
    plan = await planner(NODE_BOOK, action=action).draft(request(node="n1", note="$(reboot); ${inputs.count}"))
    assert plan.steps == (
        plans.PlannedStep(
            "grow", plans.StepKind.ACTION, 60, "scale", {"replicas": 4, "pace": "$(reboot); ${inputs.count}"}, 3
        ),
        plans.PlannedStep("pause", plans.StepKind.WAIT, 5),
    )
    assert plan.changes == (plans.Change("chat", "replicas", 2, 4),)
    assert plan.blast == plans.BlastRadius(("n1", "n2"), ("n1",), is_destructive=True)
    assert [edge.kind.value for edge in plan.on_failure] == ["undo", "run", "escalate"]
    assert plan.request.inputs["node"] == "n1"
    assert plan.target == "chat/n1"
    assert plan.verify is None
    assert plan.id.startswith("plan_")
    assert action.applied == []


async def test_the_service_is_the_target_when_no_node_is_named() -> None:
    """An input of type node may be left out where the runbook says so."""
    plan = await planner(NODE_BOOK).draft(request())
    assert plan.target == "chat"
    assert plan.request.inputs["node"] == ""


async def test_a_node_given_as_input_is_the_target() -> None:
    """Runs are serialised on it, whichever way it was named."""
    assert (await planner(NODE_BOOK).draft(dataclasses.replace(request(), inputs={"node": "n2"}))).target == "chat/n2"


@pytest.mark.parametrize(
    ("wanted", "kind", "reason"),
    [
        (request("fux"), errors.NotFoundError, "did you mean 'fix'"),
        (dataclasses.replace(request(), service="chatt"), errors.NotFoundError, "did you mean 'chat'"),
        (request(node="n3"), errors.NotFoundError, "no node 'n3'"),
        (request(node="n1", cuont=3), errors.InvalidInputError, "did you mean 'count'"),
        (request(count="3"), errors.InvalidInputError, "expects an integer"),
        (request(count=True), errors.InvalidInputError, "expects an integer"),
        (request(count=0), errors.InvalidInputError, "at least 1"),
        (request(count=2**60), errors.InvalidInputError, "of at most"),
        (request(share=float("nan")), errors.InvalidInputError, "expects a number"),
        (request(loud="yes"), errors.InvalidInputError, "true or false"),
        (request(note="a\x00b"), errors.InvalidInputError, "cannot be printed"),
        (request(note="a" * 1025), errors.InvalidInputError, "1025 characters"),
        (request(note=["a"]), errors.InvalidInputError, "expects text"),
    ],
)
async def test_wrong_requests_are_refused(
    wanted: plans.PlanRequest, kind: type[errors.DsctlError], reason: str
) -> None:
    """Unknown names and values that do not fit are refused, with the nearest right one."""
    with pytest.raises(kind, match=reason):
        await planner(NODE_BOOK).draft(wanted)


async def test_two_different_nodes_in_one_request_are_refused() -> None:
    """Nobody can say which one was meant."""
    wanted = dataclasses.replace(request(node="n1"), inputs={"node": "n2"})
    with pytest.raises(errors.InvalidInputError, match="the request is for 'n1'"):
        await planner(NODE_BOOK).draft(wanted)


async def test_a_needed_node_must_be_named() -> None:
    """The refusal says how."""
    with pytest.raises(errors.InvalidInputError, match="--node"):
        await planner(NODE_BOOK.replace(", required: false", "")).draft(request())


async def test_parameters_that_the_action_refuses_name_the_step() -> None:
    """What only shows with values is still refused before anything runs."""
    text = NODE_BOOK.replace("${inputs.count + 1}", "${inputs.share + 1.0}")
    with pytest.raises(errors.InvalidInputError, match="step grow: replicas"):
        await planner(text).draft(request())


async def test_the_hash_is_of_what_would_happen() -> None:
    """Equal for equal drafts, different for another target, input or runbook; ids, time and asker do not count."""
    draft = planner(NODE_BOOK).draft
    first = await draft(request(node="n1"))
    again = await draft(dataclasses.replace(request(node="n1"), requested_by="other", reason="later"))
    assert (first.hash, first.id != again.id) == (again.hash, True)
    others: Mapping[str, plans.Plan] = {
        "node": await draft(request(node="n2")),
        "input": await draft(request(node="n1", count=4)),
        "runbook": await planner(NODE_BOOK.replace("seconds: 5", "seconds: 6")).draft(request(node="n1")),
    }
    assert len({first.hash, *(plan.hash for plan in others.values())}) == 4


async def test_a_signal_without_a_limit_cannot_be_verified() -> None:
    """The service states what healthy means, or the plan is refused."""
    text = NODE_BOOK.replace(
        "  on_failure", "  verify: {signals: [latency_p99], within: 2m, hold: 30s, control: none}\n  on_failure"
    )
    verify = (await planner(text).draft(request())).verify
    assert verify == plans.VerifySpec(("latency_p99",), 120, 30, use_control=False)

    class Silent(services.Service):
        def _limits(self) -> Mapping[str, Any]:
            return {}

    with pytest.raises(errors.InvalidInputError, match="states no limit"):
        await planner(text, service=Silent("chat", "dsctl", {})).draft(request())
