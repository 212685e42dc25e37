"""A process that drives one run and may be killed at a fail point.

Its target is a file that the engine does not know: every effect appends its key and token with one write.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from actions import api
from controlplane import clock
from controlplane.domain import plans
from controlplane.runs import config, failpoints
from controlplane.store import database as db
from controlplane.store import house
from tests.support import runs as support

DEDUP_KEY = "the one run"


class FileAction(support.NotingAction):
    """Appends to a file; can be probed by reading it."""

    def __init__(self, path: Path, reentry: plans.Reentry) -> None:
        super().__init__(reentry)
        self._path = path

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        line = f"{context.idempotency_key} {context.token}\n".encode()
        target = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        try:
            os.write(target, line)
        finally:
            os.close(target)
        return api.ActionResult("written")

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        if any(key == context.idempotency_key for key, _ in support.read_notes(self._path)):
            return api.Applied(api.ActionResult("it is in the file"))
        return api.NotApplied("it is not in the file")


class FileStage(support.Stage):
    """A stage whose wait holds from the second look on, also across a restart."""

    def __init__(self, looked: Path) -> None:
        super().__init__()
        self._looked = looked

    def is_true(self, expression: str, variables: Mapping[str, object]) -> bool:
        was_looked_at = self._looked.exists()
        self._looked.touch()
        return was_looked_at


async def drive(url: str, folder: Path, reentry: plans.Reentry, points: failpoints.FailPoints) -> None:
    """Submit the run, or find it again, and drive it to its end."""
    time = clock.SystemClock()
    store = house.open_house(db.DatabaseSettings(url), time)
    settings = config.RunSettings(poll_seconds=0.02, wait_poll_seconds=0.02, lease_seconds=6.0)
    action = FileAction(folder / "effects", reentry)
    engine = support.make_engine(store, time, FileStage(folder / "looked"), {"note": action}, settings, points)
    await engine.start()
    steps = (support.act("one"), support.wait("ready"), support.act("two"))
    run_id = await engine.submit(support.plan(*steps, dedup_key=DEDUP_KEY))
    while not (await store.runs.get(run_id)).state.is_final:
        await time.sleep(0.01)
    await engine.stop()
    store.close()


def main(url: str, folder: Path, reentry: plans.Reentry, armed: str) -> None:
    """Be the process: arm a fail point, if any is named, and drive."""
    asyncio.run(drive(url, folder, reentry, failpoints.read_environment({"DSCTL_FAILPOINT": armed})))
