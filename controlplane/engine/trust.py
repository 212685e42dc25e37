"""What a record of runs is worth: the ledger, when it takes autonomy away from a policy, and when it earns some.

Called by `autonomy`, which reads and writes the records. Taking away happens at once and by itself, giving only by a
person's hand; so a demotion asks for little proof, and a proposal for much. Shares of few runs say little, and their
95 % interval says how little: a proposal looks at its lower bound, a demotion at its upper one. It is Wilson's ("Probable
Inference, the Law of Succession, and Statistical Inference", Journal of the American Statistical Association 22, 1927),
which stays inside 0 and 1 and does not collapse when every run recovered. Pure functions.

Verdicts other than recovered, not recovered and worse count neither way. It works badly for a runbook whose success
depends on the service: a policy is judged over all of its services together.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from controlplane import phrases
from controlplane.domain import outcomes, policies, trust
from controlplane.engine import config

# 97.5 % of a normal distribution lie below it.
_Z = 1.959964
# What a demotion by share looks at: a hundred good runs of last month must not hide that it works no longer.
RECENT_RUNS = 50
# Who writes what nobody asked for.
AUTHOR = "dsctl"
_JUDGED = frozenset({outcomes.Verdict.RECOVERED, outcomes.Verdict.NOT_RECOVERED, outcomes.Verdict.WORSE})
_DOWN = {policies.Mode.AUTO: policies.Mode.APPROVE, policies.Mode.APPROVE: policies.Mode.SUGGEST}
_UP = {policies.Mode.SUGGEST: policies.Mode.APPROVE, policies.Mode.APPROVE: policies.Mode.AUTO}


def share(part: int, whole: int) -> trust.Share | None:
    """Return a share with its interval; None of nothing.

    >>> found = share(8, 10)
    >>> round(found.low, 3), round(found.high, 3)
    (0.49, 0.943)
    """
    if whole == 0:
        return None
    ratio, weight = part / whole, _Z**2 / whole
    middle = (ratio + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(ratio * (1 - ratio) / whole + weight / (4 * whole)) / (1 + weight)
    return trust.Share(ratio, max(0.0, middle - half), min(1.0, middle + half))


def count(deeds: Sequence[trust.Deed]) -> trust.Ledger:
    """Return the ledger of some runs."""
    verdicts = [deed.verdict for deed in deeds]
    num = {verdict: verdicts.count(verdict) for verdict in (*outcomes.Verdict, None)}
    cured = [deed for deed in deeds if deed.verdict is outcomes.Verdict.RECOVERED]
    judged = sum(num[verdict] for verdict in _JUDGED)
    return trust.Ledger(
        runs=len(deeds),
        recovered=len(cured),
        not_recovered=num[outcomes.Verdict.NOT_RECOVERED],
        worse=num[outcomes.Verdict.WORSE],
        unknown=num[outcomes.Verdict.UNKNOWN],
        unjudged=num[None],
        success=share(len(cured), judged),
        to_recover=_spread([_seconds(deed.acted_at, deed.ended_at) for deed in cured]),
        of_incident=_spread([_seconds(deed.opened_at, deed.ended_at) for deed in cured if deed.opened_at is not None]),
        last_at=max((deed.ended_at for deed in deeds), default=None),
    )


def book(deeds: Sequence[trust.Deed]) -> trust.Book:
    """Return the ledger of some runs with its parts."""
    return trust.Book(
        count(deeds),
        services=_parts(deeds, lambda deed: deed.service),
        policies=_parts(deeds, lambda deed: deed.policy or ""),
    )


def _parts(deeds: Sequence[trust.Deed], name: Callable[[trust.Deed], str]) -> dict[str, trust.Ledger]:
    groups: dict[str, list[trust.Deed]] = {}
    for deed in deeds:
        groups.setdefault(name(deed), []).append(deed)
    return {key: count(groups[key]) for key in sorted(groups)}


def _seconds(start: datetime, end: datetime) -> float:
    """Return the time between two stored instants; never negative, however the clock was set between them."""
    return max(0.0, (end - start).total_seconds())


def _spread(seconds: Sequence[float]) -> trust.Spread | None:
    """Return the median, and the least time that nine in ten did not exceed."""
    if not seconds:
        return None
    return trust.Spread(statistics.median(seconds), sorted(seconds)[math.ceil(0.9 * len(seconds)) - 1])


def apply(policy: policies.Policy, standing: trust.Trust) -> policies.Policy:
    """Return the policy as it may act now: never further than its demotion allows, nor than it went before."""
    if standing.demotion is None:
        return policy
    mode = config.capped(policy.mode, standing.demotion.mode)
    return policy if mode is policy.mode else dataclasses.replace(policy, mode=mode, demoted=standing.demotion.sentence)


def counted(deeds: Iterable[trust.Deed], standing: trust.Trust) -> list[trust.Deed]:
    """Return the runs that a person's reset has not put aside."""
    return [deed for deed in deeds if standing.counts_from is None or deed.ended_at > standing.counts_from]


def find_demotion(
    policy: policies.Policy,
    own: Sequence[trust.Deed],
    standing: trust.Trust,
    thresholds: trust.Thresholds,
    now: datetime,
) -> trust.Entry | None:
    """Return the demotion that `own`, the policy's runs of its runbook by their end, call for; None when none.

    Runs that led to an earlier demotion, or that a reset put aside, do not count again: each step down takes new ones.
    """
    held = apply(policy, standing)
    lower = _DOWN.get(held.mode)
    if lower is None or not (why := _what_is_bad(_newest_judged(own, standing), thresholds)):
        return None
    # A run's end is dated by the database, whose clock may be ahead: what led to this step down leads to no other.
    at = max(now, own[-1].ended_at)
    return trust.Entry(policy.name, trust.Kind.DEMOTED, at, AUTHOR, why, before=held.mode, mode=lower)


def _newest_judged(own: Sequence[trust.Deed], standing: trust.Trust) -> list[outcomes.Verdict]:
    """Return the verdicts of the newest judged runs, the newest first; reads no further back than it has to."""
    since = standing.counts_from if standing.demotion is None else standing.demotion.at
    found: list[outcomes.Verdict] = []
    for deed in reversed(own):
        if len(found) == RECENT_RUNS or (since is not None and deed.ended_at <= since):
            break
        if deed.verdict is not None and deed.verdict in _JUDGED:
            found.append(deed.verdict)
    return found


def _what_is_bad(newest: Sequence[outcomes.Verdict], thresholds: trust.Thresholds) -> str:
    row = thresholds.worse_in_a_row
    if len(newest) >= row and all(verdict is outcomes.Verdict.WORSE for verdict in newest[:row]):
        return f"{row} runs in a row made it worse" if row > 1 else "its newest run made it worse"
    cured = newest.count(outcomes.Verdict.RECOVERED)
    found = share(cured, len(newest))
    if found is None or found.high >= thresholds.demote_below:
        return ""
    return f"{_said(cured, len(newest), found)}, fewer than {phrases.share(thresholds.demote_below)} for certain"


def _said(part: int, whole: int, found: trust.Share) -> str:
    interval = f"{phrases.share(0.95)}: {phrases.share(found.low)} to {phrases.share(found.high)}"
    return f"{part} of {phrases.count(whole, 'run')} recovered ({interval})"


def propose(
    standing: trust.Trust,
    record: trust.Ledger,
    thresholds: trust.Thresholds,
    *,
    written: policies.Mode,
    ceiling: policies.Mode,
) -> trust.Proposal | None:
    """Return what a person could raise, by the record of the runbook on the policy's services; None when nothing.

    A policy in mode suggest makes no runs of its own, so the runs that people asked for count here. Nothing is proposed
    for one that was demoted: whether its record is mended is for the person to say who lifts that.
    """
    mode = _UP.get(config.capped(written, ceiling))
    found = record.success
    if mode is None or standing.demotion is not None or found is None:
        return None
    if record.judged < thresholds.min_runs or found.low <= thresholds.promote_above:
        return None
    to_edit = [
        where
        for where, at in (("`spec.mode` of the policy", written), ("the setting `mode`", ceiling))
        if config.capped(at, mode) is not mode
    ]
    said = f"{_said(record.recovered, record.judged, found)}; set {' and '.join(to_edit)} to {mode} to allow it"
    return trust.Proposal(mode, f"may be raised to {mode}: {said}")


def stand(
    policy: policies.Policy,
    own: Sequence[trust.Deed],
    record: Sequence[trust.Deed],
    standing: trust.Trust,
    thresholds: trust.Thresholds,
    ceiling: policies.Mode,
) -> trust.Standing:
    """Return a policy's standing; `own` are its runs, `record` those of its runbook on its services, whoever asked."""
    written = policy.written or policy.mode
    earned = count(counted(record, standing))
    return trust.Standing(
        policy=policy,
        written=written,
        ceiling=ceiling,
        trust=standing,
        effective=config.capped(apply(policy, standing).mode, ceiling),
        own=book(counted(own, standing)),
        record=earned,
        proposal=propose(standing, earned, thresholds, written=written, ceiling=ceiling),
    )
