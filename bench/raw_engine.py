"""`python -m bench.raw_engine FLAGS`: runs vLLM's AsyncLLM in a process of its own, with nothing of ours
around it.

Takes loads from stdin and answers on stdout, a line of JSON each: `Order` in, `Outcome` out. The first line
out names the device.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any, BinaryIO

import msgspec

from bench.load import NO_WINDOW, Answer, Load, Outcome, watch
from bench.processes import split_engine
from bench.usage import read_parts_cpu_s
from worker.harmony.tokens import STOP_TOKENS


class Order(msgspec.Struct, frozen=True):
    load: Load
    answer: Answer | None


class Ready(msgspec.Struct, frozen=True):
    device: str


async def serve(flags: list[str], replies: BinaryIO) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    parser.set_defaults(skip_tokenizer_init=True, disable_log_stats=True)
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(parser.parse_args(flags)))
    _reply(replies, Ready(current_platform.get_device_name()))
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = msgspec.json.decode(line, type=Order)
        _reply(replies, await run(engine, order))
    engine.shutdown()


def _reply(replies: BinaryIO, reply: msgspec.Struct) -> None:
    replies.write(msgspec.json.encode(reply) + b"\n")
    replies.flush()


async def run(engine: Any, order: Order) -> Outcome:
    load, answer = order.load, order.answer
    counts, first_ms = [0] * load.streams, [0.0] * load.streams
    frontend, core = split_engine(os.getpid())

    async def consume(number: int) -> None:
        begun_s = time.perf_counter()
        async for output in generate(engine, load, f"{begun_s}-{number}"):
            if not counts[number]:
                first_ms[number] = 1000 * (time.perf_counter() - begun_s)
            counts[number] += len(output.outputs[0].token_ids)

    async def count() -> list[int]:
        return counts

    def read_cpu_s() -> dict[str, float]:
        return read_parts_cpu_s({"worker": frontend, "engine": core})

    async with asyncio.TaskGroup() as group:
        for number in range(load.streams):
            group.create_task(consume(number))
        watching = group.create_task(watch(answer.events, count, read_cpu_s)) if answer else None
    tokens = sum(counts)
    window = watching.result() if watching else NO_WINDOW
    return Outcome(tokens, tokens, tuple(first_ms), window)


def generate(engine: Any, load: Load, request_id: str) -> AsyncGenerator[Any, None]:
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    sampling = SamplingParams(
        max_tokens=load.tokens_max,
        temperature=load.temperature,
        stop_token_ids=list(STOP_TOKENS),
        output_kind=RequestOutputKind.DELTA,
        detokenize=False,
    )
    generated: AsyncGenerator[Any, None] = engine.generate(
        tokens_input(list(load.prompt)), sampling, request_id
    )
    return generated


def main() -> None:
    # vLLM and its processes write to stdout too; their output goes to stderr.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asyncio.run(serve(sys.argv[1:], replies))


if __name__ == "__main__":
    main()
