"""Steps that are tasks of a Celery program which has its own broker, Redis, and knows nothing of Tasker."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from celery import Celery, chain, chord, group, signature
from celery.canvas import Signature, xmap
from redis import Redis

from tasker import Retry, Workflow, from_canvas, workflow
from tasker.app import REDIS_OPTIONS
from tasker.client.handle import TaskHandle
from tasker.database.scratch import ScratchDatabases
from tasker.executors.stop import StopSignal
from tasker.hosting.callbacks import CallbackReceiver
from tasker.hosting.delegation import STEP_SUCCEEDED, CelerySteps, StepApp
from tests.e2e.foreign.redis_server import REDIS_URL, close, close_leftovers, forget, redis_or_skip
from tests.e2e.harness import CeleryProcess, Cluster
from tests.sql_kit import assert_legal
from tests.waiting import wait_until

HERE = Path(__file__).parent
AT_ONCE = Retry(max_attempts=5, backoff="none")
ONCE = Retry(max_attempts=1)

SETTINGS = """
broker_url = result_backend = {url!r}
broker_transport_options = result_backend_transport_options = {{"global_keyprefix": {prefix!r}}}
task_default_queue = "shop"
# None of this is to reach the callbacks, which belong to Tasker.
task_routes = {{"*": {{"queue": "shop", "exchange": "shop", "routing_key": "shop"}}}}
task_serializer = "pickle"
accept_content = ["pickle", "json"]
worker_enable_remote_control = True
"""


class Shop:
    """The Celery program's worker, and Tasker's beside it, each on its own broker."""

    def __init__(self, cluster: Cluster, redis: Redis, prefix: str) -> None:
        self.cluster = cluster
        self.redis = redis
        self.prefix = prefix
        self.tasker = cluster.worker("-P", "threads", "-c", "3", "-Q", "foreign,orchestration", name="tasker")
        self.worker = self.start_worker()

    def start_worker(self, name: str = "shop") -> CeleryProcess:
        nothing_of_tasker = dict.fromkeys(("DATABASE_URL", "TASKER_ENGINE__HANDLER_MODULES"), "")
        folders = [str(HERE / "foreign"), str(self.cluster.folder), os.environ.get("PYTHONPATH", "")]
        path = {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
        return self.cluster.worker(
            "-c", "2", "-Q", "shop", name=name, app="foreign_shop", env={**nothing_of_tasker, **path}
        )

    def start(self, task: str, context: dict[str, Any] | None = None, **step: Any) -> TaskHandle:
        """Start a workflow of one step, which is a task of the program."""
        made = one_step(task, **step)
        self.cluster.register(made)
        (handle,) = self.cluster.start(made, context or {})
        return handle

    def step(self, handle: TaskHandle) -> dict[str, Any]:
        (row,) = self.cluster.rows("SELECT * FROM tasker.workflow_steps WHERE task_uuid = %s", handle.task_uuid)
        return row

    def run(self, task: str, context: dict[str, Any] | None = None, **step: Any) -> dict[str, Any]:
        """Run such a workflow to its end; its step."""
        handle = self.start(task, context, **step)
        handle.wait(30)
        return self.step(handle)


def one_step(task: str, **step: Any) -> Workflow:
    made = workflow("foreign", f"w_{uuid.uuid4().hex[:12]}", version="1.0.0")
    made.celery_step(
        "step", task=f"foreign_shop.{task}", **{"timeout_seconds": 30, "retry": AT_ONCE, "args": [], **step}
    )
    return made


@pytest.fixture(scope="module")
def shop(tasker_server: ScratchDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    redis = redis_or_skip()
    url, folder, prefix = tasker_server.create(), tmp_path_factory.mktemp("foreign"), f"tasker-test-{uuid.uuid4()}:"
    (folder / "foreign_settings.py").write_text(SETTINGS.format(url=REDIS_URL, prefix=prefix))
    env = {"TASKER_ENGINE__CELERY_STEPS__CONFIG_MODULE": "foreign_settings", "C_FORCE_ROOT": "1"}
    cluster = Cluster(url, folder, env)
    cluster.register(one_step("add"))  # makes the namespace
    made = Shop(cluster, redis, prefix)
    yield made
    report = cluster.report()
    cluster.close()
    forget(redis, prefix)
    close_leftovers()
    # Shown by pytest with a test that failed.
    print(report)
    assert_legal(url)
    tasker_server.drop(url)


def test_a_task_of_a_program_that_does_not_know_tasker_is_a_step(shop: Shop) -> None:
    step = shop.run("charge", {"amount": 7, "who": "ada"}, args=[{"$context": "/amount"}], kwargs={"card": "visa"})
    assert (step["state"], step["results"]) == ("complete", {"receipt": "visa:7", "knows_tasker": False})
    assert step["attempts"] == 1
    shop.worker.wait_for_log(rf"charge\[{step['step_uuid']}:1\] succeeded")


def test_what_it_raises_is_told_by_its_result_backend(shop: Shop) -> None:
    step = shop.run("charge", args=[1, 2], kwargs={"card": "visa"}, retry=ONCE)
    assert (step["state"], step["error"]["type"]) == ("error", "TypeError")
    assert "positional argument" in step["error"]["message"]
    # A class of that name is enough: no second attempt.
    step = shop.run("charge", args=[-1], kwargs={"card": "visa"})
    assert (step["state"], step["attempts"], step["error"]["message"]) == ("error", 1, "cannot charge -1")


def test_a_result_that_cannot_travel_is_a_permanent_error(shop: Shop) -> None:
    step = shop.run("unsendable")
    assert (step["state"], step["attempts"], step["error"]["type"]) == ("error", 1, "EncodeError")


def test_a_failed_attempt_is_followed_by_another_task(shop: Shop, tmp_path: Path) -> None:
    step = shop.run("second_call_lucky", args=[str(tmp_path)])
    assert (step["state"], step["attempts"], step["results"]) == ("complete", 2, "lucky")


def test_retries_of_the_task_itself_are_one_attempt(shop: Shop) -> None:
    step = shop.run("third_time_lucky")
    assert (step["state"], step["attempts"], step["results"]) == ("complete", 1, 2)


def test_a_task_that_replaces_itself_by_a_chord_has_the_chords_result(shop: Shop) -> None:
    step = shop.run("becomes_a_chord", args=[[1, 2, 3]])
    assert (step["state"], step["attempts"], step["results"]) == ("complete", 1, 9)


def test_a_sequence_of_calls_goes_where_the_task_that_is_called_goes(shop: Shop) -> None:
    made = workflow("foreign", "sequence", version="1.0.0")
    call = {
        "task": "foreign_shop.add",
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    made.celery_step("step", task="celery.starmap", kwargs={"task": call, "it": [[1, 2], [3, 4]]}, timeout_seconds=30)
    shop.cluster.register(made)
    (handle,) = shop.cluster.start(made, {})
    handle.wait(30)
    assert handle.results == {"step": [3, 7]}


def canvases(app: Celery) -> dict[str, Signature]:
    """Canvases of which Celery's eager mode makes something else than its workers, and one with all there is."""

    def seen(*args: Any, immutable: bool = False) -> Signature:
        return signature("foreign_shop.seen", args=args, immutable=immutable, app=app)

    a, b, c, d = (seen(name) for name in "abcd")
    found = {
        "everything": chain(
            seen("first"), group(chain(a, group(b, c), d), chord([a.clone(), seen("e")], seen())), b.clone(), c.clone()
        ),
        "a header that ends in a group": chord([a, chain(b, group(c, d))], seen()),
        "a group in a header": chord([group(a, b), c], seen()),
        "groups in groups": chain(group(group(a, group(b)), c), seen()),
        "a group of one in a chain": chain(a, group([b]), c),
        "a chain that begins with a group of one": chain([group([a]), b]),
        "a group of one before a task": group([a]) | b,
        "a group as a body": chain(chord([a, b], group(c, d)), seen()),
        "a group after a group": chain(group(a, b), group(c, d), seen()),
        "immutable tasks": chain(a, seen("b", immutable=True), group(seen("c", immutable=True), d), seen("last")),
        "map": chain(xmap(signature("foreign_shop.add_up", app=app), [[1, 2], [3]], app=app), seen()),
    }
    return {name: chain([canvas, seen("end")], app=app) for name, canvas in found.items()}


def test_a_canvas_computes_as_a_workflow_what_it_computes_in_celery(shop: Shop) -> None:
    app = Celery("client", set_as_current=False)
    prefix = {"global_keyprefix": shop.prefix}
    app.conf.update(
        broker_url=REDIS_URL,
        result_backend=REDIS_URL,
        broker_transport_options=prefix,
        result_backend_transport_options=prefix,
        task_default_queue="shop",
    )
    made = {}
    for number, (name, canvas) in enumerate(canvases(app).items()):
        made[name] = from_canvas(canvas, "foreign", f"canvas_{number}", version="1.0.0", timeout_seconds=30)
    shop.cluster.register(*made.values())
    handles = {name: shop.cluster.start(flow, {})[0] for name, flow in made.items()}
    for handle in handles.values():
        handle.wait(30)
    sent = {name: canvas.apply_async() for name, canvas in canvases(app).items()}
    expected = {name: result.get(timeout=30) for name, result in sent.items()}
    close(app)
    found = {name: handle.results[made[name].template.steps[-1].name] for name, handle in handles.items()}
    # Celery turns groups in groups round; a workflow keeps them as they are written.
    for name in ("a group in a header", "groups in groups"):
        assert found[name] == [[[["a"], ["b"], ["c"]]], "end"]
        for values in (found, expected):
            values[name][0][0].sort()
    assert found == expected


def test_a_rejected_message_is_a_failed_attempt_and_an_ignored_one_times_out(shop: Shop) -> None:
    ignored = shop.start("ignored", timeout_seconds=1, retry=ONCE)
    rejected = shop.start("rejected", timeout_seconds=2, retry=ONCE)
    for handle in (ignored, rejected):
        handle.wait(30)
    assert (shop.step(ignored)["state"], shop.step(ignored)["error"]["type"]) == ("error", "timeout")
    # Since Celery 5.7 a rejected message is a failure; before, the worker says nothing, and the step times out.
    assert (shop.step(rejected)["state"], shop.step(rejected)["error"]["type"]) in (
        ("error", "Reject"),
        ("error", "timeout"),
    )


def test_a_result_that_comes_after_the_timeout_changes_nothing(shop: Shop, tmp_path: Path) -> None:
    step = shop.run("first_call_waits", args=[str(tmp_path)], timeout_seconds=1.5)
    assert (step["state"], step["attempts"], step["results"]) == ("complete", 2, "attempt 2")
    (tmp_path / "gate").touch()
    shop.worker.wait_for_log(rf"first_call_waits\[{step['step_uuid']}:1\] succeeded")
    callbacks = f"{shop.prefix}tasker_step_results"
    wait_until(
        lambda: (
            not shop.redis.llen(callbacks)
            and not shop.redis.hlen(f"{shop.prefix}tasker_unacked")
            and not shop.cluster.value("SELECT count(*) FROM pgmq.q_orchestration_step_results")
        ),
        "the late result was looked at",
    )
    (again,) = shop.cluster.rows(
        "SELECT results, fence FROM tasker.workflow_steps WHERE step_uuid = %s", step["step_uuid"]
    )
    assert (again["results"], again["fence"]) == ("attempt 2", 2)


def test_a_cancelled_task_is_ended_where_the_step_says_so(shop: Shop, tmp_path: Path) -> None:
    folders = {terminate: tmp_path / str(terminate) for terminate in (True, False)}
    handles = {}
    for terminate, folder in folders.items():
        folder.mkdir()
        handles[terminate] = shop.start("first_call_waits", args=[str(folder)], terminate=terminate)
        wait_until(lambda folder=folder: (folder / "pid1").exists() and (folder / "pid1").read_text(), "it runs")  # type: ignore[misc]
    processes = {terminate: psutil.Process(int((folder / "pid1").read_text())) for terminate, folder in folders.items()}
    for handle in handles.values():
        shop.cluster.client.cancel(handle.task_uuid)
    wait_until(lambda: not processes[True].is_running(), "its process ended")
    shop.worker.wait_for_log(rf"Tasks flagged as revoked: .*{shop.step(handles[False])['step_uuid']}:1")
    assert processes[False].is_running()
    (folders[False] / "gate").touch()
    shop.worker.wait_for_log(rf"first_call_waits\[{shop.step(handles[False])['step_uuid']}:1\] succeeded")
    assert {handle.state for handle in handles.values()} == {"cancelled"}


def test_a_killed_process_is_a_failed_attempt_at_once(shop: Shop, tmp_path: Path) -> None:
    handle = shop.start("first_call_waits", args=[str(tmp_path)])
    wait_until(lambda: (tmp_path / "pid1").exists() and (tmp_path / "pid1").read_text(), "it runs")
    os.kill(int((tmp_path / "pid1").read_text()), signal.SIGKILL)
    handle.wait(20)
    assert handle.results == {"step": "attempt 2"}


def test_a_lost_worker_and_a_lost_message_are_noticed_by_the_deadline(shop: Shop, tmp_path: Path) -> None:
    # A worker that is slow to start may miss further attempts.
    patient: dict[str, Any] = {"timeout_seconds": 3, "retry": Retry(max_attempts=20, backoff="none")}
    running = shop.start("first_call_waits", args=[str(tmp_path)], **patient)
    wait_until(lambda: (tmp_path / "pid1").exists() and (tmp_path / "pid1").read_text(), "it runs")
    shop.worker.kill_all()
    waiting = shop.start("add", args=[1, 2], **patient)
    wait_until(lambda: shop.redis.llen(f"{shop.prefix}shop"), "its message waits")
    shop.redis.delete(f"{shop.prefix}shop")
    shop.worker = shop.start_worker("shop2")
    for handle in (running, waiting):
        handle.wait(60)
    assert running.results in [{"step": f"attempt {number}"} for number in range(2, 21)]
    assert waiting.results == {"step": 3}
    assert shop.step(waiting)["attempts"] > 1


def test_an_outcome_that_was_not_posted_when_its_reader_stopped_is_read_by_the_next(shop: Shop) -> None:
    app = Celery("client", broker=REDIS_URL, set_as_current=False)
    app.conf.broker_transport_options = {**REDIS_OPTIONS, "global_keyprefix": shop.prefix}
    steps = CelerySteps(lambda: StepApp(app, "others", is_other=True))
    posted: list[Any] = []
    tried = threading.Event()

    def refuse(outcome: Any) -> None:
        tried.set()
        raise psycopg.OperationalError("away")

    app.send_task(STEP_SUCCEEDED, (5,), {"step": {}}, queue="others")
    for post, done in ((refuse, tried.is_set), (posted.append, lambda: posted)):
        stop = StopSignal()
        receiver = CallbackReceiver(steps, post, max_result_bytes=1000, stop=stop)
        receiver.start()
        wait_until(done, "it was read")
        stop.set()
        receiver.end()
        stop.close()
    close(app)
    assert [outcome["results"] for outcome in posted] == [5]
