"""Addresses of databases: every usual way to write one, and no password in any message."""

from __future__ import annotations

import pytest
from psycopg import conninfo
from sqlalchemy.engine import URL, make_url

from tasker.database.dsn import dsn_of, masked
from tasker.errors import ConfigurationError

SOCKET = "postgresql://me@/shop?host=/var/run/postgresql&port=5433"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (
            "postgresql://me:pw@db:5433/shop",
            {"host": "db", "port": "5433", "user": "me", "password": "pw", "dbname": "shop"},
        ),
        ("postgres://db/shop", {"host": "db", "dbname": "shop"}),
        ("postgresql+psycopg://me@db/shop", {"host": "db", "user": "me", "dbname": "shop"}),
        ("postgresql+asyncpg://me@db/shop", {"host": "db", "user": "me", "dbname": "shop"}),
        (SOCKET, {"host": "/var/run/postgresql", "port": "5433", "user": "me", "dbname": "shop"}),
        (make_url(SOCKET), {"host": "/var/run/postgresql", "port": "5433", "user": "me", "dbname": "shop"}),
        ("host=db dbname=shop", {"host": "db", "dbname": "shop"}),
        (
            URL.create("postgresql+psycopg", username="me", password="p@ss/w:rd", host="db", database="shop"),
            {"host": "db", "user": "me", "password": "p@ss/w:rd", "dbname": "shop"},
        ),
        ("postgresql://db/shop?sslmode=require", {"host": "db", "dbname": "shop", "sslmode": "require"}),
    ],
)
def test_each_way_of_writing_means_the_same(address: str | URL, expected: dict[str, str]) -> None:
    assert conninfo.conninfo_to_dict(dsn_of(address)) == expected


@pytest.mark.parametrize("address", ["mysql://db/shop", "sqlite:///shop.db", "redis://db", make_url("mysql://db/shop")])
def test_what_is_no_postgresql_is_refused(address: str | URL) -> None:
    with pytest.raises(ConfigurationError):
        dsn_of(address)


def test_what_cannot_be_read_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        dsn_of("postgresql://me:s3cret@db:port/shop?nonsense")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:s3cret@db:5433/shop", "postgresql://me@db:5433/shop"),
        ("postgresql://db/shop", "postgresql://db/shop"),
        (SOCKET, "postgresql://me@/shop?host=/var/run/postgresql"),
        ("host=db password=s3cret dbname=shop", "postgresql://db/shop"),
        ("mysql://me:s3cret@db/shop", "(unreadable address)"),
    ],
)
def test_passwords_are_masked(address: str, shown: str) -> None:
    assert masked(address) == shown
