"""Which database the settings mean, up and reachable: the one they name, else the embedded server's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tasker.config.settings import Settings


@contextmanager
def database_address(settings: Settings) -> Iterator[str]:
    """The address of the database, with the embedded server running for the time of the block where it is meant.

    Raises:
        EmbeddedServerError: the embedded server does not start.
    """
    if settings.database.url is not None:
        yield settings.database.url
        return
    from tasker.database.embedded import EmbeddedServer

    with EmbeddedServer.start() as server:
        yield server.url
