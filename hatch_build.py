"""What the wheel carries from the checkout's top level.

A hook rather than hatchling's own table, since that one copies the files into editable installs as well, where they
would grow old beside the checkout's.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CarriedFolders(BuildHookInterface[Any]):
    """Put each folder of ``[tool.hatch.build.targets.wheel.hooks.custom.carried]`` where that table says."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a wheel is built; ``version`` is ``standard`` or ``editable``."""
        if version == "standard":
            build_data["force_include"].update(self.config["carried"])
