"""Reads everything an operator wrote: services, profiles, runbooks, policies; whole or not at all.

Called when the server starts and by `dsctl server check-config`. Blocks while reading. Nothing is connected to and
nothing is started here, so that a wrong file changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from actions import api as actions
from actions.local import definitions
from controlplane import settings
from controlplane.domain import errors, policies, services
from controlplane.engine import config as policy_files
from controlplane.observe import catalogue as catalogues
from controlplane.observe import profiles, service_file
from controlplane.runs.language import checks, library

_MAX_POLICY_FILES = 1000


@dataclass(frozen=True, slots=True)
class Content:
    """What the files say, checked against each other; `words` are those that runbooks may use."""

    catalogue: catalogues.Catalogue
    services: tuple[services.Service, ...]
    profiles: Mapping[str, profiles.Profile]
    runbooks: library.Library
    words: checks.Vocabulary
    policies: tuple[policies.Policy, ...]

    def lines(self) -> list[str]:
        """Return what was found, one line a kind, for `check-config`."""
        kinds = {
            "services": [one.name for one in self.services],
            "profiles": sorted(self.profiles),
            "runbooks": sorted(self.runbooks.runbooks),
            "policies": [f"{one.name} ({one.mode})" for one in self.policies],
        }
        return [f"{kind}: {', '.join(names) or 'none'}" for kind, names in kinds.items()]


def load(chosen: settings.Settings, available: Mapping[str, actions.Action]) -> Content:
    """Read and check every file; raises InvalidInputError or NotFoundError naming the first fault."""
    catalogue = catalogues.load()
    search = (chosen.profiles_dir,) if chosen.profiles_dir else ()
    managed = service_file.load(chosen.services_file, profiles=profiles.names(search))
    _check_per_service(chosen, managed)
    words = checks.Vocabulary(available, set(catalogue))
    runbooks = library.load(words, user=chosen.runbooks_dir)
    known = policy_files.Known(
        services=[one.name for one in managed],
        runbooks={one.name: one.spec.lane for one in runbooks.runbooks.values()},
        signals=set(catalogue),
    )
    return Content(
        catalogue=catalogue,
        services=managed,
        profiles=profiles.load_all([one.profile for one in managed], catalogue, search_path=search),
        runbooks=runbooks,
        words=words,
        policies=policy_files.load(_policy_texts(chosen.policies_dir), known, ceiling=chosen.mode),
    )


def _check_per_service(chosen: settings.Settings, managed: tuple[services.Service, ...]) -> None:
    """Refuse now what would surface in the middle of an incident: a service nobody manages, a fleet nobody can read."""
    names = {one.name for one in managed}
    for group, given in (("gateways", chosen.gateways), ("local_fleets", chosen.local_fleets)):
        for service in given:
            if service not in names:
                known = ", ".join(sorted(names))
                raise errors.InvalidInputError(
                    f"service {service!r} is not in {chosen.services_file}; known are {known}",
                    place=f"{group}.{service}",
                )
    for local in chosen.local_fleets.values():
        definitions.read(local.folder)


def _policy_texts(folder: Path | None) -> Mapping[str, str]:
    """Return the policy files of `folder`, or the shipped ones, by path."""
    if folder is None:
        shipped = resources.files("controlplane.engine") / "library"
        return {entry.name: entry.read_text(encoding="utf-8") for entry in shipped.iterdir() if _is_yaml(entry.name)}
    if not folder.is_dir():
        raise errors.InvalidInputError(
            "is not a directory of policies; create it or correct the setting policies_dir", place=str(folder)
        )
    found = sorted(path for path in folder.iterdir() if _is_yaml(path.name))
    if len(found) > _MAX_POLICY_FILES:
        raise errors.InvalidInputError(f"holds {len(found)} policies; at most {_MAX_POLICY_FILES}", place=str(folder))
    return {str(path): _text(path) for path in found}


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidInputError(f"cannot be read: {error}", place=str(path)) from error
