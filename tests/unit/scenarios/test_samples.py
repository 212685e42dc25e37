"""What clients saw: measures, lines of the samples file, and whom the load generator may speak to."""

import pydantic
import pytest

from controlplane.scenarios import loadplan, prompts, stories
from controlplane.scenarios import samples as smp


class Answer:
    """An HTTP answer; without a body it has no JSON."""

    def __init__(self, code: int, body: object = None) -> None:
        self.status_code = code
        self._body = body

    def json(self):
        if self._body is None:
            raise ValueError("no body")
        return self._body


def completion(text: str, num_tokens: int = 5, finish_reason: str = "length") -> Answer:
    usage = {"completion_tokens": num_tokens}
    return Answer(200, {"choices": [{"text": text, "finish_reason": finish_reason}], "usage": usage})


RIGHT = loadplan.Completion("right", 5, is_cut=True)


@pytest.mark.parametrize(
    "answer",
    [
        completion("right"),
        completion("rig", 3),
        completion("ri\ufffd", 3),  # half a character where the answer was cut
        Answer(429),
        Answer(0),
    ],
)
def test_right_as_far_as_it_goes_is_right(answer: Answer):
    """A cap on lengths cuts an answer and does not change it; what is no answer is not a wrong one."""
    assert not loadplan.is_wrong(answer, RIGHT)


@pytest.mark.parametrize(
    "answer",
    [
        completion("wrong"),
        completion("wro", 3),
        completion("rig", 3, "stop"),  # it ended by itself, and the engine would have gone on
        completion("rig"),
        Answer(200, {"choices": []}),
        Answer(200),
        Answer(200, []),
    ],
)
def test_another_answer_is_wrong_although_its_status_is_200(answer: Answer):
    """What the cache made of it is compared with what the engine says; without a text it is no answer at all."""
    assert loadplan.is_wrong(answer, RIGHT)


def sample(code: int = 200, *, latency: float = 0.1, level: smp.Level = "standard", is_wrong: bool = False):
    return smp.Sample(at=0.0, latency_seconds=latency, code=code, level=level, is_wrong=is_wrong)


@pytest.mark.parametrize("bad", [sample(0), sample(500), sample(503), sample(is_wrong=True)])
def test_what_is_no_right_answer_is_an_error(bad: smp.Sample):
    """Failed, unanswered and wrong count alike."""
    assert smp.measure([bad, sample()]).error_ratio == 0.5


def test_a_refusal_is_counted_apart():
    """A refusal is no failure, and as it takes no time it must not hide the tail of the others."""
    refused = [sample(429, latency=0.001)] * 99
    seen = smp.measure([*refused, sample(latency=2.0)])
    assert seen == smp.Measure(requests=100, p99_seconds=2.0, error_ratio=0.0, rejected_ratio=0.99)


def test_where_all_are_refused_nothing_is_claimed_about_answers():
    """No answer was late and none was wrong: there was none."""
    assert smp.measure([sample(429)]) == smp.Measure(1, None, None, 1.0)


def test_levels_are_measured_apart_and_together():
    """What batch suffers does not hide in what premium gets."""
    seen = smp.measure_levels([sample(429, level="batch"), sample(level="premium"), sample(level="premium")])
    assert list(seen.levels) == ["premium", "batch"]
    assert (seen.levels["premium"].rejected_ratio, seen.levels["batch"].rejected_ratio) == (0.0, 1.0)
    assert seen.total.requests == 3


def test_traffic_is_read_as_it_was_written(tmp_path):
    """What the story says is what clients do, without what belongs to the story alone."""
    levels: dict[smp.Level, stories.Stream] = {"batch": stories.Stream(rate=8, max_tokens=48)}
    path = tmp_path / "traffic.json"
    loadplan.write_traffic(path, stories.Load(levels=levels, is_cached=False, prompts=7))
    assert loadplan.read_traffic(path) == stories.Traffic(levels=levels, is_cached=False)
    assert [file.name for file in tmp_path.iterdir()] == ["traffic.json"]


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
        api_keys={"standard": "secret"},
        max_tokens=1,
        traffic_path=tmp_path / "traffic.json",
        seconds=1,
        samples_path=tmp_path / "samples.jsonl",
    )
