"""Settings: read once from the environment and a `.env` file. Below the wiring everything takes plain values."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from dotenv import dotenv_values
from msgspec import Meta

_SHORTEST_SECRET_BYTES = 32
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")


class ConfigError(Exception):
    """A setting is missing, wrong, or given twice. The gateway refuses to start and says which and why."""


def _env(*names: str, about: str, **limits: Any) -> Meta:
    return Meta(description=about, extra={"env": names}, **limits)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. Each field's `env` lists the variables it is read from; they are synonyms."""

    host: Annotated[str, _env("HOST", "APP_HOST", about="Address to listen on.", min_length=1)] = "127.0.0.1"
    port: Annotated[int, _env("PORT", "APP_PORT", "SERVER_PORT", about="Port to listen on.", ge=0, le=65535)] = 8080
    redis_url: Annotated[
        str | None,
        _env(
            "REDIS_URL",
            about="Redis to use, as redis://, rediss:// or unix://, with its database. Where this, REDIS_ADDR, "
            "REDIS_HOST, REDIS_SENTINELS and REDIS_CLUSTER are all unset: embedded.",
        ),
    ] = None
    redis_addr: Annotated[str | None, _env("REDIS_ADDR", about="Redis to use, as host:port.")] = None
    redis_host: Annotated[str | None, _env("REDIS_HOST", about="Redis to use, with REDIS_PORT.")] = None
    redis_port: Annotated[int, _env("REDIS_PORT", about="Port of REDIS_HOST.", ge=1, le=65535)] = 6379
    redis_sentinels: Annotated[
        str | None, _env("REDIS_SENTINELS", about="Sentinels that know the Redis to use: host:port,host:port,..")
    ] = None
    redis_master: Annotated[
        str,
        _env("REDIS_MASTER", about="Name of the primary that REDIS_SENTINELS watch.", pattern=r"^[A-Za-z0-9._-]+$"),
    ] = "mymaster"
    redis_sentinel_password: Annotated[
        str | None, _env("REDIS_SENTINEL_PASSWORD", about="Password of the sentinels themselves.")
    ] = None
    redis_cluster: Annotated[
        str | None, _env("REDIS_CLUSTER", about="Some nodes of the Redis Cluster to use: host:port,host:port,..")
    ] = None
    redis_tls: Annotated[
        bool,
        _env(
            "REDIS_TLS",
            about="Speak TLS to the Redis of REDIS_ADDR, REDIS_HOST, REDIS_SENTINELS or REDIS_CLUSTER. REDIS_URL says "
            "it by rediss://.",
        ),
    ] = False
    redis_password: Annotated[str | None, _env("REDIS_PASSWORD", about="Password of the Redis to use.")] = None
    redis_db: Annotated[
        int,
        _env(
            "REDIS_DB",
            about="Database number of the Redis of REDIS_ADDR, REDIS_HOST or REDIS_SENTINELS; REDIS_URL names its own.",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    redis_key_prefix: Annotated[
        str,
        _env(
            "REDIS_QUEUE_KEY",
            about="Prefix of our keys, to share one Redis.",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        ),
    ] = "tg"
    redis_check: Annotated[
        Literal["warn", "refuse"],
        _env(
            "REDIS_CHECK",
            about="A Redis without AOF, with an evicting maxmemory-policy, or behind sentinels without "
            "min-replicas-to-write: warn, or refuse to be ready.",
        ),
    ] = "warn"
    durability: Annotated[
        Literal["replicated", "local", "memory"],
        _env(
            "DURABILITY",
            about="When a change is acknowledged. `local`: when Redis has it. `replicated`: when a replica has it too, "
            "else 503 `not_replicated`. `memory`: as `local`, and a Redis without AOF is not complained of.",
        ),
    ] = "local"
    durability_replicas: Annotated[
        int,
        _env(
            "DURABILITY_REPLICAS",
            about="`DURABILITY=replicated`: how many replicas must have it. All of them: whichever takes over has it.",
            ge=1,
        ),
    ] = 1
    data_dir: Annotated[str, _env("DATA_DIR", about="Where the embedded Redis keeps its files.", min_length=1)] = (
        "./data"
    )
    appendfsync: Annotated[
        Literal["always", "everysec"],
        _env(
            "APPENDFSYNC", about="Embedded Redis: `always` survives a power cut; `everysec` may lose the last second."
        ),
    ] = "always"
    accept_empty: Annotated[
        bool, _env("ACCEPT_EMPTY", about="Start once although the embedded Redis came up without the data it had.")
    ] = False
    task_queue_size: Annotated[
        int,
        _env(
            "TASK_QUEUE_SIZE", "POOL_SIZE", about="Waiting tasks that one queue holds; more are refused with 503.", ge=1
        ),
    ] = 100_000
    task_workers: Annotated[
        Annotated[int, Meta(ge=0, le=1000)] | None,
        _env(
            "TASK_WORKERS",
            "WORKERS",
            "WORKER_COUNT",
            about="Size of the bundled pool for the `default` queue. `gateway run`: 5 unless set; `gateway serve`: 0.",
        ),
    ] = None
    max_body_bytes: Annotated[
        int, _env("MAX_BODY_BYTES", about="Largest request body, in bytes.", ge=1024, le=64 * 1024 * 1024)
    ] = 1024 * 1024
    max_open_polls: Annotated[
        int, _env("MAX_OPEN_POLLS", about="Long polls held open by one process; more get 429.", ge=1)
    ] = 20_000
    shutdown_timeout_seconds: Annotated[
        float,
        _env("SHUTDOWN_TIMEOUT_SECONDS", "SHUTDOWN_TIMEOUT", about="How long a graceful stop may take.", gt=0, le=3600),
    ] = 20.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _env("LOG_LEVEL", about="Least severe level that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "text"], _env("LOG_FORMAT", about="`auto`: text on a terminal, JSON lines elsewhere.")
    ] = "auto"
    auth: Annotated[
        Literal["auto", "none"],
        _env(
            "AUTH",
            about="`auto`: tokens are required once a key for them is set, and without one only loopback is served. "
            "`none`: anybody may do everything, wherever HOST listens.",
        ),
    ] = "auto"
    jwt_secret: Annotated[
        str | None, _env("JWT_SECRET", about="Accept HS256 tokens signed with this secret, of 32 bytes or more.")
    ] = None
    jwks_file: Annotated[
        str | None, _env("JWKS_FILE", about="Accept RS256, ES256 and EdDSA tokens by the keys in this file.")
    ] = None
    jwks_url: Annotated[
        Annotated[str, Meta(pattern=r"^(https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/])")] | None,
        _env("JWKS_URL", about="As JWKS_FILE, fetched by https, kept, and fetched again when keys rotate."),
    ] = None
    jwt_issuer: Annotated[str | None, _env("JWT_ISSUER", about="Tokens must have exactly this `iss`.")] = None
    jwt_audience: Annotated[str | None, _env("JWT_AUDIENCE", about="Tokens must have this `aud`.")] = None
    api_keys: Annotated[
        bool,
        _env("API_KEYS", about="Require a key of `gateway keys create` where no JWT key is set (else both are taken)."),
    ] = False
    cors_origins: Annotated[
        str | None,
        _env("CORS_ORIGINS", about="Origins whose pages may call the API from a browser, separated by commas."),
    ] = None
    allowed_hosts: Annotated[
        str | None,
        _env(
            "ALLOWED_HOSTS",
            about="Names with a dot that a gateway without identity answers to (against DNS rebinding).",
        ),
    ] = None
    rate_limit_per_minute: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | None,
        _env(
            "RATE_LIMIT_PER_MINUTE",
            about="Requests of one tenant, over all gateways; more get 429. Reports of workers have ten times as many.",
        ),
    ] = None
    rate_limit_by_address: Annotated[
        bool,
        _env("RATE_LIMIT_BY_ADDRESS", about="Count requests without a valid token by client address instead."),
    ] = False
    tenant_max_open_polls: Annotated[
        int, _env("TENANT_MAX_OPEN_POLLS", about="Long polls of one tenant held by one process; more get 429.", ge=1)
    ] = 10_000
    tenant_max_pending: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        _env("TENANT_MAX_PENDING", about="Waiting tasks of one tenant over all its queues; more get 429."),
    ] = None
    tenant_max_stored_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        _env("TENANT_MAX_STORED_BYTES", about="Bytes of payloads and results that one tenant keeps; more get 429."),
    ] = None
    tenant_max_queues: Annotated[
        int, _env("TENANT_MAX_QUEUES", about="Queues (job types) that one tenant may use; more get 429.", ge=1)
    ] = 1000
    tenant_max_batch: Annotated[
        int, _env("TENANT_MAX_BATCH", about="Tasks of one tenant's batch; more get 413.", ge=1, le=1000)
    ] = 1000
    database_url: Annotated[
        str | None,
        _env("DATABASE_URL", "DATABASE_DSN", about="Not used: tasks are kept in Redis. A warning is logged."),
    ] = None

    def embedded_redis(self) -> bool:
        """Whether the gateway runs a Redis of its own."""
        return not (self.redis_url or self.redis_addr or self.redis_host or self.redis_sentinels or self.redis_cluster)

    def authenticates(self) -> bool:
        """Whether requests need a token."""
        return bool(self.jwt_secret or self.jwks_file or self.jwks_url or self.api_keys)

    def warnings(self) -> list[str]:
        """What an operator should know of these settings."""
        if self.authenticates():
            return []
        reach = "this machine" if self.on_loopback() else "the network"
        return [f"no authentication: anybody on {reach} may do everything; set JWT_SECRET, JWKS_URL or API_KEYS"]

    def on_loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def check_exposure(self) -> None:
        """Raise ConfigError when the gateway would serve anybody on the net without being told to."""
        if not self.authenticates() and self.auth != "none" and not self.on_loopback():
            raise ConfigError(
                f"HOST {self.host} is reached from other machines, and nobody would be asked who they are: set "
                "JWT_SECRET, JWKS_URL, JWKS_FILE or API_KEYS=true, or say AUTH=none to serve anybody"
            )

    def redis_location(self) -> str:
        """Spell the configured external Redis as a URL (`store/location.py`), without its password."""
        if self.redis_url:
            return self.redis_url
        scheme = "rediss" if self.redis_tls else "redis"
        if self.redis_sentinels:
            return f"{scheme}-sentinel://{self.redis_sentinels}/{self.redis_db}#{self.redis_master}"
        if self.redis_cluster:
            return f"{scheme}-cluster://{self.redis_cluster}"
        address = self.redis_addr or f"{self.redis_host}:{self.redis_port}"
        return f"{scheme}://{address}/{self.redis_db}"


class Setting(msgspec.Struct, frozen=True):
    """One row of the configuration table: its variables (synonyms), type, default and meaning."""

    field: str
    variables: tuple[str, ...]
    kind: str
    default: Any
    about: str


def table() -> list[Setting]:
    """List every setting, in the order of `Settings`."""
    hints = get_type_hints(Settings, include_extras=True)
    rows = []
    for info in msgspec.structs.fields(Settings):
        bare, meta = get_args(hints[info.name])[:2]
        rows.append(Setting(info.name, meta.extra["env"], _kind(bare), info.default, meta.description))
    return rows


def load(environ: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> Settings:
    """Read the settings. environ: os.environ unless given; its variables win over those of env_file.

    Raises ConfigError naming the variable: a value of the wrong type or range, or two spellings of one setting that
    differ.
    """
    found = {name: value for name, value in _file_values(env_file).items() if value is not None}
    # An empty variable says nothing; it does not hide what the file says.
    given_environ = os.environ if environ is None else environ
    found.update({name: value for name, value in given_environ.items() if value.strip()})
    values: dict[str, str] = {}
    for row in table():
        given = {name: found[name].strip() for name in row.variables if found.get(name, "").strip()}
        if len(set(given.values())) > 1:
            raise ConfigError(f"{' and '.join(sorted(given))} are the same setting but differ; set one of them")
        if given:
            name, value = next(iter(given.items()))
            _check(row.field, name, value)
            values[row.field] = value
    settings = msgspec.convert(values, Settings, strict=False)
    if settings.jwt_secret is not None and len(settings.jwt_secret.encode()) < _SHORTEST_SECRET_BYTES:
        raise ConfigError(
            f"JWT_SECRET is shorter than {_SHORTEST_SECRET_BYTES} bytes; make one with `openssl rand -base64 32`"
        )
    if settings.jwks_file is not None and settings.jwks_url is not None:
        raise ConfigError("JWKS_FILE and JWKS_URL both name keys; set one of them")
    if settings.jwt_secret is not None and (settings.jwks_file or settings.jwks_url):
        raise ConfigError("JWT_SECRET and a JWKS are two ways to sign tokens, and mixing them is unsafe; set one")
    for origin in names(settings.cors_origins):
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(f"CORS_ORIGINS: {origin!r} is no origin; write https://host or https://host:port")
    if settings.auth == "none" and settings.authenticates():
        raise ConfigError("AUTH=none says to ask nobody, but a key for tokens is set too; take one of them back")
    addresses = (
        settings.redis_url,
        settings.redis_addr,
        settings.redis_host,
        settings.redis_sentinels,
        settings.redis_cluster,
    )
    if sum(bool(address) for address in addresses) > 1:
        raise ConfigError(
            "REDIS_URL, REDIS_ADDR, REDIS_HOST, REDIS_SENTINELS and REDIS_CLUSTER name a Redis each; set one of them"
        )
    if settings.redis_url and settings.redis_db:
        raise ConfigError("REDIS_DB is set, but REDIS_URL names the database itself (redis://host:6379/3); unset it")
    if settings.redis_url and settings.redis_tls and not settings.redis_url.startswith("rediss"):
        raise ConfigError("REDIS_TLS is set, but REDIS_URL names a Redis without TLS; write rediss://, or unset it")
    if settings.redis_cluster and settings.redis_db:
        raise ConfigError("REDIS_DB is set, but the Redis of REDIS_CLUSTER has database 0 only; unset it")
    ignored = {"PASSWORD": settings.redis_password, "DB": settings.redis_db, "TLS": settings.redis_tls}
    for name in [name for name, value in ignored.items() if value and settings.embedded_redis()]:
        raise ConfigError(
            f"REDIS_{name} is set, but no Redis is named, and it is nothing to the embedded one; set REDIS_ADDR, or "
            "unset it"
        )
    if settings.durability == "replicated" and settings.embedded_redis():
        raise ConfigError(
            "DURABILITY is replicated, but the embedded Redis has no replica; set REDIS_SENTINELS or REDIS_CLUSTER"
        )
    return settings


def names(text: str | None) -> list[str]:
    """Read a list of names, separated by commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _file_values(env_file: Path | None) -> dict[str, str | None]:
    if env_file is None or not env_file.is_file():
        return {}
    return dotenv_values(env_file, interpolate=False)


def _check(field: str, variable: str, value: str) -> None:
    """Refuse a value alone, so that the message can name its variable but never repeat a secret."""
    try:
        msgspec.convert({field: value}, Settings, strict=False)
    except msgspec.ValidationError as error:
        reason = str(error).split(" - at ")[0]
        raise ConfigError(f"{variable} is not valid: {reason[:1].lower()}{reason[1:]}") from None


def _kind(hint: Any) -> str:
    options = get_args(hint)
    if type(None) in options:
        return _kind(next(option for option in options if option is not type(None)))
    if options and hint.__class__.__name__ == "_AnnotatedAlias":
        return _kind(options[0])
    if options:
        return " or ".join(f"`{option}`" for option in options)
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[hint]
