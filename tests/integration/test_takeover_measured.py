"""What an engine measured outlives its worker: it is sent again, and not measured again."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from shared.frames import data_of
from shared.responses import ResponseRequest
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log.archiving import archive_log
from shared.store.log.event_log import Entry, read
from shared.store.redis.client import RedisClient
from tests.engines import CachingEngine, Changed
from tests.requests import accept, make_request
from tests.working import finish, keep_journal, leave_behind, restore_journal, working
from worker.engines.protocol import Sampling, Sink, TokenChunk, TokenLogprob
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter"}


def measured(request: ResponseRequest) -> ResponseRequest:
    return msgspec.structs.replace(request, include=["message.output_text.logprobs"])


REQUESTS = {
    "a tool call": measured(make_request("Call python 1 times", tools=[PYTHON], top_logprobs=2)),
    "characters of several tokens": measured(make_request("Repeat 𓀀😀é 2 times", top_logprobs=1)),
    "the limit within a character": measured(make_request("Repeat 𓀀 9 times", max_output_tokens=30)),
}


class MeasuringEngine(ScriptedEngine):
    """Makes up log probabilities: from what was said before a token, and from `scale`."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(Script.load(None))
        self._scale = scale

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        request_id: str,
        model: str = "default",
    ) -> None:
        said, others = list(prompt), range(sampling.top_logprobs or 0)

        def measure(chunk: TokenChunk) -> TokenChunk:
            logprobs = []
            for token in chunk.token_ids:
                said.append(token)
                logprob = -self._scale * math.log(sum(said) % 1009 + 2)
                top = tuple((token + other, logprob - other / 3) for other in others)
                logprobs.append(TokenLogprob(logprob, top))
            return replace(chunk, logprobs=tuple(logprobs))

        await super().generate(prompt, sampling, Changed(sink, measure), request_id=request_id)


@pytest.mark.parametrize("name", REQUESTS)
async def test_whatever_prefix_a_dead_owner_left_the_whole_log_is_that_of_an_undisturbed_run(
    redis: RedisClient, settings: Settings, name: str
) -> None:
    request = REQUESTS[name]
    async with working(redis, settings, engine=MeasuringEngine()) as worker:
        key = await accept(redis, settings, request)
        whole = await finish(redis, worker, key)
        journal = await keep_journal(redis, key)
        assert len({told["logprob"] for entry in deltas_in(whole) for told in logprobs_in(entry)}) > 4
        for length in range(1, len(whole)):
            await redis.command("FLUSHALL")
            key = await leave_behind(redis, settings, worker, request, whole[:length])
            await restore_journal(redis, key, journal)
            again = await finish(redis, worker, key)
            assert again == whole, length


async def test_logged_logprobs_stand_though_the_next_engine_measures_otherwise(
    redis: RedisClient, settings: Settings
) -> None:
    request = REQUESTS["characters of several tokens"]
    async with working(redis, settings, engine=MeasuringEngine()) as worker:
        whole = await finish(redis, worker, await accept(redis, settings, request))
    deltas = deltas_in(whole)
    half = deltas[len(deltas) // 2].sequence_number
    await redis.command("FLUSHALL")
    async with working(redis, settings, engine=MeasuringEngine(scale=2.0)) as worker:
        key = await leave_behind(redis, settings, worker, request, whole[:half])
        again = await finish(redis, worker, key)
    assert again[:half] == whole[:half]
    assert again[half].frame != whole[half].frame
    (done,) = [entry for entry in again if b"output_text.done" in entry.frame]
    assert logprobs_in(done) == [told for entry in deltas_in(again) for told in logprobs_in(entry)]


async def test_a_log_keeps_them_where_they_were_sent_until_it_is_archived(
    redis: RedisClient, settings: Settings
) -> None:
    request = REQUESTS["a tool call"]
    async with working(redis, settings, engine=MeasuringEngine()) as worker:
        key = await accept(redis, settings, request)
        entries = await finish(redis, worker, key)
    assert [entry for entry in entries if entry.token_record] == deltas_in(entries)
    assert await archive_log(redis, key) == "archived"
    page = await read(redis, key, -1, with_token_records=True)
    assert [(e.frame, e.tokens, e.token_record) for e in page.entries] == [
        (e.frame, (), b"") for e in entries
    ]


async def test_who_does_not_ask_has_none_in_the_log(redis: RedisClient, settings: Settings) -> None:
    async with working(redis, settings) as worker:
        key = await accept(redis, settings, make_request("Hello", top_logprobs=5))
        entries = await finish(redis, worker, key)
    assert not any(entry.token_record for entry in entries)
    assert all(logprobs_in(entry) == [] for entry in deltas_in(entries))
    assert await fields_of(redis, key) == {(b"e",), (b"e", b"t")}


async def fields_of(redis: RedisClient, key: ResponseKey) -> set[tuple[bytes, ...]]:
    stored: Any = await redis.command("XRANGE", keys.log(key), "-", "+")
    return {tuple(fields) for _, fields in stored}


def deltas_in(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.frame.startswith(b"event: response.output_text.delta\n")]


def logprobs_in(entry: Entry) -> list[dict[str, Any]]:
    logprobs: list[dict[str, Any]] = msgspec.json.decode(data_of(entry.frame))["logprobs"]
    return logprobs


async def test_what_was_cached_is_counted_as_the_first_owner_found_it(
    redis: RedisClient, settings: Settings
) -> None:
    request = make_request("Call python 2 times", tools=[PYTHON])
    request = msgspec.structs.replace(request, enable_response_messages=True)
    async with working(redis, settings, engine=CachingEngine()) as worker:
        key = await accept(redis, settings, request)
        whole = await finish(redis, worker, key)
        journal = await keep_journal(redis, key)
        details = msgspec.json.decode(data_of(whole[-1].frame))["response"]["usage"]["input_tokens_details"]
        prompts, cached = details["input_tokens_per_turn"], details["cached_tokens_per_turn"]
        assert cached == [tokens // 3 for tokens in prompts]
        assert len(cached) == 3
        for length in range(1, len(whole)):
            await redis.command("FLUSHALL")
            key = await leave_behind(redis, settings, worker, request, whole[:length])
            await restore_journal(redis, key, journal)
            assert await finish(redis, worker, key) == whole, length
