"""The files that the demo writes are accepted by those who read them."""

import stat
from pathlib import Path

import pytest
import yaml

from controlplane import settings
from controlplane.demo import configuration, constants
from controlplane.domain import policies
from controlplane.observe import service_file
from controlplane.runs.language import library
from inference_node import settings as node_settings


@pytest.fixture
def files(tmp_path: Path) -> configuration.Files:
    return configuration.Files.open(tmp_path)


def test_every_process_has_an_address_of_its_own_on_loopback(files):
    """Nothing of the demo listens beyond this machine, or on another's port."""
    at = files.addresses
    urls = [*at.nodes.values(), at.gateway, at.prometheus, at.alertmanager, at.server]
    assert len(set(urls)) == len(constants.NODES) + 4
    assert all(url.startswith("http://127.0.0.1:") for url in urls)


@pytest.mark.parametrize("name", constants.NODES)
def test_a_node_accepts_its_settings(files, name):
    """Paced, audited, with faults allowed, and reachable only for who has the token."""
    read = node_settings.load(node_settings.NodeSettings, configuration.write_node(files, name))
    assert (read.name, read.service, read.faults_enabled) == (name, constants.SERVICE, True)
    assert read.port == configuration.port_of(files.addresses.nodes[name])
    assert read.pace_step_seconds == constants.PACE_STEP_SECONDS
    assert [token.get_secret_value() for token in read.admin_tokens] == [files.admin_token]


def test_the_gateway_accepts_its_settings_and_knows_both_nodes(files):
    """Its names of nodes are those of the nodes themselves, because metrics are joined by them."""
    read = node_settings.load(node_settings.GatewaySettings, configuration.write_gateway(files))
    assert {node.name: node.url for node in read.nodes} == dict(files.addresses.nodes)


@pytest.mark.parametrize("mode", [policies.Mode.AUTO, policies.Mode.OBSERVE])
def test_the_control_plane_accepts_its_settings(files, mode):
    """Mode, addresses and the token for the admin APIs arrive as written."""
    read = settings.load(configuration.write_server_files(files, mode))
    assert read.mode is mode
    assert read.prometheus_url == files.addresses.prometheus
    assert read.node_admin.reveal() == files.admin_token
    assert read.gateways[constants.SERVICE].reveal() == files.admin_token
    assert read.admin_token_file == files.server_token_file
    (service,) = service_file.load(read.services_file, profiles=["dsctl"])
    assert service.name == constants.SERVICE
    assert service.min_ready < len(constants.NODES)


def test_runbooks_are_the_shipped_ones_with_shorter_times(files):
    """Only how long verification takes differs; what is done does not."""
    shipped = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in library.SHIPPED.glob("*.yaml")}
    settings.load(configuration.write_server_files(files, policies.Mode.AUTO))
    for name, document in shipped.items():
        written = yaml.safe_load((files.folder / "runbooks" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert written["metadata"].pop("override") is True
        if "verify" in written["spec"]:
            assert written["spec"]["verify"].pop("hold") == constants.VERIFY_HOLD
            assert written["spec"]["verify"].pop("within") == constants.VERIFY_WITHIN
            document["spec"]["verify"].pop("hold")
            document["spec"]["verify"].pop("within")
        assert written == document


def test_secrets_are_readable_by_their_owner_only(files):
    """Other users of the machine cannot take the fleet over."""
    path = files.write_secret("x", "secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((files.folder / "admin-api-token").stat().st_mode) == 0o600


def test_each_demo_has_secrets_of_its_own(tmp_path):
    """A token found in an old log opens nothing."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert configuration.Files.open(one).admin_token != configuration.Files.open(two).admin_token
