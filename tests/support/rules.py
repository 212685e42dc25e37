"""Generated configuration for tests; as a program (`python -m tests.support.rules`) it rewrites what is checked in."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from alerts import alertmanager_config, prometheus_config
from alerts.rules import generate, pace
from controlplane.domain import services
from controlplane.observe import catalogue, profiles, service_file

FOLDER = Path(generate.__file__).parent
EXAMPLE = FOLDER / "example.services.yaml"
DEFAULT = FOLDER / "default.yml"


def written(managed: Sequence[services.Service], speed: pace.Pace | None = None) -> str:
    """Return the rules for services with the shipped profiles."""
    known = profiles.load_all([one.profile for one in managed], catalogue.load())
    return generate.rules(managed, {name: one.queries for name, one in known.items()}, speed=speed)


def generated() -> Mapping[Path, str]:
    """Return every checked-in file that is generated, with the text it must have."""
    return {
        DEFAULT: written(service_file.load(EXAMPLE, profiles=profiles.names())),
        FOLDER.parent / "alertmanager.yml": alertmanager_config.config(),
        FOLDER.parent / "prometheus.yml": prometheus_config.config(),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
