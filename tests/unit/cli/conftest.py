"""One real server for the commands of a file; each test puts its own house behind it."""

from collections.abc import Generator

import fastapi
import pytest

from tests.support import api


@pytest.fixture
def fakes() -> api.Fakes:
    return api.Fakes(api.system_clock())


@pytest.fixture(scope="module")
def served() -> Generator[tuple[fastapi.FastAPI, str]]:
    application = api.app.create_app(api.Fakes(api.system_clock()).house())
    with api.serving(application) as url:
        yield application, url
