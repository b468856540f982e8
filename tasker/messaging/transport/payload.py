# mypy: allow-untyped-calls
"""kombu's messages as text that PostgreSQL stores: readable where it can be, exact always."""

from __future__ import annotations

import base64
from typing import Any

from kombu.utils import json

_WRAPPED = "tasker-base64"


def encode_message(message: dict[str, Any]) -> str:
    """``message`` as a JSON text that ``jsonb`` takes.

    Headers may hold what JSON in Python has and ``jsonb`` refuses: NUL characters, lone surrogates, NaN. Such a message
    is stored whole in base64: it must travel, whatever its sender put in. (The look for it errs on that side.)
    """
    text: str = json.dumps(message)
    if "\\u0000" in text or "\\ud" in text or "NaN" in text or "Infinity" in text:
        text = json.dumps({_WRAPPED: base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()})
    return text


def decode_message(text: str) -> dict[str, Any]:
    """The message that ``encode_message`` made ``text`` from."""
    message: dict[str, Any] = json.loads(text)
    wrapped = message.get(_WRAPPED)
    if wrapped is not None and len(message) == 1:
        message = json.loads(base64.b64decode(wrapped).decode("utf-8", "surrogatepass"))
    return message
