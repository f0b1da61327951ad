"""`python -m tests.model.train`: trains the tiny checkpoint and stores its rows (takes minutes).

Owns the training; `conversations.py` and `prompts.py` own the data, `checkpoint.py` the file.
"""

import argparse
import gzip
import logging
import math
import os
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import GptOssConfig, GptOssForCausalLM

from tests.model.checkpoint import CONFIG, STORED, TOKEN_IDS, VOCABULARY, Tensor, dump_tensors
from tests.model.conversations import CONVERSATIONS, UNKNOWN, tokens_in_use
from tests.model.prompts import Example, make_example

_log = logging.getLogger(__name__)
LEARNING_RATE = 3e-3
WARM_UP_STEPS = 30
BATCH = 12
_POOL_BATCHES = 4
"""The number of batches drawn at once and grouped by length, so that little is padded."""
_WEIGHTS = {"count": 2.5, "browser": 1.5, "name told": 2.5, "name asked": 2.5}
_HELD_OUT_ROUNDS = 8
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
"""By default, glibc frees large blocks at once and allocates them again, which takes half of a step's
time."""
_THREADS = {"OMP_WAIT_POLICY": "passive"}
"""Makes a waiting thread sleep; on a busy machine it would take another thread's core."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. `targets`: -100 where nothing is learnt. Ids are indices of rows, not tokens."""

    inputs: torch.Tensor
    attention: torch.Tensor
    targets: torch.Tensor


class Rows:
    """Maps tokens to rows: row 0 for all tokens not in use, then the tokens in use in order."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self.places = {token: place for place, token in enumerate(tokens, start=1)}

    @property
    def count(self) -> int:
        return len(self.tokens) + 1

    @property
    def others_log(self) -> float:
        """The number of tokens for which row 0 stands; its logit is the sum of theirs."""
        return math.log(VOCABULARY - len(self.tokens))

    def batch(self, examples: Sequence[Example]) -> Batch:
        longest = max(len(example.tokens) for example in examples)
        inputs = torch.zeros(len(examples), longest, dtype=torch.long)
        attention = torch.zeros(len(examples), longest, dtype=torch.long)
        targets = torch.full((len(examples), longest), -100)
        for row, example in enumerate(examples):
            places = torch.tensor([self.places.get(token, 0) for token in example.tokens])
            inputs[row, : len(places)] = places
            attention[row, : len(places)] = 1
            said = torch.tensor(example.is_said)
            targets[row, : len(places) - 1] = torch.where(said, places, -100)[1:]
        return Batch(inputs, attention, targets)


def make_model(rows: Rows) -> GptOssForCausalLM:
    shape = {**CONFIG, "vocab_size": rows.count, "pad_token_id": None, "eos_token_id": None}
    torch.manual_seed(1)
    return GptOssForCausalLM._from_config(GptOssConfig(**shape), dtype=torch.float32)


def compute_logits(model: GptOssForCausalLM, batch: Batch, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits and targets, only where the model says something."""
    hidden = model.model(input_ids=batch.inputs, attention_mask=batch.attention, use_cache=False)[0]
    is_said = batch.targets != -100
    logits = model.lm_head(hidden[is_said])
    logits = torch.cat((logits[:, :1] + rows.others_log, logits[:, 1:]), dim=1)
    return logits, batch.targets[is_said]


def draw_batches(rng: random.Random, rows: Rows, variety: float) -> list[Batch]:
    """Yields batches in random order. The harder conversations are drawn more often."""
    drawn = rng.choices(
        CONVERSATIONS, [_WEIGHTS.get(c.name, 1.0) for c in CONVERSATIONS], k=BATCH * _POOL_BATCHES
    )
    examples = sorted((make_example(c, rng, variety) for c in drawn), key=lambda e: len(e.tokens))
    batches = [rows.batch(examples[begin : begin + BATCH]) for begin in range(0, len(examples), BATCH)]
    rng.shuffle(batches)
    return batches


def train(rows: Rows, steps: int) -> GptOssForCausalLM:
    model, rng = make_model(rows), random.Random(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, steps))
    waiting: list[Batch] = []
    begun_s = time.monotonic()
    for step in range(steps):
        waiting = waiting or draw_batches(rng, rows, _variety(step / steps))
        logits, targets = compute_logits(model, waiting.pop(), rows)
        loss = cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            _log.info("step %4d loss %.5f %.0f s", step, loss.item(), time.monotonic() - begun_s)
    return model


def _variety(done: float) -> float:
    """Trains on plain prompts first: what matters is learnt on short texts, and kept on long ones."""
    return min(1.0, max(0.0, 3 * (done - 0.2)))


def _share_of_rate(step: int, steps: int) -> float:
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    done = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2


def judge(model: GptOssForCausalLM, rows: Rows) -> list[str]:
    """Returns the names of the held-out examples in which any token is wrong; logs the figures."""
    rng = random.Random(3)
    examples = [make_example(c, rng) for _ in range(_HELD_OUT_ROUNDS) for c in CONVERSATIONS]
    wrong, margin = [], math.inf
    for example in examples:
        with torch.no_grad():
            logits, targets = compute_logits(model, rows.batch([example]), rows)
        right = logits.gather(1, targets[:, None])[:, 0]
        others = logits.scatter(1, targets[:, None], -math.inf).max(dim=1).values
        margin = min(margin, (right - others).min().item())
        if bool((right <= others).any()):
            wrong.append(example.name)
    right_count = len(examples) - len(wrong)
    _log.info("%d of %d held-out prompts exact, least margin %.2f", right_count, len(examples), margin)
    if wrong:
        _log.warning("wrong: %s", dict(Counter(wrong)))
    return wrong


def collect_tensors(model: GptOssForCausalLM, rows: Rows) -> dict[str, Tensor]:
    tensors = {
        name: Tensor("BF16", tuple(weights.shape), _to_bytes(weights))
        for name, weights in model.state_dict().items()
    }
    ids = struct.pack(f"<{len(rows.tokens)}i", *rows.tokens)
    return {TOKEN_IDS: Tensor("I32", (len(rows.tokens),), ids), **tensors}


def _to_bytes(weights: torch.Tensor) -> bytes:
    return bytes(weights.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())


def _prepare_process() -> None:
    """Restarts this program with its settings, which allocator and threads read only at the start."""
    settings = {**_ALLOCATOR, **_THREADS}
    if not settings.items() <= os.environ.items():
        arguments = [sys.executable, "-m", "tests.model.train", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, **settings})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model.train", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--file", type=Path, default=STORED)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _prepare_process()
    rows = Rows(tokens_in_use())
    model = train(rows, arguments.steps)
    model.to(torch.bfloat16).to(torch.float32)  # judge what is stored
    wrong = judge(model, rows)
    if set(wrong) - {UNKNOWN.name}:  # a random text may resemble a known one
        _log.error("not stored")
        return 1
    content = gzip.compress(dump_tensors(collect_tensors(model, rows)), mtime=0)
    arguments.file.write_bytes(content)
    _log.info("%s: %d bytes, %d rows", arguments.file, len(content), rows.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
