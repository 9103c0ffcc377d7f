"""A real Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip


class Page:
    """One page. complaints: what it wrote to the console, and exceptions that nothing caught."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._sent = 0

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        self._sent += 1
        await self._socket.send_json({"id": self._sent, "method": method, "params": params})
        async with asyncio.timeout(20):
            while True:
                told = json.loads((await self._socket.receive()).data)
                if told.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                    self.complaints.append(json.dumps(told["params"]))
                if told.get("id") == self._sent:
                    result: dict[str, Any] = told["result"]
                    return result

    async def value(self, expression: str) -> Any:
        """What an expression is on the page."""
        found = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true on the page."""
        return await wait_until(lambda: self.value(expression), 20, f"never true: {expression}")

    async def open(self, url: str, ready: str) -> None:
        """Go there, and wait until an expression is true."""
        await self.ask("Page.navigate", url=url)
        await self.until(f"location.href.startsWith({json.dumps(url)}) && ({ready})")

    async def type(self, selector: str, text: str) -> None:
        """Focus an element and type, as a person would."""
        await self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        assert await self.value(f"document.activeElement.matches({json.dumps(selector)})"), f"{selector} is hidden"
        await self.ask("Input.insertText", text=text)


@contextlib.asynccontextmanager
async def page(folder: Path) -> AsyncIterator[Page]:
    """Run a browser until the block ends. folder: keeps its profile."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *OPTIONS, f"--user-data-dir={folder}", "--remote-debugging-port=0",
        "--window-size=1400,900", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        noted = folder / "DevToolsActivePort"
        port = await wait_until(lambda: noted.exists() and noted.read_text().split("\n")[0], 30)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as reply:
                address = next(one["webSocketDebuggerUrl"] for one in await reply.json() if one["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                one = Page(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await one.ask(f"{domain}.enable")
                yield one
    finally:
        process.terminate()
        await process.wait()
