"""What a response cost, turn by turn. Pure; counts are handed in, nothing is measured here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import UNSET

from shared.responses import InputTokensDetails, OutputTokensDetails, PerTurn, Usage


@dataclass(slots=True)
class Turn:
    """One generation: from a prompt to a stop, a cut or a tool call. All counts are tokens."""

    prompt: int
    tool_output: int = 0
    """How much of the prompt the last tool's answer added."""
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    """Output inside messages of the analysis channel, the end of each included."""


def usage_of(turns: Sequence[Turn], *, with_turns: bool) -> Usage:
    """Sums over turns: each turn's whole prompt counts as input, as it does for the engine.

    `with_turns`: the counts of each turn stand beside the sums.
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
