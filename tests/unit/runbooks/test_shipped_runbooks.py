"""The runbooks we ship load against the real actions and signals."""

from importlib import import_module
from pathlib import Path

import pytest

from actions import registry
from actions.node import client, directory
from controlplane.domain import services
from controlplane.runs.language import checks, library
from tests.support import action_house

SIGNALS = ("cache_wrong_ratio", "latency_p99", "success_ratio", "server_error_ratio", "queue_depth")


@pytest.fixture
async def shipped() -> library.Library:
    async with client.AdminClient(token="t", token_setting="TOKEN", tls=action_house.TLS) as http:
        known = registry.build(action_house.connect(http, directory.StaticDirectory({})), offered=())
        return library.load(checks.Vocabulary(known, SIGNALS))


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
        assert book.spec.verify is not None
        for signal in book.spec.verify.signals:
            service.limit(signal)
