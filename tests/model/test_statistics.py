"""vLLM's own metrics are passed through, if its statistics are switched on."""

import asyncio
import re
from pathlib import Path

import pytest

from shared import metrics
from tests.engines import make_vllm_of
from tests.model.test_constraints import PROMPT, Model
from worker.engines.protocol import Sampling
from worker.harmony.tokens import STOP_TOKENS

pytestmark = pytest.mark.filterwarnings("default")  # what vLLM and torch deprecate is theirs


def test_vllms_own_metrics_are_told_with_ours(random_weights: Path) -> None:
    engine = make_vllm_of(random_weights, "--no-disable-log-stats").engine
    with asyncio.Runner() as runner:
        runner.run(engine.start())
        Model(runner, engine, PROMPT).say(Sampling(max_tokens=8, stop_token_ids=STOP_TOKENS))
        told = runner.run(metrics.render("worker")).decode()
        runner.run(engine.stop())
    (tokens,) = re.findall(r"^vllm:generation_tokens_total{.*} (\S+)$", told, re.MULTILINE)
    assert 0 < float(tokens) <= 8
    assert "antiphon_appends_total" in told


def test_they_are_off_unless_asked_for() -> None:
    from worker.engines.vllm.engine import read_engine_args

    assert read_engine_args("").disable_log_stats
    assert not read_engine_args("--no-disable-log-stats").disable_log_stats
