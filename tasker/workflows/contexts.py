"""Checking the context of a task against the ``input_schema`` of its workflow, at the door."""

from __future__ import annotations

from typing import Any

from tasker.errors import ContextInvalid
from tasker.workflows.schemas import SchemaInvalid, compile_schema, pointer


def check_context(context: Any, input_schema: dict[str, Any] | None, workflow: str) -> None:
    """Check a context before a task is created from it, or admitted with it.

    Args:
        context: the context, as a JSON value.
        input_schema: the workflow's schema; ``None`` allows everything.
        workflow: how messages name the workflow (``fulfillment/process_order:1.0.0``).

    Raises:
        ContextInvalid: it does not fit; ``field`` is the first place, the message says how each place differs.
    """
    if input_schema is None:
        return
    try:
        difference = compile_schema(input_schema).explain(context)
    except SchemaInvalid as error:
        raise ContextInvalid(
            f"the input_schema of {workflow} is no JSON Schema this version understands: {error.message}",
            hint="register the workflow again under a higher version",
        ) from error
    except ValueError as error:
        raise ContextInvalid(
            f"the context for {workflow} holds something JSON does not have: {error}",
            hint="pass plain JSON values",
        ) from error
    if difference is not None:
        message, path = difference
        raise ContextInvalid(
            f"the context does not fit the input_schema of {workflow}: {message}",
            field=pointer(path) or None,
            hint=f"`tasker template show {workflow}` prints the schema",
        )
