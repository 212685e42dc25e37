"""The words of this installation without a server: the actions that are installed, and the signals of the catalogue.

Called by whoever checks or rehearses runbooks on a machine of their own. The actions are constructed and never used;
what they declare is what counts. Opens no connection.
"""

import ssl

from actions import clients, registry
from actions.node import admin, client, data, directory
from actions.traffic import admin as gateway_admin
from controlplane.observe import catalogue
from controlplane.rehearsal import jumping
from controlplane.runs.language import checks


def shipped() -> checks.Vocabulary:
    """Return every action that is installed here, those of other distributions included, and every signal."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # believes no certificate, and costs nothing to make
    http = client.AdminClient(token="", token_setting="-", tls=nobody)  # noqa: S106 - the name of no setting
    where = directory.StaticDirectory({})
    targets = clients.Clients(
        where,
        admin.NodeAdmin(http, where),
        gateway_admin.GatewayAdmin({}, where),
        data.NodeData("", tls=nobody),
        jumping.JumpingClock(),
    )
    return checks.Vocabulary(registry.build(targets), set(catalogue.load()))
