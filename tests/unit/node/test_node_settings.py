"""The settings file and the door: what is refused at start, and who may do what."""

from pathlib import Path

import pydantic
import pytest

from inference_node import auth, errors, levels, settings


def load(tmp_path: Path, text: str) -> settings.NodeSettings:
    path = tmp_path / "node.yaml"
    path.write_text(text)
    return settings.load(settings.NodeSettings, path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("bacth: {}", "bacth"),
        ("name: a\nname: b", "duplicate key 'name'"),
        ("batch: {max_size: 0}", "batch.max_size"),
        ("name: 2024-99-99", "not valid YAML"),
        ("name: !!timestamp x", "not valid YAML"),
        (f"port: {'9' * 5000}", "not valid YAML"),
        ("name: " + "[" * 2000, "not valid YAML"),
        ("host: 0.0.0.0", "api_keys is empty"),
        ("host: node.example", "api_keys is empty"),
        ("model: {version: v7}", "version 'v7' is not among versions: v1"),
        ("api_keys: [{key: ''}]", "api_keys.0.key"),
        ("[1, 2]", "must be a mapping"),
        ("a: [", "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, complaint: str) -> None:
    """The message names the key to change."""
    with pytest.raises(errors.SettingsError) as refused:
        load(tmp_path, text)
    assert complaint in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(errors.SettingsError, match=r"nothing\.yaml"):
        settings.load(settings.NodeSettings, tmp_path / "nothing.yaml")


def test_json_is_yaml_and_overrides_win(tmp_path: Path) -> None:
    """A JSON file works; a port from the command line replaces the file's."""
    path = tmp_path / "node.json"
    path.write_text('{"port": 1, "host": "0.0.0.0", "api_keys": [{"key": "long-enough"}]}')
    assert settings.load(settings.NodeSettings, path, port=2, name=None).port == 2


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """Neither the settings nor a complaint about them prints a key."""
    loaded = load(tmp_path, "api_keys: [{key: very-hidden-key}]\nadmin_tokens: [very-hidden-token]")
    assert "very-hidden" not in repr(loaded)
    with pytest.raises(errors.SettingsError) as refused:
        load(tmp_path, "api_keys: [{key: very-hidden-key, level: gold}]\nadmin_tokens: [hidden]")
    assert "hidden" not in str(refused.value)


def test_without_keys_everybody_is_standard_and_headers_grant_nothing() -> None:
    """An open node on loopback gives no one a better level."""
    caller = auth.Keyring({}).identify({"x-service-level": "premium", "x-tenant": "t"})
    assert caller == auth.Caller("default", levels.Level.STANDARD)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic right-token", "right-token"])
def test_only_the_token_opens_the_admin_api(header: str) -> None:
    """Anything but the bearer token is refused, also where no token is configured at all."""
    for tokens in (["right-token"], []):
        with pytest.raises(errors.AdminError) as refused:
            auth.AdminTokens(tokens).require({"authorization": header})
        assert refused.value.status == 401


def test_the_right_token_opens_it() -> None:
    """The scheme's case does not matter."""
    auth.AdminTokens(["right-token"]).require({"authorization": "bearer right-token"})


@pytest.mark.parametrize(
    "document",
    [
        {"node_api_key": "schl\u00fcssel-1"},
        {"admin_tokens": ["two words"]},
        {"api_keys": [{"key": "long-enough", "tenant": "caf\u00e9"}]},
        {"api_keys": [{"key": "long-enough", "tenant": "a\r\nx-service-level: premium"}]},
    ],
)
def test_what_travels_in_headers_must_fit_them(document: dict[str, object]) -> None:
    """Refused at start; later it would fail every request, or be two headers."""
    with pytest.raises(pydantic.ValidationError):
        settings.GatewaySettings.model_validate(document)
