"""A prompt that outgrows the context by tools' answers is reported as too long, or shortened if allowed."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from shared import events
from shared.context_length import TOO_LONG
from shared.frames import decode
from shared.input_items import InputText
from shared.responses import McpCall, ResponseRequest
from shared.settings import Settings
from shared.store.log.event_log import Entry
from shared.store.redis.client import RedisClient
from shared.tool_calls import ToolCall, ToolListing, ToolOutput
from tests.requests import accept, make_request
from tests.working import finish, keep_journal, leave_behind, restore_journal, working

PYTHON = {"type": "mcp", "server_label": "code_interpreter", "require_approval": "never"}
CONTEXT_TOKENS = 2_000


@pytest.fixture
def small(settings: Settings) -> Settings:
    return settings.model_copy(update={"context_tokens_max": CONTEXT_TOKENS, "answer_tokens_reserved": 700})


def answer(words: int) -> Any:
    def say(_: ToolCall | ToolListing) -> ToolOutput:
        return ToolOutput("word " * words)

    return say


def after_old_messages(truncation: str) -> ResponseRequest:
    """Asked after 1,350 tokens of what was said before."""
    request = make_request("Call python 3 times", tools=[PYTHON], truncation=truncation)
    [asked] = request.input
    old = msgspec.structs.replace(asked, content=[InputText("word " * 450)])
    return msgspec.structs.replace(request, input=[old, old, old, asked], enable_response_messages=True)


def decoded(entries: list[Entry]) -> list[events.StreamEvent]:
    return [decode(entry.frame) for entry in entries]


async def run(redis: RedisClient, settings: Settings, request: ResponseRequest, words: int) -> list[Entry]:
    async with working(redis, settings, answer=answer(words)) as worker:
        return await finish(redis, worker, await accept(redis, settings, request))


@pytest.mark.parametrize("truncation", ["disabled", "auto"])
async def test_an_answer_that_cannot_fit_is_reported_as_a_prompt_that_is_too_long(
    redis: RedisClient, small: Settings, truncation: str
) -> None:
    """What was done until then stands in the output."""
    *_, completed, done, error, failed = decoded(
        await run(redis, small, after_old_messages(truncation), 3_000)
    )
    assert isinstance(completed, events.McpCallCompleted)
    assert isinstance(done, events.OutputItemDone)
    assert isinstance(error, events.Error)
    assert (error.code, error.param) == (TOO_LONG.code, "input")
    assert isinstance(failed, events.ResponseFailed)
    assert failed.response.error == TOO_LONG
    assert failed.response.output[-1] == done.item
    assert failed.response.usage is not None


async def test_with_truncation_the_oldest_messages_give_way_to_what_tools_answer(
    redis: RedisClient, small: Settings
) -> None:
    last = decoded(await run(redis, small, after_old_messages("auto"), 200))[-1]
    assert isinstance(last, events.ResponseCompleted)
    assert sum(isinstance(item, McpCall) for item in last.response.output) == 3
    assert last.response.usage is not None
    prompts = last.response.usage.input_tokens_details.input_tokens_per_turn
    assert isinstance(prompts, tuple)
    assert max(prompts) < CONTEXT_TOKENS
    assert any(later < earlier for earlier, later in pairwise(prompts)), prompts
    last = decoded(await run(redis, small, after_old_messages("disabled"), 200))[-1]
    assert isinstance(last, events.ResponseFailed), "without it the same is too long"


async def test_tokens_that_are_spent_cut_a_response_also_where_its_prompt_is_too_long(
    redis: RedisClient, small: Settings
) -> None:
    request = after_old_messages("disabled")
    whole = decoded(await run(redis, small, request, 3_000))[-1]
    assert isinstance(whole, events.ResponseFailed)
    assert whole.response.usage is not None
    spent = msgspec.structs.replace(request.response, max_output_tokens=whole.response.usage.output_tokens)
    await redis.command("FLUSHALL")
    last = decoded(await run(redis, small, msgspec.structs.replace(request, response=spent), 3_000))[-1]
    assert isinstance(last, events.ResponseIncomplete)


@pytest.mark.parametrize("words", [200, 3_000])
async def test_the_next_owner_shortens_the_prompt_alike(
    redis: RedisClient, small: Settings, words: int
) -> None:
    """The end is compared by its status: what was counted lies beside the log, and is not left behind."""
    request = after_old_messages("auto")
    async with working(redis, small, answer=answer(words)) as worker:
        key = await accept(redis, small, request)
        whole = await finish(redis, worker, key)
        kept = await keep_journal(redis, key)
        last = len(whole) - 3  # the error event is appended together with the end
        for length in [*range(1, last, 9), last - 1, last]:
            await redis.command("FLUSHALL")
            key = await leave_behind(redis, small, worker, request, whole[:length])
            await restore_journal(redis, key, kept)
            again = await finish(redis, worker, key)
            assert [entry.frame for entry in again[:-1]] == [entry.frame for entry in whole[:-1]], length
            assert type(decoded(again)[-1]) is type(decoded(whole)[-1])
