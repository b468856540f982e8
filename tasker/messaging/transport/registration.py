"""Makes the scheme ``tasker-pgmq`` known to kombu, without importing kombu, or much else, before somebody needs it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SCHEME = "tasker-pgmq"
TRANSPORT = "tasker.messaging.transport.transport:Transport"
_KOMBU = "kombu.transport"


def register() -> None:
    """Add the scheme to kombu's transports: now if kombu is loaded, else as soon as it is.

    kombu has no entry points for transports, and importing it would cost programs that only start workflows a tenth of
    a second.
    """
    loaded = sys.modules.get(_KOMBU)
    if loaded is not None:
        _add_alias(loaded)
    elif not any(isinstance(finder, _KombuFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KombuFinder())


def _add_alias(module: ModuleType) -> None:
    module.TRANSPORT_ALIASES.setdefault(SCHEME, TRANSPORT)


class _KombuFinder:
    """Waits for the import of ``kombu.transport``, lets it happen, adds the alias and is gone.

    It and its loader do without the base classes of ``importlib.abc``, which import much.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _KOMBU:
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _AliasingLoader(spec.loader)  # type: ignore[assignment]  # a loader in all but its base class
        return spec


class _AliasingLoader:
    """kombu's own loader, and the alias after it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _add_alias(module)
