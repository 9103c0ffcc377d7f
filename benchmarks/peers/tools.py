"""Installs the contenders: each in a directory of its own, by its language's package manager, always the latest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.http_server import ROOT
from benchmarks.peers.contenders import Contender

_PROGRAMS = Path(__file__).resolve().parent / "programs"
# Only these reach a contender: a setting that happens to stand in the caller's environment would change the figures.
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


class InstallFailed(Exception):
    """A contender could not be installed. The message tells why."""


class Tools:
    """The installed contenders. directory: kept from run to run, so that only the first one downloads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._versions: dict[str, dict[str, str]] = {}

    def install(self, contender: Contender) -> dict[str, str]:
        """Install what it needs, once. Returns its packages' versions. Raises InstallFailed."""
        home = self._home(contender)
        if home.name not in self._versions:
            home.mkdir(parents=True, exist_ok=True)
            install = {"python": _install_python, "node": _install_node, "go": _install_go}[contender.language]
            self._versions[home.name] = install(home, contender)
        found = self._versions[home.name]
        return {name: found[name] for name in found if name == "runtime" or name in _names(contender)}

    def client(self, contender: Contender) -> list[str]:
        """The command that enqueues; programs/load.py tells its arguments."""
        home = self._home(contender)
        return {
            "python": [str(home / "bin/python"), "-m", f"benchmarks.peers.programs.{contender.program}"],
            "node": ["node", str(home / "main.js")],
            "go": [str(home / "peers"), contender.program],
        }[contender.language]

    def worker(self, contender: Contender, socket: Path | None) -> list[str]:
        """The command of its worker."""
        if contender.worker:
            return [word.format(bin=self._home(contender) / "bin", socket=socket) for word in contender.worker]
        return [*self.client(contender), "worker"]

    def environment(self, contender: Contender, socket: Path | None, record: Path, queue: str) -> dict[str, str]:
        """What its programs read from their environment."""
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        own = {
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PEER_SOCKET": str(socket or ""),
            "PEER_RECORD": str(record),
            "PEER_CONCURRENCY": str(contender.concurrency),
            "PEER_URL": contender.url,
            "PEER_QUEUE": queue,
        }
        return kept | own | dict(contender.settings)

    def _home(self, contender: Contender) -> Path:
        return self._directory / ("go" if contender.language == "go" else contender.program)


def _install_python(home: Path, contender: Contender) -> dict[str, str]:
    python = str(home / "bin/python")
    if not Path(python).exists():
        _run([sys.executable, "-m", "venv", str(home)])
    _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", *contender.packages])
    listing = json.loads(_run([python, "-m", "pip", "list", "--disable-pip-version-check", "--format", "json"]))
    return {row["name"]: row["version"] for row in listing} | {"runtime": f"Python {sys.version.split()[0]}"}


def _install_node(home: Path, contender: Contender) -> dict[str, str]:
    for name in ("package.json", "main.js"):
        shutil.copy(_PROGRAMS / contender.program / name, home / name)
    _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel", "error"], home)
    _run(["npm", "update", "--no-audit", "--no-fund", "--loglevel", "error"], home)
    versions = {
        name: json.loads((home / f"node_modules/{name}/package.json").read_text()) for name in contender.packages
    }
    runtime = {"runtime": f"Node {_run(['node', '--version']).strip().removeprefix('v')}"}
    return {name: found["version"] for name, found in versions.items()} | runtime


def _install_go(home: Path, contender: Contender) -> dict[str, str]:
    _run(["go", "build", "-o", str(home / "peers"), "."], _PROGRAMS / "go")
    lines = _run(["go", "list", "-m", "all"], _PROGRAMS / "go").splitlines()
    versions = dict(line.split()[:2] for line in lines if len(line.split()) >= 2)
    return versions | {"runtime": f"Go {_run(['go', 'env', 'GOVERSION']).strip().removeprefix('go')}"}


def _names(contender: Contender) -> set[str]:
    return {package.partition("[")[0] for package in contender.packages} | {"redis", "coredis", "kombu", "hiredis"}


def _run(command: Sequence[str], directory: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise InstallFailed(f"{command[0]} is not on this machine") from error
    if done.returncode != 0:
        raise InstallFailed(f"{' '.join(command[:4])}: {done.stderr.strip()[-400:]}")
    return done.stdout
