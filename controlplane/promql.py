"""PromQL as templates: one text serves every node, every service, every window, and an hour ago.

Called by `observe` (which asks it) and by `alerts.rules` (which writes rules from it). Pure text in, text out;
never talks to Prometheus. Stays within what Prometheus 2.42 understands.

A template has three placeholders. `{selector}` stands for the braces with the matchers of the services asked
for, and takes more matchers after a comma: `x{selector,code="500"}`. `{window}` is the range of rates. `{by}`
lists the labels that tell the targets apart: the labels of the selector, and at node scope the node's label.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# Above this a regular expression of names makes the URL of a query too long for proxies in between (8 KiB is a
# common limit, and one query may hold the selector several times); then every value is asked for and sorted here.
MAX_ALTERNATIVES_LENGTH = 800

LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_SELECTOR = re.compile(r"\{selector(?P<more>,[^{}]*)?\}(?P<range>\[[^\]]*\])?")
_PLACEHOLDER = re.compile(r"\{(selector|window|by)[,}]")
_META = re.compile(r"([\\.+*?()|\[\]{}^$])")


@dataclass(frozen=True, slots=True)
class Template:
    """One PromQL text with placeholders."""

    text: str

    @property
    def has_selector(self) -> bool:
        """True when every metric can be narrowed to the services asked for; a profile without it is refused."""
        return _SELECTOR.search(self.text) is not None

    @property
    def has_by(self) -> bool:
        """True when the same text serves node and service scope."""
        return "{by}" in self.text

    def render(self, *, selector: str, by: Sequence[str], window: str, offset: str = "") -> str:
        r"""Return the query. `selector` are matchers without braces; `offset` shifts every metric into the past.

        >>> template = Template("sum by ({by}) (rate(x_total{selector,code=\"500\"}[{window}]))")
        >>> template.render(selector='service="chat"', by=["service"], window="2m", offset="1h")
        'sum by (service) (rate(x_total{service="chat",code="500"}[2m] offset 1h))'
        """
        text = self.text.replace("{window}", window).replace("{by}", ", ".join(by))
        late = f" offset {offset}" if offset else ""
        return _SELECTOR.sub(lambda m: f"{{{selector}{m['more'] or ''}}}{m['range'] or ''}{late}", text)


@dataclass(frozen=True, slots=True)
class SignalQueries:
    """How one canonical signal is asked for at each scope; None where the engine does not tell.

    `volume` counts the events behind a ratio within the window, so that a rule can ignore one bad event among
    two. `source` is the scrape job whose targets the numbers come from, empty for the nodes themselves.
    """

    node: Template | None = None
    service: Template | None = None
    volume: Template | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class EngineQueries:
    """Everything a rule writer must know about an engine: its signals, and which targets are its nodes.

    `other_jobs` are the scrape jobs of this profile that are not nodes (a gateway, a GPU exporter).
    """

    node_label: str
    signals: Mapping[str, SignalQueries]
    job: str = ""
    other_jobs: tuple[str, ...] = ()

    @property
    def node_matcher(self) -> str:
        """The matcher that keeps only the nodes' own targets, to be added to a selector; may be empty.

        >>> EngineQueries("node", {}, other_jobs=("dcgm", "gateway")).node_matcher
        ',job!~"dcgm|gateway"'
        """
        if self.job:
            return f",{matcher('job', [self.job])}"
        return f',job!~"{"|".join(map(_literal, self.other_jobs))}"' if self.other_jobs else ""


def placeholders(text: str) -> frozenset[str]:
    """Return the names of the placeholders in `text`."""
    return frozenset(_PLACEHOLDER.findall(text))


def selector(labels: Mapping[str, str]) -> str:
    r"""Return the matchers of one service, without braces.

    >>> selector({"service": "chat", "zone": 'a"b'})
    'service="chat",zone="a\\"b"'
    """
    return ",".join(matcher(name, [value]) for name, value in sorted(labels.items()))


def matcher(name: str, values: Iterable[str]) -> str:
    """Return one matcher that keeps any of `values`; of very many it keeps every non-empty value.

    >>> matcher("service", ["code", "chat"])
    'service=~"chat|code"'
    """
    wanted = sorted(set(values))
    if len(wanted) == 1:
        return f'{name}="{_quoted(wanted[0])}"'
    pattern = "|".join(map(_literal, wanted))
    return f'{name}=~"{pattern}"' if len(pattern) <= MAX_ALTERNATIVES_LENGTH else f'{name}!=""'


def duration(seconds: float) -> str:
    """Return a duration as Prometheus writes it, to the millisecond.

    >>> duration(120), duration(90), duration(1.5), duration(0)
    ('2m', '1m30s', '1s500ms', '0s')
    """
    rest = round(seconds * 1000)
    parts: list[str] = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _literal(value: str) -> str:
    """Return a regular expression of RE2, inside a PromQL string, that matches exactly `value`."""
    return _quoted(_META.sub(r"\\\1", value))


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
