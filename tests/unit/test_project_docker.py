"""The image and the compose file say what the documentation says (their form is linted by `make lint`)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasker.config.settings import Settings

DOCKER = Path(__file__).parents[2] / "docker"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return YAML(typ="safe").load(DOCKER / "compose.yaml")["services"]


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (DOCKER / "Dockerfile").read_text()


def test_postgres_always_starts_and_the_server_only_in_its_profile(services: dict[str, Any]) -> None:
    assert "profiles" not in services["postgres"]
    assert services["tasker-server"]["profiles"] == ["server"]


def test_the_server_is_published_on_port_3000(services: dict[str, Any]) -> None:
    assert services["tasker-server"]["ports"] == ["3000:8080"]


def test_the_server_waits_for_a_database_that_answers(services: dict[str, Any]) -> None:
    assert services["tasker-server"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "healthcheck" in services["postgres"]


def test_containers_get_longer_to_stop_than_executors_need(services: dict[str, Any]) -> None:
    assert services["tasker-server"]["stop_grace_period"] == "60s"


def test_the_image_is_built_in_stages_and_runs_as_nobody_of_importance(dockerfile: str) -> None:
    assert len(re.findall(r"^FROM ", dockerfile, re.MULTILINE)) == 2
    users = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    assert users
    assert "0" not in users[-1]


def test_signals_reach_the_program_and_its_health_is_asked(dockerfile: str) -> None:
    assert re.search(r'^ENTRYPOINT \["tini", "--"\]$', dockerfile, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", dockerfile, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", dockerfile, re.MULTILINE)


def test_the_image_runs_the_server_and_is_well_when_that_is_ready(services: dict[str, Any], dockerfile: str) -> None:
    assert re.search(r'^CMD \["tasker-server"\]$', dockerfile, re.MULTILINE)
    assert services["tasker-server"]["command"] == ["tasker-server"]
    scripts = tomllib.loads((DOCKER.parent / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["tasker-server"] == "tasker.cli.server:supervised"
    _, _, port = Settings().web.bind_address.rpartition(":")
    assert services["tasker-server"]["ports"] == [f"3000:{port}"]
    assert f"http://127.0.0.1:{port}/ready" in dockerfile


def test_everything_the_wheel_is_built_from_is_copied_into_the_build(dockerfile: str) -> None:
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE))
    names = {name for line in copied for name in line.split()}
    assert {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "tasker", "settings", "migrations"} <= names
    shown = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    assert {f"!{name.split('/')[0]}" for name in names} <= set(shown)
