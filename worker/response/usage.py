"""Adds up the tokens that a response used, turn by turn. Pure; the turn reader does the counting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import asdict, replace

from shared.responses import InputTokensDetails, OutputTokensDetails, PerTurn, Usage
from shared.usage import UsageSoFar

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class Turn:
    """The counts of one generation, from a prompt to a stop, a cut or a tool call, in tokens."""

    prompt: int
    tool_output: int = 0
    """The part of the prompt that the last tool's answer added."""
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    """The part of the output inside messages of the analysis channel, including the token that ends each."""
    is_reasoning: bool = False
    """The open message is on the analysis channel."""
    is_compaction: bool = False
    """It makes a summary, which `max_output_tokens` does not limit."""


def usage_of(turns: Sequence[Turn], *, with_turns: bool) -> Usage:
    """Returns the sums over all turns; each turn's whole prompt counts as input, as it does for the engine.

    `with_turns`: the counts of each turn are included as well.
    """
    prompt = tool_output = cached = output = reasoning = 0
    for turn in turns:
        prompt += turn.prompt
        tool_output += turn.tool_output
        cached += turn.cached
        output += turn.output
        reasoning += turn.reasoning
    usage = Usage(
        prompt,
        InputTokensDetails(cached_tokens=cached),
        output,
        OutputTokensDetails(reasoning_tokens=reasoning, tool_output_tokens=tool_output),
        prompt + output,
    )
    return _with_turns(usage, turns) if with_turns else usage


def _with_turns(usage: Usage, turns: Sequence[Turn]) -> Usage:
    def each(count: Callable[[Turn], int]) -> PerTurn:
        return tuple(map(count, turns))

    return replace(
        usage,
        input_tokens_details=replace(
            usage.input_tokens_details,
            input_tokens_per_turn=each(lambda turn: turn.prompt),
            cached_tokens_per_turn=each(lambda turn: turn.cached),
        ),
        output_tokens_details=replace(
            usage.output_tokens_details,
            output_tokens_per_turn=each(lambda turn: turn.output),
            tool_output_tokens_per_turn=each(lambda turn: turn.tool_output),
        ),
    )


def usage_so_far(turns: Sequence[Turn], entries: int, *, with_turns: bool) -> bytes:
    """Returns JSON of a UsageSoFar that covers so many entries, or nothing before the first token."""
    usage = usage_of(turns, with_turns=with_turns)
    if not usage.output_tokens:
        return b""
    return _encoder.encode(UsageSoFar(**asdict(usage), entries=entries, is_reasoning=turns[-1].is_reasoning))
