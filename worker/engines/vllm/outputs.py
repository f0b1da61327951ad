"""Takes a request's outputs where a step of the engine arrives, and gives them to its feed.

The only module that uses names of vLLM that are not public. vLLM's own way wakes a task for each step, and
makes two objects, sets an event and wakes a task for each token and sequence; here most tokens cost one call
(docs/adr/0033-a-step-is-a-function-call.md). Without one of these names `StepOutputs.of` returns None, and
`engine.py` takes the public way. The contract test holds both ways to the same promises.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from worker.engines.feed import Feed
from worker.engines.protocol import FinishReason, TokenChunk, TokenLogprob, Unsupported

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.metrics.stats import SchedulerStats

_FINISH_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


def read_output(output: RequestOutput, top_logprobs: int | None) -> TokenChunk:
    """Returns an output of vLLM as a chunk. Raises Unsupported if the constraint cannot be met."""
    (completion,) = output.outputs
    finish = completion.finish_reason
    if finish is not None and finish not in _FINISH_REASONS:
        raise RuntimeError(f"vLLM ended the request with {finish!r}")
    if isinstance(completion.stop_reason, str):  # a sentence of `constraints.py`
        raise Unsupported(completion.stop_reason)
    logprobs: tuple[TokenLogprob, ...] = ()
    if top_logprobs is not None:
        pairs = zip(completion.token_ids, completion.logprobs or (), strict=True)
        logprobs = tuple(_read_logprobs(token, places, top_logprobs) for token, places in pairs)
    return TokenChunk(
        tuple(completion.token_ids),
        None if finish is None else _FINISH_REASONS[finish],
        output.num_cached_tokens or 0,
        logprobs,
    )


def _read_logprobs(token: int, places: Mapping[int, Any], top: int) -> TokenLogprob:
    """Returns the sampled token's logprob and the `top` most likely tokens.

    `places`: the most likely tokens and the sampled one, each with its rank from 1.
    """
    likeliest = sorted((p.rank, other, p.logprob) for other, p in places.items() if p.rank <= top)
    return TokenLogprob(places[token].logprob, tuple((other, logprob) for _, other, logprob in likeliest))


class StepOutputs:
    """Takes from each step what holds nothing but token ids, and passes it to the requests' feeds at once.

    A request's first output, its last, those with log probabilities, and errors go vLLM's own way, which ends
    at the request's queue: ours.
    """

    def __init__(self, engine: AsyncLLM, on_step: Callable[[], None]) -> None:
        """`on_step` is called whenever the engine has made something."""
        self._engine, self._on_step = engine, on_step
        self._processor = engine.output_processor
        engine.engine_core.outputs_queue = _Steps(self._take)
        self.stats: SchedulerStats | None = None
        """How full the engine was when it told so last."""
        self._plain: dict[str, tuple[Feed, int]] = {}
        """vLLM's id of a request whose next outputs are token ids alone -> its feed, its cached tokens."""

    @classmethod
    def of(cls, engine: AsyncLLM, on_step: Callable[[], None]) -> "StepOutputs | None":
        """Returns None if this release of vLLM lacks one of the names."""
        return cls(engine, on_step) if _has_names(engine) else None

    async def run(
        self,
        prompt: Any,
        params: SamplingParams,
        feed: Feed,
        *,
        request_id: str,
        adapter: LoRARequest | None,
        top_logprobs: int | None,
    ) -> None:
        """Returns when the generation is over. Raises what vLLM does, and what `Feed.run` does."""
        engine = self._engine
        try:
            queue = await engine.add_request(request_id, prompt, params, lora_request=adapter)
            ours = _Queue(self, feed, queue.request_id, top_logprobs)
            state = self._processor.request_states.get(queue.request_id)
            if state is not None:
                state.queue = ours
            early = queue.get_nowait()  # what came while the request was being added
            if early is not None:
                ours.put(early)
            await feed.run()
        finally:
            feed.close()
            if not engine.errored:
                await engine.abort(request_id)  # nothing happens if it has ended

    def expect(self, internal_id: str, feed: Feed, chunk: TokenChunk, *, is_plain: bool) -> None:
        """Notes after an output that went the whole way which way the request's next ones go."""
        if is_plain and chunk.finish_reason is None:
            self._plain[internal_id] = feed, chunk.cached_tokens
        else:
            self._plain.pop(internal_id, None)

    def _take(self, step: "EngineCoreOutputs", *, is_direct: bool) -> bool:
        """Gives what is plain in a step to the feeds, if `is_direct`.

        Returns True if vLLM has to sort what is left.
        """
        self._on_step()
        if step.scheduler_stats is not None:
            self.stats = step.scheduler_stats
            if not self._engine.log_stats:
                step.scheduler_stats = None  # nothing of vLLM's reads it
        if not is_direct or self._engine.log_stats:  # vLLM counts tokens itself then
            return True
        rest, plain = [], self._plain
        for output in step.outputs:
            found = plain.get(output.request_id)
            if found is None or output.finish_reason is not None:
                rest.append(output)
            else:
                feed, cached = found
                feed.give(TokenChunk(tuple(output.new_token_ids), None, cached))
        step.outputs = rest
        return bool(rest) or step.scheduler_stats is not None


class _Steps(asyncio.Queue["EngineCoreOutputs | Exception"]):
    """Stands for the queue between the task that hears vLLM's engine and the one that sorts its outputs."""

    def __init__(self, take: Callable[..., bool]) -> None:
        super().__init__()
        self._take = take
        self._is_reader_idle = False

    def put_nowait(self, step: "EngineCoreOutputs | Exception") -> None:
        # What vLLM still has to sort may hold earlier tokens of a request: then nothing overtakes it.
        is_direct = self._is_reader_idle and self.empty()
        if isinstance(step, Exception) or self._take(step, is_direct=is_direct):
            super().put_nowait(step)

    async def get(self) -> "EngineCoreOutputs | Exception":
        self._is_reader_idle = True
        step = await super().get()
        self._is_reader_idle = False
        return step


class _Queue:
    """Stands for the queue from which vLLM's `generate` would wake."""

    def __init__(self, outputs: StepOutputs, feed: Feed, internal_id: str, top_logprobs: int | None) -> None:
        self._outputs, self._feed = outputs, feed
        self._internal_id, self._top_logprobs = internal_id, top_logprobs

    def put(self, output: RequestOutput | Exception) -> None:
        if isinstance(output, Exception):
            self._feed.fail(output)
            return
        try:
            chunk = read_output(output, self._top_logprobs)
        except (Unsupported, RuntimeError) as failure:
            self._feed.fail(failure)
            return
        self._outputs.expect(self._internal_id, self._feed, chunk, is_plain=self._top_logprobs is None)
        self._feed.give(chunk)


def _has_names(engine: AsyncLLM) -> bool:
    """Returns True if this is how the tested release names things, and nothing reads its steps yet."""
    try:
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
        from vllm.v1.engine.output_processor import OutputProcessor, RequestState
    except ImportError:
        return False
    processor, core = getattr(engine, "output_processor", None), getattr(engine, "engine_core", None)
    return (
        isinstance(processor, OutputProcessor)
        and isinstance(getattr(processor, "request_states", None), dict)
        and processor.stream_interval == 1  # else vLLM is told to hold outputs back
        and isinstance(getattr(core, "outputs_queue", None), asyncio.Queue)
        and getattr(getattr(core, "resources", None), "output_queue_task", core) is None
        and getattr(engine, "output_handler", core) is None
        and isinstance(getattr(engine, "log_stats", None), bool)
        and "queue" in inspect.signature(RequestState).parameters
        and {"outputs", "scheduler_stats"} <= set(EngineCoreOutputs.__struct_fields__)
        and {"request_id", "new_token_ids", "finish_reason"} <= set(EngineCoreOutput.__struct_fields__)
    )
