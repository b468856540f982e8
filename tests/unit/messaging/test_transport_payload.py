"""Messages as text for PostgreSQL."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasker.messaging.transport.payload import decode_message, encode_message
from tasker.messaging.transport.poll import Held
from tasker.messaging.transport.qos import held_by, mail_tag_of, mailbox_of, tag_of

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["body", "headers", "properties"]), JSON))
def test_a_message_survives(message: dict[str, Any]) -> None:
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize("hostile", ["\0", "\ud800", float("nan"), float("-inf")])
def test_what_jsonb_refuses_is_not_in_the_text(hostile: object) -> None:
    text = encode_message({"headers": {"h": hostile}})
    text.encode()
    assert "\\u0000" not in text
    assert "\\ud8" not in text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is in the text"))


def test_plain_messages_stay_readable_and_kombus_types_come_back() -> None:
    message = {"body": '[[1, 2], {"a": "é"}]', "headers": {"at": datetime(2026, 1, 2, tzinfo=UTC), "id": UUID(int=7)}}
    text = encode_message(message)
    assert json.loads(text)["body"] == message["body"]
    assert decode_message(text) == message


@given(ANY_TEXT, st.integers(1, 2**63 - 1))
def test_delivery_tags_say_where_a_message_is(mailbox: str, msg_id: int) -> None:
    held = Held("celery_orders_p3", msg_id)
    assert held_by(tag_of(held)) == held
    assert mailbox_of(tag_of(held)) is None
    assert held_by(mail_tag_of(mailbox, "unique")) is None
    assert mailbox_of(mail_tag_of(mailbox, "unique")) == mailbox
    assert held_by("0b1c-of-somebody-else") is None
