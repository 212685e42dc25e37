"""The files that the demo writes are accepted by those who read them."""

import os
import stat
from importlib import resources
from pathlib import Path

import pytest
import yaml

from actions.local import definitions as fleet_definitions
from controlplane import settings
from controlplane.demo import configuration, constants
from controlplane.domain import policies
from controlplane.observe import service_file
from controlplane.runs.language import library
from inference_node import settings as node_settings

NUM_NODES = 3
NAMES = ("node-1", "node-2", "node-3")


@pytest.fixture
def files(tmp_path: Path) -> configuration.Files:
    return configuration.Files.open(tmp_path, configuration.Size(NUM_NODES))


def written(files: configuration.Files, mode: policies.Mode) -> Path:
    """Write everything the control plane reads."""
    return configuration.write_server_files(files, mode, services=configuration.write_services(files))


def test_every_process_has_an_address_of_its_own_on_loopback(files):
    """Nothing of the demo listens beyond this machine, or on another's port."""
    at = files.addresses
    urls = [*at.nodes.values(), at.gateway, at.prometheus, at.alertmanager, at.server]
    assert tuple(at.nodes) == NAMES
    assert len(set(urls)) == NUM_NODES + 4
    assert all(url.startswith("http://127.0.0.1:") for url in urls)


@pytest.mark.parametrize("name", NAMES)
def test_a_node_accepts_its_settings(files, name):
    """Paced, audited, with faults allowed, and reachable only for who has the token."""
    read = node_settings.load(node_settings.NodeSettings, configuration.write_node(files, name))
    assert (read.name, read.service, read.faults_enabled) == (name, constants.SERVICE, True)
    assert read.port == configuration.port_of(files.addresses.nodes[name])
    assert read.pace_step_seconds == constants.PACE_STEP_SECONDS
    assert [token.get_secret_value() for token in read.admin_tokens] == [files.admin_token]
    (key,) = read.api_keys
    assert (key.key.get_secret_value(), key.is_gateway) == (files.gateway_key, True)


def test_the_gateway_grants_each_level_by_a_key_and_has_one_that_nodes_believe(files):
    """Clients cannot name their level themselves."""
    read = node_settings.load(node_settings.GatewaySettings, configuration.write_gateway(files))
    assert {key.key.get_secret_value(): str(key.level) for key in read.api_keys} == {
        key: level for level, key in files.api_keys.items()
    }
    assert read.node_api_key is not None
    assert read.node_api_key.get_secret_value() == files.gateway_key


def test_the_gateway_accepts_its_settings_and_knows_every_node(files):
    """Its names of nodes are those of the nodes themselves, because metrics are joined by them."""
    read = node_settings.load(node_settings.GatewaySettings, configuration.write_gateway(files))
    assert {node.name: node.url for node in read.nodes} == dict(files.addresses.nodes)


@pytest.mark.parametrize("mode", [policies.Mode.AUTO, policies.Mode.OBSERVE])
def test_the_control_plane_accepts_its_settings(files, mode):
    """Mode, addresses and the token for the admin APIs arrive as written."""
    read = settings.load(written(files, mode))
    assert read.mode is mode
    assert read.prometheus_url == files.addresses.prometheus
    assert read.node_admin.reveal() == files.admin_token
    assert read.gateways[constants.SERVICE].reveal() == files.admin_token
    assert read.admin_token_file == files.server_token_file
    (service,) = service_file.load(read.services_file, profiles=["dsctl"])
    assert service.name == constants.SERVICE
    assert service.min_ready < NUM_NODES


def test_runbooks_are_the_shipped_ones_with_shorter_times(files):
    """Only how long verification and draining take, and capped answers may be, differs; what is done does not."""
    shipped = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in library.SHIPPED.glob("*.yaml")}
    settings.load(written(files, policies.Mode.AUTO))
    for name, document in shipped.items():
        found = yaml.safe_load((files.folder / "runbooks" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert found["metadata"].pop("override") is True
        if "verify" in found["spec"]:
            assert found["spec"]["verify"].pop("hold") == constants.VERIFY_HOLD
            assert found["spec"]["verify"].pop("within") == constants.VERIFY_WITHIN
            document["spec"]["verify"].pop("hold")
            document["spec"]["verify"].pop("within")
        for key in set(constants.RUNBOOK_INPUTS) & set(found["spec"].get("inputs", {})):
            assert found["spec"]["inputs"][key].pop("default") == constants.RUNBOOK_INPUTS[key]
            document["spec"]["inputs"][key].pop("default")
        assert found == document


def test_policies_are_the_shipped_ones_with_a_quicker_ladder(files):
    """Who decides what is as shipped; only the steps of the ladder follow the demo's shorter windows."""
    folder, num_ladders = configuration.write_policies(files), 0
    for entry in (resources.files("controlplane.engine") / "library").iterdir():
        document = yaml.safe_load(entry.read_text(encoding="utf-8"))
        if "ladder" in document["spec"]:
            document["spec"]["ladder"] |= constants.LADDER
            num_ladders += 1
        assert yaml.safe_load((folder / entry.name).read_text(encoding="utf-8")) == document
    assert num_ladders == 1


def test_nodes_are_started_as_the_control_plane_would_start_them(files):
    """One file names the processes for both, and nodes and gateway end when the demo is gone."""
    chosen = settings.load(written(files, policies.Mode.AUTO))
    configuration.write_fleet(files, 0)
    folder = chosen.local_fleets[constants.SERVICE].folder
    nodes = fleet_definitions.read(folder).nodes
    assert {name: node.url for name, node in nodes.items()} == dict(files.addresses.nodes)
    for node in nodes.values():
        read = node_settings.load(node_settings.NodeSettings, Path(node.argv[-1]))
        assert read.lifeline_pid == os.getpid()
        assert [key.key.get_secret_value() for key in read.api_keys] == [chosen.node_api.reveal()]
    gateway = node_settings.load(node_settings.GatewaySettings, configuration.write_gateway(files))
    assert gateway.lifeline_pid == os.getpid()


def test_secrets_are_readable_by_their_owner_only(files):
    """Other users of the machine cannot take the fleet over."""
    path = files.write_secret("x", "secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    configuration.write_gateway(files)
    for name in ("admin-api-token", "gateway.yaml"):
        assert stat.S_IMODE((files.folder / name).stat().st_mode) == 0o600


def test_each_demo_has_secrets_of_its_own(tmp_path):
    """A token found in an old log opens nothing."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first, second = (configuration.Files.open(each, configuration.Size(1)) for each in (one, two))
    assert first.admin_token != second.admin_token
    assert not set(first.api_keys.values()) & set(second.api_keys.values())
