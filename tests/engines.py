"""The engines that tests run: the scripted one, and vLLM with the tiny checkpoint on the CPU."""

import asyncio
import json
import os
import shlex
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from worker.engines.protocol import Engine, Sampling, Sink, TokenChunk, Verdict
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script

CPU_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process besides the worker's, not two
    "VLLM_LOGGING_LEVEL": "WARNING",
    # One thread: several would wait for each other in a busy loop, which takes for ever on shared cores.
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",  # of `ngram` drafts
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
CPU_ENGINE_ARGS = "--enforce-eager --distributed-executor-backend uni --max-model-len 8192"
_SPECULATION = {
    "method": "ngram",
    "num_speculative_tokens": 4,
    "prompt_lookup_min": 1,
    "prompt_lookup_max": 3,
}
SPECULATION_ARGS = f"--speculative-config {shlex.quote(json.dumps(_SPECULATION))}"
"""Drafts are what followed the last token before, or the last few, and are often wrong, which tests want."""


@dataclass(frozen=True)
class Subject:
    """An engine under test, and the number of requests that it holds."""

    engine: Engine
    requests_under_way: Callable[[], int]


def make_scripted(_folder: Path) -> Subject:
    engine = ScriptedEngine(Script.load())
    return Subject(engine, lambda: engine.requests_under_way)


def make_vllm(folder: Path) -> Subject:
    """Returns vLLM's options for the tiny checkpoint, which it writes into `folder`."""
    from tests.model.checkpoint import expand

    expand(folder)
    return make_vllm_of(folder)


def make_public_vllm(folder: Path) -> Subject:
    """As `make_vllm`, but tokens take vLLM's public way, as with a release that lacks the private names."""
    from tests.model.checkpoint import expand

    expand(folder)
    return make_vllm_of(folder, is_public=True)


def make_vllm_of(checkpoint: Path, engine_args: str = "", *, is_public: bool = False) -> Subject:
    os.environ.update(CPU_ENVIRONMENT)
    from worker.engines.vllm.engine import VllmEngine, read_engine_args

    class PublicVllm(VllmEngine):
        async def start(self) -> None:
            await super().start()
            self._outputs = None

    options = read_engine_args(f"--model {checkpoint} {CPU_ENGINE_ARGS} {engine_args}")
    engine = PublicVllm(options) if is_public else VllmEngine(options)
    return Subject(engine, lambda: engine.requests_under_way)


@dataclass(frozen=True)
class Asked:
    """What an engine was asked for."""

    prompt: list[int]
    sampling: Sampling
    model: str


class ListeningEngine(ScriptedEngine):
    """Keeps what it was asked for."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(script or Script.load(None))
        self.asked: list[Asked] = []

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        request_id: str,
        model: str = "default",
    ) -> None:
        self.asked.append(Asked(list(prompt), sampling, model))
        await super().generate(prompt, sampling, sink, request_id=request_id, model=model)


class CachingEngine(ScriptedEngine):
    """Says that a third of each prompt was cached."""

    def __init__(self) -> None:
        super().__init__(Script.load(None))

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        request_id: str,
        model: str = "default",
    ) -> None:
        changed = Changed(sink, lambda chunk: msgspec.structs.replace(chunk, cached_tokens=len(prompt) // 3))
        await super().generate(prompt, sampling, changed, request_id=request_id, model=model)


class Reader:
    """A sink that asks its engine to wait after every chunk, until a test has read it."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[TokenChunk | None] = asyncio.Queue()
        """None stands for the end."""
        self.has_read = asyncio.Event()

    def take(self, chunk: TokenChunk) -> Verdict:
        self.has_read.clear()
        self.chunks.put_nowait(chunk)
        return "wait"

    async def catch_up(self) -> None:
        await self.has_read.wait()


async def read_chunks(
    engine: Engine,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    request_id: str = "r",
    model: str = "default",
) -> AsyncGenerator[TokenChunk, None]:
    """Yields what the engine generates, chunk by chunk; closing it cancels the generation."""
    sink = Reader()
    generation = asyncio.ensure_future(
        engine.generate(prompt, sampling, sink, request_id=request_id, model=model)
    )
    generation.add_done_callback(lambda _: sink.chunks.put_nowait(None))
    try:
        while (chunk := await sink.chunks.get()) is not None:
            yield chunk
            sink.has_read.set()
        await generation
    finally:
        generation.cancel()
        await asyncio.wait([generation])


@dataclass(frozen=True)
class Changed:
    """A sink that passes on every chunk as `change` makes it."""

    sink: Sink
    change: Callable[[TokenChunk], TokenChunk]

    def take(self, chunk: TokenChunk) -> Verdict:
        return self.sink.take(self.change(chunk))

    async def catch_up(self) -> None:
        await self.sink.catch_up()
