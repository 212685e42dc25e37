"""The parts of a run's page, as HTML: rendered the same way whether a page is loaded or brought up to date.

Used by `pages` and `stream`. Reads the decisions about the run's incident; changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.api import house
from controlplane.console import rendering, views
from controlplane.domain import outcomes, runs

# More refusals than this are a story that the incident tells better.
_MAX_DECISIONS = 50


@dataclass(frozen=True, slots=True)
class Parts:
    """Renders for one house."""

    home: house.House
    rendering: rendering.Rendering

    async def view(self, run: runs.Run, events: Sequence[runs.RunEvent]) -> views.State:
        """Return what changes while the run goes on."""
        incident_id = run.plan.request.incident_id
        decisions: Sequence[outcomes.Decision] = ()
        if incident_id is not None:
            decisions = await self.home.decisions.find(incident_id=incident_id, limit=_MAX_DECISIONS)
        answers = await self.home.runs.approvals(run.id)
        return views.state(run, events, decisions, answers, self.home.clock.now())

    async def state(self, run: runs.Run, events: Sequence[runs.RunEvent]) -> str:
        """Return the same as HTML."""
        return self.rendering.page("_state.html", state=await self.view(run, events))

    def line(self, event: runs.RunEvent) -> str:
        """Return one entry of the log as HTML."""
        return self.rendering.page("_line.html", line=views.line(event))
