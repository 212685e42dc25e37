"""`dsctl doctor`: what is wrong with this installation and with the server, and what to do about each.

Local checks need no server; the rest asks it. Prints every check, fails when one that matters failed.
"""

import shutil
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from typing import Any

import typer

from controlplane.cli import client, failures, options, output

PACKAGES = ("controlplane", "detectors", "actions", "alerts", "dashboards", "inference_node")
# Needed by the demo and by the tests of rules; a server beside an existing Prometheus needs none of them.
_BINARIES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
}
_OTHER_NAMES = {"prometheus-alertmanager": "alertmanager"}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis. `state` is ok, warn or fail; only fail makes the command fail."""

    name: str
    state: str
    detail: str
    hint: str = ""


def doctor(context: typer.Context, form: options.Form = output.Output.TABLE) -> None:
    """Check this installation, the server, what it depends on, and which signals it can read."""
    checks = [check_packages(), *(_check_binary(name) for name in _BINARIES), *_check_server(context)]
    human = output.table(["CHECK", "STATE", "DETAIL"], [[c.name, c.state, c.detail] for c in checks])
    hints = [f"{c.name}: {output.clean(c.hint)}" for c in checks if c.state != "ok" and c.hint]
    if hints:
        human += "\n\nWhat to do:\n" + "\n".join(f"- {hint}" for hint in hints)
    data = {"apiVersion": "dsctl/v1", "items": [asdict(check) for check in checks]}
    output.show(form, data, human, [check.name for check in checks if check.state == "fail"])
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(failures.Exit.ERROR)


def check_packages() -> Check:
    """Check that the six packages come from one place: names as common as `actions` may be shadowed by others."""
    from controlplane import version

    found = {name: _folder_of(name) for name in PACKAGES}
    missing = [name for name, folder in found.items() if folder is None]
    hint = "Install dsctl into an environment of its own: another package ships a folder of the same name."
    if missing:
        return Check("packages", "fail", f"not found: {', '.join(missing)}", hint)
    home = found["controlplane"]
    strays = [f"{name} from {folder}" for name, folder in found.items() if folder != home]
    if strays:
        return Check("packages", "fail", f"controlplane is in {home}, but {'; '.join(strays)}", hint)
    installed = version.current()
    if installed == "unknown":
        return Check("packages", "warn", f"{len(found)} packages in {home}, not installed", "Run `pip install -e .`.")
    return Check("packages", "ok", f"{len(found)} packages of version {installed} in {home}")


def _folder_of(package: str) -> Path | None:
    spec = util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))).resolve().parent


def _check_binary(name: str) -> Check:
    found = shutil.which(name) or shutil.which(_OTHER_NAMES.get(name, name))
    if found:
        return Check(name, "ok", found)
    hint = f"Only the demo needs it: install the package {_BINARIES[name]}, or put its binary on the PATH."
    return Check(name, "warn", "not on the PATH", hint)


def _check_server(context: typer.Context) -> list[Check]:
    """Ask the server about itself; the first answer that fails makes the later questions pointless."""
    try:
        http = client.Client(options.state_of(context))
        who = http.get("/whoami")
    except failures.UnreachableError as error:
        return [Check("server", "fail", str(error), error.hint)]
    except failures.CliError as error:
        name = "token" if error.exit_code is failures.Exit.LOGIN else "server"
        return [Check(name, "fail", str(error), error.hint)]
    checks = [Check("server", "ok", http.server), Check("token", "ok", f"{who['name']} ({who['role']})")]
    try:
        return [*checks, *_dependencies(http), *_signals(http)]
    except failures.CliError as error:
        return [*checks, Check("signals", "fail", str(error), error.hint)]


def _dependencies(http: client.Client) -> list[Check]:
    return [
        Check(one["name"], "ok" if one["is_ok"] else "fail", one["detail"], one["hint"])
        for one in http.get("/checks")["items"]
    ]


def _signals(http: client.Client) -> list[Check]:
    """Return one line per service: how many of its signals are found, and which are not."""
    by_service: dict[str, list[dict[str, Any]]] = {}
    for row in http.get("/signals")["items"]:
        by_service.setdefault(row["service"], []).append(row)
    return [_service_signals(service, rows) for service, rows in sorted(by_service.items())]


# Nothing was counted on an idle one yet, and an unmapped one is not asked for.
_NOTHING_LACKS = frozenset({"found", "idle", "unmapped"})


def _service_signals(service: str, rows: list[dict[str, Any]]) -> Check:
    found = [row for row in rows if row["state"] == "found"]
    lacking = [f"{row['signal']} {row['state']}" for row in rows if row["state"] not in _NOTHING_LACKS]
    detail = f"{len(found)} of {len(rows)} found" + (f"; {', '.join(lacking)}" if lacking else "")
    hint = "Look whether Prometheus scrapes the nodes, and whether the service's selector and profile fit them."
    state = "ok" if not lacking else "warn" if found else "fail"
    return Check(f"signals of {service}", state, detail, hint if lacking else "")
