from __future__ import annotations

from pathlib import Path

import pytest

from tasker.errors import ContextInvalid, PermanentError, TemplateError
from tasker.handlers.results import ResultCheck
from tasker.workflows.contexts import check_context
from tasker.workflows.loading import load_template
from tasker.workflows.problems import InvalidTemplate
from tasker.workflows.schemas import Schema
from tests.unit.workflows.bad_inputs import (
    BAD_CONTEXTS,
    BAD_RESULTS,
    BAD_TEMPLATES,
    BASE_TEMPLATE,
    CONTEXT_SCHEMA,
    GOOD_CONTEXT,
    RESULT_SCHEMA,
    BadTemplate,
    BadValue,
)


def test_the_template_that_the_mistakes_are_made_in_is_right() -> None:
    assert load_template(BASE_TEMPLATE).full_name == "fulfillment/process_order:1.0.0"


@pytest.mark.parametrize("bad", BAD_TEMPLATES, ids=lambda bad: bad.case)
def test_a_bad_template_is_told_where_it_is_wrong_and_how(bad: BadTemplate) -> None:
    with pytest.raises(InvalidTemplate) as caught:
        load_template(bad.document)
    lines = str(caught.value).splitlines()
    assert "\n".join(line.removeprefix("template").removeprefix(": ") for line in lines) == bad.error


def test_a_template_read_from_a_file_is_told_the_files_name(tmp_path: Path) -> None:
    file = tmp_path / "order.yaml"
    file.write_text(BASE_TEMPLATE.replace("1.0.0", "one"))
    with pytest.raises(TemplateError) as caught:
        load_template(file)
    assert str(caught.value).startswith(f"{file}:3: version: must be three numbers")
    assert caught.value.field == "version"


def test_a_files_name_may_be_given_as_a_string(tmp_path: Path) -> None:
    file = tmp_path / "order.yaml"
    file.write_text(BASE_TEMPLATE)
    assert load_template(str(file)).name == "process_order"
    with pytest.raises(InvalidTemplate, match="cannot be read"):
        load_template("nowhere.yml")


def test_all_problems_are_told_at_once_in_the_order_of_their_lines() -> None:
    text = BASE_TEMPLATE.replace("fulfillment", "Fulfillment").replace("30", "-1").replace("ship_order", "ship-order")
    with pytest.raises(InvalidTemplate) as caught:
        load_template(text)
    assert [problem.line for problem in caught.value.problems] == [2, 9, 10]


def test_only_so_many_problems_are_printed() -> None:
    text = BASE_TEMPLATE + "".join(f"extra_{number}: 1\n" for number in range(40))
    with pytest.raises(InvalidTemplate) as caught:
        load_template(text)
    assert len(caught.value.problems) == 40
    assert str(caught.value).splitlines()[-1] == "and 15 more"


def test_a_good_context_passes() -> None:
    check_context(GOOD_CONTEXT, CONTEXT_SCHEMA, "fulfillment/process_order:1.0.0")
    check_context({"anything": 1}, None, "fulfillment/process_order:1.0.0")


@pytest.mark.parametrize("bad", BAD_CONTEXTS, ids=lambda bad: bad.case)
def test_a_bad_context_is_refused_with_the_field_and_how_it_differs(bad: BadValue) -> None:
    with pytest.raises(ContextInvalid) as caught:
        check_context(bad.value, CONTEXT_SCHEMA, "fulfillment/process_order:1.0.0")
    start = "the context does not fit the input_schema of fulfillment/process_order:1.0.0: "
    assert caught.value.message == start + bad.error
    assert caught.value.field == bad.place


def test_a_context_with_something_json_does_not_have_is_refused() -> None:
    with pytest.raises(ContextInvalid, match="holds something JSON does not have"):
        check_context({"order_id": 1, "items": {1, 2}}, CONTEXT_SCHEMA, "fulfillment/process_order:1.0.0")


@pytest.mark.parametrize("bad", BAD_RESULTS, ids=lambda bad: bad.case)
def test_a_bad_result_is_a_permanent_error_that_says_where(bad: BadValue) -> None:
    check = ResultCheck("reserve_inventory", Schema(RESULT_SCHEMA), None)
    with pytest.raises(PermanentError) as caught:
        check.result(bad.value)
    assert str(caught.value) == f"the result of step 'reserve_inventory' does not fit its result_schema: {bad.error}"
    assert caught.value.code == "result_invalid"
