"""What holds on SQLite holds on PostgreSQL: the same tests of repositories, schema and run engine, on a real server.

Time is the test's own, as it is there; everything else is the server's. What only PostgreSQL has is in
`test_postgres_runs`.
"""

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from benchmarks import postgres
from controlplane.store import house
from tests.support import postgres as support
from tests.support.clock import FakeClock
from tests.unit.runs import (
    conftest,
    test_run_failure,
    test_run_step_edges,
    test_run_steps,
    test_run_takeover,
)
from tests.unit.store import test_store_database, test_store_repositories, test_store_schema

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

stage, note, driven = conftest.stage, conftest.note, conftest.driven

# Each of these opens a SQLite file of its own, asks how SQLite is set, or leans on its one writer.
_SQLITE_ONLY = {
    "test_queued_writes_share_a_commit",
    "test_full_queue_refuses_at_once",
    "test_write_after_close_is_refused",
    "test_readers_cannot_write",
    "test_commits_are_flushed_to_disk",
    "test_newer_schema_is_refused_with_advice",
    "test_reopening_after_a_refusal_is_possible",
    "test_second_process_is_refused_and_told_who_holds_the_file",
    "test_unusable_url_is_refused",
    "test_database_file_is_private",
    # What a run owes is delivered all at once; only the one writer of SQLite puts the answers in order.
    "test_bad_verdict_undoes_then_runs_then_escalates",
}


@pytest.fixture
def store(postgres_server: postgres.Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[house.House]:
    with support.database(postgres_server) as url, support.clocked(url, clock, monkeypatch) as opened:
        yield opened


def _cases(module: ModuleType) -> dict[str, Callable[..., object]]:
    return {
        name: case
        for name, case in vars(module).items()
        if name.startswith("test_") and callable(case) and name not in _SQLITE_ONLY
    }


for _module in (
    test_run_failure,
    test_run_step_edges,
    test_run_steps,
    test_run_takeover,
    test_store_database,
    test_store_repositories,
    test_store_schema,
):
    globals().update(_cases(_module))
