"""The clients of the demo: the load generator as a process, and its samples as they are written.

Called by the demo alone. Async for starting and stopping; reading the samples is a short read of a local file.
"""

import sys
from pathlib import Path

from controlplane.demo import processes
from controlplane.scenarios import loadplan, prompts, stories
from controlplane.scenarios import samples as smp

_NAME = "load"


class Clients:
    """One run of the load generator."""

    def __init__(self, started: processes.Processes, folder: Path) -> None:
        self._processes = started
        self._path = folder / "samples.jsonl"
        self._plan_path = folder / "load.json"
        self._read: list[smp.Sample] = []
        self._offset = 0

    async def start(self, story: stories.Story, gateway_url: str, seconds: float) -> None:
        """Start the load of a story for at most `seconds`."""
        load = story.spec.load
        plan = loadplan.LoadPlan(
            gateway_url=gateway_url,
            prompts=prompts.ALL[: load.prompts],
            max_tokens=load.max_tokens,
            rate_per_second=load.rate_per_second,
            users=load.users,
            seconds=seconds,
            samples_path=self._path,
        )
        self._path.write_text("", encoding="utf-8")
        self._read, self._offset = [], 0
        self._plan_path.write_text(plan.model_dump_json(), encoding="utf-8")
        argv = [sys.executable, "-m", "controlplane.scenarios.loadgen", str(self._plan_path)]
        await self._processes.start(processes.Command(_NAME, argv))

    async def stop(self) -> None:
        """End the load."""
        await self._processes.stop(_NAME)

    def samples(self) -> list[smp.Sample]:
        """Return every request so far; raises GiveUpError when the generator ended early."""
        self._processes.check(_NAME)
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written
                self._offset += len(line)
                self._read.append(loadplan.from_line(line.decode()))
        return self._read
