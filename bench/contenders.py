"""The contenders of a comparison: AsyncLLM alone, a worker, the whole path, vLLM's own server.

Owns how each is started and driven; the measurement owns the requests, and compares the answers.
"""

import asyncio
import os
import shlex
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from bench import streams, vllm_server
from bench.load import Answer, Load, Outcome, read_streams, watch
from bench.processes import split_engine, started
from bench.raw_engine import Order, Ready
from bench.site import NOT_ARCHIVED, port_of
from bench.usage import Parts, Usage, read_parts_cpu_s
from local.cluster import Cluster
from local.supervisor import read_tail
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient

_LOOK_INTO_LOGS_S = 0.1
_IDLE_S = 3.0
_Reply = TypeVar("_Reply", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Site:
    """The setup of a comparison. `engine_args`: the same for all contenders; `folder`: for logs."""

    folder: Path
    engine_args: str
    environment: Mapping[str, str]


class Contender(Protocol):
    name: str

    async def run(self, load: Load, answer: Answer | None) -> Outcome:
        """Runs a load. `answer`: the expected result of each generation; without it, no window is
        measured."""

    async def use_nothing(self) -> dict[str, float]:
        """Returns the CPU seconds that each part uses per idle second."""


async def idle_of(parts: Parts) -> dict[str, float]:
    begun = Usage.read(parts)
    await asyncio.sleep(_IDLE_S)
    return Usage.read(parts).since(begun).per_second()


class RawEngine:
    name = "`AsyncLLM` alone"

    def __init__(self, process: Process, device: str, log: Path) -> None:
        self.device = device
        self._process = process
        self._log = log
        worker, engine = split_engine(process.pid)
        self._parts = {"worker": worker, "engine": engine}

    async def run(self, load: Load, answer: Answer | None) -> Outcome:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(Order(load, answer)) + b"\n")
        return await _read_reply(self._process, self._log, Outcome)

    async def use_nothing(self) -> dict[str, float]:
        return await idle_of(self._parts)


@asynccontextmanager
async def raw_engine(site: Site) -> AsyncIterator[RawEngine]:
    command = (sys.executable, "-m", "bench.raw_engine", *shlex.split(site.engine_args))
    log = site.folder / "raw_engine.log"
    async with started(command, log, {**os.environ, **site.environment}) as process:
        ready = await _read_reply(process, log, Ready)
        yield RawEngine(process, ready.device, log)


async def _read_reply(process: Process, log: Path, kind: type[_Reply]) -> _Reply:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"the engine alone has ended:\n{read_tail(log)}")
    return msgspec.json.decode(line, type=kind)


class WholePath:
    """Streams each response to a client of its own."""

    def __init__(self, cluster: Cluster, name: str = "whole path, each response read") -> None:
        self.name = name
        pids = cluster.pids
        worker, engine = split_engine(pids["worker-0"])
        self._port = port_of(cluster)
        self._parts = {
            "api": [pids["api-0"]],
            "worker": worker,
            "redis": [pids["valkey-0"]],
            "engine": engine,
        }

    async def run(self, load: Load, answer: Answer | None) -> Outcome:
        return await read_streams(self._port, load, answer, self._read_cpu_s)

    async def use_nothing(self) -> dict[str, float]:
        return await idle_of(self._parts)

    def _read_cpu_s(self) -> dict[str, float]:
        return read_parts_cpu_s(self._parts)


class WorkerAlone(WholePath):
    """Runs responses in the background that no client reads, and polls their logs."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, "worker with Redis, nobody reads")
        self._redis_url = cluster.redis_url

    async def run(self, load: Load, answer: Answer | None) -> Outcome:
        """Raises ValueError if the expected result is not known."""
        if answer is None:
            raise ValueError("what nobody reads ends when it was expected to")
        redis = RedisClient.connect(self._redis_url, timeout_s=5.0)
        more = {"max_output_tokens": load.tokens_max, "temperature": load.temperature}
        ids = await asyncio.gather(
            *(streams.create(self._port, load.text, **more) for _ in range(load.streams))
        )
        logs = [keys.log(ResponseKey("default", response_id)) for response_id in ids]

        async def count() -> Sequence[int]:
            return await asyncio.gather(*(_count_entries(redis, log) for log in logs))

        window = await watch(answer.events, count, self._read_cpu_s, _LOOK_INTO_LOGS_S)
        while min(counts := await count()) < answer.events:  # noqa: ASYNC110  there is no notification
            await asyncio.sleep(_LOOK_INTO_LOGS_S)
        await redis.close()
        return Outcome(load.streams * answer.tokens, sum(counts), (), window)


async def _count_entries(redis: RedisClient, log: str) -> int:
    return int(await redis.command("XLEN", log))


@asynccontextmanager
async def cluster_of(site: Site, **more: str) -> AsyncIterator[Cluster]:
    """Yields a ready cluster. `more`: settings in addition to those that all comparisons share."""
    settings = {
        **site.environment,
        "ANTIPHON_ENGINE": "vllm",
        "ANTIPHON_ENGINE_ARGS": site.engine_args,
        "ANTIPHON_MODELS": '["default"]',
        "ANTIPHON_LOG_LEVEL": "WARNING",
        **NOT_ARCHIVED,
        **more,
    }
    folder = Path(tempfile.mkdtemp(prefix="cluster-", dir=site.folder))
    async with Cluster(folder, settings=settings) as cluster:
        yield cluster


class VllmServer:
    name = "vLLM's own server, each response read"

    def __init__(self, port: int, pid: int) -> None:
        api, engine = split_engine(pid)
        self._port = port
        self._parts = {"api": api, "engine": engine}

    async def run(self, load: Load, answer: Answer | None) -> Outcome:
        return await read_streams(self._port, load, answer, lambda: read_parts_cpu_s(self._parts))

    async def use_nothing(self) -> dict[str, float]:
        return await idle_of(self._parts)


@asynccontextmanager
async def vllm_server_of(site: Site) -> AsyncIterator[VllmServer]:
    log = site.folder / "vllm_server.log"
    environment = {**os.environ, **site.environment}
    async with vllm_server.serving(tuple(shlex.split(site.engine_args)), log, environment) as (port, pid):
        yield VllmServer(port, pid)


async def warm_up(contender: Contender, load: Load) -> Answer:
    """Returns the expected result of one generation of the load."""
    one = msgspec.structs.replace(load, streams=1)
    outcome = await contender.run(one, None)
    return Answer(outcome.tokens, outcome.events)
