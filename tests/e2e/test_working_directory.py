"""Handlers in a worker's working directory."""

from __future__ import annotations

from pathlib import Path

from tasker.workflows.loading import load_template
from tasker.workflows.registry import TemplateRegistry
from tests.e2e.fixtures import MakeCluster

TEMPLATE = """
name: local
namespace_name: here
version: 1.0.0
steps:
  - name: only
    handler: {callable: "found_here:run"}
"""


def test_a_worker_finds_handlers_in_its_working_directory_as_celery_finds_an_app_there(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    (tmp_path / "found_here.py").write_text("def run(ctx):\n    return ctx.context\n")
    # As the script `celery` is started: unlike `python -m celery`, without the working directory on sys.path.
    cluster = make_cluster(TASKER_ENGINE__HANDLER_MODULES="found_here", PYTHONSAFEPATH="1")
    TemplateRegistry(cluster.database, cluster.settings).register(load_template(TEMPLATE))
    cluster.worker("-Q", "here", "-P", "prefork", "-c", "1")
    handle = cluster.client.create("here", "local", {"n": 1})
    assert handle.wait(60).state == "complete"
    assert handle.results == {"only": {"n": 1}}
