"""What clients saw, told apart by time: what the trouble touched is not what they saw before it."""

from controlplane.scenarios import judging
from controlplane.scenarios import samples as smp
from tests.support import story


def test_an_answer_on_its_way_when_the_trouble_begins_is_no_part_of_before() -> None:
    """A node that becomes slow is slow for the requests it has: they belong to the trouble, and are its first ones."""
    samples = [smp.Sample(at=at, latency_seconds=0.1, code=200) for at in (95.0, 96.0, 112.0)]
    samples.append(smp.Sample(at=99.5, latency_seconds=3.5, code=200))
    told = story.told(story.at(0).inject("slow_decode", on="node-2"), window_seconds=20, after_seconds=10)
    seen = judging.judge_clients(told, samples, started=94.0, injected=100.0, ended=120.0)
    assert (seen.before.total.requests, seen.before.total.p99_seconds) == (2, 0.1)
    assert seen.during.total.p99_seconds == 3.5
    assert seen.recovered_seconds == 3.0
