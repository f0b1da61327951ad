"""How many generations an engine can run at once, reckoned from the contexts of those under way. Pure.

An engine whose cache is full lets generations wait, or begins some of them again later; either way they wait
where no other worker can take them.
"""

ANSWER_TOKENS = 1_024
"""What a generation is reckoned to add to its prompt."""
_MEAN_MIN = 2_048
"""The context of a further generation is reckoned to be as long as the others are on average, not shorter."""


class Contexts:
    """The contexts of the generations under way, in tokens."""

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}
        self._total = 0

    def add(self, request_id: str, prompt_tokens: int) -> None:
        self._tokens[request_id] = prompt_tokens + ANSWER_TOKENS
        self._total += prompt_tokens + ANSWER_TOKENS

    def discard(self, request_id: str) -> None:
        self._total -= self._tokens.pop(request_id, 0)

    def sequences_max(self, batch_max: int, cache_tokens: int) -> int:
        """`batch_max`: what a step can have; `cache_tokens`: what the cache holds, 0 if that is not known."""
        running = len(self._tokens)
        if not cache_tokens:
            return batch_max
        mean = max(_MEAN_MIN, self._total // running if running else 0)
        further = max(0, cache_tokens - self._total) // mean
        return min(batch_max, max(1, running + further))
