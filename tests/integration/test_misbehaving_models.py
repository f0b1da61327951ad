"""Whole responses of a model that breaks Harmony: what runs, what the model reads, how they end.

Single messages are tests/unit/test_misbehaving_models.py's.
"""

from typing import Any

import msgspec
import pytest

from shared.events import (
    ResponseCompleted,
    ResponseFailed,
    ResponseIncomplete,
)
from shared.frames import decode
from shared.lifecycle import fold
from shared.responses import McpCall, McpProtocolError, Message, Reasoning, Response, ResponseRequest
from shared.settings import Settings
from shared.store.log.event_log import Entry
from shared.store.redis.client import RedisClient
from tests.items import item_of
from tests.requests import accept, make_request
from tests.working import finish, keep_journal, leave_behind, restore_journal, working
from worker.engines.scripted.script import Script
from worker.harmony.tokens import encode

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter"}
WIKI: Any = {"type": "mcp", "server_label": "wiki"}
LISTED = item_of(
    {
        "type": "mcp_list_tools",
        "id": "mcpl_1",
        "server_label": "wiki",
        "tools": [{"name": "ask", "input_schema": {"type": "object"}}],
    }
)

THINKS = "<|channel|>analysis<|message|>Hm.<|end|>"
TURNS = {
    "unknown tool": ['<|channel|>commentary to=browser.search json<|message|>{"query": "x"}<|return|>'],
    "no tool": ["<|channel|>commentary<|message|>Please look it up.<|call|>"],
    "no message marker": ["<|channel|>analysis to=python code 1+1<|call|>"],
    "two recipients": ["<|channel|>commentary to=python to=wiki.ask<|message|>{}<|call|>"],
    "broken arguments": [
        '<|channel|>commentary to=wiki.ask json<|message|>{"q": "a}<|call|>',
        '<|channel|>commentary to=wiki.ask json<|message|>{"q": "a"}<|call|>',
    ],
    "array around arguments": ['<|channel|>commentary to=wiki.ask json<|message|>{"q": "a"}]<|call|>'],
    "call ends like a message": ["<|channel|>analysis to=python code<|message|>6*7<|end|>"],
    "call ends like an answer": ["<|channel|>analysis to=python code<|message|>6*7<|return|>"],
    "no namespace": ['<|channel|>commentary to=ask json<|message|>{"q": "a"}<|call|>'],
    "nobody, then python": [
        "<|channel|>analysis to=wiki.nobody code<|message|>6*7<|end|>"
        "<|start|>assistant<|channel|>analysis to=python code<|message|>6*7<|call|>"
    ],
    "many mistakes": [
        *["<|channel|>commentary to=nowhere json<|message|>{}<|call|>"] * 3,
        "<|channel|>analysis to=python code<|message|>6*7<|call|>",
        *["<|channel|>commentary to=nowhere json<|message|>{}<|call|>"] * 3,
    ],
    "incorrigible": ["<|channel|>commentary to=nowhere json<|message|>{}<|call|>"] * 5,
    "incorrigible arguments": ["<|channel|>commentary to=wiki.ask json<|message|>{<|call|>"] * 5,
    "incorrigible nobody": ["<|channel|>commentary<|message|>Go!<|call|>"] * 5,
}
"""Scene -> the turns before the last one, which says what the last result was."""
LAST_TURNS = {
    "end of text in a header": THINKS + "<|start|>assistant<|channel|>comment<|endoftext|>",
    "return in a header": THINKS + "<|start|>assistant to=functions<|return|>",
    "long header": THINKS
    + "<|start|>assistant<|channel|>commentary to=wiki.ask <|constrain|>json<|message|>",
    "letters of several tokens": "<|channel|>final<|message|>𓀀𓀀𓀀𓀀<|return|>",
    "broken off call": "<|channel|>analysis to=python code<|message|>6*7<|endoftext|>",
    "nothing": "<|return|>",
}


def make_script() -> Script:
    scenes = [scene(name, [*turns, None]) for name, turns in TURNS.items()]
    scenes += [scene(name, [turn]) for name, turn in LAST_TURNS.items()]
    endless = 'analysis = { repeat = "Wait.", times = 100000, join = " " }\nfinal = "Done."\n'
    scenes.append(f"[[scene]]\nname = 'endless'\nmatch = 'endless'\n[[scene.turn]]\n{endless}")
    return Script.parse("\n".join([*scenes, '[[scene]]\nname = "else"\n[[scene.turn]]\nfinal = "?"']))


def scene(name: str, turns: list[str | None]) -> str:
    said = [f"raw = {msgspec.json.encode(t).decode()}" if t else 'final = "{result}"' for t in turns]
    return f"[[scene]]\nname = '{name}'\nmatch = '^{name}$'\n" + "".join(
        f"[[scene.turn]]\n{turn}\n" for turn in said
    )


SCRIPT = make_script()


def ask(scene: str, **response: Any) -> ResponseRequest:
    request = make_request(scene, tools=[PYTHON, WIKI], **response)
    return msgspec.structs.replace(request, input=[LISTED, *request.input])


async def respond(redis: RedisClient, settings: Settings, request: ResponseRequest) -> Response:
    """Returns the response from its log, which must be numbered without a gap and have one terminal event,
    the last."""
    async with working(redis, settings, SCRIPT) as worker:
        entries = await finish(redis, worker, await accept(redis, settings, request))
    return check_log(entries)


def check_log(entries: list[Entry]) -> Response:
    events = [decode(entry.frame) for entry in entries]
    ends = [isinstance(e, ResponseCompleted | ResponseIncomplete | ResponseFailed) for e in events]
    assert ends == [False] * (len(events) - 1) + [True]
    return fold(events)


def last_words(response: Response) -> str:
    message = response.output[-1]
    assert isinstance(message, Message)
    return message.content[0].text


def calls_in(response: Response) -> list[McpCall]:
    return [item for item in response.output if isinstance(item, McpCall)]


@pytest.mark.parametrize(
    ("scene", "told"),
    [
        ("unknown tool", "There is no tool 'browser.search'. Tools: python, wiki.ask."),
        ("no tool", "This call names no tool; nothing was run. Tools: python, wiki.ask."),
        ("no message marker", "This call names no tool; nothing was run. Tools: python, wiki.ask."),
        ("two recipients", "This call names no tool; nothing was run. Tools: python, wiki.ask."),
    ],
)
async def test_the_model_reads_that_its_call_was_not_made(
    redis: RedisClient, settings: Settings, scene: str, told: str
) -> None:
    response = await respond(redis, settings, ask(scene))
    assert response.status == "completed"
    assert calls_in(response) == []
    assert last_words(response) == told


@pytest.mark.parametrize("scene", ["broken arguments", "array around arguments"])
async def test_arguments_that_are_no_json_object_are_reported_to_the_model_and_not_run(
    redis: RedisClient, settings: Settings, scene: str
) -> None:
    response = await respond(redis, settings, ask(scene))
    assert response.status == "completed"
    refused, *others = calls_in(response)
    assert refused.status == "failed"
    assert refused.error == McpProtocolError(-32602, "the arguments are not a JSON object")
    assert [call.output for call in others] == ["ask ran\n"] * len(others)
    words = (
        "ask ran\n" if others else "The tool call failed: the arguments are not a JSON object (code -32602)."
    )
    assert last_words(response) == words


@pytest.mark.parametrize(
    ("scene", "output"),
    [
        ("call ends like a message", "42\n"),
        ("call ends like an answer", "42\n"),
        ("no namespace", "ask ran\n"),
        ("nobody, then python", "42\n"),
    ],
)
async def test_a_call_that_is_clear_is_made_once(
    redis: RedisClient, settings: Settings, scene: str, output: str
) -> None:
    response = await respond(redis, settings, ask(scene))
    assert [call.output for call in calls_in(response)] == [output]
    assert last_words(response) == output


async def test_a_model_that_mends_its_ways_may_err_again(redis: RedisClient, settings: Settings) -> None:
    response = await respond(redis, settings, ask("many mistakes"))
    assert response.status == "completed"
    assert last_words(response).startswith("There is no tool 'nowhere'.")


@pytest.mark.parametrize(
    ("scene", "reason"),
    [
        ("incorrigible", "The model kept calling 'nowhere', which does not exist."),
        (
            "incorrigible arguments",
            "The model kept calling 'wiki.ask' with arguments that are not a JSON object.",
        ),
        ("incorrigible nobody", "The model kept making calls that name no tool."),
    ],
)
async def test_a_model_that_does_not_learn_ends_in_a_failure_that_says_so(
    redis: RedisClient, settings: Settings, scene: str, reason: str
) -> None:
    response = await respond(redis, settings, ask(scene))
    assert response.status == "failed"
    assert response.error is not None
    assert (response.error.code, response.error.message) == ("server_error", reason)
    assert all(getattr(item, "status", "completed") != "in_progress" for item in response.output)


@pytest.mark.parametrize(
    ("scene", "output"),
    [
        ("end of text in a header", ["Hm."]),
        ("return in a header", ["Hm."]),
        ("nothing", []),
    ],
)
async def test_a_turn_that_ends_inside_a_header_is_a_whole_response(
    redis: RedisClient, settings: Settings, scene: str, output: list[str]
) -> None:
    response = await respond(redis, settings, ask(scene))
    assert response.status == "completed"
    assert [item.content[0].text for item in response.output if isinstance(item, Reasoning)] == output
    assert len(response.output) == len(output)


@pytest.mark.parametrize("limit", range(6, 16))
async def test_the_limit_inside_a_header_leaves_no_item_of_it(
    redis: RedisClient, settings: Settings, limit: int
) -> None:
    response = await respond(redis, settings, ask("long header", max_output_tokens=limit))
    assert response.status == "incomplete"
    assert [isinstance(item, Reasoning) for item in response.output] == [True]
    assert response.usage is not None
    assert response.usage.output_tokens == limit


@pytest.mark.parametrize("limit", range(4, 12))
async def test_the_limit_inside_a_letter_shows_it_as_unreadable(
    redis: RedisClient, settings: Settings, limit: int
) -> None:
    response = await respond(redis, settings, ask("letters of several tokens", max_output_tokens=limit))
    assert response.status == "incomplete"
    whole, part = divmod(limit - 3, len(encode("𓀀")))
    assert last_words(response) == "𓀀" * whole + ("\N{REPLACEMENT CHARACTER}" if part else "")


async def test_reasoning_that_never_ends_is_cut_at_the_limit_and_kept(
    redis: RedisClient, settings: Settings
) -> None:
    response = await respond(redis, settings, ask("endless", max_output_tokens=500))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    (thought,) = response.output
    assert isinstance(thought, Reasoning)
    assert thought.status == "incomplete"
    assert set(thought.content[0].text.split()) <= {"Wait.", "Wait"}
    assert response.usage is not None
    assert response.usage.output_tokens == 500
    assert response.usage.output_tokens_details.reasoning_tokens > 490


async def test_a_call_that_breaks_off_is_not_made(redis: RedisClient, settings: Settings) -> None:
    response = await respond(redis, settings, ask("broken off call"))
    assert response.status == "completed"
    (call,) = calls_in(response)
    assert (call.status, call.output) == ("incomplete", None)


TAKEN_OVER = [
    "no tool",
    "no message marker",
    "broken arguments",
    "nobody, then python",
    "many mistakes",
    "no namespace",
]


@pytest.mark.parametrize("scene", TAKEN_OVER)
async def test_whatever_prefix_a_dead_owner_left_the_mistakes_are_made_and_mended_alike(
    redis: RedisClient, settings: Settings, scene: str
) -> None:
    request = ask(scene)
    async with working(redis, settings, SCRIPT) as worker:
        key = await accept(redis, settings, request)
        whole = await finish(redis, worker, key)
        kept = await keep_journal(redis, key)
        for length in range(1, len(whole)):
            await redis.command("FLUSHALL")
            key = await leave_behind(redis, settings, worker, request, whole[:length])
            await restore_journal(redis, key, kept)
            again = await finish(redis, worker, key)
            assert [entry.frame for entry in again] == [entry.frame for entry in whole], length
            assert [t for e in again for t in e.tokens] == [t for e in whole for t in e.tokens], length
