"""A run's page in a real browser: signing in, news as they happen, both colours, and nothing the policy refuses."""

from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from controlplane.domain import outcomes
from tests.support import api, browser, console

PROGRAM = browser.found()

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here; apt-get install chromium"),
]


@pytest.fixture
def fakes() -> api.Fakes:
    return api.Fakes(api.system_clock())


@pytest.fixture
def server(fakes: api.Fakes) -> Generator[str]:
    with api.serving(console.served(fakes)) as url:
        yield url


@pytest.fixture
def page(tmp_path: Path) -> Generator[browser.Page]:
    assert PROGRAM is not None
    with browser.page(PROGRAM, tmp_path) as opened:
        yield opened


def sign_in(page: browser.Page, url: str) -> None:
    """Ask for a page, and sign in at the form that comes instead."""
    page.open(url)
    page.fill("#token", "token-viewer")
    page.follow("main button", urlsplit(url).path)


def test_a_person_signs_in_and_sees_a_run_end(fakes: api.Fakes, server: str, page: browser.Page) -> None:
    """What happens on the server appears without a reload, in order and once; at the end the page stops asking."""
    run = console.run(fakes)
    sign_in(page, f"{server}/runs/{run.id}")
    page.wait("document.querySelector('#live').textContent === 'live'")
    assert page.run("document.querySelectorAll('#lines li').length") == 2
    assert "running" in page.run("document.querySelector('#state').innerText")
    page.run("window.isSamePage = true")
    console.finish(fakes, run.id)
    page.wait("document.querySelector('#live').textContent === 'ended: succeeded'")
    kinds = page.run("[...document.querySelectorAll('#lines .kind')].map(one => one.textContent)")
    assert kinds == ["submitted", "step started", "step finished", "verify started", "verified", "ended"]
    assert "recovered after 4 s" in page.run("document.querySelector('#state').innerText")
    assert page.run("window.isSamePage") is True
    assert page.complaints == []


def test_hostile_text_is_shown_and_does_not_run(fakes: api.Fakes, server: str, page: browser.Page) -> None:
    """What the fleet says becomes text in the page and in its updates; nothing of it is loaded or run."""
    run = console.run(fakes, reason=console.HOSTILE, requested_by=console.HOSTILE)
    sign_in(page, f"{server}/runs/{run.id}")
    page.wait("document.querySelector('#live').textContent === 'live'")
    fakes.runs.end(run.id, outcomes.RunState.FAILED, None, console.HOSTILE)
    page.wait("document.querySelector('#live').textContent === 'ended: failed'")
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.text().count(console.HOSTILE) >= 4
    assert page.complaints == []


def test_the_page_has_two_colours_and_fits_a_phone(
    fakes: api.Fakes, server: str, page: browser.Page, tmp_path: Path
) -> None:
    """Light and dark follow the system, text keeps its contrast, and nothing has to be scrolled sideways."""
    run = console.run(fakes, reason="a long reason without end " * 8, node="node-" + "x" * 60)
    console.finish(fakes, run.id)
    sign_in(page, f"{server}/runs/{run.id}")
    for name in ("light", "dark"):
        page.scheme(name)
        assert page.run(CONTRAST) == []
        page.picture(tmp_path / f"{name}.png")
    backs = [(tmp_path / f"{name}.png").read_bytes() for name in ("light", "dark")]
    assert backs[0] != backs[1]
    page.width(380)
    assert page.run("document.documentElement.scrollWidth") <= 380


def test_the_list_leads_to_runs_and_signing_out_leads_away(fakes: api.Fakes, server: str, page: browser.Page) -> None:
    """Links and forms work, and afterwards the page is not shown any more."""
    run = console.run(fakes)
    sign_in(page, f"{server}/runs")
    page.follow("td a", f"/runs/{run.id}")
    page.follow(".who button", "/sign-in")
    page.open(f"{server}/runs/{run.id}")
    assert page.run("location.pathname") == "/sign-in"


# Every element with text of its own whose colour stands out too little from the colour behind it (WCAG AA: 4.5 to 1).
CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const part = (value) => (value /= 255, value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const hasText = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll('body *')].filter(hasText).filter((one) => {
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5;
  }).map((one) => `${one.tagName}.${one.className}: ${one.textContent.trim().slice(0, 30)}`);
})()
"""
