from __future__ import annotations

from pathlib import Path

import pytest

from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.database.connection import Database
from tasker.errors import ConfigurationError, ContextInvalid, TemplateInUse, UnknownTemplate
from tasker.handlers.checks import check_handlers
from tasker.workflows.loading import load_template
from tasker.workflows.problems import InvalidTemplate
from tasker.workflows.registry import TemplateRegistry
from tests.unit.workflows import shop

FOLDER = Path(__file__).parents[2] / "data" / "templates"

TEXT = """\
name: orders
namespace_name: shop
version: 1.0.0
description: takes orders
input_schema: {type: object, required: [order_id]}
steps:
  - name: ship
    handler: {callable: shop.ship}
    depends_on: [charge]
  - name: charge
    handler: {callable: shop.charge}
    namespace: payments
environments:
  test:
    steps: [{name: ALL, timeout_seconds: 5}]
"""


def create_task(core: OrchestrationCore, version: str) -> None:
    with core.database.connection() as connection:
        connection.execute("SELECT tasker.create_task('shop', 'orders', '{\"order_id\": 1}', %s)", [version])


def test_a_registered_version_is_read_back_as_it_was_declared(tasker_core: OrchestrationCore) -> None:
    template = load_template(TEXT)
    registered = tasker_core.templates.register(template)
    assert (registered.workflow, registered.is_new, registered.replaced) == ("shop/orders:1.0.0", True, False)
    found = tasker_core.templates.get("shop", "orders")
    assert found.full_name == "shop/orders:1.0.0"
    assert found.named_task_id == registered.named_task_id
    assert found.graph == {"charge": (), "ship": ("charge",)}
    assert found.document["steps"][0]["name"] == "ship"
    assert found == tasker_core.templates.get_by_id(registered.named_task_id)
    found.check_context({"order_id": 1})
    with pytest.raises(ContextInvalid, match="order_id: is required"):
        found.check_context({})


def test_the_four_templates_of_the_original_engine_are_registered_unchanged(tasker_core: OrchestrationCore) -> None:
    assert len(tasker_core.templates.load([FOLDER])) == 4
    assert {record.name: record.step_count for record in tasker_core.templates.list()} == {
        "credit_card_payment": 5,
        "diamond_workflow": 4,
        "ecommerce_order_processing_py": 5,
        "mathematical_sequence_py": 4,
    }
    assert [entry.is_new for entry in tasker_core.templates.load([FOLDER])] == [False] * 4


def test_a_workflow_declared_in_python_is_registered_with_its_hooks(tasker_core: OrchestrationCore) -> None:
    tasker_core.templates.register(shop.orders)
    found = tasker_core.templates.get("fulfillment", "process_order", "1.0.0")
    assert found.record.has_after_work is True
    assert found.document["hooks"] == {
        "on_complete": ["tests.unit.workflows.shop:tell_accounting"],
        "on_error": ["tests.unit.workflows.shop:tell_support"],
    }


def test_the_same_definition_again_changes_nothing(tasker_core: OrchestrationCore) -> None:
    first = tasker_core.templates.register(load_template(TEXT))
    again = tasker_core.templates.register(load_template("# another comment\n" + TEXT))
    assert (again.named_task_id, again.is_new, again.replaced) == (first.named_task_id, False, False)


def test_another_definition_replaces_a_version_until_a_task_uses_it(tasker_core: OrchestrationCore) -> None:
    tasker_core.templates.register(load_template(TEXT))
    changed = load_template(TEXT.replace("takes orders", "takes all orders"))
    assert tasker_core.templates.register(changed).replaced is True
    assert tasker_core.templates.get("shop", "orders").document["description"] == "takes all orders"
    create_task(tasker_core, "1.0.0")
    with pytest.raises(TemplateInUse, match="a different definition of shop/orders is registered as"):
        tasker_core.templates.register(load_template(TEXT))
    raised = load_template(TEXT.replace("1.0.0", "1.10.0"))
    assert tasker_core.templates.register(raised).is_new is True
    tasker_core.templates.register(load_template(TEXT.replace("1.0.0", "1.9.0")))
    assert tasker_core.templates.get("shop", "orders").record.version == "1.10.0"


def test_registration_is_part_of_the_callers_transaction(tasker_core: OrchestrationCore) -> None:
    with tasker_core.database.connection() as connection:
        with connection.transaction(force_rollback=True):
            tasker_core.templates.register(load_template(TEXT), connection=connection)
            assert tasker_core.templates.get("shop", "orders", connection=connection).record.version == "1.0.0"
    with pytest.raises(UnknownTemplate):
        tasker_core.templates.get("shop", "orders")


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("order", None, "no workflow shop/order is registered, did you mean 'shop/orders'?"),
        ("refunds_of_gifts", None, "no workflow shop/refunds_of_gifts is registered (`tasker template list`"),
        ("orders", "2.0.0", "no version 2.0.0 of shop/orders is registered, only 1.0.0"),
    ],
)
def test_an_unknown_workflow_is_told_the_nearest(
    tasker_core: OrchestrationCore, name: str, version: str | None, message: str
) -> None:
    tasker_core.templates.register(load_template(TEXT))
    with pytest.raises(UnknownTemplate) as caught:
        tasker_core.templates.get("shop", name, version)
    assert str(caught.value).startswith(message)


def test_a_folder_is_loaded_whole_or_not_at_all(tasker_core: OrchestrationCore, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TEXT)
    (tmp_path / "b.yaml").write_text(TEXT.replace("name: orders", "name: refunds").replace("[charge]", "[chrage]"))
    with pytest.raises(InvalidTemplate, match="there is no step 'chrage', did you mean 'charge'"):
        tasker_core.templates.load([tmp_path])
    (tmp_path / "b.yaml").write_text(TEXT)
    with pytest.raises(InvalidTemplate, match=r"shop/orders:1.0.0 is defined in .*a\.yaml too"):
        tasker_core.templates.load([tmp_path])
    (tmp_path / "b.yaml").unlink()
    with pytest.raises(InvalidTemplate, match=r"engine\.handler_modules"):
        tasker_core.templates.load([tmp_path], check=lambda loaded: check_handlers(loaded, tasker_core.handlers))
    assert tasker_core.templates.list() == ()
    assert len(tasker_core.templates.load([tmp_path])) == 1


def test_a_path_that_does_not_exist_is_refused(tasker_core: OrchestrationCore, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file or folder"):
        tasker_core.templates.load([tmp_path / "nowhere"])


def test_the_overrides_of_the_current_environment_apply(tasker_database_url: str) -> None:
    with_database = Database(tasker_database_url)
    try:
        registry = TemplateRegistry(with_database, Settings.model_validate({"environment": "test"}))
        registry.register(load_template(TEXT))
        steps = registry.get("shop", "orders").definition["steps"]
        assert [(step["name"], step["timeout_seconds"]) for step in steps] == [("charge", 5), ("ship", 5)]
    finally:
        with_database.close()


def test_templates_are_remembered_for_as_long_as_the_settings_say(tasker_database_url: str) -> None:
    now = [0.0]
    settings = Settings.model_validate({"query_cache": {"task_metadata": {"ttl_seconds": 60}}})
    database = Database(tasker_database_url)
    try:
        reader = TemplateRegistry(database, settings, monotonic=lambda: now[0])
        writer = TemplateRegistry(database, settings)
        writer.register(load_template(TEXT))
        assert reader.get("shop", "orders").record.version == "1.0.0"
        writer.register(load_template(TEXT.replace("1.0.0", "2.0.0")))
        assert reader.get("shop", "orders").record.version == "1.0.0"
        now[0] = 60.0
        assert reader.get("shop", "orders").record.version == "2.0.0"
    finally:
        database.close()
