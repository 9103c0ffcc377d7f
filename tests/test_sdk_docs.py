"""Every Python block of docs/sdk.md runs as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.harness import LiveGateway

_ROOT = Path(__file__).parents[1]


async def test_the_programs_of_the_page_run(gateway: LiveGateway, tmp_path: Path) -> None:
    text = (_ROOT / "docs" / "sdk.md").read_text().replace("http://127.0.0.1:8080", gateway.url)
    worker, client, blocking, testing = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "worker.py").write_text(worker)
    env = {**os.environ, "PYTHONPATH": str(_ROOT)}

    async def run(program: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=40,
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    assert await run(testing) == ""
    command = re.search(r"python (-m workers_sdk \w+) ", text)
    assert command is not None
    running = subprocess.Popen([sys.executable, *command[1].split()], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    try:
        assert await run(client) == "completed {'width': 320}\n"
        assert await run(blocking) == "['completed', 'completed']\n"
    finally:
        running.terminate()
        assert await asyncio.to_thread(running.wait, 20) == 0
