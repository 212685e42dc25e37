"""The table of docs/profiles.md; as a program (`python -m tests.support.profile_page`) it rewrites it from the profiles."""

from collections.abc import Iterator
from pathlib import Path

from controlplane import promql
from controlplane.observe import catalogue, profiles

PAGE = Path(__file__).parents[2] / "docs" / "profiles.md"
ENGINES = ("dsctl", "vllm", "sglang", "tgi", "triton", "lmdeploy")
# Profiles that others take signals from; by name, which is the scrape job of all but Istio's.
MIXINS = frozenset({"dcgm", "host", "kube-state-metrics", "istio"})
_BEGIN, _END = "<!-- signals -->\n", "<!-- end of signals -->\n"


def rewritten(text: str) -> str:
    """Return the page with the table as it must be now."""
    before, rest = text.split(_BEGIN)
    return f"{before}{_BEGIN}\n{''.join(_lines())}\n{_END}{rest.split(_END)[1]}"


def _lines() -> Iterator[str]:
    known = catalogue.load()
    columns = [*ENGINES, *sorted(MIXINS)]
    assert set(columns) == set(profiles.names()), "name the new profile above"
    signals = {name: profiles.load(name, known).queries.signals for name in columns}
    yield _row("signal", *(f"`{name}`" for name in columns))
    yield _row(*["---"] * (len(columns) + 1))
    for signal in known:
        yield _row(f"`{signal}`", *(_cell(name, signals[name].get(signal)) for name in columns))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def _cell(profile: str, asked: promql.SignalQueries | None) -> str:
    """Say at which scopes a profile itself asks, not its mix-ins."""
    if asked is None or asked.source in MIXINS - {profile}:
        return ""
    if asked.node is not None and asked.service is not None:
        return "both"
    return "node" if asked.node is not None else "service"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
