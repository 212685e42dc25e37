"""The words every sentence of the engine is built from, so that people read one voice.

Called by the rooms of the engine. Pure functions.
"""

import shlex
from collections.abc import Mapping

from controlplane.domain import findings as fnd
from controlplane.domain import outcomes

_MINUTE = 60.0
_HOUR = 3600.0
# Below this a minute and some seconds are still told apart: "1 min 30 s", but "12 min".
_SECONDS_MATTER_BELOW = 600.0


def duration(seconds: float) -> str:
    """Return a length of time as people say it.

    >>> duration(0.4), duration(90), duration(750), duration(7260)
    ('0.4 s', '1 min 30 s', '12 min', '2 h 1 min')
    """
    if seconds < _MINUTE:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.0f} s"
    if seconds < _HOUR:
        minutes, rest = divmod(int(seconds), 60)
        return f"{minutes} min {rest} s" if rest and seconds < _SECONDS_MATTER_BELOW else f"{minutes} min"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if rest >= _MINUTE else f"{hours} h"


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


def trouble(finding: fnd.Finding) -> str:
    """Return what is wrong, in one clause: the signal with its numbers, or the summary."""
    if not finding.signal or finding.observed is None:
        return finding.summary or f"{finding.kind} reported by {finding.source}"
    expected = "" if finding.expected is None else f" (expected {finding.expected:.4g})"
    return f"{finding.signal} is {finding.observed:.4g}{expected}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "node"), count(2, "node")
    ('1 node', '2 nodes')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
