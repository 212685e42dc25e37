"""Writes the OpenAPI document into the repository: `python -m controlplane.api.export docs/api/openapi.json`.

Run by people after a change of the API; a test compares the file with the code.
"""

import json
import sys
from pathlib import Path

from controlplane.api import app, document


def text() -> str:
    """Return the document as it is checked in."""
    return json.dumps(document.of(app.bare_app()), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
