"""Imports run downwards only: wiring -> api -> services -> store -> model."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_MODEL = {"errors", "retries", "tasks", "config", "identity", "queue_settings"}
_SERVICES = {
    "task_manager", "attendance", "ends", "pool", "metrics", "redis_watch", "authentication", "jwts", "limits",
}  # fmt: skip
_WIRING = {
    "__init__", "__main__", "app", "background", "server", "serving", "processes", "protocol_guard", "exchange",
    "reply_writer", "connection", "embedded", "data_directory", "marker", "redis_process", "redis_binary",
    "redis_words", "redis_connections", "cli", "logs", "commands",
}  # fmt: skip
_RANKS = dict.fromkeys(_MODEL, 0) | {"store": 1} | dict.fromkeys(_SERVICES, 2) | {"api": 3}
_RANKS |= dict.fromkeys(_WIRING, 4)


def modules(package: str) -> list[Path]:
    return sorted((_ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, in full, also inside functions."""
    folder = path.relative_to(_ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(folder[: len(folder) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(module: str) -> str | None:
    """The layer's member that a module of the gateway belongs to. None: it is none of the gateway."""
    parts = module.split(".")
    return parts[1] if parts[0] == "gateway" and len(parts) > 1 else None


every_gateway_file = pytest.mark.parametrize(
    "path", [pytest.param(path, id=str(path.relative_to(_ROOT))) for path in modules("gateway")]
)


def test_every_module_has_a_layer() -> None:
    found = {path.relative_to(_ROOT / "gateway").parts[0].removesuffix(".py") for path in modules("gateway")}
    assert found <= set(_RANKS)
    assert set(_RANKS) - found <= {"commands"}


@every_gateway_file
def test_imports_run_downwards_only(path: Path) -> None:
    own = path.relative_to(_ROOT / "gateway").parts[0].removesuffix(".py")
    for module in imports(path):
        part = part_of(module)
        if part in _RANKS:
            assert _RANKS[part] <= _RANKS[own], f"{own} imports {module}"


@every_gateway_file
def test_the_api_sees_nothing_of_the_wiring_and_the_model_nothing_but_itself(path: Path) -> None:
    own = path.relative_to(_ROOT / "gateway").parts[0].removesuffix(".py")
    if own in _MODEL:
        outside = {module.split(".")[0] for module in imports(path)}
        assert outside.isdisjoint({"asyncio", "redis", "starlette", "uvicorn", "socket"})


@every_gateway_file
def test_redis_is_imported_by_the_store_only(path: Path) -> None:
    if "store" not in path.relative_to(_ROOT).parts:
        assert [module for module in imports(path) if module.split(".")[0] in ("redis", "hiredis", "arq")] == []


@every_gateway_file
def test_keys_of_redis_are_spelled_in_one_file_only(path: Path) -> None:
    if path != _ROOT / "gateway" / "store" / "keys.py":
        found = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert [text for text in found if str(text).removeprefix("b'").startswith(("tg:", "arq:"))] == []


@every_gateway_file
def test_starlette_and_uvicorn_stay_out_of_the_store_and_below(path: Path) -> None:
    own = path.relative_to(_ROOT / "gateway").parts[0].removesuffix(".py")
    if _RANKS[own] <= 2:
        assert [module for module in imports(path) if module.split(".")[0] in ("starlette", "uvicorn")] == []


def test_the_gateway_and_the_sdk_never_import_each_other() -> None:
    for package, other in (("gateway", "workers_sdk"), ("workers_sdk", "gateway")):
        for path in modules(package):
            assert [module for module in imports(path) if module.split(".")[0] == other] == [], path


def test_no_module_is_called_after_nothing_in_particular() -> None:
    for package in ("gateway", "workers_sdk"):
        for path in modules(package):
            assert path.stem not in {"utils", "util", "common", "helpers", "misc", "base"}
