# pyright: basic, reportMissingImports=false
"""The same five steps on DBOS Transact, for the benchmark `runs` to stand beside.

Run by the interpreter of an environment that has DBOS and none of our packages:
`python dbos_app.py URL LOG MODE NUM_RUNS NUM_STEPS`. A step appends one line with the time to LOG. Mode `drain`: runs that
were queued beforehand are drained. Mode `steps`: they are called one after another. Ends when all are done.
"""

import os
import sys
import time

from dbos import DBOS, DBOSClient, SetWorkflowID

_QUEUE, _VERSION = "runs", "1"
_POLL_SECONDS = 0.1
# As many at once as our engine drives.
_CONCURRENCY = 16


def main(url: str, log: str, mode: str, num_runs: int, num_steps: int) -> None:
    """Do what was asked, and leave without waiting for DBOS's own threads."""
    if mode == "drain":
        _enqueue(url, num_runs, num_steps)
    run_book = _define(log)
    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "executor_id": "one",
            "application_version": _VERSION,
            "log_level": "ERROR",
        }
    )
    DBOS.launch()
    if mode == "drain":
        DBOS.register_queue(_QUEUE, worker_concurrency=_CONCURRENCY, polling_interval_sec=_POLL_SECONDS)
        while DBOS.list_workflows(status=["ENQUEUED", "PENDING"], limit=1, load_input=False):
            time.sleep(0.05)  # noqa: TID251 - this program has none of our packages
    else:
        for number in range(num_runs):
            with SetWorkflowID(f"run-{number}"):
                run_book(f"run-{number}", num_steps)
    os._exit(0)


def _enqueue(url, num_runs, num_steps):
    DBOS.migrate(url)
    client = DBOSClient(system_database_url=url)
    for number in range(num_runs):
        name = f"run-{number}"
        options = {"workflow_name": "run_book", "queue_name": _QUEUE, "workflow_id": name, "app_version": _VERSION}
        client.enqueue(options, name, num_steps)


def _define(log):
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @DBOS.step()
    def act(key):
        os.write(file, f"{key} {time.monotonic():.6f}\n".encode())  # noqa: TID251 - as above

    @DBOS.workflow(name="run_book")
    def run_book(name, num_steps):
        for index in range(num_steps):
            act(f"{name}:{index}")

    return run_book


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
