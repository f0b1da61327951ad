"""The engine gets the constraint of every turn, also after a takeover."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from shared.events import ResponseFailed
from shared.frames import decode
from shared.responses import ResponseRequest
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from tests.engines import Changed, ListeningEngine
from tests.requests import accept, make_request
from tests.working import finish, leave_behind, working
from worker.engines.protocol import Body, Sampling, Sink, TokenChunk, Unsupported

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter"}
FORMAT: Any = {"format": {"type": "json_schema", "name": "any", "schema": {"type": "object"}, "strict": True}}


class RefusingEngine(ListeningEngine):
    """Finds out late, in mid-turn, that it cannot do what it was asked for."""

    async def generate(self, prompt: Sequence[int], sampling: Sampling, sink: Sink, **more: Any) -> None:
        await super().generate(prompt, sampling, Changed(sink, self._refuse), **more)

    def _refuse(self, chunk: TokenChunk) -> TokenChunk:
        raise Unsupported("the engine's own reason")


def asking(question: str, **response: Any) -> ResponseRequest:
    request = make_request(question, tools=[PYTHON])
    return msgspec.structs.replace(request, response=msgspec.structs.replace(request.response, **response))


async def test_a_demanded_call_is_demanded_until_it_was_made(redis: RedisClient, settings: Settings) -> None:
    engine = ListeningEngine()
    request = asking("Call python 2 times", tool_choice="required", max_output_tokens=5_000)
    async with working(redis, settings, engine=engine) as worker:
        whole = await finish(redis, worker, await accept(redis, settings, request))
        first, *others = [asked.sampling.constraint for asked in engine.asked]
        assert first is not None
        assert [call.recipient for call in first.calls] == ["python"]
        assert first.final is None
        assert first.free_tokens_max == 5_000 - settings.answer_tokens_reserved
        assert others == [None, None]
        for length in range(3, len(whole), 3):
            await redis.command("FLUSHALL")
            engine.asked.clear()
            key = await leave_behind(redis, settings, worker, request, whole[:length])
            assert [e.frame for e in await finish(redis, worker, key)] == [e.frame for e in whole]
            logged = sum(len(entry.tokens) for entry in whole[:length])
            constraints = [asked.sampling.constraint for asked in engine.asked]
            assert constraints == [first, None, None][3 - len(constraints) :], (
                "the same as without a takeover"
            )
            if len(constraints) == 3:
                sampling = engine.asked[0].sampling
                assert sampling.turn_tokens == logged
                assert sampling.max_tokens == 5_000 - logged


async def test_a_format_holds_in_every_turn(redis: RedisClient, settings: Settings) -> None:
    engine = ListeningEngine()
    async with working(redis, settings, engine=engine) as worker:
        await finish(redis, worker, await accept(redis, settings, asking("Multiply 3*4", text=FORMAT)))
    constraints = [asked.sampling.constraint for asked in engine.asked]
    assert [c and c.final for c in constraints] == [Body(True, '{"type": "object"}')] * 2


@pytest.mark.parametrize("is_begun", [True, False])
async def test_what_no_turn_can_be_ends_the_response_with_a_reason(
    redis: RedisClient, settings: Settings, is_begun: bool
) -> None:
    """Before anything is said, or in mid-turn."""
    choice = "auto" if is_begun else {"type": "mcp", "server_label": "code_interpreter", "name": "unknown"}
    reason = "the engine's own reason" if is_begun else "tool_choice"
    engine = RefusingEngine()
    async with working(redis, settings, engine=engine) as worker:
        request = asking("Multiply 3*4", tool_choice=choice)
        entries = await finish(redis, worker, await accept(redis, settings, request))
    ending = decode(entries[-1].frame)
    assert isinstance(ending, ResponseFailed)
    assert ending.response.error is not None
    assert ending.response.error.code == "invalid_prompt"
    assert reason in ending.response.error.message
    assert bool(engine.asked) == is_begun
