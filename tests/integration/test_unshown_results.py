"""What a call's item does not show is read all the same: by the next response, in every way to continue."""

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from api import context
from shared.responses import SEALED_REASONING, HttpError
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import archiving
from shared.store.redis.client import RedisClient
from shared.store.tools import tool_journal
from shared.tool_calls import ToolCall, ToolFailure, ToolListing, ToolOutput
from tests.edges import serving
from tests.working import Answer, Worker, finish, working
from worker.engines.scripted.script import Script

TOOL = {"type": "code_interpreter", "container": {"type": "auto"}}
INCLUDE = ["code_interpreter_call.outputs"]
SCRIPT = Script.parse("""
[[scene]]
name = "one call"
match = 'run (?P<code>[a-z]+)$'
[[scene.turn]]
call = { tool = "python", code = "{code}" }
[[scene.turn]]
final = "Done."

[[scene]]
name = "a slow answer"
match = 'run (?P<code>[a-z]+) and think$'
pace = { tokens_per_s = 20 }
[[scene.turn]]
call = { tool = "python", code = "{code}" }
[[scene.turn]]
final = "It goes on. It goes on. It goes on. It goes on. It goes on. It goes on. It goes on. It goes on. "

[[scene]]
name = "a thought"
match = 'think$'
[[scene.turn]]
analysis = "A thought."
final = "Said."

[[scene]]
name = "anything else"
[[scene.turn]]
final = "Nothing."
""")


def answer(task: ToolCall | ToolListing) -> Answer:
    assert isinstance(task, ToolCall)
    if "fails" in task.arguments:
        return ToolFailure(HttpError(503, "no sandbox"))
    return ToolOutput("" if "silent" in task.arguments else "a secret of the tool\n")


async def ask(
    client: httpx.AsyncClient, redis: RedisClient, worker: Worker, text: str, **body: Any
) -> dict[str, Any]:
    """Returns the response once it has ended."""
    asked = {"input": text, "tools": [TOOL], "background": True, "enable_response_messages": True, **body}
    created = (await client.post("/v1/responses", json=asked)).json()
    await finish(redis, worker, ResponseKey("default", created["id"]))
    response: dict[str, Any] = (await client.get(f"/v1/responses/{created['id']}")).json()
    assert response["status"] == "completed", response
    return response


def answers_read(response: dict[str, Any]) -> list[str]:
    """What the model read of tools in its prompt."""
    told = [message for message in response["input_messages"] if message["role"] == "tool"]
    return [part["text"] for message in told for part in message["content"]]


def outputs_of(response: dict[str, Any]) -> list[Any]:
    return [item["outputs"] for item in response["output"] if item["type"] == "code_interpreter_call"]


SAID = {
    "loud": "a secret of the tool\n",
    "silent": "",
    "fails": "The tool's server could not be used: no sandbox (HTTP 503).",
}


@pytest.mark.parametrize("include", [[], INCLUDE], ids=["not shown", "shown"])
@pytest.mark.parametrize("code", SAID)
@pytest.mark.parametrize("is_archived", [False, True], ids=["log", "archive"])
async def test_a_response_that_continues_another_reads_what_its_code_printed(
    redis: RedisClient, settings: Settings, include: list[str], code: str, is_archived: bool
) -> None:
    async with serving(settings) as client, working(redis, settings, SCRIPT, answer=answer) as worker:
        first = await ask(client, redis, worker, f"run {code}", include=include)
        if not include:
            assert outputs_of(first) == [None]
        if is_archived:
            assert await archiving.archive_log(redis, ResponseKey("default", first["id"])) == "archived"
            assert (await client.get(f"/v1/responses/{first['id']}")).json() == first
        second = await ask(client, redis, worker, "hello", previous_response_id=first["id"])
        assert answers_read(second) == [SAID[code]]
        third = await ask(client, redis, worker, "hello", previous_response_id=second["id"])
        assert answers_read(third) == [SAID[code]]
        items = (await client.get(f"/v1/responses/{second['id']}/input_items?order=asc")).json()["data"]
        assert [item["outputs"] for item in items if item["type"] == "code_interpreter_call"] == [
            [{"type": "logs", "logs": SAID[code]}] if SAID[code] else []
        ]
        (call,) = [item for item in first["output"] if item["type"] == "code_interpreter_call"]
        reference = [{"type": "item_reference", "id": call["id"]}, {"role": "user", "content": "hello"}]
        assert answers_read(await ask(client, redis, worker, "", input=reference)) == [SAID[code]]


@pytest.mark.parametrize("tool", [TOOL, {"type": "mcp", "server_label": "code_interpreter"}])
async def test_what_a_cancelled_response_has_done_is_read_by_one_that_continues_it(
    redis: RedisClient, settings: Settings, tool: dict[str, Any]
) -> None:
    """Its output is empty, as the hosted API's is; a model that reads of no call makes it again."""
    async with serving(settings) as client, working(redis, settings, SCRIPT, answer=answer) as worker:
        asked = {"input": "run loud and think", "tools": [tool], "background": True}
        created = (await client.post("/v1/responses", json=asked)).json()
        path, key = f"/v1/responses/{created['id']}", ResponseKey("default", created["id"])
        running = asyncio.create_task(finish(redis, worker, key))
        while not any(item["type"] == "message" for item in (await client.get(path)).json()["output"]):
            assert not running.done()
        cancelled = (await client.post(f"{path}/cancel")).json()
        assert (cancelled["status"], cancelled["output"]) == ("cancelled", [])
        await running
        second = await ask(client, redis, worker, "hello", tools=[tool], previous_response_id=created["id"])
        assert answers_read(second) == ["a secret of the tool\n"]
        assert (await client.get(path)).json() == cancelled


@pytest.mark.parametrize("tool", [TOOL, {"type": "mcp", "server_label": "code_interpreter"}])
@pytest.mark.parametrize("is_begun", [True, False], ids=["begun", "waiting"])
async def test_what_a_failed_response_had_begun_is_read_by_one_that_continues_it(
    redis: RedisClient, settings: Settings, tool: dict[str, Any], is_begun: bool
) -> None:
    async with serving(settings) as client:
        async with working(redis, settings, SCRIPT, answer=None) as worker:
            asked = {"input": "run loud", "tools": [tool], "background": True}
            created = (await client.post("/v1/responses", json=asked)).json()
            path, key = f"/v1/responses/{created['id']}", ResponseKey("default", created["id"])
            await worker.ownership.start_response(str(key))
            while not await redis.command("HLEN", keys.tools(key)):
                await asyncio.sleep(0.01)
            if is_begun:
                assert await tool_journal.claim(redis, settings, key, 0, "runner") is not None
        await redis.command("HSET", keys.state(key), "deaths", settings.owners_lost_max)
        async with working(redis, settings, SCRIPT, answer=answer) as worker:
            await finish(redis, worker, key)
            failed = (await client.get(f"{path}?include[]={INCLUDE[0]}")).json()
            assert (failed["status"], failed["output"][0]["status"]) == ("failed", "incomplete")
            second = await ask(
                client, redis, worker, "hello", tools=[tool], previous_response_id=created["id"]
            )
            assert answers_read(second) == ["[This call was not completed.]"] * is_begun
            assert (await client.get(path)).json()["output"] == failed["output"]


@pytest.mark.parametrize("is_archived", [False, True], ids=["log", "archive"])
@pytest.mark.parametrize("code", SAID)
async def test_a_query_may_ask_for_what_the_create_call_did_not(
    redis: RedisClient, settings: Settings, code: str, is_archived: bool
) -> None:
    async with serving(settings) as client, working(redis, settings, SCRIPT, answer=answer) as worker:
        first = await ask(client, redis, worker, f"run {code}")
        if is_archived:
            assert await archiving.archive_log(redis, ResponseKey("default", first["id"])) == "archived"
        path = f"/v1/responses/{first['id']}"
        for query in ("", "?include[]=message.output_text.logprobs"):
            assert (await client.get(path + query)).json() == first
        asked = (await client.get(f"{path}?include[]={INCLUDE[0]}")).json()
        said = SAID[code].removesuffix("\n")
        assert outputs_of(asked) == [[{"type": "logs", "logs": said}] if said else []]
        for item in (*first["output"], *asked["output"]):
            item.pop("outputs", None)
        assert asked == first


@pytest.mark.parametrize("is_archived", [False, True], ids=["log", "archive"])
async def test_a_query_may_ask_for_sealed_reasoning_as_a_create_call_may(
    redis: RedisClient, settings: Settings, is_archived: bool
) -> None:
    keyed = settings.model_copy(update={"seal_keys": [SecretStr("A" * 43 + "=")]})
    async with serving(keyed) as client, working(redis, keyed, SCRIPT) as worker:
        bare = await ask(client, redis, worker, "think")
        sealed = await ask(client, redis, worker, "think", include=[SEALED_REASONING])
        if is_archived:
            assert await archiving.archive_log(redis, ResponseKey("default", bare["id"])) == "archived"
        path = f"/v1/responses/{bare['id']}?include[]={SEALED_REASONING}"
        asked = (await client.get(path)).json()["output"][0]
        assert asked["type"] == "reasoning"
        assert "encrypted_content" not in bare["output"][0]
        assert asked["encrypted_content"] == sealed["output"][0]["encrypted_content"]
        assert asked["content"] == bare["output"][0]["content"]


@pytest.mark.parametrize("code", SAID)
async def test_a_conversation_holds_what_its_code_printed(
    redis: RedisClient, settings: Settings, code: str
) -> None:
    async with serving(settings) as client, working(redis, settings, SCRIPT, answer=answer) as worker:
        conversation = (await client.post("/v1/conversations", json={})).json()["id"]
        first = await ask(client, redis, worker, f"run {code}", conversation=conversation)
        second = await ask(client, redis, worker, "run loud", conversation=conversation)
        assert answers_read(second) == [SAID[code]]
        containers = {item["container_id"] for r in (first, second) for item in r["output"] if "code" in item}
        assert containers == {f"cntr_{first['id'].removeprefix('resp_')}"}


@pytest.mark.parametrize("is_archived", [False, True], ids=["log", "archive"])
@pytest.mark.parametrize("code", SAID)
async def test_a_call_that_is_sent_back_without_its_outputs_is_read_with_them(
    redis: RedisClient, settings: Settings, code: str, is_archived: bool
) -> None:
    async with serving(settings) as client, working(redis, settings, SCRIPT, answer=answer) as worker:
        first = await ask(client, redis, worker, f"run {code}")
        call = call_in(first)
        if is_archived:
            assert await archiving.archive_log(redis, ResponseKey("default", first["id"])) == "archived"
        second = await ask(client, redis, worker, "", input=[call, HELLO])
        assert answers_read(second) == [SAID[code]]


NOT_KEPT = "[What came of this code was not kept with the call.]"
HELLO = {"role": "user", "content": "hello"}


def call_in(response: dict[str, Any]) -> dict[str, Any]:
    (call,) = [item for item in response["output"] if item["type"] == "code_interpreter_call"]
    return dict(call)


async def test_what_is_kept_belongs_to_the_same_call_and_goes_to_its_tenant(
    redis: RedisClient, settings: Settings
) -> None:
    """And what a client says itself stands."""
    async with serving(settings) as client, working(redis, settings, SCRIPT, answer=answer) as worker:
        first = await ask(client, redis, worker, "run loud")
        call = call_in(first)
        others = call["id"].replace("ci_0_", "ci_0_" + "f" * 4)[: len(call["id"])]
        for changed, read in [
            ({"code": "another"}, NOT_KEPT),
            ({"id": others}, NOT_KEPT),
            ({"id": "ci_elsewhere"}, NOT_KEPT),
            ({"outputs": [{"type": "logs", "logs": "x"}]}, "x"),
            ({"outputs": []}, ""),
        ]:
            response = await ask(client, redis, worker, "", input=[call | changed, HELLO])
            assert answers_read(response) == [read], changed
        await redis.command("RENAME", keys.state(key_of(first)), keys.state(key_of(first, "other")))
        response = await ask(client, redis, worker, "", input=[call, HELLO])
        assert answers_read(response) == [NOT_KEPT]


@pytest.mark.parametrize("is_archived", [False, True], ids=["log", "archive"])
async def test_no_more_is_read_for_it_than_a_request_may_have_read(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch, is_archived: bool
) -> None:
    """The call stays as it was sent, and the request is accepted."""
    few = settings.model_copy(update={"references_bytes_max": 100})
    async with serving(few) as client, working(redis, few, SCRIPT, answer=answer) as worker:
        first = await ask(client, redis, worker, "run loud")
        if is_archived:
            assert await archiving.archive_log(redis, key_of(first)) == "archived"
        else:
            monkeypatch.setattr(context, "_BATCH_BYTES", 10)
        second = await ask(client, redis, worker, "", input=[call_in(first), HELLO])
        assert answers_read(second) == [NOT_KEPT]


def key_of(response: dict[str, Any], tenant: str = "default") -> ResponseKey:
    return ResponseKey(tenant, response["id"])


async def test_a_container_may_be_named_only_where_it_is_continued(
    redis: RedisClient, settings: Settings
) -> None:
    async with serving(settings) as client, working(redis, settings, SCRIPT, answer=answer) as worker:
        first = await ask(client, redis, worker, "run loud")
        named = {"type": "code_interpreter", "container": f"cntr_{first['id'].removeprefix('resp_')}"}
        more = {"tools": [named], "previous_response_id": first["id"]}
        second = await ask(client, redis, worker, "run loud", **more)
        assert second["tools"] == [named]
        assert [i["container_id"] for i in second["output"] if "code" in i] == [named["container"]]
        for alone in (named, named | {"container": "cntr_elsewhere"}):
            refused = await client.post("/v1/responses", json={"input": "hello", "tools": [alone]})
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "tools[0].container"


async def test_variables_follow_a_conversation(redis: RedisClient, settings: Settings) -> None:
    async with serving(settings) as client, working(redis, settings, SCRIPT, answer=answer) as worker:
        conversation = (await client.post("/v1/conversations", json={})).json()["id"]
        first = await ask(client, redis, worker, "hello", conversation=conversation)
        await redis.command("HSET", tools_of(first), "session:code_interpreter", "x = 42")
        await redis.command("EXPIRE", tools_of(first), 60)
        second = await ask(client, redis, worker, "hello", conversation=conversation)
        assert await redis.command("HGET", tools_of(second), "session:code_interpreter") == b"x = 42"


def tools_of(response: dict[str, Any]) -> str:
    return keys.tools(ResponseKey("default", response["id"]))
