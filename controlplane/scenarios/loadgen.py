"""The clients of a scenario, as a process of their own: `python -m controlplane.scenarios.loadgen PLAN.json`.

First it asks every prompt once with `Cache-Control: no-cache`, which gives the engine's own answer. Then Locust users
send the prompts at a fixed rate, whether or not earlier answers have come (an open loop: a slow server must not slow
its clients), and each answer is compared with the engine's own. Every request becomes one JSON line in the samples
file. Bounded in time, in requests and in requests under way; speaks only to this machine.

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
from controlplane.scenarios import loadplan
from controlplane.scenarios import samples as smp

# More requests under way than this are not sent but counted as unanswered: the generator must not become the story.
_MAX_IN_FLIGHT_PER_USER = 64
_REFERENCE_ATTEMPTS = 5
_REFERENCE_CONCURRENCY = 4
_REFERENCE_PAUSE_SECONDS = 1.0


class _Session(Protocol):
    """The part of Locust's session that is used; its own annotations leave the bodies open."""

    def request(
        self, method: str, url: str, *, json: Any = None, headers: dict[str, str] | None = None
    ) -> loadplan.Answer: ...


@dataclass(slots=True)
class _Work:
    """What the users share: the plan, the engine's own answers, and where samples go."""

    plan: loadplan.LoadPlan
    out: TextIO
    model: str = ""
    expected: dict[str, str] = field(default_factory=dict[str, str])
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    time: clock.SystemClock = field(default_factory=clock.SystemClock)

    def write(self, sample: smp.Sample) -> None:
        self.out.write(loadplan.to_line(sample) + "\n")
        self.out.flush()  # whoever plays the story reads along


class Client(locust.FastHttpUser):
    """One user: a share of the rate, with its own connections."""

    work: ClassVar[_Work]
    concurrency = _MAX_IN_FLIGHT_PER_USER

    def __init__(self, environment: locust.env.Environment) -> None:
        plan = self.work.plan
        self.host = plan.gateway_url
        self.network_timeout = self.connection_timeout = plan.timeout_seconds
        super().__init__(environment)
        self._session = cast("_Session", self.client)
        self._pace = locust.constant_throughput(plan.rate_per_second / plan.users)
        self._under_way = gevent.pool.Pool(_MAX_IN_FLIGHT_PER_USER)

    def wait_time(self) -> float:
        """Return the seconds until this user's next request is due."""
        return self._pace(self)

    @locust.task
    def send(self) -> None:
        """Send the next prompt and do not wait for its answer."""
        number = next(self.work.numbers)
        if number >= self.work.plan.max_requests:
            return
        if self._under_way.free_count() == 0:
            self.work.write(smp.Sample(at=self.work.time.now().timestamp(), latency_seconds=0.0, code=0))
            return
        self._under_way.spawn(self._measure, self.work.plan.prompts[number % len(self.work.plan.prompts)])

    def _measure(self, prompt: str) -> None:
        at, start = self.work.time.now().timestamp(), self.work.time.monotonic()
        answer = self.ask(prompt, {})
        latency = self.work.time.monotonic() - start
        self.work.write(loadplan.sample_of(answer, self.work.expected[prompt], at=at, latency_seconds=latency))

    def ask(self, prompt: str, headers: dict[str, str]) -> loadplan.Answer:
        """Send one prompt and return what came; errors of the network are an answer with code 0."""
        body = {
            "model": self.work.model,
            "prompt": prompt,
            "max_tokens": self.work.plan.max_tokens,
            "temperature": 0,
        }
        return self._session.request("POST", "/v1/completions", json=body, headers=headers)

    def learn_model(self) -> None:
        """Take the first model that the gateway lists."""
        answer = self._session.request("GET", "/v1/models")
        if answer.status_code != loadplan.OK:
            sys.exit(f"{self.host} does not name its model: /v1/models answered {answer.status_code}")
        self.work.model = str(answer.json()["data"][0]["id"])

    def learn_answer(self, prompt: str) -> None:
        """Keep the engine's own answer to a prompt."""
        for _ in range(_REFERENCE_ATTEMPTS):
            text = loadplan.text_of(self.ask(prompt, {"Cache-Control": "no-cache"}))
            if text is not None:
                self.work.expected[prompt] = text
                return
            gevent.sleep(_REFERENCE_PAUSE_SECONDS)


def main(arguments: list[str]) -> int:
    """Run the load of the plan in the file named by the only argument; 0 when it ran to its end."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m controlplane.scenarios.loadgen PLAN.json\n")
        return 2
    plan = loadplan.LoadPlan.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    with plan.samples_path.open("a", encoding="utf-8") as out:
        Client.work = _Work(plan, out)
        return _run(Client.work)


def _run(work: _Work) -> int:
    environment = locust.env.Environment(user_classes=[Client], host=work.plan.gateway_url)
    first = Client(environment)
    first.learn_model()
    gevent.pool.Pool(_REFERENCE_CONCURRENCY).map(first.learn_answer, work.plan.prompts)
    num_unknown = len(work.plan.prompts) - len(work.expected)
    if num_unknown:
        sys.stderr.write(f"{work.plan.gateway_url} left {num_unknown} of {len(work.plan.prompts)} prompts unanswered\n")
        return 1
    runner = environment.create_local_runner()
    runner.start(work.plan.users, spawn_rate=work.plan.users)
    gevent.spawn_later(work.plan.seconds, runner.quit)
    runner.greenlet.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
