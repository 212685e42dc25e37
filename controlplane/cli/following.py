"""Follows a run to its end, printing its events as they come. Blocking; the server holds each question open.

A server that restarts in between is waited for: runs survive it, and so does the watching.
"""

import json
from typing import Any

from controlplane.cli import client, failures, output

# How long the server holds a question open; below the usual idle timeouts of proxies.
_HOLD_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_EXIT_OF_STATE = {"succeeded": failures.Exit.OK, "rolled_back": failures.Exit.ROLLED_BACK}


def follow(http: client.Client, run_id: str, timeout_seconds: float, *, is_quiet: bool = False) -> failures.Exit:
    """Print events until the run ends, and return the exit code of its state.

    `is_quiet` keeps the events off standard output, for when it carries JSON. Raises CliError when the wait times
    out or is interrupted; the run goes on in both cases.
    """
    try:
        return _follow(http, run_id, timeout_seconds, is_quiet=is_quiet)
    except KeyboardInterrupt as error:
        raise failures.CliError(
            f"interrupted; {run_id} goes on",
            exit_code=failures.Exit.INTERRUPTED,
            code="interrupted",
            hint=f"Watch again: dsctl runs watch {run_id}; stop it: dsctl runs cancel {run_id}",
        ) from error


def _follow(http: client.Client, run_id: str, timeout_seconds: float, *, is_quiet: bool) -> failures.Exit:
    from controlplane import clock

    ticking = clock.SystemClock()
    deadline = ticking.monotonic() + timeout_seconds
    after, is_lost = -1, False
    while True:
        left = deadline - ticking.monotonic()
        if left <= 0:
            raise _timed_out(run_id, timeout_seconds)
        hold = min(_HOLD_SECONDS, left)
        try:
            news = http.get(
                f"/runs/{client.segment(run_id)}/events",
                {"after": after, "wait_seconds": round(hold, 3)},
                patience_seconds=hold,
            )
        except failures.UnreachableError as error:
            if not is_lost:
                output.say(f"{error}; trying on")
            is_lost = True
            _pause(min(_RETRY_SECONDS, left))
            continue
        is_lost = False
        for event in news["items"]:
            after = event["number"]
            (output.say if is_quiet else output.tell)(line(event))
        if news["is_final"]:
            return _EXIT_OF_STATE.get(news["state"], failures.Exit.FAILED)


def _pause(seconds: float) -> None:
    import asyncio

    from controlplane import clock

    asyncio.run(clock.SystemClock().sleep(seconds))


def _timed_out(run_id: str, seconds: float) -> failures.CliError:
    return failures.CliError(
        f"{run_id} has not ended within {seconds:g} s; it goes on",
        exit_code=failures.Exit.TIMED_OUT,
        code="timed-out",
        hint=f"Watch again: dsctl runs watch {run_id}",
    )


def line(event: dict[str, Any]) -> str:
    """Return one event as one line for people.

    >>> line({"at": "2026-03-02T09:00:05+00:00", "kind": "step_started", "step": "flush", "data": {}})
    '09:00:05  step_started      flush'
    """
    data: dict[str, Any] = event["data"]
    said = str(data.get("sentence") or (json.dumps(data) if data else ""))
    return output.clean(f"{event['at'][11:19]}  {event['kind']:<16}  {event['step']}  {said}").rstrip()


def ending(run: dict[str, Any]) -> str:
    """Return the sentence a run ended with."""
    verdict, sentence = run["verdict"] or "", run["sentence"]
    says_it = not verdict or sentence.startswith((f"{verdict}:", f"verdict {verdict}"))  # as most sentences do
    told = [f"{run['id']} {run['state']}{'' if says_it else f', verdict {verdict}'}", *([sentence] if sentence else [])]
    return output.clean(": ".join(told))
