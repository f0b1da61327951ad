"""Adds up the tokens that a response used, turn by turn. Pure; the turn reader does the counting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import UNSET

from shared.responses import InputTokensDetails, OutputTokensDetails, PerTurn, Usage


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


def usage_of(turns: Sequence[Turn], *, with_turns: bool) -> Usage:
    """Returns the sums over all turns; each turn's whole prompt counts as input, as it does for the engine.

    `with_turns`: the counts of each turn are included as well.
    """

    def each(count: Callable[[Turn], int]) -> PerTurn:
        return tuple(map(count, turns)) if with_turns else UNSET

    input_tokens = sum(turn.prompt for turn in turns)
    output_tokens = sum(turn.output for turn in turns)
    return Usage(
        input_tokens=input_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=sum(turn.cached for turn in turns),
            input_tokens_per_turn=each(lambda turn: turn.prompt),
            cached_tokens_per_turn=each(lambda turn: turn.cached),
        ),
        output_tokens=output_tokens,
        output_tokens_details=OutputTokensDetails(
            reasoning_tokens=sum(turn.reasoning for turn in turns),
            tool_output_tokens=sum(turn.tool_output for turn in turns),
            output_tokens_per_turn=each(lambda turn: turn.output),
            tool_output_tokens_per_turn=each(lambda turn: turn.tool_output),
        ),
        total_tokens=input_tokens + output_tokens,
    )
