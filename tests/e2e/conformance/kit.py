"""A site with Python in house and a partner in another language: the database, the processes, and what they leave.

The partner is any program that takes the environment of ``partner_env`` and has the handlers of ``README.md``; by
default the one in ``node/``. It gets a login with no more than the role it needs, and is judged by the tables alone.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from tasker import Tasker
from tasker.config.sections import DatabaseSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.database import functions
from tasker.executors.executor import ExecutorKind
from tasker.executors.stop import StopSignal
from tasker.workflows.loading import load_template
from tests.sql_kit import Core
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
NODE = Path(__file__).parent / "node"
INHOUSE, PARTNER = "inhouse", "partner"

WORKER_VARIABLE = "TASKER_CONFORMANCE_WORKER"
CLIENT_VARIABLE = "TASKER_CONFORMANCE_CLIENT"

LOG_TAIL_LINES = 60


def commands() -> tuple[list[str], list[str]]:
    """The commands of the worker and of the client; skips where the default ones cannot be run (in CI that fails)."""
    worker, client = os.environ.get(WORKER_VARIABLE), os.environ.get(CLIENT_VARIABLE)
    if worker and client:
        return shlex.split(worker), shlex.split(client)
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("the worker in JavaScript needs Node.js and npm: install them (Debian: apt-get install nodejs npm)")
    made = subprocess.run([ROOT / ".ci" / "node"], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f".ci/node failed, so that the worker in JavaScript has no driver for PostgreSQL:\n{made.stderr}")
    return (
        shlex.split(worker or f"node {shlex.quote(str(NODE / 'worker.mjs'))}"),
        shlex.split(client or f"node {shlex.quote(str(NODE / 'client.mjs'))}"),
    )


def step(name: str, handler: str, *depends_on: str, **settings: Any) -> dict[str, Any]:
    """A step of a template: its handler decides who runs it; ``initialization`` and all else are as in a document."""
    described: dict[str, Any] = {
        "name": name,
        "depends_on": list(depends_on),
        "handler": {"callable": handler, "initialization": settings.pop("initialization", {})},
        "namespace": INHOUSE if handler.startswith(INHOUSE) else PARTNER,
        "retry": {"backoff": "none", **settings.pop("retry", {})},
    }
    return described | settings


class PartnerProcess:
    """One process of the partner's worker."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log_path: Path) -> None:
        self.worker = env["TASKER_WORKER"]
        self._log_path = log_path
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(60)

    def kill(self) -> None:
        """kill -9 of all of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def report(self) -> str:
        lines = self._log_path.read_text(errors="replace").splitlines()
        return "\n".join([f"--- {self.worker} ({self.process.poll()})", *lines[-LOG_TAIL_LINES:]])


class Site:
    """One database with everything around it.

    Args:
        url: the database.
        folder: for logs and gates.
        worker: command of the partner's worker.
        client: command of the partner's client.
    """

    def __init__(self, url: str, folder: Path, worker: Sequence[str], client: Sequence[str]) -> None:
        self.url = url
        self.folder = folder
        self.sql = Core(url)
        settings = Settings(database=DatabaseSettings(url=url))
        self.core = OrchestrationCore.from_settings(settings)
        self.core.initialize_queues([INHOUSE, PARTNER])
        self.client = Tasker(self.core.database, settings=settings)
        self.partners: list[PartnerProcess] = []
        self._worker, self._client = list(worker), list(client)
        self._logins = contextlib.ExitStack()
        self.worker_url = self._logins.enter_context(login(url, "tasker_worker"))
        self.client_url = self._logins.enter_context(login(url, "tasker_client"))
        self._stop = StopSignal()
        self._failures: list[BaseException] = []
        self._thread: threading.Thread | None = None

    # -- who works ------------------------------------------------------------------------------------------------

    def work_in_house(self) -> None:
        """Run executors of all kinds on a thread, steps of the namespace ``inhouse`` among them."""
        loop = self.core.build_loop(tuple(ExecutorKind), [f"{INHOUSE}_queue"], stop=self._stop, worker="in house")

        def work() -> None:
            try:
                with loop:
                    loop.run()
            except BaseException as error:
                self._failures.append(error)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def partner(self, *, url: str | None = None, **env: str) -> PartnerProcess:
        """Start a worker of the partner's, and wait until it has registered."""
        name = f"partner {len(self.partners)}"
        made = PartnerProcess(
            self._worker,
            partner_env(
                url or self.worker_url,
                TASKER_QUEUES=f"{PARTNER}_queue",
                TASKER_WORKER=name,
                TASKER_HEARTBEAT_SECONDS="0.2",
                **env,
            ),
            self.folder / f"{name}.log",
        )
        self.partners.append(made)
        wait_until(lambda: self.executors(made), f"{name} registers:\n{made.report()}")
        return made

    def executors(self, partner: PartnerProcess) -> list[str]:
        """The living executors of a worker."""
        return [
            str(executor)
            for (executor,) in self.sql.rows(
                "SELECT executor FROM tasker.executors WHERE worker = %s AND lost_at IS NULL", partner.worker
            )
        ]

    def lose(self, partner: PartnerProcess) -> None:
        """Two sweeps see the same heartbeat of a worker a lease apart: it is lost."""
        (executor,) = self.executors(partner)

        def is_lost() -> bool:
            for column in ("heartbeat_at", "suspected_at"):
                self.sql.rows_affected(
                    f"UPDATE tasker.executors SET {column} = {column} - interval '1 hour' WHERE executor = %s", executor
                )
                functions.run(self.sql.connection, functions.recover_lost_steps({"lease_seconds": 15}))
            return executor not in self.executors(partner)

        wait_until(is_lost, f"{partner.worker} is lost")

    def ask_client(self, *arguments: str) -> Any:
        """What the partner's client prints."""
        done = subprocess.run(
            [*self._client, *arguments],
            env=partner_env(self.client_url),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    # -- what there is to do --------------------------------------------------------------------------------------

    def register(self, *steps: Mapping[str, Any], name: str = "flow") -> None:
        document = {"namespace_name": INHOUSE, "name": name, "version": "1.0.0", "steps": list(steps)}
        self.core.templates.register(load_template(json.dumps(document)))

    def create(self, *numbers: int, name: str = "flow") -> list[str]:
        """One task for each number."""
        return [
            str(handle.task_uuid)
            for handle in self.client.create_many(
                {"namespace": INHOUSE, "name": name, "context": {"n": number}} for number in numbers
            )
        ]

    def gate(self, name: str = "gate") -> Gate:
        return Gate(self.folder / name)

    # -- what came of it ------------------------------------------------------------------------------------------

    def wait_for(self, *tasks: str) -> list[str]:
        """The states of tasks once they have finished."""
        query = "SELECT state FROM tasker.tasks WHERE task_uuid = %s AND finished_at IS NOT NULL"
        return [
            wait_until(functools.partial(self.sql.one, query, task), f"task {task} finishes\n{self.report()}")
            for task in tasks
        ]

    def results(self, task: str) -> dict[str, Any]:
        return {name: row["results"] for name, row in self.sql.steps(task).items()}

    def times(self, state: str) -> int:
        """How many steps came to a state, by the history."""
        return int(self.sql.one("SELECT count(*) FROM tasker.workflow_step_transitions WHERE to_state = %s", state))

    def has_completed(self, steps: int) -> bool:
        """Whether so many steps are complete."""
        return self.times("complete") >= steps

    def check(self) -> None:
        """Nothing is held by anybody, nobody is registered who is gone, and no rule is broken."""
        assert self.sql.broken_rules() == []
        assert self.sql.one("SELECT count(*) FROM tasker.step_claims") == 0

    def report(self) -> str:
        return "\n".join(partner.report() for partner in self.partners)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(20)
        for partner in self.partners:
            partner.kill()
        self.client.close()
        self.core.close()
        self.sql.close()
        self._logins.close()
        self._stop.close()
        assert self._failures == []


class Gate:
    """Where handlers wait (``conformance.wait``), and what they leave there when they come."""

    def __init__(self, path: Path) -> None:
        self._started = path.with_suffix(".started")
        self._until = path

    @property
    def initialization(self) -> dict[str, str]:
        return {"started": str(self._started), "until": str(self._until)}

    def arrivals(self) -> list[str]:
        """One line for each run: task, attempt, fence."""
        return self._started.read_text().splitlines() if self._started.exists() else []

    def wait_for(self, number: int) -> None:
        wait_until(lambda: len(self.arrivals()) >= number, f"{number} handlers at the gate")

    def open(self) -> None:
        self._until.touch()


def partner_env(url: str, **more: str) -> dict[str, str]:
    """The environment of a partner's program: where to connect, in libpq's words, and what the suite asks of it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "TASKER_", "COV"))}
    names = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER", "password": "PGPASSWORD"}
    known = conninfo.conninfo_to_dict(url)
    return {**own, **{names[key]: str(value) for key, value in known.items() if key in names}, **more}


@contextlib.contextmanager
def login(url: str, role: str) -> Iterator[str]:
    """The address of the database for a new login that has this role and nothing else."""
    name = f"tasker_test_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' IN ROLE {role}".encode())
        try:
            yield conninfo.make_conninfo(url, user=name, password="secret")
        finally:
            owner.execute(f"DROP OWNED BY {name}".encode())
            owner.execute(f"DROP ROLE {name}".encode())
