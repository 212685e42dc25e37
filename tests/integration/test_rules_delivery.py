"""One shipped rule from the scraped number to the webhook, through real Prometheus and real Alertmanager."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alerts import alertmanager_config, prometheus_config
from alerts.rules import pace
from controlplane.domain import services
from tests.support import prometheus as real
from tests.support import rules

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CHAT = services.Service("chat", "dsctl", {"service": "chat"})
MATCH = 'dsctl_node_cache_audits_total{tier="l1",result="match"}'
MISMATCH = 'dsctl_node_cache_audits_total{tier="l1",result="mismatch"}'


@dataclass
class Chain:
    """A node, Prometheus with the generated files, Alertmanager with the generated file, and a receiver."""

    node: real.Exposition
    inbox: real.Inbox
    prometheus: real.Server


@pytest.fixture
def chain(tmp_path: Path) -> Generator[Chain]:
    with ExitStack() as stack:
        node, inbox = stack.enter_context(real.exposing()), stack.enter_context(real.receiving())
        node.set({MATCH: 0, MISMATCH: 0})
        token = tmp_path / "token"
        token.write_text("s3cret", encoding="utf-8")
        alertmanager = real.start_alertmanager(
            tmp_path / "am",
            alertmanager_config.config(
                webhook_url=inbox.url,
                credentials_file=str(token),
                timing=alertmanager_config.Timing(group_wait_seconds=0.2, group_interval_seconds=1.0),
            ),
        )
        stack.callback(alertmanager.stop)
        speed = pace.Pace(time_ratio=0.05, scrape_seconds=0.5, evaluation_seconds=0.5)
        (tmp_path / "rules.yml").write_text(rules.written([CHAT], speed), encoding="utf-8")
        target = prometheus_config.Target(node.address, service="chat", node="node-1")
        (tmp_path / "nodes.json").write_text(prometheus_config.target_file([target]), encoding="utf-8")
        server = real.start_prometheus(
            tmp_path / "prometheus",
            prometheus_config.config(
                targets_folder=str(tmp_path),
                rule_files=[str(tmp_path / "rules.yml")],
                alertmanagers=[alertmanager.url.removeprefix("http://")],
                cadence=prometheus_config.Cadence(scrape_seconds=0.5, evaluation_seconds=0.5, refresh_seconds=1.0),
                jobs=[prometheus_config.NODES],
            ),
        )
        stack.callback(server.stop)
        yield Chain(node, inbox, server)


def about(inbox: real.Inbox, alert: str) -> list[dict[str, Any]]:
    return [one for body in list(inbox.bodies) for one in body["alerts"] if one["labels"]["alertname"] == alert]


def test_wrong_answers_reach_the_webhook_with_node_and_token(chain: Chain) -> None:
    """Audits begin to mismatch; the webhook hears of that node, with the bearer token, and later of the end."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stop = _count(pool, chain.node)
        stack.callback(stop)
        [alert, *_] = real.until(lambda: about(chain.inbox, "CacheAnswersWrong"), "the webhook is called", seconds=40)
        assert alert["status"] == "firing"
        assert alert["labels"]["service"] == "chat"
        assert alert["labels"]["node"] == "node-1"
        assert alert["labels"]["dsctl_fault"] == "cache"
        assert alert["annotations"]["runbook_url"] == "docs/alerts/CacheAnswersWrong.md"
        assert 0.3 < float(alert["annotations"]["observed"]) < 0.7
        assert set(chain.inbox.authorizations) == {"Bearer s3cret"}
        assert chain.inbox.bodies[0]["version"] == "4"

        stop()
        real.until(
            lambda: [one for one in about(chain.inbox, "CacheAnswersWrong") if one["status"] == "resolved"],
            "the end is told too",
            seconds=40,
        )
    assert not about(chain.inbox, "ControlPlaneSilent"), "alarms about dsctl must not go to dsctl"


def _count(pool: ThreadPoolExecutor, node: real.Exposition) -> Callable[[], None]:
    """Let the node audit ten answers a second until the returned function is called; half of them mismatch."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.2):
            node.metrics[MATCH] += 1
            node.metrics[MISMATCH] += 1

    done = pool.submit(run)

    def stop() -> None:
        ended.set()
        done.result(timeout=10)

    return stop
