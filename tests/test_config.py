"""Settings: every variable read once, and every doubt refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import config
from gateway.config import ConfigError, Settings

ROWS = config.table()
SECRET = "hunter2-is-secret"
_SAMPLES: dict[str, tuple[str, object]] = {
    "shutdown_timeout_seconds": ("7.5", 7.5),
    "jwt_secret": ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"),
    "jwks_url": ("https://keys.example/jwks.json", "https://keys.example/jwks.json"),
    "cors_origins": ("https://a.example,http://b:8080", "https://a.example,http://b:8080"),
    "tenant_max_batch": ("43", 43),
}


def load(tmp_path: Path | None = None, /, **environ: str) -> Settings:
    return config.load(environ, None if tmp_path is None else tmp_path / ".env")


def sample(row: config.Setting) -> tuple[str, object]:
    """A good value other than the default, as text and as read."""
    kind = row.kind
    if row.field == "appendfsync":
        return "everysec", "everysec"
    if row.field in _SAMPLES:
        return _SAMPLES[row.field]
    if kind == "whole number":
        return "4321" if row.field not in ("task_workers", "redis_db") else "7", (
            4321 if row.field not in ("task_workers", "redis_db") else 7
        )
    if kind == "true or false":
        return "true", True
    if "`" in kind:
        last = kind.split("`")[-2]
        return last, last
    return "some-text", "some-text"


def test_without_anything_set_the_defaults_hold_and_redis_is_embedded() -> None:
    settings = load()
    assert settings == Settings()
    assert settings.embedded_redis()
    assert settings.task_queue_size == 100_000
    assert settings.port == 8080


@pytest.mark.parametrize(
    ("row", "variable"),
    [(row, name) for row in ROWS for name in row.variables],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_spelling_of_every_setting_is_read(row: config.Setting, variable: str) -> None:
    text, value = sample(row)
    beside = {"REDIS_HOST": "cache"} if variable in ("REDIS_PASSWORD", "REDIS_DB", "REDIS_TLS") else {}
    assert getattr(load(**beside, **{variable: text}), row.field) == value
    assert getattr(load(**beside, **{variable: f"  {text} "}), row.field) == value


def test_the_spellings_of_the_reference_systems_are_all_there() -> None:
    spellings = {name: row.field for row in ROWS for name in row.variables}
    for one, *others in (
        ("PORT", "APP_PORT", "SERVER_PORT"), ("HOST", "APP_HOST"), ("TASK_QUEUE_SIZE", "POOL_SIZE"),
        ("SHUTDOWN_TIMEOUT_SECONDS", "SHUTDOWN_TIMEOUT"), ("TASK_WORKERS", "WORKERS", "WORKER_COUNT"),
        ("DATABASE_URL", "DATABASE_DSN"), ("REDIS_ADDR",), ("REDIS_HOST",), ("REDIS_PORT",), ("REDIS_PASSWORD",),
        ("REDIS_DB",), ("RATE_LIMIT_PER_MINUTE",), ("JWT_SECRET",), ("LOG_LEVEL",),
    ):  # fmt: skip
        assert {spellings[name] for name in others} <= {spellings[one]}


def test_no_variable_belongs_to_two_settings() -> None:
    names = [name for row in ROWS for name in row.variables]
    assert len(names) == len(set(names))


def test_every_setting_is_explained() -> None:
    for row in ROWS:
        assert row.about.endswith(".")
        assert row.kind


@pytest.mark.parametrize("row", [row for row in ROWS if len(row.variables) > 1], ids=lambda row: row.field)
def test_two_spellings_with_different_values_refuse_to_boot(row: config.Setting) -> None:
    text, _ = sample(row)
    one, two = row.variables[:2]
    with pytest.raises(ConfigError) as refused:
        load(**{one: text, two: text + "1"})
    assert one in str(refused.value)
    assert two in str(refused.value)
    assert text not in str(refused.value)


@pytest.mark.parametrize("row", [row for row in ROWS if len(row.variables) > 1], ids=lambda row: row.field)
def test_two_spellings_with_the_same_value_do_not(row: config.Setting) -> None:
    text, value = sample(row)
    assert getattr(load(**dict.fromkeys(row.variables, text)), row.field) == value


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "http"), ("PORT", "-1"), ("PORT", "65536"), ("PORT", "80.5"), ("PORT", "8080 8081"), ("APP_PORT", "x"),
        ("SERVER_PORT", "0x50"), ("REDIS_PORT", "0"), ("REDIS_DB", "-1"), ("REDIS_DB", "a"), ("TASK_QUEUE_SIZE", "0"),
        ("POOL_SIZE", "many"), ("TASK_WORKERS", "-1"), ("WORKERS", "1001"), ("WORKER_COUNT", "two"),
        ("SHUTDOWN_TIMEOUT_SECONDS", "0"), ("SHUTDOWN_TIMEOUT", "soon"), ("SHUTDOWN_TIMEOUT", "nan"),
        ("SHUTDOWN_TIMEOUT", "inf"), ("LOG_LEVEL", "loud"), ("LOG_FORMAT", "xml"), ("REDIS_QUEUE_KEY", "a:b"),
        ("REDIS_QUEUE_KEY", "{x}"), ("APPENDFSYNC", "no"), ("ACCEPT_EMPTY", "perhaps"), ("MAX_BODY_BYTES", "5"),
        ("MAX_OPEN_POLLS", "0"), ("RATE_LIMIT_PER_MINUTE", "0"), ("REDIS_CHECK", "ignore"),
    ],
)  # fmt: skip
def test_a_bad_value_refuses_to_boot_naming_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(**{variable: value})
    assert str(refused.value).startswith(f"{variable} ")


def test_an_empty_value_is_one_that_is_not_set() -> None:
    assert load(PORT="", REDIS_URL=" ", LOG_LEVEL="") == Settings()
    assert load(PORT="", APP_PORT="8099").port == 8099


def test_a_secret_never_stands_in_a_message(tmp_path: Path) -> None:
    for variables in (
        {"REDIS_PASSWORD": SECRET, "PORT": "x"},
        {"REDIS_URL": f"redis://:{SECRET}@h/0", "REDIS_ADDR": "h:1"},
        {"DATABASE_URL": f"postgres://u:{SECRET}@h/d", "DATABASE_DSN": "other"},
        {"JWT_SECRET": SECRET},
        {"REDIS_QUEUE_KEY": f"{{{SECRET}}}"},
        {"PORT": SECRET},
        {"ACCEPT_EMPTY": SECRET},
    ):
        with pytest.raises(ConfigError) as refused:
            load(**variables)
        assert SECRET not in str(refused.value)
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(
    "variables",
    [
        {"JWT_SECRET": "x" * 31},
        {"AUTH": "none", "JWT_SECRET": "x" * 32},
        {"JWT_SECRET": "x" * 32, "JWKS_URL": "https://keys.example/"},
        {"JWKS_FILE": "keys.json", "JWKS_URL": "https://keys.example/"},
        {"AUTH": "none", "API_KEYS": "true"},
        {"JWKS_URL": "http://keys.example/"},
        {"JWKS_URL": "file:///etc/passwd"},
        {"CORS_ORIGINS": "*"},
        {"CORS_ORIGINS": "https://a.example/path"},
        {"CORS_ORIGINS": "null"},
        {"AUTH": "off"},
        {"TENANT_MAX_BATCH": "1001"},
    ],
    ids=lambda variables: ",".join(variables),
)
def test_identity_that_is_weak_or_contradicts_itself_refuses_to_boot(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(variables))):
        load(**variables)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "gateway.example", "1270.0.0.1"])
def test_without_identity_nothing_but_loopback_is_served_unless_it_is_said_aloud(host: str) -> None:
    with pytest.raises(ConfigError, match="AUTH=none"):
        load(HOST=host).check_exposure()
    load(HOST=host, AUTH="none").check_exposure()
    load(HOST=host, JWT_SECRET="x" * 32).check_exposure()
    load(HOST=host, API_KEYS="true").check_exposure()
    assert "network" in load(HOST=host, AUTH="none").warnings()[0]


def test_on_loopback_an_open_gateway_starts_with_a_warning() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        settings = load(HOST=host)
        settings.check_exposure()
        assert "no authentication" in settings.warnings()[0]
    assert load(JWT_SECRET="x" * 32).warnings() == []


@pytest.mark.parametrize(
    "variables",
    [
        {"REDIS_URL": "redis://h", "REDIS_ADDR": "h:1"},
        {"REDIS_URL": "redis://h", "REDIS_HOST": "h"},
        {"REDIS_ADDR": "h:1", "REDIS_HOST": "h"},
    ],
)
def test_two_addresses_of_redis_refuse_to_boot(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as refused:
        load(**variables)
    for name in variables:
        assert name in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "location"),
    [
        ({"REDIS_URL": "unix:///run/redis.sock"}, "unix:///run/redis.sock"),
        ({"REDIS_URL": "rediss://cache:6380/3", "REDIS_TLS": "true"}, "rediss://cache:6380/3"),
        ({"REDIS_URL": "redis://cache:6380/3", "REDIS_DB": "0", "REDIS_TLS": "false"}, "redis://cache:6380/3"),
        ({"REDIS_ADDR": "cache:6380"}, "redis://cache:6380/0"),
        ({"REDIS_ADDR": "cache:6380", "REDIS_DB": "3"}, "redis://cache:6380/3"),
        ({"REDIS_HOST": "cache"}, "redis://cache:6379/0"),
        ({"REDIS_ADDR": "cache:6380", "REDIS_TLS": "true"}, "rediss://cache:6380/0"),
        ({"REDIS_SENTINELS": "a:1,b:2"}, "redis-sentinel://a:1,b:2/0#mymaster"),
        ({"REDIS_SENTINELS": "a:1", "REDIS_MASTER": "m", "REDIS_DB": "3"}, "redis-sentinel://a:1/3#m"),
        ({"REDIS_CLUSTER": "a:1,b:2", "REDIS_PASSWORD": SECRET}, "redis-cluster://a:1,b:2"),
        ({"REDIS_CLUSTER": "a:1", "REDIS_TLS": "true"}, "rediss-cluster://a:1"),
        ({"REDIS_HOST": "cache", "REDIS_PORT": "7000", "REDIS_PASSWORD": SECRET}, "redis://cache:7000/0"),
    ],
)
def test_the_address_of_redis_is_spelled_without_its_password(variables: dict[str, str], location: str) -> None:
    settings = load(**variables)
    assert not settings.embedded_redis()
    assert settings.redis_location() == location


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"REDIS_CLUSTER": "a:1", "REDIS_DB": "3"}, "REDIS_DB"),
        ({"REDIS_URL": "redis://h:1", "REDIS_DB": "3"}, "REDIS_DB"),
        ({"REDIS_URL": "redis://h:1", "REDIS_TLS": "true"}, "REDIS_TLS"),
        ({"REDIS_URL": "unix:///run/redis.sock", "REDIS_TLS": "true"}, "REDIS_TLS"),
        ({"REDIS_PASSWORD": SECRET}, "REDIS_PASSWORD is set, but no Redis is named"),
        ({"REDIS_DB": "3"}, "REDIS_DB is set, but no Redis is named"),
        ({"REDIS_TLS": "true"}, "REDIS_TLS is set, but no Redis is named"),
        ({"DURABILITY": "replicated"}, "DURABILITY"),
        ({"DURABILITY": "everything"}, "DURABILITY"),
        ({"REDIS_SENTINELS": "a:1", "REDIS_CLUSTER": "a:1"}, "REDIS_SENTINELS and REDIS_CLUSTER"),
    ],
)
def test_what_a_setup_of_redis_cannot_keep_refuses_to_boot(variables: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(**variables)


def test_a_dotenv_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('PORT=9001\nLOG_LEVEL="debug"\n# a comment\nREDIS_PASSWORD=a$b${c}\nUNKNOWN=1\n')
    settings = load(tmp_path, LOG_LEVEL="error", REDIS_HOST="cache")
    assert settings.port == 9001
    assert settings.log_level == "error"
    assert settings.redis_password == "a$b${c}"


def test_a_dotenv_file_and_the_environment_may_not_contradict_each_other_in_two_spellings(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("APP_PORT=9001\n")
    with pytest.raises(ConfigError, match="APP_PORT and PORT"):
        load(tmp_path, PORT="9002")


def test_a_dotenv_file_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert load(tmp_path) == Settings()


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        load().port = 1  # type: ignore[misc]  # that is the point
