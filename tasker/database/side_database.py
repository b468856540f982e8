"""A database beside another one, on the same server: made anew, used by a demonstration, dropped."""

from __future__ import annotations

import time
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import conninfo, errors, sql

from tasker.database.dsn import dsn_of
from tasker.errors import TaskerError

_LONGEST_NAME = 63
_LOOK_SECONDS = 0.25


class SideDatabase:
    """The database ``{name of the other}_{suffix}``.

    Args:
        url: the other database, whose owner may create databases.
        suffix: what is added to its name.
    """

    def __init__(self, url: str, suffix: str) -> None:
        self._beside = dsn_of(url)
        known = conninfo.conninfo_to_dict(self._beside)
        database = str(known.get("dbname") or known.get("user") or "postgres")
        self.name = f"{database[: _LONGEST_NAME - 1 - len(suffix)]}_{suffix}"
        if "://" in self._beside:
            self.url = urlsplit(self._beside)._replace(path=f"/{quote(self.name, safe='')}").geturl()
        else:
            self.url = conninfo.make_conninfo(self._beside, dbname=self.name)

    def create(self, *, wait_seconds: float = 0.0) -> None:
        """Make it, empty; one that an earlier run left is dropped.

        Args:
            wait_seconds: how long to wait for the last processes of an earlier run, which may be ending.

        Raises:
            TaskerError: somebody uses it, or the user may not create databases.
            psycopg.OperationalError: the server cannot be reached.
        """
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                self._execute("DROP DATABASE IF EXISTS {}")
                break
            except errors.ObjectInUse as error:
                if time.monotonic() >= deadline:
                    raise TaskerError(
                        f"the database {self.name} is in use: {error.diag.message_detail or error}",
                        hint="another one runs on this server; stop that first",
                    ) from error
                time.sleep(_LOOK_SECONDS)
        try:
            self._execute("CREATE DATABASE {} TEMPLATE template0")
        except errors.InsufficientPrivilege as error:
            raise TaskerError(
                f"the database {self.name} cannot be made: {error.diag.message_primary}",
                hint="use a role with CREATEDB, or leave DATABASE_URL unset for the embedded PostgreSQL",
            ) from error

    def drop(self) -> None:
        """Drop it, with whoever is connected."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._beside, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(self.name)))
