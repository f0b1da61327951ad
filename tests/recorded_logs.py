"""Logs of many kinds of responses, which show that a change of how tokens become events changes no byte.

`python -m tests.recorded_logs FILE` records those of the version that is checked out; run it with the one
whose bytes are to hold, and again when the record format rises (`tests/record_formats.py`). Owns what is
asked; replaying is a test's.
"""

import asyncio
import gzip
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from local.valkey import Valkey
from shared.responses import HttpError, McpProtocolError, McpTool, McpToolExecutionError
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log.event_log import Entry
from shared.store.redis.client import RedisClient
from shared.tool_calls import ToolCall, ToolFailure, ToolListing, ToolOutput, ToolsListed
from tests.edges import serving
from tests.patience import until
from tests.record_formats import Logged
from tests.requests import read_record
from tests.working import Answer, Worker, calculate, finish, keep_journal, working
from worker.engines.scripted.script import Script

FILE = Path(__file__).with_name("integration") / "recorded_logs.json.gz"
SCRIPT = Path(__file__).with_suffix(".toml")

Body = dict[str, Any]
Step = Body | Callable[[Body], Body]
"""The body of a create call; or what makes it from the response before."""

_QUESTION = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
_WIKI: Body = {"type": "mcp", "server_label": "wiki", "server_url": "https://wiki.example/mcp"}
WIKI: Body = _WIKI | {"require_approval": "never"}
ASKING: Body = _WIKI | {"require_approval": "always"}
AWAY: Body = WIKI | {"server_label": "away", "server_url": "https://away.example/mcp"}
PYTHON: Body = {"type": "mcp", "server_label": "code_interpreter", "server_url": "IGNORED"}
NOTE: Body = {
    "type": "function",
    "name": "note",
    "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
}
_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_FORMAT: Body = {"format": {"type": "json_schema", "name": "weather", "schema": _SCHEMA, "strict": False}}
_LOGPROBS: Body = {"include": ["message.output_text.logprobs"]}


@dataclass(frozen=True)
class Case:
    """Responses that follow each other; each is recorded."""

    steps: tuple[Step, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    cancel_after: int = 0
    """Once its log has so many events; 0: never."""
    said_before: tuple[str, ...] = ()
    """What is in the conversation in which they are, if they are in one."""
    answer_words: int = 0
    """The length of python's answers, if it does not calculate."""


def ask(words: str, *tools: Body, **more: Any) -> Case:
    return Case(({"input": words, **({"tools": list(tools)} if tools else {}), **more},))


def _after(**more: Any) -> Callable[[Body], Body]:
    return lambda before: {"previous_response_id": before["id"], **more}


def _with_outputs(before: Body) -> Body:
    calls = [item for item in before["output"] if item["type"] == "function_call"]
    outputs = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": f"noted {i} 𓀀"}
        for i, call in enumerate(calls)
    ]
    return {"input": outputs, "tools": [NOTE], "previous_response_id": before["id"]}


def _approve(is_approved: bool) -> Callable[[Body], Body]:
    def answer(before: Body) -> Body:
        (request,) = [item for item in before["output"] if item["type"] == "mcp_approval_request"]
        reply = {
            "type": "mcp_approval_response",
            "approval_request_id": request["id"],
            "approve": is_approved,
        }
        return {"input": [reply], "tools": [ASKING], "previous_response_id": before["id"]}

    return answer


_SMALL = {"context_tokens_max": 2_000, "answer_tokens_reserved": 700}
_OLD = [{"role": "user", "content": "word " * 450} for _ in range(3)]


def _outgrow(truncation: str, words: int) -> Case:
    asked = [*_OLD, {"role": "user", "content": "python 3"}]
    body = {"input": asked, "tools": [PYTHON], "truncation": truncation}
    return Case((body,), _SMALL, answer_words=words)


CASES: Mapping[str, Case] = {
    "plain text": ask("plain"),
    "reasoning": ask("thoughts", reasoning={"effort": "high", "summary": "auto"}),
    "a preamble": ask("preamble", instructions="Be brief. 𓀀", metadata={"a": "b"}),
    "many messages": ask("many messages"),
    "characters of several tokens": ask("characters"),
    "half characters": ask("half characters"),
    "several tokens at a time": ask("in chunks"),
    "a long text": ask("long", user="somebody", temperature=0.5),
    "Harmony messages": ask("python 1", PYTHON, enable_response_messages=True),
    "in the background": ask("preamble", background=True),
    "not stored": ask("preamble", store=False),
    "a JSON schema": ask("json", text=_FORMAT),
    "log probabilities": ask("characters", top_logprobs=3, **_LOGPROBS),
    "log probabilities without alternatives": ask("many messages", **_LOGPROBS),
    "log probabilities of half characters": ask("half characters", top_logprobs=1, **_LOGPROBS),
    "log probabilities of chunks": ask("in chunks", top_logprobs=1, **_LOGPROBS),
    "log probabilities and a tool": ask("python 1", PYTHON, top_logprobs=1, **_LOGPROBS),
    "one turn after the other": Case(
        ({"input": "remember"}, _after(input="preamble"), _after(input="thoughts", instructions="Again."))
    ),
    "a conversation": Case(
        ({"input": "remember"}, lambda _: {"input": "preamble"}), said_before=("hello", "𓀀")
    ),
    "python": ask("python 1", PYTHON),
    "python several times": ask("python 3", PYTHON),
    "calls beyond the limit": ask("python 3", PYTHON, max_tool_calls=1),
    "a function call": Case(({"input": "function", "tools": [NOTE]}, _with_outputs)),
    "several function calls": Case(({"input": "functions", "tools": [NOTE]}, _with_outputs)),
    "one function call at a time": ask("functions", NOTE, parallel_tool_calls=False),
    "a listing and a call": Case(
        ({"input": "lookup", "tools": [WIKI]}, _after(input="lookup", tools=[WIKI]))
    ),
    "listings and failures": ask("all tools", WIKI, AWAY, PYTHON),
    "an approved call": Case(({"input": "lookup", "tools": [ASKING]}, _approve(True))),
    "a refused call": Case(({"input": "lookup", "tools": [ASKING]}, _approve(False))),
    "the limit in reasoning": ask("thoughts", max_output_tokens=7),
    "the limit in a header": ask("thoughts", max_output_tokens=14),
    "the limit in a message": ask("long", max_output_tokens=100),
    "the limit in a character": ask("characters", max_output_tokens=6),
    "the limit in a call": ask("python 1", PYTHON, max_output_tokens=18),
    "the limit in arguments": ask("lookup", WIKI, max_output_tokens=22),
    "a context that is full": Case(({"input": "long"},), {"context_tokens_max": 200}),
    "a prompt that is too long": Case(
        ({"input": "word " * 300, "background": True},), {"context_tokens_max": 200}
    ),
    "a prompt that is shortened": _outgrow("auto", 200),
    "a prompt that outgrows the context": _outgrow("disabled", 200),
    "an answer that cannot fit": _outgrow("auto", 3_000),
    "cancelled": Case(({"input": "slow"},), cancel_after=20),
    "cancelled in the background": Case(({"input": "slow", "background": True},), cancel_after=30),
    **{
        f"a model's mistake: {words}": ask(words, WIKI, PYTHON)
        for words in (
            *("unknown tool", "no tool", "no message marker", "broken arguments", "call ends like a message"),
            *("nobody, then python", "incorrigible", "bad header", "no header", "ends in a header"),
            *("broken off call", "no end", "nothing"),
        )
    },
}


def settings_of(case: Case, settings: Settings) -> Settings:
    return settings.model_copy(update=dict(case.settings))


def answerer(case: Case) -> Callable[[ToolCall | ToolListing], Answer]:
    """Plays the tool servers of a case: one of them is away, tools fail in two ways, python calculates."""

    def answer(task: ToolCall | ToolListing) -> Answer:
        match task:
            case ToolListing(server_label="away"):
                return ToolFailure(HttpError(503, "it is away"))
            case ToolListing():
                names = ("ask", "fail", "refuse")
                return ToolsListed(tuple(McpTool(name, _QUESTION, f"May {name}. 𓀀") for name in names))
            case ToolCall(name="fail"):
                return ToolFailure(
                    McpToolExecutionError([{"type": "text", "text": "It fails, ünfortunately."}])
                )
            case ToolCall(name="refuse"):
                return ToolFailure(McpProtocolError(-32602, "no such q"))
            case ToolCall(name="ask"):
                return ToolOutput('An "answer":\n𓀀')
            case ToolCall():
                return ToolOutput("word " * case.answer_words) if case.answer_words else calculate(task)

    return answer


def read(file: Path = FILE) -> dict[str, list[Logged]]:
    """Returns the responses of each case."""
    return msgspec.json.decode(gzip.decompress(file.read_bytes()), type=dict[str, list[Logged]])


async def record(redis: RedisClient, settings: Settings, case: Case) -> list[Logged]:
    """Has this version's API and worker run the case."""
    recorded: list[Logged] = []
    chosen = settings_of(case, settings)
    script, before, shared = Script.load(SCRIPT), Body(), Body(model="default")
    async with (
        serving(chosen) as client,
        working(redis, chosen, script, answer=answerer(case)) as worker,
    ):
        if case.said_before:
            items = [{"role": "user", "content": text} for text in case.said_before]
            created = await client.post("/v1/conversations", json={"items": items})
            shared["conversation"] = created.json()["id"]
        for step in case.steps:
            body = shared | (step if isinstance(step, dict) else step(before))
            posting = asyncio.create_task(client.post("/v1/responses", json=body))
            key = await _find_open(redis)
            entries = await _run(redis, worker, client, key, case.cancel_after)
            await posting
            recorded.append(await _keep(redis, key, entries))
            before = json.loads(entries[-1].frame.partition(b"\ndata: ")[2])["response"]
    return recorded


async def _find_open(redis: RedisClient) -> ResponseKey:
    async def is_there() -> bool:
        return bool(await redis.command("ZCARD", keys.ACTIVE))

    await until(is_there)
    (name,) = await redis.command("ZRANGE", keys.ACTIVE, 0, -1)
    return ResponseKey.parse(name.decode())


async def _run(
    redis: RedisClient, worker: Worker, client: httpx.AsyncClient, key: ResponseKey, cancel_after: int
) -> list[Entry]:
    running = asyncio.create_task(finish(redis, worker, key))
    if cancel_after:

        async def is_long_enough() -> bool:
            return bool(await redis.command("XLEN", keys.log(key)) >= cancel_after)

        await until(is_long_enough)
        await client.post(f"/v1/responses/{key.response_id}/cancel")
    return await running


async def _keep(redis: RedisClient, key: ResponseKey, entries: list[Entry]) -> Logged:
    kept = await read_record(redis, key)
    assert kept is not None
    texts = [(entry.frame.decode(), entry.tokens, entry.token_record) for entry in entries]
    return Logged(kept.request, texts, await keep_journal(redis, key))


async def write(file: Path) -> None:
    logged = {}
    with tempfile.TemporaryDirectory() as folder, Valkey(Path(folder)) as valkey:
        settings = Settings(redis_url=valkey.url)
        redis = RedisClient.connect(valkey.url, timeout_s=5.0)
        for name, case in CASES.items():
            logged[name] = await record(redis, settings, case)
            await redis.command("FLUSHALL")
        await redis.close()
    file.write_bytes(gzip.compress(msgspec.json.encode(logged), mtime=0))


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1])))
