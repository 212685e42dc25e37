"""A control plane reduced to one duty: sets a rung and keeps its lease, until it is killed.

Run as `python -m tests.support.rung_keeper GATEWAY_URL TOKEN RUNG TTL_SECONDS`; prints `kept` after each renewal.
"""

import asyncio
import sys

from actions import clients
from actions.node import admin, client, data, directory
from actions.traffic import admin as gateway_admin
from actions.traffic import levels
from controlplane import clock
from controlplane.domain import outcomes


async def keep(gateway_url: str, token: str, rung: int, ttl_seconds: float) -> None:
    """Renew three times a lease, for ever."""
    where = directory.StaticDirectory({"chat": {"gone": "http://127.0.0.1:1"}}, {"chat": gateway_url})
    http, time = client.AdminClient(token=token, token_setting="TOKEN"), clock.SystemClock()
    gateways = gateway_admin.GatewayAdmin({"chat": http}, where)
    targets = clients.Clients(where, admin.NodeAdmin(http, where), gateways, data.NodeData(""), time, {})
    params: dict[str, outcomes.Json] = {"rung": rung, "ttl_seconds": ttl_seconds}
    keeper = levels.SetRung(targets)
    while True:
        await keeper.renew("chat", params)
        sys.stdout.write("kept\n")
        sys.stdout.flush()
        await time.sleep(ttl_seconds / 3)


if __name__ == "__main__":
    asyncio.run(keep(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
