"""Tests of runbooks: what a file may say, how a case is played, and that what goes otherwise is told."""

import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from controlplane.domain import errors
from controlplane.rehearsal import files, jumping, play, rehearse, stores, words
from controlplane.runs.language import checks, library

Go = Callable[[str], Awaitable[rehearse.Result]]

BOOK = """\
apiVersion: dsctl/v1
kind: Runbook
metadata: {name: ask-return, summary: Ask before a node returns}
spec:
  inputs:
    node: {type: node}
    careful: {type: boolean, default: true}
  steps:
    - {name: settle, wait: {until: 'signal("queue_depth") < 5.0', timeout: 90m}}
    - {name: eject, action: eject_node, with: {ttl_seconds: 60}, when: inputs.careful, attempts: 2}
    - {name: ask, approval: {prompt: "${'Return ' + inputs.node + '?'}", quorum: 2, expires: 30m}}
    - {name: back, include: return-node, with: {node: "${inputs.node}"}}
  verify: {signals: [latency_p99], within: 2m, hold: 30s}
  on_failure: [{undo: back.return}, {undo: eject}, {run: quarantine-node}, {escalate: oncall}]
"""
HEAD = """\
apiVersion: dsctl/v1
kind: RunbookTest
metadata: {name: mine}
spec:
  runbook: ask-return
  node: node-1
  signals:
    - {set: {queue_depth: 9}}
    - {at: 1h, set: {queue_depth: 1}}
    - {nodes: [node-1], set: {latency_p99: 4}}
    - {after: back.return, at: 5s, nodes: [node-1], set: {latency_p99: 0.2}}
  people: [{step: ask, by: anna, answer: approve, at: 1m}, {step: ask, by: bert, answer: approve, at: 3m}]
  cases:
"""


@pytest.fixture(scope="module")
def vocabulary() -> checks.Vocabulary:
    return words.shipped()


@pytest.fixture(scope="module")
def theatre(vocabulary: checks.Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[play.Theatre]:
    folder, clock = tmp_path_factory.mktemp("books"), jumping.JumpingClock()
    (folder / "ask-return.yaml").write_text(BOOK, encoding="utf-8")
    with stores.opened(clock) as store:
        yield play.Theatre(library.load(vocabulary, user=folder), vocabulary, store, clock)


@pytest.fixture
def read(tmp_path: Path, vocabulary: checks.Vocabulary) -> Callable[[str], files.TestFile]:
    def write_and_read(text: str) -> files.TestFile:
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return files.read(tmp_path / "mine.yaml", vocabulary.signals)

    return write_and_read


@pytest.fixture
def go(theatre: play.Theatre, read: Callable[[str], files.TestFile]) -> Go:
    async def rehearse_one(case: str) -> rehearse.Result:
        tests = read(HEAD + textwrap.indent(textwrap.dedent(case).strip(), "    ") + "\n")
        [only] = tests.cases
        return await rehearse.rehearse_case(theatre, tests, only)

    return rehearse_one


async def test_a_case_that_goes_as_expected_has_no_differences(go: Go) -> None:
    """Over an hour of a run: a wait, a condition, two people, another runbook's steps, and the verdict."""
    result = await go("""
        - name: good
          expect:
            acts: [{step: eject, action: eject_node, with: {ttl_seconds: 60}}, back.canary, back.return]
            skipped: []
            waited: {settle: {at_least: 1h, at_most: 1h15s}, ask: {at_least: 3m, at_most: 3m}}
            asked: {ask: "Return node-1?"}
            undone: []
            told: [approvers]
            follow_ups: []
            state: succeeded
            verdict: recovered
            says: [latency_p99 of node-1, no control]
            lasts: {at_least: 1h, at_most: 1h5m}
    """)
    assert result.differences == ()
    assert result.seconds > 3600
    assert result.log[0] == "+      0 s  submitted"


async def test_whatever_goes_otherwise_is_told_with_what_was_expected_and_what_came(go: Go) -> None:
    """One sentence for each difference, so that a test is corrected once."""
    result = await go("""
        - name: wrong
          expect:
            acts: [{step: eject, action: drain_node, with: {ttl_seconds: 61, reason: x}}, back.canary, back.return]
            skipped: [eject]
            waited: {settle: {at_most: 5s}}
            asked: {ask: Eject}
            undone: [eject]
            told: []
            follow_ups: [quarantine-node]
            state: failed
            verdict: worse
            says: [at last]
            lasts: {at_most: 1m}
    """)
    assert [one.partition(":")[0] for one in result.differences] == [
        "acts[0] eject",
        "acts[0] eject",
        "acts[0] eject",
        "skipped",
        "waited.settle",
        "asked.ask",
        "undone",
        "told",
        "follow_ups",
        "state",
        "verdict",
        "says",
        "lasts",
    ]
    assert "waited.settle: expected 0 s to 5 s, got 1 h" in result.differences
    assert "skipped: expected eject, got nothing" in result.differences
    assert "acts[0] eject: expected action drain_node, got eject_node" in result.differences


async def test_failures_walk_the_real_edges(go: Go) -> None:
    """What was done is undone newest first, the follow-up is named, people are told; nobody approves twice."""
    result = await go("""
        - name: bad
          signals:
            - {set: {queue_depth: 1}}
            - {nodes: [node-1], set: {latency_p99: 4}}
          answers: {eject: [later], back.canary: [{takes: 20s}]}
          undos: {eject: [refuse]}
          expect:
            acts: [eject, eject, back.canary, back.return]
            undone: [back.return]
            follow_ups: [quarantine-node]
            told: [approvers, oncall]
            state: failed
            verdict: not_recovered
            says: ["not undone: eject"]
    """)
    assert result.differences == ()


async def test_a_step_left_out_and_a_question_that_is_refused(go: Go) -> None:
    """Conditions and answers of people decide as they do in earnest."""
    result = await go("""
        - name: refused
          inputs: {careful: false}
          signals: [{set: {queue_depth: 1}}]
          people: [{step: ask, by: anna, answer: reject, at: 2m, reason: not now}]
          expect: {skipped: [eject], acts: [], state: cancelled, says: [rejected by anna], lasts: {at_least: 2m, at_most: 2m}}
    """)
    assert result.differences == ()


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (
            "{name: x, answers: {ejct: [ok]}, expect: {state: succeeded}}",
            "answers: no step is named 'ejct'; did you mean",
        ),
        ("{name: x, expect: {acts: [retrun]}}", "expect.acts: no step is named 'retrun'"),
        (
            "{name: x, inputs: {carful: true}, expect: {state: succeeded}}",
            "no plan was made: inputs: runbook ask-return has",
        ),
        ("{name: x, expect: {refused: no such node}}", "refused: expected no plan"),
        ("{name: x, node: '', expect: {refused: no such node}}", "refused: expected 'no such node' in 'inputs.node: "),
        ("{name: x, node: node-9, expect: {state: failed}}", "no plan was made: service chat has no node 'node-9'"),
        (
            "{name: x, people: [&A, {step: ask, by: anna, answer: approve, at: 1s}], expect: {state: cancelled}}",
            "the answer of anna to step ask did not count: anna has approved",
        ),
    ],
)
async def test_slips_in_a_test_do_not_go_unnoticed(go: Go, case: str, said: str) -> None:
    """A name that fits nothing, a plan that is not made or should not be, an answer that does not count."""
    case = case.replace("&A", "{step: ask, by: anna, answer: approve}")
    assert any(one.startswith(said) for one in (await go(f"- {case}")).differences)


def test_recordings_give_signals(read: Callable[[str], files.TestFile], tmp_path: Path) -> None:
    """A CSV beside the test: seconds, node (empty for the service), signal, value (empty for unknown)."""
    lines = ["seconds,node,signal,value", "0,,queue_depth,7", "30,node-2,latency_p99,", "31.5,node-2,up,0"]
    (tmp_path / "seen.csv").write_text("\n".join(lines), encoding="utf-8")
    text = HEAD.partition("  signals:")[0] + "  recording: seen.csv\n  cases: [{name: x, expect: {state: failed}}]\n"
    [case] = read(text).cases
    assert case.samples == (
        files.Sample(0.0, "", "", "queue_depth", 7.0),
        files.Sample(30.0, "", "node-2", "latency_p99", None),
        files.Sample(31.5, "", "node-2", "up", 0.0),
    )
    for wrong, reason in {
        "at,node,signal,value": "begins with the line",
        f"{lines[0]}\n1,,queue_dept,1": "did you mean 'queue_depth'",
        f"{lines[0]}\n1,node-7,queue_depth,1": "no node 'node-7'",
        f"{lines[0]}\n1,,queue_depth,inf": "line 2 of the recording: holds a number that is not finite",
        f"{lines[0]}\nsoon,,queue_depth,1": "line 2 of the recording",
        f"{lines[0]}\n1,queue_depth,1": "has 3 columns",
    }.items():
        (tmp_path / "seen.csv").write_text(wrong, encoding="utf-8")
        with pytest.raises(errors.InvalidInputError, match=reason):
            read(text)


@pytest.mark.parametrize(
    ("right", "wrong", "reason"),
    [
        (
            "{set: {queue_depth: 9}}",
            "{set: {queue_dept: 9}}",
            r"mine.yaml:8:14: spec.signals\[0\].*did you mean 'queue_depth'",
        ),
        ("nodes: [node-1], set: {latency_p99: 4}", "nodes: [node-4], set: {latency_p99: 4}", "no node 'node-4'"),
        ("set: {latency_p99: 4}", "set: {latency_p99: none}", "mine.yaml:10"),
        ("people:", "poeple:", "unknown field 'poeple'; did you mean 'people'"),
        ("answer: approve, at: 1m", "answer: yes, at: 1m", "'approve' or 'reject'"),
        ("  node: node-1", "  service: {objectives: {latency_p98: 1}}", "did you mean 'latency_p99_seconds'"),
        (
            "    - {name: x",
            "    - {name: x, expect: {state: failed}}\n    - {name: x",
            "a case named 'x' exists already",
        ),
        ("expect: {state: failed}", "expect: {}", "expects nothing"),
        ("expect: {state: failed}", "expect: {state: failed, refused: no}", "a plan that is not made"),
        ("expect: {state: failed}", "expect: {waited: {a: {at_least: 2s, at_most: 1s}}}", "shorter than"),
    ],
)
def test_a_test_file_is_checked_like_a_runbook(
    read: Callable[[str], files.TestFile], right: str, wrong: str, reason: str
) -> None:
    """With file, line, column and path, and the nearest right word."""
    text = f"{HEAD}    - {{name: x, expect: {{state: failed}}}}\n"
    assert right in text
    read(text)
    with pytest.raises(errors.InvalidInputError, match=reason):
        read(text.replace(right, wrong, 1))
