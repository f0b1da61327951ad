"""Clients that come back: background, polling, resuming, cancelling, leaving, chains.

Against a cluster of three API nodes; the public client where it has a call for it.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import redis
from openai import AsyncOpenAI, BadRequestError, ConflictError, NotFoundError, OpenAI

from shared.store.keys import ResponseKey
from tests.patience import PATIENCE_S, until, wait_until
from tests.running import PATIENT, RunningCluster, start_cluster
from tests.streams import Frame, read_frames

PYTHON: Any = {"type": "mcp", "server_label": "code_interpreter"}
SCRIPT = Path(__file__).parent / "phases.toml"
GRACE_S = 4.0
"""Long enough for a loaded machine."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Three API nodes and a script that stays in each phase; nothing may be left open in the end."""
    data = tmp_path_factory.mktemp("three") / "data"
    running = start_cluster(
        data,
        *("--apis", "3", "--script", str(SCRIPT)),
        ANTIPHON_DISCONNECT_GRACE_S=str(GRACE_S),
        ANTIPHON_ARCHIVE_AFTER_S="2",
        ANTIPHON_KEEP_ALIVE_S="0.2",  # in every stream that stays anywhere, so that every client meets some
        ANTIPHON_TENANT_RESPONSES_MAX="400",
        **PATIENT,
    )
    yield running
    try:
        wait_until(lambda: open_responses(running) == [])
    finally:
        running.stop()


def open_responses(cluster: RunningCluster) -> list[Any]:
    """What Redis still holds as not ended."""
    with redis.Redis.from_url(cluster.redis_url) as connection:
        active: Any = connection.zrange("antiphon:{queue}:active", 0, -1)
        return list(active)


@pytest.fixture
def client(three: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{three.urls[0]}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def other(three: RunningCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{three.urls[1]}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture
async def nodes(three: RunningCluster) -> AsyncIterator[list[httpx.AsyncClient]]:
    limits = httpx.Limits(max_connections=500)
    clients = [httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits) for url in three.urls]
    yield clients
    for one in clients:
        await one.aclose()


def poll_to_the_end(client: OpenAI, response_id: str) -> Any:
    response: Any = None

    def has_ended() -> bool:
        nonlocal response
        response = client.responses.retrieve(response_id)
        return response.status not in ("queued", "in_progress")

    wait_until(has_ended)
    return response


# --- background and polling -----------------------------------------------------------------------


def test_a_background_response_answers_at_once_and_is_polled_to_its_end(
    client: OpenAI, other: OpenAI
) -> None:
    created = client.responses.create(
        model="default", input="Multiply 123*456", tools=[PYTHON], background=True
    )
    assert (created.status, created.output, created.background) == ("queued", [], True)
    ended = poll_to_the_end(other, created.id)
    assert ended.status == "completed"
    assert "56,088" in ended.output_text


def test_a_background_stream_reports_that_it_is_queued(client: OpenAI, other: OpenAI) -> None:
    events = list(client.responses.create(model="default", input="Hello", background=True, stream=True))
    born = [(event.type, event.sequence_number, event.response.status) for event in events[:3]]  # type: ignore[union-attr]
    assert born == [
        ("response.created", 0, "queued"),
        ("response.queued", 1, "queued"),
        ("response.in_progress", 2, "in_progress"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    response_id = events[0].response.id  # type: ignore[union-attr]
    resumed = list(other.responses.retrieve(response_id, stream=True, starting_after=0))
    assert resumed == events[1:]


async def test_a_response_that_waits_polls_as_queued_and_its_stream_says_so(
    nodes: list[httpx.AsyncClient], three: RunningCluster
) -> None:
    pid = three.kill("worker", signal.SIGSTOP)
    try:
        body = {"model": "default", "input": "Hello", "background": True}
        created = (await nodes[0].post("/v1/responses", json=body)).json()
        path = f"/v1/responses/{created['id']}"
        assert await status_of(nodes[1], created["id"]) == "queued"
        async with nodes[2].stream("GET", path, params={"stream": "true"}) as stream:
            seen = b""
            async with asyncio.timeout(PATIENCE_S):
                async for chunk in stream.aiter_bytes():
                    seen += chunk
                    if seen.count(b"event: ") == 2 and seen.endswith(b"\n\n"):
                        break
        told = [(frame.id, frame.event) for frame in read_frames(seen)]
        assert told == [(0, "response.created"), (1, "response.queued")]
        assert (await nodes[1].get(path)).json()["output"] == []
    finally:
        os.kill(pid, signal.SIGCONT)
    await wait_for_status(nodes[0], created["id"], "completed")


def test_polling_shows_the_output_so_far(client: OpenAI, other: OpenAI) -> None:
    created = client.responses.create(model="default", input="Stay in the final text", background=True)
    wait_until(lambda: "goes on" in other.responses.retrieve(created.id).output_text)
    seen = other.responses.retrieve(created.id)
    assert seen.status == "in_progress"
    assert [item.type for item in seen.output] == ["reasoning", "message"]
    client.responses.cancel(created.id)


def test_keep_alives_disturb_no_client(client: OpenAI, other: OpenAI) -> None:
    created = client.responses.create(model="default", input="Stay in the final text", background=True)
    path = f"{other.base_url}responses/{created.id}?stream=true"
    with httpx.stream("GET", path) as raw:
        body = b""
        for chunk in raw.iter_bytes():
            body += chunk
            if b"\n\n: keep-alive\nevent: " in body:
                break
    with other.responses.retrieve(created.id, stream=True) as stream:
        begun_s, numbers = time.monotonic(), []
        for event in stream:
            numbers.append(event.sequence_number)
            if time.monotonic() > begun_s + 1:  # there were four keep-alives by then
                break
    assert numbers == list(range(len(numbers)))
    client.responses.cancel(created.id)


def test_keep_alives_as_events_are_none_of_the_log(client: OpenAI, other: OpenAI) -> None:
    """Without them a stream has the very bytes of one that never had any."""
    created = client.responses.create(model="default", input="Stay in the final text", background=True)
    path = f"{other.base_url}responses/{created.id}?stream=true"
    event = b'event: keepalive\ndata: {"type":"keepalive"}\n\n'
    with httpx.stream("GET", path, headers={"Antiphon-Keep-Alive": "event"}) as raw:
        body, is_cancelled = b"", False
        for chunk in raw.iter_bytes():
            body += chunk
            if event in body and not is_cancelled:
                client.responses.cancel(created.id)
                is_cancelled = True
    assert b"\n:" not in body
    assert read_frames(body.replace(event, b"")) == read_frames(httpx.get(path).content)


def test_a_client_that_leaves_right_after_created_changes_nothing(client: OpenAI, other: OpenAI) -> None:
    stream = client.responses.create(model="default", input="Hello", background=True, stream=True)
    created = next(iter(stream))
    stream.close()
    assert created.type == "response.created"
    assert created.response.status == "queued"
    assert poll_to_the_end(other, created.response.id).status == "completed"


def test_background_without_store_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(model="default", input="Hello", background=True, store=False)
    assert refused.value.code == "unsupported_parameter"
    assert "background can only be used when `store` is true" in refused.value.message


def test_breaking_after_any_event_and_resuming_on_another_node_loses_nothing(
    client: OpenAI, other: OpenAI
) -> None:
    stream = client.responses.create(
        model="default", input="Multiply 12*12", tools=[PYTHON], background=True, stream=True
    )
    whole = list(stream)
    response_id = whole[0].response.id  # type: ignore[union-attr]
    for n in range(len(whole)):
        rest = list(other.responses.retrieve(response_id, stream=True, starting_after=n))
        assert rest == whole[n + 1 :]


def test_a_break_in_the_middle_of_generation_is_made_good_on_another_node(
    client: OpenAI, other: OpenAI
) -> None:
    for cut in (0, 1, 3, 8, 20):
        stream = client.responses.create(model="default", input="Hello", background=True, stream=True)
        head = [event for event, _ in zip(stream, range(cut + 1), strict=False)]
        stream.close()
        response_id = head[0].response.id  # type: ignore[union-attr]
        rest = list(other.responses.retrieve(response_id, stream=True, starting_after=cut))
        again = list(client.responses.retrieve(response_id, stream=True))
        assert head + rest == again
        assert [event.sequence_number for event in again] == list(range(len(again)))


def test_the_stream_helper_follows_a_response_by_its_id(client: OpenAI, other: OpenAI) -> None:
    created = client.responses.create(model="default", input="Hello", background=True)
    with other.responses.stream(response_id=created.id) as stream:
        final = stream.until_done().get_final_response()
    assert final.status == "completed"
    assert final.output_text == client.responses.retrieve(created.id).output_text


async def test_the_async_client_creates_polls_and_resumes(three: RunningCluster) -> None:
    async with AsyncOpenAI(base_url=f"{three.urls[2]}/v1", api_key="any", max_retries=0) as client:
        stream = await client.responses.create(model="default", input="Hello", background=True, stream=True)
        created = await anext(aiter(stream))
        await stream.close()
        rest = await client.responses.retrieve(created.response.id, stream=True, starting_after=0)  # type: ignore[union-attr]
        events = [event async for event in rest]
        assert [event.sequence_number for event in events] == list(range(1, len(events) + 1))
        assert events[-1].type == "response.completed"


# --- cursors ----------------------------------------------------------------------------------------


async def test_a_browser_resumes_by_the_last_event_id_it_saw(nodes: list[httpx.AsyncClient]) -> None:
    body = {"model": "default", "input": "Count to 10", "stream": True}
    frames = read_frames((await nodes[0].post("/v1/responses", json=body)).content)
    path = f"/v1/responses/{frames[0].data['response']['id']}"
    params = {"stream": "true"}
    resumed = await nodes[1].get(path, params=params, headers={"Last-Event-ID": "7"})
    assert read_frames(resumed.content) == frames[8:]


async def test_cursors_past_the_end_and_those_that_are_no_numbers_are_refused(
    nodes: list[httpx.AsyncClient],
) -> None:
    created = (await nodes[0].post("/v1/responses", json={"model": "default", "input": "Hello"})).json()
    path = f"/v1/responses/{created['id']}"
    past = await nodes[1].get(path, params={"stream": "true", "starting_after": "100000"})
    assert (past.status_code, past.json()["error"]["code"]) == (400, "cursor_beyond_end")
    wrong = await nodes[1].get(path, params={"stream": "true", "starting_after": "seven"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "starting_after"


async def test_an_archived_log_resumes_byte_for_byte_from_every_cursor(
    nodes: list[httpx.AsyncClient], three: RunningCluster
) -> None:
    body = {"model": "default", "input": "Count to 8", "stream": True}
    whole = (await nodes[0].post("/v1/responses", json=body)).content
    frames = read_frames(whole)
    response_id = frames[0].data["response"]["id"]
    with redis.Redis.from_url(three.redis_url) as connection:
        await asyncio.to_thread(
            wait_until, lambda: connection.exists(f"antiphon:{{default/{response_id}}}:archive") == 1
        )
    blocks = [block + b"\n\n" for block in whole.split(b"\n\n")[:-1]]
    for cursor in range(-1, len(frames)):
        params: dict[str, Any] = {"stream": "true", "starting_after": cursor}
        rest = await nodes[2].get(f"/v1/responses/{response_id}", params=params)
        assert rest.content == b"".join(blocks[cursor + 1 :])
    assert (await nodes[1].get(f"/v1/responses/{response_id}")).json() == frames[-1].data["response"]


# --- cancelling -------------------------------------------------------------------------------------

PHASES = {
    "before the first token": b"response.in_progress",
    "in reasoning": b"reasoning_text.delta",
    "in arguments": b"mcp_call_arguments.delta",
    "while the tool runs": b"mcp_call_arguments.done",
    "in the final text": b"output_text.delta",
}


@asynccontextmanager
async def reading(node: httpx.AsyncClient, path: str) -> AsyncIterator["asyncio.Task[list[Frame]]"]:
    async def read() -> list[Frame]:
        return read_frames((await node.get(path, params={"stream": "true"})).content)

    task = asyncio.create_task(read())
    yield task
    await task


async def wait_for_event(node: httpx.AsyncClient, path: str, needle: bytes) -> None:
    async with node.stream("GET", path, params={"stream": "true"}) as stream:
        seen = b""
        async for chunk in stream.aiter_bytes():
            seen += chunk
            if needle in seen:
                return
    raise AssertionError(f"{needle!r} never came")


@pytest.mark.parametrize("phase", PHASES)
async def test_cancel_stops_a_response_in_every_phase_and_its_readers_end(
    nodes: list[httpx.AsyncClient], phase: str
) -> None:
    body = {"model": "default", "input": f"Stay {phase}", "tools": [PYTHON], "background": True}
    created = (await nodes[0].post("/v1/responses", json=body)).json()
    path = f"/v1/responses/{created['id']}"
    await wait_for_event(nodes[0], path, PHASES[phase])
    async with reading(nodes[1], path) as first, reading(nodes[2], path) as second:
        cancelled = await nodes[2].post(f"{path}/cancel")
        assert cancelled.status_code == 200
        response = cancelled.json()
        assert (response["status"], response["output"], response["completed_at"]) == ("cancelled", [], None)
        async with asyncio.timeout(PATIENCE_S):
            frames = await first
            assert await second == frames
    assert frames[-1].event == "response.failed"
    assert frames[-1].data["response"] == response
    assert [frame.id for frame in frames] == list(range(len(frames)))
    assert (await nodes[0].post(f"{path}/cancel")).json() == response
    assert (await nodes[1].get(path)).json() == response


async def test_a_queued_response_is_cancelled_before_any_worker_has_it(
    nodes: list[httpx.AsyncClient], three: RunningCluster
) -> None:
    pid = three.kill("worker", signal.SIGSTOP)
    try:
        body = {"model": "default", "input": "Hello", "background": True}
        created = (await nodes[0].post("/v1/responses", json=body)).json()
        path = f"/v1/responses/{created['id']}"
        async with reading(nodes[1], path) as reader:
            cancelled = (await nodes[2].post(f"{path}/cancel")).json()
            assert cancelled["status"] == "cancelled"
            async with asyncio.timeout(PATIENCE_S):
                frames = await reader
        assert [frame.event for frame in frames] == [
            "response.created",
            "response.queued",
            "response.failed",
        ]
    finally:
        os.kill(pid, signal.SIGCONT)
    hello = (await nodes[0].post("/v1/responses", json={"model": "default", "input": "Hello"})).json()
    assert hello["status"] == "completed"
    assert (await nodes[0].get(path)).json()["status"] == "cancelled"


def test_the_table_of_refused_cancels_holds_to_the_letter(client: OpenAI) -> None:
    synchronous = client.responses.create(model="default", input="Hello")
    completed = client.responses.create(model="default", input="Hello", background=True)
    incomplete = client.responses.create(
        model="default", input="Count to 100", background=True, max_output_tokens=5
    )
    for created in (completed, incomplete):
        poll_to_the_end(client, created.id)
    for created, words in (
        (synchronous, "Cannot cancel a synchronous response."),
        (completed, "Cannot cancel a completed response."),
        (incomplete, "Cannot cancel a incomplete response."),
    ):
        with pytest.raises(BadRequestError) as refused:
            client.responses.cancel(created.id)
        assert refused.value.body["message"].replace(" an ", " a ") == words  # type: ignore[index]
        assert refused.value.param == "response_id"
    unknown = "resp_0_" + "0" * 32
    with pytest.raises(NotFoundError) as missing:
        client.responses.cancel(unknown)
    assert f"Response with id '{unknown}' not found." in missing.value.message


# --- leaving ----------------------------------------------------------------------------------------


async def read_created(stream: httpx.Response) -> dict[str, Any]:
    """The first event; nothing more is read then."""
    seen = b""
    async for chunk in stream.aiter_bytes():
        seen += chunk
        if b"\n\n" in seen:
            break
    data: dict[str, Any] = read_frames(seen[: seen.index(b"\n\n") + 2])[0].data
    return data


async def status_of(node: httpx.AsyncClient, response_id: str) -> str:
    return str((await node.get(f"/v1/responses/{response_id}")).json()["status"])


async def wait_for_status(node: httpx.AsyncClient, response_id: str, status: str) -> None:
    async def is_so() -> bool:
        return await status_of(node, response_id) == status

    await until(is_so)


async def test_a_foreground_response_that_nobody_reads_any_more_is_cancelled_after_the_grace(
    nodes: list[httpx.AsyncClient],
) -> None:
    body = {"model": "default", "input": "Stay in the final text", "stream": True}
    async with nodes[0].stream("POST", "/v1/responses", json=body) as stream:
        created = await read_created(stream)
    await wait_for_status(nodes[1], created["response"]["id"], "cancelled")


async def test_a_waiting_caller_who_hangs_up_has_left_too(
    nodes: list[httpx.AsyncClient], three: RunningCluster
) -> None:
    body = {"model": "default", "input": "Stay in the final text"}
    before = set(open_responses(three))
    waiting = asyncio.create_task(nodes[0].post("/v1/responses", json=body))
    await until(lambda: set(open_responses(three)) - before)
    (name,) = set(open_responses(three)) - before
    response_id = ResponseKey.parse(name.decode()).response_id
    await wait_for_status(nodes[1], response_id, "in_progress")
    waiting.cancel()
    await asyncio.wait([waiting])
    await wait_for_status(nodes[1], response_id, "cancelled")


async def test_chats_whose_clients_leave_are_cancelled_too(
    nodes: list[httpx.AsyncClient], three: RunningCluster
) -> None:
    """One that is streamed, and one that is waited for."""
    said = [{"role": "user", "content": "Stay in the final text"}]
    before = set(open_responses(three))
    waiting = asyncio.create_task(
        nodes[0].post("/v1/chat/completions", json={"messages": said, "store": True})
    )
    await until(lambda: set(open_responses(three)) - before)
    (name,) = set(open_responses(three)) - before
    body = {"messages": said, "store": True, "stream": True}
    async with nodes[1].stream("POST", "/v1/chat/completions", json=body) as stream:
        assert b"chat.completion.chunk" in await anext(stream.aiter_bytes())
    waiting.cancel()
    await asyncio.wait([waiting])
    for response_id in (stream.headers["x-response-id"], ResponseKey.parse(name.decode()).response_id):
        await wait_for_status(nodes[2], response_id, "cancelled")


async def test_coming_back_within_the_grace_keeps_it_running(nodes: list[httpx.AsyncClient]) -> None:
    body = {"model": "default", "input": "Stay in the final text", "stream": True}
    async with nodes[0].stream("POST", "/v1/responses", json=body) as stream:
        created = await read_created(stream)
    response_id = created["response"]["id"]
    params: dict[str, Any] = {"stream": "true", "starting_after": 0}
    async with nodes[1].stream("GET", f"/v1/responses/{response_id}", params=params) as stream:
        seen = bytearray()

        async def read() -> None:
            async for chunk in stream.aiter_bytes():
                seen.extend(chunk)

        reading = asyncio.create_task(read())
        await leave_one_alone(nodes[0])
        assert await status_of(nodes[2], response_id) == "in_progress"
        reading.cancel()
        await asyncio.wait([reading])
    assert read_frames(bytes(seen[: seen.rindex(b"\n\n") + 2]))[0].id == 1
    await wait_for_status(nodes[2], response_id, "cancelled")


async def leave_one_alone(node: httpx.AsyncClient) -> None:
    """Begins a response that nobody reads; returns when it is cancelled: who left before is missed too."""
    body = {"model": "default", "input": "Stay in the final text", "stream": True}
    async with node.stream("POST", "/v1/responses", json=body) as stream:
        alone = await read_created(stream)
    await wait_for_status(node, alone["response"]["id"], "cancelled")


async def test_a_background_response_is_never_touched_by_a_disconnect(nodes: list[httpx.AsyncClient]) -> None:
    body = {"model": "default", "input": "Stay in the final text", "stream": True, "background": True}
    async with nodes[0].stream("POST", "/v1/responses", json=body) as stream:
        created = await read_created(stream)
    response_id = created["response"]["id"]
    before = len((await nodes[1].get(f"/v1/responses/{response_id}")).content)

    async def has_grown() -> bool:
        return len((await nodes[1].get(f"/v1/responses/{response_id}")).content) > before + 1_500

    await until(has_grown)
    await leave_one_alone(nodes[0])
    assert await status_of(nodes[1], response_id) == "in_progress"
    await nodes[1].post(f"/v1/responses/{response_id}/cancel")


async def test_coming_and_going_within_the_grace_keeps_it_running_however_short_the_visits(
    nodes: list[httpx.AsyncClient],
) -> None:
    body = {"model": "default", "input": "Stay in the final text", "stream": True}
    async with nodes[0].stream("POST", "/v1/responses", json=body) as stream:
        created = await read_created(stream)
    response_id = created["response"]["id"]
    cursor, visit = 0, 0
    ends_s = time.monotonic() + 1.5 * GRACE_S
    while time.monotonic() < ends_s:
        visit += 1
        params: dict[str, Any] = {"stream": "true", "starting_after": cursor}
        node = nodes[visit % 3]
        async with node.stream("GET", f"/v1/responses/{response_id}", params=params) as stream:
            seen = b""
            async for chunk in stream.aiter_bytes():
                seen += chunk
                if b"\n\n" in seen:
                    break
        frames = read_frames(seen[: seen.rindex(b"\n\n") + 2])
        assert frames[0].id == cursor + 1
        cursor = frames[-1].id
    assert await status_of(nodes[0], response_id) == "in_progress"
    await wait_for_status(nodes[0], response_id, "cancelled")


async def test_an_unstored_foreground_response_lets_its_own_reader_back_in_and_nobody_else(
    nodes: list[httpx.AsyncClient],
) -> None:
    body = {"model": "default", "input": "Stay in the final text", "stream": True, "store": False}
    async with nodes[0].stream("POST", "/v1/responses", json=body) as stream:
        created = await read_created(stream)
    path = f"/v1/responses/{created['response']['id']}"
    async with nodes[1].stream("GET", path, params={"stream": "true", "starting_after": "0"}) as stream:
        assert read_frames((await anext(stream.aiter_bytes())).rpartition(b"\n\n")[0] + b"\n\n")[0].id == 1
        assert (await nodes[1].get(path)).status_code == 404
        for method, other_path in (
            ("POST", f"{path}/cancel"),
            ("DELETE", path),
            ("GET", f"{path}/input_items"),
        ):
            assert (await nodes[2].request(method, other_path)).status_code == 404
        input_id = f"msg_{created['response']['id'].removeprefix('resp_')}_i0"
        for fields in (
            {"previous_response_id": created["response"]["id"]},
            {"input": [{"type": "item_reference", "id": input_id}]},
        ):
            answer = await nodes[2].post("/v1/responses", json={"input": "Hi", **fields})
            assert answer.status_code in (400, 404)
            assert "not found" in answer.json()["error"]["message"]


# --- deleting, listing, counting ----------------------------------------------------------------------


def test_a_deleted_response_is_not_found_any_more(client: OpenAI, other: OpenAI) -> None:
    created = client.responses.create(model="default", input="Hello")
    client.responses.delete(created.id)
    for call in (other.responses.retrieve, other.responses.delete, other.responses.cancel):
        with pytest.raises(NotFoundError):
            call(created.id)


def test_a_running_response_cannot_be_deleted(client: OpenAI) -> None:
    created = client.responses.create(model="default", input="Stay in the final text", background=True)
    with pytest.raises(BadRequestError, match="Cannot delete an in-flight response"):
        client.responses.delete(created.id)
    client.responses.cancel(created.id)
    client.responses.delete(created.id)


def test_input_items_are_listed_in_pages(client: OpenAI, other: OpenAI) -> None:
    turns: Any = [{"role": "user", "content": f"Message {i}"} for i in range(7)]
    created = client.responses.create(model="default", input=turns)

    def texts(**page: Any) -> list[str]:
        listed: Any = other.responses.input_items.list(created.id, **page)
        return [item.content if isinstance(item.content, str) else item.content[0].text for item in listed]

    assert texts(order="asc") == [f"Message {i}" for i in range(7)]
    assert texts() == [f"Message {i}" for i in reversed(range(7))]
    assert texts(limit=2, order="asc") == [f"Message {i}" for i in range(7)]  # the client pages by itself
    first: Any = other.responses.input_items.list(created.id, limit=3, order="asc")
    assert (len(first.data), first.has_more) == (3, True)


def test_input_tokens_are_those_that_the_response_reports(client: OpenAI) -> None:
    request: Any = {"model": "default", "input": "Hello", "instructions": "Be brief.", "tools": [PYTHON]}
    counted = client.responses.input_tokens.count(**request)
    created = client.responses.create(**request)
    assert created.usage is not None
    assert counted.input_tokens == created.usage.input_tokens


# --- chains -----------------------------------------------------------------------------------------


def test_a_chain_goes_on_with_all_that_was_said_and_python_keeps_its_state(
    client: OpenAI, other: OpenAI
) -> None:
    request: Any = {"model": "default", "tools": [PYTHON]}
    first = client.responses.create(input="Remember 4711", instructions="Rhyme.", **request)
    second = other.responses.create(
        input="What did I ask you to remember?", previous_response_id=first.id, **request
    )
    assert second.output_text == "It is 4711."
    assert second.instructions is None
    assert second.previous_response_id == first.id
    kinds = [item.type for item in other.responses.input_items.list(second.id, order="asc")]
    assert kinds == ["message", "mcp_call", "message", "message"]


def test_many_children_of_one_parent_know_nothing_of_each_other(client: OpenAI, other: OpenAI) -> None:
    parent = client.responses.create(model="default", input="Remember 1", tools=[PYTHON])
    children = [
        node.responses.create(
            model="default", input=f"Remember {i}", previous_response_id=parent.id, tools=[PYTHON]
        )
        for i, node in ((2, client), (3, other))
    ]
    for i, child in zip((2, 3), children, strict=True):
        grandchild = other.responses.create(
            model="default",
            input="What did I ask you to remember?",
            previous_response_id=child.id,
            tools=[PYTHON],
        )
        assert grandchild.output_text == f"It is {i}."


def test_function_calls_and_their_outputs_are_kept_in_the_chain(client: OpenAI) -> None:
    call: Any = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    output: Any = {"type": "function_call_output", "call_id": "c1", "output": "42"}
    with pytest.raises(BadRequestError, match=r"No tool output found for function call c1\."):
        client.responses.create(model="default", input=[call, {"role": "user", "content": "Hi"}])
    first = client.responses.create(model="default", input=[call, output])
    # A second output for the call that stands in the chain.
    second = client.responses.create(model="default", input=[output], previous_response_id=first.id)
    assert second.status == "completed"
    with pytest.raises(BadRequestError, match=r"No tool call found for .* with call_id c1\."):
        client.responses.create(model="default", input=[output])


def test_parents_that_cannot_be_continued_are_named(client: OpenAI) -> None:
    unknown = "resp_0_" + "f" * 32
    with pytest.raises(BadRequestError) as missing:
        client.responses.create(model="default", input="Hi", previous_response_id=unknown)
    assert (missing.value.param, missing.value.code) == (
        "previous_response_id",
        "previous_response_not_found",
    )
    unstored = client.responses.create(model="default", input="Hi", store=False)
    with pytest.raises(BadRequestError, match=f"Previous response with id '{unstored.id}' not found."):
        client.responses.create(model="default", input="Hi", previous_response_id=unstored.id)
    with pytest.raises(BadRequestError) as malformed:
        client.responses.create(model="default", input="Hi", previous_response_id="foo")
    assert malformed.value.code == "invalid_id_prefix"
    running = client.responses.create(model="default", input="Stay in the final text", background=True)
    with pytest.raises(BadRequestError) as early:
        client.responses.create(model="default", input="Hi", previous_response_id=running.id)
    assert early.value.param == "previous_response_id"
    client.responses.cancel(running.id)


def test_an_item_reference_is_replaced_by_the_item(client: OpenAI) -> None:
    first = client.responses.create(model="default", input="Hello")
    reference: Any = {"type": "item_reference", "id": first.output[-1].to_dict()["id"]}
    second = client.responses.create(
        model="default", input=[reference, {"role": "user", "content": "Count to 3"}]
    )
    items = list(client.responses.input_items.list(second.id, order="asc"))
    assert items[0].to_dict() == first.output[-1].to_dict()
    with pytest.raises(NotFoundError, match="not found"):
        client.responses.create(model="default", input=[{"type": "item_reference", "id": "msg_nowhere"}])


# --- admission --------------------------------------------------------------------------------------


def test_the_same_idempotency_key_gives_the_same_response_and_another_body_is_refused(
    client: OpenAI, other: OpenAI
) -> None:
    headers = {"Idempotency-Key": f"key-{time.monotonic_ns()}"}
    first = client.responses.create(model="default", input="Hello", extra_headers=headers)
    again = other.responses.create(model="default", input="Hello", extra_headers=headers)
    assert again.to_dict() == first.to_dict()
    with pytest.raises(ConflictError):
        other.responses.create(model="default", input="Goodbye", extra_headers=headers)


def test_a_key_whose_response_was_deleted_makes_a_new_one_and_needs_no_parent_to_be_repeated(
    client: OpenAI, other: OpenAI
) -> None:
    headers = {"Idempotency-Key": f"deleted-{time.monotonic_ns()}"}
    first = client.responses.create(model="default", input="Hello", extra_headers=headers)
    client.responses.delete(first.id)
    again = other.responses.create(model="default", input="Hello", extra_headers=headers)
    assert again.id != first.id
    headers = {"Idempotency-Key": f"orphan-{time.monotonic_ns()}"}
    request: Any = {"model": "default", "input": "Hi", "previous_response_id": again.id}
    child = client.responses.create(**request, extra_headers=headers)
    client.responses.delete(again.id)
    assert other.responses.create(**request, extra_headers=headers).id == child.id


async def test_a_repeated_stream_is_the_same_stream(nodes: list[httpx.AsyncClient]) -> None:
    body = {"model": "default", "input": "Count to 30", "stream": True}
    headers = {"Idempotency-Key": f"stream-{time.monotonic_ns()}"}
    answers = await asyncio.gather(
        *(node.post("/v1/responses", json=body, headers=headers) for node in nodes)
    )
    assert len({answer.content for answer in answers}) == 1


async def test_a_tenant_with_too_many_open_responses_is_asked_to_wait(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("narrow") / "data"
    narrow = await asyncio.to_thread(
        start_cluster, data, "--script", str(SCRIPT), ANTIPHON_TENANT_RESPONSES_MAX="2", **PATIENT
    )
    try:
        async with httpx.AsyncClient(base_url=narrow.urls[0], timeout=PATIENCE_S) as node:
            body = {"model": "default", "input": "Stay in the final text", "background": True}
            answers = [await node.post("/v1/responses", json=body) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429]
            assert answers[2].headers["retry-after"]
            assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
            for answer in answers[:2]:
                await node.post(f"/v1/responses/{answer.json()['id']}/cancel")
            assert (await node.post("/v1/responses", json=body)).status_code == 200
    finally:
        await asyncio.to_thread(narrow.stop)


def test_the_snapshot_matches_the_stream(client: OpenAI, other: OpenAI) -> None:
    stream = client.responses.create(model="default", input="Multiply 6*7", tools=[PYTHON], stream=True)
    final = list(stream)[-1]
    assert json.loads(other.responses.retrieve(final.response.id).to_json()) == json.loads(  # type: ignore[union-attr]
        final.response.to_json()  # type: ignore[union-attr]
    )
