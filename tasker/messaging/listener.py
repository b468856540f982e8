"""Wakes whoever waits for a queue or a task: one LISTEN connection and one thread for all waiters of a process.

The server's cost of a NOTIFY grows with the number of connections that listen, so a process has one. A wake is a hint:
it says "look", never what there is. What may have been missed (before the first LISTEN, while the connection was down)
is made up for by waking everybody concerned once more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

import psycopg
from psycopg import sql

from tasker.messaging.connecting import ANSWER_TIMEOUT_SECONDS, abandon_socket, connect

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 5.0


class Wakeable(Protocol):
    """What can be woken, from any thread and at any time."""

    def wake(self) -> None:
        """End a wait, the present or the next one. Must neither block nor raise."""
        ...


class Subscription:
    """One waiter's interest in one channel. Close it when the waiting is over."""

    def __init__(self, ear: _Ear, channel: str, wake: Callable[[], object]) -> None:
        self._ear = ear
        self.channel = channel
        self.wake = wake

    def close(self) -> None:
        """Be woken no longer. Idempotent; a wake under way may still come."""
        self._ear.remove(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Listener:
    """Where waiters subscribe. All listeners of a process at one database share one connection and one thread.

    These come with the first subscription, and end when a listener is closed and nobody else is subscribed. A forked
    child starts with none: neither thread nor connection nor subscriptions are its own, and it connects when it
    subscribes.

    Args:
        dsn: connection string for libpq. The connection needs a session: LISTEN does not work through a pooler that
            shares connections between transactions.
        name: the application's name in ``pg_stat_activity``.
        answer_timeout_seconds: after so much silence the server is asked whether it is there, and if it says nothing
            for as long again, the connection counts as lost. Of several listeners at one database the first decides.
    """

    def __init__(
        self, dsn: str, *, name: str = "tasker-listener", answer_timeout_seconds: float = ANSWER_TIMEOUT_SECONDS
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._answer_timeout_seconds = answer_timeout_seconds
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()

    @property
    def connected(self) -> bool:
        """Whether notifications are being received right now."""
        ear = _ears.get((self._dsn, self._name))
        return ear is not None and ear.connected

    def subscribe(self, channel: str, wake: int | Wakeable | Callable[[], object]) -> Subscription:
        """Wake a waiter on each notification of ``channel``, and at once when listening has (again) begun.

        The first wake therefore comes without any notification: what happened before is seen by looking then. This call
        does not wait for the server.

        Args:
            channel: as ``channel_name`` and ``mail_channel_name`` make them, or a waiter's own.
            wake: a file descriptor to which one byte is written (non-blocking; full counts as written), an object with
                ``wake()``, or something to call. It is called on the listener's thread, and must be quick.
        """
        ear = _ear_at(self._dsn, self._name, self._answer_timeout_seconds)
        subscription = ear.add(channel, _caller(wake))
        self._subscriptions.add(subscription)
        return subscription

    def close(self, timeout_seconds: float = 1.0) -> None:
        """Close this listener's subscriptions; if they were the last, wait up to ``timeout_seconds`` for the connection
        to end.
        """
        for subscription in tuple(self._subscriptions):
            subscription.close()
        ear = _ears.get((self._dsn, self._name))
        if ear is not None:
            ear.stop_unless_needed(timeout_seconds)


class _Ear:
    """The subscriptions of a process at one database, and the thread that serves them."""

    def __init__(self, dsn: str, name: str, answer_timeout_seconds: float) -> None:
        self.dsn = dsn
        self.name = name
        self.answer_timeout_seconds = answer_timeout_seconds
        self._lock = threading.Lock()
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._thread: _ListenerThread | None = None

    @property
    def connected(self) -> bool:
        thread = self._thread
        return thread is not None and thread.connected.is_set()

    def add(self, channel: str, wake: Callable[[], object]) -> Subscription:
        subscription = Subscription(self, channel, wake)
        with self._lock:
            self._subscriptions.setdefault(channel, []).append(subscription)
            thread = self._thread
            if thread is None:
                thread = self._thread = _ListenerThread(self)
            thread.look(subscription)
            if thread.ident is None:
                thread.start()
        return subscription

    def remove(self, subscription: Subscription) -> None:
        with self._lock:
            waiters = self._subscriptions.get(subscription.channel)
            if waiters is None or subscription not in waiters:
                return
            waiters.remove(subscription)
            if waiters:
                return
            del self._subscriptions[subscription.channel]
            thread = self._thread
        if thread is not None:
            thread.look()

    def stop_unless_needed(self, timeout_seconds: float) -> None:
        with self._lock:
            if self._subscriptions:
                return
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(timeout_seconds)

    def channels(self) -> set[str]:
        with self._lock:
            return set(self._subscriptions)

    def waiters(self, channels: set[str]) -> list[Subscription]:
        with self._lock:
            return [waiter for channel in channels for waiter in self._subscriptions.get(channel, ())]

    def abandon(self) -> None:
        """Let go, in a forked child, of what is the parent's; subscriptions from before may still be closed."""
        self._lock = threading.Lock()
        self._subscriptions = {}
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.abandon()


class _ListenerThread(threading.Thread):
    """Owns the connection. Others tell it by its pipe to look at what is subscribed now."""

    def __init__(self, ear: _Ear) -> None:
        super().__init__(name="tasker-listener", daemon=True)
        self._ear = ear
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._new: list[Subscription] = []
        self._new_lock = threading.Lock()
        self._stopping = False
        self._ended = threading.Event()
        self.connected = threading.Event()
        self.connection: psycopg.Connection[Any] | None = None

    # -- for others ---------------------------------------------------------------------------------------------------

    def look(self, subscription: Subscription | None = None) -> None:
        """Have subscriptions compared with what is listened to; a new one is woken when it is listened to."""
        with self._new_lock:
            if subscription is not None:
                self._new.append(subscription)
            if not self._ended.is_set():
                with contextlib.suppress(BlockingIOError):
                    os.write(self._writer, b"\0")

    def stop(self, timeout_seconds: float) -> None:
        """End the thread."""
        self._stopping = True
        self.look()
        if threading.current_thread() is not self:
            self._ended.wait(timeout_seconds)

    def abandon(self) -> None:
        """Let go, in a forked child, of what is the parent's."""
        os.close(self._reader)
        os.close(self._writer)
        if self.connection is not None:
            abandon_socket(self.connection)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        delay = FIRST_RETRY_SECONDS
        try:
            while not self._stopping:
                try:
                    self._listen_while_connected()
                except psycopg.Error as error:
                    if self.connected.is_set():
                        delay = FIRST_RETRY_SECONDS
                    self._disconnect()
                    if self._stopping:
                        return
                    logger.warning("the listening connection is down, next attempt in %.1f s: %s", delay, error)
                    # Spread, so that the processes of a fleet do not come back in step.
                    self._pause(delay * random.uniform(0.8, 1.2))
                    delay = min(delay * 2, LAST_RETRY_SECONDS)
        finally:
            self._disconnect()
            with self._new_lock:
                self._ended.set()
                os.close(self._reader)
                os.close(self._writer)

    def _listen_while_connected(self) -> None:
        patience = self._ear.answer_timeout_seconds
        self.connection = connection = connect(self._ear.dsn, name=self._ear.name, answer_timeout_seconds=patience)
        listening: set[str] = set()
        first = True
        while not self._stopping:
            with self._new_lock:
                new, self._new = self._new, []
            wanted = self._ear.channels()
            for channel in wanted - listening:
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            for channel in listening - wanted:
                connection.execute(sql.SQL("UNLISTEN {}").format(sql.Identifier(channel)))
            listening = wanted
            if first:
                self.connected.set()
                first = False
                self._wake(self._ear.waiters(wanted))
            else:
                self._wake(new)
            heard = {notify.channel for notify in connection.notifies(timeout=0)}
            self._wake(self._ear.waiters(heard))
            if not heard and not self._wait(patience, connection.fileno()):
                # Nobody may have had anything to say; or nothing of it arrives any more, and waiting would not tell.
                connection.execute("SELECT 1")

    def _pause(self, seconds: float) -> None:
        """Wait for the next attempt. New subscriptions do not hurry it."""
        until = monotonic() + seconds
        while not self._stopping and (left := until - monotonic()) > 0:
            self._wait(left)

    def _wait(self, seconds: float, *descriptors: int) -> bool:
        """Wait until others want something, something arrives (true), or the time is over (false)."""
        poller = select.poll()
        for descriptor in (self._reader, *descriptors):
            poller.register(descriptor, select.POLLIN)
        found = poller.poll(seconds * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)
        return bool(found)

    def _wake(self, waiters: list[Subscription]) -> None:
        for waiter in waiters:
            try:
                waiter.wake()
            except Exception:
                logger.exception("a waiter for %s could not be woken", waiter.channel)

    def _disconnect(self) -> None:
        self.connected.clear()
        connection, self.connection = self.connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


def _caller(wake: int | Wakeable | Callable[[], object]) -> Callable[[], object]:
    if isinstance(wake, int):
        return _ByteWriter(wake)
    return wake if callable(wake) else wake.wake


class _ByteWriter:
    """Writes one byte to a descriptor; one that is full or closed needs none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    def __call__(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, b"\0")


_ears: dict[tuple[str, str], _Ear] = {}
_ears_lock = threading.Lock()


def _ear_at(dsn: str, name: str, answer_timeout_seconds: float) -> _Ear:
    with _ears_lock:
        return _ears.setdefault((dsn, name), _Ear(dsn, name, answer_timeout_seconds))


def _forget_all() -> None:
    global _ears_lock
    # Another thread of the parent may have held it at the moment of the fork.
    _ears_lock = threading.Lock()
    for ear in _ears.values():
        ear.abandon()
    _ears.clear()


os.register_at_fork(after_in_child=_forget_all)
