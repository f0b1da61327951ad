"""A request's sampling parameters reach the engine in every turn, also after a takeover."""

from typing import Any

import msgspec
import pytest

from shared.frames import decode
from shared.responses import ResponseRequest, SamplingOptions
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from tests.engines import ListeningEngine
from tests.requests import accept, make_request
from tests.working import finish, leave_behind, working
from worker.asking.sampling import seed_after
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter"}


def sampled(request: ResponseRequest, **options: Any) -> ResponseRequest:
    return msgspec.structs.replace(request, sampling=SamplingOptions(**options))


async def test_every_field_reaches_the_engine(redis: RedisClient, settings: Settings) -> None:
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.2,
    }
    options: dict[str, Any] = {
        "seed": 7,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "logit_bias": {5: -1.0},
    }
    request = sampled(make_request(model="an-adapter", top_logprobs=4, **fields), **options)
    engine = ListeningEngine()
    async with working(redis, settings, engine=engine) as worker:
        await finish(redis, worker, await accept(redis, settings, request))
        (asked,) = engine.asked
        assert asked.model == "an-adapter"
        assert {name: getattr(asked.sampling, name) for name in fields | options} == fields | options
        assert asked.sampling.top_logprobs is None
        asking = msgspec.structs.replace(request, include=["message.output_text.logprobs"])
        await redis.command("FLUSHALL")
        await finish(redis, worker, await accept(redis, settings, asking))
        assert engine.asked[1].sampling.top_logprobs == 4


async def test_no_turn_and_no_takeover_draws_the_same_numbers_again(
    redis: RedisClient, settings: Settings
) -> None:
    request = sampled(make_request("Call python 2 times", tools=[PYTHON]), seed=7)
    request = msgspec.structs.replace(request, enable_response_messages=True)
    engine = ListeningEngine()
    async with working(redis, settings, engine=engine) as worker:
        whole = await finish(redis, worker, await accept(redis, settings, request))
        usage = decode(whole[-1].frame).response.usage  # type: ignore[union-attr]
        assert usage is not None
        turns = usage.output_tokens_details.output_tokens_per_turn
        assert isinstance(turns, tuple)
        first, second, _ = turns
        undisturbed = [asked.sampling.seed for asked in engine.asked]
        assert undisturbed == [7, seed_after(7, first), seed_after(7, first + second)]
        await redis.command("FLUSHALL")
        engine.asked.clear()
        key = await leave_behind(redis, settings, worker, request, whole[:8])
        logged = sum(len(entry.tokens) for entry in whole[:8])
        assert logged > 0
        assert [entry.frame for entry in await finish(redis, worker, key)] == [e.frame for e in whole]
        assert [asked.sampling.seed for asked in engine.asked] == [seed_after(7, logged), *undisturbed[1:]]


@pytest.mark.parametrize("limits", [(400, 10_000), (10_000, 400)])
async def test_the_smaller_of_the_two_context_limits_holds(
    redis: RedisClient, settings: Settings, limits: tuple[int, int]
) -> None:
    chosen = settings.model_copy(update={"context_tokens_max": limits[0]})
    engine = ScriptedEngine(Script.load(None))
    engine.context_tokens_max = limits[1]
    async with working(redis, chosen, engine=engine) as worker:
        entries = await finish(
            redis, worker, await accept(redis, chosen, make_request("Count from 1 to 1000"))
        )
    response = decode(entries[-1].frame).response  # type: ignore[union-attr]
    assert response.status == "incomplete"
    assert response.usage is not None
    assert response.usage.total_tokens == 400
