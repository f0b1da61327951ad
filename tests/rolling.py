"""Restarts every process of a cluster one after the other, API nodes first, while many clients call it.

`python -m tests.rolling [--rounds N] [--clients N]`. Owns the calls, made by the public client with its
default retries, and the verdict on each: whole, or an error that its caller saw. The third kind must not be:
an answer that ends in order and is short.
"""

import argparse
import asyncio
import itertools
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseFailedEvent,
    ResponseIncompleteEvent,
    ResponseTextDeltaEvent,
)
from openai.types.responses.tool_param import Mcp

from local.cluster import Cluster

ROLES = {"api": 2, "worker": 2, "tool_runner": 2}
_COUNT = "Count slowly to 80"
_MULTIPLY = "Multiply 123*456 using the mcp.code_interpreter tool."
_PYTHON: Mcp = {
    "type": "mcp",
    "server_label": "code_interpreter",
    "server_url": "IGNORED",
    "require_approval": "never",
}
_PAUSE_S = 0.2
"""The wait after a call was refused, as the client has tried three times already."""


@dataclass
class Tally:
    """The outcomes of the calls."""

    outcomes: Counter[str] = field(default_factory=Counter)
    short: list[str] = field(default_factory=list)
    """Calls that ended in order but were incomplete: what they got, and what they should have got."""

    @property
    def whole(self) -> int:
        return sum(count for name, count in self.outcomes.items() if name.endswith("whole"))

    def describe(self) -> str:
        lines = [f"{count:6} {name}" for name, count in sorted(self.outcomes.items())]
        return "\n".join([*lines, *self.short])


async def restart_under_load(data: Path, *, rounds: int, clients: int) -> Tally:
    """Restarts every process once per round, in the order of the roles."""
    tally = Tally()
    async with Cluster(
        data, apis=ROLES["api"], workers=ROLES["worker"], tool_runners=ROLES["tool_runner"]
    ) as cluster:
        texts = {text: await _ask_whole(cluster.urls[0], text) for text in (_COUNT, _MULTIPLY)}
        nodes = itertools.cycle(cluster.urls)
        calling = [asyncio.create_task(_call_on(tally, nodes, texts, number)) for number in range(clients)]
        try:
            for _ in range(rounds):
                await _restart_all(cluster)
        finally:
            for task in calling:
                task.cancel()
            ended = await asyncio.gather(*calling, return_exceptions=True)
    for end in ended:
        if not isinstance(end, asyncio.CancelledError):
            raise RuntimeError("a client has failed in a way of its own") from end
    return tally


async def _restart_all(cluster: Cluster) -> None:
    for kind, count in ROLES.items():
        for number in range(count):
            before = cluster.restarts[f"{kind}-{number}"]
            cluster.kill(kind, number, signal.SIGTERM)
            await cluster.until_restarted(kind, number, beyond=before)
            await cluster.until_ready()


async def _call_on(tally: Tally, nodes: Iterator[str], texts: dict[str, str], number: int) -> None:
    """Makes calls continuously, alternately streamed and waiting."""
    for turn in itertools.count(number):
        text = _COUNT if turn % 4 < 2 else _MULTIPLY
        kind = "streamed" if turn % 2 else "waiting"
        async with openai.AsyncOpenAI(base_url=f"{next(nodes)}/v1", api_key="any") as client:
            try:
                told = await (_read_stream if turn % 2 else _wait)(client, text)
            except (openai.APIError, httpx.TransportError) as error:
                tally.outcomes[f"{kind}, raised {type(error).__name__}"] += 1
                await asyncio.sleep(_PAUSE_S)
                continue
        if told == texts[text]:
            tally.outcomes[f"{kind}, whole"] += 1
        else:
            tally.outcomes[f"{kind}, SHORT"] += 1
            tally.short.append(f"{kind}: {told!r} instead of {texts[text]!r}")


async def _ask_whole(url: str, text: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as client:
        return await _wait(client, text)


async def _wait(client: openai.AsyncOpenAI, text: str) -> str:
    response = await client.responses.create(input=text, tools=[_PYTHON])
    return f"{response.status}: {response.output_text}"


async def _read_stream(client: openai.AsyncOpenAI, text: str) -> str:
    """Returns how the stream ended and its text; without a terminal event, it has not ended at all."""
    end, said = "no end", ""
    async for event in await client.responses.create(input=text, tools=[_PYTHON], stream=True):
        match event:
            case ResponseTextDeltaEvent():
                said += event.delta
            case ResponseCompletedEvent() | ResponseIncompleteEvent() | ResponseFailedEvent():
                end = str(event.response.status)
            case _:
                pass
    return f"{end}: {said}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rolling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=40)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        running = restart_under_load(Path(folder) / "data", rounds=chosen.rounds, clients=chosen.clients)
        tally = asyncio.run(running)
    sys.stdout.write(
        f"{tally.describe()}\n{len(tally.short)} of {sum(tally.outcomes.values())} calls ended short\n"
    )
    return 1 if tally.short else 0


if __name__ == "__main__":
    sys.exit(main())
