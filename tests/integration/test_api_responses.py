"""Create, retrieve, stream and resume over a real Valkey; the test plays the worker."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from openai.types import responses as openai_types

from api.app import Edge, create_app
from api.errors import StreamCut
from api.tenants import Tenants
from shared import events, lifecycle
from shared.frames import decode, frame
from shared.request_json import decode_request
from shared.responses import (
    InputTokensDetails,
    Message,
    OutputText,
    OutputTokensDetails,
    Response,
    ResponseError,
    ResponseRequest,
    ServerSecrets,
    Usage,
)
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import archiving, event_log
from shared.store.log.appender import Appender
from shared.store.log.response_log import Closing, NewEntry
from shared.store.owning import lease, presence
from shared.store.owning.lease import Acquired
from shared.store.records import response_store, server_secrets
from shared.store.redis.client import RedisClient
from shared.tenants_file import OPEN_TENANT, Roster
from tests.appending import append_through
from tests.kept import count_kept
from tests.patience import PATIENCE_S, until
from tests.streams import without_comments

CREATED_AT_S = 1_763_769_600
USAGE = Usage(1, InputTokensDetails(), 1, OutputTokensDetails(), 2)
UNKNOWN_ID = "resp_0_" + "a" * 32
SEED_TOOL = {
    "type": "mcp",
    "server_label": "code_interpreter",
    "headers": {"test": "s3cret"},
    "server_url": "IGNORED",
}


class PlayedWorker:
    """Appends what a worker would, under a lease, one event at a time."""

    def __init__(self, redis: RedisClient, settings: Settings, appender: Appender) -> None:
        self._redis = redis
        self._settings = settings
        self._appender = appender
        self._leases: dict[ResponseKey, Acquired] = {}
        self._tails: dict[ResponseKey, int] = {}

    async def take(self, key: ResponseKey) -> ResponseRequest:
        acquired = await lease.acquire(self._redis, self._settings, key, "played")
        assert isinstance(acquired, Acquired)
        self._leases[key] = acquired
        self._tails[key] = acquired.next_sequence_number
        stored = await response_store.read_request(self._redis, key)
        return msgspec.json.decode(stored, type=ResponseRequest)

    async def append(
        self, key: ResponseKey, *told: events.StreamEvent, closing: Closing | None = None
    ) -> None:
        tail = self._tails[key]
        drafts = [NewEntry(frame(event, tail + index)) for index, event in enumerate(told)]
        await append_through(self._appender, self._leases[key].lease, tail, drafts, closing)
        self._tails[key] = tail + len(drafts)

    async def begin(self, key: ResponseKey) -> Response:
        """Up to the middle of the message's text."""
        response = (await self.take(key)).response
        item = f"msg_{response.id}"
        await self.append(
            key,
            events.ResponseInProgress(response),
            events.OutputItemAdded(0, Message(item, "in_progress", "assistant", ())),
            events.ContentPartAdded(0, 0, item, OutputText("")),
            events.OutputTextDelta(0, 0, item, "Hel"),
        )
        return response

    async def end(self, key: ResponseKey, response: Response) -> Response:
        item = f"msg_{response.id}"
        message = Message(item, "completed", "assistant", (OutputText("Hello"),))
        whole = msgspec.structs.replace(response, output=(message,))
        completed = lifecycle.complete(whole, USAGE, CREATED_AT_S + 1)
        await self.append(
            key,
            events.OutputTextDelta(0, 0, item, "lo"),
            events.OutputTextDone(0, 0, item, "Hello"),
            events.ContentPartDone(0, 0, item, OutputText("Hello")),
            events.OutputItemDone(0, message),
            completed,
            closing=Closing("completed", msgspec.json.encode(completed.response), 60),
        )
        return completed.response

    async def serve(self, key: ResponseKey) -> Response:
        return await self.end(key, await self.begin(key))


@pytest_asyncio.fixture
async def worker(redis: RedisClient, settings: Settings) -> AsyncIterator[PlayedWorker]:
    appender = Appender(redis, settings)
    task = asyncio.create_task(appender.run())
    yield PlayedWorker(redis, settings, appender)
    task.cancel()


@asynccontextmanager
async def serving(app: Edge, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", **options) as client,
    ):
        yield client


@pytest_asyncio.fixture
async def client(redis: RedisClient, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(settings, Tenants(), lambda: CREATED_AT_S + 0.9)) as client:
        yield client


async def wait_for_key(redis: RedisClient) -> ResponseKey:
    """The response that the next ring of the doorbell is for."""
    assert await redis.command("BLPOP", keys.doorbell(keys.RESPONSES_QUEUE), 4)
    members = await redis.command("ZRANGE", keys.ACTIVE, 0, -1)
    return ResponseKey.parse(members[-1].decode())


@asynccontextmanager
async def creating(
    client: httpx.AsyncClient, redis: RedisClient, **body: Any
) -> AsyncIterator[tuple[ResponseKey, "asyncio.Task[httpx.Response]"]]:
    """A create call under way: its key, and the answer to come."""
    call = asyncio.create_task(client.post("/v1/responses", json={"input": "Hello"} | body))
    try:
        yield await wait_for_key(redis), call
    finally:
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)


async def stored_bytes(redis: RedisClient, key: ResponseKey, after: int = -1) -> bytes:
    page = await event_log.read(redis, key, after)
    return b"".join(entry.frame for entry in page.entries)


def frames_in(stream: bytes) -> list[bytes]:
    """The frames of a stream, without keep-alive comments."""
    return [frame + b"\n\n" for frame in without_comments(stream).split(b"\n\n") if frame]


# --- create -------------------------------------------------------------------------------------


async def test_create_writes_the_request_the_first_event_the_secrets_and_the_job(
    client: httpx.AsyncClient, redis: RedisClient, settings: Settings, worker: PlayedWorker
) -> None:
    async with creating(client, redis, tools=[SEED_TOOL], metadata={"k": "v"}) as (key, _):
        assert key.tenant == OPEN_TENANT
        assert await redis.command("ZCARD", keys.RESPONSES_QUEUE) == 1
        assert await server_secrets.read_secrets(redis, settings, key) == {
            "code_interpreter": ServerSecrets({"test": "s3cret"})
        }
        page = await event_log.read(redis, key, -1)
        assert [entry.sequence_number for entry in page.entries] == [0]
        assert b"s3cret" not in page.entries[0].frame
        created = decode(page.entries[0].frame)
        assert isinstance(created, events.ResponseCreated)
        request = await worker.take(key)
        assert created.response == request.response
        assert (request.response.status, request.response.created_at) == ("in_progress", CREATED_AT_S)
        assert request.response.metadata == {"k": "v"}
        tool = {"type": "mcp", "server_label": "code_interpreter", "server_url": "IGNORED"}
        assert request.tools == [tool | {"require_approval": "never"}]


@pytest.mark.parametrize(
    ("headers", "operators", "dialect"),
    [
        ({}, "openai", "openai"),
        ({}, "vllm", "vllm"),
        ({"Antiphon-Dialect": "open-responses"}, "vllm", "open-responses"),
        ({"Antiphon-Dialect": "openai"}, "vllm", "openai"),
    ],
)
async def test_a_dialect_is_the_headers_or_else_the_operators_and_is_kept_with_the_response(
    redis: RedisClient, settings: Settings, headers: dict[str, str], operators: str, dialect: str
) -> None:
    settings = settings.model_copy(update={"dialect": operators})
    body = {"model": "default", "input": "Hello", "background": True}
    async with serving(create_app(settings, Tenants())) as client:
        created = await client.post("/v1/responses", json=body, headers=headers)
    stored = await response_store.read_request(redis, ResponseKey(OPEN_TENANT, created.json()["id"]))
    assert decode_request(stored).dialect == dialect


async def test_a_create_call_answers_with_the_snapshot_of_its_end(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker
) -> None:
    async with creating(client, redis) as (key, call):
        final = await worker.serve(key)
        answer = await call
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == msgspec.json.encode(final)
    assert openai_types.Response.model_validate_json(answer.content).output_text == "Hello"


async def test_a_failed_response_is_still_a_served_call(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker
) -> None:
    async with creating(client, redis, store=False) as (key, call):
        response = (await worker.take(key)).response
        failed = lifecycle.fail(response, ResponseError("server_error", "It broke."))
        closing = Closing("failed", msgspec.json.encode(failed.response), 60)
        await worker.append(key, failed, closing=closing)
        answer = await call
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["error"]["message"]) == ("failed", "It broke.")


async def test_a_streamed_create_call_sends_the_bytes_of_the_log(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker
) -> None:
    async with creating(client, redis, stream=True) as (key, call):
        await worker.serve(key)
        answer = await call
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"]
    assert answer.content == await stored_bytes(redis, key)


async def test_a_full_queue_refuses_and_writes_nothing(redis: RedisClient, settings: Settings) -> None:
    small = settings.model_copy(update={"queue_depth_max": 1})
    async with serving(create_app(small, Tenants())) as client:
        first = await client.post("/v1/responses", json={"input": "Hello", "background": True})
        assert first.status_code == 200
        size = await count_kept(redis)
        answer = await client.post("/v1/responses", json={"input": "Hello"})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert await count_kept(redis) == size


async def test_a_tenant_is_held_to_the_limits_that_the_file_gives_it(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("small", "plain")}
    file = {
        "tenants": {
            "small": {"keys": [hashes["small"]], "limits": {"responses_max": 1}},
            "plain": {"keys": [hashes["plain"]]},
        }
    }
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps(file))
    body = {"input": "Hello", "background": True}
    async with serving(create_app(settings, Tenants.load(path))) as client:
        answers = [
            (await client.post("/v1/responses", json=body, headers={"authorization": f"Bearer {name}"}))
            for name in ("small", "small", "plain", "plain")
        ]
    assert [answer.status_code for answer in answers] == [200, 429, 200, 200]


# --- retrieve -----------------------------------------------------------------------------------


async def test_an_open_response_is_the_fold_of_its_log(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker
) -> None:
    async with creating(client, redis) as (key, _):
        await worker.begin(key)
        answer = await client.get(f"/v1/responses/{key.response_id}?include=message.output_text.logprobs")
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "in_progress"
    assert body["output"][0]["content"][0]["text"] == "Hel"


async def test_a_log_longer_than_a_page_is_folded_whole(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker
) -> None:
    async with creating(client, redis) as (key, _):
        response = await worker.begin(key)
        deltas = [events.OutputTextDelta(0, 0, f"msg_{response.id}", f" {n}") for n in range(2500)]
        await worker.append(key, *deltas)
        answer = await client.get(f"/v1/responses/{key.response_id}")
    text = answer.json()["output"][0]["content"][0]["text"]
    assert text == "Hel" + "".join(delta.delta for delta in deltas)


async def test_a_closed_response_is_its_snapshot(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker
) -> None:
    async with creating(client, redis) as (key, call):
        final = await worker.serve(key)
        await call
    answer = await client.get(f"/v1/responses/{key.response_id}")
    assert answer.content == msgspec.json.encode(final)


async def test_every_cursor_gets_the_rest_of_the_log_and_nothing_else(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker
) -> None:
    async with creating(client, redis) as (key, call):
        await worker.serve(key)
        await call
    path = f"/v1/responses/{key.response_id}?stream=true"
    count = len((await event_log.read(redis, key, -1)).entries)
    for after in range(-2, count - 1):
        rest = await stored_bytes(redis, key, max(after, -1))
        assert (await client.get(f"{path}&starting_after={after}")).content == rest
        assert (await client.get(path, headers={"last-event-id": str(after)})).content == rest
    assert (await client.get(path)).content == await stored_bytes(redis, key)
    assert (await client.get(path, headers={"last-event-id": ""})).content == await stored_bytes(redis, key)


async def test_an_empty_idempotency_key_names_no_earlier_call(client: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": ""}
    bodies = [{"input": text, "background": True} for text in ("a", "a", "b")]
    answers = [await client.post("/v1/responses", json=body, headers=headers) for body in bodies]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len({answer.json()["id"] for answer in answers}) == 3


@pytest.mark.parametrize("is_archived", [False, True])
async def test_a_reader_that_comes_back_to_a_closed_log_learns_that_it_is_over(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker, is_archived: bool
) -> None:
    async with creating(client, redis) as (key, call):
        await worker.serve(key)
        await call
    last = len((await event_log.read(redis, key, -1)).entries) - 1
    if is_archived:
        assert await archiving.archive_log(redis, key) == "archived"
    path = f"/v1/responses/{key.response_id}?stream=true"
    at_the_end = await client.get(f"{path}&starting_after={last}")
    assert (at_the_end.status_code, at_the_end.content) == (200, b"")
    assert at_the_end.headers["content-type"].startswith("text/event-stream")
    # An EventSource comes back for ever to whatever is 200.
    as_event_source = await client.get(path, headers={"last-event-id": str(last)})
    assert (as_event_source.status_code, as_event_source.content) == (204, b"")
    for after in (last + 1, 10**17):
        for answer, param in (
            (await client.get(f"{path}&starting_after={after}"), "starting_after"),
            (await client.get(path, headers={"last-event-id": str(after)}), "Last-Event-ID"),
        ):
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("cursor_beyond_end", param)
            assert f" {last}:" in error["message"]


async def test_a_stream_whose_log_vanishes_is_cut(
    client: httpx.AsyncClient, redis: RedisClient, settings: Settings, worker: PlayedWorker
) -> None:
    async with creating(client, redis) as (key, call):
        await worker.begin(key)
        reading = asyncio.create_task(client.get(f"/v1/responses/{key.response_id}?stream=true"))
        await until_watched(redis, key, 2)
        await redis.command("DEL", keys.state(key), keys.log(key))
        with pytest.raises(StreamCut, match="its log is gone"):
            await reading
        assert (await call).status_code == 500


async def until_watched(redis: RedisClient, key: ResponseKey, readers: int) -> None:
    async def are_there() -> bool:
        return bool(await redis.command("ZCARD", keys.readers(key)) >= readers)

    await until(are_there)


async def test_an_event_source_whose_address_has_a_cursor_goes_on_where_it_was(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker
) -> None:
    async with creating(client, redis) as (key, call):
        await worker.serve(key)
        await call
    last = len((await event_log.read(redis, key, -1)).entries) - 1
    path = f"/v1/responses/{key.response_id}?stream=true&starting_after=1"
    for seen, after in (("3", 3), ("0", 1)):
        answer = await client.get(path, headers={"last-event-id": seen})
        assert answer.content == await stored_bytes(redis, key, after)
    assert (await client.get(path, headers={"last-event-id": str(last)})).status_code == 204


async def test_a_stream_may_be_joined_while_it_grows(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker
) -> None:
    async with creating(client, redis) as (key, call):
        response = await worker.begin(key)
        path = f"/v1/responses/{key.response_id}?stream=true&starting_after=2"
        joined = asyncio.create_task(client.get(path))
        await worker.end(key, response)
        answer = await joined
        await call
    assert frames_in(answer.content) == frames_in(await stored_bytes(redis, key, 2))


@pytest.mark.parametrize("query", ["", "?stream=true", "?stream=true&starting_after=5"])
async def test_an_unknown_id_is_reported_as_the_hosted_api_does(
    client: httpx.AsyncClient, query: str
) -> None:
    answer = await client.get(f"/v1/responses/{UNKNOWN_ID}{query}")
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": f"Response with id '{UNKNOWN_ID}' not found.",
        "type": "invalid_request_error",
        "param": "response_id",
        "code": "response_not_found",
    }


async def test_a_response_that_is_not_stored_cannot_be_retrieved(
    client: httpx.AsyncClient, redis: RedisClient, worker: PlayedWorker
) -> None:
    async with creating(client, redis, store=False) as (key, call):
        response = await worker.begin(key)
        path = f"/v1/responses/{key.response_id}"
        open_answer = await client.get(path)
        await worker.end(key, response)
        assert (await call).json()["store"] is False
        closed_answer = await client.get(path)
        assert (await client.get(f"{path}?stream=true")).status_code == 200  # its own reader may come back
    assert [open_answer.status_code, closed_answer.status_code] == [404, 404]


async def test_the_id_of_another_tenant_is_unknown(
    redis: RedisClient, settings: Settings, worker: PlayedWorker
) -> None:
    tenants = Tenants(Roster({hashlib.sha256(name.encode()).hexdigest(): f"tenant-{name}" for name in "ab"}))
    async with serving(create_app(settings, tenants), headers={"authorization": "Bearer a"}) as client:
        async with creating(client, redis) as (key, call):
            await worker.serve(key)
            await call
        assert key.tenant == "tenant-a"
        path = f"/v1/responses/{key.response_id}"
        assert (await client.get(path)).status_code == 200
        for query in ("", "?stream=true"):
            stranger = await client.get(path + query, headers={"authorization": "Bearer b"})
            unknown = await client.get(f"/v1/responses/{UNKNOWN_ID}{query}")
            assert stranger.status_code == 404
            assert stranger.text.replace(key.response_id, UNKNOWN_ID) == unknown.text


# --- readiness and outages ----------------------------------------------------------------------


async def test_a_node_is_ready_when_redis_answers_and_a_worker_is_there(
    client: httpx.AsyncClient, redis: RedisClient
) -> None:
    before = await client.get("/ready")
    assert (before.status_code, before.json()["status"], before.json()["redis"]) == (503, "not ready", True)
    await presence.announce(redis, "worker", "w1")
    await presence.announce(redis, "tool_runner", "t1")
    await presence.announce(redis, "tool_runner", "t2")
    after = await client.get("/ready")
    assert after.status_code == 200
    assert after.json() == {"status": "ready", "redis": True, "workers": 1, "tool_runners": 2, "cell": "0"}


@asynccontextmanager
async def deaf_server() -> AsyncIterator[int]:
    """A port that takes connections and never says a word."""

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("is_refused", [True, False])
async def test_without_redis_every_call_is_answered_soon(is_refused: bool) -> None:
    async with deaf_server() as port:
        url = f"redis://127.0.0.1:{1 if is_refused else port}/0"
        app = create_app(Settings(redis_url=url, redis_timeout_s=0.3), Tenants())
        async with serving(app) as client, asyncio.timeout(PATIENCE_S):
            answers = [
                await client.post("/v1/responses", json={"input": "Hello", "stream": True}),
                await client.get(f"/v1/responses/{UNKNOWN_ID}"),
                await client.get(f"/v1/responses/{UNKNOWN_ID}?stream=true"),
                await client.get("/ready"),
            ]
            health = await client.get("/health")
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [(503, "1")] * 4
    assert [json.loads(answer.text)["error"]["code"] for answer in answers[:3]] == ["service_unavailable"] * 3
    assert health.status_code == 200
