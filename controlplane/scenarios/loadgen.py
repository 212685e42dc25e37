"""The clients of a scenario, as a process of their own: `python -m controlplane.scenarios.loadgen PLAN.json`.

First it asks every prompt once with `Cache-Control: no-cache`, which gives the engine's own answer. Then one Locust user
for each service level sends the prompts at the rate of the traffic file, evenly spaced, whether or not earlier answers
have come (an open loop: a slow server must not slow its clients), and each answer is compared with the engine's own.
Whoever plays the story replaces the traffic file when clients are to do something else. Every request becomes one JSON
line in the samples file. Bounded in time, in requests and in requests under way; speaks only to this machine.

Greenlets (gevent), because Locust is built on them: importing Locust patches the standard library, so no other module
imports this one, and Locust comes first.
"""

import locust  # isort: split

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TextIO, cast

import gevent
import gevent.pool
import locust.env

from controlplane import clock
from controlplane.scenarios import loadplan, stories
from controlplane.scenarios import samples as smp

# More requests under way than this are not sent but counted as unanswered: the generator must not become the story.
_MAX_IN_FLIGHT = 512
_REFERENCE_ATTEMPTS = 5
_REFERENCE_CONCURRENCY = 8
_REFERENCE_PAUSE_SECONDS = 1.0
# How soon a change of the traffic is noticed, and how long a level that has nothing to send waits.
_LOOK_SECONDS = 0.2
# A generator that was held up sends at once what it missed of this time, and not more.
_CATCH_UP_SECONDS = 0.5
_UNCACHED = {"Cache-Control": "no-cache"}


class _Session(Protocol):
    """The part of Locust's session that is used; its own annotations leave the bodies open."""

    def request(
        self, method: str, url: str, *, json: Any = None, headers: dict[str, str] | None = None
    ) -> loadplan.Answer: ...


@dataclass(slots=True)
class _Work:
    """What the users share: the plan, what is to be sent now, the engine's own answers, and where samples go."""

    plan: loadplan.LoadPlan
    traffic: stories.Traffic
    out: TextIO
    model: str = ""
    expected: dict[str, loadplan.Completion] = field(default_factory=dict[str, loadplan.Completion])
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    time: clock.SystemClock = field(default_factory=clock.SystemClock)

    def write(self, sample: smp.Sample) -> None:
        self.out.write(loadplan.to_line(sample) + "\n")
        self.out.flush()  # whoever plays the story reads along

    def follow_traffic(self) -> None:
        """Take up what the traffic file says, for ever."""
        while True:
            gevent.sleep(_LOOK_SECONDS)
            self.traffic = loadplan.read_traffic(self.plan.traffic_path)


class Client(locust.FastHttpUser):
    """The clients of one level: its whole rate, over as many connections as it takes."""

    abstract = True
    work: ClassVar[_Work]
    level: ClassVar[smp.Level]
    fixed_count = 1
    concurrency = _MAX_IN_FLIGHT

    def __init__(self, environment: locust.env.Environment) -> None:
        plan = self.work.plan
        self.host = plan.gateway_url
        self.network_timeout = self.connection_timeout = plan.timeout_seconds
        super().__init__(environment)
        self._session = cast("_Session", self.client)
        self._due = self.work.time.monotonic()
        self._under_way = gevent.pool.Pool(_MAX_IN_FLIGHT)

    @property
    def rate(self) -> float:
        """Requests per second; 0 while the level sends nothing."""
        stream = self._stream
        return stream.rate if stream else 0.0

    @property
    def _stream(self) -> stories.Stream | None:
        return self.work.traffic.levels.get(self.level)

    def wait_time(self) -> float:
        """Return the seconds until the next request is due."""
        now = self.work.time.monotonic()
        step = 1 / self.rate if self.rate else _LOOK_SECONDS
        self._due = max(now - _CATCH_UP_SECONDS, self._due + step)
        return max(0.0, self._due - now)

    @locust.task
    def send(self) -> None:
        """Send the next prompt and do not wait for its answer."""
        work, stream = self.work, self._stream
        if stream is None:
            return
        number = next(work.numbers)
        if number >= work.plan.max_requests:
            return
        if self._under_way.free_count() == 0:
            work.write(smp.Sample(at=work.time.now().timestamp(), latency_seconds=0.0, code=0, level=self.level))
            return
        prompt = work.plan.prompts[number % len(work.plan.prompts)]
        self._under_way.spawn(self._measure, prompt, stream.max_tokens, {} if work.traffic.is_cached else _UNCACHED)

    def _measure(self, prompt: str, max_tokens: int, headers: dict[str, str]) -> None:
        time = self.work.time
        at, start = time.now().timestamp(), time.monotonic()
        answer = self.ask(prompt, max_tokens, headers)
        latency = time.monotonic() - start
        is_wrong = loadplan.is_wrong(answer, self.work.expected[prompt])
        self.work.write(smp.Sample(at, latency, answer.status_code, is_wrong=is_wrong, level=self.level))

    def ask(self, prompt: str, max_tokens: int, headers: dict[str, str]) -> loadplan.Answer:
        """Send one prompt and return what came; errors of the network are an answer with code 0."""
        body = {"model": self.work.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        return self._session.request("POST", "/v1/completions", json=body, headers=self._authorized(headers))

    def learn_model(self) -> None:
        """Take the first model that the gateway lists."""
        answer = self._session.request("GET", "/v1/models", headers=self._authorized({}))
        if answer.status_code != loadplan.OK:
            sys.exit(f"{self.host} does not name its model: /v1/models answered {answer.status_code}")
        self.work.model = str(answer.json()["data"][0]["id"])

    def learn_answer(self, prompt: str) -> None:
        """Keep the engine's own answer to a prompt, as long as any traffic of the story wants it."""
        for _ in range(_REFERENCE_ATTEMPTS):
            answer = loadplan.completion_of(self.ask(prompt, self.work.plan.max_tokens, _UNCACHED))
            if answer is not None:
                self.work.expected[prompt] = answer
                return
            gevent.sleep(_REFERENCE_PAUSE_SECONDS)

    def _authorized(self, headers: dict[str, str]) -> dict[str, str]:
        return headers | {"Authorization": f"Bearer {self.work.plan.api_keys[self.level]}"}


class Premium(Client):
    """A client of level premium."""

    level = "premium"


class Standard(Client):
    """A client of level standard."""

    level = "standard"


class Batch(Client):
    """A client of level batch."""

    level = "batch"


def main(arguments: list[str]) -> int:
    """Run the load of the plan in the file named by the only argument; 0 when it ran to its end."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m controlplane.scenarios.loadgen PLAN.json\n")
        return 2
    plan = loadplan.LoadPlan.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    with plan.samples_path.open("a", encoding="utf-8") as out:
        Client.work = _Work(plan, loadplan.read_traffic(plan.traffic_path), out)
        return _run(Client.work)


def _run(work: _Work) -> int:
    chosen = [kind for kind in (Premium, Standard, Batch) if kind.level in work.plan.api_keys]
    environment = locust.env.Environment(user_classes=list[type[locust.User]](chosen), host=work.plan.gateway_url)
    first = chosen[-1](environment)  # the most patient level: its time limit suits the longest answers
    first.learn_model()
    gevent.pool.Pool(_REFERENCE_CONCURRENCY).map(first.learn_answer, work.plan.prompts)
    num_unknown = len(work.plan.prompts) - len(work.expected)
    if num_unknown:
        sys.stderr.write(f"{work.plan.gateway_url} left {num_unknown} of {len(work.plan.prompts)} prompts unanswered\n")
        return 1
    runner = environment.create_local_runner()
    runner.start(len(chosen), spawn_rate=len(chosen))
    gevent.spawn(work.follow_traffic)
    gevent.spawn_later(work.plan.seconds, runner.quit)
    runner.greenlet.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
