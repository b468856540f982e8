"""Bad templates, contexts and results, each with the error it gets: data for tests, and for the reference.

Templates are the text below with some lines replaced (by number, from 1) and others appended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BASE_TEMPLATE = """\
name: process_order
namespace_name: fulfillment
version: 1.0.0
input_schema: {type: object, required: [order_id]}
steps:
  - name: validate_order
    handler: {callable: shop.orders:validate}
    retry: {max_attempts: 3}
    timeout_seconds: 30
  - name: ship_order
    handler: {callable: shop.orders:ship}
    depends_on: [validate_order]
"""


@dataclass(frozen=True)
class BadTemplate:
    """A mistake, and what is said about it.

    Attributes:
        case: the mistake, in words.
        error: all that is said, without the file's name.
        lines: lines of the base to replace, by their numbers.
        append: text to add at the end, from line 13 on.
        text: the whole text instead.
    """

    case: str
    error: str
    lines: dict[int, str] = field(default_factory=dict)
    append: str = ""
    text: str | None = None

    @property
    def document(self) -> str:
        """The text of the template."""
        if self.text is not None:
            return self.text
        lines = BASE_TEMPLATE.splitlines()
        for number, line in self.lines.items():
            lines[number - 1] = line
        return "\n".join([*lines, self.append])


BAD_TEMPLATES = [
    # what is no template at all
    BadTemplate("an empty file", "is empty: a template has name, namespace_name, version and steps", text=""),
    BadTemplate(
        "a list instead of fields",
        ":1: must be a mapping of fields: a template has name, namespace_name, version and steps",
        text="- name: process_order",
    ),
    BadTemplate(
        "broken YAML",
        ":3: is not valid YAML: mapping values are not allowed here",
        lines={3: "version: 1.0.0: 2"},
    ),
    BadTemplate(
        "two documents in one file",
        ":13: a file may hold one document only: give each template its own",
        append="---\nname: other",
    ),
    BadTemplate(
        "a field that stands twice",
        ":4: 'name' stands twice in one mapping, first in line 1",
        lines={4: "name: other"},
    ),
    BadTemplate(
        "a tag that would build an object",
        ":4: the tag tag:yaml.org,2002:python/object/apply:os.system is not allowed: templates hold plain values only",
        lines={4: "metadata: !!python/object/apply:os.system [ls]"},
    ),
    BadTemplate(
        "an alias bomb",
        ":6: holds more than 200,000 values, counting what aliases repeat",
        text="a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(
            f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
            for before, name in zip("abcdefgh", "bcdefghi", strict=True)
        ),
    ),
    BadTemplate(
        "an alias inside what it repeats",
        ":4: metadata.again: the alias *whole stands inside what it repeats",
        lines={4: "metadata: &whole {again: *whole}"},
    ),
    BadTemplate("a value nested too deep", ":4: is nested deeper than 32 levels", lines={4: f"metadata: {'[' * 40}"}),
    BadTemplate(
        "a number that JSON cannot carry",
        ":4: '.inf' is no number that JSON can carry",
        lines={4: "metadata: {ratio: .inf}"},
    ),
    BadTemplate(
        "a key that is a number",
        ":4: the key '1' is not a string: put it in quotes",
        lines={4: "metadata: {1: one}"},
    ),
    # names and versions
    BadTemplate(
        "a name in capitals",
        ":1: name: must be lower-case letters, digits and underscores, a letter first, not 'ProcessOrder'; "
        "'process_order' would do",
        lines={1: "name: ProcessOrder"},
    ),
    BadTemplate(
        "a reserved namespace",
        ":2: namespace_name: 'task_requests' is reserved for Tasker's own queues: choose another namespace",
        lines={2: "namespace_name: task_requests"},
    ),
    BadTemplate(
        "a namespace too long for a queue's name",
        ":2: namespace_name: must have at most 33 characters, not 40: it names a queue",
        lines={2: f"namespace_name: {'n' * 40}"},
    ),
    BadTemplate(
        "a version of two numbers",
        ":3: version: must be a text, not 1.0: write three numbers with points, such as 1.0.0",
        lines={3: "version: 1.0"},
    ),
    BadTemplate(
        "a version with words",
        ":3: version: must be three numbers with points, such as 1.0.0, not '1.0.0-beta'",
        lines={3: "version: 1.0.0-beta"},
    ),
    # fields
    BadTemplate(
        "an unknown field of the template",
        ":4: input_shema: unknown field, did you mean 'input_schema'?",
        lines={4: "input_shema: {}"},
    ),
    BadTemplate(
        "an unknown field of a step",
        ":9: step 'validate_order': timeout: unknown field, did you mean 'timeout_seconds'?",
        lines={9: "    timeout: 30"},
    ),
    BadTemplate(
        "an unknown field of a retry policy",
        ":8: step 'validate_order': retry.max_retries: unknown field, did you mean 'max_attempts'?",
        lines={8: "    retry: {max_retries: 3}"},
    ),
    BadTemplate(
        "a step without a handler",
        ":6: step 'validate_order': handler: is required",
        lines={7: "    description: checks it"},
    ),
    BadTemplate(
        "a handler without a callable",
        ":7: step 'validate_order': handler.callable: is required\n"
        ":7: step 'validate_order': handler.class: unknown field",
        lines={7: "    handler: {class: Validate}"},
    ),
    BadTemplate(
        "a number in quotes",
        ":9: step 'validate_order': timeout_seconds: must be a number, not '30'",
        lines={9: '    timeout_seconds: "30"'},
    ),
    BadTemplate(
        "a timeout of nothing",
        ":9: step 'validate_order': timeout_seconds: must be more than 0, not 0",
        lines={9: "    timeout_seconds: 0"},
    ),
    BadTemplate(
        "an unknown kind of backoff",
        ":8: step 'validate_order': retry.backoff: must be exponential, linear, fixed or none, not 'exponental', "
        "did you mean 'exponential'?",
        lines={8: "    retry: {backoff: exponental}"},
    ),
    BadTemplate(
        "a negative number of attempts",
        ":8: step 'validate_order': retry.limit: must be at least 0, not -1",
        lines={8: "    retry: {limit: -1}"},
    ),
    BadTemplate(
        "one value under two names",
        ":8: step 'validate_order': retry.limit: 'limit' and 'max_attempts' mean the same: give one of them",
        lines={8: "    retry: {limit: 3, max_attempts: 3}"},
    ),
    BadTemplate(
        "one delay in two units",
        ":8: step 'validate_order': retry.initial_delay: 'initial_delay' and 'backoff_base_ms' mean the same: "
        "give one of them",
        lines={8: "    retry: {initial_delay: 1, backoff_base_ms: 1000}"},
    ),
    BadTemplate(
        "dependencies under two names",
        ":13: step 'ship_order': dependencies: 'dependencies' and 'depends_on' mean the same: give one of them",
        append="    dependencies: [validate_order]",
    ),
    BadTemplate(
        "a kind of step that is not built yet",
        ":9: step 'validate_order': type: steps of type 'decision' are not supported yet: only 'standard' is",
        lines={9: "    type: decision"},
    ),
    BadTemplate(
        "a batch configuration",
        ":9: step 'validate_order': batch_config: belongs to steps of type 'batchable', which are not supported yet",
        lines={9: "    batch_config: {batch_size: 10}"},
    ),
    BadTemplate(
        "no steps", ":5: steps: must have at least one step", text=BASE_TEMPLATE.split("steps:")[0] + "steps: []"
    ),
    # values of another kind
    BadTemplate(
        "steps that are no list",
        ":5: steps: must be a list, not a mapping",
        text=BASE_TEMPLATE.split("steps:")[0] + "steps: {validate_order: {}}",
    ),
    BadTemplate(
        "a step that is a word",
        ":6: step '#1': must be a mapping, not 'validate_order'",
        text=BASE_TEMPLATE.split("steps:")[0] + "steps:\n  - validate_order",
    ),
    BadTemplate(
        "a retry policy that is a number",
        ":8: step 'validate_order': retry: must be a mapping, not 3",
        lines={8: "    retry: 3"},
    ),
    BadTemplate(
        "a flag that is a word",
        ":8: step 'validate_order': retry.retryable: must be true or false, not 'yes'",
        lines={8: "    retry: {retryable: yes}"},
    ),
    BadTemplate(
        "a number with a fraction",
        ":8: step 'validate_order': retry.max_attempts: must be a whole number, not 2.5",
        lines={8: "    retry: {max_attempts: 2.5}"},
    ),
    BadTemplate(
        "a name that is a number",
        ":9: step 'validate_order': system_dependency: must be a text, not 7",
        lines={9: "    system_dependency: 7"},
    ),
    BadTemplate(
        "a timeout of months",
        ":9: step 'validate_order': timeout_seconds: must be at most 2,592,000, not 10000000",
        lines={9: "    timeout_seconds: 10000000"},
    ),
    BadTemplate(
        "a callable of nothing",
        ":7: step 'validate_order': handler.callable: must not be empty",
        lines={7: "    handler: {callable: ''}"},
    ),
    BadTemplate(
        "a callable with spaces",
        ":7: step 'validate_order': handler.callable: must not contain spaces",
        lines={7: "    handler: {callable: shop validate}"},
    ),
    BadTemplate(
        "a callable of pages",
        ":7: step 'validate_order': handler.callable: must have at most 500 characters",
        lines={7: f"    handler: {{callable: {'a' * 600}}}"},
    ),
    BadTemplate(
        "a method with a dot",
        ":7: step 'validate_order': handler.method: must be the name of a method, not 'a.b'",
        lines={7: "    handler: {callable: shop.Orders, method: a.b}"},
    ),
    BadTemplate(
        "environments that are a list",
        ":13: environments: must be a mapping, not a list",
        append="environments: [test]",
    ),
    # the graph
    BadTemplate(
        "a dependency that does not exist",
        ":12: step 'ship_order': depends_on[0]: there is no step 'validate_orders', did you mean 'validate_order'?",
        lines={12: "    depends_on: [validate_orders]"},
    ),
    BadTemplate(
        "a cycle",
        ":8: step 'validate_order': depends_on: the steps wait for one another in a cycle: "
        "validate_order -> ship_order -> validate_order",
        lines={8: "    depends_on: [ship_order]"},
    ),
    BadTemplate(
        "a step that waits for itself",
        ":12: step 'ship_order': dependencies: depends on itself",
        lines={12: "    dependencies: [ship_order]"},
    ),
    BadTemplate(
        "two steps of one name",
        ":10: step 'validate_order': name: another step has this name (the other is in line 6)",
        lines={10: "  - name: validate_order", 12: ""},
    ),
    BadTemplate(
        "a dependency named twice",
        ":12: step 'ship_order': depends_on: names 'validate_order' 2 times",
        lines={12: "    depends_on: [validate_order, validate_order]"},
    ),
    # schemas
    BadTemplate(
        "a schema with an unknown type",
        ":4: input_schema.properties.order_id.type: is no valid JSON Schema: must be array, boolean, integer, null, "
        "number, object, string, or a list of these, not 'int'",
        lines={4: "input_schema: {properties: {order_id: {type: int}}}"},
    ),
    BadTemplate(
        "a schema that refers to the network",
        ":4: input_schema.$ref: is no valid JSON Schema: refers to https://example.com/order.json; a schema may refer "
        "to its own parts only",
        lines={4: 'input_schema: {$ref: "https://example.com/order.json"}'},
    ),
    BadTemplate(
        "a schema of a draft that is not known",
        ":4: input_schema.$schema: is no valid JSON Schema: must be one of "
        "https://json-schema.org/draft/2020-12/schema, http://json-schema.org/draft-07/schema, not "
        "'http://json-schema.org/draft-04/schema#'",
        lines={4: 'input_schema: {$schema: "http://json-schema.org/draft-04/schema#"}'},
    ),
    # steps that are Celery tasks
    BadTemplate(
        "a Celery task's call with an unknown field",
        ":7: step 'validate_order': handler.initialization.kwarg: unknown field of a Celery task's call, "
        "did you mean 'kwargs'?",
        lines={7: "    handler: {callable: 'celery:shop.validate', initialization: {kwarg: {}}}"},
    ),
    BadTemplate(
        "a Celery task that takes a result it does not wait for",
        ":7: step 'validate_order': handler.initialization.args[0]: $result names 'ship_order', on which the step does "
        "not depend",
        lines={7: "    handler: {callable: 'celery:shop.validate', initialization: {args: [{$result: ship_order}]}}"},
    ),
    BadTemplate(
        "a Celery task's option out of its range",
        ":7: step 'validate_order': handler.initialization.priority: must be a whole number from 0 to 255",
        lines={7: "    handler: {callable: 'celery:shop.validate', initialization: {priority: high}}"},
    ),
    BadTemplate(
        "a Celery task that would begin after its end",
        ":7: step 'validate_order': handler.initialization.countdown: must be below expires (20 s): the task would "
        "never begin",
        lines={7: "    handler: {callable: 'celery:shop.validate', initialization: {countdown: 25, expires: 20}}"},
    ),
    BadTemplate(
        "a Celery task without a name",
        ":7: step 'validate_order': handler.callable: names no Celery task: write celery:package.tasks.name",
        lines={7: "    handler: {callable: 'celery:'}"},
    ),
    BadTemplate(
        "a Celery task with a method",
        ":7: step 'validate_order': handler.method: means nothing for a Celery task",
        lines={7: "    handler: {callable: 'celery:shop.validate', method: run}"},
    ),
    # environments
    BadTemplate(
        "an override of a step that does not exist",
        ":16: environment 'production': step 'ship_orders': name: no step has this name, did you mean 'ship_order'?",
        append="environments:\n  production:\n    steps:\n      - name: ship_orders\n        timeout_seconds: 60",
    ),
    BadTemplate(
        "an override with an unknown field",
        ":17: environment 'production': step 'ship_order': timeout: unknown field, did you mean 'timeout_seconds'?",
        append="environments:\n  production:\n    steps:\n      - name: ship_order\n        timeout: 60",
    ),
    BadTemplate(
        "an override that makes a cycle",
        ":17: environment 'production': step 'validate_order': depends_on: the steps wait for one another in a cycle: "
        "validate_order -> ship_order -> validate_order",
        append="environments:\n  production:\n    steps:\n      - name: validate_order\n"
        "        depends_on: [ship_order]",
    ),
    BadTemplate(
        "a step overridden twice",
        ":17: environment 'test': step 'ship_order': name: is overridden twice in this environment",
        append="environments:\n  test:\n    steps:\n      - {name: ship_order, timeout_seconds: 1}\n"
        "      - {name: ship_order, timeout_seconds: 2}",
    ),
    # what only Python declares
    BadTemplate("hooks in YAML", ":13: hooks: unknown field", append="hooks: {on_complete: [shop.hooks:done]}"),
]

CONTEXT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["order_id", "items"],
    "additionalProperties": False,
    "properties": {
        "order_id": {"type": "integer", "minimum": 1},
        "email": {"type": "string", "format": "email"},
        "items": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "required": ["sku"], "properties": {"sku": {"type": "string"}}},
        },
    },
}


@dataclass(frozen=True)
class BadValue:
    """A context or a result that does not fit its schema.

    Attributes:
        case: the mistake, in words.
        value: the value.
        error: how the message ends.
        place: the field that is named first; ``None`` for the whole value.
    """

    case: str
    value: Any
    error: str
    place: str | None = None


GOOD_CONTEXT: dict[str, Any] = {"order_id": 42, "items": [{"sku": "A-1"}]}

BAD_CONTEXTS = [
    BadValue("a required field is missing", {"items": [{"sku": "A-1"}]}, "order_id: is required", "order_id"),
    BadValue(
        "a field has another type",
        {**GOOD_CONTEXT, "order_id": "42"},
        'order_id: "42" is not of type "integer"',
        "order_id",
    ),
    BadValue(
        "a number is out of range",
        {**GOOD_CONTEXT, "order_id": 0},
        "order_id: 0 is less than the minimum of 1",
        "order_id",
    ),
    BadValue("an unknown field", {**GOOD_CONTEXT, "order": 1}, "order: is not allowed here", "order"),
    BadValue(
        "a format that does not hold",
        {**GOOD_CONTEXT, "email": "nobody"},
        'email: "nobody" is not a "email"',
        "email",
    ),
    BadValue(
        "a mistake deep inside",
        {"order_id": 1, "items": [{"sku": "A-1"}, {}]},
        "items[1].sku: is required",
        "items[1].sku",
    ),
    BadValue("no object at all", [1, 2], '[1,2] is not of type "object"'),
    BadValue(
        "many mistakes are bounded",
        {"order_id": 1, "items": [{} for _ in range(20)]},
        "items[0].sku: is required; items[1].sku: is required; items[2].sku: is required; items[3].sku: is required; "
        "items[4].sku: is required; and more",
        "items[0].sku",
    ),
]

RESULT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["reservation"],
    "properties": {"reservation": {"type": "string"}, "quantity": {"type": "integer"}},
}

BAD_RESULTS = [
    BadValue("nothing is returned", None, 'null is not of type "object"'),
    BadValue("a field is missing", {"quantity": 1}, "reservation: is required"),
    BadValue(
        "a field has another type",
        {"reservation": "r-1", "quantity": "two"},
        'quantity: "two" is not of type "integer"',
    ),
    BadValue("a list instead of an object", ["r-1"], '["r-1"] is not of type "object"'),
]
