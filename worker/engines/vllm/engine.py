"""Runs GPT-OSS on vLLM's AsyncLLM: token ids in, token ids out, no tokenizer and no detokenizer.

Owns the engine's options, its processes and the detection of its death; `outputs.py` owns how outputs arrive.
Knows nothing of Harmony or responses. Measured on vLLM 0.32 (docs/gpu.md).
"""

import asyncio
import logging
import os
import shlex
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import yaml  # type: ignore[import-untyped]
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import LoRAParserAction
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from worker.engines.feed import Feed
from worker.engines.protocol import EngineDead, EngineFigures, EngineUnavailable, Sampling, Sink, Unsupported
from worker.engines.vllm.capacity import Contexts
from worker.engines.vllm.constraints import REFUSAL, scheduler_name, to_extra_args
from worker.engines.vllm.outputs import StepOutputs, read_output
from worker.engines.vllm.pulse import Pulse

_log = logging.getLogger(__name__)
_MODEL = "openai/gpt-oss-20b"
_POLL_INTERVAL_S = 0.25
_TOP_P_MIN = 1e-6
"""vLLM rejects 0, which means only the most likely token."""
_Loaded = TypeVar("_Loaded")


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise EngineUnavailable(f"engine_args: {message}")


def read_engine_args(text: str) -> Namespace:
    """Parses vLLM's options from a command line, or from the YAML file at a path.

    Raises EngineUnavailable.
    """
    parser = AsyncEngineArgs.add_cli_args(_Parser(prog="--engine-args"))
    parser.add_argument("--lora-modules", nargs="+", default=[], action=LoRAParserAction)
    parser.add_argument("--no-disable-log-stats", dest="disable_log_stats", action="store_false")
    parser.set_defaults(model=_MODEL, disable_log_stats=True)  # they cost a call for each token
    try:
        options = ["--config", text] if Path(text).suffix in (".yaml", ".yml") else shlex.split(text)
        parsed: Namespace = parser.parse_args(options)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise EngineUnavailable(f"engine_args: {error}") from error
    return parsed


class VllmEngine:
    """Runs one engine. `options`: as returned by `read_engine_args`; a request's `model` may name an adapter
    of `--lora-modules`.

    An engine that has requests but generates no token for `silence_max_s` counts as dead.
    """

    def __init__(self, options: Namespace, silence_max_s: float = 120.0) -> None:
        try:
            args = AsyncEngineArgs.from_cli_args(options)
        except (OSError, ValueError) as error:
            raise EngineUnavailable(f"engine_args: {error}") from error
        if options.lora_modules and not args.enable_lora:
            raise EngineUnavailable("engine_args: --lora-modules needs --enable-lora")
        if args.scheduler_cls:
            raise EngineUnavailable("engine_args: --scheduler-cls is reserved for constraints")
        args.skip_tokenizer_init = True
        self._args = args
        self._adapters = {
            module.name: LoRARequest(module.name, number, module.path, module.base_model_name)
            for number, module in enumerate(options.lora_modules, 1)
        }
        self.names: Sequence[str] = args.served_model_name or _names_of(args.model)
        self.adapters: Sequence[str] = list(self._adapters)
        self._engine: AsyncLLM | None = None
        self._outputs: StepOutputs | None = None
        """None: outputs come by vLLM's public way."""
        self._under_way: set[str] = set()
        self._contexts = Contexts()
        self._pulse = Pulse(silence_max_s)
        self.context_tokens_max = 0

    async def start(self) -> None:
        """Loads the model, which takes seconds to minutes. Raises EngineUnavailable."""
        guard = [sys.executable, str(Path(__file__).with_name("guard.py")), str(os.getpid())]
        subprocess.Popen(guard, start_new_session=True)  # noqa: ASYNC220  ends by itself, after us
        engine = await _load(lambda: _make_engine(self._args))
        self._outputs = StepOutputs.of(engine, self._pulse.beat)  # before the first request
        await self._load_adapters(engine)
        self.context_tokens_max = engine.model_config.max_model_len
        if self._outputs is None:
            _log.warning(
                "this is not the tested release of vLLM: tokens take its public way, which costs more"
            )
        self._engine = engine

    async def _load_adapters(self, engine: AsyncLLM) -> None:
        """Loads all adapters now: one that cannot be loaded on request would end the engine."""
        for adapter in self._adapters.values():
            try:
                await engine.add_lora(adapter)
            except Exception as error:  # vLLM's process may send any kind
                await asyncio.to_thread(engine.shutdown)
                raise EngineUnavailable(f"adapter {adapter.lora_name}: {error}") from error

    @property
    def requests_under_way(self) -> int:
        return 0 if self._engine is None else self._engine.get_num_unfinished_requests()

    def sequences_max(self) -> int:
        """As `max_num_seqs` and the blocks of the KV cache allow. Layers with a window need fewer blocks, so
        the cache holds more than this reckons."""
        if self._engine is None:
            return 0
        config = self._engine.vllm_config
        cache = config.cache_config
        tokens = (cache.num_gpu_blocks or 0) * cache.block_size
        return self._contexts.sequences_max(config.scheduler_config.max_num_seqs, tokens)

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        request_id: str,
        model: str = "default",
    ) -> None:
        """See `Engine.generate`. Raises ValueError for a `request_id` in use."""
        engine = self._engine
        if engine is None:
            raise EngineDead("vLLM is not running")
        if request_id in self._under_way:
            raise ValueError(f"request_id {request_id!r} is in use")
        params = _make_params(sampling)
        self._under_way.add(request_id)
        self._contexts.add(request_id, len(prompt))
        try:
            self._pulse.begin(request_id)
            adapter, tokens = self._adapters.get(model), tokens_input(list(prompt))
            if self._outputs is None:
                outputs = engine.generate(tokens, params, request_id, lora_request=adapter)
                await self._pass_on(outputs, sink, sampling.top_logprobs)
            else:
                await self._outputs.run(
                    tokens,
                    params,
                    Feed(sink),
                    request_id=request_id,
                    adapter=adapter,
                    top_logprobs=sampling.top_logprobs,
                )
        except EngineDeadError as dead:
            raise EngineDead("vLLM has died") from dead
        except VLLMClientError as refusal:
            raise Unsupported(str(refusal)) from refusal
        finally:
            self._pulse.end(request_id)
            self._under_way.discard(request_id)
            self._contexts.discard(request_id)

    async def _pass_on(
        self, outputs: AsyncGenerator[RequestOutput, None], sink: Sink, top_logprobs: int | None
    ) -> None:
        """Gives outputs to the sink by vLLM's public way, which wakes a task for each."""
        async with aclosing(outputs):
            async for output in outputs:
                self._pulse.beat()
                chunk = read_output(output, top_logprobs)
                verdict = sink.take(chunk)
                if verdict == "stop" or chunk.finish_reason is not None:
                    return
                if verdict == "wait":
                    await sink.catch_up()

    def figures(self) -> EngineFigures:
        """Returns what its scheduler told last, at most a quarter of a second ago if it has requests."""
        has = self.requests_under_way
        stats = self._outputs.stats if self._outputs is not None else None
        if not has:
            return EngineFigures(cache_usage=0.0)
        if stats is None:
            return EngineFigures(running=has)
        return EngineFigures(stats.num_running_reqs, stats.num_waiting_reqs, stats.kv_cache_usage)

    @property
    def _is_dead(self) -> bool:
        return self._engine is not None and (self._engine.errored or self._pulse.has_stopped)

    async def wait_until_dead(self) -> None:
        while not self._is_dead:  # noqa: ASYNC110  vLLM sends no notification
            await asyncio.sleep(_POLL_INTERVAL_S)
        if self._pulse.has_stopped:
            _log.error(
                "vLLM has generated no token for %g s, although it has requests", self._pulse.silence_max_s
            )

    async def stop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            if not engine.errored:
                await engine.abort(list(self._under_way))
            await asyncio.to_thread(engine.shutdown)


def _names_of(model: str) -> list[str]:
    """`openai/gpt-oss-20b` is also called `gpt-oss-20b`; a folder has its own name."""
    name = Path(model).name
    return (
        [name] if Path(model).is_absolute() or model.startswith(".") else list(dict.fromkeys([name, model]))
    )


async def _load(make: Callable[[], _Loaded]) -> _Loaded:
    """Runs `make` in a thread, so that a worker that is still loading its model can be stopped.

    Not in a pool, whose threads would be joined at exit.
    """
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[_Loaded] = loop.create_future()

    def resolve(setter: Callable[[Any], None], value: object) -> None:
        if not loaded.done():
            setter(value)

    def post(setter: Callable[[Any], None], value: object) -> None:
        with suppress(RuntimeError):  # the loop has ended, so nobody is waiting
            loop.call_soon_threadsafe(resolve, setter, value)

    def run() -> None:
        try:
            made = make()
        except BaseException as error:  # noqa: BLE001  passed on to the caller that waits for it
            post(loaded.set_exception, error)
        else:
            post(loaded.set_result, made)

    threading.Thread(target=run, daemon=True, name="vllm-start").start()
    return await loaded


def _make_engine(args: AsyncEngineArgs) -> AsyncLLM:
    """Creates the engine, with the batch size of vLLM's own server. Raises EngineUnavailable."""
    try:
        config = args.create_engine_config(UsageContext.OPENAI_API_SERVER)
    except (OSError, ValueError) as error:
        raise EngineUnavailable(str(error)) from error
    kind = config.model_config.hf_config.model_type
    if kind != "gpt_oss":
        raise EngineUnavailable(f"{args.model} is a {kind} model; only gpt_oss models speak Harmony")
    scheduling = config.scheduler_config
    scheduling.scheduler_cls = scheduler_name(is_async=bool(scheduling.async_scheduling))
    try:
        return AsyncLLM.from_vllm_config(config, disable_log_stats=args.disable_log_stats)
    except RuntimeError as error:
        raise EngineUnavailable(f"vLLM did not start: {error}") from error


def _make_params(sampling: Sampling) -> SamplingParams:
    """Returns vLLM's sampling parameters. Raises Unsupported if vLLM rejects them."""
    try:
        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=max(sampling.top_p, _TOP_P_MIN),
            top_k=sampling.top_k or 0,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            seed=sampling.seed,
            stop_token_ids=[*sampling.stop_token_ids, *((REFUSAL,) if sampling.constraint else ())],
            logprobs=sampling.top_logprobs,
            output_kind=RequestOutputKind.DELTA,
            detokenize=False,
            extra_args=to_extra_args(sampling.constraint, sampling.turn_tokens),
        )
    except VLLMClientError as refusal:
        raise Unsupported(str(refusal)) from refusal
