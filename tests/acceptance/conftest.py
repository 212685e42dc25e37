"""One demo of all scenarios for each mode, played once; the tests beside this look at what each scenario showed."""

import pytest

from tests.support import demo


@pytest.fixture(scope="session")
def auto(tmp_path_factory: pytest.TempPathFactory) -> demo.Played:
    """All scenarios on one fleet, with the control plane allowed to act."""
    return demo.play(tmp_path_factory.mktemp("auto"), *demo.IDS, mode="auto")


@pytest.fixture(scope="session")
def observe(tmp_path_factory: pytest.TempPathFactory) -> demo.Played:
    """The same with its hands tied."""
    return demo.play(tmp_path_factory.mktemp("observe"), *demo.IDS, mode="observe")
