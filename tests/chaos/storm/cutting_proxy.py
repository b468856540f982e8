"""A TCP proxy before PostgreSQL that cuts connections at any byte, or lets them fall silent, in a process of its own.

    python -m tests.chaos.storm.cutting_proxy /path/of/.s.PGSQL.5432 SEED

It prints its port, then the counts of its cuts whenever it is asked; it ends when its standard input does. On standard
input, one line each: ``cut SECONDS`` (connections live that long on average; 0: no cuts) and ``count``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]

PLACES = ("before the statement", "within the statement", "before the answer", "within the answer", "never answered")
"""Where a connection is cut, by what of the statement has come through. In the third and fourth the server has done it.
In the last the connection is not cut: it stays open, nothing comes through any more, and whether the server has done it
is chance."""

LINGER_SECONDS = 6.0
"""Longest time for which the server hears of no end of a connection that fell silent."""

_CHUNK = 1 << 16
_NOW = struct.pack("ii", 1, 0)


class Pair:
    """One client's connection and the server's, until one of them ends or both are cut."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = (client, server)
        self._place: str | None = None
        self._silent = False
        self.dies_at = proxy.lifetime()

    async def to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward statements; when the time has come, choose the place of the cut in the next one."""
        while data := await reader.read(_CHUNK):
            if self._silent:
                continue
            if self._place is None and asyncio.get_running_loop().time() >= self.dies_at:
                self._place = self._proxy.random.choice(PLACES)
                if self._place == PLACES[0]:
                    self.cut()
                    return
                if self._place == PLACES[1]:
                    writer.write(data[: self._proxy.random.randrange(len(data))])
                    await writer.drain()
                    self.cut()
                    return
                if self._place == PLACES[4]:
                    self._silent = True
                    self._proxy.cuts[self._place] += 1
                    if self._proxy.random.random() < 0.5:
                        continue
            writer.write(data)
            await writer.drain()
        if self._silent:
            self._writers[0].close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._proxy.ended.wait(), self._proxy.random.uniform(0, LINGER_SECONDS))

    async def to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward answers, but for the one in which the connection is cut."""
        while data := await reader.read(_CHUNK):
            if self._silent:
                continue
            if self._place == PLACES[2]:
                self.cut()
                return
            if self._place == PLACES[3]:
                writer.write(data[: self._proxy.random.randrange(len(data))])
                await writer.drain()
                self.cut()
                return
            writer.write(data)
            await writer.drain()
        if self._silent:
            await asyncio.Event().wait()  # the client does not hear of the end either

    def cut(self) -> None:
        """Both ends, without a good-bye."""
        assert self._place is not None
        self._proxy.cuts[self._place] += 1
        for writer in self._writers:
            found = writer.get_extra_info("socket")
            if found.family != socket.AF_UNIX:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW)
            writer.transport.abort()

    def end(self) -> None:
        """One end has closed: so does the other."""
        for writer in self._writers:
            writer.close()


class Proxy:
    """Accepts on a port of 127.0.0.1 and forwards to a unix socket."""

    def __init__(self, server: str, seed: str) -> None:
        self._server = server
        self.random = random.Random(seed)
        self.mean_seconds = 0.0
        self.cuts: Counter[str] = Counter()
        self._pairs: set[Pair] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self.ended = asyncio.Event()

    def lifetime(self) -> float:
        """When a connection of now dies, by the loop's clock."""
        if not self.mean_seconds:
            return float("inf")
        return asyncio.get_running_loop().time() + self.random.expovariate(1 / self.mean_seconds)

    def set_mean(self, seconds: float) -> None:
        """Let connections, those that are there included, live that long on average; 0: for ever."""
        self.mean_seconds = seconds
        for pair in self._pairs:
            pair.dies_at = self.lifetime()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        serving = asyncio.current_task()
        assert serving is not None
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._server)
        except OSError:
            writer.transport.abort()  # there is no server now
            return
        pair = Pair(self, writer, to_server)
        self._pairs.add(pair)
        ways = [
            asyncio.create_task(pair.to_server(reader, to_server)),
            asyncio.create_task(pair.to_client(from_server, writer)),
        ]
        try:
            # Whichever way ends, be it by an error, ends the other: no connection may be left that nobody answers.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pairs.discard(pair)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            pair.end()

    async def run(self) -> None:
        """Serve until standard input ends."""
        server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        orders = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        while order := (await orders.readline()).decode().split():
            if order[0] == "cut":
                self.set_mean(float(order[1]))
            print(json.dumps(self.cuts), flush=True)
        server.close()
        self.ended.set()
        for pair in self._pairs:
            pair.end()
        if self._serving:
            await asyncio.wait(self._serving)


class CuttingProxy:
    """The proxy's process, as the storm sees it.

    Args:
        server_socket: PostgreSQL's.
        seed: of its choices.
    """

    def __init__(self, server_socket: Path, seed: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.storm.cutting_proxy", str(server_socket), seed],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def cut(self, mean_seconds: float) -> Counter[str]:
        """Let connections live ``mean_seconds`` on average (0: for ever); the cuts so far, by place."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"cut {mean_seconds}\n")
        self._process.stdin.flush()
        return Counter(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


if __name__ == "__main__":
    asyncio.run(Proxy(sys.argv[1], sys.argv[2]).run())
