"""kombu's own tests of brokers, from the source distribution of the installed release, on this transport."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

from tasker.messaging.transport.address import broker_url_of

ROOT = Path(__file__).parents[2]
SUITE = """
import os

import kombu
import pytest

from . import common, test_redis

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def connection():
    with kombu.Connection(os.environ["BROKER"]) as connection:
        yield connection


@pytest.fixture
def invalid_connection():
    return kombu.Connection("tasker-pgmq://postgres@127.0.0.1:1/none")


class test_BasicFunctionality(common.BasicFunctionality):
    pass


class test_ExchangeTypes(common.BaseExchangeTypes):
    pass


class test_Message(common.BaseMessage):
    pass


# Since kombu 5.6.
class test_EventLoop(getattr(common, "BaseEventLoop", object)):
    pass


# In Redis' form: 0 is the most urgent, and drain_events hands out one message.
class test_Priority(test_redis.test_RedisPriority):
    pass
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution without kombu itself: it is the installed one that is tested."""
    folder, version = tmp_path_factory.mktemp("kombu"), metadata.version("kombu")
    download = ["download", "-q", "--no-deps", "--no-binary", ":all:", f"kombu=={version}", "-d", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *download], check=True, timeout=110)
    with tarfile.open(folder / f"kombu-{version}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    shutil.rmtree(folder / f"kombu-{version}" / "kombu")
    return folder / f"kombu-{version}"


def test_kombus_own_tests_of_brokers_pass(source: Path, tasker_database_url: str) -> None:
    (source / "t" / "integration" / "test_tasker.py").write_text(SUITE)
    (source / "suite.ini").write_text("[pytest]\npython_classes = test_*\nmarkers =\n    env\n    flaky\n")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV"))}
    command = [sys.executable, "-m", "pytest", "-q", "-c", "suite.ini", "-p", "no:cacheprovider", "-p", "no:anyio"]
    done = subprocess.run(
        [*command, "t/integration/test_tasker.py"],
        cwd=source,
        env={**ours, "PYTHONPATH": str(ROOT), "BROKER": broker_url_of(tasker_database_url)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout
    counted = re.search(r"^(\d+) passed in ", done.stdout, re.MULTILINE)
    assert counted is not None
    # The event loop's two came with kombu 5.6.
    has_loop = "class BaseEventLoop" in (source / "t" / "integration" / "common.py").read_text()
    assert int(counted[1]) >= (27 if has_loop else 25)
