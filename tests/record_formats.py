"""Logs in one record format, which show that a later version can still continue them.

`python -m tests.record_formats FILE` writes those of the version that is checked out; it is run before a
change that makes the number in `shared/record_format.py` rise. Owns what is asked and the file; replaying
is a test's.
"""

import asyncio
import gzip
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from local.valkey import Valkey
from shared.responses import McpProtocolError, McpTool, McpToolExecutionError, ResponseRequest
from shared.settings import Settings
from shared.store.log.event_log import Entry
from shared.store.redis.client import RedisClient
from shared.tool_calls import ToolCall, ToolFailure, ToolListing, ToolOutput, ToolsListed
from tests.chaos.plans import LABEL, SCRIPT
from tests.requests import accept, make_request
from tests.working import finish, keep_journal, working
from worker.engines.scripted.script import Script

_SCHEMA = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
_TOOLS: Any = {"type": "mcp", "server_label": LABEL, "require_approval": "never"}
_ASKING: Any = {"type": "mcp", "server_label": LABEL, "require_approval": "always"}

REQUESTS: Mapping[str, ResponseRequest] = {
    "reasoning and an answer": make_request("tell 12 [k0000001]"),
    "a preamble": make_request("characters [k0000001]"),
    "a listing and calls": make_request("all [k0000001]", tools=[_TOOLS]),
    "a call that fails": make_request("count [k0000001]", tools=[_TOOLS]),
    "a question": make_request("lookup [k0000001]", tools=[_ASKING]),
    "in the background": make_request("tell 3 [k0000001]", background=True, status="queued"),
    "log probabilities": msgspec.structs.replace(
        make_request("tell 3 [k0000001]", top_logprobs=2), include=["message.output_text.logprobs"]
    ),
    "Harmony messages": msgspec.structs.replace(
        make_request("lookup [k0000001]", tools=[_TOOLS]), enable_response_messages=True
    ),
}


def answer(task: ToolCall | ToolListing) -> ToolOutput | ToolFailure | ToolsListed:
    """Describes one server: a tool that answers, one that the server refuses, one that fails."""
    if isinstance(task, ToolListing):
        return ToolsListed(
            (
                McpTool("lookup", _SCHEMA, "Looks it up.", {"readOnlyHint": True, "title": "Look up"}),
                McpTool("count", _SCHEMA, None, {"idempotentHint": False}),
                McpTool("slow", _SCHEMA, "Slow."),
            )
        )
    if task.name == "count":
        return ToolFailure(McpToolExecutionError([{"type": "text", "text": "It does not count."}]))
    if task.name == "slow":
        return ToolFailure(McpProtocolError(-32602, "no such key"))
    return ToolOutput("value")


def load_script(folder: Path) -> Script:
    """The script of `make chaos`, without its pauses."""
    script = folder / "script.toml"
    script.write_text(
        SCRIPT.read_text().replace("tokens_per_s = 50\nfirst_token_s = 0.1", "tokens_per_s = 0")
    )
    return Script.load(script)


class Logged(msgspec.Struct, frozen=True):
    """One whole response: the request, every entry (frame, tokens, token record), and the tool journal."""

    request: ResponseRequest
    entries: list[tuple[str, tuple[int, ...], bytes]]
    journal: list[bytes]

    @property
    def log(self) -> list[Entry]:
        return [
            Entry(number, frame.encode(), tokens, token_record)
            for number, (frame, tokens, token_record) in enumerate(self.entries)
        ]


def read(file: Path) -> dict[str, Logged]:
    return msgspec.json.decode(gzip.decompress(file.read_bytes()), type=dict[str, Logged])


async def write(file: Path) -> None:
    logged = {}
    with tempfile.TemporaryDirectory() as folder, Valkey(Path(folder)) as valkey:
        settings = Settings(redis_url=valkey.url)
        redis = RedisClient.connect(valkey.url, timeout_s=5.0)
        async with working(redis, settings, load_script(Path(folder)), answer=answer) as worker:
            for name, request in REQUESTS.items():
                key = await accept(redis, settings, request)
                entries = await finish(redis, worker, key)
                logged[name] = Logged(
                    request,
                    [(entry.frame.decode(), entry.tokens, entry.token_record) for entry in entries],
                    await keep_journal(redis, key),
                )
        await redis.close()
    file.write_bytes(gzip.compress(msgspec.json.encode(logged), mtime=0))


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1])))
