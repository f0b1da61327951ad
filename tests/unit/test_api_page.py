"""The page of the API has a row for every route and field: of the code's, and of the public types'."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import get_type_hints

import pytest
from fastapi.routing import APIRoute
from openai.types import responses as public
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_compact_params import ResponseCompactParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from openai.types.responses.response_retrieve_params import ResponseRetrieveParamsBase
from openai.types.shared_params import Reasoning
from starlette.routing import WebSocketRoute

from api.bodies import compact, requests
from api.bodies.requests import CreateBody
from api.bodies.validation import Shape
from api.chat import body as chat
from shared.responses import Response
from tests.edges import edge_alone

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")
DONE = {"same", "differs", "ours"}
ROW = re.compile(r"^\| `([^`]+)` \| (same|differs|ignored|refused|ours) \|", re.MULTILINE)


def rows(heading: str) -> dict[str, str]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = ROW.findall(section)
    assert [name for name, _ in found] == sorted({name for name, _ in found}) or heading == "Routes"
    assert len(found) == len(re.findall(r"^\| `", section, re.MULTILINE)), "a row says something else"
    return dict(found)


def those(table: dict[str, str], words: Iterable[str]) -> set[str]:
    return {name for name, word in table.items() if word in words}


FIELDS, CHAT = rows("Fields of a create call"), rows("Chat completions")
TOP = {name: word for name, word in FIELDS.items() if "." not in name}


def test_every_route_has_a_row() -> None:
    served = set()
    for route in edge_alone().routes:
        match route:
            case APIRoute(path=path, methods=methods):
                served |= {f"{method} {path.replace(':path', '')}" for method in methods - {"HEAD"}}
            case WebSocketRoute(path=path):
                served.add(f"WebSocket {path}")
            case _:
                pytest.fail(f"{route} is no route that this test knows")
    table = rows("Routes")
    assert those(table, DONE) == served
    assert {"GET /v1/chat/completions"} <= those(table, ["refused"]) | served


def test_every_field_of_a_create_call_has_a_row_with_what_the_code_does() -> None:
    read = CreateBody.model_fields.keys() - {"prompt"}
    assert those(TOP, ["refused"]) == requests._UNSUPPORTED | {"prompt"}
    assert those(TOP, ["ignored"]) - read == requests._WITHOUT_EFFECT
    assert those(TOP, DONE) <= read <= TOP.keys()
    assert get_type_hints(ResponseCreateParamsBase).keys() <= TOP.keys()
    assert those(TOP, ["ours"]).isdisjoint(get_type_hints(ResponseCreateParamsBase))


@pytest.mark.parametrize(
    ("name", "shape", "of_public_types"),
    [
        ("reasoning", requests._ReasoningOptions, Reasoning),
        ("text", requests._TextOptions, public.ResponseTextConfigParam),
        ("stream_options", requests._StreamOptions, None),
    ],
)
def test_every_member_of_an_object_has_a_row(
    name: str, shape: type[Shape], of_public_types: type | None
) -> None:
    table = {row.removeprefix(f"{name}."): word for row, word in FIELDS.items() if row.startswith(f"{name}.")}
    assert those(table, DONE) <= shape.model_fields.keys() <= table.keys()
    assert of_public_types is None or get_type_hints(of_public_types).keys() <= table.keys()


def test_what_is_ignored_is_read_by_no_worker() -> None:
    parsed = CreateBody.model_fields.keys() | {"text.verbosity"}
    names = [name.rpartition(".")[2] for name in those(FIELDS, ["ignored"]) & parsed]
    assert len(names) > 3
    mention = re.compile(rf"\b(?:response|request|text)\.(?:{'|'.join(names)})\b")
    sources = [*(ROOT / "worker").rglob("*.py"), *(ROOT / "tool_runner").rglob("*.py")]
    assert [(path.name, at[0]) for path in sources if (at := mention.search(path.read_text("utf-8")))] == []


def test_every_query_has_a_row() -> None:
    wanted = get_type_hints(ResponseRetrieveParamsBase).keys() | get_type_hints(public.InputItemListParams)
    assert wanted | {"stream"} == rows("Queries").keys()


def test_every_field_of_a_response_has_a_row() -> None:
    table = rows("Fields of a response")
    ours, theirs = set(Response.__struct_fields__), set(public.Response.model_fields)
    assert table.keys() == ours | theirs
    assert those(table, ["refused"]) == theirs - ours
    assert those(table, ["same", "differs"]) <= ours
    assert those(table, ["ours"]) <= ours - theirs


def test_every_field_of_a_compaction_has_a_row_with_what_the_code_does() -> None:
    table = rows("Compacting")
    assert those(table, ["refused"]) == compact.REFUSED
    assert those(table, ["ignored"]) == compact.WITHOUT_EFFECT
    assert those(table, DONE) == compact.SAME
    assert get_type_hints(ResponseCompactParams).keys() <= table.keys()


def test_every_field_of_a_chat_has_a_row_with_what_the_code_does() -> None:
    assert those(CHAT, ["refused"]) == set(chat.REFUSED)
    assert those(CHAT, ["ignored"]) >= chat.WITHOUT_EFFECT
    assert those(CHAT, DONE) <= chat.SAME | chat.TRANSLATED
    assert CHAT.keys() == chat.SAME | chat.TRANSLATED | chat.WITHOUT_EFFECT | chat.REFUSED.keys()
    assert get_type_hints(CompletionCreateParamsBase).keys() <= CHAT.keys()


@pytest.mark.parametrize("name", sorted(chat.SAME))
def test_a_parameter_of_both_has_the_same_fate(name: str) -> None:
    alike = {"metadata", "store"}  # a chat is not stored unless it asks for that
    of_create, of_chat = FIELDS[name], CHAT[name]
    assert name in alike or of_create == of_chat or (of_create, of_chat) == ("ours", "same")
