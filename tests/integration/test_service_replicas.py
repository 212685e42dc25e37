"""Two services over one PostgreSQL: the other goes on when one is killed, with the loop, the runs and what people ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks import postgres
from tests.support import postgres as support
from tests.support import prometheus as real
from tests.support import service

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def url(postgres_server: postgres.Server) -> Iterator[str]:
    with support.database(postgres_server) as made:
        yield made


def second(rig: service.Rig) -> service.Server:
    """The settings of the first service under another name and port, in a folder of its own."""
    settings = yaml.safe_load(rig.server.config.read_text(encoding="utf-8"))
    settings |= {"replica_name": "two", "listen": {"port": real.free_port()}, "data_dir": "data-two"}
    path = rig.folder / "two.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    url = f"http://127.0.0.1:{settings['listen']['port']}"
    return service.Server(path, rig.folder / "two.log", url, rig.server.token_file)


def test_the_other_replica_goes_on_when_one_is_killed(tmp_path: Path, url: str) -> None:
    """The leader is killed while its run waits for the verdict: the other leads, ends the run, and nothing is done twice."""
    with service.installed(tmp_path, database_url=url, replica_name="one") as rig:
        other = second(rig)
        other.start()
        try:
            rig.poison("n1")
            rig.incident(lambda one: one["state"] == "verifying", "the flush is done")
            # Whoever is asked tells the same.
            assert [one["id"] for one in other.get("/runs")["items"]] == [one["id"] for one in rig.runs()]
            rig.server.kill()
            [run] = other.get("/runs")["items"]
            real.until(
                lambda: other.get(f"/runs/{run['id']}")["ended_at"],
                "the other ends the run",
                seconds=service.LOOP_SECONDS,
            )
            # Alertmanager's address is the killed one's: what has resolved meanwhile is told when it is back.
            rig.server.start()
            incident = rig.closed()
            run = other.get(f"/runs/{run['id']}")
            assert (run["state"], run["verdict"], incident["run_id"]) == ("succeeded", "recovered", run["id"]), (
                rig.story()
            )
            assert rig.nodes["n1"].effects == ["POST /admin/v1/cache/flush"], rig.story()
            assert not other.bugs(), "\n".join(other.bugs())
        finally:
            assert other.stop() == 0, other.log.read_text()[-3000:]
            other.http.close()


@pytest.mark.slow
def test_a_replica_that_is_stopped_hands_the_loop_over_at_once(tmp_path: Path, url: str) -> None:
    """SIGTERM gives the lease back: the other ticks well before the lease would have ended, and takes alerts and orders."""
    with service.installed(tmp_path, database_url=url, replica_name="one") as rig:
        other = second(rig)
        other.start()
        try:
            rig.until_scraped()
            assert rig.server.stop() == 0
            other.wait_ticks(2)
            rig.server = other
            answer = rig.order("n1")
            assert answer is not None
            assert answer.status_code == 201, answer.text
            assert rig.ended(answer.json()["run_id"])["state"] == "succeeded", rig.story()
        finally:
            assert other.stop() == 0, other.log.read_text()[-3000:]
            other.http.close()
