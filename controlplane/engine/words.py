"""The words every sentence of the engine is built from, so that people read one voice.

Called by the rooms of the engine. Pure functions.
"""

import shlex
from collections.abc import Mapping

from controlplane.domain import findings as fnd
from controlplane.domain import outcomes, policies


def target(service: str, node: str) -> str:
    """Return `service/node`, or the service alone."""
    return f"{service}/{node}" if node else service


def command(runbook: str, service: str, node: str, inputs: Mapping[str, outcomes.Json] | None = None) -> str:
    """Return the command line that asks for a runbook, quoted for a shell: names come from labels.

    >>> command("flush-cache", "chat", "node-a; rm")
    "dsctl remediate flush-cache --node 'node-a; rm'"
    >>> command("scale-out", "chat", "", {"replicas": 5})
    'dsctl remediate scale-out --service chat --input replicas=5'
    """
    scope = ["--node", node] if node else ["--service", service]
    # The target fills inputs that name it.
    given = {name: value for name, value in (inputs or {}).items() if value not in (service, node)}
    named = [part for name, value in given.items() for part in ("--input", f"{name}={value}")]
    return shlex.join(["dsctl", "remediate", runbook, *scope, *named])


def approval(run_id: str) -> str:
    """Return the command line that shows what a run asks, and answers it."""
    return shlex.join(["dsctl", "runs", "approve", run_id])


def with_demotion(sentence: str, policy: policies.Policy) -> str:
    """Return a sentence about a policy, with why it may no longer do what its file says, if that is so."""
    return f"{sentence}; {policy.demoted}" if policy.demoted else sentence


def trouble(finding: fnd.Finding) -> str:
    """Return what is wrong, in one clause: the signal with its numbers, or the summary."""
    if not finding.signal or finding.observed is None:
        return finding.summary or f"{finding.kind} reported by {finding.source}"
    expected = "" if finding.expected is None else f" (expected {finding.expected:.4g})"
    return f"{finding.signal} is {finding.observed:.4g}{expected}"
