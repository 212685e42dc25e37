"""The settings of node and gateway: read once at start from YAML or JSON, checked, frozen, passed down.

Unknown keys, duplicate keys and wrong types are errors that name the place. Secrets print as stars.
"""

import ipaddress
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import pydantic
import yaml

from inference_node import auth, errors, levels

NODE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
# Host names as resolvers take them: a label that is empty or too long fails only when a request is sent.
_LABEL = "[A-Za-z0-9_-]{1,63}"
_NODE_URL = re.compile(rf"https?://({_LABEL}(\.{_LABEL}){{0,30}}|\[[0-9A-Fa-f:.]{{2,45}}\])(:[0-9]{{1,5}})?/?")
HEADER_TEXT = r"^[!-~]{1,128}$"

Port = Annotated[int, pydantic.Field(ge=0, le=65535, description="0 takes a free port.")]


def _is_reachable(url: str) -> str:
    """Refuse what only looks like an address; urlsplit knows which ports and IPv6 addresses there are."""
    try:
        is_address = _NODE_URL.fullmatch(url) is not None and urlsplit(url).port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError("is no address of a node; write it as http://host:port")
    return url


NodeUrl = Annotated[str, pydantic.Field(description="Scheme, host and port."), pydantic.AfterValidator(_is_reachable)]


def _fits_a_header(secret: pydantic.SecretStr) -> pydantic.SecretStr:
    if not re.fullmatch("[!-~]+", secret.get_secret_value()):
        raise ValueError("travels in an HTTP header; use printable ASCII characters without spaces")
    return secret


Secret = Annotated[pydantic.SecretStr, pydantic.Field(min_length=8), pydantic.AfterValidator(_fits_a_header)]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ApiKey(_Model):
    """One data API key and what it grants."""

    key: Secret
    tenant: str = pydantic.Field(
        default=auth.DEFAULT_TENANT, pattern=HEADER_TEXT, description="Separates cached answers; travels in a header."
    )
    level: levels.Level = pydantic.Field(default=levels.Level.STANDARD, description="Service level of the key.")
    is_gateway: bool = pydantic.Field(default=False, description="Believe X-Service-Level and X-Tenant of its calls.")

    def caller(self) -> auth.Caller:
        """Return what the key grants."""
        return auth.Caller(self.tenant, self.level, self.is_gateway)


class LevelSettings(_Model):
    """Places and time limit of one service level; without a time limit the level's default holds."""

    concurrency: int = pydantic.Field(ge=0, le=10_000)
    queue: int = pydantic.Field(ge=0, le=10_000, description="At most; less while the measured rate allows less.")
    timeout_seconds: float | None = pydantic.Field(default=None, gt=0, le=3600)


DEFAULT_TIMEOUTS = {levels.Level.PREMIUM: 5.0, levels.Level.STANDARD: 3.0, levels.Level.BATCH: 10.0}
"""Seconds until the whole answer, or until the first and between two pieces of a stream."""


class LevelsSettings(_Model):
    """Places and time limit of every level."""

    premium: LevelSettings = LevelSettings(concurrency=100, queue=200)
    standard: LevelSettings = LevelSettings(concurrency=500, queue=500)
    batch: LevelSettings = LevelSettings(concurrency=2000, queue=2000)

    def limits(self) -> dict[levels.Level, levels.Limit]:
        """Return the limits by level."""
        return {level: levels.Limit(each.concurrency, each.queue) for level, each in self._by_level().items()}

    def timeouts(self) -> dict[levels.Level, float]:
        """Return the time limits by level, in seconds."""
        return {level: each.timeout_seconds or DEFAULT_TIMEOUTS[level] for level, each in self._by_level().items()}

    def _by_level(self) -> dict[levels.Level, LevelSettings]:
        return {
            levels.Level.PREMIUM: self.premium,
            levels.Level.STANDARD: self.standard,
            levels.Level.BATCH: self.batch,
        }


class ServerSettings(_Model):
    """What node and gateway have in common."""

    host: str = pydantic.Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = 8100
    service: str = pydantic.Field(default="chat", min_length=1, description="The service it belongs to.")
    api_keys: tuple[ApiKey, ...] = pydantic.Field(default=(), description="Without any: everybody, on loopback only.")
    admin_tokens: tuple[Secret, ...] = pydantic.Field(default=(), description="Without any the admin API is closed.")
    levels: LevelsSettings = LevelsSettings()
    ageing_seconds: float = pydantic.Field(
        default=2, gt=0, description="A request that waited so long gets one turn in eight, whatever its level."
    )
    max_body_bytes: int = pydantic.Field(default=1_048_576, ge=1024, description="Larger bodies are refused with 413.")
    shutdown_grace_seconds: int = pydantic.Field(default=10, ge=0, description="Time for open answers after SIGTERM.")
    lifeline_pid: int | None = pydantic.Field(
        default=None, ge=1, description="Ends itself, as on SIGTERM, when this process is gone; for demos and tests."
    )

    @pydantic.model_validator(mode="after")
    def _is_not_open_to_the_network(self) -> Self:
        if not self.api_keys and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is reachable from other machines and api_keys is empty; "
                "add at least one key or listen on 127.0.0.1"
            )
        return self

    def keyring(self) -> auth.Keyring:
        """Return the data API keys."""
        return auth.Keyring({key.key.get_secret_value(): key.caller() for key in self.api_keys})

    def admin(self) -> auth.AdminTokens:
        """Return the admin tokens."""
        return auth.AdminTokens(token.get_secret_value() for token in self.admin_tokens)


class Architecture(_Model):
    """Size of a DeepSeek-V3 model with random weights; the defaults need about 2 ms of CPU a step."""

    hidden_size: int = pydantic.Field(default=64, ge=16, multiple_of=16)
    num_layers: int = pydantic.Field(default=2, ge=1, le=16)
    num_heads: int = pydantic.Field(default=4, ge=1)
    num_experts: int = pydantic.Field(default=8, ge=2)
    experts_per_token: int = pydantic.Field(default=2, ge=1)

    @pydantic.model_validator(mode="after")
    def _uses_experts_it_has(self) -> Self:
        if self.experts_per_token > self.num_experts:
            raise ValueError("experts_per_token is larger than num_experts")
        return self


class ModelVersion(_Model):
    """Where one version's weights come from: random ones by seed, or a Hugging Face checkpoint folder."""

    seed: int = pydantic.Field(default=0, ge=0, description="Seed of the random weights; unused with a checkpoint.")
    checkpoint: Path | None = pydantic.Field(default=None, description="Folder with config.json and safetensors.")


class ModelSettings(_Model):
    """What the node serves."""

    name: str = pydantic.Field(default="tiny-deepseek-v3", min_length=1)
    version: str = pydantic.Field(default="v1", min_length=1, description="The version served first.")
    versions: dict[str, ModelVersion] = pydantic.Field(default_factory=lambda: {"v1": ModelVersion()})
    architecture: Architecture = Architecture()
    max_context_tokens: int = pydantic.Field(default=2048, ge=16, description="Prompt and completion together.")
    experts_implementation: Literal["grouped_mm", "batched_mm", "eager"] = "grouped_mm"
    torch_threads: int = pydantic.Field(default=1, ge=1, description="One is fastest for small models on few cores.")

    @pydantic.model_validator(mode="after")
    def _names_a_version_it_has(self) -> Self:
        if self.version not in self.versions:
            raise ValueError(f"version {self.version!r} is not among versions: {', '.join(sorted(self.versions))}")
        return self


class BatchSettings(_Model):
    """When waiting requests join the batch: as soon as they fill it, or when the oldest has waited long enough."""

    max_size: int = pydantic.Field(default=32, ge=1, le=1024)
    max_wait_seconds: float = pydantic.Field(default=0.1, ge=0, le=10)


class CacheSettings(_Model):
    """The L1 response cache."""

    max_entries: int = pydantic.Field(default=1024, ge=0, description="0 switches the cache off.")
    max_bytes: int = pydantic.Field(default=16_777_216, ge=0)
    ttl_seconds: float = pydantic.Field(default=3600, gt=0)
    audit_ratio: float = pydantic.Field(
        default=0.05, ge=0, le=1, description="Share of hits computed again to compare."
    )


class NodeSettings(ServerSettings):
    """The node's settings."""

    name: str = pydantic.Field(default="node-1", pattern=NODE_NAME)
    model: ModelSettings = ModelSettings()
    batch: BatchSettings = BatchSettings()
    cache: CacheSettings = CacheSettings()
    default_max_tokens: int = pydantic.Field(default=64, ge=1, description="Used where a request names none.")
    request_timeout_seconds: float = pydantic.Field(
        default=60, gt=0, description="Longest time of a whole stream; then 504, and the work is cancelled."
    )
    pace_step_seconds: float = pydantic.Field(default=0, ge=0, le=10, description="Artificial minimum time of a step.")
    memory_limit_bytes: int | None = pydantic.Field(
        default=None,
        ge=1,
        description="Ends itself at once when it holds more. Unset: the cgroup's limit is shown, and the kernel keeps it.",
    )
    faults_enabled: bool = pydantic.Field(default=False, description="Allow fault injection through the admin API.")


class GatewayNode(_Model):
    """A node that the gateway knows from the start."""

    name: str = pydantic.Field(pattern=NODE_NAME)
    url: NodeUrl
    weight: float = pydantic.Field(default=1, ge=0, le=1000)


class GatewaySettings(ServerSettings):
    """The gateway's settings."""

    port: Port = 8000
    nodes: tuple[GatewayNode, ...] = ()
    node_api_key: Secret | None = pydantic.Field(default=None, description="The key nodes know as a gateway's.")
    max_outstanding: int = pydantic.Field(
        default=2000, ge=1, description="Requests inside at once, waiting and at nodes; beyond it 429."
    )
    max_at_each_node: int | None = pydantic.Field(
        default=None,
        ge=1,
        description="Of these, at nodes at once, for each node in service; the others wait, best level first. Unset: all.",
    )
    connect_timeout_seconds: float = pydantic.Field(default=1, gt=0)
    read_timeout_seconds: float = pydantic.Field(default=60, gt=0, description="Longest silence of a node; then 504.")
    slow_start_seconds: float = pydantic.Field(
        default=30, ge=0, le=3600, description="Time in which a node that comes into service rises to its full share."
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`; a name other than localhost counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


AnySettings = TypeVar("AnySettings", bound=ServerSettings)


def load(kind: type[AnySettings], path: Path, **overrides: object) -> AnySettings:
    """Read a settings file (YAML, of which JSON is a part); overrides that are not None win. Raises SettingsError."""
    document = _parse(path)
    document.update({key: value for key, value in overrides.items() if value is not None})
    try:
        return kind.model_validate(document)
    except pydantic.ValidationError as error:
        raise errors.SettingsError(f"{path}: {describe(error)}") from error


def describe(error: pydantic.ValidationError) -> str:
    """Return every complaint with its place, without the values: they may be secrets."""
    return "; ".join(f"{place or 'document'}: {message}" for place, message in places(error))


def places(error: pydantic.ValidationError) -> tuple[tuple[str, str], ...]:
    """Return place and message of each complaint."""
    return tuple(
        (".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, "))
        for each in error.errors(include_url=False)
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise errors.SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    # PyYAML lets through what its constructors raise for such things as 2024-99-99, and the depth it could not follow.
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        raise errors.SettingsError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise errors.SettingsError(f"{path}: must be a mapping of setting names to values")
    return document  # pyright: ignore[reportUnknownVariableType] - checked by the model


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, where plain YAML would keep the last silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # pyright: ignore[reportUnknownMemberType] - yaml's stubs
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)
