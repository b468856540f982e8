from __future__ import annotations

from pathlib import Path

import pytest

import tasker
from tasker.config.resources import resource_dir
from tasker.errors import ConfigurationError

pytestmark = pytest.mark.config


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = folder / "tasker"
    package.mkdir()
    monkeypatch.setattr(tasker, "__file__", str(package / "__init__.py"))
    return package


def test_a_checkout_has_them_at_the_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch)
    (tmp_path / "settings").mkdir()
    (tmp_path / "pyproject.toml").touch()
    assert resource_dir("settings") == tmp_path / "settings"


def test_a_wheel_has_them_inside_whatever_else_is_called_settings_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = installed(tmp_path, monkeypatch)
    (tmp_path / "settings").mkdir()
    (package / "_data" / "settings").mkdir(parents=True)
    assert resource_dir("settings") == package / "_data" / "settings"


def test_an_incomplete_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch)
    with pytest.raises(ConfigurationError, match="the shipped migrations are missing from this installation"):
        resource_dir("migrations")
