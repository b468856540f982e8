"""A proxy before PostgreSQL that can lose an answer: the statement is carried out, and its client never hears of it."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from psycopg import conninfo


class AnswerLosingProxy:
    """Forwards bytes both ways, until an answer to a request that ``loses`` picks arrives: then both sides are cut.

    Args:
        url: the real server, on a unix socket or a port.
        loses: given a client's message, whether the answer to it shall be lost; asked until it says yes.
    """

    def __init__(self, url: str, loses: Callable[[bytes], bool]) -> None:
        self._parameters = conninfo.conninfo_to_dict(url)
        self._loses = loses
        self._folder = tempfile.TemporaryDirectory(prefix="tp")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(Path(self._folder.name) / ".s.PGSQL.5432"))
        self._listener.listen()
        self._sockets: list[socket.socket] = []
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The proxy's address."""
        return conninfo.make_conninfo("", **{**self._parameters, "host": self._folder.name, "port": 5432})

    def close(self) -> None:
        """Cut all connections."""
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self._connect()
            self._sockets += [client, server]
            armed = threading.Event()
            threading.Thread(target=self._to_server, args=(client, server, armed), daemon=True).start()
            threading.Thread(target=self._to_client, args=(server, client, armed), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = str(self._parameters["host"]), self._parameters.get("port") or 5432
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection((host, int(port)))

    def _to_server(self, client: socket.socket, server: socket.socket, armed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 20):
                if not self.lost and self._loses(data):
                    self.lost += 1
                    armed.set()
                server.sendall(data)
        _cut(client, server)

    def _to_client(self, server: socket.socket, client: socket.socket, armed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                if armed.is_set():
                    # The server has answered, so it has committed.
                    break
                client.sendall(data)
        _cut(client, server)


def _cut(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
