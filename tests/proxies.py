"""Proxies before PostgreSQL that do what networks do to connections: they fall silent, or an answer is lost."""

from __future__ import annotations

import contextlib
import itertools
import socket
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from psycopg import conninfo


def nth(word: bytes, number: int) -> Callable[[bytes], bool]:
    """Picks the ``number``-th message that holds ``word``."""
    found = itertools.count(1)
    return lambda message: word in message and next(found) == number


def _nothing(_message: bytes) -> bool:
    return False


class _Pair:
    """A client's socket and the server's, and what became of the connection that they make."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.silent = False
        """Whether nothing comes through any more."""

        self.loses = False
        """Whether the server's next answer is lost."""


class _Proxy(ABC):
    """Forwards bytes both ways, from a unix socket of its own to the server.

    Args:
        url: the real server, on a unix socket or a port.
    """

    def __init__(self, url: str) -> None:
        self._parameters = conninfo.conninfo_to_dict(url)
        self._folder = tempfile.TemporaryDirectory(prefix="tp")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(Path(self._folder.name) / ".s.PGSQL.5432"))
        self._listener.listen()
        self._lock = threading.Lock()  # owns the next member
        self._pairs: list[_Pair] = []

    @property
    def url(self) -> str:
        """The proxy's address."""
        return conninfo.make_conninfo("", **{**self._parameters, "host": self._folder.name, "port": 5432})

    def close(self) -> None:
        """Cut all connections."""
        with self._lock:
            sockets = [self._listener, *(each for pair in self._pairs for each in (pair.client, pair.server))]
        for each in sockets:
            _end(each)
            each.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                pair = _Pair(client, self._connect())
                self._begin(pair)
                self._pairs.append(pair)
            threading.Thread(target=self._to_server, args=(pair,), daemon=True).start()
            threading.Thread(target=self._to_client, args=(pair,), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = str(self._parameters["host"]), self._parameters.get("port") or 5432
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection((host, int(port)))

    def _begin(self, pair: _Pair) -> None:  # noqa: B027 - most need nothing
        """Called with the lock held, before anything comes through."""

    @abstractmethod
    def _to_server(self, pair: _Pair) -> None:
        """Forward what the client says, until it ends."""

    @abstractmethod
    def _to_client(self, pair: _Pair) -> None:
        """Forward what the server says, until it ends."""


class SilentProxy(_Proxy):
    """Forwards until a connection falls silent: it stays open, and nothing comes through any more.

    So looks a network of which one half is dead: the server's host has vanished, or a device in between forgot the
    connection. What was sent before, or just then, may have been carried out.

    Args:
        url: the real server.
        silences: given a client's message, whether its connection falls silent with it; asked until it says yes.
        arrives: whether that message still reaches the server, which then carries it out.
        lingers: whether the server's side of a connection outlives the client's, as the server hears of no end.
    """

    def __init__(
        self, url: str, silences: Callable[[bytes], bool] = _nothing, *, arrives: bool = True, lingers: bool = False
    ) -> None:
        super().__init__(url)
        self._silences = silences
        self._arrives = arrives
        self._lingers = lingers
        self._dead = False
        self.silenced = 0
        """How many messages of those that ``silences`` picks have come."""

        self._start()

    def forget_connections(self) -> None:
        """Let all connections that there are fall silent; new ones work."""
        with self._lock:
            for pair in self._pairs:
                pair.silent = True

    def die(self) -> None:
        """Let all connections fall silent; new ones are silent, too."""
        self._dead = True
        self.forget_connections()

    def revive(self) -> None:
        """Let new connections work again."""
        self._dead = False

    def _begin(self, pair: _Pair) -> None:
        pair.silent = self._dead

    def _to_server(self, pair: _Pair) -> None:
        for data in _received(pair.client):
            if pair.silent:
                continue
            if not self.silenced and self._silences(data):
                pair.silent = True  # before the answer can come
                self.silenced += 1
                if not self._arrives:
                    continue
            with contextlib.suppress(OSError):
                pair.server.sendall(data)
        if not (pair.silent and self._lingers):
            _end(pair.server)

    def _to_client(self, pair: _Pair) -> None:
        for data in _received(pair.server):
            if not pair.silent:
                with contextlib.suppress(OSError):
                    pair.client.sendall(data)
        if not pair.silent:
            _end(pair.client)


class AnswerLosingProxy(_Proxy):
    """Forwards until an answer is lost: the statement is carried out, both sides are cut, its client hears nothing.

    Args:
        url: the real server.
        loses: given a client's message, whether the answer to it shall be lost; asked until it says yes.
    """

    def __init__(self, url: str, loses: Callable[[bytes], bool]) -> None:
        super().__init__(url)
        self._loses = loses
        self.lost = 0
        """How many answers of those that ``loses`` picks were lost."""

        self._start()

    def _to_server(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            for data in _received(pair.client):
                if not self.lost and self._loses(data):
                    self.lost += 1
                    pair.loses = True
                pair.server.sendall(data)
        _end(pair.client, pair.server)

    def _to_client(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            for data in _received(pair.server):
                if pair.loses:
                    # The server has answered, so it has committed.
                    break
                pair.client.sendall(data)
        _end(pair.client, pair.server)


def _received(from_: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while data := from_.recv(1 << 20):
            yield data


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
