"""The `include` of a query adds to an ended response what its items do not show, and nothing else."""

import json
from typing import Any

import msgspec

from api.included import add_included
from shared.hosted_tools import WebSearchCall
from shared.responses import SEALED_REASONING, Reasoning, ReasoningText, Response
from shared.store.log.archive import ArchivedRecord

ACTION: Any = {"type": "search", "query": "a", "sources": [{"type": "url", "url": "https://a.example"}]}
WHOLE = WebSearchCall(
    id="ws_1", status="completed", action=ACTION, name="search", arguments="{}", output="only the model's"
)
SHOWN = WHOLE.shown(with_sources=False)
SNAPSHOT = msgspec.json.encode(
    Response(id="resp_1", created_at=1, status="completed", model="default", output=(SHOWN,))
)
RECORD = ArchivedRecord(b"", SNAPSHOT, msgspec.json.encode([WHOLE]))
SOURCES = "web_search_call.action.sources"


def seal(text: str) -> str:
    return f"sealed: {text}"


def test_the_sources_of_a_search_are_added_and_what_only_the_model_read_is_not() -> None:
    (item,) = json.loads(add_included(RECORD, {SOURCES}, seal))["output"]
    assert item["action"] == ACTION
    assert item.keys() == json.loads(msgspec.json.encode(SHOWN)).keys()


def test_what_was_not_asked_for_or_is_not_kept_leaves_the_bytes_as_they_are() -> None:
    assert add_included(RECORD, {"code_interpreter_call.outputs"}, seal) is SNAPSHOT
    assert add_included(ArchivedRecord(b"", SNAPSHOT), {SOURCES}, seal) is SNAPSHOT
    assert add_included(RECORD, {SEALED_REASONING}, seal) is SNAPSHOT


def test_reasoning_is_sealed_where_it_is_not_already() -> None:
    thoughts = (ReasoningText("One."), ReasoningText("Two."))
    bare = Reasoning("rs_1", "completed", (), thoughts)
    sealed = Reasoning("rs_2", "completed", (), thoughts, "as the log has it")
    response = Response(id="resp_1", created_at=1, status="completed", model="default", output=(bare, sealed))
    record = ArchivedRecord(b"", msgspec.json.encode(response))
    first, second = json.loads(add_included(record, {SEALED_REASONING}, seal))["output"]
    assert first["encrypted_content"] == "sealed: One.Two."
    assert second["encrypted_content"] == "as the log has it"
    assert first["content"] == second["content"]
