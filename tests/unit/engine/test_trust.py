"""Trust: the ledger and its interval by hand, every threshold on both sides, and what a demotion changes."""

from datetime import timedelta
from typing import Any

import pytest

from controlplane.domain import outcomes, policies, trust
from controlplane.engine import trust as engine
from tests.support import builders as b
from tests.support.clock import START
from tests.support.trusts import deed, deeds

Mode = policies.Mode
LIMITS = trust.Thresholds()
NOW = START + timedelta(days=1)
FRESH = trust.Trust()


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [
        # With z = 1.96, z² = 3.8415: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), worked out on paper.
        (8, 10, 0.490, 0.943),
        (0, 10, 0.0, 0.278),  # 3.8415 / 13.8415
        (10, 10, 0.722, 1.0),  # 10 / 13.8415
        (1, 1, 0.207, 1.0),  # 1 / 4.8415
        (35, 35, 0.901, 1.0),  # 35 / 38.8415: the first that is above 0.9
        (34, 34, 0.898, 1.0),
        (50, 100, 0.404, 0.596),
    ],
)
def test_the_interval_of_a_share_is_wilsons(part: int, whole: int, low: float, high: float) -> None:
    """Few runs say little, and the interval says how little; it neither leaves 0 to 1 nor collapses."""
    found = engine.share(part, whole)
    assert found is not None
    assert (found.ratio, round(found.low, 3), round(found.high, 3)) == (part / whole, low, high)


def test_a_share_of_nothing_is_nothing() -> None:
    """Zero of zero is not zero."""
    assert engine.share(0, 0) is None


def test_the_ledger_counts_each_verdict_and_measures_the_cures() -> None:
    """Times are of the runs that recovered; unknown and missing verdicts are told and count neither way."""
    found = [
        deed(1, acted_at=START, ended_at=START + timedelta(seconds=40), opened_at=START - timedelta(seconds=20)),
        deed(2, acted_at=START, ended_at=START + timedelta(seconds=60), opened_at=START - timedelta(seconds=60)),
        deed(3, acted_at=START, ended_at=START + timedelta(seconds=100)),
        *deeds("nwwu--", first=10),
    ]
    ledger = engine.count(found)
    assert (ledger.runs, ledger.recovered, ledger.not_recovered, ledger.worse) == (9, 3, 1, 2)
    assert (ledger.unknown, ledger.unjudged, ledger.judged) == (1, 2, 6)
    assert ledger.success == engine.share(3, 6)
    assert ledger.to_recover == trust.Spread(60.0, 100.0)
    assert ledger.of_incident == trust.Spread(90.0, 120.0)
    assert ledger.last_at == START + timedelta(minutes=15)


def test_an_empty_ledger_knows_nothing() -> None:
    """No share, no times, no last run."""
    assert engine.count([]) == trust.Ledger()
    assert engine.count(deeds("u-")).success is None


def test_nine_in_ten_do_not_exceed_the_p90() -> None:
    """Of ten runs the ninth, of eleven the tenth."""
    for number, p90 in ((10, 9.0), (11, 10.0), (1, 1.0)):
        found = [
            deed(one, acted_at=START, ended_at=START + timedelta(seconds=one)) for one in range(number, 0, -1)
        ]  # in any order
        assert engine.count(found).to_recover == trust.Spread((number + 1) / 2, p90)


def test_a_clock_that_was_set_back_gives_no_negative_times() -> None:
    """The run ended before it acted, by the clock."""
    found = engine.count([deed(acted_at=START + timedelta(seconds=5), ended_at=START)])
    assert found.to_recover == trust.Spread(0.0, 0.0)


def test_a_book_has_the_ledgers_of_its_parts() -> None:
    """By service, and by who asked: the empty name stands for people."""
    found = engine.book([*deeds("rn"), *deeds("w", service="search"), *deeds("r", policy=None)])
    assert found.total.runs == 4
    assert {name: one.runs for name, one in found.services.items()} == {"chat": 3, "search": 1}
    assert {name: one.runs for name, one in found.policies.items()} == {"": 1, "cache-poisoned": 3}


def demoted(verdicts: str, standing: trust.Trust = FRESH, mode: Mode = Mode.AUTO, **limits: Any) -> trust.Entry | None:
    thresholds = trust.Thresholds(**limits)
    return engine.find_demotion(b.policy(mode=mode), deeds(verdicts), standing, thresholds, NOW)


@pytest.mark.parametrize(
    ("verdicts", "why"),
    [
        ("rrrrww", "2 runs in a row made it worse"),
        ("rrrrwuw-", "2 runs in a row made it worse"),  # what is unknown lies between them and counts neither way
        ("rrrrwrw", ""),
        ("rrrrwnw", ""),
        ("w", ""),
        ("u" * 60, ""),
        ("", ""),
        # The upper bound of 0 of 3 is 0.5615, of 0 of 4 it is 0.4899.
        ("nnn", ""),
        ("nnnn", "0 of 4 runs recovered (95 %: 0 % to 49 %), fewer than 50 % for certain"),
        ("rnnnnnn", ""),  # 1 of 7: 0.5131
        ("rnnnnnnn", "1 of 8 runs recovered (95 %: 2.24 % to 47.1 %), fewer than 50 % for certain"),
    ],
)
def test_a_bad_record_takes_a_policy_from_auto_to_approve(verdicts: str, why: str) -> None:
    """Each mark from both sides."""
    found = demoted(verdicts)
    assert ("" if found is None else found.why) == why
    if found is not None:
        assert (found.before, found.mode, found.who, found.at) == (Mode.AUTO, Mode.APPROVE, "dsctl", NOW)
        assert found.sentence == f"policy cache-poisoned was taken from auto to approve: {why}"


def test_the_marks_are_settings() -> None:
    """One run may be enough, or three needed; the share may be another."""
    assert demoted("rw", worse_in_a_row=1, demote_below=0.0) is not None
    assert demoted("rww", worse_in_a_row=3, demote_below=0.0) is None
    assert demoted("rwww", worse_in_a_row=3, demote_below=0.0) is not None
    assert demoted("nnn", demote_below=0.57) is not None
    assert demoted("nnn", demote_below=0.56) is None


def test_only_the_newest_fifty_runs_are_looked_at() -> None:
    """A hundred good runs of last month do not hide that it works no longer."""
    assert demoted("r" * 500 + "n" * 31) is None  # 19 of 50: 0.518
    assert demoted("r" * 500 + "n" * 32) is not None  # 18 of 50: 0.499


@pytest.mark.parametrize(
    ("mode", "after"),
    [(Mode.AUTO, Mode.APPROVE), (Mode.APPROVE, Mode.SUGGEST), (Mode.SUGGEST, None), (Mode.OBSERVE, None)],
)
def test_a_demotion_is_one_step_and_ends_at_suggest(mode: Mode, after: Mode | None) -> None:
    """What acts by itself never has to be taken back any further."""
    found = demoted("ww", mode=mode)
    assert (found and found.mode) == after


def entry(at: int, mode: Mode = Mode.APPROVE) -> trust.Entry:
    return trust.Entry(
        "cache-poisoned", trust.Kind.DEMOTED, START + timedelta(minutes=at), "dsctl", "why", Mode.AUTO, mode
    )


def test_the_next_step_down_takes_new_runs() -> None:
    """Those that led to the first one do not count twice."""
    standing = trust.Trust(entry(1))
    assert demoted("ww", standing) is None
    assert demoted("www", standing) is None
    found = demoted("wwww", standing)
    assert found is not None
    assert (found.before, found.mode) == (Mode.APPROVE, Mode.SUGGEST)
    assert demoted("ww" * 10, trust.Trust(entry(1, Mode.SUGGEST))) is None


def test_after_a_reset_only_newer_runs_count() -> None:
    """What ended at the very moment is put aside too."""
    standing = trust.Trust(counts_from=START + timedelta(minutes=1))
    assert demoted("ww", standing) is None
    assert demoted("www", standing) is None
    assert demoted("wwww", standing) is not None
    assert engine.counted(deeds("rrrr"), standing) == deeds("rrrr")[2:]
    assert engine.counted(deeds("rr"), FRESH) == deeds("rr")


def test_a_demotion_never_gives_more_than_the_policy_has() -> None:
    """And says in the policy what people read."""
    policy = b.policy()
    assert engine.apply(policy, FRESH) is policy
    assert engine.apply(policy, trust.Trust(entry(0))).mode is Mode.APPROVE
    assert engine.apply(policy, trust.Trust(entry(0))).demoted == entry(0).sentence
    observing = b.policy(mode=Mode.OBSERVE)
    assert engine.apply(observing, trust.Trust(entry(0))) is observing


def propose(verdicts: str, standing: trust.Trust = FRESH, *, ceiling: Mode = Mode.AUTO, **fields: Any) -> str:
    written = fields.pop("written", Mode.SUGGEST)
    record, limits = engine.count(deeds(verdicts)), trust.Thresholds(**fields)
    found = engine.propose(standing, record, limits, written=written, ceiling=ceiling)
    return "" if found is None else found.sentence


def test_a_good_record_is_proposed_for_more() -> None:
    """Nothing changes: the sentence says what a person has to edit."""
    assert propose("r" * 34) == ""
    assert propose("r" * 35) == (
        "may be raised to approve: 35 of 35 runs recovered (95 %: 90.1 % to 100 %); set `spec.mode` of the policy to "
        "approve to allow it"
    )
    assert "raised to auto" in propose("r" * 35, written=Mode.APPROVE)


def test_the_ceiling_may_have_to_be_raised_too() -> None:
    """On a fresh install the setting `mode` holds back policies that are written as auto."""
    assert propose("r" * 35, written=Mode.AUTO, ceiling=Mode.SUGGEST).endswith(
        "set the setting `mode` to approve to allow it"
    )
    assert "set `spec.mode` of the policy and the setting `mode` to approve" in propose("r" * 35, ceiling=Mode.SUGGEST)


@pytest.mark.parametrize("written", [Mode.OBSERVE, Mode.AUTO])
def test_there_is_nothing_to_propose_outside_of_the_middle_modes(written: Mode) -> None:
    """Observe is a person's choice to look only, auto is the most there is."""
    assert propose("r" * 50, written=written) == ""


def test_a_proposal_needs_runs_enough_and_a_policy_in_good_standing() -> None:
    """The number of runs counts beside the interval; unknown runs do not."""
    assert propose("r" * 10, min_runs=10, promote_above=0.7) != ""
    assert propose("r" * 9, min_runs=10, promote_above=0.7) == ""
    assert propose("r" * 9 + "u-u", min_runs=10, promote_above=0.7) == ""
    assert propose("uu") == ""
    assert propose("r" * 50, trust.Trust(entry(0))) == ""
    assert propose("r" * 50, promote_above=0.93) == ""


def test_a_standing_is_the_least_of_file_ceiling_and_demotion() -> None:
    """And rests on the policy's own runs and on those of its runbook."""
    policy = b.policy(mode=Mode.APPROVE, written=Mode.AUTO)
    own, record = deeds("rn"), [*deeds("rn"), *deeds("rrr", policy=None)]
    found = engine.stand(policy, own, record, FRESH, LIMITS, Mode.APPROVE)
    assert (found.written, found.ceiling, found.effective) == (Mode.AUTO, Mode.APPROVE, Mode.APPROVE)
    assert (found.own.total.runs, found.record.runs) == (2, 5)
    held = engine.stand(policy, own, record, trust.Trust(entry(0, Mode.SUGGEST)), LIMITS, Mode.APPROVE)
    assert held.effective is Mode.SUGGEST


def test_one_run_costs_one_mode_whatever_the_clocks_say() -> None:
    """The database dates the end, this process the step down; where the process is behind, the run is not judged again."""
    late = deed(verdict=outcomes.Verdict.WORSE, ended_at=NOW + timedelta(seconds=1))
    policy, once = b.policy(mode=Mode.AUTO), trust.Thresholds(worse_in_a_row=1)
    entry = engine.find_demotion(policy, [late], FRESH, once, NOW)
    assert entry is not None
    assert engine.find_demotion(policy, [late], trust.Trust(entry), once, NOW) is None
