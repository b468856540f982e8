"""Broker URLs: what they stand for, and what of them is shown."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from kombu import Connection
from kombu.utils.json import dumps
from psycopg import conninfo

from tasker.errors import ConfigurationError
from tasker.messaging.transport.address import ShownUrl, broker_url_of, dsn_of_broker, masked


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        ("tasker-pgmq://", {}),
        (
            "tasker-pgmq://me:s%40ecret@db.example:5433/shop?sslmode=require",
            {
                "user": "me",
                "password": "s@ecret",
                "host": "db.example",
                "port": "5433",
                "dbname": "shop",
                "sslmode": "require",
            },
        ),
        (
            "tasker-pgmq://postgres:@/postgres?host=/run/my%20dir",
            {"user": "postgres", "host": "/run/my dir", "dbname": "postgres"},
        ),
        (
            "tasker-pgmq://a:1,b:2/shop?target_session_attrs=read-write",
            {"host": "a,b", "port": "1,2", "dbname": "shop", "target_session_attrs": "read-write"},
        ),
    ],
)
def test_a_broker_url_is_a_libpq_url_under_another_scheme(url: str, parameters: dict[str, str]) -> None:
    assert conninfo.conninfo_to_dict(dsn_of_broker(url)) == parameters


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:secret@db/shop",
        "postgresql+psycopg://me:secret@db/shop",
        "postgres://postgres@/postgres?host=/run/dir",
        "host=/run/dir dbname=shop user=me password='with space'",
        "",
    ],
)
def test_an_address_of_a_database_becomes_a_broker_url_of_the_same(dsn: str) -> None:
    plain = dsn.replace("postgresql+psycopg://", "postgresql://")
    assert conninfo.conninfo_to_dict(dsn_of_broker(broker_url_of(dsn))) == conninfo.conninfo_to_dict(plain)


@pytest.mark.parametrize(
    "url", ["redis://localhost", "postgresql://db/shop", "me:secret@db/shop", "tasker-pgmq://db/%zz"]
)
def test_anything_else_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="broker URL") as refused:
        dsn_of_broker(url)
    assert refused.value.field == "broker_url"
    assert url not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("tasker-pgmq://me:secret@db/shop", "tasker-pgmq://me:**@db/shop"),
        ("tasker-pgmq://me:@db/shop", "tasker-pgmq://me:@db/shop"),
        ("tasker-pgmq://me@db:5432/shop", "tasker-pgmq://me@db:5432/shop"),
        (
            "tasker-pgmq:///shop?user=me&password=secret&host=/a:b@c",
            "tasker-pgmq:///shop?user=me&password=**&host=/a:b@c",
        ),
        ("tasker-pgmq://", "tasker-pgmq://"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_scheme_is_known_whether_kombu_comes_before_or_after(order: str) -> None:
    program = """
import sys
if {kombu_first}:
    import kombu.transport
import tasker
from tasker.messaging.transport.registration import register
register()
assert {kombu_first} or "kombu" not in sys.modules
import kombu.transport
from kombu import Connection
assert Connection("tasker-pgmq://db/shop").transport.driver_type == "pgmq"
assert not any(type(finder).__module__.startswith("tasker") for finder in sys.meta_path)
assert type(kombu.transport.__loader__).__module__.startswith(("importlib", "_frozen")), kombu.transport.__loader__
"""
    subprocess.run([sys.executable, "-c", program.format(kombu_first=order == "before")], check=True)


def test_what_a_worker_tells_of_its_broker_shows_no_password_and_its_copies_connect_all_the_same() -> None:
    url = "tasker-pgmq://me:secret@db.example:5433/shop"
    connection = Connection(url)
    before = connection.__eqhash__()
    # As `inspect stats` sends it, and Flower shows it.
    assert str(connection.info()["hostname"]) == "tasker-pgmq://me:**@db.example:5433/shop"
    assert "secret" not in dumps(connection.info()) + repr(connection.info()) + connection.as_uri()
    # Pools of connections are found by it.
    assert hash(connection.__eqhash__()) == hash(before)
    for copy in (connection, connection.clone(), pickle.loads(pickle.dumps(connection))):
        assert copy.transport.dsn == "postgresql://me:secret@db.example:5433/shop"
        assert copy.as_uri(include_password=True) == url


def test_a_shown_url_equals_what_it_stands_for() -> None:
    shown = ShownUrl("tasker-pgmq://me:secret@db/shop")
    assert shown == "tasker-pgmq://me:secret@db/shop" == shown
    assert shown == ShownUrl(shown)
    assert shown != ShownUrl("tasker-pgmq://me:other@db/shop")
    assert hash(shown) == hash("tasker-pgmq://me:secret@db/shop")


def test_a_list_of_brokers_is_refused_and_a_list_of_one_is_one() -> None:
    with pytest.raises(ConfigurationError, match="a list of brokers") as refused:
        Connection("tasker-pgmq://a/shop;tasker-pgmq://b/shop").transport  # noqa: B018
    assert "tasker-pgmq://host1,host2/database" in (refused.value.hint or "")
    connection = Connection(["tasker-pgmq://me:secret@a/shop"])
    assert connection.transport.dsn == "postgresql://me:secret@a/shop"
    connection.maybe_switch_next()  # as after each error
    assert connection.transport.dsn == "postgresql://me:secret@a/shop"
