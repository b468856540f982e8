"""The reference of bad input: each mistake with the error that it really gets, observed by making it.

The mistakes are the data of the tests that also prove that none leaves a trace.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import psycopg
from click.testing import CliRunner

from docs.pages.markdown import code, page, table
from tasker import Tasker
from tasker.cli import main
from tasker.config.manager import ConfigManager
from tasker.config.problems import InvalidSettings
from tasker.errors import ContextInvalid, PermanentError, TaskerError
from tasker.handlers.results import ResultCheck
from tasker.workflows.contexts import check_context
from tasker.workflows.loading import load_template
from tasker.workflows.problems import InvalidTemplate
from tasker.workflows.schemas import Schema
from tests.integration.bad_input.calls import BAD_IDENTIFIERS, BAD_SIZES, BAD_VALUES
from tests.integration.bad_input.commands import BAD_COMMANDS, BadCommand
from tests.integration.bad_input.messages import BAD_MESSAGES, send_bad
from tests.integration.bad_input.shop import LIMIT, RETURNED, SHOP_QUEUE, Shop, shop_at
from tests.integration.bad_input.statements import BAD_SQL, BadSql
from tests.integration.sql import test_creating_tasks as by_sql
from tests.integration.test_client_creating import REFUSED, shop
from tests.sql_kit import CHAIN, Core
from tests.unit.config.test_bad_settings import BAD
from tests.unit.workflows import bad_inputs as unit

Create = Callable[[], str]

INTRO = """
What is wrong is refused where it comes in, with an error that says what, where, and what to do (in parentheses below,
the `hint` of the exception); nothing of it is left in the tables. A message that is not understood goes to
`tasker.dead_letters` with its reason, and no message or value keeps its neighbours from being processed. Every line
below was observed by making the mistake.
"""

MESSAGES = """
A message on a queue cannot be answered, so it goes to `tasker.dead_letters` whole: `reason` is the first column, what
is wrong stands in `snapshot->>'why'`. See [dead letters](../how-to/operate.md#dead-letters).
"""

RESULTS = """
A result that is wrong is a permanent error of its step; `error` of the step has this `type` and `message`. The other
steps of the batch are not touched.
"""

SIZES = f"""
The limits are [settings](settings.md): `system.max_context_bytes` and `system.max_result_bytes` (1 MiB each; here
{LIMIT:,} bytes), `pgmq.max_message_bytes` (2 MiB; here {4 * LIMIT:,}), and 200 levels of nesting.
"""

_UUID = re.compile(r"(?!00000000-)[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_LONGEST = 400
_CHECKOUT = Path(__file__).resolve().parents[2]


def make(create: Create) -> str:
    """The page.

    Args:
        create: makes a migrated database, and returns its URL.
    """
    with shop_at(create()) as place:
        task, answer = place.charge()
        calls = {
            name: [[each.case, code(each.call), _raised(lambda each=each: each.do(place, task))] for each in group]
            for name, group in (
                ("Identifiers", BAD_IDENTIFIERS),
                ("Sizes", BAD_SIZES),
                ("Values", BAD_VALUES),
            )
        }
        statements = [[each.case, _sql(place, each, str(task.task_uuid))] for each in BAD_SQL]
        commands = [_command(place.url, each) for each in BAD_COMMANDS]
        messages = _messages(place, answer)
        returned = _returned(place)
    head = ["what", "how", "error"]
    text = page(
        "Bad input",
        INTRO,
        "## Templates",
        "`tasker template validate` tells all of it at once, each with its line.",
        table(["what", "error"], _templates()),
        "## Settings",
        "All that is wrong is told at once, when a program starts.",
        table(["what", "error"], _settings()),
        "## Contexts and requests",
        "By the client:",
        table(["what", "error"], [*_contexts(), *_requests(create())]),
        "By `tasker.create_tasks` in SQL, where `field` is the column name of the error:",
        table(["request", "SQLSTATE, field", "error"], _sql_requests(create())),
        "## Results",
        RESULTS,
        table(["what", "type", "message"], [*_results(), *returned]),
        "## Messages",
        MESSAGES,
        *messages,
        "## Identifiers",
        table(head, calls["Identifiers"]),
        "## Sizes",
        SIZES,
        table(head, calls["Sizes"]),
        "## Values that JSON or PostgreSQL cannot carry",
        table(head, calls["Values"]),
        "## Statements",
        table(["what", "SQLSTATE and error"], statements),
        "## Commands",
        "Exit code 1: failed; 2: called wrongly.",
        table(["command", "exit code", "error"], commands),
    )
    # Shipped settings are named by where they are: say it as from the top of a checkout, wherever this one lies.
    return text.replace(f"{_CHECKOUT}/", "")


# -- observed without a database ----------------------------------------------------------------------------------


def _templates() -> Iterable[list[str]]:
    for bad in unit.BAD_TEMPLATES:
        try:
            load_template(bad.document)
        except InvalidTemplate as error:
            lines = [line.removeprefix("template").removeprefix(": ") for line in str(error).splitlines()]
            text = "<br>".join(_shown(f"orders.yaml{line if line.startswith(':') else f': {line}'}") for line in lines)
            yield [bad.case, text]


def _settings() -> Iterable[list[str]]:
    for bad in BAD:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            file = Path("settings", "base", "mine.toml")
            file.parent.mkdir(parents=True)
            file.write_text(bad.toml, encoding="utf-8")
            try:
                ConfigManager.load("development", environ=bad.variables)
            except InvalidSettings as error:
                yield [bad.name, "<br>".join(_shown(str(problem)) for problem in error.problems)]


def _contexts() -> Iterable[list[str]]:
    for bad in unit.BAD_CONTEXTS:
        try:
            check_context(bad.value, unit.CONTEXT_SCHEMA, "fulfillment/process_order:1.0.0")
        except ContextInvalid as error:
            yield [bad.case, _error(error)]


def _results() -> Iterable[list[str]]:
    check = ResultCheck("reserve_inventory", Schema(unit.RESULT_SCHEMA), None)
    for bad in unit.BAD_RESULTS:
        try:
            check.result(bad.value)
        except PermanentError as error:
            yield [bad.case, code(str(error.code)), _shown(str(error))]


# -- observed in a database ---------------------------------------------------------------------------------------


def _requests(url: str) -> list[list[str]]:
    shop(url).close()
    base = {"namespace": "shop", "name": "order", "context": {"order_id": 42}}
    with Tasker(url) as client:
        return [
            [what, _raised(lambda change=change: client.create_many([{**base, **change}]))]
            for what, change, _, _ in REFUSED
        ]


def _sql_requests(url: str) -> list[list[str]]:
    core = Core(url)
    core.register("order", CHAIN)
    core.register("keyed", CHAIN, identity_strategy="caller_provided")
    core.register("exact", CHAIN, identity_strategy="strict")
    core.register("small", CHAIN, max_context_bytes=100)
    rows = []
    for request, *_ in by_sql.BAD_REQUESTS:
        try:
            core.create_many([request])
        except psycopg.Error as error:
            shown = textwrap.shorten(str({k: v for k, v in request.items() if k != "namespace"}), 70, placeholder="…")
            rows.append(
                [code(shown), f"{code(str(error.sqlstate))}, {code(str(error.diag.column_name))}", _diag(error)]
            )
    core.close()
    return rows


def _messages(place: Shop, answer: dict[str, object]) -> list[str]:
    parts = []
    for queue, bad_ones in BAD_MESSAGES.items():
        sent = {place_of: bad for bad in bad_ones for place_of in [send_bad(place, queue, bad, answer)]}
        place.run()
        letters = place.dead_letters()
        rows = []
        for msg_id, bad in sent.items():
            reason, why = letters[queue, msg_id]
            rows.append([bad.case, code(reason), "" if why is None else _shown(why)])
        name = "a step queue, such as `shop_queue`" if queue == SHOP_QUEUE else code(queue)
        parts += [f"On {name}:", table(["what", "reason", "why"], rows)]
    return parts


def _returned(place: Shop) -> list[list[str]]:
    tasks = {what: place.client.create("shop", "order", {"returns": what}) for what in RETURNED}
    place.run()
    rows = []
    for what, task in tasks.items():
        error = place.client.steps(task)[0].error
        rows.append([what, code(error["type"]), _shown(error["message"])])
    return rows


def _sql(place: Shop, bad: BadSql, task_uuid: str) -> str:
    try:
        place.rows(bad.statement.replace("TASK", task_uuid))
    except psycopg.Error as error:
        return f"{code(str(error.sqlstate))} {_diag(error)}"
    raise AssertionError(f"not refused: {bad.statement}")


def _command(url: str, bad: BadCommand) -> list[str]:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        environment = {**os.environ, "DATABASE_URL": url, "TASKER_ENV": "test"}
        result = CliRunner().invoke(main, bad.arguments, env=environment)
    lines = result.output.strip().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("Error:"))
    words = " ".join(word if re.fullmatch(r"[\w.:/-]+", word) else f"'{word}'" for word in ("tasker", *bad.arguments))
    return [code(words), str(result.exit_code), "<br>".join(map(_shown, lines[first:]))]


# -- how errors are shown -----------------------------------------------------------------------------------------


def _raised(call: Callable[[], object]) -> str:
    try:
        call()
    except TaskerError as error:
        return _error(error)
    raise AssertionError("not refused")


def _error(error: TaskerError) -> str:
    return f"{code(type(error).__name__)}: {_shown(str(error))}"


def _diag(error: psycopg.Error) -> str:
    hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
    return _shown(f"{error.diag.message_primary}{hint}")


def _shown(text: str) -> str:
    """A message as it is printed: in part where it is long, and without uuids that differ each time."""
    text = _UUID.sub("…", " ".join(text.split()))
    return code(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
