"""Databases that live as long as a test: made from a migrated template, dropped with whoever is still in them."""

from __future__ import annotations

import re
import secrets
import threading
import time
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import errors, sql

from tasker.database.dsn import dsn_of
from tasker.database.migrations import migrate

_PREFIX = "tasker_test"
_NAME = re.compile(rf"{_PREFIX}_(\d+)_[0-9a-f]+")
_ABANDONED_AFTER_SECONDS = 24 * 3600


class ScratchDatabases:
    """Makes and drops databases on one server.

    Making one costs a copy of the template (some 50 ms), not a migration. Safe to use from several threads, and by
    several processes on the same server.

    Args:
        url: a database of the server in which one may create and drop databases, such as ``postgres``.
    """

    def __init__(self, url: str) -> None:
        self.url = dsn_of(url)
        self._lock = threading.Lock()
        self._template: str | None = None
        self._made: set[str] = set()

    def create(self, *, migrated: bool = True) -> str:
        """Make a database.

        Args:
            migrated: with Tasker's schema; otherwise empty.

        Returns:
            Its libpq URL.
        """
        if migrated:
            with self._lock:
                if self._template is None:
                    self._template = self._make_template()
        return self._url_of(self._create(self._template if migrated else None))

    def drop(self, url: str) -> None:
        """Drop a database made by ``create``, and end the sessions in it."""
        name = urlsplit(url).path.lstrip("/")
        if name not in self._made:
            raise ValueError(f"{name} was not made here")
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"), name)
        self._made.discard(name)

    def close(self) -> None:
        """Drop everything that is left of this object."""
        self._template = None
        for name in sorted(self._made):
            self.drop(self._url_of(name))

    def drop_abandoned(self) -> None:
        """Drop databases that an earlier run left behind because it was killed: unused and older than a day."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            # Those in use are left out here: DROP DATABASE would wait for five seconds before it refuses.
            rows = connection.execute(
                "SELECT datname FROM pg_database AS d"
                " WHERE NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.datid = d.oid)"
            ).fetchall()
            names = [name for (name,) in rows]
        for name in names:
            found = _NAME.fullmatch(name)
            if found is not None and time.time() - int(found[1]) > _ABANDONED_AFTER_SECONDS:
                try:
                    self._execute(sql.SQL("DROP DATABASE IF EXISTS {}"), name)
                except (errors.ObjectInUse, errors.InsufficientPrivilege):
                    continue

    def _make_template(self) -> str:
        name = self._create(None)
        migrate(self._url_of(name))
        # Closed to connections: any would make the copies fail.
        self._execute(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false"), name)
        return name

    def _create(self, template: str | None) -> str:
        name = f"{_PREFIX}_{int(time.time())}_{secrets.token_hex(6)}"
        self._made.add(name)
        with psycopg.connect(self.url, autocommit=True) as connection:
            # Where nobody waits for a disk, copying files costs half of logging every page: checkpoints are free.
            throwaway = connection.execute("SHOW fsync").fetchone() == ("off",)
            strategy = " STRATEGY FILE_COPY" if throwaway and connection.info.server_version >= 150000 else ""
            # template0: nobody can be connected to it, while any session in template1 makes a copy of it fail.
            create = sql.SQL("CREATE DATABASE {} TEMPLATE {}" + strategy)
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(template or "template0")))
        return name

    def _execute(self, statement: sql.SQL, *names: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.format(*map(sql.Identifier, names)))

    def _url_of(self, database: str) -> str:
        return urlsplit(self.url)._replace(path=f"/{quote(database, safe='')}").geturl()
