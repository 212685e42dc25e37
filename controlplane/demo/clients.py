"""The clients of the demo: the load generator as a process, what it is told to do, and its samples as they are written.

Called by the demo alone. Async for starting and stopping; telling it what to do and reading its samples are short writes
and reads of local files.
"""

import sys

from controlplane.demo import configuration, processes
from controlplane.scenarios import loadplan, prompts, stories
from controlplane.scenarios import samples as smp

_NAME = "load"


class Clients:
    """One run of the load generator after the other."""

    def __init__(self, started: processes.Processes, files: configuration.Files) -> None:
        self._processes = started
        self._files = files
        self._samples_path = files.folder / "samples.jsonl"
        self._traffic_path = files.folder / "traffic.json"
        self._read: list[smp.Sample] = []
        self._offset = 0

    async def start(self, story: stories.Story, seconds: float) -> None:
        """Start the load of a story for at most `seconds`."""
        plan = loadplan.LoadPlan(
            gateway_url=self._files.addresses.gateway,
            api_keys={level: self._files.api_keys[level] for level in story.levels()},
            prompts=prompts.ALL[: story.spec.load.prompts],
            max_tokens=max(traffic.max_tokens for traffic in story.traffic()),
            traffic_path=self._traffic_path,
            seconds=seconds,
            samples_path=self._samples_path,
        )
        self._samples_path.write_text("", encoding="utf-8")
        self._read, self._offset = [], 0
        self.switch(story.spec.load)
        plan_path = self._files.write_secret("load.json", plan.model_dump_json())
        argv = [sys.executable, "-m", "controlplane.scenarios.loadgen", str(plan_path)]
        await self._processes.start(processes.Command(_NAME, argv))

    async def stop(self) -> None:
        """End the load."""
        await self._processes.stop(_NAME)

    def switch(self, traffic: stories.Traffic) -> None:
        """Let clients do something else; they notice within a fraction of a second."""
        loadplan.write_traffic(self._traffic_path, traffic)

    def samples(self) -> list[smp.Sample]:
        """Return every request so far; raises GiveUpError when the generator ended early."""
        self._processes.check(_NAME)
        with self._samples_path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written
                self._offset += len(line)
                self._read.append(loadplan.from_line(line.decode()))
        return self._read
