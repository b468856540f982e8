"""The brokers that Tasker's workers can have, each with a place of its own for one module of tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from abc import ABC, abstractmethod
from urllib.parse import quote, urlsplit

import psutil
import psycopg
import pytest
from celery import Celery
from psycopg import conninfo
from redis import Redis
from redis.exceptions import RedisError

from tasker.messaging.transport.address import broker_url_of
from tests.e2e.brokers.tcp_proxy import TcpProxy
from tests.e2e.foreign.redis_server import REDIS_URL as SHARED_REDIS_URL
from tests.e2e.foreign.redis_server import close, close_leftovers


def _server(url: str) -> str:
    """The URL without what it names within the server."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


REDIS_URL = _server(SHARED_REDIS_URL)
RABBITMQ_URL = _server(os.environ.get("TASKER_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672"))

PREFIX = "tasker-test-"
OWNER = f"{PREFIX}owner"
"""Key of a Redis database that is somebody's: the id of the process whose it is."""


class Broker(ABC):
    """One broker.

    Args:
        database_url: Tasker's database.
    """

    needs_tasker = False
    """Whether a program with nothing but Celery has to import Tasker for the scheme of the URL."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self._proxy: TcpProxy | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The broker URL."""

    @property
    @abstractmethod
    def proxied_url(self) -> str:
        """The same behind ``proxy``."""

    @property
    @abstractmethod
    def result_backend(self) -> str:
        """A result backend that needs no other server."""

    @abstractmethod
    def make_proxy(self) -> TcpProxy:
        """A proxy before it."""

    @abstractmethod
    def close_connections(self) -> None:
        """Have the server end all connections of this place."""

    @property
    def proxy(self) -> TcpProxy:
        """The proxy before it."""
        self._proxy = self._proxy or self.make_proxy()
        return self._proxy

    def vanish(self) -> None:
        """Let the broker be gone."""
        self.proxy.vanish()

    def waiting(self, app: Celery, queue: str) -> int:
        """How many messages wait in a queue."""
        with app.connection_for_read() as connection:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._proxy is not None:
            self._proxy.vanish()


class Pgmq(Broker):
    """PGMQ in Tasker's own database: the default."""

    needs_tasker = True

    @property
    def url(self) -> str:
        return broker_url_of(self.database_url)

    @property
    def proxied_url(self) -> str:
        parameters = {**self._parameters, "host": "127.0.0.1", "port": str(self.proxy.port)}
        return broker_url_of(conninfo.make_conninfo("", **parameters))

    @property
    def result_backend(self) -> str:
        return f"db+{self.database_url.replace('postgresql:', 'postgresql+psycopg:')}"

    @property
    def _parameters(self) -> dict[str, str]:
        return {name: str(value) for name, value in conninfo.conninfo_to_dict(self.database_url).items()}

    def make_proxy(self) -> TcpProxy:
        host, port = self._parameters["host"], int(self._parameters.get("port", 5432))
        return TcpProxy(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port))

    def close_connections(self) -> None:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'tasker-broker' AND datname = current_database()"
            )


class RedisBroker(Broker):
    """A database of a Redis server."""

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        self._number, self._redis = _own_database()

    @property
    def url(self) -> str:
        return f"{REDIS_URL}/{self._number}"

    @property
    def proxied_url(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}/{self._number}"

    @property
    def result_backend(self) -> str:
        return self.url

    def make_proxy(self) -> TcpProxy:
        address = urlsplit(REDIS_URL)
        return TcpProxy((address.hostname or "127.0.0.1", address.port or 6379))

    def close_connections(self) -> None:
        for client in self._redis.client_list():
            if client["db"] == str(self._number) and int(client["id"]) != self._redis.client_id():
                with contextlib.suppress(Exception):  # it is gone
                    self._redis.client_kill_filter(_id=client["id"])

    def vanish(self) -> None:
        """As a server that keeps nothing on disk is started anew."""
        super().vanish()
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.flushdb().set(OWNER, os.getpid()).execute()

    def waiting(self, app: Celery, queue: str) -> int:
        """Those that wait, and those of all queues that were fetched and not acknowledged."""
        return int(self._redis.llen(queue)) + int(self._redis.hlen("unacked"))

    def close(self) -> None:
        super().close()
        close_leftovers()
        self._redis.flushdb()
        self._redis.close()


class RabbitMq(Broker):
    """A virtual host of a RabbitMQ server."""

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        self._address = urlsplit(RABBITMQ_URL)
        self._vhost = f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:12]}"
        _rabbitmq_or_skip()
        _rabbitmqctl("add_vhost", self._vhost)
        _rabbitmqctl("set_permissions", "-p", self._vhost, self._address.username or "guest", ".*", ".*", ".*")

    @property
    def url(self) -> str:
        return f"{RABBITMQ_URL}/{quote(self._vhost)}"

    @property
    def proxied_url(self) -> str:
        return f"amqp://{self._address.username}:{self._address.password}@127.0.0.1:{self.proxy.port}/{self._vhost}"

    @property
    def result_backend(self) -> str:
        return "rpc://"

    def make_proxy(self) -> TcpProxy:
        return TcpProxy((self._address.hostname or "127.0.0.1", self._address.port or 5672))

    def close_connections(self) -> None:
        _rabbitmqctl("close_all_connections", "-p", self._vhost, "a test")

    def queue_types(self, *names: str) -> set[str]:
        """Of which types these queues are."""
        lines = _rabbitmqctl("list_queues", "-p", self._vhost, "--no-table-headers", "name", "type").splitlines()
        types = dict(line.split("\t") for line in lines)
        return {types[name] for name in names}

    def close(self) -> None:
        super().close()
        _rabbitmqctl("delete_vhost", self._vhost)


BROKERS: dict[str, type[Broker]] = {"pgmq": Pgmq, "redis": RedisBroker, "rabbitmq": RabbitMq}


# -- Redis ------------------------------------------------------------------------------------------------------


def _own_database() -> tuple[int, Redis]:
    """The number of a database that is nobody's, and a client of it; skips where no Redis answers."""
    shared = urlsplit(SHARED_REDIS_URL).path.strip("/") or "0"
    for number in set(range(1, 16)) - {int(shared)}:
        redis = Redis.from_url(f"{REDIS_URL}/{number}")
        try:
            owner = redis.get(OWNER)
            if owner is not None and not psutil.pid_exists(int(owner)):
                redis.flushdb()
            if redis.dbsize() == 0 and redis.set(OWNER, os.getpid(), nx=True):
                return number, redis
        except RedisError as error:
            redis.close()
            pytest.skip(f"no Redis answers at {REDIS_URL} ({error}); TASKER_TEST_REDIS_URL names another")
        redis.close()
    pytest.fail(f"all databases of Redis at {REDIS_URL} are in use")


# -- RabbitMQ ---------------------------------------------------------------------------------------------------


def _rabbitmqctl(*arguments: str) -> str:
    return subprocess.run(
        ["rabbitmqctl", "-q", *arguments], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def _rabbitmq_or_skip() -> None:
    """Skips where no RabbitMQ answers, or nobody can make virtual hosts there; removes those of dead processes."""
    app = Celery("asking", broker=f"{RABBITMQ_URL}//", set_as_current=False)
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
    except Exception as error:
        pytest.skip(f"no RabbitMQ answers at {RABBITMQ_URL} ({error}); TASKER_TEST_RABBITMQ_URL names another")
    finally:
        close(app)
    if shutil.which("rabbitmqctl") is None:
        pytest.skip("a virtual host of RabbitMQ is needed, and rabbitmqctl, which makes it, is missing")
    for vhost in _rabbitmqctl("list_vhosts", "--no-table-headers").split():
        if vhost.startswith(PREFIX) and not psutil.pid_exists(int(vhost.removeprefix(PREFIX).partition("-")[0])):
            _rabbitmqctl("delete_vhost", vhost)
