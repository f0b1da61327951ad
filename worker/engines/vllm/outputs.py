"""Takes a request's outputs where vLLM's front end sorts them, within the step, and gives them to its feed.

The only module that uses names of vLLM that are not public. vLLM's own way makes two objects, sets an event
and wakes a task for each token and sequence; here most tokens cost one call
(docs/adr/0033-a-step-is-a-function-call.md). Without one of these names `StepOutputs.of` returns None, and
`engine.py` takes the public way. The contract test holds both ways to the same promises.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from worker.engines.feed import Feed
from worker.engines.protocol import FinishReason, TokenChunk, TokenLogprob, Unsupported
from worker.engines.vllm.logits import REFUSAL

_FINISH_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


def read_output(output: RequestOutput, top_logprobs: int | None) -> TokenChunk:
    """Returns an output of vLLM as a chunk. Raises Unsupported if the constraint can be met in no way."""
    (completion,) = output.outputs
    if completion.stop_reason == REFUSAL:
        raise Unsupported("The output cannot continue in a way that the response's format or tools allow.")
    finish = completion.finish_reason
    if finish is not None and finish not in _FINISH_REASONS:
        raise RuntimeError(f"vLLM ended the request with {finish!r}")
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
    """Stands before the function that sorts a step's outputs.

    A request's first output, its last, those with log probabilities, and errors go vLLM's own way, which ends
    at the request's queue: ours. Any other holds nothing but token ids, and goes to the feed at once.
    """

    def __init__(self, engine: AsyncLLM, on_step: Callable[[], None]) -> None:
        """`on_step` is called whenever the engine has made something."""
        self._engine, self._on_step = engine, on_step
        self._processor = engine.output_processor
        self._sort = engine.output_processor.process_outputs
        engine.output_processor.process_outputs = self._sort_step
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

    def _sort_step(
        self,
        outputs: Sequence[Any],
        timestamp: float | None = None,
        statistics: Any = None,
        weight_version: str | None = None,
    ) -> Any:
        """Stands for `OutputProcessor.process_outputs`. With statistics on, all go on to it."""
        self._on_step()
        rest = outputs
        if statistics is None:
            rest, plain = [], self._plain
            for output in outputs:
                found = plain.get(output.request_id)
                if found is None or output.finish_reason is not None:
                    rest.append(output)
                else:
                    feed, cached = found
                    feed.give(TokenChunk(tuple(output.new_token_ids), None, cached))
        return self._sort(rest, timestamp, statistics, weight_version=weight_version)


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
    try:
        from vllm.v1.engine import EngineCoreOutput
        from vllm.v1.engine.output_processor import OutputProcessor, RequestState
    except ImportError:
        return False
    processor = getattr(engine, "output_processor", None)
    _, *sorting = inspect.signature(OutputProcessor.process_outputs).parameters
    return (
        isinstance(processor, OutputProcessor)
        and isinstance(getattr(processor, "request_states", None), dict)
        and processor.stream_interval == 1  # else vLLM is told to hold outputs back
        and sorting == ["engine_core_outputs", "engine_core_timestamp", "iteration_stats", "weight_version"]
        and "queue" in inspect.signature(RequestState).parameters
        and {"request_id", "new_token_ids", "finish_reason"} <= set(EngineCoreOutput.__struct_fields__)
    )
