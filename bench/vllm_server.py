"""Runs vLLM's own server for comparison, with the tokenizer that it needs.

Nothing of it is changed, and its engine has the same options as the worker's.
"""

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bench.processes import started, until_serving
from local.ports import HOST, find_free
from worker.harmony.tokens import CONTROL_TOKENS, bytes_of

_START_TIMEOUT_S = 600.0
_QUIET = ("--disable-log-stats", "--disable-uvicorn-access-log")


@asynccontextmanager
async def serving(
    engine_args: tuple[str, ...], log: Path, environment: Mapping[str, str]
) -> AsyncIterator[tuple[int, int]]:
    """Yields the port and pid of a server of the model `default`. Raises RuntimeError if it does not
    start."""
    port = find_free(1)[0]
    command = (
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", HOST, "--port", str(port)),
        *("--served-model-name", "default", *_QUIET, *engine_args),
    )
    async with started(command, log, environment) as process:
        await until_serving(process, port, log, _START_TIMEOUT_S)
        yield port, process.pid


def write_tokenizer(folder: Path) -> None:
    """Gives a checkpoint the vocabulary of GPT-OSS in the form that vLLM's server reads.

    It decodes like the published tokenizer, but cannot encode, as it has no merges; prompts are rendered
    without it.
    """
    letters = _letters_of_bytes()
    words = {"".join(letters[b] for b in bytes_of(token)): token for token in range(CONTROL_TOKENS.start)}
    markers = [
        {"id": token, "content": bytes_of(token).decode(), "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for token in CONTROL_TOKENS
    ]
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": markers,
        "pre_tokenizer": by_bytes,
        "decoder": by_bytes,
        "model": {"type": "BPE", "vocab": words, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def _letters_of_bytes() -> dict[int, str]:
    """Returns the character that a byte-level vocabulary writes for each byte, as first in GPT-2's."""
    as_they_are = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(0x100) if b not in as_they_are]
    return {b: chr(b) for b in as_they_are} | {b: chr(0x100 + number) for number, b in enumerate(others)}
