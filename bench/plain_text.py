"""A logits processor for random weights, which makes the model say plain ASCII text in its final channel.

Owns the tokens allowed; without it, random weights break the format, and end at random.
"""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from worker.harmony.tokens import CHANNEL, CONTROL_TOKENS, MESSAGE, bytes_of, encode

_HEADER = (CHANNEL, *encode("final"), MESSAGE)


class PlainText(LogitsProcessor):  # type: ignore[misc]
    """Masks every request in the same way, so that only `max_tokens` ends a generation."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        vocabulary = vllm_config.model_config.get_vocab_size()
        plain = [token for token in range(CONTROL_TOKENS.start) if _is_plain(bytes_of(token))]
        self._mask = torch.full((vocabulary,), float("-inf"), device=device)
        self._mask[torch.tensor(plain, device=device)] = 0.0
        self._said: dict[int, list[int]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._said, batch_update, lambda params, prompt, output: output)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        logits += self._mask
        for row, said in self._said.items():
            if len(said) < len(_HEADER):
                logits[row] = float("-inf")
                logits[row, _HEADER[len(said)]] = 0.0
        return logits


def _is_plain(text: bytes) -> bool:
    return text.isascii() and text.decode().isprintable()
