"""The version of the installed product; read by telemetry, the API and the command line. Pure but for one lookup."""

from importlib import metadata


def current() -> str:
    """Return the installed version, or `unknown` when the code runs from a folder nobody installed."""
    try:
        return metadata.version("dsctl")
    except metadata.PackageNotFoundError:
        return "unknown"
