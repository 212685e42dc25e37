"""Settings: one table, two sources, and refusals that name the place."""

from pathlib import Path

import pytest

from controlplane import settings
from controlplane.domain import errors, policies

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the machine plays a part."""
    for variable in list(settings.os.environ):
        if variable.startswith(settings.PREFIX):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def written(folder: Path, text: str) -> Path:
    path = folder / "dsctl.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file_and_are_careful() -> None:
    """Without a file the product listens on this machine only, and suggests rather than acts."""
    found = settings.load()
    assert (found.listen.host, found.listen.port, found.mode) == ("127.0.0.1", 8090, policies.Mode.SUGGEST)
    assert found.resolved_database_url() == f"sqlite:///{found.data_dir}/dsctl.db"


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sources fill one group; where they meet, the variable counts."""
    path = written(tmp_path, "listen: {host: 127.0.0.2, port: 1}\ntick_seconds: 2\n")
    monkeypatch.setenv("DSCTL_LISTEN__PORT", "2")
    found = settings.load(path)
    assert (found.listen.host, found.listen.port, found.tick_seconds) == ("127.0.0.2", 2, 2.0)


def test_file_in_the_working_directory_is_read(tmp_path: Path) -> None:
    """`dsctl.yaml` is found without being named; an empty one changes nothing."""
    written(tmp_path, "mode: auto\n")
    assert settings.load().mode is policies.Mode.AUTO
    written(tmp_path, "# nothing\n")
    assert settings.load().mode is policies.Mode.SUGGEST


def test_named_file_must_exist(tmp_path: Path) -> None:
    """A file that was asked for by name and is not there is an error, not the defaults."""
    with pytest.raises(errors.NotFoundError, match="does not exist"):
        settings.load(tmp_path / "typo.yaml")


def test_paths_count_from_the_file(tmp_path: Path) -> None:
    """Relative paths mean the same wherever the process was started or goes."""
    folder = tmp_path / "etc"
    folder.mkdir()
    path = written(
        folder,
        "services_file: s.yaml\nnode_admin: {token_file: t}\n"
        "gateways: {chat: {admin_url: 'http://gw:1/', token_file: g}}\n",
    )
    found = settings.load(path)
    assert found.services_file == folder / "s.yaml"
    assert found.node_admin.token_file == folder / "t"
    assert (found.gateways["chat"].token_file, found.gateways["chat"].admin_url) == (folder / "g", "http://gw:1")
    assert found.runbooks_dir is None


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("mode: auto\ntik_seconds: 3\n", "dsctl.yaml:2", "did you mean 'tick_seconds'?"),
        ("listen:\n  prot: 3\n", "dsctl.yaml:2", "did you mean 'listen.port'?"),
        ("_env_prefix: X_\n", "dsctl.yaml:1", "unknown setting '_env_prefix'"),
        ("mode: yolo\n", "dsctl.yaml:1", "mode"),
        ("tick_seconds: 0\n", "dsctl.yaml:1", "tick_seconds"),
        ("tick_seconds: 1e400\n", "dsctl.yaml:1", "not a finite number"),
        ("listen: {port: 70000}\n", "dsctl.yaml:1", "listen.port"),
        ("prometheus_url: ftp://x\n", "dsctl.yaml:1", "prometheus_url"),
        ("prometheus_url: http://me:pw@x\n", "dsctl.yaml:1", "credentials"),
        ("gateways: {chat: {}}\n", "dsctl.yaml:1", "'gateways.chat.admin_url' is missing"),
        ("mode: auto\nmode: observe\n", "dsctl.yaml:2", "given twice"),
        ("- mode\n", "dsctl.yaml", "must be a mapping"),
        ("node_admin: {token: a, token_file: b}\n", "dsctl.yaml:1", "not both"),
    ],
)
def test_wrong_files_are_refused_with_the_line(tmp_path: Path, text: str, place: str, says: str) -> None:
    """Each mistake names file and line, and the nearest right name where there is one."""
    with pytest.raises(errors.InvalidInputError) as caught:
        settings.load(written(tmp_path, text))
    assert caught.value.place.endswith(place)
    assert says in str(caught.value)


def test_every_mistake_is_listed(tmp_path: Path) -> None:
    """Two wrong values are two lines, each with its place."""
    with pytest.raises(errors.InvalidInputError) as caught:
        settings.load(written(tmp_path, "mode: yolo\nretention_days: 0\n"))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0].rpartition(":")[2] for line in lines] == ["1", "2"]


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("DSCTL_TICKSECONDS", "did you mean DSCTL_TICK_SECONDS?"),
        ("DSCTL_LISTEN__PROT", "did you mean DSCTL_LISTEN__PORT?"),
        ("DSCTL_DATABASE_URL__X", "names no setting"),
        ("dsctl_modus", "did you mean DSCTL_MODE?"),
        ("DSCTL_WHATEVER_IT_IS", "names no setting"),
    ],
)
def test_unknown_variables_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str, says: str) -> None:
    """A misspelt variable is an error that names it; it never leaves a default in force unseen."""
    monkeypatch.setenv(variable, "5")
    with pytest.raises(errors.InvalidInputError) as caught:
        settings.load()
    assert caught.value.place == variable
    assert says in str(caught.value)


def test_variables_of_kubernetes_and_of_the_client_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service named dsctl sets DSCTL_PORT in every pod; that must not stop the server."""
    for variable in ("DSCTL_PORT", "DSCTL_PORT_8090_TCP_ADDR", "DSCTL_SERVICE_HOST", "DSCTL_SERVER", "DSCTL_TOKEN"):
        monkeypatch.setenv(variable, "tcp://10.0.0.1:8090")
    assert settings.load().listen.port == 8090


def test_a_fail_point_can_be_armed_for_the_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable by which tests kill the server is no setting, and must not keep the server from starting."""
    monkeypatch.setenv("DSCTL_FAILPOINT", "before_effect:1")
    assert settings.load().listen.port == 8090


def test_secrets_are_masked_and_never_in_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither printing the settings nor a refusal shows a secret."""
    path = written(tmp_path, "database_url: postgresql://me:hunter2@db/x\nnode_admin: {token: hunter2}\n")
    found = settings.load(path)
    assert "hunter2" not in repr(found)
    assert "hunter2" not in found.model_dump_json()
    assert (found.node_admin.reveal(), found.resolved_database_url()[-5:]) == ("hunter2", "@db/x")
    monkeypatch.setenv("DSCTL_NODE_ADMIN__TOKEN_FILE", "x")
    with pytest.raises(errors.InvalidInputError) as caught:
        settings.load(path)
    assert "not both" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_gateways_can_be_named_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's name is the middle part; a wrong last part is refused like any other variable."""
    monkeypatch.setenv("DSCTL_GATEWAYS__CHAT__ADMIN_URL", "http://gw:1")
    assert settings.load().gateways["chat"].admin_url == "http://gw:1"
    monkeypatch.setenv("DSCTL_GATEWAYS__CHAT__ADMIN_URI", "http://gw:1")
    with pytest.raises(errors.InvalidInputError, match="names no setting"):
        settings.load()


def test_secret_files_hold_one_line(tmp_path: Path) -> None:
    """A token file is read when it is needed; a missing, empty or longer one is refused with its path."""
    good, empty, long = tmp_path / "good", tmp_path / "empty", tmp_path / "long"
    good.write_text("abc\n", encoding="utf-8")
    empty.write_text("\n", encoding="utf-8")
    long.write_text("a\nb\n", encoding="utf-8")
    assert settings.TokenSource(token_file=good).reveal() == "abc"
    assert settings.TokenSource().reveal() is None
    for bad in (empty, long, tmp_path / "missing"):
        with pytest.raises(errors.InvalidInputError) as caught:
            settings.TokenSource(token_file=bad).reveal()
        assert caught.value.place == str(bad)


def test_settings_cannot_be_changed() -> None:
    """They are read once; nobody changes them under the rooms that were built from them."""
    found = settings.load()
    with pytest.raises(ValueError, match="frozen"):
        found.tick_seconds = 1.0


@pytest.mark.parametrize(
    ("host", "has_tokens", "is_allowed"),
    [
        ("127.0.0.1", False, True),
        ("127.9.9.9", False, True),
        ("localhost", False, True),
        ("::1", False, True),
        ("0.0.0.0", True, True),  # noqa: S104  # nothing binds here
        ("0.0.0.0", False, False),  # noqa: S104  # nothing binds here
        ("::", False, False),
        ("10.0.0.1", False, False),
        ("dsctl.internal", False, False),
    ],
)
def test_nobody_serves_the_network_without_a_token(host: str, has_tokens: bool, is_allowed: bool) -> None:
    """Beyond this machine the server listens only when callers can be told apart."""
    found = settings.Settings(listen=settings.Listen(host=host))
    if is_allowed:
        settings.check_bind(found, has_tokens=has_tokens)
        return
    with pytest.raises(errors.InvalidInputError, match="no API token exists"):
        settings.check_bind(found, has_tokens=has_tokens)


def test_table_covers_every_setting_with_help() -> None:
    """Each setting has a line with type and meaning, and quantities have a unit."""
    rows = settings.rows()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.type, row.name
        assert row.help.endswith("."), row.name
        assert bool(row.unit) == row.name.endswith(("_seconds", "_days")), row.name


def test_page_is_current() -> None:
    """`docs/settings.md` is what the table says; `python -m controlplane.cli.reference docs` updates it."""
    assert PAGE.read_text(encoding="utf-8") == settings.markdown()
