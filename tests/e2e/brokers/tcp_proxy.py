"""A TCP proxy before a broker: its connections can be cut, and it can be as if no broker were there."""

from __future__ import annotations

import contextlib
import socket
import threading

Address = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""


class TcpProxy:
    """Forwards bytes both ways, on a port of 127.0.0.1 that stays the same.

    Args:
        target: the real server.
    """

    def __init__(self, target: Address) -> None:
        self._target = target
        self._lock = threading.Lock()  # owns the sockets
        self._sockets: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.appear()

    def appear(self) -> None:
        """Take connections, again."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def vanish(self) -> None:
        """Cut all connections, and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Closing alone would leave the thread in accept(), and with it the port open.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            for each in self._sockets:
                _end(each)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, server}
            if listener is not self._listener:  # it vanished meanwhile
                _end(client)
            both = threading.Barrier(2, action=lambda pair=(client, server): self._forget(*pair))  # type: ignore[misc]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_forward, args=(source, sink, both), daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, str):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            return server
        return socket.create_connection(self._target)

    def _forget(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets -= set(sockets)
            for each in sockets:
                each.close()


def _forward(source: socket.socket, sink: socket.socket, both: threading.Barrier) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _end(source)
    _end(sink)
    both.wait()


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
