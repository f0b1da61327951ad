"""Makes the sampling parameters of one generation from a request, including its seed.

Pure. The token limit and the constraint are passed in.
"""

import struct
from hashlib import blake2b

from shared.responses import ResponseRequest
from worker.engines.protocol import Constraint, Sampling
from worker.harmony.tokens import STOP_TOKENS

_LOGPROBS = "message.output_text.logprobs"


def make_sampling(
    request: ResponseRequest, constraint: Constraint | None, *, max_tokens: int, made: int, turn_tokens: int
) -> Sampling:
    """Returns the parameters of one generation.

    `made`: the number of tokens that the response has so far; `turn_tokens`: how many of them belong to this
    turn.
    """
    response, options = request.response, request.sampling
    return Sampling(
        max_tokens=max_tokens,
        temperature=response.temperature,
        top_p=response.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        presence_penalty=response.presence_penalty,
        frequency_penalty=response.frequency_penalty,
        repetition_penalty=options.repetition_penalty,
        logit_bias=options.logit_bias,
        seed=seed_after(options.seed, made),
        stop_token_ids=STOP_TOKENS,
        top_logprobs=response.top_logprobs if _LOGPROBS in request.include else None,
        constraint=constraint,
        turn_tokens=turn_tokens,
    )


def seed_after(seed: int | None, tokens: int) -> int | None:
    """Returns the seed for continuing a response that has `tokens` tokens, whichever worker generated them.

    No two generations of a response draw the same random numbers. The first one uses the request's own seed;
    later seeds are never negative. None lets the engine choose.
    """
    if seed is None or tokens == 0:
        return seed
    digest = blake2b(struct.pack("<qQ", seed, tokens), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
