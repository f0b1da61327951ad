"""What an engine reports about tokens beside their ids, packed for the log and unpacked again.

Pure. It is logged because the next owner cannot ask the engine again, and must make the same events.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import msgspec

from worker.engines.protocol import TokenLogprob

_TurnBegun = tuple[int, int]
"""The place of a turn's first token, and the turn's cached tokens."""


class _Packed(msgspec.Struct, array_like=True, frozen=True):
    begun: int
    cached: int
    """Of the last turn that begins in the entry."""
    logprobs: tuple[tuple[float, tuple[tuple[int, float], ...]], ...]
    """One for each token, or none."""
    earlier: tuple[_TurnBegun, ...] = ()
    """The turns that begin before that."""


_encoder = msgspec.msgpack.Encoder()  # floats are kept exactly, so that a replay makes the same JSON
_decoder = msgspec.msgpack.Decoder(_Packed)


@dataclass(frozen=True, slots=True)
class LoggedToken:
    """One token of the log. `cached_tokens`: those of its turn's prompt, if this token begins the turn."""

    id: int
    logprob: TokenLogprob | None
    cached_tokens: int


@dataclass(slots=True)
class UnloggedTokens:
    """Tokens that have made no event yet; they are logged with the next event."""

    ids: list[int] = field(default_factory=list)
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    _begun: _TurnBegun = (0, 0)
    _earlier: list[_TurnBegun] = field(default_factory=list)

    def begin_turn(self, cached_tokens: int) -> None:
        """Marks the next token as a turn's first."""
        if self._begun[1]:
            self._earlier.append(self._begun)
        self._begun = len(self.ids), cached_tokens

    def add(self, token: int, logprob: TokenLogprob | None) -> None:
        self.ids.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)

    def take(self, *, with_logprobs: bool) -> tuple[tuple[int, ...], bytes]:
        """Removes and returns the ids of all tokens, with their packed record, which may be empty."""
        ids, token_record = tuple(self.ids), b""
        if ids and (self._begun[1] or self._earlier or (with_logprobs and self._logprobs)):
            logprobs = [(each.logprob, each.top) for each in self._logprobs] if with_logprobs else ()
            more = (self._earlier,) if self._earlier else ()
            token_record = _encoder.encode((*self._begun, logprobs, *more))
        if ids:
            self._begun = 0, 0
            self._earlier.clear()
        self.ids.clear()
        self._logprobs.clear()
        return ids, token_record


def read_logged(ids: Sequence[int], token_record: bytes) -> Iterator[LoggedToken]:
    """Yields the tokens of a log entry."""
    record = _decoder.decode(token_record) if token_record else _Packed(0, 0, ())
    cached_at = dict([*record.earlier, (record.begun, record.cached)])
    logprobs = (
        (TokenLogprob(*each) for each in record.logprobs) if record.logprobs else repeat(None, len(ids))
    )
    for place, (token, logprob) in enumerate(zip(ids, logprobs, strict=True)):
        yield LoggedToken(token, logprob, cached_at.get(place, 0))
