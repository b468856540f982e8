"""Addresses of databases: every shape that people write, as the one that libpq reads."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from psycopg import conninfo
from sqlalchemy.engine import URL

from tasker.errors import ConfigurationError


def dsn_of(url: str | URL) -> str:
    """``url`` as a connection string for libpq.

    Args:
        url: ``postgresql://``, ``postgres://`` or ``postgresql+<driver>://`` URLs (unix sockets as ``?host=/dir`` too),
            a SQLAlchemy ``URL``, or a libpq ``key=value`` string.

    Raises:
        ConfigurationError: it is not the address of a PostgreSQL; the message never shows a password.
    """
    if isinstance(url, URL):
        return _dsn_of_sqlalchemy(url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _checked(url)
    dialect = scheme.partition("+")[0]
    if dialect not in ("postgresql", "postgres"):
        raise ConfigurationError(
            f"{scheme}:// is not the address of a PostgreSQL database",
            hint="use postgresql://user:password@host:5432/database, or postgresql:///database?host=/directory/of/socket",
            field="database.url",
        )
    return _checked(f"postgresql://{rest}")


def masked(url: str | URL) -> str:
    """``url`` fit for messages and logs: without its password."""
    try:
        parameters = conninfo.conninfo_to_dict(dsn_of(url))
    except ConfigurationError:
        return "(unreadable address)"
    host = str(parameters.get("host") or "")
    database = str(parameters.get("dbname") or "")
    user = str(parameters.get("user") or "")
    where = f"{host}:{parameters['port']}" if host and not host.startswith("/") and parameters.get("port") else host
    if where.startswith("/"):
        return f"postgresql://{user and user + '@'}/{database}?host={quote(where, safe='/')}"
    return f"postgresql://{user and user + '@'}{where}/{database}"


def _checked(dsn: str) -> str:
    try:
        conninfo.conninfo_to_dict(dsn)
    except Exception as error:
        raise ConfigurationError(
            "the database's address cannot be read",
            hint="write postgresql://user:password@host:5432/database",
            field="database.url",
        ) from error
    return dsn


def _dsn_of_sqlalchemy(url: URL) -> str:
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigurationError(f"{url.drivername} is not PostgreSQL", field="database.url")
    parameters: dict[str, Any] = {
        "host": url.host,
        "port": url.port,
        "user": url.username,
        "password": url.password,
        "dbname": url.database,
    }
    parameters.update({name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()})
    return conninfo.make_conninfo("", **{name: value for name, value in parameters.items() if value is not None})
