"""For any order of events: never two active runs on a target in one lane, and one run per dedup key."""

import asyncio
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain import errors, lanes
from controlplane.runs import engine
from controlplane.store import house
from tests.support import runs as support
from tests.support import store as stores
from tests.support.clock import FakeClock

TARGETS = ("node-1", "node-2")
PLACES = tuple((node, lane) for node in TARGETS for lane in (lanes.Lane.NODES, lanes.Lane.CAPACITY))
SUBMIT = st.tuples(st.just("submit"), st.sampled_from(PLACES), st.sampled_from((None, "a", "b")))
CANCEL = st.tuples(st.just("cancel"), st.integers(0, 5), st.none())
PLAY = st.tuples(st.sampled_from(("play", "claim and die", "make ready", "fail next")), st.none(), st.none())


class _World:
    """One store, the engine that is alive now, and what was promised to callers so far."""

    def __init__(self, store: house.House, clock: FakeClock) -> None:
        self.store, self.clock = store, clock
        self.stage, self.note = support.Stage(), support.NotingAction()
        self.stage.is_ready = False
        self.accepted: list[str] = []
        self.by_key: dict[str, str] = {}
        self.alive: engine.RunEngine

    async def start(self) -> None:
        self.alive = support.make_engine(self.store, self.clock, self.stage, {"note": self.note})
        await self.alive._member.join()

    async def submit(self, place: tuple[str, lanes.Lane], key: str | None) -> None:
        node, lane = place
        steps = (support.act("one"), support.wait("ready", timeout=5), support.act("two"))
        try:
            wanted = replace(support.plan(*steps, node=node, dedup_key=key), lane=lane)
            run_id = await self.alive.submit(wanted)
        except errors.ConflictError:
            return
        self.accepted.append(run_id)
        if key is not None:
            assert self.by_key.setdefault(key, run_id) == run_id

    async def cancel(self, index: int) -> None:
        if index < len(self.accepted):
            await self.alive.cancel(self.accepted[index], "tester")

    async def do(self, verb: str) -> None:
        if verb == "claim and die":
            await self.store.database.write(lambda connection: self.alive._claim(connection, 1))
            await self.start()
        elif verb == "make ready":
            self.stage.is_ready = True
        elif verb == "fail next":
            self.note.answers["apply"].append(errors.RetryLaterError("busy"))
        await support.play(self.alive)
        self.clock.move(2.0)

    async def check(self) -> None:
        unfinished = await self.store.runs.find(state="unfinished")
        active = Counter((run.plan.target, run.plan.lane) for run in unfinished)
        assert all(count <= 1 for count in active.values()), active
        assert {run.id for run in await self.store.runs.find()} == set(self.accepted), "a run was lost or made up"

    async def finish(self) -> None:
        for run_id in self.accepted:
            run = await support.play_to_end(self.alive, self.store, self.clock, run_id)
            seen = await support.kinds(self.store, run.id)
            assert seen.count("ended") == 1
            for step in ("one", "two"):
                sent = [one for one in self.note.told if one.key == f"{run.id}:{step}"]
                events = await self.store.runs.events(run.id)
                assert len(sent) <= sum(one.kind == "step_started" and one.step == step for one in events)


async def _live(folder: Path, story: list[tuple[str, object, object]]) -> None:
    clock = FakeClock()
    with stores.opened(folder, clock) as store:
        world = _World(store, clock)
        await world.start()
        for verb, first, second in story:
            if verb == "submit":
                await world.submit(cast("tuple[str, lanes.Lane]", first), second if second is None else str(second))
            elif verb == "cancel":
                await world.cancel(int(str(first)))
            else:
                await world.do(verb)
            await world.check()
        await world.finish()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.one_of(SUBMIT, SUBMIT, CANCEL, PLAY, PLAY), min_size=3, max_size=12))
def test_target_is_never_shared_and_no_run_is_lost(story: list[tuple[str, object, object]]) -> None:
    """Submissions, cancels, deaths and failures in any order keep the promises of the engine."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_live(Path(folder), story))
