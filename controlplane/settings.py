"""Settings: one table of names, types, defaults, units and help; read once at start, validated, frozen, passed down.

`wiring` and the command line call `load`. Two sources: a YAML file (`dsctl.yaml`) and the environment, where
`DSCTL_LISTEN__PORT` means `listen.port` and wins over the file. Unknown keys are errors in both. Secrets are
masked when printed. Nothing here opens a connection or creates a folder. Plain functions, safe from any thread.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

import platformdirs
import pydantic
import pydantic_settings

from controlplane import strictyaml
from controlplane.domain import breakers, errors, outcomes, policies

PREFIX = "DSCTL_"
DEFAULT_FILE = "dsctl.yaml"
_BREAKER = breakers.Limits()

# Variables with our prefix that are not settings of the server: the command line reads the first ones, and
# Kubernetes sets the others in every pod of a namespace that has a Service named `dsctl`.
CLIENT_VARIABLES = ("DSCTL_SERVER", "DSCTL_TOKEN", "DSCTL_TOKEN_FILE", "DSCTL_CONTEXT", "DSCTL_CONFIG")
_KUBERNETES_VARIABLES = ("DSCTL_PORT", "DSCTL_SERVICE_")
# No setting: where a test lets the process die (`runs.failpoints` reads and checks it).
_TEST_VARIABLES = ("DSCTL_FAILPOINT",)


def _http_url(text: str) -> str:
    """Accept an http(s) address without credentials, and drop a closing slash."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("is not an address such as http://127.0.0.1:9090")
    if parts.username or parts.password:
        raise ValueError("holds credentials, which would show up in logs; leave them out of the address")
    return text.rstrip("/")


HttpUrl = Annotated[str, pydantic.AfterValidator(_http_url)]
Seconds = Annotated[float, pydantic.Field(gt=0, le=31_536_000, allow_inf_nan=False)]


def _field(help_text: str, *, unit: str = "") -> pydantic.fields.FieldInfo:
    """Describe a field: one line of help, and the unit of its value."""
    return cast("pydantic.fields.FieldInfo", pydantic.Field(description=help_text, json_schema_extra={"unit": unit}))


class _Group(pydantic.BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Listen(_Group):
    """Where the API listens."""

    host: Annotated[str, _field("Address the API listens on; one that is not loopback needs a token first.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, _field("Port the API listens on; 0 takes a free one."), pydantic.Field(ge=0, le=65535)] = 8090


class Log(_Group):
    """How the log looks."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _field("Least level that is written.")] = "info"
    format: Annotated[
        Literal["json", "console"], _field("json: one object per line; console: for reading in a terminal.")
    ] = "json"


class Webhook(_Group):
    """Limits of the webhook intake."""

    max_pending: Annotated[
        int,
        _field("Notifications that may wait to be stored at once; more are answered 503, which senders retry."),
        pydantic.Field(ge=1, le=10_000),
    ] = 64


class TokenSource(_Group):
    """A bearer token, given directly or in a file."""

    token: Annotated[pydantic.SecretStr | None, _field("Bearer token; prefer token_file.")] = None
    token_file: Annotated[Path | None, _field("File that holds the bearer token.")] = None

    @pydantic.model_validator(mode="after")
    def _only_one(self) -> "TokenSource":
        if self.token is not None and self.token_file is not None:
            raise ValueError("give token or token_file, not both")
        return self

    def reveal(self) -> str | None:
        """Return the token, or None when none is set; reads the file and raises InvalidInputError if it cannot."""
        if self.token_file is not None:
            return read_secret(self.token_file)
        return self.token.get_secret_value() if self.token is not None else None


class Detectors(_Group):
    """How easily detectors speak up."""

    false_alarms_per_day: Annotated[
        float,
        _field("How often per day and service a healthy node may be called bad; lower asks for more certainty."),
        pydantic.Field(gt=0, le=1000),
    ] = 0.2
    leak_window_seconds: Annotated[
        float,
        _field("How far back leaks are looked for; shorter finds them sooner and is wrong more often.", unit="seconds"),
        pydantic.Field(ge=30, le=604_800),
    ] = 14_400.0


class Forecast(_Group):
    """How arrivals are foretold, for services that state pools."""

    is_enabled: Annotated[bool, _field("Whether arrivals are foretold at all; capacity is then planned without.")] = (
        True
    )
    step_seconds: Annotated[
        int, _field("Length of a step: arrivals are averaged over it.", unit="seconds"), pydantic.Field(ge=10, le=3600)
    ] = 300
    horizon_seconds: Annotated[
        float, _field("How far arrivals are foretold.", unit="seconds"), pydantic.Field(gt=0, le=86_400)
    ] = 7200.0
    history_days: Annotated[
        float,
        _field("How much of the past is read; daily patterns need two days, weekly ones two weeks.", unit="days"),
        pydantic.Field(gt=0, le=366),
    ] = 28.0
    refit_seconds: Annotated[
        float, _field("Time between two fits of the model.", unit="seconds"), pydantic.Field(ge=10, le=86_400)
    ] = 3600.0
    fit_deadline_seconds: Annotated[
        float, _field("A fit that takes longer is ended.", unit="seconds"), pydantic.Field(gt=0, le=3600)
    ] = 120.0


class Trust(_Group):
    """When the record of a policy's runs is good enough to be given more, and bad enough to be given less.

    The bounds are those of the 95 % interval of the share of runs that recovered.
    """

    min_runs: Annotated[
        int,
        _field("Runs with a verdict that a record must hold before more is proposed for a policy."),
        pydantic.Field(ge=1, le=10_000),
    ] = 10
    promote_above: Annotated[
        float,
        _field("More is proposed when the share of runs that recovered is above this for certain (lower bound)."),
        pydantic.Field(gt=0, lt=1),
    ] = 0.9
    demote_below: Annotated[
        float,
        _field("A policy is taken back a mode when that share is below this for certain (upper bound)."),
        pydantic.Field(ge=0, lt=1),
    ] = 0.5
    worse_in_a_row: Annotated[
        int,
        _field("A policy is taken back a mode when so many runs in a row made it worse."),
        pydantic.Field(ge=1, le=50),
    ] = 2

    @pydantic.model_validator(mode="after")
    def _has_two_marks(self) -> "Trust":
        if self.demote_below >= self.promote_above:
            raise ValueError(f"demote_below {self.demote_below:g} must be below promote_above {self.promote_above:g}")
        return self


class Guard(_Group):
    """The breaker on automation itself: how many nodes of a service it may touch before it stands still."""

    breaker_nodes: Annotated[
        int,
        _field("So many different nodes of a service may automation take out or act on destructively in the window."),
        pydantic.Field(ge=1, le=100_000),
    ] = _BREAKER.nodes
    breaker_percent: Annotated[
        float,
        _field("Or this percentage of the service's nodes, where that is more of them."),
        pydantic.Field(ge=0, le=100),
    ] = _BREAKER.percent
    breaker_window_seconds: Annotated[
        float, _field("How far back they are counted.", unit="seconds"), pydantic.Field(ge=60, le=86_400)
    ] = _BREAKER.window_seconds


class NodeAdmin(TokenSource):
    """How the admin API of inference nodes is reached."""


class Gateway(TokenSource):
    """How the gateway of one service is reached."""

    admin_url: Annotated[HttpUrl, _field("Address of the gateway's admin API.")]


class NodeApi(TokenSource):
    """The data API of inference nodes, for canary tests."""


class LocalFleet(_Group):
    """The nodes of one service that run as processes of this machine."""

    folder: Annotated[Path, _field("Folder with fleet.yaml; dsctl may then restart these nodes.")]


def _default_data_dir() -> Path:
    return Path(platformdirs.user_data_dir("dsctl", appauthor=False))


class Settings(pydantic_settings.BaseSettings):
    """Every setting of the control plane."""

    model_config = pydantic_settings.SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    data_dir: Annotated[Path, _field("Folder for the database and the first admin token.")] = pydantic.Field(
        default_factory=_default_data_dir
    )
    database_url: Annotated[
        pydantic.SecretStr | None, _field("SQLAlchemy address of the database; unset: SQLite in data_dir.")
    ] = None
    prometheus_url: Annotated[HttpUrl, _field("Address of Prometheus, or of anything that answers its API.")] = (
        "http://127.0.0.1:9090"
    )
    alertmanager_url: Annotated[HttpUrl, _field("Address of Alertmanager.")] = "http://127.0.0.1:9093"
    services_file: Annotated[Path, _field("File that lists the services under management.")] = Path("services.yaml")
    policies_dir: Annotated[Path | None, _field("Folder of policy files; unset: the ones that come along.")] = None
    runbooks_dir: Annotated[Path | None, _field("Folder of runbook files; unset: the ones that come along.")] = None
    profiles_dir: Annotated[
        Path | None, _field("Folder of further metric profiles, beside the ones that come along.")
    ] = None
    mode: Annotated[policies.Mode, _field("How far policies may go: the most any policy is allowed.")] = (
        policies.Mode.SUGGEST
    )
    tick_seconds: Annotated[Seconds, _field("Time between two looks at the fleet.", unit="seconds")] = 15.0
    query_window_seconds: Annotated[
        Seconds, _field("Range over which Prometheus computes rates and quantiles.", unit="seconds")
    ] = 60.0
    incident_quiet_seconds: Annotated[
        Seconds, _field("How long every source must be silent before an incident closes.", unit="seconds")
    ] = 60.0
    resolve_grace_seconds: Annotated[
        Seconds,
        _field(
            "How long alerts may take to resolve after a recovery before the incident is open again.", unit="seconds"
        ),
    ] = 300.0
    alert_max_age_seconds: Annotated[
        Seconds,
        _field(
            "An alert that is not announced again for this long fires no more; longer than any repeat_interval.",
            unit="seconds",
        ),
    ] = 86_400.0
    replica_name: Annotated[
        str,
        _field("Name of this replica, another for each; a new process ends the old one of its name. Unset: the host."),
    ] = ""
    lease_ttl_seconds: Annotated[
        Seconds, _field("A replica that does not renew its lease for this long loses its runs.", unit="seconds")
    ] = 6.0
    retention_days: Annotated[
        int, _field("Age at which closed incidents, runs and alerts are deleted.", unit="days"), pydantic.Field(ge=1)
    ] = 90
    listen: Annotated[Listen, _field("Where the API listens.")] = Listen()
    webhook: Annotated[Webhook, _field("Limits of the webhook intake.")] = Webhook()
    detectors: Annotated[Detectors, _field("How easily detectors speak up.")] = Detectors()
    forecast: Annotated[Forecast, _field("How arrivals are foretold.")] = Forecast()
    trust: Annotated[Trust, _field("When policies are given more or less to do by themselves.")] = Trust()
    guard: Annotated[Guard, _field("When automation stands still by itself.")] = Guard()
    log: Annotated[Log, _field("How the log looks.")] = Log()
    node_admin: Annotated[NodeAdmin, _field("How the admin API of inference nodes is reached.")] = NodeAdmin()
    node_api: Annotated[
        NodeApi, _field("The key that nodes demand of canary tests; unset where they ask for none.")
    ] = NodeApi()
    gateways: Annotated[dict[str, Gateway], _field("The gateway of each service, by the service's name.")] = {}
    local_fleets: Annotated[
        dict[str, LocalFleet], _field("The nodes that are processes of this machine, by the service's name.")
    ] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: pydantic_settings.PydanticBaseSettingsSource,
        env_settings: pydantic_settings.PydanticBaseSettingsSource,
        dotenv_settings: pydantic_settings.PydanticBaseSettingsSource,
        file_secret_settings: pydantic_settings.PydanticBaseSettingsSource,
    ) -> tuple[pydantic_settings.PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose content comes as arguments; nothing else is read."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    def resolved_database_url(self) -> str:
        """Return the database's address, secrets included: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'dsctl.db'}"

    @property
    def admin_token_file(self) -> Path:
        """Where the first admin token is written, and where the command line looks for one."""
        return self.data_dir / "admin-token"


def load(path: Path | None = None) -> Settings:
    """Read the file and the environment. Without `path`, `dsctl.yaml` in the working directory is read if present.

    Relative paths count from the file's folder. Raises InvalidInputError naming the place and the nearest known
    name, and NotFoundError when `path` does not exist.
    """
    document = _read_file(path)
    if not isinstance(document.value, dict):
        raise errors.InvalidInputError("must be a mapping of setting names to values", place=document.source)
    _refuse_unknown_variables(os.environ)
    _refuse_unknown_keys(document, document.value)
    try:
        settings = Settings(**cast("dict[str, Any]", document.value))
    except pydantic.ValidationError as error:
        raise _refusal(document, error) from error
    except pydantic_settings.SettingsError as error:
        raise errors.InvalidInputError(str(error), place="environment") from error
    return _anchored(settings, Path(document.source).absolute().parent)


def _read_file(path: Path | None) -> strictyaml.Document:
    found = path or Path(DEFAULT_FILE)
    try:
        document = strictyaml.read(found.read_text(encoding="utf-8"), source=str(found))
    except FileNotFoundError as error:
        if path is not None:
            raise errors.NotFoundError(f"settings file {path} does not exist; name another with --config") from error
        document = strictyaml.Document({}, str(found))
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidInputError(f"cannot be read: {error}", place=str(found)) from error
    return document if document.value is not None else strictyaml.Document({}, document.source)


def _refuse_unknown_keys(document: strictyaml.Document, value: Mapping[str, object]) -> None:
    """Checked before the settings class sees the keys: it takes those with an underscore as options of its own."""
    for key in value:
        if key not in Settings.model_fields:
            raise errors.InvalidInputError(_complaint((key,), "extra_forbidden", ""), place=document.place((key,)))


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """A misspelt variable would silently leave the default in force."""
    groups = [PREFIX + name.upper() for name in Settings.model_fields]  # a whole group may be given as JSON
    known = [row.variable for row in rows()]
    patterns = [re.escape(name).replace("<SERVICE>", r"\w+?") for name in [*groups, *known]]
    pattern = re.compile("|".join(patterns))
    for variable in sorted(environment):
        spoken = variable.upper()
        if not spoken.startswith(PREFIX) or spoken.startswith(_KUBERNETES_VARIABLES):
            continue
        if spoken in {*CLIENT_VARIABLES, *_TEST_VARIABLES}:
            continue
        if not pattern.fullmatch(spoken):
            near = difflib.get_close_matches(spoken, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise errors.InvalidInputError(f"names no setting{hint}", place=variable)


def _refusal(document: strictyaml.Document, error: pydantic.ValidationError) -> errors.InvalidInputError:
    """Say every complaint with its place: a variable, or a line of the file. Never repeats a value."""
    complaints = error.errors(include_url=False, include_input=False, include_context=False)
    texts = [_complaint(complaint["loc"], complaint["type"], complaint["msg"]) for complaint in complaints]
    places = [_place(document, complaint["loc"]) for complaint in complaints]
    rest = "".join(f"\n{place}: {text}" for place, text in zip(places[1:], texts[1:], strict=True))
    return errors.InvalidInputError(f"{texts[0]}{rest}", place=places[0])


def _complaint(path: strictyaml.Path, kind: str, message: str) -> str:
    name = strictyaml.dotted(path)
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, [row.name for row in rows()], n=1)
        return f"unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    if kind == "missing":
        return f"setting {name!r} is missing"
    return f"{name}: {message.removeprefix('Value error, ')}"


def _place(document: strictyaml.Document, path: strictyaml.Path) -> str:
    variable = PREFIX + "__".join(str(part) for part in path).upper()
    given = [name for name in os.environ if name.upper() == variable or name.upper().startswith(f"{variable}__")]
    return given[0] if given else document.place(path)


def _anchored(settings: Settings, folder: Path) -> Settings:
    """Make every path absolute: settings must mean the same wherever the process later changes to."""
    update = {name: _anchor(value, folder) for name, value in settings if _anchor(value, folder) is not value}
    return settings.model_copy(update=update)


def _anchor(value: object, folder: Path) -> object:
    if isinstance(value, Path):
        return folder / value.expanduser()
    if isinstance(value, _Group):
        return value.model_copy(update={name: _anchor(inner, folder) for name, inner in value})
    if isinstance(value, dict):
        return {key: _anchor(inner, folder) for key, inner in cast("dict[str, object]", value).items()}
    return value


def read_secret(path: Path) -> str:
    """Return the one line a secret file holds; raises InvalidInputError when it is missing, empty or has several."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidInputError(f"the secret cannot be read: {error}", place=str(path)) from error
    if not text or len(text.splitlines()) > 1:
        raise errors.InvalidInputError("must hold exactly one line with the secret", place=str(path))
    return text


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_bind(settings: Settings, *, has_tokens: bool) -> None:
    """Refuse to serve beyond this machine while nobody could be told apart; raises InvalidInputError."""
    if has_tokens or is_loopback(settings.listen.host):
        return
    raise errors.InvalidInputError(
        f"{settings.listen.host} is reachable from other machines and no API token exists; start once on "
        "127.0.0.1 and run `dsctl auth token create NAME --role admin`, then change the address",
        place="listen.host",
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of settings."""

    name: str
    type: str
    default: str
    unit: str
    help: str

    @property
    def variable(self) -> str:
        """The environment variable of the setting.

        >>> Row("listen.port", "integer", "8090", "", "").variable
        'DSCTL_LISTEN__PORT'
        """
        return PREFIX + self.name.upper().replace(".", "__")


def rows() -> tuple[Row, ...]:
    """Return the table of settings in the order of the class."""
    return tuple(_rows_of(Settings, ""))


_GROUPS_BY_SERVICE: Mapping[object, type[_Group]] = {
    dict[str, Gateway]: Gateway,
    dict[str, LocalFleet]: LocalFleet,
}


def _rows_of(model: type[pydantic.BaseModel], prefix: str) -> Iterator[Row]:
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if (of_service := _GROUPS_BY_SERVICE.get(annotation)) is not None:
            yield from _rows_of(of_service, f"{prefix}{name}.<service>.")
        elif isinstance(annotation, type) and issubclass(annotation, _Group):
            yield from _rows_of(annotation, f"{prefix}{name}.")
        else:
            yield _row(f"{prefix}{name}", info)


def _row(name: str, info: pydantic.fields.FieldInfo) -> Row:
    extra = cast("Mapping[str, outcomes.Json]", info.json_schema_extra or {})
    if info.default_factory is not None:
        default = "the user's data folder, `dsctl`"
    elif info.is_required():
        default = "required"
    else:
        default = "unset" if info.default is None else f"`{info.default}`"
    return Row(name, _type_name(info.annotation), default, str(extra.get("unit", "")), info.description or "")


def _type_name(annotation: object) -> str:
    spoken: Mapping[object, str] = {
        str: "text",
        bool: "true or false",
        int: "integer",
        float: "number",
        Path: "path",
        Path | None: "path",
        pydantic.SecretStr | None: "secret",
        policies.Mode: "one of " + ", ".join(policies.Mode),
    }
    if annotation in spoken:
        return spoken[annotation]
    return "one of " + ", ".join(str(choice) for choice in getattr(annotation, "__args__", ()))


def markdown() -> str:
    """Return the page `docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        f"The server reads `{DEFAULT_FILE}` in its working directory, or the file named by `--config`, and then the",
        "environment, which wins. A dot in a name is a level in the file and two underscores in a variable.",
        "Unknown names are errors. Relative paths count from the folder of the file.",
        "`dsctl server check-config` says whether a file would be accepted.",
        "",
        "| Setting | Variable | Type | Default | Unit | Meaning |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row.name}` | `{row.variable}` | {row.type} | {row.default} | {row.unit} | {row.help} |" for row in rows()
    ]
    return "\n".join(lines) + "\n"
