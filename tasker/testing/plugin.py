"""The pytest plugin: real databases for tests, in milliseconds. Loaded by pytest wherever Tasker is installed.

Nothing is imported or started before a fixture is used. The fixtures are in ``tasker.testing.fixtures``.

``tasker_server`` (session)
    The run's PostgreSQL server: an embedded one in a folder of its own, removed at the end. With
    ``TASKER_TEST_DATABASE_URL=postgresql://postgres@127.0.0.1:5432/postgres`` in the environment, that server is used
    instead, and databases are made and dropped there. It is a ``ScratchDatabases``: ``.url`` is the server's
    maintenance database, ``.create(migrated=False)`` and ``.drop(url)`` make and drop further databases.

``tasker_database_url`` (test)
    The libpq URL of a fresh database with Tasker's schema. Dropped after the test, with whoever is still connected.

``tasker_clock`` (test)
    The engine's clock: ``tasker_clock.advance(seconds=30)``, ``.move_to(datetime)``, ``.now()``. Connections of
    ``tasker_core`` and ``tasker_client`` follow it; others do after ``tasker_clock.attach(database)``. Worker
    processes do not.

``tasker_settings`` (test)
    The settings that the next fixtures use: those of the environment ``TASKER_ENV``, or ``test``. Override it where
    others are wanted, for ``engine.handler_modules`` for example.

``tasker_core`` (test)
    An ``OrchestrationCore`` on ``tasker_database_url``, closed after the test.

``tasker_client`` (test)
    A ``Tasker`` client of the same database.

``any_server``, ``any_database_url``
    As ``tasker_server`` and ``tasker_database_url``, on each server there is: the test runs once on the first
    (``own``) and once on the local server (``local``: ``postgresql://postgres@127.0.0.1:5432/postgres``, or what
    ``TASKER_TEST_LOCAL_URL`` says). Where no local server answers, the second run is skipped; with ``CI=true`` it fails
    instead if the machine has one.

Example::

    from tasker.testing import run_until_idle

    def test_an_order_ships(tasker_core, tasker_client, tasker_clock):
        tasker_core.templates.register(orders)           # a workflow declared in Python, or load_template(path)
        handle = tasker_client.create("fulfillment", "process_order", {"order_id": 42})
        run_until_idle(tasker_core)
        tasker_clock.advance(seconds=30)                 # past the back-off of the step that failed
        run_until_idle(tasker_core)
        assert handle.state == "complete"
"""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Bring in the fixtures: now, not when pytest loads its plugins, so that coverage measurement sees them whole."""
    config.pluginmanager.import_plugin("tasker.testing.fixtures")
