"""`dsctl server`: starting the control plane, and checking its files beforehand. Runs in this process."""

import typer

from controlplane.cli import local, options, output

app = typer.Typer(help="The server.", no_args_is_help=True, rich_markup_mode=None)

_HINT = "Check the files: dsctl server check-config. Every setting: docs/settings.md."


@app.command("start")
def start(config: options.Config = None) -> None:
    """Run the control plane until it is told to stop."""
    from controlplane import settings

    with local.translated(_HINT):
        loaded = settings.load(config)
        from controlplane.wiring import serving  # after the settings: a wrong file is told before the slow imports

        serving.serve(loaded)


@app.command("check-config")
def check_config(config: options.Config = None) -> None:
    """Check settings, services, policies and runbooks without starting anything."""
    from controlplane import settings

    with local.translated(_HINT):
        loaded = settings.load(config)
        from controlplane.wiring import serving

        lines = serving.check(loaded)
    for line in lines:
        output.tell(line)
