from __future__ import annotations

from pathlib import Path

import pytest

from tasker.config.manager import ConfigManager
from tasker.config.settings import Settings


class Project:
    """A user's project folder with a settings folder in it; no variable of the process reaches it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings_dir = folder / "settings"

    def write(self, path: str, text: str) -> Path:
        file = self.settings_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def load(self, environment: str | None = None, **variables: str) -> Settings:
        named = self.settings_dir if self.settings_dir.exists() else None
        return ConfigManager.load(environment, settings_dir=named, environ=variables)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)
