"""The runbooks we ship load against the real actions and signals."""

from importlib import import_module
from pathlib import Path

import pytest

from actions import params, registry
from actions.node import client, data, directory
from controlplane.domain import services
from controlplane.runs.language import checks, library, models
from tests.support import action_house
from tests.support.clock import FakeClock

SIGNALS = ("cache_wrong_ratio", "latency_p99", "success_ratio", "server_error_ratio", "queue_depth")


@pytest.fixture
async def shipped() -> library.Library:
    async with client.AdminClient(token="t", token_setting="TOKEN", tls=action_house.TLS) as http:
        nodes = data.NodeData("", tls=action_house.TLS)
        targets = action_house.connect(http, directory.StaticDirectory({}), nodes, FakeClock())
        await nodes.aclose()
        return library.load(checks.Vocabulary(registry.build(targets, offered=()), SIGNALS))


async def test_every_shipped_runbook_loads_and_is_documented(shipped: library.Library) -> None:
    """A runbook without a page leaves the person on call alone."""
    assert "flush-cache" in shipped.runbooks
    pages = Path(import_module("controlplane").__file__ or "").parent.parent / "docs" / "runbooks"
    for name in shipped.runbooks:
        assert (pages / f"{name}.md").is_file(), name


async def test_what_shipped_runbooks_verify_has_a_limit(shipped: library.Library) -> None:
    """Every service can be judged by them without further configuration."""
    service = services.Service("chat", "dsctl", {})
    for book in shipped.runbooks.values():
        for signal in book.spec.verify.signals if book.spec.verify else ():
            service.limit(signal)


# A crash in the middle, a target that must be waited for: what the run engine adds to each step at most, in seconds.
SLACK_SECONDS = 150.0


def longest_seconds(book: library.Runbook, *, after: str) -> float:
    """Return how long the steps after one may take together, every attempt included."""
    names = [step.name for step in book.spec.steps]
    later = book.spec.steps[names.index(after) + 1 :]
    actions = [step for step in later if step.action]
    waits = [step.wait.timeout or step.wait.seconds or 0.0 for step in later if step.wait]
    tries = sum(
        (step.timeout or models.DEFAULT_ACTION_TIMEOUT_SECONDS) * (step.attempts or models.DEFAULT_ATTEMPTS)
        for step in actions
    )
    return sum(waits) + tries + SLACK_SECONDS * len(later)


async def test_an_ejection_outlives_the_run_that_made_it(shipped: library.Library) -> None:
    """A bad node must not come back because a lease ended while it is being repaired."""
    checked: list[str] = []
    for book in shipped.runbooks.values():
        for step in book.spec.steps:
            if step.action not in {"eject_node", "drain_node"}:
                continue
            ttl = step.params["ttl_seconds"]
            assert isinstance(ttl, int | float)
            assert ttl > longest_seconds(book, after=step.name), (book.name, step.name)
            checked.append(book.name)
    assert {"eject-and-restart", "quarantine-node"} <= set(checked)


async def test_a_node_that_is_not_repaired_is_kept_out_and_told_about(shipped: library.Library) -> None:
    """Every failure after the ejection ends in quarantine and with a person; only draining may fail."""
    spec = shipped.get("eject-and-restart").spec
    whole = [(edge.run, edge.escalate) for edge in spec.on_failure]
    assert whole == [("quarantine-node", None), (None, "oncall")]
    by_name = {step.name: step for step in spec.steps}
    assert [name for name, step in by_name.items() if step.continue_on_failure] == ["drain"]
    assert [name for name, step in by_name.items() if step.on_failure is not None] == ["eject"]
    quarantine = shipped.get("quarantine-node").spec
    assert quarantine.steps[0].params == {"ttl_seconds": params.MAX_TTL_SECONDS, "take_over": True}


async def test_a_leaking_node_is_looked_at_before_anything_is_done_to_it(shipped: library.Library) -> None:
    """And restarted as a bad one is, whether or not it could be looked at."""
    leaking, bad = shipped.get("restart-leaking-node").spec, shipped.get("eject-and-restart").spec
    first, *others = leaking.steps
    assert (first.action, first.continue_on_failure, first.attempts) == ("capture_node", True, 1)
    assert others == list(bad.steps)
    assert leaking.on_failure == bad.on_failure
