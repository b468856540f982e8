"""Where the files that travel with the package are: in a checkout at the top level, in a wheel inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tasker
from tasker.errors import ConfigurationError

ResourceName = Literal["examples", "migrations", "settings"]


def resource_dir(name: ResourceName) -> Path:
    """The folder of shipped files called ``name``.

    A checkout is known by its ``pyproject.toml``, so that a top-level ``settings`` package of somebody else in
    site-packages is never taken for ours.

    Raises:
        ConfigurationError: the installation is incomplete.
    """
    package = Path(tasker.__file__).resolve().parent
    checkout = package.parent
    for folder in (checkout / name if (checkout / "pyproject.toml").is_file() else None, package / "_data" / name):
        if folder is not None and folder.is_dir():
            return folder
    raise ConfigurationError(
        f"the shipped {name} are missing from this installation of tasker ({package})",
        hint="install tasker-celery again",
    )
