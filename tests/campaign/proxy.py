"""A TCP proxy that breaks what passes through it, in the ways that networks do."""

from __future__ import annotations

import asyncio
import random
import socket
import struct

# delay: each piece comes late; trickle: a few bytes at a time; drop_request: closed before anything is passed on;
# drop_reply: the work is done, its answer is lost; reset: RST in the middle; half_close: one side says it is done;
# hang: nothing passes and nobody is told.
MODES = ("delay", "trickle", "drop_request", "drop_reply", "reset", "half_close", "hang")
_RESET = struct.pack("ii", 1, 0)
_TRICKLED_BYTES = 200


class FaultProxy:
    """Passes connections on to a server, and while a mode is set breaks a share of what passes.

    share: of the pieces that pass, how many are broken.
    """

    def __init__(self, host: str, port: int, rng: random.Random) -> None:
        self._target = (host, port)
        self._rng = rng
        self._server: asyncio.Server | None = None
        self._ways: set[asyncio.Task[None]] = set()
        self.mode = ""
        self.share = 0.0
        self.port = 0
        self.broken = 0

    async def start(self, port: int = 0) -> None:
        """Listen on a port of 127.0.0.1; `port` says on which afterwards."""
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        for way in list(self._ways):
            way.cancel()
        await asyncio.gather(*self._ways, return_exceptions=True)

    def break_by(self, mode: str, share: float) -> None:
        """Break this share of what passes from now on; '' heals."""
        self.mode, self.share = mode, share

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._ways.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            back, upstream = await asyncio.open_connection(*self._target)
            ways = (
                asyncio.ensure_future(self._way(reader, upstream, writer, request=True)),
                asyncio.ensure_future(self._way(back, writer, upstream, request=False)),
            )
            try:
                # An end on one side is passed on; the other may still have something to say.
                await asyncio.gather(*ways)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, _Cut, asyncio.CancelledError):  # the last: `stop`
            pass
        finally:
            self._ways.discard(task)
            for one in (writer, upstream):
                if one is not None:
                    one.close()

    async def _way(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter, *, request: bool
    ) -> None:
        while piece := await reader.read(1 << 16):
            if writer.is_closing():
                raise _Cut
            if self.mode and self._rng.random() < self.share:
                self.broken += 1
                if not await self._break(piece, writer, other, request=request):
                    return
            else:
                writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _break(
        self, piece: bytes, writer: asyncio.StreamWriter, other: asyncio.StreamWriter, *, request: bool
    ) -> bool:
        """Pass a piece on, badly. False: nothing more goes this way."""
        mode = self.mode
        if mode == "trickle":
            slow, rest = piece[:_TRICKLED_BYTES], piece[_TRICKLED_BYTES:]
            for at in range(0, len(slow), 3):
                writer.write(slow[at : at + 3])
                await writer.drain()
                await asyncio.sleep(0.001)
            writer.write(rest)
        elif (mode == "drop_request" and request) or (mode == "drop_reply" and not request):
            raise _Cut
        elif mode == "reset":
            writer.write(piece[: self._rng.randrange(len(piece))])
            for one in (writer, other):
                one.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise _Cut
        elif mode == "half_close":
            writer.write(piece)
            writer.write_eof()
            return False
        elif mode == "hang":
            while self.mode == "hang":
                await asyncio.sleep(0.05)
            writer.write(piece)
        else:
            if mode == "delay":
                await asyncio.sleep(self._rng.uniform(0.01, 0.4))
            writer.write(piece)
        return True


class _Cut(Exception):
    """This connection ends here."""
