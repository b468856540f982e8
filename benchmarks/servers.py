"""The servers of a run: one durable PostgreSQL, and Redis and RabbitMQ where something needs them."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from psycopg import sql

from tasker.database.embedded import EmbeddedServer

LOCAL = ("127.0.0.1", "localhost", "::1", "")
SETTINGS = {"log_line_prefix": "%d "}
LOGGED = re.compile(rb"^(\S+) LOG:  (?:statement|execute )", re.MULTILINE)
SHOWN = """
    SELECT name, setting || coalesce(' ' || unit, '') FROM pg_settings
    WHERE (setting IS DISTINCT FROM boot_val AND context <> 'internal' AND name !~ '_file$|director|^lc_|^log_'
           AND name NOT IN ('application_name', 'cluster_name', 'transaction_isolation'))
       OR name IN ('server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method')
    ORDER BY name
"""


class PostgreSQL:
    """The server under all engines that use one; every session gets an empty database of it.

    Args:
        url: one of its databases, in which one may create and drop databases.
        log: its log, if it is the embedded server's.
    """

    def __init__(self, url: str, log: Path | None = None) -> None:
        self._url = url
        self._log = log
        self._connection = psycopg.connect(url, autocommit=True)
        self._number = 0

    def close(self) -> None:
        """Close the connection that measures."""
        self._connection.close()

    def create(self) -> str:
        """A new, empty database; its URL. What was written before is on disk by then."""
        self._number += 1
        name = f"tasker_bench_{self._number}"
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        self._execute("CREATE DATABASE {} TEMPLATE template0", name)
        self._connection.execute("CHECKPOINT")
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))

    def drop(self, url: str) -> None:
        """Drop a database made here, whoever is connected."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name_of(url))

    def size(self, url: str) -> int:
        """Bytes of a database on disk."""
        row = self._connection.execute("SELECT pg_database_size(%s)", [name_of(url)]).fetchone()
        assert row is not None
        return int(row[0])

    def written(self) -> tuple[int, int]:
        """Transactions that wrote, and bytes of WAL, of the whole server since its beginning. Exact at once.

        Subtransactions that wrote count, too. (``pg_stat_database`` knows of transactions up to ten seconds late.)
        """
        row = self._connection.execute(
            "SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint),"
            " CAST(pg_current_wal_insert_lsn() - CAST('0/0' AS pg_lsn) AS bigint)"
        ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def rows_written(self, url: str) -> int:
        """Rows inserted, updated and deleted in a database, once all who wrote there have left."""
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(
                "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables"
            ).fetchone()
        assert row is not None
        return int(row[0])

    @contextlib.contextmanager
    def counting_statements(self) -> Iterator[Counter[str]]:
        """Count the statements sent to the server until the end of the block, by having it log them.

        Yields what holds the counts afterwards, by database; it stays empty where the log is not within reach.
        """
        found: Counter[str] = Counter()
        if self._log is None:
            yield found
            return
        self._log_statements("all")
        begin = self._log.stat().st_size
        try:
            yield found
        finally:
            end = self._log.stat().st_size
            self._log_statements("none")
            with self._log.open("rb") as log:
                log.seek(begin)
                found.update(name.decode() for name in LOGGED.findall(log.read(end - begin)))
            del found[self._connection.info.dbname]  # ours

    def postmaster(self) -> int | None:
        """The process id of the server's first process, if it can be seen from here."""
        row = self._connection.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        try:
            backend = psutil.Process(row[0])
            parent = backend.parent()
            if "postgres" in backend.name() and parent is not None and "postgres" in parent.name():
                return int(parent.pid)
        except psutil.Error:
            pass
        return None

    def settings(self) -> dict[str, str]:
        """The version and every setting that is not the default, and those that durability hangs on in any case."""
        rows = self._connection.execute(SHOWN).fetchall()
        return {str(name): str(setting) for name, setting in rows}

    def _log_statements(self, which: str) -> None:
        self._connection.execute(sql.SQL("ALTER SYSTEM SET log_statement = {}").format(sql.Literal(which)))
        before = self._value("SELECT pg_conf_load_time()")
        self._connection.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 10
        while self._value("SELECT pg_conf_load_time()") == before or self._value("SHOW log_statement") != which:
            if time.monotonic() > deadline:
                raise RuntimeError("PostgreSQL does not reload its configuration")
            time.sleep(0.01)

    def _value(self, query: str) -> Any:
        row = self._connection.execute(query).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return row[0]

    def _execute(self, statement: str, name: str) -> None:
        self._connection.execute(sql.SQL(statement).format(sql.Identifier(name)))  # type: ignore[arg-type]


def end_in_order() -> None:
    """Have SIGTERM end this program as Ctrl-C does: servers and engines that it started are ended, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def name_of(url: str) -> str:
    """The database that an URL names."""
    return urlsplit(url).path.lstrip("/")


@dataclass
class Servers:
    """What a run has.

    Attributes:
        postgresql: the server.
        redis_url: Redis, if it answers.
        amqp_url: RabbitMQ, if it answers.
        processes: each server's first process, by name, where it can be seen: its CPU is counted.
        about: each server's version and settings.
        missing: what is not there, by name, with the reason.
    """

    postgresql: PostgreSQL
    redis_url: str = ""
    amqp_url: str = ""
    processes: dict[str, int] = field(default_factory=dict)
    about: dict[str, Mapping[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def servers(
    *,
    database_url: str | None,
    redis_url: str = "",
    amqp_url: str = "",
    redis: bool = True,
    rabbitmq: bool = True,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Servers]:
    """Find or start the servers of a run.

    Args:
        database_url: a PostgreSQL that exists; None starts the embedded one in a folder of its own.
        redis_url: where Redis may be; one is started if it does not answer.
        amqp_url: where RabbitMQ may be.
        redis: whether it is needed.
        rabbitmq: whether it is needed.
        settings: more settings of the embedded server.
    """
    with contextlib.ExitStack() as stack:
        log = None
        if database_url is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tasker-bench-", dir="/tmp"))
            embedded = stack.enter_context(
                EmbeddedServer.start(Path(folder), settings={**SETTINGS, **(settings or {})})
            )
            database_url, log = embedded.database_url("postgres"), embedded.log_path
        found = Servers(PostgreSQL(database_url, log))
        stack.callback(found.postgresql.close)
        found.about["PostgreSQL"] = found.postgresql.settings()
        _see(found, "PostgreSQL", found.postgresql.postmaster())
        if redis:
            _find_redis(found, redis_url, stack)
        if rabbitmq:
            _find_rabbitmq(found, amqp_url)
        yield found


def _find_redis(found: Servers, url: str, stack: contextlib.ExitStack) -> None:
    from redis import Redis
    from redis.exceptions import RedisError

    def look(at: str) -> None:
        with Redis.from_url(at) as client:
            info = client.info()
            wanted = ("appendonly", "appendfsync", "save", "maxmemory")
            about = {name: str(client.config_get(name).get(name)) for name in wanted}
            found.about["Redis"] = {"version": info["redis_version"], **about}
            _see(found, "Redis", info["process_id"] if urlsplit(at).hostname in LOCAL else None)
            found.redis_url = at

    try:
        look(url)
        return
    except RedisError as error:
        reason = str(error)
    program = shutil.which("redis-server")
    if program is None:
        found.missing["Redis"] = f"{url} does not answer ({reason}), and redis-server is not installed"
        return
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tasker-bench-redis-"))
    port = urlsplit(url).port or 6379
    process = subprocess.Popen(
        [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def end() -> None:
        process.terminate()
        process.wait(30)

    stack.callback(end)
    deadline = time.monotonic() + 30
    while True:
        try:
            look(f"redis://127.0.0.1:{port}/0")
            return
        except RedisError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                found.missing["Redis"] = f"redis-server was started on port {port} and does not answer: {error}"
                return
            time.sleep(0.05)


def _find_rabbitmq(found: Servers, url: str) -> None:
    from kombu import Connection
    from kombu.exceptions import OperationalError

    try:
        with Connection(url, connect_timeout=5) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=10)
            about = connection.connection.server_properties
            found.about["RabbitMQ"] = {"version": str(about.get("version")), "product": str(about.get("product"))}
            parts = urlsplit(url)
            _see(found, "RabbitMQ", _listener(parts.port or 5672) if parts.hostname in LOCAL else None)
            found.amqp_url = url
    except (OperationalError, OSError) as error:
        found.missing["RabbitMQ"] = f"{parts_without_password(url)} does not answer: {error}"


def parts_without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _see(found: Servers, name: str, pid: int | None) -> None:
    if pid is not None and psutil.pid_exists(pid):
        found.processes[name] = pid
    else:
        found.missing[f"CPU of {name}"] = "its processes cannot be seen from here; its time is not counted"


def _listener(port: int) -> int | None:
    """The process that listens on a local port; the system shows it to its owner and to root only."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return int(connection.pid)
    except psutil.AccessDenied:
        pass
    return None
