"""Log probabilities of tokens: as clients read them, and as a log keeps them for the next owner.

Pure. Which tokens have some, and which event tells of them, is the reader's business.
"""

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from shared.responses import Logprob, TopLogprob
from worker.engine import TokenLogprob
from worker.harmony import bytes_of

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have."""

_Packed = list[tuple[float, tuple[tuple[int, float], ...]]]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Packed)


def describe_token(token: int, measured: TokenLogprob) -> Logprob:
    """A token as `logprobs` name it: its text, its exact bytes, and what else might have been there."""
    text, spelling = _spell(token)
    top = tuple(TopLogprob(*_spell(other), _finite(logprob)) for other, logprob in measured.top)
    return Logprob(text, spelling, _finite(measured.logprob), top)


def pack_logprobs(measured: Sequence[TokenLogprob]) -> bytes:
    """Exact, so that what is replayed makes the same JSON."""
    return _encoder.encode([(each.logprob, each.top) for each in measured])


def unpack_logprobs(packed: bytes) -> list[TokenLogprob]:
    return [TokenLogprob(logprob, top) for logprob, top in _decoder.decode(packed)]


@lru_cache(maxsize=65_536)
def _spell(token: int) -> tuple[str, tuple[int, ...]]:
    spelling = bytes_of(token)
    return spelling.decode(errors="replace"), tuple(spelling)


def _finite(logprob: float) -> float:
    return float(logprob) if logprob > _LOWEST else _LOWEST
