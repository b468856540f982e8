"""``Tasker``: start workflows and follow them, from any Python program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasker.client.async_client import AsyncClient
from tasker.client.requests import as_uuid
from tasker.client.sync_client import SyncClient
from tasker.client.watching import Watch

if TYPE_CHECKING:
    from tasker.client.core import Task


class Tasker(SyncClient, AsyncClient):
    """A client of Tasker.

    ``Tasker()`` works on the database of the settings (the embedded one where they name none), ``Tasker(address)`` and
    ``Tasker(engine)`` on that one. Making one costs nothing: connections come with the first call, one pool per
    process, also after a fork. Threads may share one. Close it, or use it in a ``with`` (``async with``) block.

    Methods that begin with ``a`` are for event loops; so are ``wait_async`` and ``wait_all_async``.
    """

    def watch(self, task: Task) -> Watch:
        """Follow a task: the state changes of it and its steps so far, then each as it is committed, until it finishes.

        Iterate with ``for`` or, in an event loop, with ``async for``.

        Raises:
            NotFound: on the first step of the iteration: there is no such task.
        """
        return Watch(self._connections, as_uuid(task))
