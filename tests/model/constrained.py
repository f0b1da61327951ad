"""Requests as vLLM's scheduler has them, without an engine: their constraints, and what their masks allow."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from worker.engines.protocol import Constraint
from worker.harmony.tokens import CONTROL_TOKENS

VOCABULARY_SIZE = CONTROL_TOKENS[-1] + 1
DRAFTS_MAX = 8


class Asked:
    """What a scheduler's request has of interest here."""

    def __init__(self, constraint: Constraint | None, own: Sequence[int], grammars: Any) -> None:
        from vllm import SamplingParams

        from worker.engines.vllm.constraints import constrain, to_extra_args

        self.request_id = str(id(self))
        self.sampling_params = SamplingParams(extra_args=to_extra_args(constraint, len(own)))
        self.prompt_token_ids = [*range(300, 310), *own]
        self.status: Any = "waiting"
        self.stop_reason: int | str | None = None
        self.structured_output_request: Any = None
        constrain(self, grammars, DRAFTS_MAX)

    @property
    def use_structured_output(self) -> bool:
        return self.structured_output_request is not None

    @property
    def may_start(self) -> bool:
        return self.structured_output_request.grammar is not None

    @property
    def refusal(self) -> int | str | None:
        """What a client would be told if the turn ended here for want of a token that is allowed."""
        from worker.engines.vllm.constraints import REFUSAL

        assert self.structured_output_request.accept_tokens(self.request_id, [REFUSAL])
        return self.stop_reason


class Scheduling:
    """vLLM's own bookkeeping of structured outputs, with our constraints in it."""

    def __init__(self) -> None:
        from vllm.v1.structured_output import StructuredOutputManager

        from worker.engines.vllm.constraints import MaskMemory

        config = SimpleNamespace(
            parallel_config=SimpleNamespace(distributed_executor_backend="uni"),
            scheduler_config=SimpleNamespace(max_num_seqs=8),
            model_config=SimpleNamespace(skip_tokenizer_init=True, is_diffusion=False),
            structured_outputs_config=SimpleNamespace(enable_in_reasoning=False),
            num_speculative_tokens=DRAFTS_MAX,
        )
        self._manager = StructuredOutputManager(config)
        self._manager.backend = MaskMemory(VOCABULARY_SIZE)

    def say(self, request: Asked, tokens: Sequence[int]) -> bool:
        return bool(self._manager.accept_tokens(request, list(tokens)))

    def fitting(self, request: Asked, drafts: Sequence[int]) -> list[int]:
        return [*self._manager.validate_tokens(request, list(drafts))]

    def allowed(self, *requests: Asked, drafts: Mapping[str, list[int]] | None = None) -> list[set[int]]:
        """What may come next for each request, and after each of its drafts."""
        import torch

        masks = self._manager.grammar_bitmask(
            {request.request_id: request for request in requests},
            [request.request_id for request in requests],
            dict(drafts or {}),
        )
        words = torch.from_numpy(masks).unsqueeze(-1)  # of 32 ids each, lowest bit first
        bits = ((words >> torch.arange(32, dtype=torch.int32)) & 1).flatten(1)
        return [set(torch.nonzero(row).flatten().tolist()) for row in bits]
