"""The fake node as a process of its own, for local fleets: `python -m tests.support.node_process --folder F --name N --port P`.

It is ready within a second and is told by files of its folder what to be: `N.mute` makes its completions hang,
`N.wrong` makes them say something else than its peers. Each start adds a line to `N.starts`. With `--cured-by-restart`
the files are removed at the second start, as a wedge is.
"""

import argparse
import asyncio
import os
from pathlib import Path

from tests.support import fake_node


def main() -> None:
    """Serve until SIGTERM, which ends it at once as nothing handles it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cured-by-restart", action="store_true")
    given = parser.parse_args()
    starts, mute, wrong = (given.folder / f"{given.name}.{what}" for what in ("starts", "mute", "wrong"))
    if given.cured_by_restart and starts.exists():
        mute.unlink(missing_ok=True)
        wrong.unlink(missing_ok=True)
    with starts.open("a", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    asyncio.run(_serve(given.name, given.port, mute, wrong))


async def _serve(name: str, port: int, mute: Path, wrong: Path) -> None:
    node = fake_node.FakeNode(name)
    node.port = port

    def say(prompt: str) -> fake_node.Answer:
        if mute.exists():
            return fake_node.SILENCE
        return fake_node.completion("nonsense" if wrong.exists() else f"an answer to {prompt}")

    node.say = say
    async with node.running():
        await asyncio.Event().wait()


if __name__ == "__main__":
    main()
