"""`dsctl alerts`: the Prometheus rules that belong to the services file. Runs in this process; asks no server."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli import local, output

app = typer.Typer(help="Alerting rules.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Alerting rules."""


@app.command("rules")
def print_rules(
    services: Annotated[Path, typer.Option("--services", help="The services file.")] = Path("services.yaml"),
    profiles: Annotated[Path | None, typer.Option("--profiles", help="Folder of further metric profiles.")] = None,
) -> None:
    """Print the Prometheus rules for the services in a file."""
    from alerts.rules import generate
    from controlplane.observe import catalogue, service_file
    from controlplane.observe import profiles as engines

    path = [profiles] if profiles is not None else []
    with local.translated("Another file: --services FILE. Another folder of profiles: --profiles FOLDER."):
        managed = service_file.load(services, profiles=engines.names(path))
        found = engines.load_all([one.profile for one in managed], catalogue.load(), search_path=path)
        text = generate.rules(managed, {name: profile.queries for name, profile in found.items()})
    output.tell(text.rstrip())
