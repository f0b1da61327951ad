"""Measures what it saves to send continuations home: the cached tokens of chains on three vLLM workers.

Owns the chains, which continue responses or send their whole history, on the tiny checkpoint and without a
GPU. Both API nodes share the workers and differ in one setting: one keeps continuations for the worker that
has their prefix, the other lets any worker take them.
"""

import asyncio
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import httpx

from bench import tables
from bench.page import Result
from bench.site import NOT_ARCHIVED
from local.cluster import Cluster
from local.supervisor import Role
from tests.engines import CPU_ENGINE_ARGS, CPU_ENVIRONMENT
from tests.model.checkpoint import expand

WORKERS, PLACES, CHAINS, TURNS = 3, 4, 9, 6
_BLOCK_TOKENS, _ANSWER_TOKENS, _PREFIX_WORDS = 16, 120, 150
_THINK_S = (0.1, 0.6)
_ASKED = {"role": "user", "content": "Count from 1 to 100"}
_BODY = {"model": "default", "stream": True, "temperature": 0, "input": [_ASKED]}
_DATA, _FIRST = "data: ", '.delta"'


@dataclass(frozen=True, slots=True)
class Order:
    name: str
    node: int
    """The number of the API node."""
    sends_all: bool
    """Each request has the whole history and the chain's `prompt_cache_key`, and nothing is stored; otherwise
    it continues the response before it."""


ORDERS = (
    Order("`previous_response_id`, the worker with the prefix first", 0, sends_all=False),
    Order("the same, any worker", 1, sends_all=False),
    Order("the history and `prompt_cache_key`, the worker with the prefix first", 0, sends_all=True),
    Order("the same, any worker", 1, sends_all=True),
)


class _Cluster(Cluster):
    def _with_own(self, role: Role) -> Role:
        role = super()._with_own(role)
        if role.name != "api-1":
            return role
        return replace(role, environment={**role.environment, "ANTIPHON_AFFINITY_S": "0"})


@dataclass
class Found:
    """Of the continuations of one order in one round."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    first_token_s: list[float] = field(default_factory=list)

    @property
    def cached_percent(self) -> float:
        return 100 * self.cached_tokens / self.prompt_tokens


async def measure(rounds: int) -> Result:
    found: list[list[Found]] = [[] for _ in ORDERS]
    async with running() as cluster:
        for order in ORDERS[:2]:
            await run_chains(cluster.urls, order)  # the first requests are slow
        for _ in range(rounds):
            for order, results in zip(ORDERS, found, strict=True):
                results.append(await run_chains(cluster.urls, order))
    return Result(render(found, rounds))


@asynccontextmanager
async def running() -> AsyncIterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder:
        checkpoint = Path(folder) / "tiny-gpt-oss"
        await asyncio.to_thread(expand, checkpoint)
        more = f"--max-num-seqs {PLACES} --block-size {_BLOCK_TOKENS}"
        settings = {
            **CPU_ENVIRONMENT,
            "ANTIPHON_ENGINE": "vllm",
            "ANTIPHON_ENGINE_ARGS": f"--model {checkpoint} {CPU_ENGINE_ARGS} {more}",
            "ANTIPHON_MODELS": '["default"]',
            "ANTIPHON_LOG_LEVEL": "WARNING",
            **NOT_ARCHIVED,
        }
        async with _Cluster(Path(folder) / "data", apis=2, workers=WORKERS, settings=settings) as cluster:
            await _until_all_work(cluster.urls[0])
            yield cluster


async def _until_all_work(url: str) -> None:
    """A cluster is ready with its first worker."""
    async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(600):
        while (await client.get("/ready")).json().get("workers") != WORKERS:  # noqa: ASYNC110  it is HTTP
            await asyncio.sleep(0.2)


async def run_chains(urls: Sequence[str], order: Order) -> Found:
    found, url = Found(), urls[order.node]
    async with httpx.AsyncClient(base_url=url, timeout=300) as client, asyncio.TaskGroup() as chains:
        for number in range(CHAINS):
            chains.create_task(_run_chain(client, random.Random(number), found, order))
    return found


async def _run_chain(client: httpx.AsyncClient, chance: random.Random, found: Found, order: Order) -> None:
    """No other chain has its prefix, beyond what the model's own prompt begins with."""
    words = (str(chance.randrange(1_000)) for _ in range(_PREFIX_WORDS))
    name = uuid4().hex
    instructions = f"You are chain {name}. Remember: {' '.join(words)}."
    body: dict[str, Any] = _BODY | {"instructions": instructions, "max_output_tokens": _ANSWER_TOKENS}
    if order.sends_all:
        body |= {"store": False, "prompt_cache_key": name}
    for turn in range(TURNS):
        begun_s = time.perf_counter()
        response, first_s = await _read(client, body)
        if turn:
            usage = response["usage"]
            found.prompt_tokens += usage["input_tokens"]
            found.cached_tokens += usage["input_tokens_details"]["cached_tokens"]
            found.first_token_s.append(first_s - begun_s)
        if order.sends_all:
            body["input"] = [*body["input"], *response["output"], _ASKED]
        else:
            body["previous_response_id"] = response["id"]
        await asyncio.sleep(chance.uniform(*_THINK_S))


async def _read(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Returns the response as it ended, and when its first text came, by the performance counter."""
    first_s, last = 0.0, ""
    async with client.stream("POST", "/v1/responses", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError((await answer.aread()).decode())
        async for line in answer.aiter_lines():
            if line.startswith(_DATA):
                last = line
                first_s = first_s or (time.perf_counter() if _FIRST in line else 0.0)
    event = json.loads(last.removeprefix(_DATA))
    if event["response"]["status"] not in ("completed", "incomplete"):
        raise RuntimeError(last)
    return event["response"], first_s


def render(found: Sequence[list[Found]], rounds: int) -> str:
    head = ("chains", "prompt tokens", "cached, %", "first text, median s", "first text, 95th percentile, s")
    rows = []
    for order, results in zip(ORDERS, found, strict=True):
        rows.append(
            [
                order.name,
                tables.show_spread([each.prompt_tokens for each in results]),
                tables.show_spread([each.cached_percent for each in results]),
                tables.show_spread([median(each.first_token_s) for each in results]),
                tables.show_spread([tables.percentile(each.first_token_s, 95) for each in results]),
            ]
        )
    text = (
        f"{WORKERS} vLLM workers with {PLACES} places each and a cache in blocks of {_BLOCK_TOKENS} tokens, "
        f"{CHAINS} chains at once of {TURNS} responses each, all but the first counted; each chain has a "
        f"beginning of its own. {rounds} rounds, in turn."
    )
    return f"{tables.render(head, rows)}\n\n{text}"
