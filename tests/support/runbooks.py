"""Builders for runbook and planning tests: a text that is right, a vocabulary, and an action that records."""

from collections.abc import Mapping
from pathlib import Path

from actions import api, params
from controlplane.domain import errors, outcomes, plans
from controlplane.runs.language import checks

SIGNALS = ("cache_wrong_ratio", "latency_p99", "queue_depth", "success_ratio")

GOOD = """\
apiVersion: dsctl/v1
kind: Runbook
metadata: {name: scale-out, summary: Add nodes ahead of demand}
spec:
  inputs:
    service: {type: service}
    replicas: {type: integer, minimum: 1, maximum: 64}
    pace: {type: enum, values: [slow, fast], default: slow}
  steps:
    - {name: grow, action: scale, with: {replicas: "${inputs.replicas}", pace: "${inputs.pace}"}, timeout: 2m}
    - {name: settle, wait: {until: "ready_nodes() >= inputs.replicas", timeout: 10m}}
  verify: {signals: [latency_p99, queue_depth], within: 5m, hold: 2m, control: untouched-nodes}
  on_failure: [{undo: grow}, {escalate: oncall}]
"""


def runbook(name: str, *, follow_up: str = "", override: bool = False) -> str:
    """A short runbook of a given name."""
    edges = f"[{{run: {follow_up}}}]" if follow_up else "[{escalate: oncall}]"
    return (
        f"apiVersion: dsctl/v1\nkind: Runbook\n"
        f"metadata: {{name: {name}, summary: About {name}, override: {str(override).lower()}}}\n"
        f"spec:\n  steps: [{{name: pause, wait: {{seconds: 5}}}}]\n  on_failure: {edges}\n"
    )


def write(directory: Path, *texts: str) -> Path:
    """Write runbooks into a directory, one file each."""
    directory.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (directory / f"{number:02}.yaml").write_text(text, encoding="utf-8")
    return directory


class _ScaleParams(params.Params):
    replicas: int
    pace: str = "slow"


class Recording:
    """An action without a target; `applied` counts what it was asked to do."""

    def __init__(
        self, name: str = "scale", *, is_reversible: bool = True, blast: plans.BlastRadius | None = None
    ) -> None:
        self.applied: list[Mapping[str, outcomes.Json]] = []
        self._name = name
        self._is_reversible = is_reversible
        self._blast = blast or plans.BlastRadius()

    @property
    def spec(self) -> api.ActionSpec:
        return api.ActionSpec(
            self._name,
            "Set replicas",
            plans.Reentry.IDEMPOTENT,
            self._is_reversible,
            False,
            params.schema(_ScaleParams),
        )

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        return self._blast

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        _check(params)
        return (plans.Change(scope.service, "replicas", 2, params["replicas"]),)

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        self.applied.append(params)
        return api.ActionResult("done")

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        return api.CannotTell("nobody looked")

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        raise errors.GiveUpError("not here")


def _check(given: api.Params) -> None:
    params.parse(_ScaleParams, given)


def words(*actions: api.Action) -> checks.Vocabulary:
    """A vocabulary of the given actions, or of `scale` alone."""
    known = actions or (Recording(),)
    return checks.Vocabulary({action.spec.name: action for action in known}, SIGNALS)
