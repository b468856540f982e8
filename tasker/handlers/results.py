"""What a handler returned, as the JSON value that is stored, checked against the step's ``result_schema``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from tasker.errors import PermanentError
from tasker.workflows.schemas import Schema
from tasker.workflows.typed import TypedValue

NOT_STORABLE = "result_not_storable"
MISMATCH = "result_invalid"

_PLAIN = (dict, list, str, int, float, bool, type(None))


class ResultCheck:
    """Turns what a step's handler returns into its result.

    Args:
        step_name: for messages.
        schema: the step's compiled ``result_schema``.
        returns: the handler's return type.
    """

    def __init__(self, step_name: str, schema: Schema | None, returns: TypedValue | None) -> None:
        self._step_name = step_name
        self._schema = schema
        self._returns = returns

    def result(self, value: Any) -> Any:
        """The result, as a JSON value that ``encoding.encode`` takes.

        Raises:
            PermanentError: it has no JSON form, or does not fit the schema.
        """
        plain = type(value) in _PLAIN
        result = value if plain else self._converted(value)
        if self._schema is None:
            return result
        try:
            difference = self._schema.explain(result)
        except ValueError:
            # Models, dates and the like inside plain lists and dicts: seldom, so looked for only when they disturb.
            result = self._converted(value)
            difference = self._explain(result)
        if difference is not None:
            raise PermanentError(
                f"the result of step {self._step_name!r} does not fit its result_schema: {difference[0]}",
                code=MISMATCH,
            )
        return result

    def _explain(self, result: Any) -> tuple[str, tuple[str | int, ...]] | None:
        assert self._schema is not None
        try:
            return self._schema.explain(result)
        except ValueError as error:
            raise self._not_storable(error) from error

    def _converted(self, value: Any) -> Any:
        try:
            if isinstance(value, BaseModel):
                return value.model_dump(mode="json", by_alias=True)
            if self._returns is not None:
                return self._returns.to_json(value)
            return to_jsonable_python(value, by_alias=True)
        except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
            raise self._not_storable(error) from error

    def _not_storable(self, error: Exception) -> PermanentError:
        return PermanentError(
            f"the result of step {self._step_name!r} cannot be stored as JSON: {error}; return plain JSON values, a "
            "pydantic model, a dataclass or a TypedDict",
            code=NOT_STORABLE,
        )
