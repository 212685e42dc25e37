"""PromQL templates: placeholders, matchers and their quoting, durations."""

import pytest

from controlplane import promql


def test_one_template_serves_every_place_window_and_an_hour_ago() -> None:
    """The placeholders are replaced wherever they stand, and each metric is shifted."""
    template = promql.Template('sum by ({by}, le) (rate(a{selector,x="y"}[{window}])) / sum by ({by}) (b{selector})')
    assert template.render(selector='s="1"', by=("s", "node"), window="2m") == (
        'sum by (s, node, le) (rate(a{s="1",x="y"}[2m])) / sum by (s, node) (b{s="1"})'
    )
    assert template.render(selector='s="1"', by=("s",), window="2m", offset="1h") == (
        'sum by (s, le) (rate(a{s="1",x="y"}[2m] offset 1h)) / sum by (s) (b{s="1"} offset 1h)'
    )


@pytest.mark.parametrize(
    ("values", "matcher"),
    [
        (["chat"], 'service="chat"'),
        (['a"b\\c\nd'], 'service="a\\"b\\\\c\\nd"'),
        (["b", "a", "b"], 'service=~"a|b"'),
        (["a.b", "c|d"], 'service=~"a\\\\.b|c\\\\|d"'),
        ([f"service-{n}" for n in range(500)], 'service!=""'),
    ],
)
def test_matchers_are_quoted_and_stay_short(values: list[str], matcher: str) -> None:
    """Values cannot leave their quotes or act as patterns; of very many, everything is asked for."""
    assert promql.matcher("service", values) == matcher


def test_nodes_are_told_from_gateways_and_exporters_by_their_job() -> None:
    """A named job wins; else the jobs of others are left out; else nothing is said."""
    assert promql.EngineQueries("node", {}, job="nodes", other_jobs=("dcgm",)).node_matcher == ',job="nodes"'
    assert promql.EngineQueries("node", {}, other_jobs=("dcgm", "x.y")).node_matcher == ',job!~"dcgm|x\\\\.y"'
    assert promql.EngineQueries("node", {}).node_matcher == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0s"), (0.2, "200ms"), (45, "45s"), (3600, "1h"), (5400.5, "1h30m500ms"), (86400, "24h")],
)
def test_durations_are_written_as_prometheus_reads_them(seconds: float, text: str) -> None:
    """To the millisecond, in falling units."""
    assert promql.duration(seconds) == text
