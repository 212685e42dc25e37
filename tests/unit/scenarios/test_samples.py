"""What clients saw: measures, lines of the samples file, and whom the load generator may speak to."""

import pydantic
import pytest

from controlplane.scenarios import loadplan, prompts
from controlplane.scenarios import samples as smp


class Answer:
    def __init__(self, code: int, body: object = None) -> None:
        self.status_code = code
        self._body = body

    def json(self):
        if self._body is None:
            raise ValueError("no body")
        return self._body


def completion(text: str) -> Answer:
    return Answer(200, {"choices": [{"text": text}]})


def judged(answer: Answer) -> smp.Sample:
    return loadplan.sample_of(answer, "right", at=5.0, latency_seconds=0.25)


def test_a_wrong_answer_is_an_error_although_its_status_is_200():
    """What the cache made of it is compared with what the engine says."""
    assert judged(completion("right")).is_good
    assert not judged(completion("wrong")).is_good
    assert judged(completion("wrong")).is_wrong


@pytest.mark.parametrize("answer", [Answer(0), Answer(503), Answer(200, {"choices": []}), Answer(200), Answer(200, [])])
def test_no_answer_and_an_answer_without_text_are_errors(answer: Answer):
    """Nothing that lacks the completion counts as served."""
    assert not judged(answer).is_good


def test_a_sample_survives_its_line():
    """The generator's lines are what the runner reads."""
    sample = smp.Sample(at=1.25, latency_seconds=0.5, code=200, is_wrong=True, level="batch")
    assert loadplan.from_line(loadplan.to_line(sample)) == sample


def test_the_99th_percentile_is_the_nearest_rank_over_all_requests():
    """Of 100 requests the second slowest; failures count by their latency too."""
    samples = [smp.Sample(at=0.0, latency_seconds=second / 100, code=200) for second in range(1, 101)]
    assert smp.measure(samples).p99_seconds == 0.99


def test_without_requests_nothing_is_claimed():
    """No request is not the same as no error."""
    assert smp.measure([]) == smp.Measure(requests=0, p99_seconds=None, error_ratio=None)


def test_there_are_forty_different_prompts():
    """Forty keys for a cache, fixed, so that each run sends the same."""
    assert len(set(prompts.ALL)) == 40


@pytest.mark.parametrize("url", ["http://127.0.0.1:80", "http://[::1]:8000", "http://localhost:8000"])
def test_this_machine_may_be_put_under_load(url: str, tmp_path):
    """Loopback is where scenarios are played."""
    assert plan(url, tmp_path).gateway_url == url


@pytest.mark.parametrize("url", ["http://10.0.0.7", "http://gateway.example", "not a url", "http://127.0.0.1.example"])
def test_another_machine_may_not(url: str, tmp_path):
    """A mistyped address must not become an attack."""
    with pytest.raises(pydantic.ValidationError, match="is not this machine"):
        plan(url, tmp_path)


def plan(url: str, tmp_path) -> loadplan.LoadPlan:
    return loadplan.LoadPlan(
        gateway_url=url,
        prompts=("a",),
        max_tokens=1,
        rate_per_second=1,
        users=1,
        seconds=1,
        samples_path=tmp_path / "samples.jsonl",
    )
