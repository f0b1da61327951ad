"""The engines that tests run: the scripted one, and vLLM with the tiny checkpoint on the CPU."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker.engines.protocol import Engine
from worker.engines.scripted.engine import ScriptedEngine
from worker.engines.scripted.script import Script

CPU_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process besides the worker's, not two
    "VLLM_LOGGING_LEVEL": "WARNING",
    # One thread: several would wait for each other in a busy loop, which takes for ever on shared cores.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
CPU_ENGINE_ARGS = "--enforce-eager --distributed-executor-backend uni --max-model-len 8192"


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


def make_vllm_of(checkpoint: Path) -> Subject:
    os.environ.update(CPU_ENVIRONMENT)
    from worker.engines.vllm.engine import VllmEngine, read_engine_args

    engine = VllmEngine(read_engine_args(f"--model {checkpoint} {CPU_ENGINE_ARGS}"))
    return Subject(engine, lambda: engine.requests_under_way)
