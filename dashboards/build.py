"""Writes the boards into the repository: `python -m dashboards.build`, or for a site: with `--console` and `--out`.

Run by people after a change of a board or of a profile's PromQL; a test compares the files with the code. Reads the
metric profiles that ship; talks to nobody. Not part of the server.
"""

import argparse
import json
from pathlib import Path

from controlplane.observe import catalogue, profiles
from dashboards import fleet, queries

FOLDER = Path(__file__).parent
# The order matters where a service has both: the gateway of ours sees what its users see.
ENGINES = ("dsctl", "vllm")


def boards(console: str = fleet.CONSOLE) -> dict[str, str]:
    """Return each board's file name and text; `console` is where its links lead."""
    known = catalogue.load()
    engines = [profiles.load(name, known).queries for name in ENGINES]
    board = fleet.Fleet(queries.Queries(engines, known), console.rstrip("/")).board()
    return {f"{fleet.UID}.json": json.dumps(board, indent=2) + "\n"}


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="Write the Grafana boards.")
    parser.add_argument("--console", default=fleet.CONSOLE, help="address of dsctl's console, for links")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to")
    given = parser.parse_args()
    for name, text in boards(given.console).items():
        (given.out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
