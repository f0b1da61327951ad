"""Log probabilities of tokens as clients read them.

Pure. The turn reader decides which tokens have them and which event carries them.
"""

from functools import lru_cache

from shared.responses import Logprob, TopLogprob
from worker.engines.protocol import TokenLogprob
from worker.harmony.tokens import bytes_of

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot express."""


def describe_token(token: int, logprob: TokenLogprob) -> Logprob:
    """Returns a token as an entry of `logprobs`: its text, its bytes, and the most likely alternatives."""
    text, spelling = _spell(token)
    top = tuple(TopLogprob(*_spell(other), _finite(value)) for other, value in logprob.top)
    return Logprob(text, spelling, _finite(logprob.logprob), top)


@lru_cache(maxsize=65_536)
def _spell(token: int) -> tuple[str, tuple[int, ...]]:
    spelling = bytes_of(token)
    return spelling.decode(errors="replace"), tuple(spelling)


def _finite(logprob: float) -> float:
    return float(logprob) if logprob > _LOWEST else _LOWEST
