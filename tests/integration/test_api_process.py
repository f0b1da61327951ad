"""An API node as a process of its own, over a real socket."""

import asyncio
import os
import socket
import sys

import openai
import pytest

from shared.ids import is_response_id
from shared.settings import Settings
from shared.store.redis.client import RedisClient
from tests.kept import count_kept
from tests.nodes import node
from tests.patience import PATIENCE_S


async def test_a_node_warns_of_what_it_lacks_and_ends_in_order(
    redis: RedisClient, settings: Settings
) -> None:
    async with node(settings) as api:
        assert (await api.client.get("/v1/models")).status_code == 200
        status, said = await api.stop()
    assert status == 0
    assert "any key is accepted" in said
    assert "ANTIPHON_SEAL_KEYS is not set" in said
    assert "Traceback" not in said
    assert "GET /" not in said


async def test_the_public_client_meets_errors_it_knows(redis: RedisClient, settings: Settings) -> None:
    async with (
        node(settings) as api,
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{api.port}/v1", api_key="any", max_retries=0
        ) as client,
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(input="Hello", temperature=3)
        assert (refused.value.param, refused.value.code) == ("temperature", "decimal_above_max_value")
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_nonsense")
        assert [model.id async for model in client.models.list()] == settings.models
        stream = await client.responses.create(input="Hello", stream=True)
        created = await anext(stream)
        assert created.type == "response.created"
        assert is_response_id(created.response.id)
        retrieved = await client.responses.retrieve(created.response.id)
        assert retrieved.status == "in_progress"
        await stream.close()


async def test_a_body_that_is_too_large_is_refused_before_it_was_sent_whole(
    redis: RedisClient, settings: Settings
) -> None:
    async with node(settings) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        head = b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        writer.write(head + b"content-length: 99999999\r\n\r\n{")
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 413 ")
    assert await count_kept(redis) == 0


async def test_a_taken_port_is_reported(settings: Settings) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api", "--port", str(holder.getsockname()[1])),
            env=os.environ | {"ANTIPHON_REDIS_URL": settings.redis_url},
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_S):
            _, said = await process.communicate()
    assert process.returncode != 0
    assert b"address already in use" in said
