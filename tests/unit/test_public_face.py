"""``import tasker`` costs nothing, and has all that is public; ``celery -A tasker`` finds its application."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tasker


def printed_by(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def test_importing_costs_neither_celery_nor_a_driver_nor_a_framework() -> None:
    heavy = ("celery", "kombu", "psycopg", "sqlalchemy", "pydantic", "alembic", "dynaconf", "rich", "click")
    assert printed_by(f"import sys, tasker; print([name for name in {heavy} if name in sys.modules])") == "[]"


def test_the_client_does_without_celery() -> None:
    assert printed_by("import sys; from tasker import Tasker; print('celery' in sys.modules)") == "False"


@pytest.mark.parametrize("name", tasker.__all__)
def test_each_public_name_can_be_imported(name: str) -> None:
    assert getattr(tasker, name) is not None
    assert name in dir(tasker)


def test_all_lazy_names_are_public_and_the_other_way_round() -> None:
    assert sorted(tasker._HOMES) == sorted(tasker.__all__)


def test_an_unknown_name_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tasker.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from tasker import nothing  # noqa: F401


def test_celery_finds_the_application() -> None:
    from celery.app.utils import find_app

    import tasker.app

    assert find_app("tasker") is tasker.app.app
