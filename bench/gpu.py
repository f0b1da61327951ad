"""Compares the engine alone with the whole path on a GPU: the shape of gpt-oss-20b, with random weights.

Owns the shape and the comparison. No weights are downloaded, since the cost of a token does not depend on
them.
"""

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import tables
from bench.contenders import Contender, RawEngine, Site, WholePath, cluster_of, raw_engine, warm_up
from bench.load import Load
from bench.page import Result
from tests.engines import CPU_ENGINE_ARGS, CPU_ENVIRONMENT
from tests.model.checkpoint import CONFIG
from worker.harmony.tokens import ChatMessage, HarmonyMessage, SystemPart, render

_LAYERS_20B = 24
_SHAPE_20B: dict[str, Any] = {
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_hidden_layers": _LAYERS_20B,
    "layer_types": ["sliding_attention", "full_attention"] * (_LAYERS_20B // 2),
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "experts_per_token": 4,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}
"""Source: config.json of openai/gpt-oss-20b, as far as it differs from the tiny checkpoint's."""

_ENGINE_ARGS = "--load-format dummy --logits-processors bench.plain_text:PlainText"
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # for which `plain_text.py` is written
}
_TEXT = "Say anything."


@dataclass(frozen=True, slots=True)
class Plan:
    shape: dict[str, Any]
    engine_args: str
    environment: dict[str, str]
    streams: tuple[int, ...]
    tokens: int
    rounds: int


_FULL = Plan(_SHAPE_20B, "--max-model-len 8192 --max-num-seqs 256", {}, (1, 32, 256), 512, 3)
_TINY = Plan({}, CPU_ENGINE_ARGS, CPU_ENVIRONMENT, (1, 4), 64, 1)


@dataclass(frozen=True, slots=True)
class Figures:
    """The results of one contender at one number of streams: an entry per round, and a wait per
    generation."""

    rates: list[float]
    first_ms: list[float]
    costs: list[dict[str, float]]


async def measure(*, is_tiny: bool, more_engine_args: str) -> Result:
    plan = _TINY if is_tiny else _FULL
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder:
        checkpoint = Path(folder) / "model"
        checkpoint.mkdir()
        (checkpoint / "config.json").write_text(json.dumps(CONFIG | plan.shape))
        flags = f"--model {checkpoint} {_ENGINE_ARGS} {plan.engine_args} {more_engine_args}"
        site = Site(Path(folder), flags, plan.environment | _ENVIRONMENT)
        # One after the other, since two engines do not fit on every GPU.
        async with raw_engine(site) as alone:
            figures = {RawEngine.name: await compare(alone, plan)}
            device = alone.device
        async with _whole_path(site) as whole:
            figures[whole.name] = await compare(whole, plan)
    return Result(render_all(device, figures, plan))


@asynccontextmanager
async def _whole_path(site: Site) -> AsyncIterator[WholePath]:
    async with cluster_of(site) as cluster:
        yield WholePath(cluster)


async def compare(contender: Contender, plan: Plan) -> dict[int, Figures]:
    answer = await warm_up(contender, load_of(1, plan))
    await contender.run(load_of(max(plan.streams), plan), None)
    idle = await contender.use_nothing()
    found: dict[int, Figures] = {}
    for streams in plan.streams:
        outcomes = [await contender.run(load_of(streams, plan), answer) for _ in range(plan.rounds)]
        found[streams] = Figures(
            [outcome.tokens_per_s for outcome in outcomes],
            [ms for outcome in outcomes for ms in outcome.first_token_ms],
            [outcome.cost_us(idle) for outcome in outcomes],
        )
    return found


def load_of(streams: int, plan: Plan) -> Load:
    asked: list[HarmonyMessage] = [SystemPart("medium", "2026-01-01"), ChatMessage("user", _TEXT)]
    return Load(streams, _TEXT, tuple(render(asked)), plan.tokens, temperature=1.0)


# --- the table ----------------------------------------------------------------------------------


def render_all(device: str, figures: dict[str, dict[int, Figures]], plan: Plan) -> str:
    head = (
        f"{device}; generations at once",
        *("tokens/s", "of the engine alone", "ms to the first token, p50", "p99"),
        *("CPU µs per token: API", "worker", "Redis", "engine"),
    )
    rows = [
        [f"{streams}, {name}", *_describe(found[streams], figures[RawEngine.name][streams])]
        for streams in plan.streams
        for name, found in figures.items()
    ]
    shape = f"{plan.tokens} tokens each, {plan.rounds} rounds; the whole path runs after the engine alone."
    return f"{tables.render(head, rows)}\n\n{shape}"


def _describe(found: Figures, alone: Figures) -> list[str]:
    share = 100 * median(found.rates) / median(alone.rates)
    costs = [
        tables.show_number(median(cost[part] for cost in found.costs)) if part in found.costs[0] else ""
        for part in ("api", "worker", "redis", "engine")
    ]
    waits = [median(found.first_ms), _percentile_99(found.first_ms)]
    return [tables.show_spread(found.rates), f"{share:.1f} %", *map(tables.show_number, waits), *costs]


def _percentile_99(values: list[float]) -> float:
    return tables.percentile(values, 99) if len(values) > 1 else values[0]
